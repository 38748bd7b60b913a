"""Asks an OpenAI-compatible server to complete a text, streaming, cold and then warm.

Prints the text as it comes and then, per request, TTFT (time to first token), mean ITL (time
between tokens) and how many prompt tokens came from the prefix cache. Standard library only.
"""

import http.client
import json
import sys
import time
import urllib.parse

# Longer than a few KV blocks, so that the second request finds them in the prefix cache.
PROMPT = (
    "The following is an excerpt from a well-known encyclopedia article about the capital cities "
    "of Europe, written in a clear and simple style. Every country has one city where its "
    "government meets, and that city is called its capital. The capital of Spain is Madrid. The "
    "capital of Italy is Rome. The capital of Germany is Berlin. The capital of France is"
)
TIMEOUT_SECONDS = 60
WAIT_FOR_MODEL_SECONDS = 30


def main() -> int:
    url, model = sys.argv[1], sys.argv[2]
    wait_for_model(url, model)
    print(f"prompt: ...{PROMPT[-60:]}")
    print("answer:", end="", flush=True)
    cold = ask(url, model, echo=True)
    print("\n")
    warm = ask(url, model, echo=False)
    print(f"{'':8}{'TTFT':>10}{'ITL':>10}{'prompt':>10}{'cached':>10}{'output':>10}")
    for name, figures in (("cold", cold), ("warm", warm)):
        usage = figures["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        print(
            f"{name:8}{figures['ttft'] * 1000:7.1f} ms{figures['itl'] * 1000:7.1f} ms"
            f"{usage['prompt_tokens']:>10}{cached:>10}{usage['completion_tokens']:>10}"
        )
    return 0


def connect(url: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)


def wait_for_model(url: str, model: str) -> None:
    deadline = time.monotonic() + WAIT_FOR_MODEL_SECONDS
    while time.monotonic() < deadline:
        connection = connect(url)
        connection.request("GET", "/v1/models")
        body = json.load(connection.getresponse())
        if any(entry["id"] == model for entry in body["data"]):
            return
        time.sleep(0.05)
    sys.exit(f"{url} does not list the model {model} after {WAIT_FOR_MODEL_SECONDS} s")


def ask(url: str, model: str, echo: bool) -> dict:
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 40,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = connect(url)
    started = time.monotonic()
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"HTTP {response.status}: {response.read().decode()}")
    first = last = None
    usage = None
    for line in response:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            sys.exit(f"error in the stream: {event['error']}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            last = time.monotonic()
            first = first or last
            if echo:
                print(choice["text"], end="", flush=True)
    if first is None or usage is None:
        sys.exit("the stream ended without a token")
    between = max(usage["completion_tokens"] - 1, 1)
    return {"ttft": first - started, "itl": (last - first) / between, "usage": usage}


if __name__ == "__main__":
    sys.exit(main())
