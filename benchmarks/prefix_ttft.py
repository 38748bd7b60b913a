"""TTFT of a 1,000-token prompt, cold and repeated, on the real model. Prints one JSON line."""

import json
import os
import statistics
import tempfile
import urllib.parse

from engine_load import complete
from processes import ROOT, dynamo

MODEL = ".models/gemma-3-270m-q4_k_m.gguf"
ROUNDS = 5
# About 1,000 tokens of this tokenizer, together with the round's number in front.
SENTENCE = "The lighthouse keeper wrote down the wind, the tide and the ships that passed. "


def main() -> None:
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DYN_FILE_KV": folder}
        serve = ("run", "in=http", "out=llamacpp", str(ROOT / MODEL), "--model-name", "m")
        with dynamo(
            *serve, "--threads", "1", "--http-port", "0", environment=environment, cores="0"
        ) as (_, address):
            url = urllib.parse.urlsplit(address)
            for number in range(ROUNDS):
                text = f"Log book number {number}. " + SENTENCE * 58
                first = complete(url, "m", text, 4)
                again = complete(url, "m", text, 4)
                cold.append(first["ttft"])
                warm.append(again["ttft"])
    details = again["usage"]["prompt_tokens_details"]
    print(
        json.dumps(
            {
                "prompt_tokens": again["usage"]["prompt_tokens"],
                "cached_tokens": details["cached_tokens"],
                "cold_ttft_ms": round(statistics.median(cold) * 1000, 1),
                "warm_ttft_ms": round(statistics.median(warm) * 1000, 1),
                "warm_over_cold": round(statistics.median(warm) / statistics.median(cold), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
