#!/usr/bin/env bash
# A frontend that routes by what is cached, and WORKERS (4) simulated workers.
#
#   MODEL=Qwen/Qwen3-0.6B HTTP_PORT=8000 scripts/launch/mocker/agg_router.sh [flags of the workers]
#
# Ctrl-C ends all of it. PYTHON names another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
model=${MODEL:-Qwen/Qwen3-0.6B}
port=${HTTP_PORT:-8000}
source "$(dirname "$0")/../processes.sh"

start "$python" -m dynamo.frontend --http-port "$port" --router-mode kv
start "$python" -m dynamo.mocker --model-path "$model" --model-name "${MODEL_NAME:-qwen3}" --num-workers "${WORKERS:-4}" "$@"

ends_with_the_first
