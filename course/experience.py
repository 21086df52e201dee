"""Which recorded steps a call carries, whatever they are packed in: rows or columns, tuples, dicts or arrays.

A reward of a recorder knows its step. Where it was made into a plain number, rows are compared with what the
processes did, field by field in any order.
"""

from __future__ import annotations

import collections
import numbers
from collections.abc import Iterator, Sequence

import numpy as np

from . import recorder, roles
from .recorder import Event, Log, Reward

STATES = len(recorder.LAKE) ** 2 + 1
FEWEST, MOST = 4, 9  # fields of a step


class Shipped:
    """Tells which steps a call carries, and remembers which were carried before."""

    def __init__(self, log: Log):
        self.log = log
        self._next: dict[int, int] = collections.defaultdict(int)  # of a process's steps, the first not shipped yet
        self._steps: dict[int, list[int]] = collections.defaultdict(list)
        self._seen = 0

    def steps_in(self, value, caller: int) -> list[tuple[int, list]]:
        """(number of the step in the log, the row's values) of all steps within a call's arguments, in order."""
        for columns_first in (False, True):  # arrays of one length may be either
            rows = list(rows_in(value, columns_first))
            tags = [next((one.number for one in row if isinstance(one, Reward)), None) for row in rows]
            if None in tags:
                tags = self._matched(rows, caller)
            if tags:
                return list(zip(tags, rows, strict=True))
        return []

    def _matched(self, rows: list[list], caller: int) -> list[int] | None:
        """The numbers of the steps that rows without a reward's tag stand for; None where there are none."""
        for number, event in enumerate(self.log.events[self._seen :], self._seen):
            if event.action is not None:
                self._steps[event.process].append(number)
        self._seen = len(self.log.events)
        for process in [caller, *(one for one in self._steps if one != caller)]:
            steps = self._steps.get(process, [])
            for start in range(self._next[process], len(steps) - len(rows) + 1):
                candidates = steps[start : start + len(rows)]
                if all(is_row_of(row, self.log.events[i]) for row, i in zip(rows, candidates, strict=True)):
                    self._next[process] = start + len(rows)
                    return candidates
        return None


def is_row_of(row: list, event: Event) -> bool:
    """Whether a row has the four fields of a step, in any order."""
    values = [float(one) for one in row if isinstance(one, (numbers.Number, np.generic))]
    wanted = [event.state, event.action, float(event.reward), event.next_state]
    return not collections.Counter(map(float, wanted)) - collections.Counter(values)


def rows_in(value, columns_first: bool = False, depth: int = 0) -> Iterator[list]:
    """The rows of steps within a value, in order."""
    if depth > 8 or roles.as_array(value, STATES) is not None:  # a table is no batch
        return
    children = _children(value)
    if children is None:
        return
    if is_row(children):
        yield children
        return
    columns = _columns(children, columns_first or isinstance(value, dict) or depth == 0)
    if columns:
        yield from columns
        return
    for child in children:
        yield from rows_in(child, columns_first, depth + 1)


def is_row(children: Sequence) -> bool:
    """Whether these are the fields of one step."""
    if any(_is_sequence(one) for one in children):
        return False
    rewards = sum(isinstance(one, Reward) for one in children)
    if rewards:
        return rewards == 1 and FEWEST - 1 <= len(children) <= MOST
    return FEWEST <= len(children) <= MOST and all(_is_number(one) for one in children)


def _columns(children: list, named: bool) -> list[list] | None:
    """The rows of what is given as columns of equal length; None where it is not."""
    columns = [one for one in children if _is_sequence(one) and not any(map(_is_sequence, one))]
    lengths = collections.Counter(map(len, columns))
    if not lengths:
        return None
    length = lengths.most_common(1)[0][0]
    columns = [list(one) for one in columns if len(one) == length]
    rewarded = [one for one in columns if any(isinstance(value, Reward) for value in one)]
    if len(columns) < FEWEST or length == 0:
        return None
    if len(rewarded) == 1 and all(isinstance(value, Reward) for value in rewarded[0]):
        return [list(row) for row in zip(*columns, strict=True)]
    if not rewarded and (named or length > MOST) and all(_is_number(one) for column in columns for one in column):
        return [list(row) for row in zip(*columns, strict=True)]
    return None


def _children(value) -> list | None:
    """What a container holds; None of others."""
    if isinstance(value, np.ndarray):
        if value.ndim == 2 and value.shape[1] > MOST and FEWEST <= value.shape[0] <= MOST:
            value = value.T
        return list(value) if value.ndim else None
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, collections.deque)):
        return list(value)
    if hasattr(value, "done") and hasattr(value, "packed"):  # a reference within a list
        return _children(value.value()) if value.done and value.error is None else None
    if hasattr(value, "__dict__") and not callable(value) and not hasattr(value, "step") and vars(value):
        own = type(value).__module__
        return None if own.startswith(("tabular", "course", "numpy")) else list(vars(value).values())
    return None


def _is_sequence(value) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_number(value) -> bool:
    return isinstance(value, (numbers.Number, np.generic))
