#!/usr/bin/env bash
# Runs the tests that are written in Python. The events of engines: publishers made of pyzmq and
# msgspec. What graphs become. Then those that drive a server with the official clients: once with
# the real model in the same process, once with a frontend and a worker. Uses target/release/dynamo
# and .models.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.tools/pytest/bin/python
imports='import jsonschema, kubernetes_validate, msgspec, mypy, openai, pydantic, pytest, uvloop, zmq'
if ! "$python" -c "$imports" 2>/dev/null; then
    python3 -m venv .tools/pytest
    "$python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
fi

echo "-- workers and clients in Python"
# With what the Rust tests have built: the same crates with the same features, and one example more.
cargo build --release --workspace --lib --bins --tests --example print_events
install -m 755 target/release/lib_core.so components/src/dynamo/_core.abi3.so
PYTHONPATH=$PWD/components/src "$python" -m pytest -q tests/python

echo "-- KV events of vLLM and SGLang over ZMQ"
"$python" -m pytest -q tests/engine_events

echo "-- servers as they are, with KV events"
"$python" -m pytest -q tests/backends

echo "-- graphs: manifests, their schema, jobs on a real Slurm where it is installed"
"$python" -m pytest -q -rs tests/graph

echo "-- structured output over workers that die"
"$python" -m pytest -q tests/structured_output

work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
trap 'finish; rm -rf "$work"' EXIT
export DYN_FILE_KV=$work/discovery DYN_ARTEFACT_CACHE=$work/artefacts
model=(.models/gemma-3-270m-q4_k_m.gguf --model-name gemma-3-270m --threads 1)

# Starts a process and waits for the address it prints.
serve() {
    local out=$work/$1.out log=$work/$1.log
    shift
    target/release/dynamo "$@" >"$out" 2>"$log" &
    pids+=($!)
    for _ in $(seq 600); do
        [ -s "$out" ] && { address=$(head -n 1 "$out"); return; }
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "dynamo $* did not start:" >&2
    cat "$log" >&2
    exit 1
}

run_tests() {
    "$python" -m pytest -q tests/frontend --base-url "$1/v1" --model "$2"
}

echo "-- one process, llama.cpp"
serve single run in=http out=llamacpp "${model[@]}" --http-port 0
run_tests "$address" gemma-3-270m
echo "-- the same behind out=http"
serve before run in=http "out=$address" --http-port 0
run_tests "$address" gemma-3-270m
finish

echo "-- frontend and worker, llama.cpp"
serve worker run in=dyn://dynamo.backend.generate out=llamacpp "${model[@]}"
serve frontend frontend --http-port 0
url=$address
for _ in $(seq 300); do
    "$python" - "$url" <<'PYTHON' && break
import json, sys, urllib.request
models = json.load(urllib.request.urlopen(sys.argv[1] + "/v1/models"))["data"]
sys.exit(0 if models else 1)
PYTHON
    sleep 0.1
done
run_tests "$url" gemma-3-270m
