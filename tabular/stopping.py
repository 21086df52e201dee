"""Stopping threads, and delaying Ctrl-C, at safe points only.

An exception that is raised in a thread from outside may arrive while a lock is being taken, which is then never
released. So each thread itself checks whether its run has ended: between steps of a simulator, and between parts of a
compiled loop. Ctrl-C is delayed while numba compiles, because it may leave numba broken.
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
    """End the block early if `ended()` is true when this thread comes to a safe point."""
    _thread.ended = ended
    try:
        with contextlib.suppress(Stopped):
            yield
    finally:
        del _thread.ended


def stop_if_ended() -> None:
    """Raise Stopped if this thread's run has ended."""
    ended = getattr(_thread, "ended", None)
    if ended is not None and ended():
        raise Stopped


def between_steps(step: Callable) -> Callable:
    """Return a simulator's step that, within `stopped_when`, first checks whether this thread's run has ended."""
    ended = getattr(_thread, "ended", None)
    if ended is None:
        return step

    def check_and_step(action: int) -> Any:
        if ended():
            raise Stopped
        return step(action)

    return check_and_step


@contextlib.contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Delay Ctrl-C until the block ends."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # Ctrl-C runs no Python handler here
        return
    held = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)
