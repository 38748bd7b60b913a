"""Two llama.cpp workers with one thread each, conversations of several turns: time to the first
token and cached tokens under KV routing and in turns. Prints one JSON line."""

import argparse
import http.client
import json
import os
import pathlib
import statistics
import tempfile
import time
import urllib.parse

from processes import ROOT, dynamo, get, wait_for_model

MODEL = ROOT / ".models/gemma-3-270m-q4_k_m.gguf"
WORKER = ("run", "in=dyn://dynamo.backend.generate", "out=llamacpp", str(MODEL), "--threads", "1")
TEXT = (
    "The harbour of the old town lies behind two long walls of stone, and every morning before "
    "the sun is up the boats go out past the light on the northern one. "
)
READY_SECONDS = 60


def ask(url: str, model: str, prompt: str, tokens: int):
    """Time to the first token in seconds, the text, and the usage."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=300)
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}
    began = time.perf_counter()
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(response.read())
    first, text, usage = None, "", None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event["choices"] and event["choices"][0]["text"]:
            first = first or time.perf_counter() - began
            text += event["choices"][0]["text"]
        usage = event.get("usage") or usage
    return first, text, usage


def wait_for_workers(url: str, count: int):
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        _, status = get(url, "/v1/router/status")
        if status["routers"] and status["routers"][0]["telling"] == count:
            return
        time.sleep(0.05)
    raise SystemExit(f"{url} does not hear of {count} workers")


def converse(url: str, model: str, options) -> dict:
    conversations = [f"Story {number}. " + TEXT * 6 for number in range(options.conversations)]
    times, cached, prompts = [], 0, 0
    for turn in range(options.turns):
        for number in range(len(conversations)):
            first, text, usage = ask(url, model, conversations[number], 16)
            conversations[number] += text + f" Then came part {turn + 2}. " + TEXT * 2
            if turn > 0:
                times.append(first)
                cached += usage["prompt_tokens_details"]["cached_tokens"]
                prompts += usage["prompt_tokens"]
    return {
        "ttft_ms_mean": round(statistics.mean(times) * 1000, 1),
        "ttft_ms_p50": round(statistics.median(times) * 1000, 1),
        "cached_share": round(cached / prompts, 3),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    # An odd number: in turns, a conversation then changes its worker from turn to turn.
    arguments.add_argument("--conversations", type=int, default=5)
    arguments.add_argument("--turns", type=int, default=5)
    options = arguments.parse_args()
    result = {}
    for mode in ("round-robin", "kv"):
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "DYN_FILE_KV": str(pathlib.Path(folder) / "discovery"),
                "DYN_ARTEFACT_CACHE": str(pathlib.Path(folder) / "artefacts"),
            }
            frontend = ("frontend", "--http-port", "0", "--router-mode", mode)
            with (
                dynamo(*WORKER, environment=environment),
                dynamo(*WORKER, environment=environment),
                dynamo(*frontend, environment=environment) as (_, url),
            ):
                model = wait_for_model(url)
                wait_for_workers(url, 2)
                result[mode] = converse(url, model, options)
    result["ttft_ratio"] = round(
        result["kv"]["ttft_ms_mean"] / result["round-robin"]["ttft_ms_mean"], 3
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
