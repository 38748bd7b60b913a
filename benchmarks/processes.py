"""Starts dynamo processes for benchmarks, waits for the address each prints, and stops them."""

import contextlib
import http.client
import json
import pathlib
import subprocess
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
DYNAMO = ROOT / "target/release/dynamo"
START_SECONDS = 60
REST_SECONDS = 30
STILL_SECONDS = 1


@contextlib.contextmanager
def dynamo(*arguments: str, environment: dict, cores: str | None = None):
    """Yields the process and the address it serves."""
    command = [str(DYNAMO), *arguments]
    if cores is not None:
        command = ["taskset", "-c", cores, *command]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    )
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit(f"{' '.join(command)} did not start")
        yield process, address
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def get(url: str, path: str):
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=START_SECONDS)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, json.load(response)


def wait_for_model(url: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _, body = get(url, "/v1/models")
        if body["data"]:
            return body["data"][0]["id"]
        time.sleep(0.02)
    raise SystemExit(f"{url} lists no model")


def rss_megabytes(pid: int) -> float:
    return status_megabytes(pid, "VmRSS:")


def wait_for_rest(pid: int) -> None:
    """Until the process's memory stands still: for as long as it takes to give back what loading
    took, at most."""
    deadline = time.monotonic() + REST_SECONDS
    seen, since = None, 0.0
    while (now := time.monotonic()) < deadline:
        if (memory := rss_megabytes(pid)) != seen:
            seen, since = memory, now
        elif now - since >= STILL_SECONDS:
            return
        time.sleep(0.05)
    raise SystemExit(f"the memory of process {pid} does not stand still")


def peak_megabytes(pid: int) -> float:
    """The most memory that the process ever had in RAM."""
    return status_megabytes(pid, "VmHWM:")


def status_megabytes(pid: int, field: str) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} is gone")


def cpu_seconds(pid: int) -> float:
    """CPU time, user's and system's, of the threads that live. Nanoseconds, where the figures of
    /proc/PID/stat are hundredths of a second."""
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
