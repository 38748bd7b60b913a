"""A real engine on a GPU behind a real frontend: `scripts/gpu_tests.sh ENGINE MODEL`."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python_vllm"))

from fleet import MODEL, Fleet  # noqa: E402

ENGINE = os.environ.get("GPU_ENGINE", "")

#: Tokens in a KV block, and the flag by which each engine takes that.
BLOCK = 32

#: A part of the GPU, so that two workers share it.
FLAGS = {
    "vllm": ["--gpu-memory-utilization", "0.4", "--max-model-len", "4096"],
    "sglang": ["--mem-fraction-static", "0.35", "--context-length", "4096"],
    "trtllm": ["--free-gpu-memory-fraction", "0.35", "--max-seq-len", "4096"],
}


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    if ENGINE not in FLAGS:
        pytest.fail("no engine: run these tests by scripts/gpu_tests.sh vllm|sglang|trtllm MODEL")
    worker = ["-m", f"dynamo.{ENGINE}", "--model-path", os.environ["GPU_MODEL"]]
    worker += ["--model-name", MODEL, "--log-level", "debug", "--kv-cache-block-size", str(BLOCK)]
    started = Fleet(tmp_path_factory.mktemp("fleet"), worker + FLAGS[ENGINE], {})
    try:
        started.open_frontend()
        yield started
    finally:
        started.end()
