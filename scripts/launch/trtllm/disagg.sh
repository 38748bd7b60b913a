#!/usr/bin/env bash
# A frontend, a worker of TensorRT-LLM that computes prompts, and one that generates: two GPUs.
#
#   MODEL=Qwen/Qwen3-0.6B HTTP_PORT=8000 scripts/launch/trtllm/disagg.sh [flags of the workers]
#
# Ctrl-C ends all of it. PYTHON names another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
model=${MODEL:-Qwen/Qwen3-0.6B}
port=${HTTP_PORT:-8000}
source "$(dirname "$0")/../processes.sh"

start "$python" -m dynamo.frontend --http-port "$port" --router-mode kv
start env CUDA_VISIBLE_DEVICES="${PREFILL_GPU:-0}" "$python" -m dynamo.trtllm --model-path "$model" \
    --disaggregation-mode prefill "$@"
start env CUDA_VISIBLE_DEVICES="${DECODE_GPU:-1}" "$python" -m dynamo.trtllm --model-path "$model" \
    --disaggregation-mode decode "$@"

ends_with_the_first
