"""An HTTP server whose models are functions of its own process."""

import json
import signal
import urllib.request

import openai
import pytest

from dynamo.llm import HttpError

SERVICE = """
import asyncio, os, sys
from dynamo.llm import *
from dynamo.runtime import *

def chunk(text, finish=None):
    return {{
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": [{{"index": 0, "delta": {{"content": text}}, "finish_reason": finish}}],
    }}

def piece(text, finish=None):
    return {{
        "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m",
        "choices": [{{"index": 0, "text": text, "finish_reason": finish}}],
    }}

async def chat(request, context):
    said = request["messages"][-1]["content"]
    if said.isdigit():
        raise HttpError(int(said), f"refused with {{said}}")
    for word in said.split():
        yield chunk(word + " ")
    if said == "late":
        raise HttpError(418, "a teapot")
    if said == "wait":
        print("waits", flush=True)
        try:
            await asyncio.to_thread(sys.stdin.readline)
        finally:
            print("stopped", context.is_stopped(), flush=True)
    yield chunk("", "stop")

async def complete(request):
    yield piece(request["prompt"], "length")

@dynamo_worker()
async def main(runtime):
    loop = asyncio.get_running_loop()
    service = HttpService(port=0)
    service.add_chat_completions_model("talker", "sum", HttpAsyncEngine(chat, loop))
    assert service.port is None
    await service.start(runtime)
    service.add_completions_model("talker", "sum", PythonAsyncEngine(complete, loop))
    print(f"http://{{service.host}}:{{service.port}}", flush=True)
    {then}
    await service.run(runtime)
    print("ended", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def start(deployment):
    def start(then="pass"):
        process = deployment.script(SERVICE.format(then=then), name="service.py")
        url = process.line()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        client.process, client.url = process, url
        return client

    return start


def ask(client, text, **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="talker", messages=messages, **more)


def get(client, path):
    with urllib.request.urlopen(client.url + path) as answer:
        return answer.read().decode()


def test_functions_answer_with_the_frontends_server(start):
    client = start()
    assert ask(client, "one two").choices[0].message.content == "one two "
    streamed = [chunk.choices[0].delta.content for chunk in ask(client, "a b", stream=True)]
    assert streamed == ["a ", "b ", ""]
    completion = client.completions.create(model="talker", prompt="p")
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("p", "length")
    assert json.loads(get(client, "/health"))["status"] == "healthy"
    assert [model.id for model in client.models.list().data] == ["talker"]
    metrics = get(client, "/metrics")
    assert 'dynamo_frontend_requests_total{endpoint="chat_completions"' in metrics
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "a"}])
    assert "talker" in str(caught.value)


@pytest.mark.parametrize("status", [400, 404, 418, 429, 500, 503, 599])
def test_an_http_error_becomes_its_status(start, status):
    client = start()
    for stream in [False, True]:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, str(status), stream=stream)
        assert caught.value.status_code == status
        assert f"refused with {status}" in str(caught.value)


def test_a_status_that_is_no_errors_and_one_that_comes_late(start):
    client = start()
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "204")
    assert caught.value.status_code == 502
    assert "204" in str(caught.value)
    with pytest.raises(openai.APIError) as caught:
        list(ask(client, "late", stream=True))
    assert "a teapot" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (600, "a", ValueError),
        (-1, "a", ValueError),
        (400, "a" * 8193, ValueError),
        (400, 5, TypeError),
    ],
)
def test_an_http_error_is_checked_when_it_is_made(code, message, error):
    with pytest.raises(error):
        HttpError(code, message)
    assert str(HttpError(400, "a" * 8192)) == "a" * 8192


def test_a_client_that_goes_away_is_told_to_the_function(start):
    client = start()
    answer = ask(client, "wait", stream=True)
    next(iter(answer))
    assert client.process.line() == "waits"
    answer.close()
    assert client.process.line() == "stopped True"


def test_models_come_and_go(start):
    client = start(
        """
    print(service.list_chat_completions_models(), service.list_completions_models(), flush=True)
    service.remove_chat_completions_model("talker")
    print(service.list_chat_completions_models(), service.list_completions_models(), flush=True)
    for wrong in [
        lambda: service.remove_chat_completions_model("talker"),
        lambda: service.add_chat_completions_model("talker", "other", HttpAsyncEngine(chat, loop)),
        lambda: service.add_chat_completions_model(
            "x", "", HttpAsyncEngine(chat, asyncio.new_event_loop())
        ),
    ]:
        try:
            wrong()
        except ValueError as error:
            print(error, flush=True)
    """.strip()
    )
    assert client.process.line() == "['talker'] ['talker']"
    assert client.process.line() == "[] ['talker']"
    assert "no such model" in client.process.line()
    assert "checksum" in client.process.line()
    assert "event loop" in client.process.line()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "a")
    assert "without chat" in str(caught.value)
    assert client.completions.create(model="talker", prompt="p").choices[0].text == "p"


def test_a_shutdown_lets_requests_finish(start):
    client = start("loop.add_signal_handler(signal_number, service.shutdown)".replace(
        "signal_number", str(int(signal.SIGUSR1))
    ))
    answer = ask(client, "wait", stream=True)
    chunks = iter(answer)
    next(chunks)
    assert client.process.line() == "waits"
    client.process.process.send_signal(signal.SIGUSR1)
    client.process.process.stdin.write("go\n")
    client.process.process.stdin.flush()
    assert [chunk.choices[0].finish_reason for chunk in chunks] == ["stop"]
    assert client.process.line() == "stopped False"
    assert client.process.line() == "ended"
    assert client.process.process.wait(60) == 0


def test_the_end_of_the_process_drains_it(start):
    client = start()
    assert ask(client, "a").choices[0].message.content == "a "
    status, errors = client.process.end()
    assert status == 0, errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_told(start, deployment):
    client = start()
    port = client.url.rsplit(":", 1)[1]
    said = deployment.ask(
        f"""
        import asyncio
        from dynamo.llm import *
        from dynamo.runtime import *

        @dynamo_worker()
        async def main(runtime):
            try:
                await HttpService(port={port}).run(runtime)
            except RuntimeError as error:
                print(error)

        asyncio.run(main())
        """
    )
    assert f"port {port} on 127.0.0.1 is in use" in said
