"""Launch scripts and utilities, run for real where their engine is here."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import PATIENCE, ROOT

from dynamo import _core

SCRIPTS = sorted((ROOT / "scripts/launch").glob("*/*.sh"))
TOKENIZER = ROOT / ".models/tokenizers/qwen3"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda it: f"{it.parent.name}-{it.stem}")
def test_a_script_starts_what_takes_its_flags(script, tmp_path):
    """An interpreter that only notes what it is told: each word is one that a component takes."""
    noted = tmp_path / "noted"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "${{CUDA_VISIBLE_DEVICES:-}}|$*" >>{noted}\nexec sleep 60\n'
    )
    python.chmod(0o755)
    process = subprocess.Popen(
        [script, "--own-flag", "5"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python), "MODEL": "m", "HTTP_PORT": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    expected = {"agg": 2, "agg_router": 2 if script.parent.name == "mocker" else 3, "disagg": 3}
    lines = until(lambda: noted.exists() and noted.read_text().count("\n") == expected[script.stem]
                  and noted.read_text().splitlines())  # fmt: skip
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert shown.count("+ ") == len(lines)
    devices = [line.partition("|")[0] for line in lines]
    assert sorted(it for it in devices if it) in ([], ["0", "1"])
    frontend = next(line for line in lines if "dynamo.frontend" in line)
    flags = {
        option["flag"]
        for group in _core.options("frontend")["groups"]
        for option in group["options"]
    }
    assert {word for word in frontend.split() if word.startswith("--")} <= flags
    workers = [line for line in lines if f"dynamo.{script.parent.name}" in line]
    assert len(workers) == len(lines) - 1
    assert all("--own-flag 5" in line for line in workers)


def test_the_mocker_s_script_serves(deployment):
    port = free_port()
    environment = {
        **deployment.environment,
        "PYTHON": sys.executable,
        "MODEL": str(TOKENIZER),
        "HTTP_PORT": str(port),
        "WORKERS": "2",
    }
    process = subprocess.Popen(
        [ROOT / "scripts/launch/mocker/agg_router.sh", "--speedup-ratio", "1000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def models():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as answer:
                return [it["id"] for it in json.load(answer)["data"]]
        except OSError:
            return []

    try:
        until(lambda: models() == ["qwen3"])
    finally:
        # Not SIGINT: a shell that was started in the background cannot be told to mind it.
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143


@pytest.fixture
def etcd(tmp_path):
    if (program := shutil.which("etcd")) is None:
        pytest.skip("etcd is not installed")
    client, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{client}"
    process = subprocess.Popen(
        [
            *[program, "--data-dir", tmp_path / "etcd", "--unsafe-no-fsync"],
            *["--listen-client-urls", url, "--advertise-client-urls", url],
            *["--listen-peer-urls", f"http://127.0.0.1:{peer}"],
            *["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"],
            *["--initial-cluster", f"default=http://127.0.0.1:{peer}"],
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_up():
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=1).status == 200
        except OSError:
            return False

    try:
        until(is_up)
        yield url
    finally:
        process.kill()
        process.wait(PATIENCE)


def clear(url, *words):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts/utils/clear_namespace.py",
            "--etcd-endpoints",
            url,
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_is_left_of_a_namespace_is_removed(deployment, etcd):
    worker = deployment.script(
        """
import asyncio
from dynamo.runtime import *

async def handle(request):
    yield request

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("ours.worker.generate")
    serving = endpoint.serve_endpoint(handle)
    while endpoint.connection_id() is None:
        await asyncio.sleep(0.01)
    print("serves", flush=True)
    await serving

asyncio.run(worker())
""",
        name="worker.py",
        DYN_DISCOVERY_BACKEND="etcd",
        ETCD_ENDPOINTS=etcd,
        ETCD_LEASE_TTL="1h",
    )
    worker.line()
    # It leaves what its lease keeps for an hour.
    worker.kill()
    status, output = clear(etcd, "--namespace", "theirs")
    assert (status, output) == (0, "nothing of namespace theirs is there\n")
    status, output = clear(etcd, "--namespace", "ours")
    assert status == 0 and output.startswith("would remove /dynamo/v1/processes/")
    status, output = clear(etcd, "--namespace", "ours", "--yes")
    assert status == 0 and output.startswith("removed /dynamo/v1/processes/")
    assert clear(etcd, "--namespace", "ours")[1] == "nothing of namespace ours is there\n"


def test_an_etcd_that_is_not_there_is_told():
    status, output = clear(f"http://127.0.0.1:{free_port()}")
    assert status == 1 and "ETCD_ENDPOINTS" in output


def test_the_environment_of_many_machines():
    script = ROOT / "scripts/utils/gen_env_vars.sh"
    done = subprocess.run(
        [script, "127.0.0.1", "--nats"], capture_output=True, text=True, check=True
    )
    exported = dict(line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    assert exported == {
        "DYN_DISCOVERY_BACKEND": "etcd",
        "ETCD_ENDPOINTS": "http://127.0.0.1:2379",
        "DYN_TCP_RPC_HOST": "0.0.0.0",
        "DYN_ADVERTISE_HOST": "127.0.0.1",
        "NATS_SERVER": "nats://127.0.0.1:4222",
        "DYN_REQUEST_PLANE": "nats",
        "DYN_EVENT_PLANE": "nats",
    }
    assert set(exported) <= {
        name
        for group in _core.options()["groups"]
        for option in group["options"]
        for name in option["env"]
    }
    assert subprocess.run([script], capture_output=True, check=False).returncode == 2
