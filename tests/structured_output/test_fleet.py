"""Structured output over several workers: answers keep to their form when a worker dies in the
middle, and workers that cannot constrain what they generate get no such request."""

import json

import openai
import pytest

from conftest import LLAMACPP, MODEL, WORKER

RECORD = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 10}, "minItems": 2, "maxItems": 4},
        "year": {"type": "integer", "minimum": 1400, "maximum": 2100},
        "state": {"enum": ["lent", "here"]},
    },
    "required": ["title", "tags", "year", "state"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "record", "schema": RECORD}}


def stream(client, **options):
    return client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a book of the library as JSON."}],
        response_format=FORMAT,
        max_tokens=200,
        stream=True,
        **options,
    )


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("draws", [{"temperature": 0}, {"temperature": 1.0, "seed": 11}])
def test_an_answer_goes_on_in_its_form_with_another_worker(start, frontend, await_model, draws):
    worker = start(*LLAMACPP)
    await_model(MODEL, 1)
    undisturbed = text_of(stream(frontend, **draws))
    record = json.loads(undisturbed)
    assert 1400 <= record["year"] <= 2100
    for after in (2, 9):
        chunks = stream(frontend, **draws)
        seen = [next(chunks) for _ in range(after)]
        # The only one there is: the answer waits for the next.
        worker.kill()
        worker.wait()
        worker = start(*LLAMACPP)
        assert text_of(seen) + text_of(chunks) == undisturbed


def test_workers_that_cannot_get_no_such_request(start, frontend, await_model):
    start(*WORKER, "out=echo")
    await_model("echo", 1)
    with pytest.raises(openai.BadRequestError) as caught:
        frontend.completions.create(model="echo", prompt="a", extra_body={"guided_choice": ["b"]})
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == "guided_choice"
    assert "`echo`" in caught.value.message
    assert frontend.completions.create(model="echo", prompt="abc", max_tokens=3).choices[0].text
