"""Free ports for sockets that an engine opens on this machine."""

import contextlib
import socket

#: Times that a run of ports is looked for before giving up: ports are plenty, runs nearly as much.
_ATTEMPTS = 64

_LAST_PORT = 65_535


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on now, on any address.

    Raises:
        OSError: none was found.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as held:
            first = _bind(held, 0)
            if first + count - 1 > _LAST_PORT:
                continue
            try:
                for port in range(first + 1, first + count):
                    _bind(held, port)
            except OSError:
                continue
            return first
    raise OSError(f"no {count} free ports in a row were found; name them yourself")


def _bind(held: contextlib.ExitStack, port: int) -> int:
    listener = held.enter_context(socket.socket())
    listener.bind(("", port))
    return int(listener.getsockname()[1])
