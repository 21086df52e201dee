"""A simulation of processes in which one thing happens at a time, in an order that a seed decides.

A process is a thread that waits for its turn. Future events (a call arrives, an answer arrives, a sleep ends) wait in
an agenda, ordered by when they are due on a virtual clock. Each call takes a random time and may meet one of `FATES`,
which `simulated_ray` explains; that module has Ray's functions.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import os
import pickle
import random
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

FATES = (
    "does not run", "answer lost", "runs late", "runs twice", "is swallowed", "slow", "hangs", "dies before",
    "dies in", "dies after", "cut off", "object lost",
)  # fmt: skip


Packed = tuple[bytes, list[bytes]]  # a pickle, and the arrays that belong to it


class Stuck(BaseException):
    """Raised when nothing more can happen, or too much has: with the real Ray the program might never end."""


class _Ended(BaseException):
    """Raised to unwind the thread of a process that has died."""


_simulation: Simulation | None = None


def running() -> Simulation:
    """Return the running simulation; raise RuntimeError if there is none."""
    if _simulation is None:
        raise RuntimeError("this belongs to a simulated Ray that has ended")
    return _simulation


@contextlib.contextmanager
def begun(simulation: Simulation) -> Iterator[Simulation]:
    """Run a simulation, with its clock in the time module, until the block ends; raise RuntimeError inside another."""
    global _simulation
    if _simulation is not None:
        raise RuntimeError("simulated Rays cannot be nested: another one is running")
    _simulation = simulation
    try:
        with _virtual_clock(simulation):
            yield simulation
    finally:
        simulation.end()
        _simulation = None


@contextlib.contextmanager
def _virtual_clock(simulation: Simulation) -> Iterator[None]:
    """Make the time module use virtual time in the simulation's threads, and real time in all others."""
    real = {name: getattr(time, name) for name in ("time", "monotonic", "perf_counter", "sleep")}

    def of_simulation(name: str) -> Callable:
        virtual = simulation.sleep if name == "sleep" else simulation.read_clock

        @functools.wraps(real[name])
        def function(*arguments: Any) -> Any:
            inside = threading.get_ident() in simulation.threads
            return virtual(*arguments) if inside else real[name](*arguments)

        return function

    for name in real:
        setattr(time, name, of_simulation(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(time, name, function)


# What happens next ---------------------------------------------------------------------------


class Strand:
    """A thread that runs only when it has the turn: the main program's or a process's."""

    def __init__(self, name: str):
        self.name = name
        self.turn = threading.Lock()
        self.turn.acquire()
        self.doomed = self.ended = False
        self.unwound = 0

    def unwind(self) -> None:
        """Raise _Ended to end the thread; block it forever if it has caught that a hundred times."""
        self.unwound += 1
        if self.unwound > 100:
            threading.Event().wait()
        raise _Ended


class Watcher:
    """What a simulation reports while it runs, to be overridden by an observer; these methods do nothing."""

    def paused(self, strand: Strand) -> None:
        """A strand gives up its turn."""

    def resumed(self, strand: Strand) -> None:
        """A strand gets its turn, the first one or again."""

    def begins(self, process: Process, call: Call, arguments: list, settings: dict) -> None:
        """A process begins a call; an error raised here is raised by the call."""

    def ends(self, process: Process, call: Call, value: Any) -> None:
        """A process has finished a call with this result."""

    def failed(self, process: Process, call: Call, problem: BaseException) -> None:
        """A process has raised an error in a call."""

    def refused_thread(self) -> None:
        """A thread that is not part of the simulation has asked for something."""

    def received(self, strand: Strand, value: Any) -> None:
        """A strand has received the result of a call, or a list of results."""


class Simulation:
    """The state of a simulation: its clock, its agenda of future events, its processes and its random draws.

    `now` is the time in seconds, `calls` the number of calls sent, `faults` the fates that occurred, by call number,
    `met` the same as sentences, and `log` the last thousand events.
    """

    def __init__(self, seed: int, faults: Mapping[int, str] | float, most_events: int):
        self.seed, self._given, self.most_events = seed, faults, most_events
        self.now, self.calls, self.job = 0.0, 0, 1
        self.faults: dict[int, str] = {}
        self.met: list[str] = []
        self.log: deque[str] = deque(maxlen=1000)
        self.processes: dict[int, Process] = {}
        self.references: weakref.WeakValueDictionary[int, ObjectRef] = weakref.WeakValueDictionary()
        self.pinned: list[ObjectRef] = []  # kept alive because they were pickled inside other objects
        self._agenda: list = []  # a heap of (time, number, action)
        self._numbers, self._events = itertools.count(), itertools.count()
        self._chances = random.Random(seed)  # for fates alone, so that giving the fates leaves all other draws the same
        self._stuck: Stuck | None = None
        self.initialized = True
        self.watcher = Watcher()
        self.driver = Strand("driver")
        self.running: Any = self.driver  # the strand whose turn it is; None at the end
        self.threads: dict[int | None, Strand] = {threading.get_ident(): self.driver}

    # The agenda

    def draws(self, number: int) -> random.Random:
        """Return a call's random generator, which does not depend on what happened to other calls."""
        return random.Random(self.seed * 2_000_003 + number)

    def after(self, seconds: float, action: Callable[[], Strand | None]) -> None:
        """Schedule an action; it returns the strand that gets the next turn, or None."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._numbers), action))

    def wake(self, strand: Strand, seconds: float = 0.0) -> None:
        """Schedule a turn for a strand, so that it checks whether its wait is over."""
        self.after(seconds, lambda: strand)

    def pass_turn(self) -> None:
        """Give up the turn; return when the calling strand gets it back."""
        me = self.running
        following = self._next_strand()
        if following is not me:
            self.watcher.paused(me)
            self.running = following
            following.turn.release()
            if me.ended:
                return
            me.turn.acquire()
            self.watcher.resumed(me)
        if me is self.driver and self._stuck:
            raise self._stuck
        if me.doomed:
            me.unwind()

    def _next_strand(self) -> Strand:
        """Run actions of the agenda until one names a strand; return that strand, or the driver if stuck."""
        while self._agenda and next(self._events) < self.most_events:
            due, _, action = heapq.heappop(self._agenda)
            self.now = max(self.now, due)
            strand = action()
            if strand is not None and not strand.ended:
                return strand
        what = "too much has happened" if self._agenda else "nothing can happen any more"
        self._stuck = Stuck(f"{what} after {self.now:.0f} s and {self.calls} calls; the last: {[*self.log][-5:]}")
        return self.driver

    def me(self) -> Strand:
        """Return the calling thread's strand; raise RuntimeError if the thread is not part of the simulation."""
        strand = self.threads.get(threading.get_ident())
        if strand is None:
            self.watcher.refused_thread()
            raise RuntimeError("a simulated Ray is only for the thread that entered it and for its own processes")
        if strand.doomed:
            strand.unwind()
        return strand

    def wait(self, enough: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `enough()`, or for `timeout` seconds; return whether there was enough."""
        me = self.me()
        deadline = None if timeout is None else self.now + timeout
        if timeout is not None:
            self.wake(me, timeout)
        while not enough():
            if deadline is not None and self.now >= deadline:
                return False
            self.pass_turn()
        return True

    def sleep(self, seconds: float) -> None:
        """Let other strands run for some seconds of virtual time."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self.wait(lambda: False, seconds)

    def give_way(self) -> None:
        """Let other strands run for 0.1 ms of virtual time; most of Ray's functions call this."""
        self.sleep(1e-4)

    def read_clock(self) -> float:
        """Return the time and advance it by 1 us, so that a loop that polls the clock ends."""
        self.now += 1e-6
        return self.now

    # Calls

    def fate(self, number: int, task: str) -> str | None:
        """Decide and record the fate of a call, or return None if nothing goes wrong with it."""
        if isinstance(self._given, Mapping):
            fate = self._given.get(number)
        else:
            fate = self._chances.choice(FATES) if self._chances.random() < self._given else None
        if fate is not None:
            self.faults[number] = fate
            self.met.append(f"call {number}, {task}: {fate}")
        return fate

    def note(self, what: str) -> None:
        """Add to the log."""
        self.log.append(f"{self.now:9.4f} {what}")

    def end(self) -> None:
        """End all threads."""
        self._agenda.clear()
        for process in self.processes.values():
            process.end_thread()


# Processes and their calls -----------------------------------------------------------------------


class Call:
    """A call in transit: its process, method and arguments, and the references for its results."""

    def __init__(self, process: Process, method: str, arguments: tuple, settings: dict, returns: int = 1):
        simulation = running()
        shown = ", ".join(repr(one) for one in arguments if type(one) in (int, float, str, tuple, list))
        self.process, self.method, self.task = process, method, f"{process.name}.{method}({shown})"
        self.starts = method == "__init__"
        self.caller = simulation.running
        self.number = simulation.calls
        simulation.calls += 1
        self.draws = simulation.draws(self.number)
        self.fate = simulation.fate(self.number, self.task)
        self.answers = [ObjectRef() for _ in range(returns)]
        places = {**dict(enumerate(arguments)), **settings}
        self.needs = {place: one for place, one in places.items() if isinstance(one, ObjectRef)}
        self.packed = pack({place: one for place, one in places.items() if place not in self.needs})

    def seconds(self, low: float, high: float) -> float:
        """Draw a random time, log-uniform between the bounds."""
        return low * (high / low) ** self.draws.random()

    def answer(self, packed: Any, error: Exception | None = None) -> None:
        """Settle the references with what was returned or raised; only the first answer counts."""
        if self.answers[0].done:
            return
        if error is None and len(self.answers) > 1:
            for reference, part in zip(self.answers, unpack(packed), strict=True):
                reference.settle(pack(part))
        else:
            for reference in self.answers:
                reference.settle(packed, error)

    def unavailable(self) -> None:
        """Answer, after a while, that the process cannot be reached."""
        from ray import exceptions

        error = exceptions.ActorUnavailableError("the connection was lost", None)
        running().after(self.seconds(0.01, 30), lambda: self.answer(None, error))


class Process(Strand):
    """A Ray process: an actor, or one that runs a single task.

    Calls from one caller arrive in the order of sending; each waits until the references in its arguments are done.
    """

    def __init__(self, name: str, target: Packed, is_task: bool):
        self.simulation = simulation = running()
        self.number = len(simulation.processes)
        super().__init__(f"{name} {self.number}")
        simulation.processes[self.number] = self
        self.target, self.is_task = target, is_task  # a packed class, or a function
        self.held: Any = None
        self.cause: Exception | None = None
        self.started = is_task
        self.dead = self.busy = False
        self.reachable_from = 0.0  # cut off until this time
        self.sent: dict[Strand, deque[Call]] = {}  # by caller: calls that wait for their arguments
        self.last_arrival: dict[Strand, float] = {}
        self.waiting: deque[Call] = deque()
        self.unanswered: dict[int, Call] = {}
        self.thread: threading.Thread | None = None

    # Calls in transit

    def send(self, call: Call) -> None:
        """Take a call from the strand that has the turn, and dispatch it when its arguments are there."""
        caller = self.simulation.me()
        self.unanswered[call.number] = call
        self.sent.setdefault(caller, deque()).append(call)
        for reference in call.needs.values():
            reference.when_done(lambda: self.dispatch(caller))
        self.dispatch(caller)

    def dispatch(self, caller: Strand) -> None:
        """Send a caller's calls, up to the first that still waits for its arguments."""
        sent = self.sent[caller]
        while sent and all(reference.done for reference in sent[0].needs.values()):
            call = sent.popleft()
            if self.dead:
                self.tell_death(call)
            else:
                self.depart(call, caller)

    def depart(self, call: Call, caller: Strand) -> None:
        """Put a call in transit, where it may get lost."""
        simulation, delay = self.simulation, call.seconds(1e-4, 0.1)
        if call.fate == "cut off":
            self.cut_off(call)
        out_of_reach = self.reachable_from - simulation.now
        if call.fate == "does not run" or (out_of_reach > 0 and call.draws.random() < 0.4):
            call.unavailable()
        elif call.fate == "is swallowed" or (out_of_reach > 0 and call.draws.random() < 0.2):
            simulation.note(f"{call.task} is swallowed")
        elif call.fate == "runs late":
            call.unavailable()
            simulation.after(call.seconds(1e-3, 60), lambda: self.arrive(call))
        else:
            if call.fate == "runs twice":
                simulation.after(delay + call.seconds(1e-3, 60), lambda: self.arrive(call))
            # Calls of one caller arrive in the order of sending.
            arrival = max(simulation.now + delay + max(0.0, out_of_reach), self.last_arrival.get(caller, 0.0))
            self.last_arrival[caller] = arrival
            simulation.after(arrival - simulation.now, lambda: self.arrive(call))

    def cut_off(self, call: Call) -> None:
        """Make the process unreachable for a while; calls and answers in transit are affected when they are due."""
        seconds, lost = call.seconds(0.1, 100), call.draws.random() < 0.3
        self.reachable_from = self.simulation.now + seconds
        self.simulation.note(f"{self.name} is cut off for {seconds:.1f} s{', and declared dead' if lost else ''}")
        if lost:
            self.simulation.after(seconds, self.die)

    def arrive(self, call: Call) -> Strand | None:
        """Queue a call that has reached the process; return the process if it is idle."""
        if self.dead:
            self.tell_death(call)
            return None
        if call.starts:  # before calls that overtook it
            self.started = True
            self.waiting.appendleft(call)
        else:
            self.waiting.append(call)
        if self.thread is None:
            self.thread = threading.Thread(target=self.live, name=self.name, daemon=True)
            self.thread.start()
            self.simulation.threads[self.thread.ident] = self
        return None if self.busy else self

    # Running

    def live(self) -> None:
        """Run queued calls until the process dies; the body of its thread."""
        self.turn.acquire()
        self.simulation.watcher.resumed(self)
        try:
            while not self.doomed:
                while self.busy or not self.started or not self.waiting:
                    self.simulation.pass_turn()
                self.work(self.waiting.popleft())
        except _Ended:
            pass
        self.ended = True
        self.simulation.threads.pop(threading.get_ident(), None)
        if self.simulation.running is self:
            self.simulation.pass_turn()

    def work(self, call: Call) -> None:
        """Run a call, then stay busy for a random time on the virtual clock."""
        if call.fate == "dies before":
            self.die()
            raise _Ended
        self.busy = True
        self.simulation.note(call.task)
        error, packed = None, None
        try:
            packed = self.result_of(call)
        except _Ended:
            raise
        except BaseException as problem:
            self.simulation.watcher.failed(self, call, problem)
            error = _as_task_error(call.task, problem)
        if call.fate != "hangs":
            seconds = call.seconds(10, 400) if call.fate == "slow" else call.seconds(1e-4, 0.1)
            self.simulation.after(seconds, lambda: self.finish(call, packed, error))

    def finish(self, call: Call, packed: Any, error: Exception | None) -> Strand | None:
        """Answer a call; return the process if it needs a turn for its next call or its end."""
        if self.dead:
            return None
        self.busy = False
        if call.fate == "dies in" or (call.starts and error):
            self.die(error)
            return None
        self.reply(call, packed, error)
        if call.fate == "dies after":
            self.die()
        elif self.is_task:
            self.doomed = True
        return self if self.doomed or self.waiting else None

    def result_of(self, call: Call) -> Packed:
        """Run a call and return its packed result."""
        for reference in call.needs.values():
            if reference.error is not None:
                raise getattr(reference.error, "cause", None) or reference.error
        places = unpack(call.packed) | {place: one.value() for place, one in call.needs.items()}
        arguments = [places[place] for place in range(len(places)) if place in places]
        settings = {name: one for name, one in places.items() if isinstance(name, str)}
        watcher = self.simulation.watcher
        watcher.begins(self, call, arguments, settings)
        if call.starts:
            value, self.held = None, unpack(self.target)(*arguments, **settings)
        else:
            method = unpack(self.target) if self.is_task else getattr(self.held, call.method)
            value = method(*arguments, **settings)
        watcher.ends(self, call, value)
        return pack(value)

    def reply(self, call: Call, packed: Any, error: Exception | None) -> None:
        """Put an answer in transit, where it may get lost."""
        simulation, delay = self.simulation, call.seconds(1e-4, 0.1)
        out_of_reach = self.reachable_from - simulation.now
        if call.fate in ("answer lost", "runs late") or (out_of_reach > 0 and call.draws.random() < 0.5):
            call.unavailable()
            return

        def arrive() -> None:
            self.unanswered.pop(call.number, None)
            call.answer(packed, error)
            if call.fate == "object lost":
                simulation.after(call.seconds(1e-3, 10), lose)

        def lose() -> None:
            from ray import exceptions

            simulation.note(f"what {call.task} returned is lost")
            for reference in call.answers:
                reference.error = exceptions.ObjectLostError(f"{reference.number:x}", None, "")

        simulation.after(delay + max(0.0, out_of_reach), arrive)

    # Dying

    def die(self, cause: Exception | None = None) -> None:
        """End the process; its calls without an answer get an error after a while."""
        if self.dead:
            return
        self.dead, self.cause = True, cause
        self.simulation.note(f"{self.name} dies")
        for call in list(self.unanswered.values()):
            self.tell_death(call)
        self.doomed = True
        if self.thread is not None:
            self.simulation.wake(self)

    def tell_death(self, call: Call) -> None:
        """Answer a call, after a while, that the process is dead."""
        from ray import exceptions

        error = exceptions.WorkerCrashedError() if self.is_task else exceptions.ActorDiedError(self.cause)
        self.simulation.after(call.seconds(1e-3, 20), lambda: call.answer(None, error))

    def end_thread(self) -> None:
        """Unwind the thread, at the end of the simulation."""
        self.doomed = True
        if self.thread is not None and not self.ended:
            self.simulation.running = None  # so that the thread passes no turn on
            self.turn.release()
            self.thread.join(timeout=1)  # a thread that catches _Ended is left behind


def _as_task_error(task: str, problem: BaseException) -> Exception:
    """Wrap an error raised in a process as Ray does."""
    from ray import exceptions

    shown = "".join(traceback.format_exception(problem))
    if isinstance(problem, exceptions.RayTaskError):
        problem = problem.cause  # an error of another process is not wrapped twice
    try:
        pickle.loads(pickle.dumps(problem))
        cause = problem if isinstance(problem, Exception) else RuntimeError(repr(problem))
    except Exception:
        cause = exceptions.RayError(f"{type(problem).__name__} cannot be pickled: {shown}")
    return exceptions.RayTaskError(task, shown, cause, "simulated", os.getpid(), "127.0.0.1")


# Objects ----------------------------------------------------------------------------------------


class ObjectRef:
    """A reference to a result that may not exist yet."""

    def __init__(self) -> None:
        simulation = running()
        self.number = next(simulation._numbers)
        self.done = False
        self.packed: Any = None
        self.error: Exception | None = None
        self.watchers: list[Callable[[], None]] = []
        simulation.references[self.number] = self

    def settle(self, packed: Any, error: Exception | None = None) -> None:
        """Store a result or an error, and run the actions that wait for it."""
        self.done, self.packed, self.error = True, packed, error
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher()

    def when_done(self, action: Callable[[], None]) -> None:
        """Run an action when there is a result; do nothing if there is one already."""
        if not self.done:
            self.watchers.append(action)

    def value(self) -> Any:
        """Return a copy of the result; raise the error if the call failed."""
        if self.error is not None:
            as_cause = getattr(self.error, "as_instanceof_cause", None)
            raise as_cause() if as_cause else self.error
        return unpack(self.packed)

    def hex(self) -> str:
        """The reference's number as 56 hexadecimal digits."""
        return f"{self.number:056x}"

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __reduce__(self) -> tuple:
        running().pinned.append(self)
        return _reference, (self.number,)


def _reference(number: int) -> ObjectRef:
    """Return the reference that was pickled inside another object."""
    return running().references[number]


def pack(value: Any) -> Packed:
    """Pickle a value as Ray does: arrays out of band, so that they come back read-only."""
    from ray import cloudpickle

    buffers: list[Any] = []
    pickled = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickled, [buffer.raw().tobytes() for buffer in buffers]


def unpack(packed: Packed) -> Any:
    """Unpickle a copy of a packed value."""
    return pickle.loads(packed[0], buffers=packed[1])
