"""Drives an OpenAI-compatible server with N concurrent greedy completions and measures it.

Prints one JSON line: output tokens per second over the whole run, TTFT and ITL. Standard library
only, one thread per stream, so that the client costs little beside the engine it measures.
"""

import argparse
import http.client
import json
import os
import pathlib
import statistics
import threading
import time
import urllib.parse

TIMEOUT_SECONDS = 600
TOPICS = ["rivers", "bridges", "clocks", "bread", "stars", "ships", "glass", "maps"]


def prompt(stream: int, turn: int, words: int) -> str:
    """A text of its own for each request, so that no prefix cache helps."""
    topic = TOPICS[stream % len(TOPICS)]
    head = f"Request {stream}-{turn}. A short history of {topic}, told from the beginning. "
    body = f"The history of {topic} begins long ago. "
    return (head + body * words)[: words * 6]


def complete(url, model: str, text: str, max_tokens: int) -> dict:
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_SECONDS)
    body = {
        "model": model,
        "prompt": text,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"HTTP {response.status}: {response.read().decode()}")
    first = last = None
    usage = None
    for line in response:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        now = time.perf_counter()
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        if event.get("choices"):
            first, last = first or now, now
    return {"ttft": first - started, "span": last - first, "usage": usage}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--pid", type=int, help="the server, to measure its CPU time")
    arguments.add_argument("--streams", type=int, default=1)
    arguments.add_argument("--turns", type=int, default=3)
    arguments.add_argument("--max-tokens", type=int, default=128)
    arguments.add_argument("--prompt-words", type=int, default=20)
    options = arguments.parse_args()
    url = urllib.parse.urlsplit(options.url)
    results: list[dict] = []

    def run(stream: int) -> None:
        for turn in range(options.turns):
            text = prompt(stream, turn, options.prompt_words)
            results.append(complete(url, options.model, text, options.max_tokens))

    complete(url, options.model, "Warm up the weights.", 8)
    threads = [threading.Thread(target=run, args=(n,)) for n in range(options.streams)]
    cpu_before = cpu_seconds(options.pid) if options.pid else 0.0
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    tokens = sum(result["usage"]["completion_tokens"] for result in results)
    cpu = cpu_seconds(options.pid) - cpu_before if options.pid else None
    print(
        json.dumps(
            {
                "streams": options.streams,
                "requests": len(results),
                "output_tokens": tokens,
                "tokens_per_second": round(tokens / seconds, 2),
                # What the server computed per token: comparable on a machine that is not idle.
                "server_cpu_ms_per_token": cpu and round(1000 * cpu / tokens, 3),
                "ttft_ms_median": round(statistics.median(r["ttft"] for r in results) * 1000, 2),
                "itl_ms_mean": round(
                    1000
                    * sum(r["span"] for r in results)
                    / max(1, sum(r["usage"]["completion_tokens"] - 1 for r in results)),
                    3,
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
