"""The processes: started, listened to, asked to end, killed."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

from dynamo.serve import output
from dynamo.serve.plan import Process

#: `prctl`'s request for a signal when the parent ends.
_PR_SET_PDEATHSIG = 1

#: How long the output of a process that has ended may still come: processes that it started may
#: hold its pipes.
_LAST_LINES_SECONDS = 1.0


class Processes:
    """What runs, by name.

    Each process leads a group of its own: Ctrl-C in a terminal reaches this process alone, which
    then asks the others in their order; and what a process has started is killed with it. If this
    process is killed itself, its children are asked to end by the kernel.
    """

    def __init__(self, ended: Callable[[str, int], None], width: int) -> None:
        self._ended = ended
        self._width = width
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, process: Process) -> None:
        """Starts one.

        Raises:
            OSError: it cannot be started.
        """
        child = await asyncio.create_subprocess_exec(
            *process.words,
            env={**os.environ, **process.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_follow_parent if sys.platform == "linux" else None,
        )
        self._running[process.name] = child
        task = asyncio.create_task(self._watch(process.name, child))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def terminate(self, name: str) -> None:
        """Asks one to end."""
        if (child := self._running.get(name)) is not None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()

    def kill(self, name: str) -> None:
        """Kills one and what it started."""
        if (child := self._running.get(name)) is not None:
            _kill_group(child.pid)

    def kill_all(self) -> None:
        """Kills whatever is left."""
        for name in list(self._running):
            self.kill(name)

    async def _watch(self, name: str, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None and child.stderr is not None
        label = output.label(name, self._width)
        copies = [
            asyncio.create_task(output.copy(child.stdout, sys.stdout, label)),
            asyncio.create_task(output.copy(child.stderr, sys.stderr, label)),
        ]
        code = await child.wait()
        # What it started and left behind ends with it.
        _kill_group(child.pid)
        await asyncio.wait(copies, timeout=_LAST_LINES_SECONDS)
        for copy in copies:
            copy.cancel()
        del self._running[name]
        self._ended(name, code)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _follow_parent() -> None:
    """In the child, before it becomes the component: whoever started it is not to leave it behind."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
