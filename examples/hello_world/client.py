"""Calls the worker of `worker.py`: `python3 examples/hello_world/client.py [NAMES]`."""

import asyncio
import sys

from dynamo.runtime import DistributedRuntime, dynamo_worker

#: A worker that is starting needs less.
PATIENCE_SECONDS = 10.0


@dynamo_worker()
async def main(runtime: DistributedRuntime, names: str) -> None:
    """Prints what the worker yields."""
    endpoint = runtime.namespace("hello_world").component("backend").endpoint("generate")
    client = await endpoint.client()
    await client.wait_for_instances(PATIENCE_SECONDS)
    async for greeting in await client.generate(names):
        print(greeting.data())


if __name__ == "__main__":
    asyncio.run(main(",".join(sys.argv[1:]) or "world,sun,moon"))
