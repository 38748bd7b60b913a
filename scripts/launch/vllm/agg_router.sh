#!/usr/bin/env bash
# A frontend that routes by what is cached, and a worker of vLLM on each GPU of GPUS (0 1).
#
#   MODEL=Qwen/Qwen3-0.6B HTTP_PORT=8000 scripts/launch/vllm/agg_router.sh [flags of the workers]
#
# Ctrl-C ends all of it. PYTHON names another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
model=${MODEL:-Qwen/Qwen3-0.6B}
port=${HTTP_PORT:-8000}
source "$(dirname "$0")/../processes.sh"

start "$python" -m dynamo.frontend --http-port "$port" --router-mode kv
for gpu in ${GPUS:-0 1}; do
    start env CUDA_VISIBLE_DEVICES="$gpu" "$python" -m dynamo.vllm --model-path "$model" "$@"
done

ends_with_the_first
