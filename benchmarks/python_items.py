"""CPU time of an item that a Python handler yields, in the worker and in the client.

    python3 benchmarks/python_items.py [--peer PYTHON] [--streams 16] [--items 4000] [--rounds 3]

Runs itself as worker and as client: with this interpreter, and with `--peer`, one that has the
published wheel (`scripts/peers_install.sh`). The handler yields a small dictionary per item and
lets the event loop run now and then, as an engine does. Rounds alternate; the least of each counts.
One line of JSON.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile

#: Items that a step of the simulated engine brings for one stream.
STEP = 8

#: The longest that one side of a run may take, in seconds.
PATIENCE = 300


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def handle(request):
    if "cpu" in request:
        yield {"cpu": cpu_seconds()}
        return
    for number in range(request["items"]):
        yield {"token_ids": [number], "index": 0}
        if number % STEP == 0:
            await asyncio.sleep(0)


def own_runtime(loop):
    from dynamo.runtime import DistributedRuntime

    try:
        return DistributedRuntime(loop, "file", "tcp")
    except TypeError:
        return DistributedRuntime(loop, "file", "tcp", None)


async def worker() -> None:
    runtime = own_runtime(asyncio.get_running_loop())
    endpoint = runtime.endpoint("bench.items.generate")
    print("serves", flush=True)
    await endpoint.serve_endpoint(handle)


async def client(streams: int, items: int) -> None:
    runtime = own_runtime(asyncio.get_running_loop())
    caller = await runtime.endpoint("bench.items.generate").client()
    await caller.wait_for_instances()

    async def ask(request):
        last = None
        async for item in await caller.round_robin(request, annotated=False):
            last = item
        return last

    await ask({"items": items})  # Warm.
    worker_before = (await ask({"cpu": 1}))["cpu"]
    before = cpu_seconds()
    answers = await asyncio.gather(*(ask({"items": items}) for _ in range(streams)))
    own = cpu_seconds() - before
    worker_after = (await ask({"cpu": 1}))["cpu"]
    assert all(answer["token_ids"] == [items - 1] for answer in answers)
    count = streams * items
    print(json.dumps({"client": own / count, "worker": (worker_after - worker_before) / count}))
    sys.stdout.flush()
    os._exit(0)


def measure(python: str, streams: int, items: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": folder}
        env.update(DYN_REQUEST_PLANE="tcp", DYN_EVENT_PLANE="zmq", DYN_LOG="error")
        if python != sys.executable:
            env.pop("PYTHONPATH", None)
        command = [python, __file__]
        serving = subprocess.Popen(
            [*command, "--role", "worker"], env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline().strip() == "serves"
            asking = [*command, "--role", "client", "--streams", str(streams), "--items", str(items)]
            done = subprocess.run(
                asking, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            if done.returncode != 0:
                raise SystemExit(f"{python}: the client failed:\n{done.stderr}")
            return json.loads(done.stdout.splitlines()[-1])
        finally:
            serving.kill()
            serving.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="interpreter that has the published wheel")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--items", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", choices=["worker", "client"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "worker":
        asyncio.run(worker())
    elif options.role == "client":
        asyncio.run(client(options.streams, options.items))
    else:
        pythons = {"ours": sys.executable}
        if options.peer:
            pythons["published"] = options.peer
        least: dict = {}
        for _ in range(options.rounds):
            for name, python in pythons.items():
                for side, seconds in measure(python, options.streams, options.items).items():
                    key = f"{name}_{side}_us_per_item"
                    least[key] = min(least.get(key, float("inf")), round(seconds * 1e6, 2))
        if options.peer:
            for side in ("worker", "client"):
                ours, published = (least[f"{name}_{side}_us_per_item"] for name in pythons)
                least[f"{side}_ratio"] = round(ours / published, 3)
        print(json.dumps(least))


if __name__ == "__main__":
    main()
