"""How long a frontend holds tokens: packets on the loopback device with the kernel's own timestamps,
from the worker's packet with a token to the client's. Needs CAP_NET_RAW."""

import bisect
import collections
import itertools
import os
import pathlib
import socket
import struct
import typing

# Room for what arrives while nobody reads: some 100,000 packets.
BUFFER_BYTES = 512 << 20
# Linux's numbers, which Python's socket module does not name.
SO_RCVBUFFORCE, SO_TIMESTAMPNS, SOL_PACKET, PACKET_STATISTICS = 33, 35, 263, 6
# Sockets of one protocol see a packet once, where it arrives.
ETHERTYPE_IP = 0x0800
HEADER_BYTES = 120
# A step's tokens leave a worker together; between two steps it is silent for longer than this.
SILENCE_SECONDS = 0.005


class Packet(typing.NamedTuple):
    at: float  # seconds
    source: int
    destination: int
    payload: int  # bytes


class Capture:
    """Keeps packets from its making until `packets` is called."""

    def __init__(self):
        self.socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE_IP)
        )
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.bind(("lo", ETHERTYPE_IP))

    def packets(self):
        """Every TCP packet that carries data."""
        found = []
        with self.socket:
            while True:
                try:
                    data, notes, _, _ = self.socket.recvmsg(HEADER_BYTES, 64)
                except BlockingIOError:
                    break
                packet = parse(data, notes)
                if packet is not None:
                    found.append(packet)
            lost = struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        if lost:
            raise RuntimeError(f"{lost} packets were lost")
        return found


def parse(data: bytes, notes):
    header = (data[0] & 15) * 4
    if data[9] != socket.IPPROTO_TCP or len(data) < header + 20:
        return None
    source, destination = struct.unpack_from("!HH", data, header)
    payload = struct.unpack_from("!H", data, 2)[0] - header - (data[header + 12] >> 4) * 4
    if payload <= 0:
        return None
    seconds, nanoseconds = struct.unpack("qq", notes[0][2])
    return Packet(seconds + nanoseconds / 1e9, source, destination, payload)


def ports_of(pid: int) -> set[int]:
    """The local TCP ports of a process."""
    inodes = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    lines = pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {int(it[1].split(":")[1], 16) for it in fields if it[9] in inodes}


def held_seconds(
    packets: list[Packet], http_port: int, worker_ports: set[int], steps: int
) -> list[float]:
    """For each packet to a client, the time since the worker sent its token. A worker's packet may
    hold many streams' tokens: within a step they are taken to leave in the order in which they came,
    and to be of one size. Connections with fewer packets than a quarter of the steps carry no tokens
    but events and load reports."""
    flows = collections.Counter(
        (it.source, it.destination)
        for it in packets
        if it.source in worker_ports and it.destination != http_port
    )
    carry_tokens = {flow for flow, count in flows.items() if count >= steps / 4}
    held, came, left = [], [], []
    for packet in packets:
        if (packet.source, packet.destination) in carry_tokens:
            if came and packet.at - came[-1].at > SILENCE_SECONDS:
                held += matched(came, left)
                came, left = [], []
            came.append(packet)
        elif packet.source == http_port and came:
            left.append(packet)
    return held + matched(came, left)


def matched(came: list[Packet], left: list[Packet]) -> list[float]:
    """The seconds between a step's packets from the worker and those to clients."""
    whole = sum(packet.payload for packet in came)
    ends = list(itertools.accumulate(packet.payload / whole for packet in came))
    held = []
    for number, packet in enumerate(left):
        token = bisect.bisect_left(ends, (number + 0.5) / len(left))
        held.append(max(0.0, packet.at - came[min(token, len(came) - 1)].at))
    return held
