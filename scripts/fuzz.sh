#!/usr/bin/env bash
# Searches for bytes that outsiders could send and that some part does not bear: fuzz.sh [SECONDS
# [TARGET...]]. Each target runs for so many seconds of CPU time, 600 if not given, and adds nothing
# to the tree: what it covers goes to target/fuzz, what it breaks with is said at the end and should
# become a file of tests/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(frames records events bodies)

# Coverage as libFuzzer reads it; all of this is the stable compiler's. The build has a folder of
# its own: these flags hold for every crate.
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cdebug-assertions
    -Ccodegen-units=4
    -Clto=no
)
host=$(rustc -vV | sed -n 's/^host: //p')
# A target is named so that build scripts and macros are built without the flags.
RUSTFLAGS="${coverage[*]}" cargo build --quiet --release --package dynamo-fuzz --features search \
    --target "$host" --target-dir target/fuzz/build

# What a process ends with that the system stopped for its CPU time (SIGXCPU).
out_of_time=152
failed=0
for target in "${targets[@]}"; do
    work=target/fuzz/$target
    mkdir -p "$work/corpus" "$work/found"
    # A machine that does nothing else needs no more wall time than CPU time; a busy one may take
    # ten times as long.
    status=0
    prlimit --cpu="$seconds:$((seconds + 10))" "target/fuzz/build/$host/release/fuzz-$target" \
        "$work/corpus" "tests/fuzz/corpus/$target" \
        -max_total_time=$((10 * seconds)) -max_len=8192 -rss_limit_mb=2048 -timeout=10 \
        -artifact_prefix="$work/found/" >"$work/log" 2>&1 || status=$?
    runs=$(grep -oE '^#[0-9]+' "$work/log" | tail -n 1 | tr -d '#')
    echo "$target: ${runs:-0} runs or more in $seconds s of CPU time, log in $work/log"
    if [[ $status -ne 0 && $status -ne $out_of_time ]]; then
        echo "fuzz: $target broke; the input is in $work/found" >&2
        failed=1
    fi
done
exit $failed
