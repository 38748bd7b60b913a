"""Starts processes of the binary, and publishers of KV events."""

import json
import pathlib
import subprocess
import sys
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/engine_events"))

from publisher import Publisher  # noqa: E402

PATIENCE = 30


def http(url, body=None):
    """Headers and text of a good answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.headers, answer.read().decode()


@pytest.fixture
def start(tmp_path):
    """Starts `dynamo` with these words; gives back the address that it prints."""
    processes = []

    def start(*words):
        log = open(tmp_path / f"{len(processes)}.log", "w")
        process = subprocess.Popen(
            [ROOT / "target/release/dynamo", *words, "--http-port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        processes.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def publish():
    publishers = []

    def publish(**options):
        publishers.append(Publisher(**options))
        return publishers[-1]

    yield publish
    for publisher in publishers:
        publisher.close()


@pytest.fixture
def router():
    """The status of the one router behind an address, once `is_so` is true of it."""

    def router(address, is_so):
        deadline = time.monotonic() + PATIENCE
        while True:
            _, text = http(f"{address}/v1/router/status")
            status = json.loads(text)["routers"][0]
            if is_so(status):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.02)

    return router
