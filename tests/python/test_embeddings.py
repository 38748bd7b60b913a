"""Embeddings from Python handlers, behind our frontend, asked by the official client."""

import base64
import json
import math
import struct

import openai
import pytest
from conftest import ROOT

TOKENIZER = ROOT / ".models/tokenizers/qwen3"

WORKER = """
import asyncio, base64, json, struct, sys
from dynamo.llm import *
from dynamo.runtime import *

{handler}

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("test.embedder.generate")
    await register_model(
        ModelInput.{input}, ModelType.Embedding, endpoint, sys.argv[1], "embedder",
    )
    await endpoint.serve_endpoint(handle)

asyncio.run(worker())
"""


@pytest.fixture
def client(deployment):
    frontend = deployment.start(
        "-m", "dynamo.frontend", "--http-port", "0", "--model-linger", "0s"
    )
    url = frontend.line()
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def serve(deployment, client):
    def start(handler, kind="Tokens"):
        text = WORKER.format(handler=handler, input=kind)
        worker = deployment.script(text, str(TOKENIZER), name="worker.py")
        while not client.models.list().data:
            assert worker.process.poll() is None
        return worker

    return start


#: A vector of a text's length and of its first token, not of unit length.
TOKENS = """
async def handle(request):
    print(json.dumps(request), flush=True)
    return {"embeddings": [[3.0 * len(ids), 4.0 * len(ids), 0.0] for ids in request["token_ids"]]}
"""


@pytest.mark.parametrize("form", ["float", "base64"])
def test_token_ids_become_vectors_of_unit_length(serve, client, form):
    worker = serve(TOKENS)
    answer = client.embeddings.create(
        model="embedder", input=["one", "two three four"], encoding_format=form, dimensions=3
    )
    request = json.loads(worker.line())
    assert request["model"] == "embedder" and request["dimensions"] == 3
    one, three = request["token_ids"]
    assert len(one) == 1 and len(three) == 3
    assert answer.usage.prompt_tokens == 4
    for number, entry in enumerate(answer.data):
        numbers = entry.embedding
        if form == "base64":
            numbers = struct.unpack("<3f", base64.b64decode(numbers))
        assert entry.index == number
        assert numbers == pytest.approx([0.6, 0.8, 0.0])


TEXT = """
async def handle(request, context):
    print(json.dumps(request), flush=True)
    pack = lambda *numbers: base64.b64encode(struct.pack("<2f", *numbers)).decode()
    yield {
        "object": "list",
        "model": request["model"],
        "data": [
            {"object": "embedding", "index": 1, "embedding": pack(0, 2)},
            {"object": "embedding", "index": 0, "embedding": [5, 0]},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
"""


def test_a_worker_that_takes_text_gets_the_clients_request(serve, client):
    worker = serve(TEXT, "Text")
    answer = client.embeddings.create(
        model="embedder", input=["a", "b"], extra_body={"truncate": "end"}
    )
    request = json.loads(worker.line())
    assert request["input"] == ["a", "b"] and request["truncate"] == "end"
    assert [entry.embedding for entry in answer.data] == [[1, 0], [0, 1]]
    assert answer.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("5", "gives a dictionary"),
        ("{}", "needs embeddings"),
        ("{'embeddings': []}", "made 0 embeddings of 2 inputs"),
        ("{'embeddings': [[1.0]]}", "made 1 embeddings of 2 inputs"),
        ("{'embeddings': [[1.0], [1.0, 2.0]]}", "embedding 1 has 2 numbers and the first one 1"),
        ("{'embeddings': [[], []]}", "embedding 0 has 0 numbers"),
        ("{'embeddings': [[1.0], ['a']]}", "embedding 1 needs to be a list of numbers"),
        ("{'embeddings': [[1.0], [float('nan')]]}", "not finite"),
        ("{'embeddings': [[1.0], [0.0]]}", "embedding 1 is zero"),
        ("{'data': [{'index': 0, 'embedding': [1.0]}, {'index': 0, 'embedding': [1.0]}]}", "taken"),
        ("{'data': [{'embedding': 'abc'}, {'embedding': [1.0]}]}", "base64 of 32-bit floats"),
    ],
)
def test_wrong_shapes_are_the_workers_mistake(serve, client, answer, says):
    serve(f"async def handle(request):\n    return {answer}\n")
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="embedder", input=["a", "b"])
    assert caught.value.status_code == 502
    assert says in str(caught.value)


def test_a_length_that_was_not_asked_for_and_other_requests_are_refused(serve, client):
    serve(TOKENS)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input="a", dimensions=2)
    assert "as 3 only" in str(caught.value)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="embedder", prompt="a")
    assert "without completions" in str(caught.value)
    numbers = client.embeddings.create(model="embedder", input="a").data[0].embedding
    assert math.isclose(sum(number * number for number in numbers), 1, rel_tol=1e-5)


def test_an_endpoint_that_embeddings_have_themselves_is_refused(deployment):
    said = deployment.ask(
        """
        import asyncio
        from dynamo.llm import *
        from dynamo.runtime import *

        @dynamo_worker()
        async def worker(runtime):
            endpoint = runtime.endpoint("test.embedder.embed")
            try:
                await register_model(ModelInput.Text, ModelType.Embedding, endpoint, "m")
            except ValueError as error:
                print(error)

        asyncio.run(worker())
        """
    )
    assert "give that another name, such as generate" in said
