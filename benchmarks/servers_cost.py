"""What it costs to stand in front of servers as they are: CPU time per request of a frontend with
`out=http://...`, beside that of the two echo servers behind it. Prints one JSON line for each of
three ways: by load, by prefix with the Qwen3 tokenizer, and by load with answers whose tokens come
one by one. 400 prompt tokens, 64 tokens of answer, streamed."""

import argparse
import http.client
import json
import os
import pathlib
import random
import tempfile
import threading
import urllib.parse

import processes
from processes import ROOT, dynamo, rss_megabytes, wait_for_model

CLIENTS = 8
TOKENIZER = str(ROOT / ".models/tokenizers/qwen3")
WORDS = "time year people way day man thing woman life child world school state family".split()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, threads that have ended included, in hundredths of a second."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def body(random_source: random.Random) -> bytes:
    text = " ".join(random_source.choice(WORDS) for _ in range(390))
    messages = [{"role": "user", "content": text}]
    asked = {"model": "echo", "messages": messages, "max_tokens": 64, "stream": True}
    return json.dumps(asked).encode()


def send(url: str, count: int, seed: int) -> None:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    source = random.Random(seed)
    for _ in range(count):
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body(source), headers)
        response = connection.getresponse()
        data = response.read()
        if response.status != 200 or b"[DONE]" not in data:
            raise SystemExit(f"HTTP {response.status}: {data[:300]!r}")


def send_all(url: str, count: int) -> None:
    clients = [
        threading.Thread(target=send, args=(url, count // CLIENTS, seed)) for seed in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def measure(name: str, requests: int, server: list, front: list, environment: dict) -> None:
    echo = ("run", "in=http", "out=echo", TOKENIZER, "--model-name", "echo", "--http-port", "0")
    with (
        dynamo(*echo, *server, environment=environment) as (one, one_url),
        dynamo(*echo, *server, environment=environment) as (two, two_url),
    ):
        words = ("run", "in=http", f"out={one_url}", f"out={two_url}", "--http-port", "0")
        with dynamo(*words, *front, environment=environment) as (process, url):
            wait_for_model(url)
            send_all(url, requests // 10)
            before = [cpu_seconds(it.pid) for it in (process, one, two)]
            send_all(url, requests)
            after = [cpu_seconds(it.pid) for it in (process, one, two)]
            used = [(end - start) / requests * 1e3 for start, end in zip(before, after)]
            result = {
                "bench": "servers_cost",
                "way": name,
                "requests": requests,
                "frontend_ms": round(used[0], 3),
                "servers_ms": round(used[1] + used[2], 3),
                "frontend_rss_mb": round(rss_megabytes(process.pid), 1),
            }
            print(json.dumps(result), flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--requests", type=int, default=4_000)
    arguments.add_argument("--binary", type=pathlib.Path, default=processes.DYNAMO)
    options = arguments.parse_args()
    processes.DYNAMO = options.binary
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DYN_ARTEFACT_CACHE": folder}
        tokenizer = ["--model-path", TOKENIZER]
        measure("by load", options.requests, [], [], environment)
        measure("by prefix", options.requests, [], tokenizer, environment)
        paced = ["--token-echo-delay", "2ms"]
        measure("by load, token by token", options.requests // 4, paced, [], environment)


if __name__ == "__main__":
    main()
