"""Drives a running server with the official `openai` package.

    pytest tests/frontend --base-url http://127.0.0.1:8000/v1 [--model NAME] [--api-key KEY]

or with the environment variables DYN_TEST_BASE_URL, DYN_TEST_MODEL and DYN_TEST_API_KEY. Without
a model the first one listed is used. The tests hold for every engine: they check forms, limits
and repeatability, and texts only against each other.
"""

import math

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Say something about the sea."}]
PROMPT = "Once upon a time there was a lighthouse"


def chat(client, model, **options):
    options.setdefault("max_tokens", 12)
    options.setdefault("messages", MESSAGES)
    return client.chat.completions.create(model=model, **options)


def complete(client, model, **options):
    options.setdefault("max_tokens", 12)
    options.setdefault("prompt", PROMPT)
    return client.completions.create(model=model, **options)


# === models ===


def test_models_are_listed_and_found(client, model):
    listed = client.models.list().data
    assert model in [entry.id for entry in listed]
    assert client.models.retrieve(model).id == model


# === chat ===


def test_chat(client, model):
    answer = chat(client, model)
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_chat_stream(client, model):
    options = {"temperature": 0, "max_tokens": 8}
    chunks = list(
        chat(client, model, stream=True, stream_options={"include_usage": True}, **options)
    )
    *body, last = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in body)
    assert last.choices == []
    assert last.usage.completion_tokens <= 8
    finishes = [c.choices[0].finish_reason for c in body if c.choices[0].finish_reason]
    assert len(finishes) == 1
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in body)
    assert text == (chat(client, model, **options).choices[0].message.content or "")


def test_chat_stream_helper(client, model):
    with client.chat.completions.stream(
        model=model, messages=MESSAGES, max_tokens=6, temperature=0
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
    answer = chat(client, model, max_tokens=6, temperature=0)
    assert text == (answer.choices[0].message.content or "")


def test_chat_logprobs(client, model):
    answer = chat(client, model, logprobs=True, top_logprobs=3, max_tokens=4)
    entries = answer.choices[0].logprobs.content
    assert 0 < len(entries) <= 4
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) <= 3
        if entry.bytes is not None:
            assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
        ranked = [top.logprob for top in entry.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)


def test_chat_stream_logprobs(client, model):
    options = {"logprobs": True, "top_logprobs": 1, "max_tokens": 4, "temperature": 0}
    whole = chat(client, model, **options).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in chat(client, model, stream=True, **options)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]


def test_chat_n(client, model):
    answer = chat(client, model, n=2, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]
    chunks = chat(client, model, n=2, max_tokens=4, stream=True)
    finished = [c.choices[0].index for c in chunks if c.choices[0].finish_reason]
    assert sorted(finished) == [0, 1]


def test_chat_seed_repeats_the_draws(client, model):
    options = {"temperature": 1.0, "seed": 7, "max_tokens": 10}
    texts = {chat(client, model, **options).choices[0].message.content for _ in range(3)}
    assert len(texts) == 1


def test_chat_stop(client, model):
    whole = complete(client, model, temperature=0, max_tokens=12).choices[0].text
    stop = whole[3:5]
    assert stop, "the model says too little to test stop strings"
    answer = complete(client, model, temperature=0, max_tokens=12, stop=[stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    answer = chat(client, model, stop=["this text does not come up"], max_tokens=3)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_chat_takes_parts_developer_and_extras(client, model):
    answer = chat(
        client,
        model,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        ],
        max_completion_tokens=4,
        max_tokens=openai.NOT_GIVEN,
        user="somebody",
        extra_body={"top_k": 5, "min_p": 0.01, "ignore_eos": True},
    )
    assert answer.usage.completion_tokens == 4
    assert answer.choices[0].finish_reason == "length"


# === completions ===


def test_completion(client, model):
    answer = complete(client, model, temperature=0, logprobs=2, max_tokens=4)
    (choice,) = answer.choices
    assert answer.object == "text_completion"
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    assert all(math.isfinite(logprob) for logprob in logprobs.token_logprobs)


def test_completion_stream(client, model):
    chunks = list(complete(client, model, temperature=0, stream=True))
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == complete(client, model, temperature=0).choices[0].text
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_completion_of_several_prompts_and_echo(client, model):
    answer = complete(client, model, prompt=["One", "Two"], n=2, echo=True, max_tokens=2)
    starts = [choice.text[:3] for choice in answer.choices]
    assert starts == ["One", "One", "Two", "Two"]


# === embeddings ===


def test_embeddings(client, model):
    try:
        # The package asks for base64 by itself and decodes it.
        packed = client.embeddings.create(model=model, input=["the sea", "the sea", "a hill"])
    except openai.BadRequestError as error:
        assert error.code == "unsupported_parameter"
        pytest.skip("the model has no embeddings")
    first, second, third = (entry.embedding for entry in packed.data)
    assert first == pytest.approx(second, abs=1e-4)
    assert first != pytest.approx(third, abs=1e-4)
    plain = client.embeddings.create(model=model, input="the sea", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(first, abs=1e-4)
    assert packed.usage.prompt_tokens > 0


# === errors ===


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"temperature": 99}, "invalid_request", "temperature"),
        ({"max_tokens": -1}, "invalid_request", "max_tokens"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "invalid_request", None),
        ({"extra_body": {"temprature": 1}}, "unknown_parameter", "temprature"),
        ({"extra_body": {"prompt_logprobs": 1}}, "unsupported_parameter", "prompt_logprobs"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
            "unsupported_parameter",
            "tools",
        ),
        ({"response_format": {"type": "xml"}}, "unsupported_parameter", None),
        ({"max_tokens": 1_000_000}, "context_length_exceeded", "prompt"),
    ],
)
def test_a_mistake_is_a_bad_request(client, model, options, code, param):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, model, **options)
    assert caught.value.status_code == 400
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    if param:
        assert caught.value.param == param


def test_a_mistake_in_a_stream_is_raised_before_it(client, model):
    with pytest.raises(openai.BadRequestError):
        chat(client, model, stream=True, temperature=99)


def test_an_unknown_model_lists_the_known(client, model):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "no-such-model")
    assert caught.value.code == "model_not_found"
    assert model in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_wrong_key_is_an_authentication_error(client, model, api_key):
    if not api_key:
        pytest.skip("the server asks for no key")
    with pytest.raises(openai.AuthenticationError):
        chat(client.with_options(api_key="wrong"), model)


def test_a_stream_that_is_left_does_no_harm(client, model):
    stream = chat(client, model, stream=True, max_tokens=64)
    next(iter(stream))
    stream.close()
    assert chat(client, model, max_tokens=1).choices


def test_request_ids_come_back(client, model):
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=MESSAGES, max_tokens=1, extra_headers={"x-request-id": "mine"}
    )
    assert raw.headers["x-request-id"] == "mine"
