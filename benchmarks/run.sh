#!/usr/bin/env bash
# Makes the figures of docs/benchmarks.md. Each benchmark prints JSON lines; all of them go to
# benchmarks/results together with the machine and the commit.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p benchmarks/results
out=benchmarks/results/$(date -u +%Y%m%dT%H%M%SZ).jsonl
{
    echo "{\"commit\": \"$(git rev-parse --short HEAD)\", \"cores\": $(nproc), \"cpu\": \"$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)\"}"
    echo "{\"benchmark\": \"frontend_cost\"}"
    python3 benchmarks/frontend_cost.py
    echo "{\"benchmark\": \"prefix_ttft\"}"
    python3 benchmarks/prefix_ttft.py
    echo "{\"benchmark\": \"request_plane\"}"
    cargo run --quiet --release --package dynamo-runtime --example plane_throughput
    echo "{\"benchmark\": \"delivery\"}"
    benchmarks/delivery_cost.sh
    echo "{\"benchmark\": \"engine\"}"
    benchmarks/engine_compare.sh
} | tee "$out"
