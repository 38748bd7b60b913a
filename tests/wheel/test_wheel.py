"""What `pip install .` has installed, seen from the environment that it was installed into."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Where its scripts are.
SCRIPTS = Path(sys.executable).parent

#: Components that are part of the `dynamo` command.
OF_THE_COMMAND = ["frontend", "router", "mocker", "llama_cpp", "planner"]

#: Longest that a command takes that only says something.
PATIENCE = 60


def said(*command):
    """What a command prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DYN_")}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout


def files():
    return {str(path) for path in importlib.metadata.files("ai-dynamo") or []}


def test_it_holds_every_component_of_the_tree():
    tree = ROOT / "components/src"
    sources = {str(path.relative_to(tree)) for path in tree.rglob("*.py")}
    assert sources
    assert sources <= files()


def test_it_holds_the_extension_and_nothing_that_is_built_beside_it():
    binaries = [path for path in files() if path.endswith(".so")]
    assert binaries == ["dynamo/_core.abi3.so"]
    assert not [path for path in files() if path.startswith(("lib/", "target/", "tests/"))]


def test_engines_come_with_extras_only():
    assert importlib.metadata.requires("ai-dynamo")
    for requirement in importlib.metadata.requires("ai-dynamo"):
        assert "extra ==" in requirement, requirement
    extras = set(importlib.metadata.metadata("ai-dynamo").get_all("Provides-Extra"))
    assert {"vllm", "sglang", "trtllm", "llama_cpp", "dev"} <= {it.replace("-", "_") for it in extras}


def test_every_package_can_be_imported_without_engines():
    packages = (ROOT / "components/src/dynamo").glob("*/__init__.py")
    for package in packages:
        importlib.import_module(f"dynamo.{package.parent.name}")


@pytest.mark.parametrize("component", OF_THE_COMMAND)
def test_a_component_is_the_command_of_its_name(component):
    by_command = said(SCRIPTS / "dynamo", component, "--help")
    assert by_command == said(sys.executable, "-m", f"dynamo.{component}", "--help")
    assert by_command.startswith(("Serve", "Route", "Scale"))


def test_the_command_says_its_version():
    version = importlib.metadata.version("ai-dynamo")
    assert said(SCRIPTS / "dynamo", "--version").strip() == f"dynamo {version}"


def test_a_worker_is_a_program_that_python_runs(tmp_path):
    env = {**os.environ, "DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": str(tmp_path)}
    env.pop("PYTHONPATH", None)
    worker = subprocess.Popen(
        [sys.executable, ROOT / "examples/hello_world/worker.py"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout.readline().strip() == "serves dyn://hello_world.backend.generate"
        client = subprocess.run(
            [sys.executable, ROOT / "examples/hello_world/client.py", "you"],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert client.stdout == "Hello you!\n"
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    finally:
        worker.kill()
        worker.wait()
