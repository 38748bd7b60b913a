#!/usr/bin/env bash
# A frontend that routes by what is cached, and a worker of SGLang on each GPU of GPUS (0 1).
#
#   MODEL=Qwen/Qwen3-0.6B HTTP_PORT=8000 scripts/launch/sglang/agg_router.sh [flags of the workers]
#
# Ctrl-C ends all of it. PYTHON names another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
model=${MODEL:-Qwen/Qwen3-0.6B}
port=${HTTP_PORT:-8000}
pids=()

# Starts a process, and shows how.
start() {
    echo "+ $*" >&2
    "$@" &
    pids+=($!)
}

# Asks the processes to end, the frontend first, and waits for each.
finish() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start "$python" -m dynamo.frontend --http-port "$port" --router-mode kv
for gpu in ${GPUS:-0 1}; do
    start env CUDA_VISIBLE_DEVICES="$gpu" "$python" -m dynamo.sglang --model-path "$model" "$@"
done

# The first that ends by itself ends all.
wait -n || exit 1
exit 1
