"""Who is started, asked to end and killed, and when. Pure: time is an argument, in seconds.

Everything ends in the order of the graph: first those that nobody calls (frontends stop taking),
then those that they called. Each stage has a bound; what is left after it is killed, and the next
one is asked. A second signal kills all at once.

| code | when |
|-----:|------|
| 0 | all components ended after a signal, within their time |
| 1 | a component could not start, or ended by itself |
| 2 | the command line, the graph or the file is wrong |
| 3 | components had to be killed, or cut work off |
| 130, 143 | a second signal came: SIGINT, SIGTERM |
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from dynamo.serve.plan import Process

SUCCESS = 0
FAILURE = 1
CUT_OFF = 3

#: How long a stage may take to end: a component's own `--drain-timeout` is 30 s, and it needs a
#: moment to begin and to end.
DEFAULT_DRAIN_SECONDS = 40.0

#: How often a component is started again before it counts as broken, of itself within the window
#: below: one that fails at once must not fill the screen for ever.
MAX_RESTARTS = 5
RESTART_WINDOW_SECONDS = 300.0

#: The first wait before a component is started again, and the longest: twice as long each time.
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0


class Phase(Enum):
    """Where the whole stands."""

    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"


@dataclass(frozen=True)
class Start:
    """Start a process."""

    name: str


@dataclass(frozen=True)
class Terminate:
    """Ask a process to end."""

    name: str


@dataclass(frozen=True)
class Kill:
    """Kill a process and what it started."""

    name: str


@dataclass(frozen=True)
class Say:
    """Tell the user."""

    text: str


Action = Start | Terminate | Kill | Say


@dataclass
class _State:
    process: Process
    is_alive: bool = False
    restarts: list[float] = field(default_factory=list)
    #: When it is to be started again.
    due: float | None = None


class Lifecycle:
    """The decisions. Every input returns what is to be done now."""

    def __init__(
        self,
        processes: Sequence[Process],
        drain_seconds: float = DEFAULT_DRAIN_SECONDS,
        restarts: bool = False,
    ) -> None:
        self._states = {process.name: _State(process) for process in processes}
        self._drain_seconds = drain_seconds
        self._restarts = restarts
        self.phase = Phase.RUNNING
        self.status = SUCCESS
        self._stage = -1
        self._deadline = 0.0
        self._is_killed = False

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do, if nothing else happens before."""
        due = [it.due for it in self._states.values() if it.due is not None]
        if self.phase is Phase.DRAINING and not self._is_killed:
            due.append(self._deadline)
        return min(due, default=None)

    def start(self) -> list[Action]:
        """Starts all of them."""
        if not self._states:
            self.phase = Phase.ENDED
        for state in self._states.values():
            state.is_alive = True
        return [Start(name) for name in self._states]

    def could_not_start(self, name: str, why: str, now: float) -> list[Action]:
        """A process is not there."""
        self._states[name].is_alive = False
        return [Say(f"{name} could not be started: {why}"), *self._fail(now)]

    def ended(self, name: str, code: int, now: float) -> list[Action]:
        """A process has ended: its exit code, or minus the signal that ended it."""
        state = self._states[name]
        state.is_alive = False
        if self.phase is Phase.RUNNING:
            return self._ended_by_itself(state, code, now)
        actions: list[Action] = []
        if code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM) and not self._is_killed:
            self._worsen(CUT_OFF if code == CUT_OFF else FAILURE)
            actions.append(Say(f"{name} ended with {_shown(code)} when it was asked to end"))
        return [*actions, *self._next_stage(now)]

    def signalled(self, number: int, now: float) -> list[Action]:
        """Somebody asks for the end."""
        name = signal.Signals(number).name
        if self.phase is Phase.RUNNING:
            return [Say(f"{name}: asks the components to end, callers first"), *self._drain(now)]
        if self.phase is Phase.DRAINING and not self._is_killed:
            self.status = 128 + number
            return [Say(f"{name} again: kills what is left"), *self._kill_all()]
        return []

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        for name, state in self._states.items():
            if self.phase is Phase.RUNNING and state.due is not None and now >= state.due:
                state.due, state.is_alive = None, True
                actions.append(Start(name))
        if self.phase is Phase.DRAINING and not self._is_killed and now >= self._deadline:
            late = [it for it in self._alive() if it.process.stage <= self._stage]
            self._worsen(CUT_OFF)
            self._deadline = now + self._drain_seconds
            for state in late:
                name = state.process.name
                actions += [
                    Say(f"{name} has not ended within {self._drain_seconds:g} s: kills it"),
                    Kill(name),
                ]
        return actions

    # -- decisions

    def _alive(self) -> list[_State]:
        return [state for state in self._states.values() if state.is_alive]

    def _ended_by_itself(self, state: _State, code: int, now: float) -> list[Action]:
        name = state.process.name
        said = Say(f"{name} ended with {_shown(code)}")
        if not self._restarts:
            return [said, *self._fail(now)]
        state.restarts = [it for it in state.restarts if now - it < RESTART_WINDOW_SECONDS]
        if len(state.restarts) >= MAX_RESTARTS:
            text = f"{name} was started again {MAX_RESTARTS} times within {RESTART_WINDOW_SECONDS:g} s: gives up"
            return [said, Say(text), *self._fail(now)]
        wait = min(FIRST_BACKOFF_SECONDS * 2 ** len(state.restarts), LONGEST_BACKOFF_SECONDS)
        state.restarts.append(now)
        state.due = now + wait
        return [said, Say(f"{name} is started again in {wait:g} s")]

    def _fail(self, now: float) -> list[Action]:
        self._worsen(FAILURE)
        if self.phase is not Phase.RUNNING:
            return self._next_stage(now)
        if not self._alive():
            return self._drain(now)
        return [Say("stops the others"), *self._drain(now)]

    def _worsen(self, status: int) -> None:
        # What failed first is what the exit code is about.
        if self.status == SUCCESS:
            self.status = status

    def _drain(self, now: float) -> list[Action]:
        self.phase = Phase.DRAINING
        for state in self._states.values():
            state.due = None
        return self._next_stage(now)

    def _next_stage(self, now: float) -> list[Action]:
        """Asks the next components to end, once those before them have."""
        alive = self._alive()
        if not alive:
            self.phase = Phase.ENDED
            return []
        lowest = min(state.process.stage for state in alive)
        if self._is_killed or lowest <= self._stage:
            return []
        self._stage = lowest
        self._deadline = now + self._drain_seconds
        return [Terminate(it.process.name) for it in alive if it.process.stage == lowest]

    def _kill_all(self) -> list[Action]:
        self._is_killed = True
        return [Kill(state.process.name) for state in self._alive()]


def _shown(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
