"""Types: the stubs are those of the extension, and what is written in Python keeps to them."""

import subprocess
import sys

import pytest
from conftest import ROOT


def run(*words):
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_are_those_of_the_extension():
    run("lib/bindings/python/codegen/stubs.py", "--check")


def test_packages_and_examples_keep_to_their_types():
    pytest.importorskip("mypy")
    run("-m", "mypy")
