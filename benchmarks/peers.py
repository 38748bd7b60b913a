"""Beside the published system, in one run on one machine: what frontend and worker cost per request and
per token, what a single client waits, how evenly paced streams arrive, and memory. Each system is a
frontend with KV routing and one simulated worker with the Qwen3 tokenizer. Both run all the time and
take turns; a ratio is the median of the rounds' ratios. Prints a table and writes
benchmarks/results/peers-TIME.json.

Needs target/release/dynamo, .models/tokenizers/qwen3 and, unless --ours-only is given, what
scripts/peers_install.sh installs."""

import argparse
import asyncio
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import peers_capture
from peers_client import Answer, Text, closed_loop, gaps, one_by_one, side_by_side
from peers_systems import MODEL, Failed, System
from processes import ROOT

RESULTS = ROOT / "benchmarks/results"
PEER_VENV = ROOT / ".tools/peers"
FLAT_OUT = ["--speedup-ratio", "10000"]
# The published timing of a decode step with an almost empty cache is 5.7 ms; this makes it 20.
PACED = ["--speedup-ratio", "0.3"]
STREAMS = 64
CLIENTS = 8
# A frontend gives back what loading a model took a moment after the model is listed.
SETTLE_SECONDS = 3


@dataclasses.dataclass
class Sizes:
    """How much is sent in one round."""

    short: int = 400
    long: int = 80
    outputs: int = 80
    single: int = 60
    paced_tokens: int = 200


QUICK = Sizes(short=200, long=30, outputs=30, single=30, paced_tokens=100)


@dataclasses.dataclass
class Row:
    """One line of the table. `floor` and `aim` are shares of the peer's figure, `limit` is ours' own."""

    name: str
    floor: float | None = None
    aim: float | None = None
    limit: float | None = None
    digits: int = 3

    def verdict(self, mine: float, ratio: float | None) -> str:
        if self.limit is not None:
            return "pass" if mine <= self.limit else "MISS"
        if ratio is None or self.floor is None:
            return ""
        if self.aim is not None and ratio <= self.aim:
            return "aim"
        return "pass" if ratio <= self.floor else "MISS"


TABLE = [
    Row("frontend ms, 400 in, 64 out", 1 / 5, 1 / 10),
    Row("worker ms, 400 in, 64 out", 1 / 4),
    Row("frontend ms, 8000 in, 16 out, cold", 1 / 10, 1 / 20),
    Row("worker ms, 8000 in, 16 out, cold", 1 / 4),
    Row("frontend ms, 8000 in, 16 out, prefix repeated", 1 / 15, 1 / 40),
    Row("worker ms, 8000 in, 16 out, prefix repeated", 1 / 4),
    Row("frontend us per token, 512 out", 1 / 4, 1 / 8, digits=2),
    Row("worker us per token, 512 out", 1 / 4, digits=2),
    Row("frontend us per token, paced", 1 / 3, digits=2),
    Row("worker us per token, paced", digits=2),
    Row("added by the frontend p50 ms, paced"),
    Row("added by the frontend p99 ms, paced", limit=1.0),
    Row("gap between tokens p50 ms, paced", digits=2),
    Row("gap between tokens p99 ms, paced", digits=2),
    Row("one client p50 ms", 1 / 10),
    Row("one client p99 ms"),
    Row("one client p50 ms, acknowledging at once"),
    Row("frontend RSS MB at rest", 1 / 3, digits=1),
    Row("frontend RSS MB after load", 1 / 3, digits=1),
    Row("worker RSS MB at rest", 1 / 5, digits=1),
    Row("worker RSS MB after load", 1 / 5, digits=1),
    Row("events with text per output token", digits=4),
    Row("prompt tokens, 400 in", digits=1),
    Row("prompt tokens, 8000 in, cold", digits=1),
    Row("prompt tokens, 8000 in, prefix repeated", digits=1),
    Row("cached share, prefix repeated"),
]


class Figures:
    """What was measured of one system, round by round."""

    def __init__(self):
        self.rounds: dict[str, list[float]] = {}

    def add(self, name: str, value: float):
        assert any(row.name == name for row in TABLE), name
        self.rounds.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        return statistics.median(self.rounds[name]) if name in self.rounds else None


class Measured:
    """A system, what its figures are, and the workloads."""

    def __init__(self, system: System, sizes: Sizes):
        self.system, self.sizes = system, sizes
        self.figures = Figures()
        self.words_per_token = 1.0
        self.failure = None

    def send(self, requests: list, clients: int = CLIENTS):
        """CPU seconds of the parts, and the answers; fails unless every output token is there and,
        but for those that end within a character, an event of its own."""
        before = self.system.cpu_seconds()
        answers = asyncio.run(closed_loop(self.system.port, MODEL, requests, clients))
        after = self.system.cpu_seconds()
        check(answers, requests)
        return {part: after[part] - before[part] for part in before}, answers

    def calibrate(self):
        """Finds how many words make a token, so that prompts have the length that their names tell."""
        words = 4_000
        _, (long, short) = self.send([(Text(-1).take(words), 1), ("hello", 1)], clients=1)
        self.words_per_token = words / (long.prompt_tokens - short.prompt_tokens)

    def prompts(self, text: Text, tokens: int, count: int, outputs: int) -> list:
        words = round((tokens - 8) * self.words_per_token)
        return [(text.take(words), outputs) for _ in range(count)]

    def flat_out_round(self, number: int):
        text = Text(number)
        short = self.requests_of_400(text)
        self.long_prompts(text)
        self.repeated_prefix(text)
        self.long_outputs(text, short)
        self.single_client()

    def per_request(self, name: str, requests: list) -> tuple[dict, list[Answer]]:
        cpu, answers = self.send(requests)
        for part, seconds in cpu.items():
            self.figures.add(f"{part} ms, {name}", seconds * 1000 / len(requests))
        return cpu, answers

    def requests_of_400(self, text: Text) -> dict:
        cpu, answers = self.per_request(
            "400 in, 64 out", self.prompts(text, 400, self.sizes.short, 64)
        )
        self.figures.add("prompt tokens, 400 in", mean(it.prompt_tokens for it in answers))
        share = sum(it.events for it in answers) / sum(it.tokens for it in answers)
        self.figures.add("events with text per output token", share)
        return {part: seconds / len(answers) for part, seconds in cpu.items()}

    def long_prompts(self, text: Text):
        _, answers = self.per_request(
            "8000 in, 16 out, cold", self.prompts(text, 8_000, self.sizes.long, 16)
        )
        self.figures.add("prompt tokens, 8000 in, cold", mean(it.prompt_tokens for it in answers))

    def repeated_prefix(self, text: Text):
        """A long conversation that goes on in another way each time."""
        words = lambda tokens: text.take(round(tokens * self.words_per_token))
        history = [{"role": "system", "content": words(2_000)}]
        for _ in range(5):
            history.append({"role": "user", "content": words(400)})
            history.append({"role": "assistant", "content": words(740)})
        turns = [
            ([*history, {"role": "user", "content": words(200)}], 16)
            for _ in range(self.sizes.long + 1)
        ]
        self.send(turns[:1])
        _, answers = self.per_request("8000 in, 16 out, prefix repeated", turns[1:])
        prompt = sum(it.prompt_tokens for it in answers)
        name = "prompt tokens, 8000 in, prefix repeated"
        self.figures.add(name, prompt / len(answers))
        cached = sum(it.cached_tokens for it in answers)
        self.figures.add("cached share, prefix repeated", cached / prompt)

    def long_outputs(self, text: Text, short: dict):
        """The cost of a token: what requests with 512 cost more than those with 64."""
        cpu, answers = self.send(self.prompts(text, 400, self.sizes.outputs, 512))
        for part, seconds in cpu.items():
            per_token = (seconds / len(answers) - short[part]) / (512 - 64)
            self.figures.add(f"{part} us per token, 512 out", per_token * 1e6)

    def single_client(self):
        requests = [(f"hello {number}", 16) for number in range(self.sizes.single)]
        port = self.system.port
        seconds = asyncio.run(one_by_one(port, MODEL, requests, at_once=False))
        self.figures.add("one client p50 ms", statistics.median(seconds) * 1000)
        self.figures.add("one client p99 ms", percentile(seconds, 0.99) * 1000)
        seconds = asyncio.run(one_by_one(port, MODEL, requests, at_once=True))
        name = "one client p50 ms, acknowledging at once"
        self.figures.add(name, statistics.median(seconds) * 1000)

    def memory(self, when: str):
        for part, megabytes in self.system.rss_megabytes().items():
            self.figures.add(f"{part} RSS MB {when}", megabytes)

    def paced_round(self, number: int):
        self.paced_cost()
        self.paced_delay()

    def paced_cost(self):
        few, many = 20, 20 + self.sizes.paced_tokens
        base, _ = self.send(paced_requests(few), clients=STREAMS)
        cpu, _ = self.send(paced_requests(many), clients=STREAMS)
        for part, seconds in cpu.items():
            per_token = (seconds - base[part]) / (STREAMS * (many - few))
            self.figures.add(f"{part} us per token, paced", per_token * 1e6)

    def paced_delay(self):
        """Apart from the cost, because the capture of packets is work too."""
        requests = paced_requests(self.sizes.paced_tokens)
        try:
            capture = peers_capture.Capture()
        except PermissionError:
            capture = None
        answers, ports = asyncio.run(self.streams_and_ports(requests))
        check(answers, requests)
        self.add_percentiles("gap between tokens", gaps(answers))
        if capture is not None:
            steps = self.sizes.paced_tokens
            held = peers_capture.held_seconds(capture.packets(), self.system.port, ports, steps)
            self.add_percentiles("added by the frontend", held)

    async def streams_and_ports(self, requests: list) -> tuple[list[Answer], set[int]]:
        """The answers, and the worker's ports in the middle of them: some last as long as a stream."""
        streams = asyncio.ensure_future(side_by_side(self.system.port, MODEL, requests))
        await asyncio.wait([streams], timeout=self.sizes.paced_tokens * 0.02 / 2)
        ports = peers_capture.ports_of(self.system.processes["worker"].pid)
        return await streams, ports

    def add_percentiles(self, name: str, seconds: list[float]):
        if not seconds:
            raise Failed(f"nothing to tell '{name}' from")
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            self.figures.add(f"{name} {label} ms, paced", percentile(seconds, share) * 1000)


def paced_requests(tokens: int) -> list:
    return [(f"stream {number}", tokens) for number in range(STREAMS)]


def check(answers: list[Answer], requests: list):
    expected = sum(tokens for _, tokens in requests)
    tokens = sum(answer.tokens for answer in answers)
    if tokens != expected:
        raise Failed(f"{tokens} output tokens instead of {expected}")
    events = sum(answer.events for answer in answers)
    if not 0.95 * tokens - len(answers) <= events <= tokens:
        raise Failed(f"{events} events with text for {tokens} tokens")


def mean(values) -> float:
    return statistics.fmean(values)


def percentile(values, share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def attempt(measured: Measured, step) -> None:
    """Runs the step. A system that fails is stopped and left out from then on."""
    if measured.failure is not None:
        return
    try:
        step(measured)
        measured.system.check()
    except (Failed, OSError, RuntimeError, EOFError, ValueError) as error:
        measured.failure = f"{measured.system.name}: {type(error).__name__} {error}"
        print(measured.failure, file=sys.stderr)
        measured.system.stop()


def run_phase(everyone: list[Measured], worker_options: list[str], rounds: int, first, each, last):
    """Starts the systems, lets them take turns, and stops them."""
    try:
        for measured in everyone:
            attempt(measured, lambda it: it.system.start(worker_options))
        time.sleep(SETTLE_SECONDS)
        for measured in everyone:
            attempt(measured, first)
        for number in range(rounds):
            # Who goes first changes, so that a machine that gets slower is no one's disadvantage.
            for measured in everyone if number % 2 == 0 else everyone[::-1]:
                attempt(measured, lambda it: each(it, number))
        for measured in everyone:
            attempt(measured, last)
    finally:
        for measured in everyone:
            measured.system.stop()


def at_rest(measured: Measured):
    measured.memory("at rest")
    measured.calibrate()
    warm = measured.prompts(Text(-2), 400, 40, 64)
    measured.send(warm)


def ratio(name: str, ours: Figures, peer: Figures | None) -> float | None:
    if peer is None or name not in ours.rounds or name not in peer.rounds:
        return None
    pairs = zip(ours.rounds[name], peer.rounds[name])
    ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
    return statistics.median(ratios) if ratios else None


def table(ours: Figures, peer: Figures | None) -> list[str]:
    lines = ["| what | ours | peer | ratio | floor | aim | |", "|---|---|---|---|---|---|---|"]
    for row in TABLE:
        mine = ours.median(row.name)
        if mine is None:
            continue
        theirs = peer.median(row.name) if peer else None
        share = ratio(row.name, ours, peer)
        cells = [row.name, shown(mine, row.digits), shown(theirs, row.digits), shown(share, 3)]
        cells.append(f"{row.limit:g} ms" if row.limit else shown(row.floor, 3))
        cells += [shown(row.aim, 3), row.verdict(mine, share)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def systems(options) -> list[System]:
    binary = str(options.binary.resolve())
    found = [System("ours", [binary, "frontend"], [binary, "mocker"])]
    if not options.ours_only:
        python = str(options.peer_venv.absolute() / "bin/python")
        if not os.access(python, os.X_OK):
            raise SystemExit(f"{python} is missing: run scripts/peers_install.sh, or give --ours-only")
        modules = ([python, "-m", f"dynamo.{part}"] for part in ("frontend", "mocker"))
        found.append(System("peer", *modules))
    return found


def parse_options():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/dynamo")
    arguments.add_argument("--peer-venv", type=pathlib.Path, default=PEER_VENV)
    arguments.add_argument("--ours-only", action="store_true")
    arguments.add_argument("--quick", action="store_true", help="two small rounds")
    arguments.add_argument("--rounds", type=int, help="rounds of each phase (default 5; 2 if quick)")
    arguments.add_argument("--json", type=pathlib.Path, help="where the figures go instead")
    arguments.add_argument("--phase", choices=["flat-out", "paced"], help="one phase only")
    return arguments.parse_args()


def main() -> int:
    options = parse_options()
    rounds = options.rounds or (2 if options.quick else 5)
    sizes = QUICK if options.quick else Sizes()
    everyone = [Measured(system, sizes) for system in systems(options)]
    if options.phase != "paced":
        run_phase(
            everyone, FLAT_OUT, rounds, at_rest, Measured.flat_out_round,
            lambda it: it.memory("after load"),
        )  # fmt: skip
    if options.phase != "flat-out":
        nothing = lambda it: None
        run_phase(everyone, PACED, rounds, nothing, Measured.paced_round, nothing)
    figures = {it.system.name: it.figures for it in everyone}
    print("\n".join(table(figures["ours"], figures.get("peer"))))
    failures = [it.failure for it in everyone if it.failure]
    save(options.json, {"rounds": rounds, "failures": failures}, figures)
    return 1 if failures else 0


def save(path: pathlib.Path | None, content: dict, figures: dict[str, Figures]):
    now = datetime.datetime.now(datetime.UTC)
    if path is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"peers-{now:%Y%m%dT%H%M%SZ}.json"
    # The load tells whether others worked on the machine, which delays what is measured here.
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()}
    content = {"machine": machine, **content, **{name: own.rounds for name, own in figures.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nwritten to {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
