"""The guard of an agent, which lets one thread at a time use it, for one run of batches at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_changing = threading.Lock()  # held for a moment when a thread begins to use an agent


class Usage:
    """Raises RuntimeError for a second user of an agent. A copy, or an unpickled one, starts unused."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self.in_batches = False

    def __deepcopy__(self, memo: dict) -> Usage:
        return Usage()

    def __reduce__(self) -> tuple:
        return Usage, ()

    @contextlib.contextmanager
    def by_this_thread(self, in_batches: bool = False) -> Iterator[None]:
        """Refuse all other threads within the block and, with `in_batches`, a second run of batches in this one."""
        thread = threading.get_ident()
        with _changing:
            before = self._thread, self.in_batches
            if self._thread not in (None, thread):
                raise RuntimeError("this agent is in use by another thread: use a copy here, copy.copy(agent)")
            if in_batches and self.in_batches:
                raise RuntimeError("this agent is learning in batches, which must end first")
            self._thread, self.in_batches = thread, self.in_batches or in_batches
        try:
            yield
        finally:
            self._thread, self.in_batches = before

    def check_may_change(self, name: str) -> None:
        """Raise RuntimeError if `name` may not be assigned now, because a run that is under way would ignore it."""
        if self.in_batches:
            raise RuntimeError(f"{name} may not be assigned while this agent learns in batches: end the loop first")
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError(f"{name} may not be assigned while another thread uses this agent")
