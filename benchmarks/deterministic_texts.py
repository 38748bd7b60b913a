"""Checks `--deterministic` at length: 50 greedy prompts give the same text alone on a fresh server,
again from the warm prefix cache, and with 8 other requests in flight. Prints one JSON line; exits
with 1 if any text differs."""

import json
import os
import sys
import tempfile
import threading

from engine_load import TOPICS, prompt
from processes import ROOT, dynamo

import http.client
import urllib.parse

MODEL = ".models/gemma-3-270m-q4_k_m.gguf"
PROMPTS = 50
OTHERS = 8
TOKENS = 24


def text(url, number: int) -> str:
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    # Some prompts share a long prefix, some are short, some cross a chunk's border.
    words = 4 + (number * 7) % 60
    body = {
        "model": "m",
        "prompt": prompt(number % len(TOPICS), number // 3, words),
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    answer = json.load(response)
    if response.status != 200:
        raise SystemExit(f"HTTP {response.status}: {answer}")
    return answer["choices"][0]["text"]


def noise(url, stop: threading.Event, seed: int) -> None:
    number = 1000 * (seed + 1)
    while not stop.is_set():
        text(url, number)
        number += 1


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DYN_FILE_KV": folder}
        serve = ("run", "in=http", "out=llamacpp", str(ROOT / MODEL), "--model-name", "m")
        serve = (*serve, "--threads", "1", "--http-port", "0", "--deterministic")
        with dynamo(*serve, environment=environment) as (_, address):
            url = urllib.parse.urlsplit(address)
            cold = [text(url, number) for number in range(PROMPTS)]
            warm = [text(url, number) for number in range(PROMPTS)]
        with dynamo(*serve, environment=environment) as (_, address):
            url = urllib.parse.urlsplit(address)
            stop = threading.Event()
            others = [threading.Thread(target=noise, args=(url, stop, n)) for n in range(OTHERS)]
            for thread in others:
                thread.start()
            busy = [text(url, number) for number in range(PROMPTS)]
            stop.set()
            for thread in others:
                thread.join()
    differ = {
        "warm": sum(a != b for a, b in zip(cold, warm)),
        "under_load": sum(a != b for a, b in zip(cold, busy)),
    }
    print(json.dumps({"prompts": PROMPTS, "others_in_flight": OTHERS, "texts_that_differ": differ}))
    return int(any(differ.values()))


if __name__ == "__main__":
    sys.exit(main())
