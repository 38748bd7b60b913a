"""One real engine on a GPU: answers, streams, cancellation, KV routing, drain."""

import signal

import pytest
from conftest import BLOCK
from fleet import MODEL, is_running, until


def complete(fleet, prompt, **more):
    more.setdefault("max_tokens", 16)
    return fleet.client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, extra_body={"ignore_eos": True}, **more
    )


def test_answers_and_streams(fleet):
    fleet.ready(1)
    answer = complete(fleet, "The capital of France is", logprobs=2)
    assert answer.usage.completion_tokens == 16
    assert len(answer.choices[0].logprobs.token_logprobs) == 16
    chunks = complete(fleet, "The capital of France is", stream=True)
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text[:20] == answer.choices[0].text[:20]


def test_a_client_that_goes_away_frees_the_engine(fleet):
    (worker,) = fleet.ready(1)
    answer = complete(fleet, "Once upon a time", max_tokens=3_000, stream=True)
    next(iter(answer))
    answer.close()
    worker.says("abort ")
    until(lambda: fleet.status()["workers"][0]["load"]["used_blocks"] < 10, "free blocks")


def test_prompts_go_where_they_are_cached(fleet):
    fleet.ready(2)
    prompts = [[1_000 + seed * 50 + at for at in range(BLOCK * 8)] for seed in range(6)]

    def ask(prompt):
        raw = fleet.client.completions.with_raw_response.create(
            model=MODEL, prompt=prompt, max_tokens=2, temperature=0
        )
        return raw.headers["x-dynamo-worker-instance-id"]

    first = [ask(prompt) for prompt in prompts]
    until(lambda: fleet.status()["index"]["blocks"] >= len(prompts) * 7, "the prompts' blocks")
    assert [ask(prompt) for prompt in prompts] == first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_end_finishes_first_and_leaves_nothing(fleet, number):
    (worker,) = fleet.ready(1)
    parts = iter(complete(fleet, "Count:", max_tokens=200, stream=True))
    next(parts)
    children = worker.children()
    worker.send(number)
    assert len(list(parts)) > 10
    assert worker.ended() == 0
    until(lambda: not any(is_running(pid) for pid in children), "the end of the engine")
