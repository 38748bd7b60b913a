"""Processes of a deployment of the test's own: discovery in a folder, everything on loopback."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Longest that a process may take to say its first line, or to end. Machines are busy.
PATIENCE = 60


class Process:
    """A process whose lines are read, and which ends with the test."""

    def __init__(self, command, env):
        self.log = []
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self):
        """The next line of its output."""
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=PATIENCE)
            raise AssertionError(f"ended with {self.process.returncode}:\n{errors}")
        return line.rstrip("\n")

    def end(self, number=signal.SIGTERM):
        """Asks it to end: its status, and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def deployment(tmp_path):
    """Starts processes that find each other."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DYN_")}
    env.update(
        DYN_DISCOVERY_BACKEND="file",
        DYN_FILE_KV=str(tmp_path / "discovery"),
        DYN_ARTEFACT_CACHE=str(tmp_path / "artefacts"),
        HF_HUB_OFFLINE="1",
    )
    started = []

    class Deployment:
        folder = tmp_path
        environment = env

        def start(self, *command, **more):
            process = Process([sys.executable, *command], {**env, **more})
            started.append(process)
            return process

        def script(self, text, *arguments, name="script.py", **more):
            """A program of the test's own."""
            path = tmp_path / name
            path.write_text(textwrap.dedent(text))
            return self.start(str(path), *arguments, **more)

        def ask(self, text, *arguments, name="client.py", **more):
            """What a program prints until its end."""
            process = self.script(text, *arguments, name=name, **more)
            output, errors = process.process.communicate(timeout=PATIENCE)
            assert process.process.returncode == 0, errors
            return output

    yield Deployment()
    for process in reversed(started):
        process.kill()
