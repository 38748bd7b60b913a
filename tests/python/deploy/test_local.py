"""`dynamo deploy --target local` as a wheel installs it: the command is Python, its supervisor and
its processes too. Each of them is killed, and what is said from another terminal is what there is.

Real processes: a frontend that answers over HTTP and simulated workers.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

#: Longest wait for anything, in seconds: far above what it takes.
PATIENCE = 60.0

GRAPH = """
version: 1.0
name: my_graph
components:
- name: front
  cmd: [dynamo, frontend]
  parameters: {{http_port: {port}}}
- name: mock_worker
  cmd: [dynamo, mocker]
- name: module_worker
  cmd: [python3, -m, dynamo.mocker]
"""

#: Processes of the graph.
NAMES = ["front-0", "mock-worker-0", "module-worker-0"]

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}

#: What pip writes for `[project.scripts]`.
SCRIPT = """#!{python}
import sys
from dynamo.command import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """An environment as `pip install` leaves it, with the sources in place of copies."""
    folder = tmp_path_factory.mktemp("env")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dynamo.pth").write_text(f"{ROOT / 'components/src'}\n")
    script = folder / "bin/dynamo"
    script.write_text(SCRIPT.format(python=folder / "bin/python3"))
    script.chmod(0o755)
    return folder


def until(what, is_so):
    """Looks again and again until it is so; gives back what it saw."""
    deadline = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"gave up waiting until {what}"
        time.sleep(0.05)
    return found


def lives(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] not in "ZX"


class Site:
    """A folder with a graph, and terminals on it."""

    def __init__(self, folder, environment):
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.file = folder / "graph.yaml"
        self.file.write_text(GRAPH.format(port=port))
        self.program = environment / "bin/dynamo"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DYN_")}
        kept.pop("PYTHONPATH", None)
        # As `activate` does it.
        path = f"{environment / 'bin'}:{kept['PATH']}"
        self.env = {**kept, "PATH": path, "DYN_DEPLOY_DIR": str(folder / "runs")}
        self.started = []
        self.seen = set()

    def deploy(self):
        """Deploys the graph; its supervisor."""
        log = (self.folder / f"deploy.{len(self.started)}.log").open("wb")
        words = [self.program, "deploy", "--target", "local", "-f", self.file]
        # The kernel ends it with this process, however that ends.
        words = ["setpriv", "--pdeathsig", "TERM", *words]
        process = subprocess.Popen(words, env=self.env, stdout=log, stderr=subprocess.STDOUT)
        self.started.append(process)
        until(f"the graph serves: {self.log()}", self.serves)
        return process

    def log(self):
        return "".join(path.read_text() for path in sorted(self.folder.glob("deploy.*.log")))

    def say(self, *words):
        """What `dynamo deploy ...` says in another terminal."""
        ended = subprocess.run(
            [self.program, "deploy", *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def state(self):
        try:
            return json.loads((self.folder / "runs/my-graph/state.json").read_text())
        except OSError:
            return None

    def pids(self):
        """Ids of the processes that run, by name."""
        processes = (self.state() or {"processes": []})["processes"]
        found = {
            it["name"]: it["id"]["pid"]
            for it in processes
            if it["id"] and it["standing"] == "running"
        }
        self.seen.update(found.values())
        return found

    def ask(self):
        """The status of a chat that is asked for, 0 without an answer."""
        request = urllib.request.Request(
            f"{self.address}/v1/chat/completions",
            json.dumps(CHAT).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 4
                return answer.status
        except OSError:
            return 0

    def serves(self):
        """Whether all processes run, and answer."""
        return sorted(self.pids()) == sorted(NAMES) and self.ask() == 200

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.seen:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def site(tmp_path, environment):
    made = Site(tmp_path, environment)
    yield made
    made.close()


def test_each_killed_child_starts_again_and_the_graph_is_stopped_from_elsewhere(site):
    supervisor = site.deploy()
    for name in NAMES:
        before = site.pids()
        os.kill(before[name], signal.SIGKILL)
        until("it is seen", lambda: site.pids().get(name) != before[name])
        until(f"the graph serves without {name}: {site.log()}", site.serves)
        assert {it for it in NAMES if site.pids()[it] != before[it]} == {name}
    _, shown = site.say("status")
    for name in NAMES:
        [line] = [line for line in shown.splitlines() if line.startswith(name)]
        assert line.split()[1] == "running" and line.split()[4] == "1", shown
    assert f"process {supervisor.pid}" in shown
    status, logs = site.say("logs", "my_graph", "module_worker", "--tail", "2")
    assert status == 0 and "module-worker-0 | " in logs

    pids = site.pids()
    status, said = site.say("stop", "my_graph")
    assert status == 0 and "my-graph: stopped" in said
    assert supervisor.wait(PATIENCE) == 0, site.log()
    assert not any(map(lives, pids.values()))
    assert site.state() is None
    assert "no graph runs here" in site.say("status")[1]


def test_a_killed_supervisor_leaves_what_is_said_of_it_and_the_next_one_takes_over(site):
    first = site.deploy()
    status, refused = site.say("--target", "local", "-f", str(site.file))
    assert status == 1 and f"runs already (process {first.pid})" in refused, refused

    orphans = site.pids()
    first.kill()
    first.wait()
    until("its processes drain and end", lambda: not any(map(lives, orphans.values())))
    _, shown = site.say("status")
    assert f"process {first.pid}, which ran it, is dead" in shown, shown
    assert "running" not in shown, shown
    status, logs = site.say("logs", "my_graph", "front")
    assert status == 0 and "asked to end" in logs, logs

    second = site.deploy()
    assert not set(site.pids().values()) & set(orphans.values())
    assert f"process {second.pid})" in site.say("status")[1]
    second.kill()
    second.wait()
    status, said = site.say("stop", "my_graph")
    assert status == 0 and "its supervisor was dead" in said, said
    until("nothing is left", lambda: not any(map(lives, site.seen)))
    assert site.state() is None
    status, said = site.say("stop", "my_graph")
    assert status == 1 and "no graph my-graph runs here" in said, said
