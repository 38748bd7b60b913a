#!/usr/bin/env bash
# Installs the published system that `make bench-peers` measures beside ours, with its simulated
# worker, into .tools/peers or the folder given. Needs no root; does nothing the second time.
# One dependency of its package wants a GPU driver and is not needed to simulate, so the package
# itself is installed without dependencies and those it needs here are named.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VERSION=1.6.1
readonly LIMIT_SECONDS=1200
folder=${1:-.tools/peers}
marker=$folder/installed-$VERSION
[ -f "$marker" ] && exit 0

command -v python3 >/dev/null || {
    echo "error: python3 is missing; install it with: apt-get install python3 python3-venv" >&2
    exit 1
}
[ -x "$folder/bin/python" ] || python3 -m venv "$folder" || {
    echo "error: python3's venv module is missing; install it with: apt-get install python3-venv" >&2
    exit 1
}

echo "fetching the published system, version $VERSION, into $folder" >&2
pip_install() {
    timeout "$LIMIT_SECONDS" "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}
pip_install "ai-dynamo-runtime==$VERSION" aiohttp certifi 'kubernetes<33' msgspec \
    'prometheus-client<1' pyzmq 'redis<9' tqdm transformers zstandard
pip_install --no-deps "ai-dynamo==$VERSION"
"$folder/bin/python" -c 'import dynamo.frontend, dynamo.mocker'
touch "$marker"
