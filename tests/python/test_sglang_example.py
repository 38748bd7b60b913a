"""The worker of the proposal that asked for plain Python workers, run as it was written there.

Its engine is the stand-in of `fakes/sglang`. Names that it uses without saying where they come from
are brought by the lines before it.
"""

import json
import os

from conftest import ROOT

FAKES = str(ROOT / "tests/python/fakes")

#: `SGLangDecodeWorker` is what its `worker` calls the class that it names `DecodeHandler` above.
BEFORE = """
import builtins, logging
import sglang as sgl
from sglang.srt.server_args import ServerArgs
from dynamo.sglang import BaseDecodeClass, DisaggPreprocessedRequest

logger = logging.getLogger("worker")
builtins.SGLangDecodeWorker = lambda engine_args: DecodeHandler(engine_args)
"""

#: Until the package of deployments is there, what the worker needs of it.
DEPLOY = """
try:
    import dynamo.deploy
except ImportError:
    import sys, types
    module = types.ModuleType("dynamo.deploy")
    module.BaseDeployment = type("BaseDeployment", (), {})
    sys.modules["dynamo.deploy"] = module
"""

WRITTEN = '''
from dynamo.deploy import BaseDeployment # adding this class turns this into a valid deployment
from dynamo.sglang.utils import parse_sglang_args

class Deployment(BaseDeployment):
    namespace = "dynamo"
    name = "sgldecode"
    resources = {"gpu": 1}

class DecodeHandler(BaseDecodeClass):
    def __init__(self, engine_args: ServerArgs):
        self.engine_args = engine_args
        self.engine = sgl.Engine(server_args=self.engine_args)
        logger.info("Decode worker initialized")

    async def generate(self, req: DisaggPreprocessedRequest):
        g = await self.engine.async_generate(
            input_ids=req.request.token_ids,
            sampling_params=req.sampling_params,
            stream=True,
            bootstrap_host=req.bootstrap_host,
            bootstrap_port=req.bootstrap_port,
            bootstrap_room=req.bootstrap_room,
        )

        async for result in g:
            yield result

if __name__ == "__main__":
    import asyncio
    import uvloop
    from dynamo.runtime import DistributedRuntime, dynamo_worker

    engine_args = parse_sglang_args()

    @dynamo_worker()
    async def worker(runtime: DistributedRuntime, engine_args):
        worker = SGLangDecodeWorker(engine_args)
        deploy = Deployment()

        component = runtime.namespace(deploy.namespace).component(deploy.name)
        await component.create_service()

        # serve endpoint
        endpoint = component.endpoint("generate")
        await endpoint.serve_endpoint(worker.generate)

    uvloop.install()
    asyncio.run(worker(engine_args))
'''

CLIENT = """
import asyncio, json
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    client = await runtime.namespace("dynamo").component("sgldecode").endpoint("generate").client()
    await client.wait_for_instances(30)
    request = {
        "request": {"token_ids": [4, 5, 6]},
        "sampling_params": {"max_new_tokens": 3},
        "bootstrap_host": "h",
        "bootstrap_port": 1,
        "bootstrap_room": 2,
    }
    async for item in await client.generate(request, annotated=False):
        print(json.dumps(item["output_ids"]))

asyncio.run(main())
"""


def test_the_worker_of_the_proposal_runs_as_written(deployment):
    path = os.pathsep.join([FAKES, str(ROOT / "components/src")])
    log = deployment.folder / "engine.jsonl"
    worker = deployment.script(
        DEPLOY + BEFORE + WRITTEN,
        *("--model-path", "M", "--tp-size", "2"),
        PYTHONPATH=path,
        FAKE_ENGINE_LOG=str(log),
    )
    output = deployment.ask(CLIENT)
    assert [json.loads(line) for line in output.splitlines()] == [[4], [5], [6]]
    started, asked = (json.loads(line) for line in log.read_text().splitlines())
    assert started["args"]["tp_size"] == 2
    assert (asked["bootstrap_host"], asked["bootstrap_room"]) == ("h", 2)
    worker.kill()
