"""The publishing side of an engine: PUB, ROUTER for replay, numbers, a bounded buffer."""

from collections import deque

import zmq

from structs import ARRAYS, encode

END = (-1).to_bytes(8, "big", signed=True)


class Publisher:
    """One life of a publisher. It is served from the test's own thread, so that a test decides
    what happens first: see `Listener.read`."""

    def __init__(self, *, port=0, replay_port=0, replay=True, kept=10_000, topic=b"", kind=zmq.XPUB):
        self.topic = topic
        self.number = 0
        self.kept = deque(maxlen=kept)
        self.kind = kind
        self.context = self.pub = self.router = None
        self.port, self.replay_port, self.has_replay = port, replay_port, replay
        self.requests = []
        self.open()

    def open(self):
        """Binds the sockets, at the same ports each time."""
        self.context = zmq.Context()
        # XPUB is PUB that tells of subscriptions.
        self.pub = self.context.socket(self.kind)
        self.port = bind(self.pub, self.port)
        if self.has_replay:
            self.router = self.context.socket(zmq.ROUTER)
            self.replay_port = bind(self.router, self.replay_port)

    def close(self):
        # Returns when the ports are free again.
        self.context.destroy(linger=0)

    def publish(self, events, *, encoding=ARRAYS, rank=None, sent=True):
        """Publishes a batch; one that is not `sent` is as good as dropped on its way."""
        payload = encode(encoding.Batch(ts=1.5, events=events, data_parallel_rank=rank))
        self.publish_bytes(payload, sent=sent)

    def publish_bytes(self, payload, *, sent=True):
        number, self.number = self.number, self.number + 1
        if sent:
            self.send(self.topic, number.to_bytes(8, "big"), payload)
        self.kept.append((number, payload))

    def send(self, *parts):
        self.pub.send_multipart(parts)

    def serve(self):
        """Answers one request for replay."""
        client, empty, start = self.router.recv_multipart()
        assert empty == b""
        start = int.from_bytes(start, "big")
        self.requests.append(start)
        for number, payload in self.kept:
            if number >= start:
                self.router.send_multipart((client, b"", number.to_bytes(8, "big"), payload))
        self.router.send_multipart((client, b"", END, b""))

    def wait_for_subscription(self):
        assert self.pub.poll(TIMEOUT), "nobody subscribed"
        return self.pub.recv()


TIMEOUT = 30_000


def bind(socket, port):
    if port:
        socket.bind(f"tcp://127.0.0.1:{port}")
        return port
    return socket.bind_to_random_port("tcp://127.0.0.1")
