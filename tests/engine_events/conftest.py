"""Starts publishers, and `print_events`, which listens to them."""

import json
import os
import pathlib
import re
import subprocess
import time

import pytest
import zmq

from publisher import TIMEOUT, Publisher

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/examples/print_events"


class Listener:
    """A running `print_events`."""

    def __init__(self, publisher, *, topic=None, replay_port=None):
        binary = os.environ.get("DYN_TEST_PRINT_EVENTS", BINARY)
        arguments = [binary, f"tcp://127.0.0.1:{publisher.port}"]
        replay_port = replay_port or (publisher.has_replay and publisher.replay_port)
        if replay_port:
            arguments += ["--replay", f"tcp://127.0.0.1:{replay_port}"]
        if topic:
            arguments += ["--topic", topic]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.text = b""

    def line(self, publisher=None):
        """The next line, while the publisher's replay socket is served."""
        deadline = time.monotonic() + TIMEOUT / 1000
        poller = zmq.Poller()
        poller.register(self.process.stdout.fileno(), zmq.POLLIN)
        if publisher and publisher.has_replay:
            poller.register(publisher.router, zmq.POLLIN)
        while b"\n" not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"no line in time; so far {self.text!r}"
            ready = dict(poller.poll(left * 1000))
            if self.process.stdout.fileno() in ready:
                read = os.read(self.process.stdout.fileno(), 1 << 16)
                assert read, "print_events ended"
                self.text += read
            if publisher and publisher.router in ready:
                publisher.serve()
        line, self.text = self.text.split(b"\n", 1)
        return json.loads(line)

    def items(self, count, publisher=None):
        """So many items in a short form: a batch is its number, a loss `(first, count)`."""
        return [short(self.line(publisher)) for _ in range(count)]

    def metrics(self):
        """Ends the listener and gives back what it counted, without zeros and prefix."""
        self.process.stdin.close()
        while "metrics" not in (line := self.line()):
            pass
        assert self.process.wait(timeout=TIMEOUT / 1000) == 0
        found = re.findall(r"^dynamo_engine_kv_(\S+) (\d+)$", line["metrics"], re.MULTILINE)
        return {name: int(value) for name, value in found if value != "0"}


def short(line):
    if isinstance(line, str):
        return line
    return line["sequence"] if "sequence" in line else (line["lost"], line["count"])


@pytest.fixture
def publish():
    """Makes publishers that are closed at the end."""
    made = []

    def make(**options):
        made.append(Publisher(**options))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


@pytest.fixture
def listen():
    """Makes listeners that are stopped at the end."""
    made = []

    def make(publisher, **options):
        made.append(Listener(publisher, **options))
        return made[-1]

    yield make
    for listener in made:
        listener.process.kill()
        listener.process.wait()
        listener.process.stdout.close()
