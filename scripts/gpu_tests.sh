#!/usr/bin/env bash
# Runs an engine's worker for real, on a machine with a GPU:
#
#   scripts/gpu_tests.sh vllm|sglang|trtllm MODEL
#
# MODEL is a folder or a Hugging Face id of a small model. PYTHON is an interpreter whose environment
# has the engine (pip install "ai-dynamo[sglang]", say) and the extension.
set -euo pipefail
cd "$(dirname "$0")/.."

engine=${1:-${ENGINE:-}} model=${2:-${MODEL:-}}
python=${PYTHON:-python3}
[ -n "$engine" ] && [ -n "$model" ] || {
    echo "usage: scripts/gpu_tests.sh vllm|sglang|trtllm MODEL" >&2
    exit 2
}
command -v nvidia-smi >/dev/null || {
    echo "no GPU here: nvidia-smi is not installed; run this on a machine with one" >&2
    exit 1
}
"$python" -c 'import openai, pytest' 2>/dev/null ||
    "$python" -m pip install --quiet --disable-pip-version-check openai 'pytest>=8,<10'

export GPU_ENGINE=$engine GPU_MODEL=$model
export PYTHONPATH=$PWD/components/src${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m pytest -v -p no:cacheprovider tests/python_gpu
