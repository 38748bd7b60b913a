"""A model served by a Python handler, behind our frontend, asked by the official client."""

import json
import select
import signal

import openai
import pytest
from conftest import ROOT

TOKENIZER = ROOT / ".models/tokenizers/qwen3"

#: Gives the prompt's tokens back, one by one.
WORKER = """
import asyncio, sys
from dynamo.llm import *
from dynamo.runtime import *

{handler}

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("test.backend.generate")
    config = ModelRuntimeConfig()
    config.max_num_seqs = 8
    config.total_kv_blocks = 100
    register = lambda: register_model(
        ModelInput.Tokens, ModelType.Chat | ModelType.Completions, endpoint, sys.argv[1], "test-model",
        runtime_config=config, kv_cache_block_size=16,
    )
    serve = lambda: endpoint.serve_endpoint(
        handle, health_check_payload={{"token_ids": [1], "stop_conditions": {{"max_tokens": 1}}}}
    )
    {order}

asyncio.run(worker())
"""

REGISTER_FIRST = "await register(); await serve()"
SERVE_FIRST = "await asyncio.gather(serve(), register())"

ECHO = """
async def handle(request):
    tokens = request["token_ids"][: request["stop_conditions"]["max_tokens"]]
    for token in tokens[:-1]:
        yield {"token_ids": [token]}
        await asyncio.sleep(0)
    yield {"token_ids": tokens[-1:], "finish_reason": "length"}
"""


@pytest.fixture
def serve(deployment):
    def start(handler=ECHO, order=REGISTER_FIRST, name="worker.py"):
        text = WORKER.format(handler=handler, order=order)
        # Handlers print what they are asked: a canary, on a slow machine, would be more than expected.
        return deployment.script(text, str(TOKENIZER), name=name, DYN_CANARY_WAIT_TIME="1h")

    return start


@pytest.fixture
def client(deployment):
    frontend = deployment.start(
        "-m", "dynamo.frontend", "--http-port", "0", "--model-linger", "0s"
    )
    url = frontend.line()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    client.frontend = frontend
    return client


def listed(client):
    """Waits until the model is listed."""
    for _ in range(600):
        if [model.id for model in client.models.list().data] == ["test-model"]:
            return
        try:
            client.frontend.process.wait(0.05)
        except Exception:
            continue
    raise AssertionError("the model was not listed")


@pytest.mark.parametrize("order", [REGISTER_FIRST, SERVE_FIRST])
def test_a_model_is_listed_and_answers(serve, client, order):
    serve(order=order)
    listed(client)
    text = "one two three four"
    answer = client.completions.create(model="test-model", prompt=text, max_tokens=100)
    assert answer.choices[0].text == text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == answer.usage.prompt_tokens > 3
    chunks = client.chat.completions.create(
        model="test-model",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=1_000,
        stream=True,
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "hello" in streamed


def test_a_handler_gets_what_the_client_asked_for(serve, client):
    worker = serve(
        """
import json

async def handle(request, context):
    assert request["request_id"] == context.id()
    print(json.dumps(request), flush=True)
    yield {"token_ids": [1], "finish_reason": "stop"}
"""
    )
    listed(client)
    client.completions.create(
        model="test-model",
        prompt="x",
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=11,
        presence_penalty=0.25,
        logprobs=2,
        extra_body={"min_tokens": 2, "ignore_eos": True, "top_k": 5},
    )
    request = json.loads(worker.line())
    assert request["model"] == "test-model"
    assert request["stop_conditions"]["max_tokens"] == 7
    assert request["stop_conditions"]["min_tokens"] == 2
    assert request["stop_conditions"]["ignore_eos"] is True
    sampling = request["sampling_options"]
    assert sampling["temperature"] == pytest.approx(0.5)
    assert sampling["top_p"] == pytest.approx(0.9)
    assert sampling["top_k"] == 5
    assert sampling["seed"] == 11
    assert sampling["presence_penalty"] == pytest.approx(0.25)
    assert request["output_options"]["logprobs"] == 2
    assert len(request["token_ids"]) == 1
    assert request["eos_token_ids"]


@pytest.mark.parametrize(
    ("handler", "status", "says"),
    [
        ("yield 5", 502, "yields dictionaries"),
        ("yield {'token_ids': ['a']}", 502, "list of token ids"),
        ("yield {'token_ids': [1], 'finish_reason': 'tired'}", 502, "tired"),
        ("yield {'finish_reason': 'error: out of memory'}", 502, "out of memory"),
        ("raise InvalidArgument('too odd')\n    yield", 400, "too odd"),
        ("raise RuntimeError('broken')\n    yield", 502, "broken"),
        ("yield {'token_ids': [1]}", 502, "before the answer was complete"),
    ],
)
def test_a_handler_that_errs_ends_in_one_error(serve, client, handler, status, says):
    serve(f"async def handle(request):\n    {handler}\n")
    listed(client)
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="test-model", prompt="x", max_tokens=3)
    assert caught.value.status_code == status
    assert says in str(caught.value)


def test_an_answer_moves_to_another_worker_and_goes_on(serve, client):
    slow = """
import os

async def handle(request):
    first = request["generated_tokens"]
    print("begins at", first, flush=True)
    for number in range(request["stop_conditions"]["max_tokens"]):
        yield {"token_ids": [1000 + first + number]}
        await asyncio.sleep(0.02)
    yield {"finish_reason": "length"}
"""
    workers = [serve(slow, name=f"worker-{number}.py") for number in range(2)]
    listed(client)
    chunks = client.completions.create(
        model="test-model", prompt="x", max_tokens=100, stream=True, extra_body={"ignore_eos": True}
    )
    texts = []
    for number, chunk in enumerate(chunks):
        texts.extend(choice.text for choice in chunk.choices)
        if number == 10:
            # Whichever has it.
            first = next(
                worker for worker in workers if worker.process.stdout.readable() and begun(worker)
            )
            first.process.send_signal(signal.SIGKILL)
    undisturbed = client.completions.create(
        model="test-model", prompt="x", max_tokens=100, extra_body={"ignore_eos": True}
    )
    assert "".join(texts) == undisturbed.choices[0].text


def begun(worker):
    """Whether a worker has said that it has begun, without waiting."""
    ready, _, _ = select.select([worker.process.stdout], [], [], 0)
    return bool(ready)


def test_a_worker_that_ends_leaves_nothing_behind(serve, client):
    worker = serve()
    listed(client)
    status, errors = worker.end(signal.SIGINT)
    assert status == 0, errors
    assert "Traceback" not in errors


def test_a_prompt_goes_where_it_is_cached(serve, client):
    """Workers tell of what they hold in their engine's own words; the router goes by it."""
    caching = """
import os

async def handle(request, context):
    tokens = request["token_ids"]
    full = len(tokens) // 16
    names = [hash((context.id(), number)) for number in range(full)]
    publisher.publish_stored(tokens[: full * 16], [16] * full, names)
    print(os.getpid(), flush=True)
    yield {"token_ids": [1], "finish_reason": "length"}
"""
    with_publisher = "global publisher; publisher = KvEventPublisher(endpoint, kv_block_size=16); "
    workers = [
        serve(caching, order=with_publisher + REGISTER_FIRST, name=f"worker-{number}.py")
        for number in range(3)
    ]
    listed(client)

    def ask():
        """The number of the worker that a long prompt went to."""
        client.completions.create(model="test-model", prompt="a long story " * 100, max_tokens=1)
        ready, _, _ = select.select([worker.process.stdout for worker in workers], [], [], 30)
        (output,) = ready
        return int(output.readline())

    # Events are on their way for a moment: until they have come, any worker is as good as others.
    went = []
    while len(set(went[-12:])) != 1 or len(went) < 12:
        went.append(ask())
        assert len(went) < 200, went


def test_an_adapter_is_a_model_of_its_own(serve, client):
    handler = """
asked = asyncio.Event()

async def handle(request):
    print(request["model"], request["lora_name"], flush=True)
    yield {"token_ids": [1], "finish_reason": "length"}
    if request["lora_name"]:
        asked.set()
"""
    order = """
    async def adapters():
        while endpoint.connection_id() is None:
            await asyncio.sleep(0.01)
        await register_model(
            ModelInput.Tokens, ModelType.Completions, endpoint, "folder-of-the-adapter",
            base_model_path=sys.argv[1], lora_name="an-adapter", kv_cache_block_size=16,
        )
        await asked.wait()
        await unregister_model(endpoint, lora_name="an-adapter")
    await register()
    await asyncio.gather(serve(), adapters())
"""
    worker = serve(handler, order=order.strip())

    def wait_for(*names):
        while sorted(model.id for model in client.models.list().data) != list(names):
            assert worker.process.poll() is None

    wait_for("an-adapter", "test-model")
    for name, adapter in [("test-model", None), ("an-adapter", "an-adapter")]:
        client.completions.create(model=name, prompt="x", max_tokens=1)
        assert worker.line() == f"{name} {adapter}"
    wait_for("test-model")
