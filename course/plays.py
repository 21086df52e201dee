"""A distributed run on the simulated Ray, played under a seeded schedule and recorded.

The seed decides which call arrives first, how long each takes, and which processes are slow. What is kept: every step
of every process, the server's table around each call, the tables that processes got, and how it ended.
"""

from __future__ import annotations

import collections
import contextlib
import inspect
import os
import random
import sys
import weakref
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import numpy as np
from ray.cloudpickle import cloudpickle
from ray.exceptions import RayError

from tabular.simulated_ray import NotSimulated, Stuck, Watcher, simulated
from tabular.simulation import Call, Process, Strand

from . import chance, recorder, roles
from .errors import in_words
from .experience import Shipped
from .recorder import Endless, Log
from .roles import Missing

STATES = len(recorder.LAKE) ** 2 + 1
SETTINGS = {
    "epsilon": 0.3, "learning_rate": 0.23, "learning_episodes": 24, "map_size": len(recorder.LAKE), "test_interval": 4,
    "action_space": 4, "beta": 0.999, "do_test": True, "cw_num": 3, "ew_num": 2, "batch_size": 2,
}  # fmt: skip
MOST = 20  # times as many episodes as were asked for are sent: nobody will end it
IDLE = 6_000  # turns without a step of any process: nothing will come any more
AFTERWARDS = 30.0  # seconds of the virtual clock that processes get to end in


class Injected(RuntimeError):
    """An error that the grader raises in a call, to see whether anybody notices."""


class Asked(NamedTuple):
    """A call to an actor."""

    target: str  # the name of the class
    process: int
    method: str
    caller: int
    steps: list[tuple[int, list]]  # (number in the log, row) of those that it carried
    before: np.ndarray | None
    after: np.ndarray | None
    time: float
    taken: int  # steps that all processes had taken


class Actor(NamedTuple):
    """A process, as one sees it from outside."""

    number: int
    name: str
    is_task: bool
    born: float
    ended: float | None


class Play(Watcher):
    """A run of `distributed_QL_agent(...).learn_and_evaluate()` under a schedule."""

    def __init__(
        self,
        names: dict,
        seed: int,
        *,
        schedule: int = 0,
        failing: str = "",
        globals_=(),
        most_events: int = 60_000,
        **changed,
    ):
        self.settings, self.schedule = SETTINGS | changed, schedule
        self.failing, self.most_events = failing, most_events
        self._ends = 0  # of episodes that were sent
        self._turns, self._progress = 0, (0, 0)  # turns, and events of the log at one of them
        self._failing_calls, self.raised = 0, False
        self.first_error: BaseException | None = None  # that a process raised by itself
        self.log = log = Log(budget=60_000)
        self.shipped = Shipped(log)
        self.calls: list[Asked] = []
        self.got: dict[int, list[np.ndarray]] = collections.defaultdict(list)  # tables, by process
        self.born: dict[int, float] = {}
        self.died: dict[int, float] = {}
        self.trials: dict[int, int] = {}  # by process, how many its task was told to run
        self._around: dict[int, tuple] = {}
        self._chances: dict[Strand, tuple] = {}
        self._classes: dict[Strand, tuple] = {}
        self._tables: dict[int, str | None] = {}
        self._delays: dict[int, float] = {}
        self._slept: dict[int, int] = {}  # by process, how many tables it had got then
        self.returned, self.error, self.stuck, self.finished = None, "", "", False
        self.not_simulated = ""
        self.returned_at = self.ended_at = 0
        self.running: list[Actor] = []
        self.seed = chance.mixed(seed, 5, schedule)
        self._names, self._module, self._real_pid = names, names["__name__"], os.getpid()
        with contextlib.ExitStack() as stack:
            simulator = stack.enter_context(roles.lakes(names, log))
            names.update(self.settings | dict(globals_))
            stack.enter_context(chance.repeatable(seed, names))
            stack.enter_context(mock.patch.object(os, "getpid", self._pid))
            stack.enter_context(own_classes())
            self._play(names, simulator)

    def _pid(self) -> int:
        """What a submission takes for the number of its process; others get the real one."""
        if sys._getframe(1).f_globals.get("__name__") != self._module:
            return self._real_pid
        return 1000 + getattr(self.simulation.running, "number", -1)

    def _play(self, names: dict, simulator) -> None:
        with simulated(self.seed, most_events=self.most_events) as simulation:
            self.simulation = simulation
            simulation.watcher = self
            self.log.process = lambda: getattr(simulation.running, "number", -1)
            self.log.table_of = self._table_at_hand
            self.log.on_reset = self._take_time
            self.log.before_step = self._fail_in_a_step
            try:
                with_ray(names)
                self.called, cls = roles.class_of(names, "distributed")
                self._learn(cls, simulator)
                self.returned_at = len(self.calls)
                if self.finished:
                    with contextlib.suppress(Stuck):
                        simulation.sleep(AFTERWARDS)
            except NotSimulated as missing:
                self.not_simulated = str(missing)
            self.actors = [self._actor(one) for one in simulation.processes.values()]
            self.running = [one for one in simulation.processes.values() if not one.dead and self._is_at_work(one)]
            self.story = list(simulation.log)

    def _learn(self, cls, simulator) -> None:
        try:
            agent, self.taken = roles.made(cls, self.settings | {"simulator": simulator})
            run = roles.method_of(agent, "run")
            if run is None:
                raise Missing(f"{self.called} has no method learn_and_evaluate")
            self.returned = run()
            self.finished = True
        except (Missing, NotSimulated):
            raise
        except Stuck as stuck:
            last = self.calls[-1].method if self.calls else "nothing"
            waits = "nothing can happen any more" if "nothing" in str(stuck) else f"{last} is called again and again"
            self.stuck = f"after {self.simulation.calls} calls {waits}"
        except Endless:
            self.stuck = "it took more steps than it can need"
        except BaseException as problem:
            cause = getattr(problem, "cause", None) or problem
            if isinstance(cause, NotSimulated):
                self.not_simulated = str(cause)
            if isinstance(cause, RayError) and self.first_error is not None:  # of which Ray tells in a text of its own
                cause = self.first_error
            self.error = in_words(cause)
            if self.log.exhausted:
                self.stuck = "it took more steps than it can need"

    def _actor(self, process: Process) -> Actor:
        number = process.number
        ended = self.died.get(number)
        return Actor(number, process.name.rpartition(" ")[0], process.is_task, self.born.get(number, 0.0), ended)

    @staticmethod
    def _is_at_work(process: Process) -> bool:
        """Whether a process is within a call that it has not come back from."""
        return process.thread is not None and not process.ended and (process.is_task or process.busy)

    # What the simulation tells

    def paused(self, strand: Strand) -> None:
        """Keep the random numbers and the classes of a process apart from those of others."""
        self._chances[strand] = chance.saved()
        self._classes[strand] = known_classes()

    def resumed(self, strand: Strand) -> None:
        """Go on with the process's own; where nobody has taken a step for long the end is near."""
        self._turns += 1
        if len(self.log.events) > self._progress[1]:
            self._progress = (self._turns, len(self.log.events))
        elif self._turns - self._progress[0] > IDLE:
            self.simulation.most_events = 0
        if strand in self._chances:
            chance.restore(self._chances[strand])
            know_classes(self._classes[strand])
        else:
            chance.start_process(self.seed, 1 + getattr(strand, "number", -1))
            know_classes(no_classes())

    def begins(self, process: Process, call: Call, arguments: list, settings: dict) -> None:
        """Keep the table before a call, and what the call brings."""
        self.born.setdefault(process.number, self.simulation.now)
        given = (*arguments, *settings.values())
        self._receive(process.number, given)
        if process.is_task:
            self._note_trials(process, arguments, settings)
        if call.starts or process.is_task:
            return
        caller = getattr(call.caller, "number", -1)
        steps = self.shipped.steps_in(given, caller)
        self._around[process.number] = (caller, steps, self._held_table(process), len(self.log.events))
        self._ends += sum(self.log.events[number].done for number, _ in steps)
        if self._ends > MOST * self.settings["learning_episodes"]:
            self.log.exhausted = True
            raise Endless
        if self.failing == call.method:
            self._failing_calls += 1
            if self._failing_calls == 2:
                self.raised = True
                raise Injected("raised by the grader")

    def _note_trials(self, process: Process, arguments: list, settings: dict) -> None:
        """Keep the number of trials that a task is told, or that it has by default."""
        task = roles.unwrapped(self._names.get(process.name.rpartition(" ")[0]))
        with contextlib.suppress(TypeError, ValueError):
            bound = inspect.signature(task).bind(*arguments, **settings)
            bound.apply_defaults()
            trials = bound.arguments.get("trials")
            if isinstance(trials, int):
                self.trials[process.number] = trials

    def ends(self, process: Process, call: Call, value) -> None:
        """Keep the table after a call."""
        if process.is_task:
            self.died[process.number] = self.simulation.now
        if call.starts or process.is_task or process.number not in self._around:
            return
        caller, steps, before, taken = self._around.pop(process.number)
        name = process.name.rpartition(" ")[0]
        after = self._held_table(process)
        self.calls.append(
            Asked(name, process.number, call.method, caller, steps, before, after, self.simulation.now, taken)
        )

    def failed(self, process: Process, call: Call, problem: BaseException) -> None:
        """Keep the first error, of those that did not come from another process."""
        if self.first_error is None and not isinstance(problem, RayError):
            self.first_error = problem

    def refused_thread(self) -> None:
        """Threads of a submission's own are not simulated."""
        self.not_simulated = "calls from threads of its own"

    def received(self, strand: Strand, value) -> None:
        """Keep the tables that a process gets, and the steps that come to a server which asks for them."""
        number = getattr(strand, "number", -1)
        self._receive(number, value)
        if number in self._around:
            steps = self._around[number][1]
            known = {one for one, _ in steps}  # references among the arguments were looked into already
            steps.extend(step for step in self.shipped.steps_in(value, number) if step[0] not in known)

    def _receive(self, number: int, value) -> None:
        self.got[number] += tables_in(value)

    def _held_table(self, process: Process) -> np.ndarray | None:
        if process.number not in self._tables:
            self._tables[process.number] = (
                roles.table_name(process.held, STATES) if hasattr(process.held, "__dict__") else None
            )
        name = self._tables[process.number]
        return None if name is None else roles.table_of(process.held, name, STATES)

    def _table_at_hand(self) -> np.ndarray | None:
        """The table that the running process got last."""
        got = self.got.get(getattr(self.simulation.running, "number", -1))
        return got[-1] if got else None

    def _fail_in_a_step(self) -> None:
        """Raise in the first step of a process of the kind that is to fail, once a batch or a test is under way."""
        strand = self.simulation.running
        if self.failing and getattr(strand, "name", "").rpartition(" ")[0] == self.failing and strand.is_task:
            self._failing_calls += 1
            if self._failing_calls == 5:
                self.raised = True
                raise Injected("raised by the grader")

    def _take_time(self) -> None:
        """Episodes by a new table take a while, of which some processes take more than others."""
        strand = self.simulation.running
        number = getattr(strand, "number", -1)
        got = len(self.got.get(number, ()))
        if number < 0 or self._slept.get(number) == got:
            return
        self._slept[number] = got
        if number not in self._delays:
            draws = random.Random(chance.mixed(self.seed, 6, number))
            self._delays[number] = 10 ** draws.uniform(-3, 0) * draws.choice([1, 1, 10])
        self.simulation.sleep(self._delays[number])


def tables_in(value, depth: int = 0) -> list[np.ndarray]:
    """The tables of action values within a value, as arrays."""
    found = roles.as_array(value, STATES)
    if found is not None:
        return [found]
    if isinstance(value, dict) and depth < 4:
        value = list(value.values())
    if not isinstance(value, (list, tuple)) or depth >= 4 or len(value) > 100:
        return []
    return [table for one in value for table in tables_in(one, depth + 1)]


def with_ray(names: dict[str, object]) -> None:
    """Put the simulated Ray, which runs, in the place of Ray in a namespace, also around what is decorated.

    What is decorated is wrapped anew, since it is packed with the globals that it has when it is first used.
    """
    stand_in = sys.modules["ray"]
    functions = {name: getattr(stand_in, name) for name in ("get", "wait", "put", "remote", "init", "kill", "shutdown")}
    for name, value in list(names.items()):
        if getattr(value, "__name__", None) == "ray" and inspect.ismodule(value):
            names[name] = stand_in
        elif getattr(value, "__name__", None) in functions and str(getattr(value, "__module__", "")).startswith(
            ("ray.", "tabular.simulated_ray")
        ):
            names[name] = functions[value.__name__]
        elif roles.is_remote(value):
            names[name] = stand_in.remote(roles.unwrapped(value))


# Classes that come by value: each process has its own, as over Ray ---------------------------------

TRACKERS = ("_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_BY_CLASS")


def known_classes() -> tuple:
    """What cloudpickle knows of the classes that it has pickled or unpickled here."""
    return tuple(getattr(cloudpickle, name) for name in TRACKERS)


def know_classes(trackers: tuple) -> None:
    """Have cloudpickle know these."""
    for name, tracker in zip(TRACKERS, trackers, strict=True):
        setattr(cloudpickle, name, tracker)


def no_classes() -> tuple:
    """What it knows at the start."""
    return weakref.WeakValueDictionary(), weakref.WeakKeyDictionary()


@contextlib.contextmanager
def own_classes() -> Iterator[None]:
    """Leave what cloudpickle knows as it was before the block."""
    before = known_classes()
    know_classes(no_classes())
    try:
        yield
    finally:
        know_classes(before)
