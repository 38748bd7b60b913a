"""What a frontend costs: time from start to /health, memory with the Qwen3 tokenizer loaded, before
and during 10,000 requests, and CPU time per request. Prints one JSON line."""

import argparse
import http.client
import json
import os
import pathlib
import statistics
import tempfile
import threading
import time
import urllib.parse

import processes
from processes import (
    ROOT,
    cpu_seconds,
    dynamo,
    get,
    peak_megabytes,
    rss_megabytes,
    wait_for_model,
    wait_for_rest,
)

CLIENTS = 8


def start_seconds(environment: dict) -> float:
    started = time.perf_counter()
    with dynamo("frontend", "--http-port", "0", environment=environment) as (_, url):
        status, _ = get(url, "/health")
        seconds = time.perf_counter() - started
        if status != 200:
            raise SystemExit(f"/health answered {status}")
    return seconds


def send(url: str, model: str, count: int) -> None:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    text = "The quick brown fox jumps over the lazy dog. " * 20
    for number in range(count):
        body = {"model": model, "prompt": f"{number} {text}", "max_tokens": 32, "stream": True}
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        data = response.read()
        if response.status != 200 or b"[DONE]" not in data:
            raise SystemExit(f"HTTP {response.status}: {data[:300]!r}")


def send_all(url: str, model: str, count: int) -> None:
    threads = [
        threading.Thread(target=send, args=(url, model, count // CLIENTS)) for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--requests", type=int, default=10_000)
    arguments.add_argument("--binary", type=pathlib.Path, default=processes.DYNAMO)
    options = arguments.parse_args()
    processes.DYNAMO = options.binary
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "DYN_FILE_KV": str(pathlib.Path(folder) / "discovery"),
            "DYN_ARTEFACT_CACHE": str(pathlib.Path(folder) / "artefacts"),
        }
        starts = [start_seconds(environment) for _ in range(10)]
        tokenizer = str(ROOT / ".models/tokenizers/qwen3")
        worker = ("run", "in=dyn://dynamo.backend.generate", "out=echo", tokenizer)
        with (
            dynamo(*worker, environment=environment),
            dynamo("frontend", "--http-port", "0", environment=environment) as (frontend, url),
        ):
            empty = rss_megabytes(frontend.pid)
            model = wait_for_model(url)
            # It gives back what loading the model freed a moment after the model is listed.
            wait_for_rest(frontend.pid)
            loaded, peak = rss_megabytes(frontend.pid), peak_megabytes(frontend.pid)
            send_all(url, model, options.requests // 5)
            at_fifth = rss_megabytes(frontend.pid)
            counted, before = options.requests - options.requests // 5, cpu_seconds(frontend.pid)
            send_all(url, model, counted)
            cpu = cpu_seconds(frontend.pid) - before
            at_end = rss_megabytes(frontend.pid)
    print(
        json.dumps(
            {
                "start_to_health_seconds_median": round(statistics.median(starts), 4),
                "start_to_health_seconds_max": round(max(starts), 4),
                "rss_mb_without_model": round(empty, 1),
                "rss_mb_peak_of_loading": round(peak, 1),
                "rss_mb_qwen3_loaded": round(loaded, 1),
                "rss_mb_at_20_percent": round(at_fifth, 1),
                "rss_mb_at_end": round(at_end, 1),
                "rss_growth": round(at_end / at_fifth, 4),
                "cpu_ms_per_request": round(cpu * 1000 / counted, 4),
                "requests": options.requests,
            }
        )
    )


if __name__ == "__main__":
    main()
