"""`dynamo serve` for real: frontends and simulated workers as processes, asked over HTTP."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT

TOKENIZER = ROOT / ".models/tokenizers/qwen3"

CONFIG = """
Common:
  model-path: {tokenizer}
  model-name: qwen3
Frontend:
  http-port: {port}
Worker:
  common-configs: [model-path, model-name]
  speedup-ratio: 1000
  ServiceArgs:
    workers: {workers}
    environment: {{SAID_BY_TEST: "yes"}}
"""


@pytest.fixture
def serve(deployment, tmp_path):
    """Starts `dynamo serve`; its output goes to files, so that nobody has to read it in time."""

    class Serve:
        def __init__(self, graph, config="", *words):
            self.port = free_port()
            path = tmp_path / "config.yaml"
            path.write_text(config.format(tokenizer=TOKENIZER, port=self.port, workers=2))
            self.out = tmp_path / "serve.out"
            self.err = tmp_path / "serve.err"
            command = [sys.executable, "-m", "dynamo.serve", graph, "-f", str(path), *words]
            more = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
            with self.out.open("wb") as out, self.err.open("wb") as err:
                self.process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**deployment.environment, "PYTHONPATH": more},
                    stdout=out,
                    stderr=err,
                )

        def get(self, path, body=None):
            url = f"http://127.0.0.1:{self.port}{path}"
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)

        def listed(self):
            until(lambda: self.models() == ["qwen3"], self)

        def models(self):
            try:
                return [it["id"] for it in self.get("/v1/models")["data"]]
            except OSError:
                return []

        def said(self):
            return self.err.read_text()

        def children(self):
            """Processes of the components, by their parent."""
            return children(self.process.pid)

        def end(self, number=signal.SIGINT):
            self.process.send_signal(number)
            return self.process.wait(PATIENCE)

    started = []

    def start(*arguments):
        started.append(Serve(*arguments))
        return started[-1]

    yield start
    for it in started:
        left = it.children()
        if it.process.poll() is None:
            it.process.kill()
        it.process.wait(PATIENCE)
        for pid in left:
            gone(pid)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid):
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(word) for word in text.split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid):
    until(lambda: not is_alive(pid))


def until(condition, serving=None):
    """Waits for a condition, with a bound."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, serving.said() if serving else "not in time"
        if serving is not None:
            assert serving.process.poll() is None, serving.said()
        time.sleep(0.02)


DISAGGREGATED = """
Common:
  model-path: {tokenizer}
  model-name: qwen3
  speedup-ratio: 1000
Frontend:
  http-port: {port}
PrefillWorker:
  common-configs: all
DecodeWorker:
  common-configs: all
"""


def test_a_graph_of_prefill_and_decode_workers_answers(serve):
    serving = serve("examples.mocker.disagg:GRAPH", DISAGGREGATED)
    serving.listed()
    extra = {"extra_fields": ["worker_id"]}
    body = {"model": "qwen3", "prompt": "one two", "max_tokens": 3, "nvext": extra}

    answer = serving.get("/v1/completions", body)
    assert answer["usage"]["completion_tokens"] == 3
    ids = answer["choices"][0].get("nvext", answer.get("nvext"))["worker_id"]
    assert ids["prefill_worker_id"] != ids["decode_worker_id"]
    assert serving.end() == 0


def test_a_graph_answers_and_leaves_nothing_behind(serve):
    serving = serve("examples.mocker.agg:GRAPH", CONFIG)
    serving.listed()
    answer = serving.get("/v1/completions", {"model": "qwen3", "prompt": "hi", "max_tokens": 3})
    assert answer["usage"]["completion_tokens"] == 3
    processes = serving.children()
    assert len(processes) == 3
    assert serving.end() == 0, serving.said()
    for pid in processes:
        gone(pid)

    said = serving.said()
    shown = [line.partition(": ")[2] for line in said.splitlines() if " -m dynamo." in line]
    worker = (
        f"SAID_BY_TEST=yes {sys.executable} -m dynamo.mocker --model-path {TOKENIZER} "
        "--model-name qwen3 --speedup-ratio 1000"
    )
    assert shown == [
        f"backend.0: {worker}",
        f"backend.1: {worker}",
        f"frontend: {sys.executable} -m dynamo.frontend --http-port {serving.port}",
    ]
    # The frontend stops taking before the workers are asked.
    ends = [line.split()[0] for line in said.splitlines() if "asked to end" in line]
    assert ends[0] == "frontend"
    assert sorted(ends[1:]) == ["backend.0", "backend.1"]
    assert "frontend  | http://127.0.0.1" in serving.out.read_text()


def test_what_is_shown_is_all_that_a_component_gets(serve, tmp_path):
    write(tmp_path / "shows.py", SHOWS)
    serving = serve(
        "shows:GRAPH",
        """
Shows:
  a-list: [x, "y z"]
  deep: {{b: [1, true]}}
  is_on: true
  is_off: false
  nothing: null
  number: 0755
  ServiceArgs: {{environment: {{OWN: "a b"}}}}
""",
    )
    until(lambda: "{" in serving.out.read_text(), serving)
    got = json.loads(serving.out.read_text().partition("| ")[2])
    assert got["arguments"] == [
        *["--from-class", "1", "--number", "0755"],
        *["--a-list", "x", "y z"],
        *["--deep", '{"b": [1, true]}'],
        *["--is-on", "--no-is-off"],
    ]
    assert got["added"] == {"OWN": "a b"}
    assert serving.end() == 0


SHOWS = """
import json, os, sys, time
from dynamo.deploy import BaseDeployment

class Shows(BaseDeployment):
    arguments = {"from_class": 1, "number": 5}

GRAPH = [Shows]

if __name__ == "__main__":
    parent = dict(
        item.split("=", 1)
        for item in open(f"/proc/{os.getppid()}/environ").read().split("\\0") if item
    )
    added = {key: value for key, value in os.environ.items() if parent.get(key) != value}
    print(json.dumps({"arguments": sys.argv[1:], "added": added}), flush=True)
    time.sleep(3600)
"""


def write(path, text):
    path.write_text(text)


def test_a_worker_that_is_killed_stops_all_and_says_so(serve):
    serving = serve("examples.mocker.agg:GRAPH", CONFIG)
    serving.listed()
    processes = serving.children()
    os.kill(processes[0], signal.SIGKILL)
    assert serving.process.wait(PATIENCE) == 1
    assert "backend.0 ended with signal SIGKILL" in serving.said()
    assert "stops the others" in serving.said()
    for pid in processes:
        gone(pid)


def test_a_worker_that_is_killed_is_started_again_if_that_is_asked_for(serve):
    serving = serve("examples.mocker.agg:GRAPH", CONFIG, "--restart")
    serving.listed()
    before = serving.children()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(serving.children()) == 3 and before[0] not in serving.children(), serving)
    assert serving.get("/v1/completions", {"model": "qwen3", "prompt": "x", "max_tokens": 1})
    assert serving.end(signal.SIGTERM) == 0


def test_a_component_that_cannot_start_fails_loudly(serve):
    serving = serve("examples.mocker.agg:GRAPH", CONFIG.replace("{tokenizer}", "/nowhere"))
    assert serving.process.wait(PATIENCE) == 1
    said = serving.said()
    assert re.search(r"backend\.[01] ended with status 1", said)
    assert "/nowhere" in said


def test_an_interpreter_that_is_none(serve):
    serving = serve("examples.mocker.agg:GRAPH", CONFIG, "--python", "/no/python")
    assert serving.process.wait(PATIENCE) == 1
    assert "backend.0 could not be started: No such file or directory" in serving.said()


def test_components_that_do_not_end_are_killed(serve, tmp_path):
    write(
        tmp_path / "stubborn.py",
        """
import signal, subprocess, sys
from dynamo.deploy import BaseDeployment

class Stubborn(BaseDeployment):
    pass

GRAPH = [Stubborn]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    print(child.pid, flush=True)
    child.wait()
""",
    )
    serving = serve("stubborn:GRAPH", "", "--drain-timeout", "200ms")
    until(lambda: serving.out.read_text().endswith("\n"), serving)
    grandchild = int(serving.out.read_text().split()[-1])
    assert serving.end(signal.SIGTERM) == 3
    assert "stubborn has not ended within 0.2 s: kills it" in serving.said()
    gone(grandchild)


def test_a_second_signal_ends_all_at_once(serve, tmp_path):
    write(
        tmp_path / "slow.py",
        """
import signal, time
from dynamo.deploy import BaseDeployment

class Slow(BaseDeployment):
    pass

GRAPH = [Slow]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
    print("up", flush=True)
    while True:
        time.sleep(3600)
""",
    )
    serving = serve("slow:GRAPH")
    until(lambda: "up" in serving.out.read_text(), serving)
    serving.process.send_signal(signal.SIGINT)
    until(lambda: "asked" in serving.out.read_text(), serving)
    assert serving.end(signal.SIGINT) == 130


def test_components_do_not_outlive_a_killed_serve(serve):
    serving = serve("examples.mocker.agg:GRAPH", CONFIG)
    serving.listed()
    processes = serving.children()
    serving.process.kill()
    serving.process.wait(PATIENCE)
    for pid in processes:
        gone(pid)


def test_a_long_line_comes_whole_or_in_parts(serve, tmp_path):
    write(
        tmp_path / "long.py",
        """
import os, sys, time
from dynamo.deploy import BaseDeployment

class Long(BaseDeployment):
    pass

GRAPH = [Long]

if __name__ == "__main__":
    sys.stdout.write("x" * 200_000 + "\\nlast without an end")
    sys.stdout.flush()
    os.close(1)
    time.sleep(3600)
""",
    )
    serving = serve("long:GRAPH")
    until(lambda: "last" in serving.out.read_text(), serving)
    lines = serving.out.read_text().splitlines()
    assert all(line.startswith("long | ") for line in lines)
    assert "".join(line[7:] for line in lines) == "x" * 200_000 + "last without an end"
    assert serving.end() == 0


def test_a_reader_that_goes_away_stops_nothing(deployment, tmp_path):
    write(
        tmp_path / "talks.py",
        """
import sys, time
from dynamo.deploy import BaseDeployment

class Talks(BaseDeployment):
    pass

GRAPH = [Talks]

if __name__ == "__main__":
    number = 0
    while True:
        number += 1
        open(sys.argv[2], "w").write(str(number))
        print(number, flush=True)
        time.sleep(0.01)
""",
    )
    progress = tmp_path / "progress"
    config = tmp_path / "config.yaml"
    config.write_text(f"Talks: {{progress: {progress}}}\n")
    more = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "dynamo.serve", "talks:GRAPH", "-f", str(config)],
        env={**deployment.environment, "PYTHONPATH": more},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout.readline() == "talks | 1\n"
        process.stdout.close()
        seen = int(progress.read_text() or 0)
        until(lambda: int(progress.read_text() or 0) > seen + 50)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
    assert status == 0
