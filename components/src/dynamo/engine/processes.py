"""The engine's own processes: they end with their worker, and only with it.

Engines start processes of their own by `multiprocessing`. `spawn` is used, as a forked process
would keep this one's sockets and the locks by which others see that it lives. A spawned process
imports what its parent names as the main module: `adopt` names `dynamo.engine.spawned`, which calls
`belong_to_worker` there.
"""

import contextlib
import ctypes
import importlib.util
import multiprocessing
import os
import signal
import sys

#: `prctl`: the signal that a process gets when the thread that started it is gone.
_PR_SET_PDEATHSIG = 1

#: The name of the main module in a process that `multiprocessing` has spawned.
SPAWNED = "__mp_main__"


def adopt() -> None:
    """Lets every process that is spawned from here on belong to this worker."""
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("dynamo.engine.spawned")


def belong_to_worker() -> None:
    """Makes this process of an engine end with its worker, however that ends, and lets a Ctrl-C in
    the terminal reach the worker alone, which drains before it ends the engine."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)


def end_children() -> None:
    """Ends the processes that an engine has started, when it cannot be asked to."""
    for child in multiprocessing.active_children():
        child.terminate()
