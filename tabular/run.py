"""A run of a plan on a pool: batches are sent ahead, with tests in parallel, and lost calls are sent again."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .plan import Batch, Snapshot
from .pool import Hung, Lost, Missed, Pool, Reference, Unreachable

LOSSES = 5  # a run gives up if the same work is lost more often than this, with nothing learned or tested in between


class Recovery:
    """Replaces lost processes of a run, and gives up when losses repeat with nothing learned or tested in between."""

    def __init__(self, pool: Pool, patience: float):
        self.pool, self.patience = pool, patience
        self.replaced = 0
        self._longest, self._last_success = 0.0, time.monotonic()
        self._losses: dict[tuple[str, str], int] = {}
        self._unreachable_since: float | None = None

    def succeeded(self) -> None:
        """Note that something was learned or tested."""
        now = time.monotonic()
        self._longest, self._last_success = max(self._longest, now - self._last_success), now
        self._losses, self._unreachable_since = {}, None

    def result(self, call: Reference) -> Any:
        """Return the result of a call; wait at most `patience` seconds or, if longer, twice the longest wait so far."""
        return self.pool.result(call, max(self.patience, 2 * self._longest))

    def recover(self, lost: Lost) -> None:
        """Replace a lost process, or wait for one that cannot be reached; raise RuntimeError to give up."""
        if isinstance(lost, Unreachable):
            self._wait_for(lost)
        elif isinstance(lost, Missed) or self._replace(lost):
            self._count(lost)
        self._last_success = time.monotonic()  # the time lost is not the time that a batch takes

    def _replace(self, lost: Lost) -> bool:
        """Replace a process, and return True; return False if it has been replaced since the call was sent."""
        replaced = self.pool.replace(lost)
        self.replaced += replaced
        if replaced and isinstance(lost, Hung):
            warnings.warn(f"{lost}: it is replaced, and its work is sent again", stacklevel=4)
        return replaced > 0

    def _count(self, lost: Lost) -> None:
        """Count how often the same work was lost in a row, on any process; raise RuntimeError beyond LOSSES."""
        work = lost.call.role, lost.call.task
        self._losses[work] = self._losses.get(work, 0) + 1
        if self._losses[work] > LOSSES:
            times = f"for the {self._losses[work]}th time in a row, with nothing learned or tested in between"
            hint = {
                Hung: f"does the simulator take longer than patience={self.patience:g}?",
                Missed: "does the network lose calls?",
            }.get(type(lost), "does the simulator end its process?")
            raise RuntimeError(f"{lost}, {times}: {hint}") from lost

    def _wait_for(self, lost: Unreachable) -> None:
        """Wait a second for the network to come back; if a node is lost for good, Ray reports it in half a minute."""
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
        if now - self._unreachable_since > self.patience:
            waited = f"{now - self._unreachable_since:.0f} s"
            raise RuntimeError(f"{lost}, and nothing was learned or tested for {waited}: the run gives up") from lost
        time.sleep(1.0)


def dataflow(
    pool: Pool,
    recovery: Recovery,
    batches: Iterable[Batch],
    snapshots: Iterable[object],
    submit: Callable[[Pool, Batch, Reference], Reference],
) -> Iterator[tuple[Batch, Snapshot]]:
    """Send batches ahead, so that no process waits for this one.

    Yields each batch, in order, with the snapshot after it. `submit(pool, batch, snapshot)`
    sends a batch to be collected on `snapshot`. The server starts from the last of `snapshots`.
    The first batches are collected on these in turn, and later ones, batch i, on the snapshot
    after batch i - len(snapshots).
    """
    act_on = deque(snapshots)
    ahead = max(1, pool.ahead * len(act_on))
    pool.subject = None
    pool.submit("server", 0, "begin", act_on[-1])
    sent: deque[tuple[Batch, Reference]] = deque()
    for batch in batches:
        if len(sent) == ahead:
            first, call = sent.popleft()
            yield first, recovery.result(call)
        pool.subject = batch.number
        act_on.append(submit(pool, batch, act_on.popleft()))
        sent.append((batch, act_on[-1]))
    for batch, call in sent:
        yield batch, recovery.result(call)


class Tests:
    """The tests of a run that are in progress; `add` lets there be at most two per evaluator.

    `untested` maps the episode of each test to its q_table, until `keep(episode, mean, seconds)` has its result.
    """

    def __init__(
        self, pool: Pool, recovery: Recovery, evaluators: int, untested: dict[int, np.ndarray], keep: Callable
    ) -> None:
        self.pool, self.recovery, self.evaluators = pool, recovery, evaluators
        self.untested, self.keep = untested, keep
        self.sent: deque[tuple[int, Reference]] = deque()
        self.count = 0
        for episode in sorted(untested):  # left over from an interrupted run
            self.send(episode)

    def add(self, episode: int, q_table: np.ndarray) -> None:
        """Send the test of the q_table after `episode` episodes; wait for a result if too many are in progress."""
        self.untested[episode] = q_table
        self.send(episode)
        while len(self.sent) > 2 * self.evaluators:
            self.take()

    def finish(self) -> None:
        """Wait for the results of all tests."""
        while self.sent:
            self.take()

    def send(self, episode: int) -> None:
        """Send a test to the next evaluator in turn."""
        evaluator, self.count = self.count % self.evaluators, self.count + 1
        self.pool.subject = episode
        call = self.pool.submit("evaluator", evaluator, "evaluate", self.untested[episode], episode)
        self.sent.append((episode, call))

    def take(self) -> None:
        """Wait for the first result, and keep it; if the test was lost, send it again."""
        episode, call = self.sent.popleft()
        try:
            mean, seconds = self.recovery.result(call)
        except Lost as lost:
            self.recovery.recover(lost)
            self.send(episode)
            return
        self.recovery.succeeded()
        self.keep(episode, mean, seconds)
        del self.untested[episode]
