"""The plan of a distributed run, independent of where it runs: its batches, and the messages between the roles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .changes import Changes, Version, following, materialized
from .returns import Returns


class Batch(NamedTuple):
    """Episodes `first`, ..., `last` - 1, learned together. `number` counts the batches of a run from 0."""

    number: int
    first: int
    last: int

    def shares(self, workers: int) -> list[tuple[int, int]]:
        """Split the batch evenly; return each worker's first episode and its number of episodes, which may be 0."""
        cuts = [self.first + (self.last - self.first) * worker // workers for worker in range(workers + 1)]
        return [(first, last - first) for first, last in itertools.pairwise(cuts)]


class Cost(NamedTuple):
    """Seconds spent on collecting, replaying (or merging) and evaluating, and bytes transferred."""

    collect: float = 0.0
    replay: float = 0.0
    evaluate: float = 0.0
    bytes: int = 0  # shipped to the server
    sent: int = 0  # by the server: tables or changes, counted once per batch, not once per receiver

    def plus(self, other: Cost) -> Cost:
        """Return the sum, field by field."""
        return Cost._make(map(sum, zip(self, other, strict=True)))


class Collected(NamedTuple):
    """The experience of a batch, as it is shipped."""

    pairs: np.ndarray  # int32, as in `Experience`
    rewards: np.ndarray  # float32 if that is exact, else float64
    seconds: float  # spent on collecting
    returns: np.ndarray | None = None  # float64, one per episode, if they are kept

    @property
    def nbytes(self) -> int:
        """The number of bytes shipped."""
        return sum(part.nbytes for part in (self.pairs, self.rewards, self.returns) if part is not None)


class Snapshot(NamedTuple):
    """The q_table after `steps` learning steps, and the cost of its latest batch."""

    q_table: np.ndarray | Changes  # a large table travels as changes if the receiver has an earlier one
    steps: int
    cost: Cost = Cost()
    returns: np.ndarray | None = None  # float64, one per episode of that batch, if they are kept


class Learned(NamedTuple):
    """What an agent has learned, in one object, so that an interrupt never sees a mixture of old and new."""

    q_table: np.ndarray | Version  # float64, (states, actions)
    episode: int  # number of episodes learned
    steps: int
    recent: tuple = ()  # of a distributed agent: the tables after the latest batches, the last of them q_table
    returns: Returns = Returns()  # of the latest episodes, without a gap
    place: np.ndarray | None = None  # where the next episode starts, as in `tabular.continuing`; None: at a start

    def after(self, batch: Batch, snapshot: Snapshot, lag: int) -> Learned:
        """Return the state after one more batch, whose result is `snapshot`."""
        q_table = following(self.q_table, snapshot.q_table)
        recent = (*tables_to_act_on(self, lag)[1:], q_table)
        if isinstance(q_table, Version) and q_table.fills_a_table():
            materialized(recent[0])  # so that the changes before it can be dropped
        return Learned(q_table, batch.last, snapshot.steps, recent, self.returns.plus(snapshot.returns))


def tables_to_act_on(learned: Learned, lag: int) -> tuple:
    """Return the q_tables that the next `lag` batches are collected on, the latest last.

    If fewer than `lag` tables are known, the earliest is repeated at the beginning.
    """
    recent = learned.recent[-lag:] or (learned.q_table,)
    return (recent[0],) * (lag - len(recent)) + recent


def with_own_arrays(learned: Any) -> Any:
    """Return a copy without arrays from Ray, which are read-only and occupy its store while they are referenced.

    The last table is the one that users get, and may change in place.
    """
    q_table = np.array(materialized(learned.q_table))
    older = (table if isinstance(table, Version) else np.array(table) for table in learned.recent[:-1])
    return learned._replace(q_table=q_table, recent=(*older, q_table))


def plan(first: int, until: int, size: int, test_interval: int | None, number: int = 0) -> Iterator[Batch]:
    """Yield the batches of episodes `first` to `until` - 1, of `size` each, the first with this `number`.

    Batches are truncated at multiples of `test_interval`, if given, so that tests see the table at these episodes.
    """
    while first < until:
        last = min(first + size, until)
        if test_interval:
            last = min(last, first - first % test_interval + test_interval)
        yield Batch(number, first, last)
        number, first = number + 1, last
