"""Prefill and decode in engines of their own: KV state goes from one to the other through NIXL.

On the CPU NIXL copies over UCX between two processes of this machine. Skipped where it is not
installed: it is no requirement of vLLM.
"""

import importlib.util
import json
import signal

import pytest
from conftest import ENVIRONMENT, WORKER
from fleet import MODEL, Fleet, until

#: Where each engine tells others how to reach it.
SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_PORT"

CONNECTOR = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}


@pytest.fixture(scope="module")
def halves(tmp_path_factory, request):
    """A frontend, a prefill and a decode worker. The workers of other tests make room."""
    if importlib.util.find_spec("nixl") is None:
        pytest.skip("nixl is not installed (pip install nixl)")
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
    words = ["--disaggregation-mode", mode, "--kv-transfer-config", json.dumps(CONNECTOR)]
    return fleet.start(mode, *WORKER, *words)


def routers(fleet):
    return fleet.get("/v1/router/status")["routers"]


def tokens(seed, length):
    return [(seed * 7_919 + at * 31) % 5_000 + 100 for at in range(length)]


def complete(fleet, prompt, **more):
    return fleet.client.completions.with_raw_response.create(
        model=MODEL, prompt=prompt, temperature=0, extra_body={"ignore_eos": True}, **more
    )


def test_a_prompt_is_computed_by_one_engine_and_answered_by_another(halves):
    prompt = tokens(1, 200)
    raw = complete(halves, prompt, max_tokens=24)
    first, second = (
        raw.headers[f"x-dynamo-{name}-instance-id"] for name in ("prefill", "worker")
    )
    assert first != second
    answer = raw.parse()
    assert answer.usage.completion_tokens == 24
    # The decode worker computed no prompt: its engine says how much came from elsewhere.
    until(lambda: "External prefix cache hit rate: 0.0%" not in halves.decode.text(), "a transfer")
    # Alone it says the same.
    halves.prefill.send(signal.SIGTERM)
    halves.prefill.ended()
    until(lambda: len(routers(halves)) == 1, "the end of the prefill worker")
    alone = complete(halves, prompt, max_tokens=24)
    assert "x-dynamo-prefill-instance-id" not in alone.headers
    assert alone.parse().choices[0].text == answer.choices[0].text
