#!/usr/bin/env python3
"""Removes from etcd what processes of a namespace have left there.

    scripts/utils/clear_namespace.py --namespace dynamo            # shows it
    scripts/utils/clear_namespace.py --namespace dynamo --yes      # removes it

Normally there is nothing to remove: entries end with their processes' leases, within seconds. This
is for what is left after etcd was restored from a backup, or by other programs below the same
prefix. Processes that live announce themselves again. Needs nothing but Python: it speaks etcd's JSON
over HTTP. The `file` backend keeps nothing of processes that are gone.
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

#: What the keys of processes begin with; lib/runtime/src/discovery/etcd.rs says so too.
PREFIX = "/dynamo/v1/processes/"

#: Entries that are read at once.
PAGE = 500

#: How long an etcd may take to answer, in seconds.
PATIENCE_SECONDS = 10


class EtcdTrouble(Exception):
    """No member of the cluster has answered."""


def call(endpoints: Sequence[str], method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Asks the members in turn.

    Raises:
        EtcdTrouble: none of them answers.
    """
    troubles = []
    for endpoint in endpoints:
        url = f"{endpoint.rstrip('/')}/v3/kv/{method}"
        request = urllib.request.Request(url, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                read: dict[str, Any] = json.load(answer)
                return read
        except (OSError, ValueError) as error:
            troubles.append(f"{endpoint}: {error}")
    raise EtcdTrouble("no etcd answers; name it by ETCD_ENDPOINTS:\n" + "\n".join(troubles))


def encoded(text: str | bytes) -> str:
    """Bytes as etcd's JSON has them."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def after(prefix: bytes) -> bytes:
    """The end of the range of keys that begin with this."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def entries(endpoints: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Keys and values of all processes."""
    found: list[tuple[bytes, bytes]] = []
    start, end = PREFIX.encode(), after(PREFIX.encode())
    while True:
        body = {"key": encoded(start), "range_end": encoded(end), "limit": PAGE}
        page = call(endpoints, "range", body)
        pairs = page.get("kvs", [])
        found += [
            (base64.b64decode(it["key"]), base64.b64decode(it.get("value", ""))) for it in pairs
        ]
        if not page.get("more") or not pairs:
            return found
        start = found[-1][0] + b"\0"


def namespaces(value: bytes) -> set[str]:
    """The namespaces that a process's record is about; none for one that cannot be read."""
    try:
        record = json.loads(value)
    except ValueError:
        return set()
    if not isinstance(record, dict):
        return set()
    return {str(instance.get("namespace")) for instance in record.get("instances", [])}


def main() -> int:
    """Runs the program; its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--namespace", default=os.environ.get("DYN_NAMESPACE", "dynamo"))
    parser.add_argument(
        "--etcd-endpoints", default=os.environ.get("ETCD_ENDPOINTS", "http://127.0.0.1:2379")
    )
    parser.add_argument("--yes", action="store_true", help="remove it")
    arguments = parser.parse_args()
    endpoints = [it for it in arguments.etcd_endpoints.replace(",", " ").split() if it]
    try:
        found = [it for it in entries(endpoints) if arguments.namespace in namespaces(it[1])]
        for key, _ in found:
            if arguments.yes:
                call(endpoints, "deleterange", {"key": encoded(key)})
            print(("removed " if arguments.yes else "would remove ") + key.decode(errors="replace"))
    except EtcdTrouble as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not found:
        print(f"nothing of namespace {arguments.namespace} is there")
    elif not arguments.yes:
        print("--yes removes it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
