"""A load client that takes little CPU time of a machine that it shares with what it measures: HTTP/1.1
over a bare socket, streamed chat completions, events counted after the stream has ended."""

import asyncio
import dataclasses
import itertools
import json
import random
import re
import socket
import time

# A request that takes longer than this hangs, however slow the machine is.
REQUEST_SECONDS = 90
END_OF_CHUNKS = b"0\r\n\r\n"


class Text:
    """Prose without end, of real words: those of Python's own manual, some 3,000 different ones, so
    that a tokenizer which remembers words has as much to do as with real prompts."""

    def __init__(self, seed: int):
        import pydoc_data.topics

        manual = " ".join(pydoc_data.topics.topics.values())
        self.words = sorted({it.lower() for it in re.findall(r"[A-Za-z]{3,}", manual)})
        self.random = random.Random(seed)

    def take(self, count: int) -> str:
        words = self.random.choices(self.words, k=count)
        for at in range(11, count, 12):
            words[at] += self.random.choice(",.;")
        return " ".join(words)


@dataclasses.dataclass
class Answer:
    """What came back for one request."""

    events: int  # with text, each one `data:` line of its own
    tokens: int  # as the system counts them
    prompt_tokens: int
    cached_tokens: int
    stamps: list[float]  # when something arrived, if that was asked for


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, stamped: bool, at_once: bool):
        self.stamped, self.at_once = stamped, at_once
        self.ended = None
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def acknowledge(self):
        """Linux forgets this choice, so it is made again with each arrival."""
        opened = self.transport.get_extra_info("socket")
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def connection_lost(self, error):
        if self.ended is not None and not self.ended.done():
            self.ended.set_exception(error or EOFError("the connection was closed"))

    def begin(self, request: bytes):
        self.parts, self.stamps, self.tail = [], [], b""
        self.ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.ended

    def data_received(self, data: bytes):
        if self.at_once:
            self.acknowledge()
        if self.stamped:
            self.stamps.append(time.monotonic())
        self.parts.append(data)
        self.tail = (self.tail + data[-5:])[-5:]
        if not self.ended.done() and (self.tail == END_OF_CHUNKS or self.has_failed()):
            self.ended.set_result(None)

    def has_failed(self) -> bool:
        """An answer that is not streamed, which is an error's: all of it is here."""
        if self.parts[0].startswith(b"HTTP/1.1 200"):
            return False
        head, _, body = b"".join(self.parts).partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        return length is not None and len(body) >= int(length[1])


class Client:
    def __init__(self, port: int, model: str, *, stamped: bool = False, at_once: bool = False):
        self.port, self.model = port, model
        self.stamped, self.at_once = stamped, at_once
        self.connection = None

    async def ask(self, content: str | list, tokens: int) -> Answer:
        """`content` is the user's text, or a list of messages."""
        return await asyncio.wait_for(self._ask(content, tokens), REQUEST_SECONDS)

    async def _ask(self, content, tokens: int) -> Answer:
        if self.connection is None or self.connection.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, self.connection = await loop.create_connection(
                lambda: Connection(self.stamped, self.at_once), "127.0.0.1", self.port
            )
        await self.connection.begin(self.request(content, tokens))
        return read_answer(b"".join(self.connection.parts), self.connection.stamps)

    def request(self, content, tokens: int) -> bytes:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "max_tokens": tokens}
        body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        encoded = json.dumps(body).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(encoded)
        ) + encoded

    def close(self):
        if self.connection is not None:
            self.connection.transport.close()


def read_answer(data: bytes, stamps) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(data[:300].decode(errors="replace"))
    stream = without_chunk_sizes(body)
    if b"data: [DONE]" not in stream or b'"error"' in stream:
        raise RuntimeError(stream[-300:].decode(errors="replace"))
    usage = last_usage(stream)
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        events=len(re.findall(rb'^data: .*"content":"[^"]', stream, re.MULTILINE)),
        tokens=usage["completion_tokens"],
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
        stamps=list(stamps),
    )


def without_chunk_sizes(body: bytes) -> bytes:
    parts, at = [], 0
    while True:
        line = body.index(b"\r\n", at)
        size = int(body[at:line], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2


def last_usage(stream: bytes) -> dict:
    for line in reversed(stream.splitlines()):
        if line.startswith(b"data: {"):
            usage = json.loads(line[6:]).get("usage")
            if usage:
                return usage
    raise RuntimeError("no event tells the usage")


async def closed_loop(port: int, model: str, requests: list, clients: int) -> list[Answer]:
    """Sends every request, a pair of content and output tokens; `clients` of them at a time."""
    waiting = iter(requests)
    answers = []

    async def run():
        client = Client(port, model)
        for content, tokens in waiting:
            answers.append(await client.ask(content, tokens))
        client.close()

    await asyncio.gather(*(run() for _ in range(clients)))
    return answers


async def one_by_one(port: int, model: str, requests: list, *, at_once: bool) -> list[float]:
    """Seconds of each request, sent one after the other over one connection. A client may delay its
    acknowledgements, as sockets do by themselves, or acknowledge at once: a server that waits for
    them before it sends a small packet is slower with the first."""
    client = Client(port, model, at_once=at_once)
    seconds = []
    for content, tokens in requests:
        began = time.monotonic()
        await client.ask(content, tokens)
        seconds.append(time.monotonic() - began)
    client.close()
    return seconds


async def side_by_side(port: int, model: str, requests: list) -> list[Answer]:
    """Sends all requests at once, each over a connection of its own, and notes when what arrives."""
    clients = [Client(port, model, stamped=True) for _ in requests]
    answers = await asyncio.gather(
        *(client.ask(content, tokens) for client, (content, tokens) in zip(clients, requests))
    )
    for client in clients:
        client.close()
    return answers


def gaps(answers: list[Answer]) -> list[float]:
    """Seconds between arrivals, without those of the first events and of the end."""
    inner = (answer.stamps[2:-2] for answer in answers)
    return [b - a for stamps in inner for a, b in itertools.pairwise(stamps)]
