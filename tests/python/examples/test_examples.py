"""The examples run as they stand, with what stands for the engines, behind our frontend."""

import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from conftest import ROOT
from proposal import WRITTEN

FAKES = Path(__file__).parent / "fakes"
TOKENIZER = ROOT / ".models/tokenizers/qwen3"
ENGINES = ["sglang", "trtllm", "vllm"]


def path(*folders):
    return os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])


def client_of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def listed(client, process, name):
    for _ in range(600):
        if name in [model.id for model in client.models.list().data]:
            return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError("the worker has ended")
    raise AssertionError("the model was not listed")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_s_example_answers_through_the_example_frontend(deployment, engine):
    worker = deployment.start(
        f"examples/{engine}/{engine}_engine.py",
        *["--model-path", str(TOKENIZER), "--model-name", "ours", "--tensor_parallel_size", "2"],
        PYTHONPATH=path(FAKES),
    )
    assert worker.line() == f"engine of {TOKENIZER} with tp 2"
    assert worker.line() == "serves dyn://dynamo.backend.generate"
    frontend = deployment.start("examples/common/frontend.py", "--http-port", "0")
    client = client_of(frontend.line())
    listed(client, worker.process, "ours")
    text = "one two three four five"
    answer = client.completions.create(model="ours", prompt=text, max_tokens=100)
    assert answer.choices[0].text == text
    assert answer.choices[0].finish_reason == "length"
    short = client.completions.create(model="ours", prompt=text, max_tokens=2)
    assert short.usage.completion_tokens == 2

    stream = client.completions.create(
        model="ours", prompt="word " * 3_000, max_tokens=3_000, stream=True
    )
    next(iter(stream))
    stream.close()
    assert worker.line().startswith("cancelled by")
    status, errors = worker.end()
    assert status == 0, errors


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_s_example_refuses_what_is_wrong(engine):
    done = subprocess.run(
        [sys.executable, f"examples/{engine}/{engine}_engine.py", "--tensor-paralel-size", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path(FAKES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: model_path has no value")
    assert "unknown flag --tensor-paralel-size; did you mean --tensor-parallel-size" in done.stderr


@pytest.mark.parametrize("engine", [*ENGINES, "mocker"])
@pytest.mark.parametrize("kind", ["agg", "agg_router", "disagg"])
def test_graphs_and_their_files_fit(engine, kind):
    module = "agg" if kind == "agg_router" else kind
    done = subprocess.run(
        [
            *[sys.executable, "-m", "dynamo.serve", f"examples.{engine}.{module}:GRAPH"],
            *["-f", f"configs/deployments/{engine}/{kind}.yaml", "--dry-run"],
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"-m dynamo.{engine} " in lines[0]
    assert "-m dynamo.frontend " in lines[-1]


#: What the proposal's example uses and does not define.
BEFORE = '''
import logging
import sys
from types import ModuleType, SimpleNamespace

import sglang as sgl
from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

utils = ModuleType("dynamo.sglang.utils")
utils.parse_sglang_args = lambda: ServerArgs(sys.argv[1], 1, True)
sys.modules["dynamo.sglang.utils"] = utils
sys.modules.setdefault("dynamo.sglang", ModuleType("dynamo.sglang"))


class DisaggPreprocessedRequest(SimpleNamespace):
    """A request of a disaggregated deployment."""


def as_objects(value):
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_objects(item) for key, item in value.items()})
    return value


class BaseDecodeClass:
    """Handlers get requests as objects."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name != "generate":
            return value

        def generate(request):
            parts = as_objects(request)
            return value(DisaggPreprocessedRequest(**{**vars(parts), "sampling_params": request["sampling_params"]}))

        return generate


def SGLangDecodeWorker(engine_args):
    return DecodeHandler(engine_args)
'''


def test_the_worker_of_the_proposal_runs_as_it_is_written(deployment):
    pytest.importorskip("uvloop")
    worker = deployment.script(
        BEFORE + WRITTEN, str(TOKENIZER), name="worker.py", PYTHONPATH=path(FAKES)
    )
    assert worker.line() == f"engine of {TOKENIZER} with tp 1"
    output = deployment.ask(
        """
import asyncio, json
from dynamo.runtime import dynamo_worker

@dynamo_worker()
async def main(runtime):
    client = await runtime.endpoint("dynamo.sgldecode.generate").client()
    await client.wait_for_instances(60)
    request = {
        "request": {"token_ids": [7, 8, 9]},
        "sampling_params": {"max_new_tokens": 10},
        "bootstrap_host": "here",
        "bootstrap_port": 5,
        "bootstrap_room": 6,
    }
    async for item in await client.generate(request, annotated=False):
        print(json.dumps(item["output_ids"]), item["meta_info"]["bootstrap"]["bootstrap_room"])

asyncio.run(main())
"""
    )
    assert output.splitlines() == ["[7] 6", "[7, 8] 6", "[7, 8, 9] 6"]
    status, errors = worker.end()
    assert status == 0, errors
