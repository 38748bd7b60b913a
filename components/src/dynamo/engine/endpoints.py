"""Where sockets that engines open are found. Pure."""

#: Hosts that mean every interface of a machine.
_EVERYWHERE = ("*", "0.0.0.0", "[::]", "::")


def reachable(endpoint: str, rank: int = 0) -> str:
    """Where a subscriber on the same machine finds the socket that an engine opens for a
    data-parallel rank: each takes the next port."""
    scheme, _, place = endpoint.partition("://")
    if scheme != "tcp":
        return endpoint
    host, _, port = place.rpartition(":")
    host = "127.0.0.1" if host in _EVERYWHERE else host
    return f"tcp://{host}:{int(port) + rank}"
