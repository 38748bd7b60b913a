"""Prefill and decode in workers of their own: what each is told, and what happens without the other.

Handlers of the tests' own show what goes from one to the other; SGLang's and TensorRT-LLM's workers
run on modules that have the engines' surface (`fakes/`).
"""

import json
import os
import signal

import openai
import pytest
from conftest import PATIENCE, ROOT
from test_model import TOKENIZER, listed

FAKES = str(ROOT / "tests/python/fakes")

#: Registers what its second argument says and writes every request to the file of its third.
WORKER = """
import asyncio, json, sys
from dynamo.llm import *
from dynamo.runtime import *

role, log = sys.argv[2], sys.argv[3]

def told(request):
    keys = ["token_ids", "generated_tokens", "stop_conditions", "prefill_result", "bootstrap_info"]
    line = {{"role": role, **{{key: request.get(key) for key in keys}}}}
    with open(log, "a") as file:
        file.write(json.dumps(line) + "\\n")

{handlers}

@dynamo_worker()
async def worker(runtime):
    config = ModelRuntimeConfig()
    if role == "meeting":
        config.set_disaggregated_endpoint("10.0.0.7", 8998)
    prefills = role != "decode" and role != "alone"
    endpoint = runtime.endpoint("test.prefill.generate" if prefills else "test.backend.generate")
    await register_model(
        ModelInput.Tokens,
        ModelType.Prefill if prefills else ModelType.Chat | ModelType.Completions,
        endpoint, sys.argv[1], "test-model",
        runtime_config=config, kv_cache_block_size=16,
        worker_type=WorkerType.Prefill if prefills else WorkerType.Decode,
        needs=[["prefill"]] if role == "decode" else None,
    )
    await endpoint.serve_endpoint(prefill if prefills else decode)

asyncio.run(worker())
"""

HANDLERS = """
async def prefill(request):
    told(request)
    usage = {"prompt_tokens_details": {"cached_tokens": 3}}
    if role == "meeting":
        await asyncio.sleep(0)
        yield {"token_ids": [5], "finish_reason": "length", "completion_usage": usage}
        return
    place = {"blocks": [1, 2], "of": len(request["token_ids"])}
    yield {
        "token_ids": [5], "finish_reason": "length", "completion_usage": usage,
        "disaggregated_params": place,
    }

async def decode(request):
    told(request)
    # As an engine does: there is nothing to answer until the prompt's state has come.
    while request.get("bootstrap_info") and '"meeting"' not in open(log).read():
        await asyncio.sleep(0.01)
    tokens = request["token_ids"][: request["stop_conditions"]["max_tokens"]]
    for token in tokens[:-1]:
        yield {"token_ids": [token]}
        await asyncio.sleep(0)
    yield {"token_ids": tokens[-1:], "finish_reason": "length"}
"""


@pytest.fixture
def log(deployment):
    path = deployment.folder / "requests.jsonl"

    def read(role=None):
        if not path.exists():
            return []
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if role in (None, line["role"])]

    read.path = path
    return read


@pytest.fixture
def serve(deployment, log):
    def start(role, handlers=HANDLERS, name=None):
        text = WORKER.format(handlers=handlers)
        name = f"{name or role}.py"
        return deployment.script(text, str(TOKENIZER), role, str(log.path), name=name)

    return start


@pytest.fixture
def client(deployment):
    frontend = deployment.start("-m", "dynamo.frontend", "--http-port", "0", "--queue-timeout", "1s")
    url = frontend.line()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
    client.frontend = frontend
    return client


def complete(client, prompt="one two three four", **more):
    more.setdefault("max_tokens", 3)
    return client.completions.create(model="test-model", prompt=prompt, **more)


def answered(client, **more):
    """The answer, when prefill and decode worker have found each other."""
    listed(client)
    for _ in range(100):
        try:
            return complete(client, **more)
        except openai.APIStatusError as error:
            assert error.status_code == 503, error
    raise AssertionError("there was no prefill worker")


def test_a_decode_worker_gets_what_the_prefill_worker_gave(serve, client, log):
    serve("decode")
    serve("prefill")
    extra = {"nvext": {"extra_fields": ["worker_id"]}}
    answer = answered(client, max_tokens=3, extra_body=extra)
    assert answer.choices[0].text == "one two three"
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    asked, going_on = log("prefill")[-1], log("decode")[-1]
    assert asked["stop_conditions"]["max_tokens"] == 1
    assert going_on["stop_conditions"]["max_tokens"] == 3
    assert asked["token_ids"] == going_on["token_ids"]
    place = {"blocks": [1, 2], "of": len(asked["token_ids"])}
    assert going_on["prefill_result"] == {"disaggregated_params": place}
    assert asked["prefill_result"] is None and going_on["bootstrap_info"] is None


def test_workers_that_meet_are_told_the_same_room(serve, client, log):
    serve("decode")
    serve("meeting")
    assert answered(client).choices[0].text == "one two three"
    (asked,), (going_on,) = log("meeting"), log("decode")
    assert asked["bootstrap_info"] == going_on["bootstrap_info"]
    room = asked["bootstrap_info"].pop("bootstrap_room")
    assert 0 <= room < 2**63
    assert asked["bootstrap_info"] == {"bootstrap_host": "10.0.0.7", "bootstrap_port": 8998}


def test_decode_workers_that_need_no_prefill_worker_answer_alone(serve, client, log):
    serve("alone")
    listed(client)
    assert complete(client).choices[0].text == "one two three"
    prefill = serve("prefill")
    for _ in range(100):
        complete(client)
        if log("prefill"):
            break
    assert log("alone")[-1]["prefill_result"] is not None
    # Without its notice of leaving: requests go on.
    prefill.process.send_signal(signal.SIGKILL)
    prefill.process.wait(PATIENCE)
    assert complete(client).choices[0].text == "one two three"


def test_a_decode_worker_without_a_prefill_worker_says_what_is_missing(serve, client):
    serve("decode")
    listed(client)
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client)
    assert caught.value.status_code == 503
    assert "--disaggregation-mode prefill" in str(caught.value)


SILENT = """
async def prefill(request):
    yield {"token_ids": [5], "finish_reason": "length"}

async def decode(request):
    yield {"token_ids": [5], "finish_reason": "length"}
"""


def test_a_prefill_worker_that_says_nothing_of_the_state_is_an_error_of_the_service(serve, client):
    serve("decode", SILENT)
    serve("prefill", SILENT)
    listed(client)
    for _ in range(100):
        with pytest.raises(openai.APIStatusError) as caught:
            complete(client)
        if caught.value.status_code != 503:
            break
    assert caught.value.status_code == 500
    assert "KV connector" in str(caught.value)


@pytest.fixture
def engine(deployment):
    path = os.pathsep.join([FAKES, str(ROOT / "components/src")])

    def start(name, mode, *words):
        log = deployment.folder / f"{name}-{mode}.jsonl"
        command = ["-m", f"dynamo.{name}", "--model-path", str(TOKENIZER)]
        command += ["--model-name", "test-model", "--disaggregation-mode", mode, *words]
        worker = deployment.start(*command, PYTHONPATH=path, FAKE_ENGINE_LOG=str(log))

        def told():
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            return [it for it in lines if it["what"] == "generate"]

        worker.told = told
        return worker

    return start


def test_sglangs_workers_meet(engine, client):
    words = ["--page-size", "16", "--context-length", "1000"]
    prefill = engine("sglang", "prefill", *words, "--disaggregation-bootstrap-port", "8123")
    decode = engine("sglang", "decode", *words)
    assert answered(client, max_tokens=4).choices[0].text == "one two three four"
    asked, going_on = prefill.told()[-1], decode.told()[-1]
    assert asked["bootstrap_room"] == going_on["bootstrap_room"] is not None
    assert asked["bootstrap_port"] == going_on["bootstrap_port"] == 8123
    assert asked["bootstrap_host"] == going_on["bootstrap_host"]
    assert asked["sampling_params"]["max_new_tokens"] == 1


def test_trtllms_decode_worker_gets_the_state_of_the_prefill_worker(engine, client):
    words = ["--kv-block-size", "16", "--max-seq-len", "1000"]
    prefill = engine("trtllm", "prefill", *words)
    decode = engine("trtllm", "decode", *words)
    assert answered(client, max_tokens=4).choices[0].text == "one two three four"
    asked, going_on = prefill.told()[-1], decode.told()[-1]
    assert asked["disaggregated"]["request_type"] == "context_only"
    handed = going_on["disaggregated"]
    assert handed["request_type"] == "generation_only"
    assert (handed["ctx_request_id"], handed["opaque_state"]) == (77, str(b"\x00\xffstate"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("ModelType.Prefill, worker_type=WorkerType.Decode", "is a prefill worker's"),
        ("ModelType.Chat, worker_type=WorkerType.Encode", "encode workers are not served"),
        ("ModelType.Chat, needs=[['prefil']]", "'prefil', which is no worker type"),
        ("ModelType.Chat, needs=['prefill']", "a list of groups"),
    ],
)
def test_what_makes_no_sense_is_refused(deployment, arguments, says):
    kind, _, rest = arguments.partition(", ")
    output = deployment.ask(
        f"""
        import asyncio
        from dynamo.llm import *
        from dynamo.runtime import *

        @dynamo_worker()
        async def main(runtime):
            endpoint = runtime.endpoint("test.backend.generate")
            try:
                await register_model(ModelInput.Tokens, {kind}, endpoint, "/model", {rest})
            except (TypeError, ValueError) as error:
                print(type(error).__name__, error)

        asyncio.run(main())
        """
    )
    assert says in output.replace('"', "'"), output
