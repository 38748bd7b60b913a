"""Structured output with the official `openai` package, against an engine that serves it.

Run like test_openai_client.py. Skipped where the engine says that it cannot constrain what it
generates: that is an answer, too, and test_openai_client.py's business.
"""

import json
import re

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Describe a customer of a book shop as JSON."}]

ORDER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "address": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["city", "zip"],
            "additionalProperties": False,
        },
        "kind": {"enum": ["retail", "wholesale"]},
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "maxLength": 12},
                    "count": {"type": "integer", "minimum": 1, "maximum": 20},
                },
                "required": ["title", "count"],
                "additionalProperties": False,
            },
        },
        "paid": {"type": "boolean"},
    },
    "required": ["name", "address", "kind", "items", "paid"],
    "additionalProperties": False,
}

SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "order", "strict": True, "schema": ORDER},
}


def chat(client, model, **options):
    options.setdefault("max_tokens", 250)
    options.setdefault("messages", MESSAGES)
    return client.chat.completions.create(model=model, **options)


def complete(client, model, **options):
    options.setdefault("max_tokens", 60)
    options.setdefault("prompt", "Is the sea blue? Answer:")
    return client.completions.create(model=model, **options)


@pytest.fixture(scope="module", autouse=True)
def served(client, model):
    try:
        complete(client, model, extra_body={"guided_choice": ["yes"]})
    except openai.BadRequestError as error:
        assert error.code == "unsupported_parameter"
        assert error.param == "guided_choice"
        pytest.skip("the engine serves no structured output")


def check_order(text):
    order = json.loads(text)
    assert list(order) == ["name", "address", "kind", "items", "paid"]
    assert len(order["name"]) <= 20
    assert list(order["address"]) == ["city", "zip"]
    assert re.fullmatch("[0-9]{5}", order["address"]["zip"])
    assert order["kind"] in ("retail", "wholesale")
    assert 1 <= len(order["items"]) <= 2
    for item in order["items"]:
        assert list(item) == ["title", "count"]
        assert 1 <= item["count"] <= 20
    assert isinstance(order["paid"], bool)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_the_seed_the_answer_is_valid(client, model, seed):
    answer = chat(client, model, response_format=SCHEMA_FORMAT, temperature=1.0, seed=seed)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    check_order(choice.message.content)


def test_a_stream_is_the_same_answer(client, model):
    options = {"response_format": SCHEMA_FORMAT, "temperature": 0}
    chunks = list(chat(client, model, stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == chat(client, model, **options).choices[0].message.content
    check_order(text)


def test_parse_helper_with_a_model_of_pydantic(client, model):
    pydantic = pytest.importorskip("pydantic")

    class Step(pydantic.BaseModel):
        done: bool
        level: int = pydantic.Field(ge=0, le=9)

    class Plan(pydantic.BaseModel):
        first: Step
        others: list[Step] = pydantic.Field(max_length=2)

    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Plan, max_tokens=120, temperature=0.8, seed=4
    )
    plan = answer.choices[0].message.parsed
    assert 0 <= plan.first.level <= 9
    assert len(plan.others) <= 2


def test_several_choices_each_keep_to_the_form(client, model):
    answer = chat(
        client, model, n=3, temperature=1.0, seed=9, response_format=SCHEMA_FORMAT, logprobs=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        check_order(choice.message.content)
        assert len(choice.logprobs.content) > 10


def test_json_object(client, model):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a"],
        "additionalProperties": False,
    }
    body = {"response_format": {"type": "json_object", "schema": schema}}
    answer = chat(client, model, temperature=0, extra_body=body)
    assert 0 <= json.loads(answer.choices[0].message.content)["a"] <= 99
    cut = chat(client, model, response_format={"type": "json_object"}, max_tokens=4)
    assert cut.choices[0].message.content.lstrip().startswith("{")
    assert cut.choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize(
    "body",
    [
        {"guided_choice": ["yes", "no", "perhaps not"]},
        {"structured_outputs": {"choice": ["yes", "no", "perhaps not"]}},
        {"guided_regex": "(yes|no|perhaps not)"},
        {"guided_grammar": 'root ::= "yes" | "no" | "perhaps" " not"'},
        {"guided_grammar": 'start: "yes" | "no" | "perhaps not"'},
    ],
)
def test_guided_fields_of_plain_completions(client, model, body):
    for seed in range(3):
        (choice,) = complete(client, model, temperature=1.5, seed=seed, extra_body=body).choices
        assert choice.text in ("yes", "no", "perhaps not")
        assert choice.finish_reason == "stop"


def test_guided_json_as_text_without_white_space(client, model):
    body = {"guided_json": json.dumps(ORDER), "guided_whitespace_pattern": ""}
    text = complete(client, model, max_tokens=250, temperature=1.0, seed=5, extra_body=body).choices[0].text
    check_order(text)
    assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) == text


def test_stop_strings_penalties_and_biases_still_count(client, model):
    body = {"guided_regex": "a{5}b{5}"}
    answer = complete(
        client, model, stop=["b"], frequency_penalty=1.5, presence_penalty=1.0, extra_body=body
    )
    assert answer.choices[0].text == "aaaaa"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_regex": "(?<=a)b"}, "guided_regex"),
        ({"guided_regex": "a" * 20_000}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_grammar": "root ::= missing"}, "guided_grammar"),
        ({"guided_grammar": "start: start"}, "guided_grammar"),
        ({"guided_json": {"type": "no-such-type"}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json"),
        ({"structured_outputs": {"json": {"$ref": "#/$defs/missing"}}}, "structured_outputs.json"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_is_a_bad_request_before_a_token(client, model, body, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, model, stream=stream, extra_body=body)
    assert caught.value.status_code == 400
    assert caught.value.code == "invalid_request"
    assert caught.value.param == param
    assert param.rsplit(".", 1)[-1] in caught.value.message
