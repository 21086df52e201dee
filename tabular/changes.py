"""Large q_tables travel as what changed in them: what is sent, and what server, workers and agent keep for it.

    server  --Changes-->  worker   a `ChangeLog` here, a `Replica` there
            --Changes-->  agent    a `Version`

A receiver is sent a whole table first, and again whenever the changes would take more room. So any process can be
replaced by one that holds nothing: a run that goes on after a loss begins with whole tables.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .kernels import cached_jit

if TYPE_CHECKING:
    from .plan import Snapshot

LARGE = 2**18  # bytes of a q_table; a smaller one is sent whole, since to find what changed would take longer


class Changes(NamedTuple):
    """The pairs of a q_table that may have changed since `since` learning steps, and their values."""

    since: int
    pairs: np.ndarray  # int32, each once, as state * actions + action
    values: np.ndarray  # float64

    @property
    def nbytes(self) -> int:
        """How much is shipped."""
        return self.pairs.nbytes + self.values.nbytes

    def apply(self, q_table: np.ndarray) -> None:
        """Bring a table up to date, in place."""
        q_table[np.divmod(self.pairs, q_table.shape[1])] = self.values


class ChangeLog:
    """A server's: the pairs that the last batches changed in its q_table.

    `behind` is how many batches ago a receiver got its last table; None sends whole tables only.
    """

    def __init__(self, q_table: np.ndarray, steps: int, behind: int | None):
        self.q_table, self.steps, self.behind = q_table, steps, behind
        # Of each batch, the steps before it, and the pairs that it changed.
        self.batches: deque[tuple[int, np.ndarray]] = deque(maxlen=behind)
        self.seen = np.zeros(q_table.size, np.bool_)

    def send(self, pairs: np.ndarray, steps: int) -> np.ndarray | Changes:
        """What a receiver needs after a batch that changed `pairs` (those below 0 are none) and led to `steps`."""
        if self.behind is not None:
            self.batches.append((self.steps, self.distinct(pairs)))
            self.steps = steps
            if len(self.batches) == self.behind:
                changed = self.distinct(*(pairs for _, pairs in self.batches))
                changes = Changes(self.batches[0][0], changed, self.q_table.reshape(-1)[changed])
                if changes.nbytes < self.q_table.nbytes:
                    return changes
        return frozen(self.q_table.copy())

    def distinct(self, *pairs: np.ndarray) -> np.ndarray:
        """The pairs in these arrays, each once."""
        return distinct(np.concatenate(pairs), self.seen)


class Replica:
    """A worker's: the q_table that it was sent last, and a copy to learn on."""

    received: np.ndarray
    owned: bool
    copy: np.ndarray
    steps: int

    def __init__(self) -> None:
        self.learned: np.ndarray | None = None  # the pairs that the last batch learned; None while it lasts

    def take(self, snapshot: Snapshot) -> np.ndarray:
        """The q_table of a snapshot, to learn on. What is learned is then told by assigning the pairs to `learned`."""
        table = snapshot.q_table
        if isinstance(table, Changes):
            if self.learned is None or not table.since <= self.steps <= snapshot.steps:
                raise RuntimeError(f"changes since step {table.since} were sent to one that does not have that table")
            if not self.owned:
                self.received, self.owned = np.array(self.received), True
            learned = self.learned[self.learned >= 0]
            places = np.divmod(learned, self.received.shape[1])
            self.copy[places] = self.received[places]
            table.apply(self.received)
            table.apply(self.copy)
        else:
            self.received, self.owned = np.asarray(table, np.float64), False
            self.copy = self.writable(self.received)
        self.steps, self.learned = snapshot.steps, None
        return self.copy

    def writable(self, q_table: np.ndarray) -> np.ndarray:
        """A copy of a table, in C's order; those from Ray are read-only."""
        return np.array(q_table, order="C")


class Version:
    """An agent's: a q_table, kept as what changed since the one before it until it is asked for."""

    def __init__(self, before: np.ndarray | Version, changes: Changes):
        self.nbytes: int = before.nbytes
        # Copies, since arrays from Ray fill its store for as long as they are held.
        self.before: Any = before if isinstance(before, Version) else np.array(before)
        self.changes: Any = changes._replace(pairs=np.array(changes.pairs), values=np.array(changes.values))
        self.bytes_before = before.bytes_until if isinstance(before, Version) else 0  # of changes, since a whole table
        self.bytes_until: int = self.bytes_before + changes.nbytes
        self.table: np.ndarray | None = None

    def fills_a_table(self) -> bool:
        """Whether with its changes another table's worth of them has come in."""
        return self.bytes_before // self.nbytes < self.bytes_until // self.nbytes

    def materialize(self) -> np.ndarray:
        """The table, read-only."""
        if self.table is None:
            changes: list[Changes] = []
            version: Any = self
            while isinstance(version, Version) and version.table is None:
                changes.append(version.changes)
                version = version.before
            table = np.array(materialized(version))
            for change in reversed(changes):
                change.apply(table)
            self.table = frozen(table)  # at once: an interrupt leaves all or nothing
        self.before = self.changes = None
        return self.table


def frozen(q_table: np.ndarray) -> np.ndarray:
    """The array itself, from now on read-only: a change would be seen by some of those who share it, and not by all."""
    q_table.flags.writeable = False
    return q_table


def following(before: np.ndarray | Version, received: np.ndarray | Changes) -> np.ndarray | Version:
    """The table that an agent has received, as it keeps it: whole, or as a version of the one before."""
    return Version(before, received) if isinstance(received, Changes) else received


def materialized(q_table: np.ndarray | Version) -> np.ndarray:
    """A q_table as an array, whichever way it is kept."""
    return q_table.materialize() if isinstance(q_table, Version) else q_table


@cached_jit
def distinct(pairs, seen):
    """The pairs from 0 on, each once, in the order of their first appearance; `seen` is False for all of them."""
    found = np.empty(len(pairs), np.int32)
    count = 0
    for pair in pairs:
        if pair >= 0 and not seen[pair]:
            seen[pair] = True
            found[count] = pair
            count += 1
    for i in range(count):
        seen[found[i]] = False
    return found[:count].copy()
