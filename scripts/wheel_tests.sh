#!/usr/bin/env bash
# Builds the wheel as `pip install .` does, on its own, and looks at what is in it: every component, the
# extension, the `dynamo` command, no engine. Then two of them are run.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.tools/wheel
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check .
"$venv/bin/pip" install --quiet --disable-pip-version-check 'pytest>=8,<10'
"$venv/bin/python" -m pytest -q tests/wheel
