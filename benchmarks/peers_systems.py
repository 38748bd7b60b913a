"""Starts and stops the two systems that benchmarks/peers.py measures, each a frontend and one
simulated worker, and reads what their processes cost. Nothing here waits without a limit."""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from peers_client import Client
from processes import ROOT, rss_megabytes

MODEL = "q"
TOKENIZER = ROOT / ".models/tokenizers/qwen3"
START_SECONDS = 90
STOP_SECONDS = 5
# What the peer wants to know of a model beyond its tokenizer; ours takes it as well.
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
WORKER = ["--model-name", MODEL, "--num-gpu-blocks-override", "16384", "--max-num-seqs", "512"]


class Failed(Exception):
    """A system did not start, died, or did not answer in time."""


class System:
    """One of the two; `frontend` and `worker` are the commands without their common options."""

    def __init__(self, name: str, frontend: list[str], worker: list[str]):
        self.name = name
        self.commands = {"worker": worker, "frontend": frontend}
        self.processes = {}
        self.folder = None

    def start(self, worker_options: list[str]):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="peers-"))
        (self.folder / "discovery").mkdir(mode=0o700)
        self.port = free_port()
        model = model_folder(self.folder / "model")
        worker = ["--model-path", str(model), *WORKER, *worker_options]
        self.spawn("worker", worker)
        self.spawn("frontend", ["--http-port", str(self.port), "--router-mode", "kv"])
        asyncio.run(self.wait_until_it_answers())

    def spawn(self, part: str, options: list[str]):
        folder = str(self.folder)
        with open(self.folder / f"{part}.log", "wb") as log:
            self.processes[part] = subprocess.Popen(
                [*self.commands[part], *options],
                # Both systems keep what they fetch in the home folder.
                env={
                    **os.environ,
                    "HOME": folder,
                    "HF_HUB_OFFLINE": "1",
                    "DYN_DISCOVERY_BACKEND": "file",
                    "DYN_FILE_KV": f"{folder}/discovery",
                    "DYN_REQUEST_PLANE": "tcp",
                    **({"DYN_EVENT_PLANE": "zmq"} if self.name == "peer" else {}),
                },
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait_until_it_answers(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            client = Client(self.port, MODEL)
            try:
                await client.ask("hello", 2)
                return
            except (OSError, RuntimeError, EOFError) as error:
                if time.monotonic() > deadline:
                    raise Failed(f"{self.name} does not answer: {error!r}") from error
            finally:
                client.close()
            await asyncio.sleep(0.1)

    def check(self):
        """Fails if a process has died."""
        for part, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / f"{part}.log").read_text(errors="replace")
                raise Failed(f"the {part} of {self.name} ended with {process.returncode}: {log[-2000:]}")

    def stop(self):
        """Ends the processes that were started, by their process groups, those that hang as well."""
        for send in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes.values():
                if process.poll() is None:
                    os.killpg(process.pid, send)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and self.is_alive():
                time.sleep(0.05)
        self.processes = {}
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def is_alive(self) -> bool:
        return any(process.poll() is None for process in self.processes.values())

    def cpu_seconds(self) -> dict[str, float]:
        return {part: cpu_seconds(process.pid) for part, process in self.processes.items()}

    def rss_megabytes(self) -> dict[str, float]:
        return {
            part: sum(rss_megabytes(pid) for pid in family(process.pid))
            for part, process in self.processes.items()
        }


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def model_folder(folder: pathlib.Path) -> pathlib.Path:
    shutil.copytree(TOKENIZER, folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | CONFIG))
    return folder


def family(pid: int) -> list[int]:
    """The process and all that it started."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time, user's and system's, of all threads, those that have ended too, and of children: the
    sum that /proc/PID/stat tells in hundredths of a second, here from the process's CPU clock."""
    total = 0.0
    for member in family(pid):
        total += time.clock_gettime(~member << 3 | 2)
        ended_children = pathlib.Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()[13:15]
        total += sum(map(int, ended_children)) / os.sysconf("SC_CLK_TCK")
    return total
