"""The worker of the proposal that asked for plain Python workers, run as it was written there.

Its engine is the stand-in of `fakes/sglang`. Names that it uses without saying where they come from
are brought by the lines before it.
"""

import json
import os

from conftest import ROOT
from proposal import WRITTEN

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
        BEFORE + WRITTEN,
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
