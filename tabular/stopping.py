"""Where work in a thread stops, and where Ctrl-C waits: in places of our own, and nowhere else.

An exception that is thrown into a thread from outside may fall while a lock is taken, which is then never released. So
a thread looks for itself whether its run has ended: between two steps of a simulator, and between two parts of a
compiled loop. And Ctrl-C waits while numba compiles, which may not survive it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_thread = threading.local()


class Stopped(BaseException):
    """Raised in a thread whose run has ended."""


@contextlib.contextmanager
def stopped_when(ended: Callable[[], bool]) -> Iterator[None]:
    """Have this thread look whether its run has ended, and come out of the block where it has."""
    _thread.ended = ended
    try:
        with contextlib.suppress(Stopped):
            yield
    finally:
        del _thread.ended


def stop_if_ended() -> None:
    """Stopped where this is a thread whose run has ended."""
    ended = getattr(_thread, "ended", None)
    if ended is not None and ended():
        raise Stopped


def between_steps(step: Callable) -> Callable:
    """A simulator's step, with a look before each where this thread's run may end."""
    ended = getattr(_thread, "ended", None)
    if ended is None:
        return step

    def look_and_step(action: int) -> Any:
        if ended():
            raise Stopped
        return step(action)

    return look_and_step


@contextlib.contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Have Ctrl-C wait until the block ends."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # it does not come here
        return
    held = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)
