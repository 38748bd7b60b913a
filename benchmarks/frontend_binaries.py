"""CPU time per request of several builds of the binary, as frontends side by side that are asked in
turns: what else the machine does weighs on all of them alike, and each round gives a ratio of its
own. The first binary is what the others are compared with. Prints one JSON line per binary."""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import tempfile

import processes
from frontend_cost import send_all
from processes import ROOT, cpu_seconds, dynamo, rss_megabytes, wait_for_model

WARM_UP_REQUESTS = 2_000


def measure(binaries: list[pathlib.Path], rounds: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        environment = {
            **os.environ,
            "DYN_FILE_KV": str(pathlib.Path(folder) / "discovery"),
            "DYN_ARTEFACT_CACHE": str(pathlib.Path(folder) / "artefacts"),
        }
        tokenizer = str(ROOT / ".models/tokenizers/qwen3")
        worker = ("run", "in=dyn://dynamo.backend.generate", "out=echo", tokenizer)
        running.enter_context(dynamo(*worker, environment=environment))
        frontends = []
        for binary in binaries:
            processes.DYNAMO = binary
            command = dynamo("frontend", "--http-port", "0", environment=environment)
            process, url = running.enter_context(command)
            model = wait_for_model(url)
            send_all(url, model, WARM_UP_REQUESTS)
            frontends.append((process.pid, url, model))
        figures = [[] for _ in frontends]
        for number in range(rounds):
            order = range(len(frontends))
            for at in order if number % 2 == 0 else reversed(order):
                pid, url, model = frontends[at]
                before = cpu_seconds(pid)
                send_all(url, model, requests)
                figures[at].append((cpu_seconds(pid) - before) * 1e6 / requests)
        for binary, own, (pid, _, _) in zip(binaries, figures, frontends):
            ratios = [mine / first for mine, first in zip(own, figures[0])]
            error = statistics.stdev(ratios) / len(ratios) ** 0.5
            result = {
                "binary": binary.name,
                "cpu_us_per_request_median": round(statistics.median(own), 1),
                "ratio_to_first_median": round(statistics.median(ratios), 3),
                "ratio_standard_error": round(error, 3),
                "rss_mb": round(rss_megabytes(pid), 1),
            }
            print(json.dumps(result))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binaries", type=pathlib.Path, nargs="+")
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--requests", type=int, default=1_000, help="per round and binary")
    options = arguments.parse_args()
    measure(options.binaries, options.rounds, options.requests)


if __name__ == "__main__":
    main()
