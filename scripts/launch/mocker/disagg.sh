#!/usr/bin/env bash
# A frontend, a simulated worker that computes prompts, and one that generates.
#
#   MODEL=Qwen/Qwen3-0.6B HTTP_PORT=8000 scripts/launch/mocker/disagg.sh [flags of the workers]
#
# Ctrl-C ends all of it. PYTHON names another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
model=${MODEL:-Qwen/Qwen3-0.6B}
port=${HTTP_PORT:-8000}
source "$(dirname "$0")/../processes.sh"

start "$python" -m dynamo.frontend --http-port "$port" --router-mode kv
start "$python" -m dynamo.mocker --model-path "$model" --model-name "${MODEL_NAME:-qwen3}" \
    --disaggregation-mode prefill "$@"
start "$python" -m dynamo.mocker --model-path "$model" --model-name "${MODEL_NAME:-qwen3}" \
    --disaggregation-mode decode "$@"

ends_with_the_first
