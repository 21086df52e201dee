"""Runs on this machine's cores: calls are done in threads of this process, without Ray.

A call is ready when the calls among its arguments, and all earlier ones of its worker, are done. The thread that
finishes a call continues with one that it made ready, so a batch rarely waits for another thread to wake up.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .pool import Makers, Pool
from .stopping import Stopped, stopped_when


class Call:
    """A submitted call, and its result once it is done."""

    __slots__ = ("arguments", "done", "error", "followers", "method", "value", "waiter")

    def __init__(self, method: Callable, arguments: tuple):
        self.method, self.arguments = method, arguments
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.followers: list[Desk] = []  # whose queues have a call that waits for this one
        self.waiter: threading.Lock | None = None  # a lock that is released when it is done


class Desk:
    """A worker and the queue of its calls, which are done one at a time."""

    __slots__ = ("busy", "calls", "worker")

    def __init__(self, worker: Any):
        self.worker, self.busy = worker, False
        self.calls: deque[Call] = deque()


class Team:
    """The threads of one run, and the calls that they share."""

    def __init__(self, makers: Makers):
        self.makers = makers
        self.guard = threading.Lock()  # protects all attributes below
        self.desks: dict[tuple[str, int], Desk] = {}
        self.ready: list[Desk] = []  # desks whose first call can be done
        self.idle: dict[int, threading.Lock] = {}  # the locks that idle threads wait on, by thread id
        self.threads: list[threading.Thread] = []
        self.ended = threading.Event()

    def submit(self, role: str, i: int, method: str, arguments: tuple) -> Call:
        """Queue a call, and return it."""
        desk = self.desks.get((role, i))
        if desk is None:
            desk = self.desks[role, i] = Desk(self._worker(role))
        call = Call(getattr(desk.worker, method), arguments)
        with self.guard:
            for argument in arguments:
                if type(argument) is Call and not argument.done:
                    argument.followers.append(desk)
            desk.calls.append(call)
            if self._take_if_ready(desk):
                self._hand_over(desk)
            if not self.idle and len(self.threads) < len(self.desks):
                self._start_thread()
        return call

    def wait_for(self, call: Call) -> None:
        """Wait, without a timeout, until a call is done."""
        if not call.done:
            with self.guard:
                if not call.done:
                    call.waiter = threading.Lock()
                    call.waiter.acquire()
            if call.waiter:
                call.waiter.acquire()

    def stop(self) -> None:
        """End the threads, each after its current step, part or compilation, and wait for them."""
        with self.guard:
            self.ended.set()
            while self.idle:  # wake each once
                self.idle.popitem()[1].release()
        for thread in self.threads:
            if thread.ident is not None:  # it has started
                thread.join()

    def _worker(self, role: str) -> Any:
        """Make a worker, from a deep copy of what its role's maker holds."""
        try:
            maker = copy.deepcopy(self.makers[role])
        except Exception as error:
            raise TypeError(
                f"simulator must be one that copy.deepcopy can copy, since each thread steps its own ({error}): use "
                "workers=td.InProcess()"
            ) from error
        return maker()

    # With the guard held

    def _take_if_ready(self, desk: Desk) -> bool:
        """Mark a desk busy and return True if its first call can be done now."""
        if desk.busy or not desk.calls:
            return False
        for argument in desk.calls[0].arguments:
            if type(argument) is Call and not argument.done:
                return False
        desk.busy = True
        return True

    def _hand_over(self, desk: Desk) -> None:
        """Mark a desk as ready, and wake an idle thread if there is one; else the next that is done will see it."""
        self.ready.append(desk)
        if self.idle:
            self.idle.popitem()[1].release()

    def _start_thread(self) -> None:
        """Start one more thread, from the driver's own: an error must come out there, and not end a thread at work."""
        thread = threading.Thread(target=self._work, name=f"td worker {len(self.threads)}", daemon=True)
        self.threads.append(thread)  # first, since an interrupt may fall while it starts
        thread.start()

    def _finish(self, desk: Desk, call: Call) -> None:
        """Mark a call as done, and hand over the desks that became ready."""
        desk.calls.popleft()
        desk.busy, call.done, call.arguments = False, True, ()
        if call.waiter is not None:
            call.waiter.release()
        free = [other for other in (desk, *call.followers) if self._take_if_ready(other)]
        if free:
            self.ready.append(free.pop())  # this thread continues with it
            for other in free:
                self._hand_over(other)

    # In the threads

    def _work(self) -> None:
        """Do calls until the run ends."""
        turn = threading.Lock()
        turn.acquire()
        desk: Any = None
        call: Call | None = None  # of the desk
        with stopped_when(self.ended.is_set):
            while True:
                with self.guard:
                    if call is not None:
                        self._finish(desk, call)
                    if self.ended.is_set():
                        return
                    desk = self.ready.pop() if self.ready else None
                    if desk is None:
                        self.idle[threading.get_ident()] = turn
                if desk is None:
                    turn.acquire()
                    call = None
                else:
                    call = desk.calls[0]
                    _do(call)


class Threads(Pool):
    """Runs calls in parallel threads of this process: uses the cores of this machine without Ray.

    Compiled learning releases the GIL, so threads use several cores, and simulators that wait (sleep, or read from the
    network) wait in parallel. Simulators that compute in Python gain nothing, because only one thread at a time runs
    Python. Each worker has a deep copy of the simulator; if it cannot be copied, a run raises TypeError. The result is
    that of `InProcess` and `Workers`, bit for bit. A thread cannot be replaced, so `patience` is ignored, and
    `restarts` stays 0. Ctrl-C ends a run's threads: a stepping one after its current step, a compiled one within a
    twentieth of a second, and one that waits for a compilation when that is done.
    """

    cw_num = ew_num = math.inf
    ahead = 2  # times `lag` batches: while one is collected, another waits for its table
    ships = False

    @contextlib.contextmanager
    def run(self, makers: Makers) -> Iterator[Threads]:
        """Reserve the pool for a run; each worker is what its role's maker makes, with a copy of the simulator."""
        with self._turn():
            self._team = Team(makers)
            try:
                yield self
            finally:
                self._team.stop()

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Call:
        """Queue a call, which starts once the calls among its arguments are done, and return it."""
        return self._team.submit(role, i, method, arguments)

    def result(self, call: Call, timeout: float | None = None) -> Any:
        """Wait for a call, and return its result or raise its error; `timeout` is ignored."""
        self._team.wait_for(call)
        if call.error is not None:
            raise call.error
        return call.value


def _do(call: Call) -> None:
    """Do a call whose arguments are ready; if a call among them failed, it fails with the same error."""
    values = []
    for argument in call.arguments:
        if type(argument) is Call:
            if argument.error is not None:
                call.error = argument.error
                return
            argument = argument.value
        values.append(argument)
    try:
        call.value = call.method(*values)
    except Stopped:
        raise
    except BaseException as error:
        call.error = error
