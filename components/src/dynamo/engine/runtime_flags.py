"""Flags of the runtime, which every worker takes and passes on to `DistributedRuntime`.

They are declared in the extension (`docs/reference/worker.md`), which checks them; here is only
which words of a command line are theirs. A test compares the two.
"""

import itertools

#: Flags with a value.
VALUES = frozenset(
    """
    load-report-interval canary-wait health-check-request-timeout engine-stall-timeout
    hf-home hf-hub-cache hf-endpoint hf-token
    discovery-backend store-kv file-kv
    etcd-endpoints etcd-lease-ttl etcd-username etcd-password etcd-ca etcd-client-cert
    etcd-client-key
    request-plane event-plane tcp-host request-plane-version tcp-port advertise-host
    tcp-advertise-host drain-timeout inhibited-duration system-host system-port
    log-level log-format otel-endpoint otel-sample-ratio otel-service-name
    tcp-tls-cert-path tcp-tls-key-path tcp-tls-ca-cert-path tcp-tls-client-ca-cert-path
    tcp-tls-client-cert-path tcp-tls-client-key-path tcp-tls-server-name
    nats-server nats-auth-username nats-auth-password nats-auth-token nats-auth-nkey
    nats-auth-credentials-file nats-tls-ca
    """.split()
)

#: Flags that are on or, with `--no-`, off.
SWITCHES = frozenset(["health-check-enabled", "hf-hub-offline", "otel-export", "nats-jetstream"])

#: Those that a worker takes by itself as well.
SHARED = frozenset(["namespace"])


def take(words: list[str]) -> tuple[list[str], list[str]]:
    """Parts the runtime's words from the others, both in their order.

    A flag at the end that lacks its value is left to the extension, which says so.
    """
    theirs: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            others.append(word)
            continue
        name, has_value, _ = word[2:].partition("=")
        if name in VALUES:
            theirs.append(word)
            if not has_value:
                theirs.extend(itertools.islice(rest, 1))
        elif name.removeprefix("no-") in SWITCHES:
            theirs.append(word)
        else:
            others.append(word)
    return theirs, others
