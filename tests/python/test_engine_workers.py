"""Workers of SGLang and TensorRT-LLM from start to end, behind our frontend.

The engines need a GPU. In their place stand modules that have exactly the surface that the workers
use (`fakes/`), with answers in the shapes that the engines' sources document. What a GPU shows
besides is shown by `make test-gpu`.
"""

import json
import os
import signal
import sys

import openai
import pytest
from conftest import PATIENCE, ROOT
from test_model import TOKENIZER, listed

FAKES = str(ROOT / "tests/python/fakes")

#: Flags by which each takes blocks of 16 tokens, so that prompts of a test have some.
SMALL_BLOCKS = {
    "sglang": ["--page-size", "16", "--context-length", "1000", "--max-running-requests", "4"],
    "trtllm": ["--kv-block-size", "16", "--max-seq-len", "1000", "--max-batch-size", "4"],
}


@pytest.fixture
def client(deployment):
    frontend = deployment.start("-m", "dynamo.frontend", "--http-port", "0")
    url = frontend.line()
    made = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
    made.frontend = frontend
    return made


@pytest.fixture
def start(deployment):
    log = deployment.folder / "engine.jsonl"

    def start(engine, *words, model=str(TOKENIZER)):
        path = os.pathsep.join([FAKES, str(ROOT / "components/src")])
        command = ["-m", f"dynamo.{engine}", "--model-path", model, "--model-name", "test-model"]
        worker = deployment.start(
            *command, *SMALL_BLOCKS[engine], *words, PYTHONPATH=path, FAKE_ENGINE_LOG=str(log)
        )

        def told(what=None):
            if not log.exists():
                return []
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            return [it for it in lines if what is None or it["what"] == what]

        worker.told = told
        return worker

    return start


def wait(client, condition, what):
    for _ in range(600):
        if value := condition():
            return value
        try:
            client.frontend.process.wait(0.05)
        except Exception:
            continue
    raise AssertionError(f"{what} did not come")


def complete(client, prompt="one two three four", **more):
    more.setdefault("max_tokens", 5)
    return client.completions.create(model="test-model", prompt=prompt, **more)


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_a_worker_serves_and_drains(start, client, engine):
    worker = start(engine)
    listed(client)
    answer = complete(client, "one two three four", max_tokens=4, logprobs=2, seed=5)
    assert answer.choices[0].text == "one two three four"
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].logprobs.token_logprobs) == 4
    assert len(answer.choices[0].logprobs.top_logprobs[0]) == 2
    (start_line,) = worker.told("start")
    assert start_line["args"]
    asked = worker.told("generate")[-1]
    params = asked.get("sampling_params") or asked["params"]
    assert params.get("max_new_tokens", params.get("max_tokens")) == 4
    # A stream that runs when the worker is asked to end is finished first.
    chunks = iter(complete(client, max_tokens=200, stream=True))
    text = next(chunks).choices[0].text
    worker.process.send_signal(signal.SIGTERM)
    text += "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text.startswith("one two three four")
    _, errors = worker.process.communicate(timeout=PATIENCE)
    assert worker.process.returncode == 0, errors
    assert "Traceback" not in errors
    assert worker.told("shutdown")


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_a_client_that_goes_away_aborts_the_engines_request(start, client, engine):
    worker = start(engine)
    listed(client)
    answer = complete(client, max_tokens=900, stream=True)
    next(iter(answer))
    answer.close()
    (aborted,) = wait(client, lambda: worker.told("abort"), "the abort")
    if engine == "sglang":
        assert aborted["rid"] == worker.told("generate")[-1]["rid"]


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_limits_of_the_card_are_the_engines(start, client, engine):
    start(engine)
    listed(client)
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, [5] * 2_000)
    assert "1000" in str(caught.value)


def test_what_sglang_refuses_is_the_clients_mistake(start, client):
    start("sglang")
    listed(client)
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, extra_body={"guided_grammar": 'start: "a"'})
    assert "EBNF" in str(caught.value)


def test_forms_of_answers_reach_the_engine(start, client):
    worker = start("sglang")
    listed(client)
    complete(client, extra_body={"guided_regex": "[a-z]+"})
    assert worker.told("generate")[-1]["sampling_params"]["regex"] == "[a-z]+"


def test_blocks_of_trtllm_reach_the_router(start, client, deployment):
    import urllib.request

    start("trtllm")
    listed(client)
    complete(client, list(range(1_000, 1_050)))
    address = str(client.base_url).removesuffix("/v1/")

    def blocks():
        with urllib.request.urlopen(f"{address}/v1/router/status", timeout=30) as answer:
            (router,) = json.loads(answer.read())["routers"]
        return router["index"]["blocks"]

    assert wait(client, blocks, "the prompt's blocks") == 3


@pytest.mark.parametrize(
    ("engine", "words", "model", "status", "says"),
    [
        ("sglang", [], "/broken", 1, "not enough memory; lower --mem-fraction-static"),
        ("sglang", ["--discovery-backend", "paper"], str(TOKENIZER), 2, "etcd"),
        (
            "trtllm",
            ["--kv-events", "--kv-cache-config.enable-block-reuse", "false"],
            str(TOKENIZER),
            1,
            "prefix cache",
        ),
        ("sglang", [], "/nowhere/model", 1, "/nowhere/model"),
    ],
)
def test_a_worker_that_cannot_start_says_why(start, engine, words, model, status, says):
    worker = start(engine, *words, model=model)
    _, errors = worker.process.communicate(timeout=PATIENCE)
    assert worker.process.returncode == status, errors
    assert says in errors.splitlines()[-1]


#: Asks the endpoint of its first argument with the JSON of the second, prints the answer.
ASK = """
import asyncio, json, sys
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    endpoint = runtime.namespace("dynamo").component("backend").endpoint(sys.argv[1])
    client = await endpoint.client()
    await client.wait_for_instances(30)
    async for item in await client.generate(json.loads(sys.argv[2]), annotated=False):
        print(json.dumps(item))

asyncio.run(main())
"""


def test_adapters_come_and_go(start, client, deployment, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    worker = start("sglang", "--enable-lora", "--max-loras-per-batch", "1")
    listed(client)

    def ask(endpoint, **request):
        return json.loads(deployment.ask(ASK, endpoint, json.dumps(request)))

    def models():
        return sorted(model.id for model in client.models.list().data)

    nowhere = ask("load_lora", lora_name="mine", source={"uri": "/nowhere"})
    assert nowhere["status"] == "error"
    assert "adapter_config.json" in nowhere["message"]
    source = {"uri": f"file://{adapter}"}
    loaded = ask("load_lora", lora_name="mine", source=source)
    assert loaded["status"] == "success", loaded
    assert worker.told("load_lora") == [{"what": "load_lora", "name": "mine", "path": str(adapter)}]
    wait(client, lambda: models() == ["mine", "test-model"], "the adapter's model")
    held = ask("list_loras")
    assert held == {"status": "success", "loras": {"mine": loaded["lora_id"]}, "count": 1}
    client.completions.create(model="mine", prompt="one two", max_tokens=2)
    assert worker.told("generate")[-1]["lora_path"] == "mine"
    complete(client, max_tokens=2)
    assert worker.told("generate")[-1]["lora_path"] is None
    full = ask("load_lora", lora_name="other", source=source)
    assert (full["status"], "takes no more" in full["message"]) == ("error", True)
    assert ask("unload_lora", lora_name="mine")["status"] == "success"
    assert worker.told("unload_lora") == [{"what": "unload_lora", "name": "mine"}]
    wait(client, lambda: models() == ["test-model"], "the adapter's end")
    assert ask("unload_lora", lora_name="mine")["status"] == "error"


# --- both halves of a disaggregated deployment, without the network between them


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.syspath_prepend(FAKES)
    yield
    for name in [it for it in sys.modules if it.split(".")[0] in ("sglang", "tensorrt_llm")]:
        del sys.modules[name]


async def outputs(engine, **request):
    from dynamo.engine.request import Request

    asked = Request.read({"token_ids": [5, 6, 7], **request}, "r")
    return [item async for item in engine.generate(asked)]


def test_sglang_hands_over_by_a_room(fakes):
    import asyncio

    from dynamo.engine.modes import Mode
    from dynamo.sglang import SglangEngine, parse_sglang_args

    def args(mode):
        return parse_sglang_args(
            ["--model-path", "M", "--disaggregation-mode", mode, "--tp-size", "2"]
        )

    async def both():
        prefill = SglangEngine(args("prefill"), Mode.PREFILL)
        limits = await prefill.start()
        assert limits.bootstrap == ("192.0.2.7", 8998)
        stop = {"max_tokens": 2}
        handed, ended = await outputs(prefill, stop_conditions=stop)
        place = handed["disaggregated_params"]
        assert place["bootstrap_host"] == "192.0.2.7"
        assert ended == {"token_ids": [], "finish_reason": "stop"}
        # The state is fetched after the answer; the worker's end waits for that.
        assert prefill._transfers
        await prefill.drained()
        assert not prefill._transfers
        decode = SglangEngine(args("decode"), Mode.DECODE)
        await decode.start()
        items = await outputs(decode, disaggregated_params=place, stop_conditions=stop)
        assert [item["token_ids"] for item in items] == [[5], [6]]
        with pytest.raises(RuntimeError, match="without a prefill worker"):
            await outputs(decode)
        # A place that the router has named: the answer lasts as long as the transfer.
        first, last = await outputs(prefill, bootstrap_info=place, stop_conditions=stop)
        assert first["disaggregated_params"] == place
        assert not prefill._transfers

    asyncio.run(both())


def test_trtllm_hands_over_its_state(fakes):
    import asyncio

    from dynamo.engine.modes import Mode
    from dynamo.trtllm import TrtllmEngine, parse_trtllm_args

    async def both():
        def engine(mode):
            config = parse_trtllm_args(["--model-path", "M", "--disaggregation-mode", mode])
            return TrtllmEngine(config.arguments, Mode.parse(mode))

        prefill = engine("prefill")
        await prefill.start()
        stop = {"max_tokens": 3}
        (item,) = await outputs(prefill, stop_conditions=stop)
        handed = json.loads(json.dumps(item["disaggregated_params"]))
        assert handed["ctx_request_id"] == 77
        decode = engine("decode")
        await decode.start()
        items = await outputs(decode, disaggregated_params=handed, stop_conditions=stop)
        assert [item["token_ids"] for item in items] == [[5], [6], [7]]
        with pytest.raises(RuntimeError, match="without a prefill worker"):
            await outputs(decode)

    asyncio.run(both())
