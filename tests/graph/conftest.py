"""Tests of graphs with the real binary: what it writes, and what others make of that."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/dynamo"
DATA = ROOT / "lib/graph/tests/data"


@pytest.fixture
def deploy(tmp_path):
    """Renders a graph of the test data; gives back the folder."""

    def render(graph, *options):
        folder = tmp_path / "-".join(["out", *[option.strip("-") for option in options]])
        command = [BINARY, "deploy", "-f", DATA / graph, "--out_dir", folder, *options]
        ended = subprocess.run(command, check=False, text=True, capture_output=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        written = [pathlib.Path(line) for line in ended.stdout.splitlines()]
        assert all(path.is_file() for path in written)
        return folder

    return render
