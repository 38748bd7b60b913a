"""Models whose workers get clients' requests as they are, behind our frontend."""

import json
import signal
import urllib.request

import openai
import pytest

#: Serves a handler of the test's as a model that takes text.
WORKER = """
import asyncio, json, os, sys, time
from dynamo.llm import *
from dynamo.runtime import *

def chunk(delta, finish=None, index=0, **more):
    choice = {{"index": index, "delta": delta, "finish_reason": finish}}
    return {{
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": [choice], **more,
    }}

def piece(text, finish=None):
    return {{
        "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m",
        "choices": [{{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}}],
    }}

{handler}

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("test.text.generate")
    await register_model(
        ModelInput.Text, ModelType.Chat | ModelType.Completions, endpoint, "no-such-folder",
        "text-model", context_length=4096,
    )
    await endpoint.serve_endpoint(handle, {more})

asyncio.run(worker())
"""

ECHO = """
async def handle(request):
    if "prompt" in request:
        yield piece(request["prompt"])
        yield piece("!", "stop")
        return
    yield chunk({"role": "assistant", "content": ""})
    for word in request["messages"][-1]["content"].split():
        yield chunk({"content": word + " "})
        await asyncio.sleep(0)
    yield chunk({}, "stop")
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    yield {**chunk({}), "choices": [], "usage": usage}
"""

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def serve(deployment):
    def start(handler=ECHO, name="worker.py", more="", **env):
        text = WORKER.format(handler=handler, more=more)
        return deployment.script(text, name=name, **env)

    return start


def frontend(deployment, *flags):
    """A frontend, and a client of it."""
    process = deployment.start(
        "-m", "dynamo.frontend", "--http-port", "0", "--model-linger", "0s", *flags
    )
    url = process.line()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    client.frontend, client.url = process, url
    return client


@pytest.fixture
def client(deployment):
    return frontend(deployment)


def listed(client, number=1):
    """Waits until the model is listed, and so many workers serve it."""
    for _ in range(1200):
        if [model.id for model in client.models.list().data] == ["text-model"]:
            with urllib.request.urlopen(f"{client.url}/v1/router/status") as answer:
                (router,) = json.load(answer)["routers"]
            if len(router["workers"]) >= number:
                return
        try:
            client.frontend.process.wait(0.05)
        except Exception:
            continue
    raise AssertionError("the model was not listed")


def test_chunks_are_streamed_as_they_are_and_folded_where_no_stream_is_asked_for(serve, client):
    serve()
    listed(client)
    assert client.models.retrieve("text-model").id == "text-model"
    chunks = list(
        client.chat.completions.create(model="text-model", messages=MESSAGES, stream=True)
    )
    assert all(chunk.id == "chatcmpl-1" and chunk.created == 7 for chunk in chunks)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert texts == ["", "one ", "two ", "three ", ""]
    assert chunks[-1].usage.total_tokens == 8
    whole = client.chat.completions.create(model="text-model", messages=MESSAGES)
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.content == "one two three "
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens == 3
    whole = client.completions.create(model="text-model", prompt="again")
    assert (whole.object, whole.choices[0].text) == ("text_completion", "again!")
    with urllib.request.urlopen(f"{client.url}/metrics") as answer:
        metrics = answer.read().decode()
    requests = [line for line in metrics.splitlines() if 'model="text-model"' in line]
    ended = "dynamo_frontend_requests_total{"
    assert sum(int(line.split()[-1]) for line in requests if line.startswith(ended)) == 3
    counted = [line for line in requests if "_output_sequence_tokens_sum" in line]
    assert counted and float(counted[0].split()[-1]) == 6


def test_a_handler_gets_the_clients_request_whatever_is_in_it(serve, client):
    worker = serve(
        """
async def handle(request, context):
    print(json.dumps(request), flush=True)
    yield chunk({"role": "assistant", "tool_calls": [
        {"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]})
    for part in ['{"a":', '1}']:
        yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    yield chunk({}, "tool_calls")
"""
    )
    listed(client)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    asked = {
        "model": "text-model", "messages": MESSAGES, "tools": tools, "temperature": 0.25,
        "max_tokens": 9,
    }
    answer = client.chat.completions.create(**asked, extra_body={"of_the_future": [1, None]})
    assert json.loads(worker.line()) == {**asked, "of_the_future": [1, None]}
    (call,) = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call-1", "f", '{"a":1}')
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"messages": MESSAGES}, 400, "`model` is required"),
        ({"model": "text-model"}, 400, "`messages` is required"),
        ({"model": "text-model", "messages": []}, 400, "messages"),
        ({"model": "text-model", "messages": MESSAGES, "stream": "yes"}, 400, "stream"),
        ({"model": "other", "messages": MESSAGES}, 404, "text-model"),
    ],
)
def test_a_request_is_checked_as_far_as_it_can_be(serve, client, body, status, says):
    serve("async def handle(request):\n    raise AssertionError('not asked')\n    yield")
    listed(client)
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.status_code == status
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("handler", "status", "says"),
    [
        ("yield 5", 502, "no chat.completion.chunk"),
        ("yield {'token_ids': [1]}", 502, "`id` is required"),
        ("yield {**chunk({'content': 'a'}), 'created': time.time()}", 502, "created"),
        ("yield {**chunk({}), 'object': 'chat.completion'}", 502, "chat.completion.chunk"),
        ("yield chunk({'content': 5})", 502, "choices[0].delta.content: expected a string"),
        ("yield chunk({'content': b'a'})", 502, "bytes has no form in JSON"),
        ("yield chunk({'content': 'a'}, x=float('nan'))", 502, "no number such as"),
        ("yield chunk({'content': 'a'}, 'tired')", 502, "tired"),
        ("yield chunk({'content': 'a'})", 502, "before choice 0 had a finish_reason"),
        ("if False: yield", 502, "no choices"),
        ("raise InvalidArgument('too odd')\n    yield", 400, "too odd"),
        ("raise RuntimeError('broken')\n    yield", 502, "broken"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_worker_does_wrong_is_told_as_such(serve, client, handler, status, says, stream):
    serve(f"async def handle(request):\n    {handler}\n")
    listed(client)
    # The error is an event where chunks have gone out, and a status where none has.
    with pytest.raises(openai.APIError) as caught:
        answer = client.chat.completions.create(
            model="text-model", messages=MESSAGES, stream=stream
        )
        assert stream, answer
        assert [chunk.choices[0].delta.content for chunk in answer] == ["a"]
    assert says in str(caught.value)
    if isinstance(caught.value, openai.APIStatusError):
        assert caught.value.status_code == status


SLOW = """
async def handle(request, context):
    print("begins", flush=True)
    yield chunk({"content": "a"})
    try:
        await asyncio.sleep(60)
    finally:
        print("ends", context.is_stopped(), flush=True)
    yield chunk({}, "stop")
"""


def test_a_client_that_goes_away_is_told_to_the_handler(serve, client):
    worker = serve(SLOW)
    listed(client)
    answer = client.chat.completions.create(model="text-model", messages=MESSAGES, stream=True)
    assert next(iter(answer)).choices[0].delta.content == "a"
    assert worker.line() == "begins"
    answer.close()
    assert worker.line() == "ends True"


@pytest.mark.parametrize("header", ["inter-token", "request"])
def test_deadlines_hold(serve, client, header):
    worker = serve(SLOW)
    listed(client)
    with pytest.raises(openai.APIError) as caught:
        list(
            client.chat.completions.create(
                model="text-model",
                messages=MESSAGES,
                stream=True,
                extra_headers={f"x-dynamo-{header}-timeout-ms": "500"},
            )
        )
    assert "0.5" in str(caught.value)
    assert worker.line() == "begins"
    assert worker.line() == "ends True"


def test_a_worker_that_dies_is_followed_by_another_one_until_it_has_spoken(serve, deployment):
    client = frontend(deployment, "--router-mode", "round-robin")
    dies = """
async def handle(request):
    print("asked", flush=True)
    dies = lambda: os.path.exists(sys.argv[0] + ".dies")
    if request["user"] == "late":
        yield chunk({"content": "a"})
        while not dies():
            await asyncio.sleep(0.01)
    if dies():
        os._exit(1)
    yield chunk({"content": "b"}, "stop")
"""
    folder = deployment.folder
    workers = [serve(dies, name=f"worker-{number}.py") for number in range(2)]
    (folder / "worker-0.py.dies").touch()
    listed(client, 2)
    # Each gets one of two; whoever gets the first one's asks the second.
    for _ in range(2):
        answer = client.chat.completions.create(
            model="text-model", messages=MESSAGES, extra_body={"user": "early"}
        )
        assert answer.choices[0].message.content == "b"
    assert workers[0].line() == "asked"
    answer = client.chat.completions.create(
        model="text-model", messages=MESSAGES, stream=True, extra_body={"user": "late"}
    )
    chunks = iter(answer)
    assert next(chunks).choices[0].delta.content == "a"
    (folder / "worker-1.py.dies").touch()
    with pytest.raises(openai.APIError) as caught:
        next(chunks)
    assert "lost before its answer was complete" in str(caught.value)


def test_a_worker_that_ends_finishes_what_it_has(serve, client):
    waits = "wait_for(asyncio.to_thread(sys.stdin.readline), 60)"
    worker = serve(SLOW.replace("sleep(60)", waits))
    listed(client)
    answer = client.chat.completions.create(model="text-model", messages=MESSAGES, stream=True)
    assert worker.line() == "begins"
    worker.process.send_signal(signal.SIGTERM)
    while client.models.list().data:
        assert worker.process.poll() is None
    worker.process.stdin.write("go\n")
    worker.process.stdin.flush()
    assert [chunk.choices[0].finish_reason for chunk in answer] == [None, "stop"]
    assert worker.line() == "ends False"
    assert worker.process.wait(60) == 0


@pytest.mark.parametrize("mode", ["kv", "random", "least-loaded"])
def test_requests_are_spread_in_every_router_mode(serve, deployment, mode):
    client = frontend(deployment, "--router-mode", mode)
    handler = """
async def handle(request):
    yield chunk({"content": str(os.getpid())}, "stop")
"""
    workers = [serve(handler, name=f"worker-{number}.py") for number in range(2)]
    listed(client, 2)
    answered = set()
    for _ in range(200):
        answer = client.chat.completions.create(model="text-model", messages=MESSAGES)
        answered.add(int(answer.choices[0].message.content))
        if len(answered) == 2:
            break
    assert answered == {worker.process.pid for worker in workers}


def test_a_worker_whose_engine_does_not_work_is_left_out(serve, client):
    handler = """
async def handle(request):
    if request["messages"] == "canary":
        print("canary", flush=True)
        raise RuntimeError("does not work")
    yield chunk({"content": "a"}, "stop")
"""
    worker = serve(
        handler,
        more='health_check_payload={"model": "text-model", "messages": "canary"}',
        DYN_CANARY_WAIT_TIME="200ms",
    )
    assert worker.line() == "canary"
    assert worker.line() == "canary"
    worker.process.send_signal(signal.SIGTERM)
    _, errors = worker.end()
    assert "does not work" in errors


def test_what_makes_no_sense_is_refused(deployment):
    said = deployment.ask(
        """
        import asyncio
        from dynamo.llm import *
        from dynamo.runtime import *

        @dynamo_worker()
        async def worker(runtime):
            endpoint = runtime.endpoint("test.text.generate")
            for wrong in [
                dict(model_input=ModelInput.Tensor, model_type=ModelType.Chat),
                dict(model_input=ModelInput.Text, model_type=ModelType.TensorBased),
                dict(model_input=ModelInput.Text, model_type=ModelType.Chat,
                     custom_template_path="x.jinja"),
            ]:
                try:
                    await register_model(endpoint=endpoint, model_path="m", **wrong)
                except ValueError as error:
                    print(error)

        asyncio.run(worker())
        """
    )
    lines = said.splitlines()
    assert len(lines) == 3
    assert "ModelInput.Tensor is not served" in lines[0]
    assert "cannot be served" in lines[1]
    assert "custom_template_path" in lines[2]
