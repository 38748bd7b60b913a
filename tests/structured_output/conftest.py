"""Starts a frontend and workers with the real model, and lets tests kill them."""

import ctypes
import os
import pathlib
import signal
import subprocess
import time

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = "gemma-3-270m"
WORKER = ["run", "in=dyn://dynamo.backend.generate"]
LLAMACPP = [
    *WORKER, "out=llamacpp", ".models/gemma-3-270m-q4_k_m.gguf",
    "--model-name", MODEL, "--threads", "1", "--deterministic",
]
# Loading a model on a machine that is busy with other things.
PATIENCE = 300
# Nor do deadlines of the service matter here.
DEADLINES = [
    word
    for part in ("queue", "dispatch", "inter-token")
    for word in (f"--{part}-timeout", f"{PATIENCE}s")
]
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """So that tests that are killed leave nothing behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture
def start(tmp_path):
    """Starts `dynamo` with these words in a deployment of the test's own."""
    processes = []
    environment = os.environ | {
        "DYN_FILE_KV": str(tmp_path / "discovery"),
        "DYN_ARTEFACT_CACHE": str(tmp_path / "artefacts"),
    }

    def start(*words):
        log = open(tmp_path / f"{len(processes)}.log", "w")
        process = subprocess.Popen(
            [ROOT / "target/release/dynamo", *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=die_with_parent,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def frontend(start):
    """A client of a frontend of the test's deployment."""
    words = ["frontend", "--http-port", "0", "--model-linger", f"{PATIENCE}s", *DEADLINES]
    address = start(*words).stdout.readline().strip()
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=PATIENCE)


@pytest.fixture
def await_model(frontend):
    """Waits until so many workers serve a model."""

    def await_model(name, workers):
        deadline = time.monotonic() + PATIENCE
        while True:
            status = frontend.get("/router/status", cast_to=object)
            routers = [it for it in status["routers"] if it["model"] == name]
            if routers and len(routers[0]["workers"]) == workers:
                return
            assert time.monotonic() < deadline, status
            time.sleep(0.05)

    return await_model
