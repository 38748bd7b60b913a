"""A worker: an async generator, served at `dyn://hello_world.backend.generate`.

python3 examples/hello_world/worker.py
python3 examples/hello_world/client.py world     # in another terminal
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from dynamo.runtime import Context, DistributedRuntime, dynamo_worker

logger = logging.getLogger(__name__)


async def greet(request: str, context: Context) -> AsyncIterator[str]:
    """Yields a greeting for each name of a comma-separated list."""
    logger.info("request %s", context.id())
    for name in request.split(","):
        yield f"Hello {name.strip()}!"


@dynamo_worker()
async def worker(runtime: DistributedRuntime) -> None:
    """Serves until the process is asked to end."""
    component = runtime.namespace("hello_world").component("backend")
    endpoint = component.endpoint("generate")
    print(f"serves {endpoint.path}", flush=True)
    await endpoint.serve_endpoint(greet)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(worker())
