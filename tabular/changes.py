"""Large q_tables travel as changes: the message, and what server, workers and agent keep for it.

    server, with a `ChangeLog`  --Changes-->  worker, with a `Replica`
                                --Changes-->  agent, with a `Version`

A receiver is first sent a whole q_table, and again whenever the changes would take more bytes. A run that continues
after a loss also starts from whole ones, so a new process can replace any other. In this module a table is a q_table.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from .kernels import cached_jit

LARGE = 2**18  # bytes of a q_table; a smaller one is sent whole, since finding its changes would take longer


class Changes(NamedTuple):
    """The pairs of a q_table that may have changed since `since` learning steps, and their values."""

    since: int
    pairs: np.ndarray  # int32, each once, as state * actions + action
    values: np.ndarray  # float64

    @property
    def nbytes(self) -> int:
        """The number of bytes shipped."""
        return self.pairs.nbytes + self.values.nbytes

    def apply(self, q_table: np.ndarray) -> None:
        """Bring a table up to date, in place."""
        q_table[np.divmod(self.pairs, q_table.shape[1])] = self.values


class ChangeLog:
    """The server's record of the pairs that the last `behind` batches changed in its q_table.

    A receiver's last table is from `behind` batches ago; with None only whole tables are sent.
    """

    def __init__(self, q_table: np.ndarray, steps: int, behind: int | None):
        self.q_table, self.steps, self.behind = q_table, steps, behind
        # For each batch, the steps before it and the pairs that it changed.
        self.batches: deque[tuple[int, np.ndarray]] = deque(maxlen=behind)
        self.seen = np.zeros(q_table.size, np.bool_)

    def send(self, pairs: np.ndarray, steps: int) -> np.ndarray | Changes:
        """Return what to send after a batch that changed `pairs` (entries below 0 are ignored) and ended at `steps`."""
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
        """Return the pairs in these arrays, each once."""
        return distinct(np.concatenate(pairs), self.seen)


class Replica:
    """A worker's two tables: one as received, and a copy to learn on."""

    received: np.ndarray  # the q_table as last received
    owned: bool  # whether `received` may be changed: it then is not an array that others share
    copy: np.ndarray  # the one to learn on
    steps: int  # of the last snapshot

    def __init__(self) -> None:
        self.learned: np.ndarray | None = None  # the pairs that the last batch updated; None before and during one

    def take(self, table: np.ndarray | Changes, steps: int) -> np.ndarray:
        """Bring the copy to a snapshot's q_table, that after `steps` learning steps, and return it to learn on.

        A whole table is copied. For `Changes` the copy's own learning is undone first: the pairs in `learned` are
        reset to the values received. Then both tables are updated. After a batch the caller must assign the pairs that
        it updated to `learned`.
        """
        if isinstance(table, Changes):
            if self.learned is None or not table.since <= self.steps <= steps:
                raise RuntimeError(f"changes since step {table.since} were sent to a worker without that table")
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
        self.steps, self.learned = steps, None
        return self.copy

    def writable(self, q_table: np.ndarray) -> np.ndarray:
        """Return a writable copy of a table, in C order; arrays from Ray are read-only."""
        return np.array(q_table, order="C")


class Version:
    """An agent's q_table, stored as changes to the previous one until the table itself is needed."""

    def __init__(self, before: np.ndarray | Version, changes: Changes):
        self.nbytes: int = before.nbytes
        # Copies, since arrays from Ray occupy its store while they are held.
        self.before: Any = before if isinstance(before, Version) else np.array(before)
        self.changes: Any = changes._replace(pairs=np.array(changes.pairs), values=np.array(changes.values))
        self.bytes_before = before.bytes_until if isinstance(before, Version) else 0  # of changes since a whole table
        self.bytes_until: int = self.bytes_before + changes.nbytes
        self.table: np.ndarray | None = None

    def fills_a_table(self) -> bool:
        """Whether these changes take the total since the last whole table past a multiple of a table's size."""
        return self.bytes_before // self.nbytes < self.bytes_until // self.nbytes

    def materialize(self) -> np.ndarray:
        """Return the table, read-only."""
        if self.table is None:
            changes: list[Changes] = []
            version: Any = self
            while isinstance(version, Version) and version.table is None:
                changes.append(version.changes)
                version = version.before
            table = np.array(materialized(version))
            for change in reversed(changes):
                change.apply(table)
            self.table = frozen(table)  # in one step: an interrupt leaves the table whole or absent
        self.before = self.changes = None
        return self.table


def frozen(q_table: np.ndarray) -> np.ndarray:
    """Make an array read-only, and return it: only some of the processes that use it would see a change."""
    q_table.flags.writeable = False
    return q_table


def following(before: np.ndarray | Version, received: np.ndarray | Changes) -> np.ndarray | Version:
    """Return a received table in the form that an agent keeps: whole, or as a version of the previous one."""
    return Version(before, received) if isinstance(received, Changes) else received


def materialized(q_table: np.ndarray | Version) -> np.ndarray:
    """Return a q_table as an array."""
    return q_table.materialize() if isinstance(q_table, Version) else q_table


@cached_jit
def distinct(pairs, seen):
    """Return the pairs from 0 up, each once, in order of first appearance; `seen` must be, and stays, all False."""
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
