"""Starts a TensorRT-LLM worker: where it stands among the others is to be read here."""

import logging

from dynamo.engine import launch
from dynamo.engine.worker import describe, serve
from dynamo.runtime import DistributedRuntime, dynamo_worker
from dynamo.trtllm.args import Config, parse_trtllm_args
from dynamo.trtllm.engine import TrtllmEngine

logger = logging.getLogger(__name__)


async def worker(runtime: DistributedRuntime, config: Config) -> None:
    """Serves the model until the process is asked to end."""
    options = config.options
    component = runtime.namespace(options.namespace).component(options.component)
    endpoint = component.endpoint(options.endpoint)
    engine = TrtllmEngine(config.arguments, options.mode, options.kv_events)
    logger.info("%s", describe(options, config.words))
    await serve(component, endpoint, engine, options)


def main() -> None:
    """Runs a worker with this process's arguments, and ends the process."""
    launch.end(launch.run("trtllm", parse_trtllm_args, _start))


async def _start(config: Config) -> None:
    await dynamo_worker(arguments=config.options.runtime)(worker)(config)
