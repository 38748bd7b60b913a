"""Servers as they are with KV events as vLLM publishes them: prompts go where their blocks are."""

import random

import pytest

from conftest import http
from structs import ARRAYS

BLOCK = 32
TOKENIZER = ".models/tokenizers/qwen3"


def prompt(seed, blocks=4):
    random.seed(seed)
    return [random.randrange(1_000, 50_000) for _ in range(blocks * BLOCK + 3)]


def stored(ids, tokens, parent=None, block=BLOCK):
    count = len(ids) * block
    return ARRAYS.BlockStored(ids, parent, tokens[:count], block, None, "GPU")


def ask(address, tokens):
    body = {"model": "echo", "prompt": tokens, "max_tokens": 1}
    headers, _ = http(f"{address}/v1/completions", body)
    return headers["x-dynamo-worker-instance-id"], headers["x-dynamo-router-mode"]


def counted(address, name, label=""):
    """A counter of `/metrics`, over all its series that have this label."""
    _, metrics = http(f"{address}/metrics")
    lines = [it for it in metrics.splitlines() if it.startswith(name) and label in it]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.fixture
def fleet(start, publish):
    model = ["--model-path", TOKENIZER]
    servers = [start("run", "in=http", "out=echo", *model, "--model-name", "echo") for _ in range(2)]
    publishers = [publish(), publish()]
    words = [f"out={server}" for server in servers]
    for publisher in publishers:
        words += ["--kv-events", f"tcp://127.0.0.1:{publisher.port}"]
        words += ["--kv-events-replay", f"tcp://127.0.0.1:{publisher.replay_port}"]
    front = start("run", "in=http", *words, *model)
    for publisher in publishers:
        publisher.wait_for_subscription()
    return front, publishers


def test_prompts_go_where_engines_say_that_their_blocks_are(fleet, router):
    front, (first, second) = fleet
    one, two = prompt(1), prompt(2)
    assert ask(front, one)[1] == "least-loaded"
    first.publish([stored([11, 12, 13, 14], one)])
    second.publish([stored([21, 22], two), stored([23, 24], two[2 * BLOCK :], parent=22)])
    status = router(front, lambda it: it["index"]["blocks"] == 8)
    assert (status["block_size"], status["telling"]) == (BLOCK, 2)
    for _ in range(4):
        assert ask(front, one) == ("1", "kv")
        assert ask(front, two) == ("2", "kv")
    # What is gone there and came here is looked for here.
    second.publish([ARRAYS.BlockRemoved([24, 23, 22, 21], "GPU")])
    first.publish([stored([21, 22, 23, 24], two)])
    router(front, lambda it: it["workers"][1]["cached_blocks"] == 0 and it["index"]["blocks"] == 8)
    assert ask(front, two) == ("1", "kv")


def test_events_that_mean_nothing_are_counted_and_harm_nobody(fleet, router):
    front, (first, second) = fleet
    one = prompt(3)
    first.publish([stored([1, 2, 3, 4], one)])
    router(front, lambda it: it["index"]["blocks"] == 4)
    second.publish([stored([5], one, parent=99)])
    second.publish([stored([6], one, block=16)])
    second.publish([ARRAYS.BlockRemoved([77], "GPU")])
    second.publish_bytes(b"\xc1 no msgpack")
    second.publish([stored([7], prompt(4))])
    router(front, lambda it: it["index"]["blocks"] == 5)
    assert ask(front, one) == ("1", "kv")
    assert counted(front, "dynamo_backends_kv_events_refused_total", "unknown_parent") == 1
    assert counted(front, "dynamo_backends_kv_events_refused_total", "block_size") == 1
    assert counted(front, "dynamo_backends_kv_unknown_blocks_total") == 1
    assert counted(front, "dynamo_engine_kv_refused_messages_total", "payload") == 1
    # The message that could not be read is a loss, and known to be one.
    assert counted(front, "dynamo_router_lost_publishers_total") == 1


def test_garbage_on_the_socket_is_counted_and_what_follows_counts(fleet, router):
    front, (first, _) = fleet
    one = prompt(8)
    number = (0).to_bytes(8, "big")
    for parts in [(b"",), (b"kv", number), (b"kv",) * 9]:
        first.send(*parts)
    first.send(b"kv", b"short", b"\x92\x01\x90")
    for payload in [b"\xc1", b"\x00" * 1000, b"GET / HTTP/1.1\r\n"]:
        first.publish_bytes(payload)
    first.publish([["BlockStored"], ["BlockMoved", [1]], {"type": 7}, None])
    first.publish([stored([1, 2, 3, 4], one)])
    router(front, lambda it: it["index"]["blocks"] == 4)
    assert ask(front, one) == ("1", "kv")
    assert counted(front, "dynamo_engine_kv_refused_messages_total", "parts") == 3
    assert counted(front, "dynamo_engine_kv_refused_messages_total", "sequence") == 1
    assert counted(front, "dynamo_engine_kv_refused_messages_total", "payload") == 3
    assert counted(front, "dynamo_engine_kv_skipped_events_total", "malformed") == 3
    assert counted(front, "dynamo_engine_kv_skipped_events_total", "unknown_kind") == 1


def test_events_that_come_twice_or_in_another_order_leave_what_the_engine_holds(fleet, router):
    front, (first, _) = fleet
    one = prompt(9)
    whole = stored([1, 2, 3, 4], one)
    # Stored twice; then gone twice and told before its parent.
    first.publish([whole, whole])
    router(front, lambda it: it["index"]["blocks"] == 4)
    assert counted(front, "dynamo_router_duplicate_blocks_total") == 4
    first.publish([ARRAYS.BlockRemoved([3], "GPU"), ARRAYS.BlockRemoved([3], "GPU")])
    first.publish([stored([5], one, parent=3), ARRAYS.BlockRemoved([4], "GPU")])
    router(front, lambda it: it["index"]["blocks"] == 2)
    assert counted(front, "dynamo_backends_kv_unknown_blocks_total") == 1
    assert counted(front, "dynamo_backends_kv_events_refused_total", "unknown_parent") == 1
    first.publish([stored([3, 4], one[2 * BLOCK :], parent=2)])
    router(front, lambda it: it["index"]["blocks"] == 4)
    assert ask(front, one) == ("1", "kv")


def test_messages_that_never_came_are_counted(start, publish, router):
    model = ["--model-path", TOKENIZER]
    server = start("run", "in=http", "out=echo", *model, "--model-name", "echo")
    publisher = publish(replay=False)
    events = f"tcp://127.0.0.1:{publisher.port}"
    front = start("run", "in=http", f"out={server}", "--kv-events", events, *model)
    publisher.wait_for_subscription()
    publisher.publish([stored([1], prompt(10))])
    router(front, lambda it: it["index"]["blocks"] == 1)
    publisher.number += 5
    publisher.publish([stored([2], prompt(11))])
    router(front, lambda it: it["index"]["blocks"] == 2)
    assert counted(front, "dynamo_engine_kv_lost_messages_total") == 5
    assert counted(front, "dynamo_router_lost_publishers_total") == 1


def test_an_engine_that_starts_anew_holds_nothing(fleet, router):
    front, (first, _) = fleet
    one = prompt(5)
    first.publish([stored([1, 2, 3, 4], one)])
    router(front, lambda it: it["index"]["blocks"] == 4)
    first.close()
    first.number = 0
    first.kept.clear()
    first.open()
    first.wait_for_subscription()
    first.publish([stored([9], prompt(6))])
    first.publish([stored([10], prompt(7))])
    def is_known(status):
        if first.router.poll(0):
            first.serve()
        return status["index"]["blocks"] == 2

    router(front, is_known)
    assert counted(front, "dynamo_engine_kv_resets_total") == 1
