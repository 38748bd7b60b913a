"""Graphs on a real Slurm: submitted, answered over HTTP, a worker killed, stopped in order,
cancelled; a heterogeneous job and one of several ranks over two nodes. Skipped where Slurm is not
installed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request

import pytest

import slurm_site
from conftest import BINARY
from slurm_site import until

missing = slurm_site.missing()
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; apt-get install slurm-wlm munge")

GRAPH = """
version: 1.0
name: small
components:
- name: front
  cmd: [dynamo, frontend]
  parameters: {{port: {port}}}
  resources: {{cpu: 1, memory: 400Mi}}
- name: mock_worker
  cmd: [dynamo, mocker]
  replicas: 2
  resources: {{cpu: 1, memory: 400Mi}}
  environment:
    TOKEN: "${{{{ secrets.TOKEN }}}}"
"""


@pytest.fixture
def slurm(tmp_path):
    # Folders of munge must be closed to others all the way up; those of pytest are.
    site = slurm_site.Slurm(tmp_path / "slurm")
    yield site
    site.stop()


@pytest.fixture
def two_nodes(tmp_path):
    site = slurm_site.Slurm(tmp_path / "slurm", nodes=2)
    yield site
    site.stop()


class Job:
    """A graph that was submitted."""

    def __init__(self, slurm, folder, graph, *options):
        self.slurm = slurm
        self.out = folder / "job"
        (folder / "graph.yaml").write_text(graph)
        command = [BINARY, "deploy", "-f", folder / "graph.yaml", "--target", "slurm", "--out-dir", self.out]
        subprocess.run([*command, *options], check=True, timeout=60)
        path = f"{BINARY.parent}:{slurm_site.path()}"
        environment = {"PATH": path, "TOKEN": "not-to-be-seen", "TMPDIR": str(folder)}
        self.id = slurm.run(str(self.out / "submit.sh"), env=environment).strip()
        self.logs = self.out / "logs" / self.id

    def log(self, name):
        path = self.logs / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def everything(self):
        texts = [path.read_text(errors="replace") for path in self.out.rglob("*") if path.is_file()]
        return "\n".join(texts)

    def own_log(self):
        return next(self.out.glob("*.log"), pathlib.Path(os.devnull)).read_text()

    def is_over(self):
        return not self.slurm.run("squeue", "-h", "-j", self.id, check=False).strip()

    def ask(self, address, path, body=None):
        request = urllib.request.Request(address + path, body and json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def serves(self, address):
        try:
            return bool(self.ask(address, "/v1/models")["data"])
        except OSError:
            return False

    def address(self):
        path = self.logs / "front-0.address"
        until("the frontend has an address", path.exists)
        return path.read_text().strip()


def processes_of(folder):
    """Processes whose environment names the folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def pid_of(folder, word):
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            words = (path.parent / "cmdline").read_bytes().split(b"\0")
            if str(folder).encode() in path.read_bytes() and words[0].endswith(b"dynamo") and word in words:
                return int(path.parent.name)
        except OSError:
            continue
    return None


CHAT = {"model": "mock", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


def test_a_graph_serves_survives_a_killed_worker_and_stops_in_order(slurm, tmp_path):
    job = Job(slurm, tmp_path, GRAPH.format(port=slurm_site.free_port()))
    address = job.address()
    until("the graph serves", lambda: job.serves(address))
    answer = job.ask(address, "/v1/chat/completions", CHAT)
    assert answer["usage"]["completion_tokens"] == 4

    until("both workers log", lambda: job.log("mock-worker-0") and job.log("mock-worker-1"))
    os.kill(pid_of(job.out, b"mocker"), signal.SIGKILL)
    until("it starts again", lambda: "it starts again in 1 s" in job.own_log())
    until("three starts are logged", lambda: sum(job.log(f"mock-worker-{n}").count("simulated workers serve") for n in [0, 1]) == 3)
    assert job.ask(address, "/v1/chat/completions", CHAT)["usage"]["completion_tokens"] == 4

    slurm.run(str(job.out / "stop.sh"), job.id)
    assert job.is_over()
    own = job.own_log()
    assert own.rstrip().endswith("stopped") and "failed" not in own, own
    # A second signal would cut off what they finish.
    assert job.log("front-0").count("asked to end") == 1, job.log("front-0")
    assert "not-to-be-seen" not in job.everything()
    until("nothing is left", lambda: processes_of(job.out) == [])


def test_a_cancelled_job_drains_and_leaves_nothing(slurm, tmp_path):
    job = Job(slurm, tmp_path, GRAPH.format(port=slurm_site.free_port()), "--slurm-etcd", "--slurm-nats")
    address = job.address()
    until("the graph serves", lambda: job.serves(address))
    assert "etcd" in " ".join(processes_of(job.out))
    slurm.run("scancel", job.id)
    until("the job is over", job.is_over)
    until("nothing is left", lambda: processes_of(job.out) == [])
    for name in ["front-0", "mock-worker-0", "mock-worker-1"]:
        assert "asked to end" in job.log(name), job.log(name)


KILLED = """
import pathlib, signal, subprocess, sys
import slurm_site
folder = pathlib.Path(sys.argv[1])
site = slurm_site.Slurm(folder / "slurm")
(folder / "job.sh").write_text("#!/bin/sh\\nsrun sh -c 'setsid sleep 1000 & sleep 1000'\\n")
site.run("sbatch", folder / "job.sh", cwd=folder)
print("submitted", flush=True)
signal.pause()
"""


def test_a_test_that_is_killed_leaves_neither_daemons_nor_jobs(tmp_path):
    words = [sys.executable, "-c", KILLED, tmp_path]
    here = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}
    test = subprocess.Popen(words, env=here, stdout=subprocess.PIPE, text=True)
    try:
        assert test.stdout.readline() == "submitted\n"
        until("the job runs", lambda: sum("sleep" in it for it in processes_of(tmp_path)) >= 2)
    finally:
        test.kill()
        test.wait()
    until("nothing is left", lambda: processes_of(tmp_path) == [])


def test_a_program_that_fails_for_good_fails_the_job(slurm, tmp_path):
    graph = "version: 1\nname: wrong\ncomponents:\n- {name: w, cmd: [dynamo, no-such-command]}\n- {name: m, cmd: [dynamo, mocker]}\n"
    job = Job(slurm, tmp_path, graph)
    until("the job is over", job.is_over)
    own = job.own_log()
    assert "w-0 failed for good with code 2" in own and own.rstrip().endswith("stopped"), own
    state = slurm.run("scontrol", "show", "job", job.id)
    assert "JobState=FAILED" in state, state


def test_a_submission_without_its_secret_says_so(slurm, tmp_path):
    (tmp_path / "graph.yaml").write_text(GRAPH.format(port=1))
    out = tmp_path / "job"
    subprocess.run([BINARY, "deploy", "-f", tmp_path / "graph.yaml", "--target", "slurm", "--out-dir", out], check=True, timeout=60)
    ended = subprocess.run([out / "submit.sh"], env=slurm.environment, check=False, text=True, capture_output=True, timeout=60)
    assert ended.returncode == 1 and "the secret TOKEN is missing" in ended.stderr


def test_parts_of_a_heterogeneous_job_stop_in_order(two_nodes, tmp_path):
    graph = GRAPH.format(port=slurm_site.free_port())
    job = Job(two_nodes, tmp_path, graph, "--slurm-separate")
    address = job.address()
    until("the graph serves", lambda: job.serves(address))
    assert job.ask(address, "/v1/chat/completions", CHAT)["usage"]["completion_tokens"] == 4
    assert len(two_nodes.run("squeue", "-h", "-o", "%i").split()) == 2
    two_nodes.run(str(job.out / "stop.sh"), job.id)
    for name in ["front-0", "mock-worker-0", "mock-worker-1"]:
        assert job.log(name).count("asked to end") == 1, job.log(name)
    assert job.own_log().rstrip().endswith("stopped")
    until("nothing is left", lambda: processes_of(job.out) == [])


def test_ranks_and_the_leader_come_from_slurm(two_nodes, tmp_path):
    graph = """
version: 1
name: ranks
components:
- name: wide
  cmd: [sh, -c, 'echo "rank: $*"; sleep 1000', sh]
  run_config: {input: "dyn://a.b.c", num_nodes: 2, node_rank: 0, leader_addr: "10.0.0.1:7000"}
"""
    job = Job(two_nodes, tmp_path, graph)
    until("both ranks run", lambda: job.log("wide-0").count("rank: ") == 2)
    said = sorted(job.log("wide-0").splitlines())
    nodes = "--num-nodes 2 --node-rank"
    assert said == [
        f"rank: in=dyn://a.b.c {nodes} 0 --leader-addr 127.0.0.1:7000",
        f"rank: in=none {nodes} 1 --leader-addr 127.0.0.1:7000",
    ]
    two_nodes.run("scancel", job.id)
    until("the job is over", job.is_over)
    until("nothing is left", lambda: processes_of(job.out) == [])
