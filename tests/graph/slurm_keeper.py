"""Runs a program, and leaves nothing of it: `python3 slurm_keeper.py PARENT PROGRAM WORDS...`

A node daemon of Slurm starts what runs a job as a daemon of its own, so that jobs survive it. In a
test they must not. This process is told of every orphan below it (it is their "subreaper"), so that
all that the program started is found, whatever it did to get away. When it is asked to end, or when
PARENT, who started it, dies in whatever way, it ends the program and then kills the rest.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: Seconds that the program has to end by itself when it is asked to.
GRACE = 20.0

#: What ends the program, or tells of an end.
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def descendants():
    """Every process below this one."""
    children = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = path.read_text().partition(" (")
            parent = int(rest.rpartition(") ")[2].split()[1])
            children.setdefault(parent, []).append(int(pid))
    found = []
    left = [os.getpid()]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def reap():
    """Waits for all that have ended, adopted ones too; their ids."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) > 0:
            ended.append(pid)
    return ended


def main(parent, words):
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    assert prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if os.getppid() != parent:
        return
    program = subprocess.Popen(
        words, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, [])
    )
    deadline = None
    while program.pid not in reap():
        told = signal.sigtimedwait(SIGNALS, 1.0)
        if told and told.si_signo != signal.SIGCHLD and deadline is None:
            # Nobody waits for it any more if the parent has died.
            orphaned = os.getppid() != parent
            deadline = time.monotonic() + (0 if orphaned else GRACE)
            program.send_signal(signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            break
    while left := descendants():
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
