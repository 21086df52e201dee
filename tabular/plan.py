"""The plan of a distributed run, apart from where it runs: its batches, and what passes between the roles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .changes import Changes, Version, following, materialized


class Batch(NamedTuple):
    """Episodes `first`, ..., `last` - 1 of a run, which are learned together; numbered from 0 in each call."""

    number: int
    first: int
    last: int

    def shares(self, workers: int) -> list[tuple[int, int]]:
        """The first episode of each worker and how many it has, 0 or more, where they divide a batch evenly."""
        cuts = [self.first + (self.last - self.first) * worker // workers for worker in range(workers + 1)]
        return [(first, last - first) for first, last in itertools.pairwise(cuts)]


class Cost(NamedTuple):
    """What was spent: seconds of collecting, replaying (or merging) and evaluating, and bytes that travelled."""

    collect: float = 0.0
    replay: float = 0.0
    evaluate: float = 0.0
    bytes: int = 0  # shipped to the server
    sent: int = 0  # what it led to: tables, or what changed in them, once a batch however many receive it

    def plus(self, other: Cost) -> Cost:
        """The sum, part by part."""
        return Cost._make(map(sum, zip(self, other, strict=True)))


class Collected(NamedTuple):
    """The experience of a batch, as it is shipped."""

    pairs: np.ndarray  # int32, as in `Experience`
    rewards: np.ndarray  # float32 where that is exact, else float64
    seconds: float  # that collecting took


class Snapshot(NamedTuple):
    """The q_table after `steps` learning steps, and what the batch that led to it cost."""

    q_table: np.ndarray | Changes  # to those who have an earlier one, a large table travels as what changed
    steps: int
    cost: Cost = Cost()


class Learned(NamedTuple):
    """What an agent has learned. One attribute holds it all, so that no interrupt falls between its parts."""

    q_table: np.ndarray | Version  # float64, (states, actions)
    episode: int  # how many were learned
    steps: int
    recent: tuple = ()  # of a distributed agent: the tables after the latest batches, the last of them q_table

    def after(self, batch: Batch, snapshot: Snapshot, lag: int) -> Learned:
        """What is learned once a batch is, too."""
        q_table = following(self.q_table, snapshot.q_table)
        recent = (*tables_to_act_on(self, lag)[1:], q_table)
        if isinstance(q_table, Version) and q_table.fills_a_table():
            materialized(recent[0])  # drops the changes before it
        return Learned(q_table, batch.last, snapshot.steps, recent)


def tables_to_act_on(learned: Learned, lag: int) -> tuple:
    """The q_tables that the next `lag` batches are collected on, the latest last.

    Where fewer batches were learned, the first of them are collected on the same table.
    """
    recent = learned.recent[-lag:] or (learned.q_table,)
    return (recent[0],) * (lag - len(recent)) + recent


def with_own_arrays(learned: Any) -> Any:
    """The same, without arrays from Ray, which are read-only, and fill its store for as long as they are held.

    The latest table is the one that a user gets, and may change in place.
    """
    q_table = np.array(materialized(learned.q_table))
    older = (table if isinstance(table, Version) else np.array(table) for table in learned.recent[:-1])
    return learned._replace(q_table=q_table, recent=(*older, q_table))


def plan(first: int, until: int, size: int, test_interval: int | None, number: int = 0) -> Iterator[Batch]:
    """The batches of episodes `first` to `until` - 1: `size` each, cut at multiples of `test_interval`, if any.

    So whatever tables are tested stand at exact multiples of the test interval. The first batch has this number.
    """
    while first < until:
        last = min(first + size, until)
        if test_interval:
            last = min(last, first - first % test_interval + test_interval)
        yield Batch(number, first, last)
        number, first = number + 1, last
