#!/usr/bin/env bash
# What positions, deadlines and moves cost per token and per request: time, and instructions where
# valgrind is installed. One JSON line each.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --release --package dynamo-llm --example delivery_cost
program=target/release/examples/delivery_cost
"$program"

command -v valgrind >/dev/null || exit 0
# For instructions that valgrind knows: it is older than some machines.
RUSTFLAGS=-Ctarget-cpu=x86-64-v3 cargo build --quiet --release --package dynamo-llm \
    --example delivery_cost --target-dir target/counted
program=target/counted/release/examples/delivery_cost
requests=200
tokens=257

# Instructions of a whole run.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$requests" "$2" 2>&1 |
        sed -n 's/^.*Collected : //p'
}

short=$(($(instructions kept 1) - $(instructions bare 1)))
long=$(($(instructions kept "$tokens") - $(instructions bare "$tokens")))
echo "{\"delivery_instructions_per_request\": $((short / requests)), \
\"delivery_instructions_per_token\": $(((long - short) / (requests * (tokens - 1))))}"
