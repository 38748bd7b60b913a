"""Lines of processes, each with its process's name before it."""

import asyncio
import os
from typing import TextIO

#: Longest part of a line that is held back until the line ends.
MAX_LINE_BYTES = 64 * 1024

#: What is read at once.
_READ_BYTES = 64 * 1024


class Lines:
    """Whole lines out of pieces. Pure."""

    def __init__(self) -> None:
        self._held = b""

    def add(self, piece: bytes) -> list[bytes]:
        """The lines that a piece completes. One that is too long is given in parts."""
        *whole, self._held = (self._held + piece).split(b"\n")
        lines = [part for line in whole for part in _parts(line)]
        if len(self._held) >= MAX_LINE_BYTES:
            *full, self._held = _parts(self._held)
            lines += full
        return lines

    def rest(self) -> list[bytes]:
        """What was not ended by a line break."""
        held, self._held = self._held, b""
        return [held] if held else []


def _parts(line: bytes) -> list[bytes]:
    starts = range(0, max(len(line), 1), MAX_LINE_BYTES)
    return [line[at : at + MAX_LINE_BYTES] for at in starts]


async def copy(source: asyncio.StreamReader, target: TextIO, label: str) -> None:
    """Copies lines until their end."""
    lines = Lines()
    while piece := await source.read(_READ_BYTES):
        _write(target, label, lines.add(piece))
    _write(target, label, lines.rest())


def _write(target: TextIO, label: str, lines: list[bytes]) -> None:
    if not lines:
        return
    texts = (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
    say(target, "".join(f"{label}{text}\n" for text in texts))


def say(target: TextIO, text: str) -> None:
    """Writes a text. If whoever read has gone (`dynamo serve ... | head`), nobody is told any more,
    and the components go on."""
    try:
        target.write(text)
        target.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, target.fileno())
        os.close(nothing)


def label(name: str, width: int) -> str:
    """What stands before the lines of a process."""
    return f"{name:<{width}} | "
