#!/usr/bin/env bash
# Serves a real 270M-parameter model as two processes, a frontend and a worker, asks it a question
# with a streaming client, twice, and prints the answer and its figures. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

dynamo=target/release/dynamo
model=.models/gemma-3-270m-q4_k_m.gguf
work=$(mktemp -d)
pids=()

finish() {
    local status=$?
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$status" -ne 0 ]; then
        echo "the demo failed; what the processes said:" >&2
        tail -n 20 "$work"/*.log >&2
    fi
    rm -rf "$work"
}
trap finish EXIT

# Each process prints the address it serves on stdout as soon as it does.
await_line() {
    local file=$1 pid=$2
    for _ in $(seq 600); do
        [ -s "$file" ] && { head -n 1 "$file"; return; }
        kill -0 "$pid" 2>/dev/null || { echo "the process ended before it was ready" >&2; return 1; }
        sleep 0.1
    done
    echo "no answer within 60 seconds" >&2
    return 1
}

# A folder of its own, so that the demo meets no other Dynamo on this machine.
export DYN_FILE_KV=$work/discovery

"$dynamo" frontend --http-port 0 >"$work/frontend.out" 2>"$work/frontend.log" &
pids+=($!)
url=$(await_line "$work/frontend.out" "${pids[0]}")
echo "frontend  $url  (pid ${pids[0]})"

"$dynamo" run in=dyn://dynamo.backend.generate out=llamacpp "$model" --model-name gemma-3-270m \
    >"$work/worker.out" 2>"$work/worker.log" &
pids+=($!)
endpoint=$(await_line "$work/worker.out" "${pids[1]}")
echo "worker    $endpoint  (pid ${pids[1]}, gemma-3-270m on llama.cpp)"
echo

python3 scripts/ask.py "$url" gemma-3-270m
