#!/usr/bin/env bash
# Prints the environment of processes on several machines that find each other through the etcd and
# NATS of one of them, for a shell to read on each machine:
#
#   eval "$(scripts/utils/gen_env_vars.sh 10.0.0.5)"
#
# HEAD is the machine with etcd (port ETCD_PORT, 2379) and, with --nats, nats-server (NATS_PORT, 4222).
# The address that other machines reach this one by is the one it reaches HEAD from; HOST_IP names
# another one.
set -euo pipefail

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

head= nats=
for word in "$@"; do
    case $word in
        --nats) nats=yes ;;
        -*) usage ;;
        *) [ -z "$head" ] || usage; head=$word ;;
    esac
done
[ -n "$head" ] || usage

address=${HOST_IP:-}
if [ -z "$address" ]; then
    # Nothing is sent: a datagram socket only looks up the route.
    address=$(python3 - "$head" <<'PYTHON'
import socket, sys

try:
    family, kind, *_, place = socket.getaddrinfo(sys.argv[1], 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        print(probe.getsockname()[0])
except OSError as error:
    sys.exit(f"error: {sys.argv[1]} cannot be reached ({error}); name this machine's address by HOST_IP")
PYTHON
    )
fi

echo "export DYN_DISCOVERY_BACKEND=etcd"
echo "export ETCD_ENDPOINTS=http://$head:${ETCD_PORT:-2379}"
echo "export DYN_TCP_RPC_HOST=0.0.0.0"
echo "export DYN_ADVERTISE_HOST=$address"
if [ -n "$nats" ]; then
    echo "export NATS_SERVER=nats://$head:${NATS_PORT:-4222}"
    echo "export DYN_REQUEST_PLANE=nats"
    echo "export DYN_EVENT_PLANE=nats"
fi
