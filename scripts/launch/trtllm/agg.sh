#!/usr/bin/env bash
# A frontend and a worker of TensorRT-LLM, which computes prompts and answers.
#
#   MODEL=Qwen/Qwen3-0.6B HTTP_PORT=8000 scripts/launch/trtllm/agg.sh [flags of the worker]
#
# Ctrl-C ends all of it. PYTHON names another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
model=${MODEL:-Qwen/Qwen3-0.6B}
port=${HTTP_PORT:-8000}
source "$(dirname "$0")/../processes.sh"

start "$python" -m dynamo.frontend --http-port "$port"
start "$python" -m dynamo.trtllm --model-path "$model" "$@"

ends_with_the_first
