"""Where calls run: at once in this process, or in processes of Ray's. Only this room and session.py need Ray.

A pool plays roles, which are plain classes: "server", "collector" and "evaluator", as many of each as a run needs.
`run(makers)` tells what each role's processes hold; `submit` sends a call on its way and returns it, `result` waits
for what it returns. An argument of `submit` may be a call itself: what it returns is then passed on, and need not be
there yet. So a run is a graph of calls, wired once, and no process ever asks another whether there is work.
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
    """A process has not answered in time."""

    problem = "has not answered"


class Unreachable(Lost):
    """A process cannot be reached: the network may be down, or its node may be lost."""

    problem = "cannot be reached for"


class Missed(Lost):
    """A process has refused a call, since one before it was lost: its state is not what the call builds on."""

    problem = "has missed a call before"


class OutOfTurn(Exception):
    """Raised by a process that is sent another call than the next one of a sequence."""


Reference = Any  # stands for the result of a call that was sent: what that is, the pool alone knows that sent it
Makers = Mapping[str, Callable[[], Any]]  # of what plays a role, by its name
Slot = tuple[str, int]  # a role, and which of its processes


class Call(NamedTuple):
    """A call on its way to process `i` of a role."""

    role: str
    i: int
    task: str  # the method, with the numbers among its arguments
    process: Any  # Ray's handle of the process, and its reference to the result
    reference: Any
    waits_for: tuple[Call, ...]


class Pool:
    """What the pools share: runs take turns, and one that would wait for itself is told."""

    ships = True  # whether results travel, and so are packed tightly by those who make them
    cw_num: Any  # how many collectors and evaluators it has: an int, or inf
    ew_num: Any
    ahead: int  # how many times `lag` batches are worth sending before the first is in

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._makers: dict[str, Any] = {}
        self._process = os.getpid()

    def run(self, makers: Makers) -> contextlib.AbstractContextManager[Pool]:
        """Take a turn; until its end each role is played by what its maker makes."""
        raise NotImplementedError

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Reference:
        """Send a call on its way, once the calls among its arguments have returned."""
        raise NotImplementedError

    def result(self, reference: Reference, timeout: float | None = None) -> Any:
        """What a call returned, or its own error."""
        raise NotImplementedError

    def replace(self, lost: Lost) -> int:
        """Replace a process that was lost, and others that are dead, too: how many there were."""
        return 0

    # A pool is a place: copies of an agent share it, and one that is pickled leaves it behind.

    def __copy__(self) -> Pool:
        return self

    def __deepcopy__(self, memo: dict) -> Pool:
        return self

    def __reduce__(self) -> tuple:
        return type(None), ()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if self._process != os.getpid():  # a fork: whoever has the turn is not in this process
            self._process, self._lock, self._owner = os.getpid(), threading.Lock(), None
        if self._owner == threading.get_ident():
            raise RuntimeError("workers are busy with another run of this thread, which must come to its end first")
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner, self._makers = None, {}


class InProcess(Pool):
    """Runs each call at once in this process, without Ray: to be stepped through, or to play a thousand workers.

    All processes of a role share one object, as their calls are functions of their arguments (there is one server).
    Given as `workers=` it leads to the bits that `Workers` lead to.
    """

    cw_num = ew_num = math.inf
    _players: dict[str, Any]
    ahead = 0  # a call returns when it is done

    @contextlib.contextmanager
    def run(self, makers: Makers) -> Iterator[InProcess]:
        """Take a turn; until its end each role is played by what its maker makes."""
        with self._turn():
            self._makers, self._players = dict(makers), {}
            try:
                yield self
            finally:
                self._players = {}

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Reference:
        """Do the call: what it returns."""
        if role not in self._players:
            self._players[role] = self._makers[role]()
        return getattr(self._players[role], method)(*arguments)

    def result(self, reference: Reference, timeout: float | None = None) -> Any:
        """What the call returned."""
        return reference


class Workers(Pool):
    """The processes of distributed runs, over Ray: a server, `cw_num` collectors and `ew_num` evaluators.

    A run without `workers=` takes the session's own (`shared_workers`). `with Workers(8, 4) as workers:` makes others,
    which end with the block. Runs in several threads take turns.

    A server builds on the calls before, and so may a collector. Their calls are numbered in sequences, each of which
    the server's `begin` starts, and a process refuses all but the next call of the latest sequence: one that follows a
    lost one, one that comes late, one that comes twice.
    """

    ahead = 2  # times `lag` batches: for each that is collected another one waits for its table

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
        """Start what is not running, and wait until all answer.

        Those that die meanwhile, or cannot be reached, are started again. Raises TimeoutError where that helps
        nothing, or if no further one is ready in 120 s.
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
            f"{len(slots)} Ray actors did not start, in {START_TRIES} tries: {names} died, or did not answer in "
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
        """Take a turn; until its end each role's processes hold what its maker makes, whichever process it is."""
        check_not_forked()
        with self._turn():
            self.start()
            import ray  # which starting may have been the first to do

            pickled = {role: _pickled(maker) for role, maker in makers.items()}
            # A large lake is stored once, and not sent along with every call.
            self._makers = {role: ray.put(maker) if len(maker) > 50_000 else maker for role, maker in pickled.items()}
            self._begin_sequence()
            yield self

    def _begin_sequence(self) -> None:
        """Number calls from 0 again, and have those that were sent before refused from now on."""
        self._sequence += 1
        self._sent.clear()

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Call:
        """Send a call on its way; it starts once the calls among its arguments have returned."""
        if method == "begin":
            self._begin_sequence()
        # What an evaluator does depends on the arguments alone, whatever became of the calls before.
        turn = None if role == "evaluator" else (self._sequence, next(self._sent[role, i]))
        process = self._processes[role, i]
        # Without what they wait for in turn, or a run would keep all of its calls.
        waits_for = tuple(argument._replace(waits_for=()) for argument in arguments if isinstance(argument, Call))
        references = (argument.reference if isinstance(argument, Call) else argument for argument in arguments)
        reference = process.call.remote(turn, self._makers[role], method, *references)
        numbers = ", ".join(str(argument) for argument in arguments if isinstance(argument, int | float))
        return Call(role, i, f"{method}({numbers})", process, reference, waits_for)

    def result(self, call: Call, timeout: float | None = None) -> Any:
        """What a call returned, or its own error; `Lost` or a subclass for a process, RuntimeError where Ray fails."""
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
        """New processes for one that was lost and for others that are dead, too: how many there were."""
        slot = lost.call.role, lost.call.i
        if self._processes[slot] is not lost.call.process:
            return 0  # a call from before it was replaced
        dead = {slot} | self._dead()
        for slot in dead:
            _end(self._processes[slot])
        self._start_processes(dead)
        return len(dead)

    def _dead(self) -> set[Slot]:
        """The processes that Ray knows to be dead; those that are busy do not answer."""
        import ray

        answers = {process.ready.remote(): slot for slot, process in self._processes.items()}
        answered, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0.1)
        return {answers[answer] for answer in answered if _kind_of_loss(_error_of(answer)) is Lost}

    def _forget_other_sessions(self) -> None:
        """Drop the processes of a Ray that was shut down meanwhile: they are gone."""
        import ray

        context = ray.get_runtime_context()
        session = context.get_job_id(), context.get_node_id()
        if session != self._session:
            self._session, self._processes = session, {}


_shared: Workers | None = None
_shared_lock = threading.Lock()


def shared_workers(cw_num: int, ew_num: int) -> Workers:
    """The session's own processes, at least so many: started once, ended by `ray.shutdown()` or with this process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Workers(cw_num, ew_num)
        _shared.cw_num, _shared.ew_num = max(_shared.cw_num, cw_num), max(_shared.ew_num, ew_num)
        return _shared


def check_workers(workers: Any, cw_num: int, ew_num: int) -> None:
    """TypeError or ValueError unless these are workers of a run, with so many collectors and evaluators; None is."""
    if not isinstance(workers, Pool | None):
        raise TypeError(f"workers must be Workers, Threads, InProcess or None, got {workers!r}")
    if workers and (workers.cw_num < cw_num or workers.ew_num < ew_num):
        needed = f"{cw_num} collectors and {ew_num} evaluators at least"
        raise ValueError(f"workers must be {needed}, got {workers.cw_num} and {workers.ew_num}")


def _host() -> Any:
    """The class of the processes of `Workers`, for the Ray that is imported."""
    import ray

    return _host_of(ray)


@functools.cache
def _host_of(ray: types.ModuleType) -> Any:
    """The process of `Workers`: holds what a maker makes, and passes calls on to it.

    The maker comes with every call, so that any process can take the place of any other. The class is defined here,
    inside a function, since Ray then sends its code along: a process is up before it needs any module of ours, and
    finds them even in a Ray that the user has started elsewhere. It is made once, as Ray's documents ask for.
    """

    # No CPU of its own: an actor that asks for one waits silently where there is none left. A byte of memory,
    # since Ray would place one that asks for nothing at random, and not spread them.
    @ray.remote(num_cpus=0, memory=1, scheduling_strategy="SPREAD")
    class Host:
        def __init__(self, folder: str):
            self.maker: bytes | None = None
            self.held: Any = None
            self.sequence = self.next = 0
            if os.path.isdir(folder) and folder not in sys.path:  # a cluster's nodes get the modules with the job
                sys.path.append(folder)

        def ready(self) -> None:
            """Answers once the process is up."""

        def call(self, turn: tuple[int, int] | None, maker: bytes, method: str, *arguments: Any) -> Any:
            if turn is not None:
                self.take_turn(*turn)
            if maker != self.maker:
                self.maker, self.held = maker, pickle.loads(maker)()
            from ray.exceptions import RayError

            from tabular.pool import travelling

            try:
                return getattr(self.held, method)(*arguments)
            except RayError as error:  # the simulator's, which is not to be taken for a loss of ours
                raise RuntimeError(f"{method} failed with an error of Ray's: {error}") from error
            except KeyboardInterrupt as error:  # likewise: to Ray it would be a call that was cancelled
                raise RuntimeError(f"{method} failed with KeyboardInterrupt, which only a driver is sent") from error
            except Exception as error:
                raise travelling(error) from None

        def take_turn(self, sequence: int, number: int) -> None:
            """OutOfTurn unless this is the next call of the latest sequence."""
            if number == 0 and sequence > self.sequence:
                self.sequence, self.next = sequence, 0
            if (sequence, number) != (self.sequence, self.next):
                from tabular.pool import OutOfTurn

                raise OutOfTurn(f"call {number} of {sequence}, where {self.next} of {self.sequence} is next")
            self.next += 1

    return Host


def travelling(error: Exception) -> Exception:
    """An error as it can be sent to another process: itself, or what it says where it cannot be pickled."""
    import ray

    try:
        pickle.loads(ray.cloudpickle.dumps(error))
        return error
    except Exception:  # of whatever kind its class raises
        pass
    told = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    for note in getattr(error, "__notes__", []):
        told.add_note(note)
    return told


def _pickled(maker: Callable) -> bytes:
    """A maker as it is sent; TypeError where the simulator among its arguments cannot be."""
    import ray

    try:
        return ray.cloudpickle.dumps(maker)
    except Exception as error:
        raise TypeError(
            f"simulator must be one that can be pickled, since each process steps its own ({error}): take "
            "workers=td.InProcess()"
        ) from error


def _spawn() -> Any:
    """A new process."""
    return _host().remote(str(FOLDER))


def _wait_until_ready(processes: dict[Slot, Any]) -> set[Slot]:
    """Wait until all answer, as long as one more does every 120 s: the slots of those that have not, or were lost."""
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
    """End a process; those of a Ray that was shut down are gone already."""
    import ray

    if ray.is_initialized():
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(process)


def _first(condition: Callable[[Any], Any], call: Call) -> Call:
    """Of the calls that a call waits for the first that fulfils a condition, or else the call itself."""
    return next((other for other in call.waits_for if condition(other.reference)), call)


def _is_pending(reference: Any) -> bool:
    """Whether a call has not come to its end."""
    import ray

    return not ray.wait([reference], timeout=0, fetch_local=False)[0]


def _error_of(reference: Any) -> Exception | None:
    """With what a call has failed; None where it has a result, or has not come to its end."""
    import ray

    if _is_pending(reference):
        return None
    try:
        ray.get(reference, timeout=READY_SECONDS)  # what cannot be fetched by then has been lost
    except ray.exceptions.RayError as error:
        return getattr(error, "cause", None) or error
    return None


def _kind_of_loss(error: Exception | None) -> type[Lost] | None:
    """What an error says of a process; None where it says nothing, as it is a simulator's own."""
    from ray import exceptions

    if isinstance(error, OutOfTurn):
        return Missed
    if isinstance(error, exceptions.ActorUnavailableError):
        return Unreachable
    lost = exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError, exceptions.NodeDiedError
    return Lost if isinstance(error, lost) else None
