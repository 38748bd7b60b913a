"""The real vLLM engine on the CPU: what clients get, and what happens when something ends."""

import json
import os
import re
import signal

import adapter
import openai
import pytest
from conftest import WORKER
from fleet import MODEL, is_running, until


def complete(client, prompt, **more):
    more.setdefault("max_tokens", 32)
    body = {"ignore_eos": True, **more.pop("extra_body", {})}
    return client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, extra_body=body, **more
    )


def stream(client, prompt, request_id, **more):
    return complete(client, prompt, stream=True, extra_headers={"x-request-id": request_id}, **more)


def tokens(seed, count):
    return [1_000 + (seed * 7_919 + place * 104_729) % 100_000 for place in range(count)]


def test_a_completion_has_what_was_asked_for_streamed_or_not(fleet, client):
    fleet.ready(1)
    answer = complete(client, "one two three", max_tokens=24)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    chunks = list(stream(client, "one two three", "streamed", max_tokens=24))
    texts = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == answer.choices[0].text
    assert len([text for text in texts if text]) > 5


def test_a_chat_is_rendered_and_answered(fleet, client):
    fleet.ready(1)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens > 5


def test_sampling_is_the_clients(fleet, client):
    fleet.ready(1)

    def ask(seed):
        return (
            client.completions.create(
                model=MODEL, prompt="x", max_tokens=16, temperature=1.0, seed=seed
            )
            .choices[0]
            .text
        )

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)


def test_log_probabilities_are_of_the_drawn_token_and_of_the_most_likely_ones(fleet, client):
    fleet.ready(1)
    choice = complete(client, "x", max_tokens=4, logprobs=3).choices[0]
    assert len(choice.logprobs.token_logprobs) == 4
    for drawn, tops in zip(
        choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        # Greedy: what was drawn is the most likely one.
        assert drawn == max(tops.values())
        assert len(tops) == 3


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"guided_regex": "[0-9]{4}-[0-9]{2}"}, lambda text: len(text) == 7 and text[4] == "-"),
        (
            {
                "guided_json": {
                    "type": "object",
                    "properties": {"age": {"type": "integer", "minimum": 10, "maximum": 99}},
                    "required": ["age"],
                    "additionalProperties": False,
                }
            },
            lambda text: 10 <= json.loads(text)["age"] <= 99,
        ),
    ],
)
def test_an_answer_keeps_to_its_form(fleet, client, form, fits):
    fleet.ready(1)
    answer = client.completions.create(
        model=MODEL, prompt="x", max_tokens=200, temperature=1.0, seed=3, extra_body=form
    )
    assert answer.choices[0].finish_reason == "stop"
    assert fits(answer.choices[0].text), answer.choices[0].text


def test_what_the_engine_refuses_is_the_clients_mistake(fleet, client):
    fleet.ready(1)
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(
            model=MODEL, prompt="x", max_tokens=4, extra_body={"guided_grammar": "root ::= nowhere"}
        )
    assert caught.value.status_code == 400, caught.value
    # The worker goes on.
    assert complete(client, "x", max_tokens=2).usage.completion_tokens == 2


def test_the_card_has_the_engines_limits(fleet, client):
    fleet.ready(1)
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, tokens(1, 3_000), max_tokens=4)
    assert "2048" in str(caught.value)
    load = fleet.status()["workers"][0]["load"]
    assert load["total_blocks"] == 2**20 // 32
    assert load["block_size"] == 32
    assert load["max_sequences"] > 0
    assert load["max_batched_tokens"] > 0


def test_a_client_that_goes_away_aborts_the_engines_request(fleet, client):
    (worker,) = fleet.ready(1)
    answer = stream(client, "a long one", "goes-away", max_tokens=1_900)
    next(iter(answer))
    answer.close()
    until(lambda: re.search("Aborted request.*-goes-away", worker.text()), "the abort")
    # Its blocks are free: nothing runs any more.
    until(lambda: fleet.status()["workers"][0]["load"]["used_blocks"] == 0, "free blocks")


def test_adapters_come_answer_and_go(fleet, client, tmp_path):
    fleet.ready(1)
    adapter.make(tmp_path / "adapter")
    source = {"uri": f"file://{tmp_path}/adapter"}
    loaded = fleet.ask("load_lora", lora_name="mine", source=source)
    assert loaded["status"] == "success", loaded
    assert fleet.ask("list_loras")["loras"] == {"mine": loaded["lora_id"]}

    def models():
        return sorted(model.id for model in client.models.list().data)

    until(lambda: models() == ["mine", MODEL], "the adapter's model")

    def text(model):
        return (
            client.completions.create(
                model=model,
                prompt="x",
                max_tokens=16,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
            .choices[0]
            .text
        )

    assert text("mine") == text("mine") != text(MODEL)
    assert fleet.ask("unload_lora", lora_name="mine")["status"] == "success"
    until(lambda: models() == [MODEL], "the adapter's end")


def test_prompts_go_where_the_engine_says_that_they_are_cached(fleet, client):
    fleet.ready(2)
    prompts = [tokens(seed, 32 * 10) for seed in range(10, 16)]

    def ask(prompt):
        raw = client.completions.with_raw_response.create(
            model=MODEL, prompt=prompt, max_tokens=2, temperature=0, extra_body={"ignore_eos": True}
        )
        usage = raw.parse().usage
        details = usage.prompt_tokens_details
        return raw.headers["x-dynamo-worker-instance-id"], (details and details.cached_tokens) or 0

    before = fleet.status()["index"]["blocks"]
    first = [ask(prompt)[0] for prompt in prompts]
    until(
        lambda: fleet.status()["index"]["blocks"] >= before + len(prompts) * 9,
        "the blocks of the prompts in the router's index",
    )
    again = [ask(prompt) for prompt in reversed(prompts)][::-1]
    assert [where for where, _ in again] == first
    assert all(cached >= 32 * 9 for _, cached in again), again
    assert len(set(first)) == 2, "both workers were used"


def test_an_answer_moves_when_its_worker_is_killed_and_nothing_of_it_stays(fleet, client):
    fleet.ready(2)
    whole = complete(client, "moves", max_tokens=600).choices[0].text
    texts = []
    for number, chunk in enumerate(stream(client, "moves", "killed", max_tokens=600)):
        texts.extend(choice.text for choice in chunk.choices)
        if number == 20:
            worker = fleet.busy("killed")
            children = worker.children()
            assert len(children) >= 2
            worker.send(signal.SIGKILL)
    assert "".join(texts) == whole
    until(lambda: not any(is_running(pid) for pid in children), "the end of the engine's processes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_end_finishes_first(fleet, client, number):
    (worker,) = fleet.ready(1)
    answer = stream(client, "drains", f"drain-{number}", max_tokens=300)
    parts = iter(answer)
    texts = [next(parts).choices[0].text]
    children = worker.children()
    # As a Ctrl-C in a terminal does it: to every process of the group.
    os.killpg(worker.process.pid, number)
    texts += [choice.text for chunk in parts for choice in chunk.choices]
    assert worker.ended() == 0, worker.text()[-3000:]
    assert "Traceback" not in worker.text()
    until(lambda: not any(is_running(pid) for pid in children), "the end of the engine's processes")
    fleet.ready(1)
    assert "".join(texts) == complete(client, "drains", max_tokens=300).choices[0].text


def test_a_worker_whose_engine_dies_ends_loudly_and_its_answers_move(fleet, client):
    fleet.ready(2)
    whole = complete(client, "engine", max_tokens=600).choices[0].text
    texts = []
    for number, chunk in enumerate(stream(client, "engine", "engine-dies", max_tokens=600)):
        texts.extend(choice.text for choice in chunk.choices)
        if number == 20:
            worker = fleet.busy("engine-dies")
            core = next(pid for pid in worker.children() if "EngineCore" in command(pid))
            os.kill(core, signal.SIGKILL)
    assert "".join(texts) == whole
    assert worker.ended() == 1
    assert "vllm has died" in worker.text()


def command(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()


def test_a_worker_that_is_asked_to_end_while_it_loads_ends_at_once(fleet):
    worker = fleet.start("early", *WORKER)
    worker.says("Initializing a V1 LLM engine")
    children = worker.children()
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0, worker.text()[-3000:]
    until(lambda: not any(is_running(pid) for pid in children), "the end of the engine's processes")
    assert "serves " not in worker.text()


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--max-model-length", "100"], 2, "--max-model-length"),
        (["--dtype", "float8000"], 2, "float8000"),
        (["--disaggregation-mode", "both"], 2, "use agg, prefill or decode"),
        (["--base-gpu-id", "1"], 2, "CUDA_VISIBLE_DEVICES"),
        (["--discovery-backend", "paper"], 2, "etcd"),
        (["--max-model-len", "1000000"], 1, "max_position_embeddings"),
    ],
)
def test_a_worker_that_cannot_start_says_why(fleet, words, status, says):
    worker = fleet.start("wrong", *WORKER, *words)
    assert worker.ended() == status, worker.text()[-3000:]
    assert says in worker.text()
