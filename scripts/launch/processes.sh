# For the scripts beside it, which source it: starts processes, and ends all of them together.
# `start COMMAND...` for each, the frontend first; `ends_with_the_first` at last.

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

# Waits. A process that ends by itself ends all, and is a failure whatever its status.
ends_with_the_first() {
    wait -n || true
    exit 1
}
