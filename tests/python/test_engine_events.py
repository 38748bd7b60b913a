"""What an engine publishes over ZMQ reaches routers, also what nobody had listened to."""

import struct
import threading

import pytest

zmq = pytest.importorskip("zmq")

WORKER = """
import asyncio, sys
from dynamo.llm import *
from dynamo.runtime import *

async def handle(request):
    yield request

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("test.engine.generate")
    publisher = KvEventPublisher(
        endpoint, kv_block_size=4, zmq_endpoint=sys.argv[1], zmq_replay_endpoint=sys.argv[2]
    )
    await register_model(
        ModelInput.Text, ModelType.Chat, endpoint, "engine", kv_cache_block_size=4
    )
    await endpoint.serve_endpoint(handle)

asyncio.run(worker())
"""

INDEXER = """
import asyncio, json
from dynamo.llm import *
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    indexer = KvIndexer(runtime.endpoint("test.engine.generate"), 4)
    seen = None
    while True:
        scores = indexer.find_matches_for_request(list(range(16))).scores
        blocks = max(scores.values(), default=0)
        if blocks != seen:
            print(blocks, flush=True)
            seen = blocks
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


def pack(value):
    """MessagePack of what events are made of."""
    if value is None:
        return b"\xc0"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, str):
        return b"\xd9" + bytes([len(value)]) + value.encode()
    return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))


def batch(number):
    """The message of an engine that stores the block of this number, four tokens long."""
    tokens = list(range(4 * number, 4 * number + 4))
    parent = number + 99 if number else None
    stored = ["BlockStored", [number + 100], parent, tokens, 4, None]
    return pack([0.0, [stored]])


#: How often a thread looks whether it is to end, in milliseconds.
LOOK_AGAIN_MS = 50


class Engine:
    """Publishes as vLLM does, and gives again what was missed."""

    def __init__(self, folder):
        self.context = zmq.Context()
        self.kept = []
        self.events, self.replay = (f"ipc://{folder}/{name}" for name in ["events", "replay"])
        self.publisher = self.context.socket(zmq.PUB)
        self.publisher.bind(self.events)
        self.router = self.context.socket(zmq.ROUTER)
        self.router.bind(self.replay)
        self.asked = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def answer(self):
        # A socket belongs to one thread, also at its end.
        while not self.is_over.is_set():
            if not self.router.poll(LOOK_AGAIN_MS):
                continue
            who, _, start = self.router.recv_multipart()
            self.asked += 1
            for number, payload in list(self.kept)[int.from_bytes(start, "big") :]:
                number = number.to_bytes(8, "big")
                self.router.send_multipart([who, b"", number, payload])
            self.router.send_multipart([who, b"", b"\xff" * 8, b""])
        self.router.close(linger=0)

    def end(self):
        self.is_over.set()
        self.thread.join()
        self.publisher.close(linger=0)
        self.context.term()

    def publish(self, number, is_lost=False):
        self.kept.append((number, batch(number)))
        if not is_lost:
            self.publisher.send_multipart([b"", number.to_bytes(8, "big"), batch(number)])


@pytest.fixture
def engine(tmp_path):
    engine = Engine(tmp_path)
    yield engine
    engine.end()


def test_what_was_published_before_and_what_was_lost_is_asked_for_again(deployment, engine):
    engine.publish(0)
    engine.publish(1)
    worker = deployment.script(WORKER, engine.events, engine.replay, name="worker.py")
    indexer = deployment.script(INDEXER, name="indexer.py")
    while indexer.line() != "2":
        assert worker.process.poll() is None
    engine.publish(2, is_lost=True)
    engine.publish(3)
    while indexer.line() != "4":
        assert worker.process.poll() is None
    assert engine.asked >= 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("zmq_replay_endpoint='tcp://h:1'", "goes with zmq_endpoint"),
        ("zmq_endpoint='ipc://relative'", "ipc:///PATH"),
        ("zmq_endpoint='tcp://h:1', zmq_replay_endpoint='h:1'", "zmq_replay_endpoint"),
    ],
)
def test_addresses_that_make_no_sense_are_refused(deployment, arguments, says):
    said = deployment.ask(
        f"""
        import asyncio
        from dynamo.llm import *
        from dynamo.runtime import *

        @dynamo_worker()
        async def worker(runtime):
            endpoint = runtime.endpoint("test.engine.generate")
            try:
                KvEventPublisher(endpoint, kv_block_size=4, {arguments})
            except ValueError as error:
                print(error)

        asyncio.run(worker())
        """
    )
    assert says in said
