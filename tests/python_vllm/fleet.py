"""A frontend and workers with real engines, started by tests and ended with them.

Loading takes most of a minute, so that workers are kept from test to test; one that a test has
ended is replaced.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai

ROOT = Path(__file__).resolve().parents[2]

#: Longest that an engine may take to load, or a process to end. Machines are busy.
PATIENCE = 300

MODEL = "tiny"


#: Asks the endpoint of its first argument with the JSON of the second, prints the answer.
ASK = """
import asyncio, json, sys
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    endpoint = runtime.namespace("dynamo").component("backend").endpoint(sys.argv[1])
    client = await endpoint.client()
    await client.wait_for_instances(30)
    async for item in await client.generate(json.loads(sys.argv[2]), annotated=False):
        print(json.dumps(item))

asyncio.run(main())
"""


def until(condition, what, patience=PATIENCE):
    """Waits until a condition gives something true, which is given back."""
    deadline = time.monotonic() + patience
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"{what} did not come in {patience} s"
        time.sleep(0.05)


class Process:
    """A process that writes into files, in a group of its own, and ends with the tests."""

    def __init__(self, name, folder, command, env):
        self.out = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        with open(self.out, "w") as out, open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=env,
                cwd=folder,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def text(self):
        """What it has written to stderr and stdout."""
        return self.log.read_text(errors="replace") + self.out.read_text(errors="replace")

    def says(self, what, patience=PATIENCE):
        """Waits until it has written something."""

        def said():
            if what in self.text():
                return True
            assert self.process.poll() is None, f"ended early:\n{self.text()[-4000:]}"
            return False

        until(said, f"{what!r}", patience)

    def children(self):
        """Its processes, and theirs, by pid."""
        found, ask = [], [self.process.pid]
        while ask:
            pid = ask.pop()
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    mine = [int(it) for it in (task / "children").read_text().split()]
                    found += mine
                    ask += mine
        return found

    def send(self, number):
        self.process.send_signal(number)

    def ended(self):
        """Waits for its end; its status."""
        return self.process.wait(timeout=PATIENCE)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def is_running(pid):
    """Whether there is such a process that has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Fleet:
    """A frontend and workers.

    Args:
        worker: the words that start a worker.
        environment: what its engine needs besides.
    """

    def __init__(self, folder, worker, environment):
        self.folder = folder
        self.worker = worker
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("DYN_")}
        self.env.update(
            DYN_DISCOVERY_BACKEND="file",
            DYN_FILE_KV=str(folder / "discovery"),
            DYN_ARTEFACT_CACHE=str(folder / "artefacts"),
            **environment,
        )
        self.started = []
        self.workers = []
        self.url = None

    def start(self, name, *command):
        process = Process(f"{len(self.started)}-{name}", self.folder, command, self.env)
        self.started.append(process)
        return process

    def open_frontend(self):
        front = self.start("frontend", "-m", "dynamo.frontend", "--http-port", "0")
        until(lambda: front.out.read_text().strip() or front.process.poll(), "the frontend")
        self.url = front.out.read_text().split()[0]
        self.client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
        )

    def ready(self, count):
        """Workers that serve, as many as are wanted and no others."""
        self.workers = [it for it in self.workers if it.process.poll() is None]
        while len(self.workers) > count:
            gone = self.workers.pop()
            gone.send(signal.SIGTERM)
            gone.ended()
        self.workers += [
            self.start("worker", *self.worker) for _ in range(count - len(self.workers))
        ]
        for worker in self.workers:
            worker.says("serves ")
        until(lambda: self.instances() == count, f"{count} instances")
        return self.workers

    def end(self):
        """Ends everything."""
        for process in reversed(self.started):
            process.kill()

    def instances(self):
        """How many workers the frontend's router knows."""
        with contextlib.suppress(OSError, IndexError, KeyError):
            return len(self.status()["workers"])
        return 0

    def status(self):
        """What the router says of itself."""
        return self.get("/v1/router/status")["routers"][0]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def ask(self, endpoint, **request):
        """What an endpoint of the workers answers."""
        done = subprocess.run(
            [sys.executable, "-c", ASK, endpoint, json.dumps(request)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return json.loads(done.stdout)

    def busy(self, request_id):
        """The worker that runs a request."""
        return until(
            lambda: next((it for it in self.workers if f"-{request_id}" in it.text()), None),
            f"the worker of {request_id}",
        )
