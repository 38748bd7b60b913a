"""Beside the published Dynamo, in one run on one machine: CPU time per request of frontend and
worker, latency of a single client, memory. Both systems serve the Qwen3 tokenizer with one
simulated worker and KV routing, and take turns. Prints a table; --json writes the figures.

Needs target/release/dynamo, .models/tokenizers/qwen3 and, unless --ours-only, what
scripts/peers_install.sh installs."""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / ".models/tokenizers/qwen3"
PEER_PYTHON = ROOT / ".tools/peers/bin/python"
START_SECONDS = 120
REQUEST_SECONDS = 120
MODEL = "qwen3"
WORKER = ["--model-name", MODEL, "--num-gpu-blocks-override", "16384", "--max-num-seqs", "512"]
# What the peer wants to know of a model beyond its tokenizer.
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936}
CONFIG |= {"eos_token_id": 151645, "bos_token_id": 151643, "num_hidden_layers": 28}
CONFIG |= {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}
FLAT_OUT = ["--speedup-ratio", "10000"]
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
).split()


class Text:
    """Prose-like text without end. Its seed makes it this one and no other."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def words(self, count: int) -> str:
        return " ".join(self.random.choices(WORDS, k=count))


def model_folder(folder: pathlib.Path) -> pathlib.Path:
    """The tokenizer with a configuration that both systems take."""
    shutil.copytree(TOKENIZER, folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | CONFIG))
    return folder


class System:
    """A frontend and a worker of one of the two systems."""

    def __init__(self, name: str, commands, environment: dict):
        self.name, self.commands, self.environment = name, commands, environment

    @contextlib.contextmanager
    def running(self, worker_options):
        folder = pathlib.Path(tempfile.mkdtemp())
        discovery = folder / "discovery"
        discovery.mkdir(mode=0o700)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        environment = {
            **os.environ,
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(discovery),
            "DYN_ARTEFACT_CACHE": str(folder / "artefacts"),
            **self.environment,
        }
        worker, frontend = self.commands(self.port)
        worker += ["--model-path", str(model_folder(folder / "model"))]
        logs = [open(folder / name, "wb") for name in ("worker.log", "frontend.log")]
        processes = []
        try:
            for command, log in ((worker + WORKER + worker_options, logs[0]), (frontend, logs[1])):
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
                )
            self.worker, self.frontend = processes
            asyncio.run(self.wait_until_it_answers(folder))
            yield self
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for log in logs:
                log.close()
            shutil.rmtree(folder, ignore_errors=True)

    async def wait_until_it_answers(self, folder):
        deadline = time.monotonic() + START_SECONDS
        last = None
        while time.monotonic() < deadline:
            for process, name in ((self.worker, "worker"), (self.frontend, "frontend")):
                if process.poll() is not None:
                    raise SystemExit(f"{self.name}: {(folder / (name + '.log')).read_text()[-3000:]}")
            try:
                await Client(self.port).ask("hello", 2)
                return
            except (OSError, RuntimeError, EOFError, asyncio.IncompleteReadError) as error:
                last = error
                await asyncio.sleep(0.1)
        raise SystemExit(f"{self.name} does not answer: {last!r}")

    def cpu(self):
        return cpu_seconds(self.frontend.pid), cpu_seconds(self.worker.pid)

    def rss(self):
        return rss_megabytes(self.frontend.pid), rss_megabytes(self.worker.pid)


class Client:
    """One connection that streams chat completions, and as little CPU time as Python can."""

    def __init__(self, port: int):
        self.port = port
        self.reader = self.writer = None

    async def ask(self, content, tokens: int, stamps=None) -> int:
        """The number of events with text; `content` is a text, or a list of messages."""
        return await asyncio.wait_for(self._ask(content, tokens, stamps), REQUEST_SECONDS)

    async def _ask(self, content, tokens, stamps):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                "127.0.0.1", self.port, limit=1 << 20
            )
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = json.dumps(
            {
                "model": MODEL,
                "messages": messages,
                "max_tokens": tokens,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        self.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            await self.close()
            raise RuntimeError(head[:200])
        events = 0
        whole = b""
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
            if size == 0:
                break
            whole += data[:-2]
            if stamps is not None:
                stamps.append(time.perf_counter())
        if b"data: [DONE]" not in whole or b'"error"' in whole:
            raise RuntimeError(whole[-300:])
        events = whole.count(b'"content":"')
        return events

    async def close(self):
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and of those that it started."""
    total = 0.0
    for process in [pid, *children(pid)]:
        threads = pathlib.Path(f"/proc/{process}/task").iterdir()
        total += sum(int((it / "schedstat").read_text().split()[0]) for it in threads) / 1e9
    return total


def children(pid: int):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def rss_megabytes(pid: int) -> float:
    total = 0
    for process in [pid, *children(pid)]:
        for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


async def closed_loop(port: int, clients: int, prompts, tokens: int):
    """Asks every prompt, `clients` at a time. The share of tokens that had an event of their own."""
    waiting = list(reversed(prompts))
    events = 0

    async def run():
        nonlocal events
        client = Client(port)
        while waiting:
            count = await client.ask(waiting.pop(), tokens)
            events += count
        await client.close()

    await asyncio.gather(*(run() for _ in range(clients)))
    return events / (len(prompts) * tokens)


def measure(system: System, prompts, tokens: int, clients: int = 8) -> dict:
    """CPU milliseconds per request."""
    before = system.cpu()
    events = asyncio.run(closed_loop(system.port, clients, prompts, tokens))
    after = system.cpu()
    frontend, worker = ((b - a) * 1000 / len(prompts) for a, b in zip(before, after))
    return {"frontend": frontend, "worker": worker, "events": events}


async def single(port: int, count: int):
    client = Client(port)
    times = []
    for number in range(count):
        began = time.perf_counter()
        await client.ask(f"hello {number}", 8)
        times.append(time.perf_counter() - began)
    return times


async def paced_streams(port: int, streams: int, tokens: int):
    """Gaps between the chunks of paced streams, in seconds."""
    stamps = [[] for _ in range(streams)]
    clients = [Client(port) for _ in range(streams)]
    asked = (
        client.ask(f"stream {number}", tokens, stamps[number])
        for number, client in enumerate(clients)
    )
    await asyncio.gather(*asked)
    return [b - a for times in stamps for a, b in zip(times[2:], times[3:])]


def percentile(values, share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Figures:
    """What was measured of one system, round by round."""

    def __init__(self):
        self.rounds = {}

    def add(self, name: str, value: float):
        self.rounds.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])


# Tokens per word of the words above, in Qwen3's vocabulary: one each.
def prompts_of(text: Text, count: int, tokens: int):
    return [text.words(tokens) for _ in range(count)]


def cold_round(system: System, figures: Figures, options, text: Text):
    scale = options.scale
    short = measure(system, prompts_of(text, 200 * scale, 390), 64)
    figures.add("frontend ms, 400/64", short["frontend"])
    figures.add("worker ms, 400/64", short["worker"])
    figures.add("events per token", short["events"])
    long = measure(system, prompts_of(text, 60 * scale, 7_990), 16)
    figures.add("frontend ms, 8000/16 cold", long["frontend"])
    figures.add("worker ms, 8000/16", long["worker"])
    history = [{"role": "system", "content": text.words(2_000)}]
    for _ in range(5):
        history.append({"role": "user", "content": text.words(400)})
        history.append({"role": "assistant", "content": text.words(750)})
    turns = [
        [*history, {"role": "user", "content": text.words(200)}] for _ in range(60 * scale + 1)
    ]
    measure(system, turns[:1], 16)
    again = measure(system, turns[1:], 16)
    figures.add("frontend ms, 8000/16 repeated", again["frontend"])
    outputs = measure(system, prompts_of(text, 60 * scale, 20), 512)
    base = measure(system, prompts_of(text, 60 * scale, 20), 2)
    for part in ("frontend", "worker"):
        per_token = (outputs[part] - base[part]) * 1000 / 510
        figures.add(f"{part} us per output token", per_token)
    times = asyncio.run(single(system.port, 50 * scale))
    figures.add("one client p50 ms", statistics.median(times) * 1000)
    frontend, worker = system.rss()
    figures.add("frontend RSS MB", frontend)
    figures.add("worker RSS MB", worker)


def paced_round(system: System, figures: Figures, options):
    tokens = 100 * options.scale
    before = system.cpu()
    gaps = asyncio.run(paced_streams(system.port, 64, tokens))
    after = system.cpu()
    produced = 64 * tokens
    for part, b, a in zip(("frontend", "worker"), after, before):
        figures.add(f"{part} us per token, 64 paced streams", (b - a) * 1e6 / produced)
    figures.add("gap between tokens p50 ms, paced", percentile(gaps, 0.5) * 1000)
    figures.add("gap between tokens p99 ms, paced", percentile(gaps, 0.99) * 1000)


# Name, floor and aim: ours as a share of the peer's at most.
TABLE = [
    ("frontend ms, 400/64", 1 / 5, 1 / 10),
    ("worker ms, 400/64", 1 / 4, None),
    ("frontend us per output token", 1 / 4, 1 / 8),
    ("worker us per output token", 1 / 4, None),
    ("frontend ms, 8000/16 cold", 1 / 10, 1 / 20),
    ("frontend ms, 8000/16 repeated", 1 / 15, 1 / 40),
    ("worker ms, 8000/16", 1 / 4, None),
    ("frontend us per token, 64 paced streams", 1 / 3, None),
    ("worker us per token, 64 paced streams", None, None),
    ("gap between tokens p50 ms, paced", None, None),
    ("gap between tokens p99 ms, paced", None, None),
    ("one client p50 ms", 1 / 10, None),
    ("frontend RSS MB", 1 / 3, None),
    ("worker RSS MB", 1 / 5, None),
    ("events per token", None, None),
]


def show(ours: Figures, peer: Figures | None):
    print(f"{'':42}{'ours':>10}{'peer':>10}{'ratio':>8}{'floor':>8}{'aim':>8}")
    for name, floor, aim in TABLE:
        if name not in ours.rounds:
            continue
        mine = ours.median(name)
        line = f"{name:42}{mine:10.3f}"
        if peer is not None:
            theirs = peer.median(name)
            ratio = mine / theirs if theirs else float("inf")
            verdict = "" if floor is None or ratio <= floor else "  missed"
            marks = [f"{it:8.3f}" if it else f"{'-':>8}" for it in (floor, aim)]
            line += f"{theirs:10.3f}{ratio:8.3f}{''.join(marks)}{verdict}"
        print(line)


def our_commands(binary: str):
    def commands(port: int):
        worker = [binary, "mocker", "--load-report-interval", "250ms"]
        return worker, [binary, "frontend", "--http-port", str(port), "--router-mode", "kv"]

    return commands


def peer_commands(port: int):
    python = [str(PEER_PYTHON), "-m"]
    frontend = ["dynamo.frontend", "--http-port", str(port), "--router-mode", "kv"]
    return [*python, "dynamo.mocker"], [*python, *frontend]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binary", default=str(ROOT / "target/release/dynamo"))
    arguments.add_argument("--ours-only", action="store_true")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--scale", type=int, default=1, help="requests per round, as a multiple")
    arguments.add_argument("--paced-only", action="store_true")
    arguments.add_argument("--json", type=pathlib.Path)
    options = arguments.parse_args()
    systems = [System("ours", our_commands(options.binary), {})]
    if not options.ours_only:
        alone = {"DYN_REQUEST_PLANE": "tcp", "DYN_EVENT_PLANE": "zmq", "HF_HUB_OFFLINE": "1"}
        systems.append(System("peer", peer_commands, alone))
    figures = [Figures() for _ in systems]
    with contextlib.ExitStack() as stack:
        rounds = 0 if options.paced_only else options.rounds
        for system in systems if rounds else []:
            stack.enter_context(system.running(FLAT_OUT))
        for number in range(rounds):
            for system, own in zip(systems, figures):
                cold_round(system, own, options, Text(number))
    # A decode step of 64 short sequences takes about 6 ms by the published timing: 20 ms at this.
    with contextlib.ExitStack() as stack:
        for system in systems:
            stack.enter_context(system.running(["--speedup-ratio", "0.3"]))
        for _ in range(options.rounds):
            for system, own in zip(systems, figures):
                paced_round(system, own, options)
    show(figures[0], figures[1] if len(figures) > 1 else None)
    if options.json:
        named = {system.name: own.rounds for system, own in zip(systems, figures)}
        options.json.write_text(json.dumps(named, indent=1))


if __name__ == "__main__":
    main()
