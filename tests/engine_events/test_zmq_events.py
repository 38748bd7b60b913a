"""What vLLM and SGLang publish, written by pyzmq and msgspec, read by the crate."""

import socket
from typing import Any

import msgspec
import pytest
import zmq

from publisher import END
from structs import ARRAYS, MAPS, encode

SHA = bytes(range(32))


def stored(number, encoding=ARRAYS):
    return encoding.BlockStored([number], None, [number, number], 2)


def numbered(publisher, count, **options):
    for _ in range(count):
        publisher.publish([stored(publisher.number)], **options)


def plain(**fields):
    """A stored event as it is printed, where it has nothing special."""
    common = dict(
        parent=None, lora_name=None, salt=None, media=[], medium=None, eagle=False, block_size=2
    )
    return common | fields


@pytest.mark.parametrize("encoding", [ARRAYS, MAPS], ids=["arrays", "maps"])
@pytest.mark.parametrize(
    "first, second, ids",
    [
        (5, 2**64 - 1, [5, 2**64 - 1]),
        (-5, -(2**63), [2**64 - 5, 2**63]),
        (SHA, SHA[::-1], [0x18191A1B1C1D1E1F, 0x0706050403020100]),
    ],
    ids=["unsigned", "signed", "sha256"],
)
def test_each_encoding_and_each_form_of_block_ids(publish, listen, encoding, first, second, ids):
    publisher = publish(replay=False)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    events = [
        encoding.BlockStored([first], None, [1, 2], 2, None, "GPU"),
        encoding.BlockStored(
            [second], first, [3, 100_000], 2, 7, "CPU", "adapter", [("adapter",)], 0, "full_attention"
        ),
        encoding.BlockRemoved([second, first], "GPU"),
        encoding.BlockRemoved([first]),
        encoding.AllBlocksCleared(),
    ]
    publisher.publish(events, encoding=encoding, rank=3)
    assert listener.line() == {
        "sequence": 0,
        "timestamp": 1.5,
        "dp_rank": 3,
        "events": [
            plain(stored=[ids[0]], token_ids=[1, 2], medium="GPU"),
            plain(
                stored=[ids[1]],
                parent=ids[0],
                token_ids=[3, 100_000],
                medium="CPU",
                lora_name="adapter",
            ),
            {"removed": [ids[1], ids[0]], "medium": "GPU"},
            {"removed": [ids[0]], "medium": None},
            "cleared",
        ],
    }
    counted = listener.metrics()
    assert counted['events_total{kind="stored"}'] == 2
    assert counted['events_total{kind="removed"}'] == 2
    assert counted['events_total{kind="cleared"}'] == 1
    assert not [name for name in counted if "refused" in name or "skipped" in name]


def test_the_short_structs_of_sglang(publish, listen):
    class Batch(msgspec.Struct, array_like=True, omit_defaults=True):
        ts: float
        events: list[Any]

    class Event(msgspec.Struct, array_like=True, omit_defaults=True, tag=True):
        pass

    class BlockStored(Event):
        block_hashes: list[int]
        parent_block_hash: int | None
        token_ids: list[Any]
        block_size: int
        lora_id: int | None

    class BlockRemoved(Event):
        block_hashes: list[int]

    publisher = publish(replay=False)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    pairs = [(5, 6), (6, 7)]
    events = [BlockStored([-1], -2, [5, 6], 2, None), BlockStored([3], None, pairs, 2, None)]
    publisher.publish_bytes(encode(Batch(2.0, [*events, BlockRemoved([-1])])))
    assert listener.line()["events"] == [
        plain(stored=[2**64 - 1], parent=2**64 - 2, token_ids=[5, 6]),
        plain(stored=[3], token_ids=[5, 6, 7], eagle=True),
        {"removed": [2**64 - 1], "medium": None},
    ]


def test_salt_and_media_of_the_extra_keys(publish, listen):
    publisher = publish(replay=False)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    image = "0123456789abcdef" * 4
    keys = [("adapter", (image, 3), "tenant"), ("adapter",)]
    event = ARRAYS.BlockStored([1, 2], None, [1, 2, 3, 4], 2, None, "GPU", "adapter", keys)
    publisher.publish([event])
    [told] = listener.line()["events"]
    assert (told["lora_name"], told["salt"]) == ("adapter", "tenant")
    assert told["media"] == [[0x0123456789ABCDEF], []]


def test_groups_of_windows_and_states_do_not_count(publish, listen):
    publisher = publish(replay=False)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    for encoding in (ARRAYS, MAPS):
        window = encoding.BlockStored(
            [1], None, [1, 2], 2, group_idx=0, kv_cache_spec_kind="sliding_window"
        )
        full = encoding.BlockStored(
            [1], None, [1, 2], 2, group_idx=1, kv_cache_spec_kind="full_attention"
        )
        events = [window, full]
        events += [encoding.BlockRemoved([1], "GPU", group_idx=group) for group in (0, 1)]
        publisher.publish(events, encoding=encoding)
        told = listener.line()["events"]
        assert told == [plain(stored=[1], token_ids=[1, 2]), {"removed": [1], "medium": "GPU"}]
    assert listener.metrics()['skipped_events_total{reason="other_cache"}'] == 4


@pytest.mark.parametrize("kind", [zmq.PUB, zmq.XPUB], ids=["pub", "xpub"])
def test_a_late_router_is_told_what_was_before(publish, listen, kind):
    publisher = publish(kind=kind)
    numbered(publisher, 5)
    listener = listen(publisher)
    assert listener.items(5, publisher) == [0, 1, 2, 3, 4]
    # What follows comes live, or by a gap that is closed.
    numbered(publisher, 2)
    assert listener.items(2, publisher) == [5, 6]


def test_messages_dropped_on_the_way_come_by_replay(publish, listen):
    publisher = publish()
    numbered(publisher, 1)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    assert listener.items(1, publisher) == [0]
    numbered(publisher, 2, sent=False)
    numbered(publisher, 3)
    assert listener.items(5, publisher) == [1, 2, 3, 4, 5]
    assert publisher.requests == [0, 1]
    counted = listener.metrics()
    assert counted['replays_total{result="complete"}'] == 2
    assert "lost_messages_total" not in counted


def test_a_replay_above_the_high_water_mark_is_repeated_until_whole(publish, listen):
    publisher = publish()
    numbered(publisher, 6000)
    listener = listen(publisher)
    # The replay socket keeps a thousand messages per peer and drops what is above.
    assert listener.items(6000, publisher) == list(range(6000))
    assert publisher.requests == sorted(set(publisher.requests))
    assert "lost_messages_total" not in listener.metrics()


def test_without_replay_a_gap_is_told(publish, listen):
    publisher = publish(replay=False)
    numbered(publisher, 3)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    numbered(publisher, 1)
    numbered(publisher, 2, sent=False)
    numbered(publisher, 1)
    assert listener.items(4) == [(0, 3), 3, (4, 2), 6]
    assert listener.metrics()["lost_messages_total"] == 5


def test_what_the_publisher_no_longer_keeps_is_told(publish, listen):
    publisher = publish(kept=2)
    numbered(publisher, 5)
    listener = listen(publisher)
    assert listener.items(3, publisher) == [(0, 3), 3, 4]


def test_a_replay_socket_that_nobody_serves_costs_the_gap_only(publish, listen):
    publisher = publish(replay=False)
    numbered(publisher, 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        unused = server.getsockname()[1]
    listener = listen(publisher, replay_port=unused)
    publisher.wait_for_subscription()
    numbered(publisher, 2)
    assert listener.items(3) == [(0, 2), 2, 3]
    assert listener.metrics()['replays_total{result="failed"}'] >= 1


def test_a_replay_of_garbage_costs_the_gap_only(publish, listen):
    publisher = publish()
    listener = listen(publisher)
    publisher.wait_for_subscription()
    client, _, _ = publisher.router.recv_multipart()
    for parts in [(b"",), (b"", b"short", b"x"), (b"",) * 6]:
        publisher.router.send_multipart((client, *parts))
    first = (0).to_bytes(8, "big")
    publisher.router.send_multipart((client, b"", b"topic", first, encode([1.0, []])))
    publisher.router.send_multipart((client, b"", END, b""))
    assert listener.items(1) == [0]
    publisher.number = 1
    numbered(publisher, 1)
    assert listener.items(1, publisher) == [1]
    assert listener.metrics()['refused_messages_total{reason="parts"}'] == 3


@pytest.mark.parametrize("replay", [True, False], ids=["replay", "no-replay"])
@pytest.mark.parametrize("again", [1, 3, 5])
def test_a_publisher_that_starts_anew(publish, listen, replay, again):
    first = publish(replay=replay)
    listener = listen(first)
    first.wait_for_subscription()
    numbered(first, 3)
    assert listener.items(3, first) == [0, 1, 2]
    first.close()
    second = publish(replay=replay, port=first.port, replay_port=first.replay_port)
    if replay:
        # Fewer messages than before, as many, or more: its past comes by replay.
        second.number = 0
        numbered_anew = [MAPS.BlockRemoved([number]) for number in range(again)]
        for event in numbered_anew:
            second.publish([event], encoding=MAPS)
        assert listener.items(1 + again, second) == ["reset", *range(again)]
        second.wait_for_subscription()
    else:
        second.wait_for_subscription()
        numbered(second, again)
        assert listener.items(1 + again) == ["reset", *range(again)]
    numbered(second, 1)
    assert listener.items(1, second) == [again]
    assert listener.metrics()["resets_total"] == 1


@pytest.mark.parametrize("replay", [True, False], ids=["replay", "no-replay"])
def test_a_publisher_that_was_away(publish, listen, replay):
    publisher = publish(replay=replay)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    numbered(publisher, 2)
    assert listener.items(2, publisher) == [0, 1]
    publisher.close()
    numbered(publisher, 2, sent=False)
    publisher.open()
    publisher.wait_for_subscription()
    numbered(publisher, 1)
    missed = [2, 3] if replay else [(2, 2)]
    assert listener.items(len(missed) + 1, publisher) == [*missed, 4]
    counted = listener.metrics()
    assert counted["connections_total"] == 2
    assert "resets_total" not in counted


def test_garbage_is_counted_and_what_follows_is_read(publish, listen):
    publisher = publish(replay=False)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    number = (0).to_bytes(8, "big")
    for parts in [(b"",), (b"x", number), (b"x", number, b"y", b"z"), (b"x",) * 10]:
        publisher.send(*parts)
    for bad in [b"", b"1234567", b"123456789", END]:
        publisher.send(b"", bad, encode([1.0, []]))
    payloads = [b"", b"\xc1", b"\x00" * 100, encode("text"), encode([1.0]), encode({"ts": 1.0})]
    payloads += [encode(["late", []]), encode([1.0, [], "rank"]), encode([1.0, []])[:-1]]
    for payload in payloads:
        publisher.publish_bytes(payload)
    assert listener.items(len(payloads)) == [(number, 1) for number in range(len(payloads))]
    events = [
        ARRAYS.BlockMoved([1]),
        MAPS.BlockMoved([1]),
        ["BlockStored"],
        ["BlockStored", "ids", None, [1], 1],
        ["BlockStored", [1], None, ["token"], 1],
        ["BlockStored", [1], None, [1, 2, 3], 2],
        ["BlockStored", [1], None, [-1], 1],
        {"type": "BlockRemoved", "block_hashes": [None]},
        {"type": 7},
        [],
        None,
        ARRAYS.BlockRemoved([9]),
    ]
    publisher.publish(events)
    assert listener.line()["events"] == [{"removed": [9], "medium": None}]
    counted = listener.metrics()
    assert counted['refused_messages_total{reason="parts"}'] == 4
    assert counted['refused_messages_total{reason="sequence"}'] == 4
    assert counted['refused_messages_total{reason="payload"}'] == len(payloads)
    assert counted['skipped_events_total{reason="unknown_kind"}'] == 2
    assert counted['skipped_events_total{reason="malformed"}'] == 9
    assert counted["connections_total"] == 1


def test_only_topics_with_the_prefix_are_heard(publish, listen):
    publisher = publish(replay=False, topic=b"kv@engine")
    listener = listen(publisher, topic="kv@")
    assert publisher.wait_for_subscription() == b"\x01kv@"
    publisher.send(b"other", (0).to_bytes(8, "big"), b"garbage")
    numbered(publisher, 1)
    assert listener.items(1) == [0]


def test_a_batch_of_many_blocks(publish, listen):
    publisher = publish(replay=False)
    listener = listen(publisher)
    publisher.wait_for_subscription()
    tokens = list(range(131_072))
    blocks = [number.to_bytes(32, "big") for number in range(8_192)]
    publisher.publish([ARRAYS.BlockStored(blocks, None, tokens, 16)])
    [told] = listener.line()["events"]
    assert told["stored"] == list(range(8_192))
    assert told["token_ids"] == tokens


def test_what_is_no_publisher_is_left_until_it_is_one(publish, listen):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        class Address:
            has_replay = False

        Address.port = port
        listener = listen(Address)
        peer, _ = server.accept()
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        # It hangs up, and comes again.
        while peer.recv(100):
            pass
        peer.close()
        peer, _ = server.accept()
        peer.close()
    context = zmq.Context()
    push = context.socket(zmq.REP)
    push.bind(f"tcp://127.0.0.1:{port}")
    monitor = push.get_monitor_socket()
    assert monitor.poll(30_000)
    push.disable_monitor()
    context.destroy(linger=0)
    publisher = publish(replay=False, port=port)
    publisher.wait_for_subscription()
    numbered(publisher, 1)
    assert listener.items(1) == [0]
    counted = listener.metrics()
    assert counted['disconnections_total{reason="protocol"}'] >= 1
    assert counted["connections_total"] == 1
