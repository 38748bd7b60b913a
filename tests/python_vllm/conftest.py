"""Real vLLM engines on the CPU behind a real frontend.

`scripts/vllm_tests.sh` makes the environment and the checkpoint.
"""

import os
from pathlib import Path

import pytest
from fleet import MODEL, Fleet

CHECKPOINT = Path(os.environ.get("VLLM_CHECKPOINT", "/nowhere"))

#: float32, so that an answer's text does not depend on what else is in its batch.
WORKER = [
    *("-m", "dynamo.vllm", "--model-path", str(CHECKPOINT), "--model-name", MODEL),
    *("--enforce-eager", "--dtype", "float32", "--max-model-len", "2048", "--block-size", "32"),
    *("--enable-log-requests", "--log-level", "debug"),
    *("--enable-lora", "--max-loras", "1", "--max-lora-rank", "8"),
    # A model of random weights would go on with white space for ever.
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
]

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Two engines share two cores, and threads that spin would starve each other.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    if not (CHECKPOINT / "config.json").exists():
        pytest.fail("no checkpoint: run these tests by scripts/vllm_tests.sh")
    started = Fleet(tmp_path_factory.mktemp("fleet"), WORKER, ENVIRONMENT)
    try:
        started.open_frontend()
        yield started
    finally:
        started.end()


@pytest.fixture
def client(fleet):
    return fleet.client
