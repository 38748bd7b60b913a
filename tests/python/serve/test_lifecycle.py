"""Who is started, asked to end and killed: decisions, with time as an argument."""

import random
import signal

import pytest

from dynamo.serve.lifecycle import (
    CUT_OFF,
    FAILURE,
    MAX_RESTARTS,
    RESTART_WINDOW_SECONDS,
    SUCCESS,
    Kill,
    Lifecycle,
    Phase,
    Say,
    Start,
    Terminate,
)
from dynamo.serve.plan import Process

PROCESSES = [
    Process("worker.0", "worker", 1, ("w",)),
    Process("worker.1", "worker", 1, ("w",)),
    Process("frontend", "frontend", 0, ("f",)),
]


def started(**more):
    lifecycle = Lifecycle(PROCESSES, **more)
    assert [it.name for it in lifecycle.start()] == ["worker.0", "worker.1", "frontend"]
    return lifecycle


def doings(actions):
    return [action for action in actions if not isinstance(action, Say)]


def said(actions):
    return [action.text for action in actions if isinstance(action, Say)]


def test_callers_end_before_those_they_call():
    lifecycle = started()
    assert doings(lifecycle.signalled(signal.SIGINT, 0)) == [Terminate("frontend")]
    assert doings(lifecycle.ended("frontend", 0, 1)) == [
        Terminate("worker.0"),
        Terminate("worker.1"),
    ]
    assert doings(lifecycle.ended("worker.0", 0, 2)) == []
    lifecycle.ended("worker.1", -signal.SIGTERM, 2)
    assert (lifecycle.phase, lifecycle.status) == (Phase.ENDED, SUCCESS)


def test_a_stage_that_is_late_is_killed_and_the_next_one_is_asked():
    lifecycle = started(drain_seconds=10)
    lifecycle.signalled(signal.SIGTERM, 5)
    assert lifecycle.deadline == 15
    assert doings(lifecycle.tick(14.9)) == []
    assert doings(lifecycle.tick(15)) == [Kill("frontend")]
    assert len(doings(lifecycle.ended("frontend", -9, 15))) == 2
    assert lifecycle.deadline == 25
    lifecycle.ended("worker.0", 0, 16)
    lifecycle.ended("worker.1", 0, 16)
    assert (lifecycle.phase, lifecycle.status) == (Phase.ENDED, CUT_OFF)


def test_a_component_that_ends_by_itself_ends_all():
    lifecycle = started()
    actions = lifecycle.ended("worker.1", 1, 3)
    assert said(actions) == ["worker.1 ended with status 1", "stops the others"]
    assert doings(actions) == [Terminate("frontend")]
    assert doings(lifecycle.ended("frontend", 0, 4)) == [Terminate("worker.0")]
    lifecycle.ended("worker.0", 0, 5)
    assert (lifecycle.phase, lifecycle.status) == (Phase.ENDED, FAILURE)


def test_one_that_ends_well_but_unasked_ends_all_too():
    lifecycle = started()
    lifecycle.ended("worker.1", 0, 3)
    assert lifecycle.status == FAILURE


def test_a_second_signal_kills():
    lifecycle = started()
    lifecycle.signalled(signal.SIGTERM, 0)
    assert doings(lifecycle.signalled(signal.SIGINT, 1)) == [
        Kill("worker.0"),
        Kill("worker.1"),
        Kill("frontend"),
    ]
    assert doings(lifecycle.signalled(signal.SIGINT, 1)) == []
    for process in PROCESSES:
        lifecycle.ended(process.name, -9, 2)
    assert (lifecycle.phase, lifecycle.status) == (Phase.ENDED, 130)


def test_what_could_not_start_stops_the_others():
    lifecycle = started()
    actions = lifecycle.could_not_start("worker.0", "no such file", 0)
    assert said(actions)[0] == "worker.0 could not be started: no such file"
    assert doings(actions) == [Terminate("frontend")]


def test_restarts_wait_longer_each_time_and_are_bounded():
    lifecycle = started(restarts=True)
    now, waits = 0.0, []
    for _ in range(MAX_RESTARTS):
        assert doings(lifecycle.ended("worker.0", 1, now)) == []
        assert lifecycle.deadline is not None
        waits.append(lifecycle.deadline - now)
        assert doings(lifecycle.tick(lifecycle.deadline - 0.01)) == []
        now = lifecycle.deadline
        assert doings(lifecycle.tick(now)) == [Start("worker.0")]
    assert waits == sorted(waits) and waits[0] < waits[-1]
    assert doings(lifecycle.ended("worker.0", 1, now)) == [Terminate("frontend")]
    assert lifecycle.status == FAILURE


def test_restarts_of_long_ago_do_not_count():
    lifecycle = started(restarts=True)
    for turn in range(3 * MAX_RESTARTS):
        now = turn * RESTART_WINDOW_SECONDS
        assert doings(lifecycle.ended("worker.0", 1, now)) == []
        lifecycle.tick(now + 100)
    assert lifecycle.phase is Phase.RUNNING


def test_a_restart_that_waits_is_given_up_when_all_end():
    lifecycle = started(restarts=True)
    lifecycle.ended("worker.0", 1, 0)
    lifecycle.signalled(signal.SIGINT, 0.1)
    assert doings(lifecycle.tick(1)) == []


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_it_comes_to_an_end(seed):
    """Processes that end, or do not when they are asked; signals; time. Nothing alive is forgotten."""
    source = random.Random(seed)
    lifecycle = Lifecycle(PROCESSES, drain_seconds=10, restarts=source.random() < 0.5)
    alive, killed, now = set(), set(), 0.0

    def do(actions):
        for action in actions:
            if isinstance(action, Start):
                assert action.name not in alive
                alive.add(action.name)
            elif isinstance(action, Terminate):
                assert action.name in alive
            elif isinstance(action, Kill):
                killed.add(action.name)

    do(lifecycle.start())
    for step in range(1_000):
        if lifecycle.phase is Phase.ENDED:
            break
        now += source.random() * 5
        if killed & alive:
            name = sorted(killed & alive)[0]
            alive.discard(name)
            killed.discard(name)
            do(lifecycle.ended(name, -9, now))
        elif source.random() < 0.2 and alive:
            name = source.choice(sorted(alive))
            alive.discard(name)
            do(lifecycle.ended(name, source.choice([0, 1, -15, 3]), now))
        elif source.random() < 0.02 or step > 500:
            do(lifecycle.signalled(source.choice([signal.SIGINT, signal.SIGTERM]), now))
        else:
            do(lifecycle.tick(now))
    assert lifecycle.phase is Phase.ENDED
    assert not alive
