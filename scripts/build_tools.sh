#!/usr/bin/env bash
# Finds or fetches what building llama.cpp needs (cmake, libclang) and writes .cargo/config.toml,
# so that every later cargo command, through make or by hand, builds with the same settings.
# Needs no root: what the machine lacks comes from PyPI into .tools. Does nothing the second time.
set -euo pipefail
cd "$(dirname "$0")/.."

config=.cargo/config.toml
[ -f "$config" ] && [ "$config" -nt scripts/build_tools.sh ] && exit 0

missing() {
    echo "error: $1 is missing; install it with: $2" >&2
    exit 1
}
command -v cargo >/dev/null || missing "cargo (Rust 1.90 or later)" "rustup (see the Rust site), or your package manager"
command -v cc >/dev/null || missing "a C compiler" "apt-get install build-essential   (macOS: xcode-select --install)"
command -v c++ >/dev/null || missing "a C++ compiler" "apt-get install build-essential   (macOS: xcode-select --install)"

venv() {
    command -v python3 >/dev/null || missing "python3" "apt-get install python3 python3-venv"
    [ -x .tools/venv/bin/python ] || python3 -m venv .tools/venv ||
        missing "python3's venv module" "apt-get install python3-venv"
}

cmake=$(command -v cmake || true)
if [ -z "$cmake" ]; then
    venv
    echo "cmake is not installed: fetching it from PyPI into .tools" >&2
    .tools/venv/bin/pip install --quiet --disable-pip-version-check 'cmake>=3.28,<5'
    cmake=$PWD/.tools/venv/bin/cmake
fi

# A libclang of the system is found by the build itself.
libclang=""
if ! ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so* \
    /Library/Developer/CommandLineTools/usr/lib/libclang.dylib >/dev/null 2>&1; then
    venv
    echo "libclang is not installed: fetching it from PyPI into .tools" >&2
    .tools/venv/bin/pip install --quiet --disable-pip-version-check 'libclang==18.1.1'
    libclang=$(find "$PWD/.tools/venv" \( -name 'libclang*.so' -o -name 'libclang*.dylib' \) | head -n 1)
fi

mkdir -p .cargo
{
    echo "# Written by scripts/build_tools.sh for this machine; not committed."
    echo "[build]"
    echo "# The machine's own instructions: llama.cpp's kernels need them to be fast."
    echo 'rustflags = ["-C", "target-cpu=native"]'
    echo
    echo "[env]"
    echo "CMAKE = \"$cmake\""
    if [ -n "$libclang" ]; then
        echo "LIBCLANG_PATH = \"$(dirname "$libclang")\""
        # PyPI's libclang comes without the compiler's own headers (stddef.h).
        echo "BINDGEN_EXTRA_CLANG_ARGS = \"-I$(cc -print-file-name=include)\""
    fi
} >"$config.new"
mv "$config.new" "$config"
