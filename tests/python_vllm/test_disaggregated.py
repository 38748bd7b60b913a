"""Prefill and decode in engines of their own: KV state goes from one to the other through NIXL.

On the CPU NIXL copies over UCX between two processes of this machine.
"""

import json
import signal
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, WORKER
from fleet import MODEL, PATIENCE, Fleet, until

#: Where each engine tells others how to reach it.
SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_PORT"

CONNECTOR = {"kv_connector": "NixlConnector", "kv_buffer_device": "cpu"}
ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


#: Sends the JSON of its second argument to a worker of the component of its first, prints what the
#: engine yields.
ASK = """
import asyncio, json, sys
from dynamo.llm import *
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    endpoint = runtime.endpoint(f"dynamo.{sys.argv[1]}.generate")
    client = await endpoint.client()
    await client.wait_for_instances(30)
    router = KvRouter(endpoint, 32)
    while router.workers()[0] == 0:
        await asyncio.sleep(0.01)
    async for item in await router.generate(json.loads(sys.argv[2])):
        print(json.dumps(item))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def halves(tmp_path_factory, request):
    """A frontend, a prefill and a decode worker. The workers of other tests make room."""
    request.getfixturevalue("fleet").ready(0)
    started = Fleet(tmp_path_factory.mktemp("halves"), WORKER, ENVIRONMENT)
    try:
        started.open_frontend()
        started.prefill = half(started, "prefill", 15_600)
        started.decode = half(started, "decode", 15_601)
        for worker in (started.prefill, started.decode):
            worker.says("serves ")
        until(lambda: len(routers(started)) == 2, "both routers")
        yield started
    finally:
        started.end()


def half(fleet, mode, port):
    fleet.env[SIDE_CHANNEL] = str(port)
    connector = json.dumps({**CONNECTOR, "kv_role": ROLES[mode]})
    words = ["--disaggregation-mode", mode, "--kv-transfer-config", connector]
    return fleet.start(mode, *WORKER, *words)


def outputs(fleet, component, request):
    """What the engine of one half yields."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, component, json.dumps(request)],
        env=fleet.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def routers(fleet):
    return fleet.get("/v1/router/status")["routers"]


def tokens(seed, length):
    return [(seed * 7_919 + at * 31) % 5_000 + 100 for at in range(length)]


def complete(fleet, prompt, **more):
    return fleet.client.completions.with_raw_response.create(
        model=MODEL, prompt=prompt, temperature=0, extra_body={"ignore_eos": True}, **more
    )


def test_the_decode_engine_computes_nothing_of_a_prompt_that_it_is_handed(halves):
    asked = {
        "token_ids": tokens(2, 200),
        "stop_conditions": {"max_tokens": 1, "ignore_eos": True},
        "sampling_options": {"temperature": 0.0},
    }
    (prefilled,) = outputs(halves, "prefill", asked)
    handed = prefilled["disaggregated_params"]
    assert handed["kv_transfer_params"]["remote_block_ids"]
    # vLLM tells the prefill engine's figure for its own where it knows it.
    handed["kv_transfer_params"].pop("remote_prefill_cached_tokens", None)
    answers = {
        how: outputs(halves, "backend", {**asked, **more})[0]
        for how, more in {
            "handed": {"disaggregated_params": handed},
            # The same prompt with another beginning: nothing of it is known.
            "alone": {"token_ids": tokens(3, 200)},
        }.items()
    }
    cached = {
        how: item["completion_usage"]["prompt_tokens_details"]["cached_tokens"]
        for how, item in answers.items()
    }
    assert cached["alone"] == 0
    assert cached["handed"] >= 192, cached
    assert answers["handed"]["token_ids"] == prefilled["token_ids"]


def test_a_prompt_is_computed_by_one_engine_and_answered_by_another(halves):
    prompt = tokens(1, 200)
    raw = complete(halves, prompt, max_tokens=24)
    first, second = (
        raw.headers[f"x-dynamo-{name}-instance-id"] for name in ("prefill", "worker")
    )
    assert first != second
    answer = raw.parse()
    assert answer.usage.completion_tokens == 24
    # Alone it says the same.
    halves.prefill.send(signal.SIGTERM)
    halves.prefill.ended()
    until(lambda: len(routers(halves)) == 1, "the end of the prefill worker")
    alone = complete(halves, prompt, max_tokens=24)
    assert "x-dynamo-prefill-instance-id" not in alone.headers
    assert alone.parse().choices[0].text == answer.choices[0].text
