"""The command `dynamo serve MODULE:GRAPH`."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from dynamo.graph.graph import GraphError
from dynamo.graph.loading import load
from dynamo.runtime.arguments import DynamoFlexibleArgumentParser, config_file
from dynamo.runtime.arguments.layers import ConfigFile
from dynamo.serve import output
from dynamo.serve.lifecycle import (
    DEFAULT_DRAIN_SECONDS,
    Action,
    Kill,
    Lifecycle,
    Phase,
    Say,
    Start,
    Terminate,
)
from dynamo.serve.plan import PlanError, Process, plan
from dynamo.serve.processes import Processes

WRONG_USAGE = 2

_EPILOG = """
Each section of the file is a component, by the name of its class or by its own; its keys are the
component's flags. Keys of the section Common go to those that name them in `common-configs`.

The exit status is 0 if all components ended after a signal, 1 if one could not start or ended by
itself, 2 if the command line, the graph or the file is wrong, 3 if components had to be killed.

Examples:
  dynamo serve examples.mocker.agg:GRAPH -f configs/deployments/mocker/agg.yaml
  dynamo serve examples.mocker.agg:GRAPH -f ... --dry-run      only print the command lines
  python3 -m dynamo.serve examples.mocker.agg:GRAPH -f ...     the same
  dynamo serve --help                                          one component: in=... out=...
"""


def parser() -> DynamoFlexibleArgumentParser:
    """What the command takes."""
    made = DynamoFlexibleArgumentParser(
        "dynamo serve",
        usage="%(prog)s MODULE:GRAPH -f FILE [OPTIONS]",
        config_file=False,
        description="Runs the components of a graph on this machine.",
        epilog=_EPILOG,
    )
    made.add_argument("graph", metavar="MODULE:GRAPH", help="a Python module, as python3 -m finds it, and the list of components in it")
    made.add_argument(
        "--file", "-f", type=Path, help="YAML or TOML file with the components' options"
    )
    made.add_argument(
        "--drain-timeout",
        type=timedelta,
        default=timedelta(seconds=DEFAULT_DRAIN_SECONDS),
        min=timedelta(0),
        env="DYN_SERVE_DRAIN_TIMEOUT",
        help="how long each stage of components may take to end; then it is killed",
    )
    made.add_argument(
        "--restart",
        type=bool,
        default=False,
        env="DYN_SERVE_RESTART",
        help="start a component again that ends by itself, instead of stopping all",
    )
    made.add_argument(
        "--python",
        default=sys.executable,
        env="DYN_SERVE_PYTHON",
        help="interpreter that starts the components [default: the one of this command]",
    )
    made.add_argument(
        "--dry-run", action="store_true", help="print what would be started, and exit"
    )
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    arguments = parser().parse_args(words)
    try:
        processes = _planned(arguments)
    except (GraphError, PlanError, config_file.FileTrouble) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    if arguments.dry_run:
        for process in processes:
            print(process.shown())
        return 0
    lifecycle = Lifecycle(processes, arguments.drain_timeout.total_seconds(), arguments.restart)
    return asyncio.run(_Serving(processes, lifecycle).run())


def _planned(arguments: argparse.Namespace) -> list[Process]:
    graph = load(arguments.graph)
    file = None
    if arguments.file is not None:
        file = ConfigFile(str(arguments.file), config_file.read(arguments.file))
    return plan(graph, file, arguments.python)


class _Serving:
    """The lifecycle's decisions, carried out."""

    def __init__(self, processes: Sequence[Process], lifecycle: Lifecycle) -> None:
        self._by_name = {process.name: process for process in processes}
        self._lifecycle = lifecycle
        width = max((len(name) for name in self._by_name), default=0)
        self._processes = Processes(self._ended, width)
        #: Something has happened, so that the deadline may be another one. Holds what is left to
        #: do, in order: at most a few actions for each process.
        self._left: asyncio.Queue[list[Action]] = asyncio.Queue()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            await self._do(self._lifecycle.start())
            while self._lifecycle.phase is not Phase.ENDED:
                await self._do(await self._next())
            while not self._left.empty():
                # What was decided with the end itself is still to be said.
                await self._do(self._left.get_nowait())
        finally:
            self._processes.kill_all()
        return self._lifecycle.status

    async def _next(self) -> list[Action]:
        deadline = self._lifecycle.deadline
        wait = None if deadline is None else max(deadline - time.monotonic(), 0)
        try:
            return await asyncio.wait_for(self._left.get(), wait)
        except (TimeoutError, asyncio.TimeoutError):
            return self._lifecycle.tick(time.monotonic())

    def _ended(self, name: str, code: int) -> None:
        self._left.put_nowait(self._lifecycle.ended(name, code, time.monotonic()))

    def _signalled(self, number: int) -> None:
        self._left.put_nowait(self._lifecycle.signalled(number, time.monotonic()))

    async def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                _say(action.text)
            elif isinstance(action, Start):
                await self._start(self._by_name[action.name])
            elif isinstance(action, Terminate):
                self._processes.terminate(action.name)
            elif isinstance(action, Kill):
                self._processes.kill(action.name)

    async def _start(self, process: Process) -> None:
        if self._lifecycle.phase is not Phase.RUNNING:
            # Asked to end while the others were being started.
            self._ended(process.name, 0)
            return
        _say(f"{process.name}: {process.shown()}")
        try:
            await self._processes.start(process)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            now = time.monotonic()
            self._left.put_nowait(self._lifecycle.could_not_start(process.name, why, now))


def _say(text: str) -> None:
    output.say(sys.stderr, f"dynamo serve: {text}\n")
