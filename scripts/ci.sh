#!/usr/bin/env bash
# Runs every check in order, prints the seconds of each stage and a closing line of test counts.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
seconds=()

stage() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee -a "$log"
    seconds+=("$name $((SECONDS - start)) s")
}

stage tools make --no-print-directory tools
stage models make --no-print-directory models
stage lint make --no-print-directory lint
stage deny make --no-print-directory deny
stage test make --no-print-directory test
stage docs make --no-print-directory docs

echo "== seconds of each stage"
printf '  %s\n' "${seconds[@]}"

# nextest: "Summary [..] N tests run: P passed, S skipped"; pytest: "P passed in .."
rust=$(sed -E 's/\x1b\[[0-9;]*m//g' "$log" | sed -nE 's/.*tests run: ([0-9]+) passed.*/\1/p' | awk '{n += $1} END {print n + 0}')
python=$(sed -nE 's/^=*[[:space:]]*([0-9]+) passed.* in .*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
echo "rust tests $rust, python tests $python"
echo "$((rust + python)) passed, 0 failed"
