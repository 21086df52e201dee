"""Where calls run: immediately in this process, or in Ray processes. Only this module and session.py need Ray.

A pool has workers, objects that play the roles "server", "collector" and "evaluator", as many of each as a run needs.
`run(makers)` sets how they are made; `submit` sends a call to one and returns immediately, with a reference for which
`result` waits. An argument of `submit` may be such a reference: the call then starts when that result is there, and
receives it. So a run is a graph of calls, and no process polls another for work.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import pickle
import sys
import threading
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .checks import Setting, check_count, count_between
from .session import FOLDER, check_not_forked, start_ray

READY_SECONDS = 120  # how long to wait for the next process to start
START_TRIES = 3  # for a process that dies, or cannot be reached, while it starts


class Lost(Exception):
    """A process that a call needed has died."""

    problem = "died during"

    def __init__(self, call: Call, seconds: float | None = None):
        took = "" if seconds is None else f" in {seconds:.0f} s"
        super().__init__(f"{call.role} {call.i} {self.problem} {call.task}{took}")
        self.call = call


class Hung(Lost):
    """A process did not answer in time."""

    problem = "has not answered"


class Unreachable(Lost):
    """A process cannot be reached: the network may be down, or its node may be lost."""

    problem = "cannot be reached for"


class Missed(Lost):
    """A process has refused a call because an earlier call, whose effect it needs, was lost."""

    problem = "has missed a call before"


class OutOfOrder(Exception):
    """Raised by a process that is sent any call but the next one of its sequence."""


Reference = Any  # the future result of a submitted call; its type depends on the pool
Makers = Mapping[str, Callable[[], Any]]  # from a role's name to a function that makes a worker of that role
Slot = tuple[str, int]  # a role, and the number of one of its processes


class Call(NamedTuple):
    """A call that was sent to process `i` of a role."""

    role: str
    i: int
    task: str  # the method, and those of its arguments that are numbers
    process: Any  # Ray's handle of the process, and its reference to the result
    reference: Any
    waits_for: tuple[Call, ...]


class Pool:
    """Base class of the pools: runs take turns; one started inside another, in the same thread, raises RuntimeError."""

    ships = True  # whether results leave the process, so that workers return compact copies
    elsewhere = False  # whether calls run in other processes
    note: list | None = None  # elsewhere: what the next call's worker gets as its first argument
    cw_num: Any  # how many collectors and evaluators it has: an int, or inf
    ew_num: Any
    ahead: int  # a run sends up to `ahead` * `lag` batches before it waits for the first result
    subject: int | None = None  # what a run's next calls are about: a batch's number, or a test's episode

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._makers: dict[str, Any] = {}
        self._process = os.getpid()

    def run(self, makers: Makers) -> contextlib.AbstractContextManager[Pool]:
        """Reserve the pool for a run; within the block each role is played by what its maker returns."""
        raise NotImplementedError

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Reference:
        """Send a call, which starts once the calls among its arguments have returned; return its reference."""
        raise NotImplementedError

    def result(self, reference: Reference, timeout: float | None = None) -> Any:
        """Wait for a call, and return its result or raise its error."""
        raise NotImplementedError

    def replace(self, lost: Lost) -> int:
        """Replace a lost process, and all others that are dead; return how many were replaced."""
        return 0

    # Copies of an agent share its pool, and a pickled agent has none.

    def __copy__(self) -> Pool:
        return self

    def __deepcopy__(self, memo: dict) -> Pool:
        return self

    def __reduce__(self) -> tuple:
        return type(None), ()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if self._process != os.getpid():  # a fork: a run that holds the lock is in the parent process
            self._process, self._lock, self._owner = os.getpid(), threading.Lock(), None
        if self._owner == threading.get_ident():
            raise RuntimeError("workers are busy with another run of this thread, which must end first")
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner, self._makers = None, {}


class InProcess(Pool):
    """Runs each call immediately in this process, without Ray: for a debugger, or to simulate a thousand workers.

    All workers of a role are one object, because the results of their calls depend only on the arguments (and there is
    only one server). Passed as `workers=`, it gives the same result as `Workers`, bit for bit.
    """

    cw_num = ew_num = math.inf
    _players: dict[str, Any]
    ahead = 0  # a call returns when it is done

    @contextlib.contextmanager
    def run(self, makers: Makers) -> Iterator[InProcess]:
        """Reserve the pool for a run; within the block each role is played by what its maker returns."""
        with self._turn():
            self._makers, self._players = dict(makers), {}
            try:
                yield self
            finally:
                self._players = {}

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Reference:
        """Do the call, and return its result."""
        if role not in self._players:
            self._players[role] = self._makers[role]()
        return getattr(self._players[role], method)(*arguments)

    def result(self, reference: Reference, timeout: float | None = None) -> Any:
        """Return what `submit` returned, which is the result."""
        return reference


class Workers(Pool):
    """The processes of distributed runs, over Ray: a server, `cw_num` collectors and `ew_num` evaluators.

    A run without `workers=` uses the session's processes (`shared_workers`). `with Workers(8, 4) as workers:` starts
    others, which end with the block. Runs in several threads take turns.

    A server's state depends on its earlier calls, and a collector's may, too. Their calls are numbered in sequences,
    each started by the server's `begin`. A process refuses every call but the next one of the latest sequence, and so
    any that follows a lost call, arrives late or arrives twice.
    """

    ahead = 2  # times `lag` batches: while one is collected, another waits for its table
    elsewhere = True

    cw_num = Setting(check_count)
    ew_num = Setting(count_between(0, 2**40))

    def __init__(self, cw_num: int = 4, ew_num: int = 4):
        self.cw_num, self.ew_num = cw_num, ew_num
        super().__init__()
        self._session: tuple[Any, Any] | None = None
        self._processes: dict[Slot, Any] = {}
        self._sequence = 0
        self._sent: defaultdict[Slot, itertools.count] = defaultdict(itertools.count)

    def start(self) -> Workers:
        """Start the processes that do not run yet, and wait until all answer.

        A process that dies meanwhile, cannot be reached, or is not ready 120 s after the last one that was, is started
        again. Raises TimeoutError if any still fails at the third try.
        """
        start_ray()
        self._forget_other_sessions()
        counts = {"server": 1, "collector": self.cw_num, "evaluator": self.ew_num}
        slots = {(role, i) for role, count in counts.items() for i in range(count)}
        try:
            self._start_processes(slots - self._processes.keys())
        except BaseException:
            self.stop()
            raise
        return self

    def _start_processes(self, slots: set[Slot]) -> None:
        """Start these processes, and wait until all answer."""
        for _ in range(START_TRIES):
            for slot in sorted(slots):
                self._processes[slot] = _spawn()
            slots = _wait_until_ready({slot: self._processes[slot] for slot in slots})
            if not slots:
                return
            for slot in slots:
                _end(self._processes[slot])
        names = ", ".join(f"{role} {i}" for role, i in sorted(slots))
        raise TimeoutError(
            f"{len(slots)} Ray actors did not start in {START_TRIES} tries: {names} died, or did not answer in "
            f"{READY_SECONDS} s"
        )

    def stop(self, *_: object) -> None:
        """End the processes."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            _end(process)

    __enter__, __exit__ = start, stop

    @contextlib.contextmanager
    def run(self, makers: Makers) -> Iterator[Workers]:
        """Reserve the pool for a run; within the block each process holds what its role's maker returns."""
        check_not_forked()
        with self._turn():
            self.start()
            import ray  # only now, since `start` says what to do if it cannot be imported

            pickled = {role: _pickled(maker) for role, maker in makers.items()}
            # A large lake is stored once, instead of being sent with every call.
            self._makers = {role: ray.put(maker) if len(maker) > 50_000 else maker for role, maker in pickled.items()}
            self._begin_sequence()
            yield self

    def _begin_sequence(self) -> None:
        """Number calls from 0 again; processes then refuse calls that were sent before."""
        self._sequence += 1
        self._sent.clear()

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Call:
        """Send a call, which starts once the calls among its arguments have returned, and return it."""
        if method == "begin":
            self._begin_sequence()
        # An evaluator's result depends only on the arguments, so it accepts calls in any order.
        position = [None, None] if role == "evaluator" else [self._sequence, next(self._sent[role, i])]
        note, self.note = self.note, None
        process = self._processes[role, i]
        # They are kept without the calls that they waited for, or each call would keep all earlier ones alive.
        waits_for = tuple(argument._replace(waits_for=()) for argument in arguments if isinstance(argument, Call))
        references = (argument.reference if isinstance(argument, Call) else argument for argument in arguments)
        reference = process.call.remote([*position, note], self._makers[role], method, *references)
        numbers = ", ".join(str(argument) for argument in arguments if isinstance(argument, int | float))
        return Call(role, i, f"{method}({numbers})", process, reference, waits_for)

    def result(self, call: Call, timeout: float | None = None) -> Any:
        """Return a call's result, or raise its error; raise `Lost` for a lost process, RuntimeError if Ray fails."""
        import ray
        from ray import exceptions

        try:
            return ray.get(call.reference, timeout=timeout)
        except exceptions.GetTimeoutError:
            raise Hung(_first(_is_pending, call), timeout) from None
        except exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if kind := _kind_of_loss(cause):
                raise kind(_first(_error_of, call)) from cause
            if isinstance(cause, exceptions.RayError):
                raise RuntimeError(f"Ray failed in {call.task} of {call.role} {call.i}: {cause}") from cause
            raise cause from None  # the simulator's own error, from a worker

    def replace(self, lost: Lost) -> int:
        """Replace a lost process, and all others that are dead; return how many were replaced."""
        slot = lost.call.role, lost.call.i
        if self._processes[slot] is not lost.call.process:
            return 0  # the process of that call has been replaced already
        dead = {slot} | self._dead()
        for slot in dead:
            _end(self._processes[slot])
        self._start_processes(dead)
        return len(dead)

    def _dead(self) -> set[Slot]:
        """Return the slots of processes that Ray knows to be dead; busy ones do not answer, and are not counted."""
        import ray

        answers = {process.ready.remote(): slot for slot, process in self._processes.items()}
        answered, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0.1)
        return {answers[answer] for answer in answered if _kind_of_loss(_error_of(answer)) is Lost}

    def _forget_other_sessions(self) -> None:
        """Drop processes of an earlier Ray session, since they ended with it."""
        import ray

        context = ray.get_runtime_context()
        session = context.get_job_id(), context.get_node_id()
        if session != self._session:
            self._session, self._processes = session, {}


_shared: Workers | None = None
_shared_lock = threading.Lock()


def shared_workers(cw_num: int, ew_num: int) -> Workers:
    """Return the processes that a session's runs share, at least these numbers; they end with Ray or this process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Workers(cw_num, ew_num)
        _shared.cw_num, _shared.ew_num = max(_shared.cw_num, cw_num), max(_shared.ew_num, ew_num)
        return _shared


def check_workers(workers: Any, cw_num: int, ew_num: int) -> None:
    """Raise TypeError or ValueError unless `workers` is None, or a pool with enough collectors and evaluators."""
    if not isinstance(workers, Pool | None):
        raise TypeError(f"workers must be Workers, Threads, InProcess or None, got {workers!r}")
    if workers and (workers.cw_num < cw_num or workers.ew_num < ew_num):
        needed = f"at least {cw_num} collectors and {ew_num} evaluators"
        raise ValueError(f"workers must have {needed}, got {workers.cw_num} and {workers.ew_num}")


def _host() -> Any:
    """Return the actor class of `Workers` for the imported ray module."""
    import ray

    return _host_of(ray)


@functools.cache
def _host_of(ray: types.ModuleType) -> Any:
    """Make the actor class of `Workers`: an actor holds what a maker returns, and passes calls on to it.

    The maker comes with every call, so that any process can replace any other. The class is defined inside a function
    because Ray then sends its code: a process starts before it needs any module of this project, and then finds them
    even if the user started Ray in another folder. It is made once, as Ray's documentation asks.
    """

    # No CPU: an actor that asks for one waits silently if none is free. A byte of memory, since Ray ignores SPREAD
    # for actors that ask for nothing.
    @ray.remote(num_cpus=0, memory=1, scheduling_strategy="SPREAD")
    class Host:
        def __init__(self, folder: str):
            self.maker: bytes | None = None
            self.held: Any = None
            self.sequence = self.next = 0
            if os.path.isdir(folder) and folder not in sys.path:  # other nodes get the modules with the job
                sys.path.append(folder)

        def ready(self) -> None:
            """Return, as a sign that the process is up."""

        # `place` is [sequence, number, note]. A list: Ray pickles a tuple, and takes as long for each further argument.
        def call(self, place: list, maker: bytes, method: str, *arguments: Any) -> Any:
            sequence, number, note = place
            if sequence is not None:
                self.check_in(sequence, number)
            if note is not None:
                arguments = (note, *arguments)
            if maker != self.maker:
                self.maker, self.held = maker, pickle.loads(maker)()
            from ray.exceptions import RayError

            from tabular.pool import as_picklable

            try:
                return getattr(self.held, method)(*arguments)
            except RayError as error:  # the simulator's own, which must not look like a lost process
                raise RuntimeError(f"{method} failed with a Ray error: {error}") from error
            except KeyboardInterrupt as error:  # likewise: Ray would take the call for cancelled
                raise RuntimeError(f"{method} failed with KeyboardInterrupt, which only drivers should get") from error
            except Exception as error:
                raise as_picklable(error) from None

        def check_in(self, sequence: int, number: int) -> None:
            """Count a call; raise OutOfOrder unless it is the next one of the latest sequence."""
            if number == 0 and sequence > self.sequence:
                self.sequence, self.next = sequence, 0
            if (sequence, number) != (self.sequence, self.next):
                from tabular.pool import OutOfOrder

                raise OutOfOrder(f"got call {number} of sequence {sequence}, expected {self.next} of {self.sequence}")
            self.next += 1

    return Host


def as_picklable(error: Exception) -> Exception:
    """Return an error that can be sent to another process: this one or, if it cannot be pickled, one with its text."""
    import ray

    try:
        pickle.loads(ray.cloudpickle.dumps(error))
        return error
    except Exception:  # any kind, since its class decides
        pass
    substitute = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    for note in getattr(error, "__notes__", []):
        substitute.add_note(note)
    return substitute


def _pickled(maker: Callable) -> bytes:
    """Pickle a maker; raise TypeError if the simulator among its arguments cannot be pickled."""
    import ray

    try:
        return ray.cloudpickle.dumps(maker)
    except Exception as error:
        raise TypeError(
            f"simulator must be one that can be pickled, since each process steps its own ({error}): use "
            "workers=td.InProcess()"
        ) from error


def _spawn() -> Any:
    """Start a process."""
    return _host().remote(str(FOLDER))


def _wait_until_ready(processes: dict[Slot, Any]) -> set[Slot]:
    """Wait until all answer, or none does for 120 s; return the slots of those that have not, or were lost."""
    import ray

    waiting = {process.ready.remote(): slot for slot, process in processes.items()}
    lost: set[Slot] = set()
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=READY_SECONDS)
        if not done:
            return lost | set(waiting.values())
        for answer in done:
            slot = waiting.pop(answer)
            if _error_of(answer):
                lost.add(slot)
    return lost


def _end(process: Any) -> None:
    """End a process, unless Ray was shut down and the process with it."""
    import ray

    if ray.is_initialized():
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(process)


def _first(condition: Callable[[Any], Any], call: Call) -> Call:
    """Return the first of the calls that `call` waits for that meets a condition, or else the call itself."""
    return next((other for other in call.waits_for if condition(other.reference)), call)


def _is_pending(reference: Any) -> bool:
    """Whether a call has not finished."""
    import ray

    return not ray.wait([reference], timeout=0, fetch_local=False)[0]


def _error_of(reference: Any) -> Exception | None:
    """Return the error that a call failed with; None if it has a result, or has not finished."""
    import ray

    if _is_pending(reference):
        return None
    try:
        ray.get(reference, timeout=READY_SECONDS)  # a result that cannot be fetched in that time counts as lost
    except ray.exceptions.RayError as error:
        return getattr(error, "cause", None) or error
    return None


def _kind_of_loss(error: Exception | None) -> type[Lost] | None:
    """Return which kind of loss an error means; None if none, for example if it is the simulator's own."""
    from ray import exceptions

    if isinstance(error, OutOfOrder):
        return Missed
    if isinstance(error, exceptions.ActorUnavailableError):
        return Unreachable
    lost = exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError, exceptions.NodeDiedError
    return Lost if isinstance(error, lost) else None
