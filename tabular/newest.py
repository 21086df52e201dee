"""A thread that works on the newest of many requests: while it works, a newer request replaces the one that waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Calls `work(request)` in a thread of its own for the newest request; those that were overtaken are dropped.

    The thread ends when no request is left, and the next request starts another one. `work` must not raise: what it
    raises ends the thread, and is printed as for any thread.
    """

    def __init__(self, work: Callable[[T], None]):
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[T] = []  # at most one
        self._thread: threading.Thread | None = None

    def put(self, request: T) -> None:
        """Ask for work on a request, instead of one that still waits; return at once."""
        with self._lock:
            self._waiting = [request]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def overtaken(self) -> bool:
        """Whether a newer request waits for the present one to end."""
        return bool(self._waiting)

    def settle(self) -> None:
        """Wait until no request is left."""
        while (thread := self._thread) is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                request = self._waiting.pop()
            try:
                self._work(request)
            except BaseException:
                with self._lock:
                    self._thread = None
                raise
