"""Who uses an agent: one thread at a time, and in it one run of batches."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_changing = threading.Lock()  # held for a moment by whoever begins to use an agent


class Usage:
    """Refuses a second user, with RuntimeError. A copy, or what is unpickled, is used by nobody."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self.in_batches = False

    def __deepcopy__(self, memo: dict) -> Usage:
        return Usage()

    def __reduce__(self) -> tuple:
        return Usage, ()

    @contextlib.contextmanager
    def by_this_thread(self, in_batches: bool = False) -> Iterator[None]:
        """Refuse other threads meanwhile, and in this one a second run of batches."""
        thread = threading.get_ident()
        with _changing:
            before = self._thread, self.in_batches
            if self._thread not in (None, thread):
                raise RuntimeError("this agent is in use by another thread: copy.copy(agent) may learn beside it")
            if in_batches and self.in_batches:
                raise RuntimeError("this agent is learning in batches, which must come to their end first")
            self._thread, self.in_batches = thread, self.in_batches or in_batches
        try:
            yield
        finally:
            self._thread, self.in_batches = before

    def check_may_change(self, name: str) -> None:
        """RuntimeError where a run goes on that would not follow if `name` were assigned."""
        if self.in_batches:
            raise RuntimeError(f"{name} may not be assigned while this agent learns in batches: end the loop first")
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError(f"{name} may not be assigned while another thread uses this agent")
