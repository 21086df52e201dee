"""Stepping in plain Python: what an env returns, checked, and the rows of a table as lists."""

from __future__ import annotations

import operator
import reprlib
from typing import Any, NoReturn

import numpy as np

from .stopping import between_steps

LOWEST_REWARD, HIGHEST_REWARD = -1e38, 1e38  # float32 holds them, and sums of as many as there can be are finite


class Stepped:
    """An env, and the number of its states, as the loops step it."""

    __slots__ = ("act", "env", "states")

    def __init__(self, env: Any, states: int):
        self.env, self.states, self.act = env, states, between_steps(env.step)


# What an env returns --------------------------------------------------------------------


def checked_start(returned: Any, states: int) -> int:
    """The state that an env's reset returned; ValueError unless it returned one of `states`, and an info."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"the simulator's reset must return (state, info), got {reprlib.repr(returned)}")
    return _checked_state(returned[0], states)


def checked_step(returned: Any, states: int) -> tuple[int, float, bool, bool]:
    """(next_state, reward, terminated, truncated) of what an env's step returned; ValueError where it cannot be."""
    if not isinstance(returned, tuple) or len(returned) != 5:
        expected = "(state, reward, terminated, truncated, info), as gym's since 0.26"
        raise ValueError(f"the simulator's step must return {expected}, got {reprlib.repr(returned)}")
    next_state, reward, terminated, truncated, _ = returned
    ends = _checked_end("terminated", terminated), _checked_end("truncated", truncated)
    return _checked_state(next_state, states), _checked_reward(reward), *ends


def _checked_state(state: Any, states: int) -> int:
    """A state as Python's int: numpy's narrow types would overflow."""
    try:
        number = int(state) if isinstance(state, np.bool_) else operator.index(state)
    except TypeError:
        number = -1
    if not 0 <= number < states:
        raise ValueError(f"the simulator's state must be one of 0 to {states - 1}, got {reprlib.repr(state)}")
    return number


def _checked_end(name: str, value: Any) -> bool:
    """Whether an episode has ended, as Python's bool."""
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "biu" or value not in (0, 1):
        raise ValueError(f"the simulator's {name} must be True or False, got {reprlib.repr(value)}")
    return bool(value)


def _checked_reward(reward: Any) -> float:
    """A reward as Python's float."""
    try:
        number = np.nan if isinstance(reward, str | bytes) or np.ma.is_masked(reward) else float(reward)
        allowed = LOWEST_REWARD <= number <= HIGHEST_REWARD and np.ndim(reward) == 0
    except (TypeError, ValueError, OverflowError):
        allowed = False
    if not allowed:
        bounds = f"from {LOWEST_REWARD:g} to {HIGHEST_REWARD:g}"
        raise ValueError(f"the simulator's reward must be a number {bounds}, got {reprlib.repr(reward)}")
    return number


# A table ----------------------------------------------------------------------------------

USE_OF_ROWS = "stepped, a q_table is used as q_table[state], q_table[state][action] or q_table[state, action]"


class Rows(dict):
    """The rows of a table as Python lists, made when first touched: a stepped loop runs on plain numbers.

    An update reads and writes `rows[state][action]`, or `rows[state, action]` as on an array. Whatever else an array
    can do is refused, where a dict would do something else without a word.
    """

    def __init__(self, table: np.ndarray):
        self.table, self.states = table, len(table)

    # To read a row that was touched before is the dict's own affair, and quick; all else comes here.
    def __missing__(self, place: Any) -> Any:
        if type(place) is int and 0 <= place < self.states:
            return self.setdefault(place, self.table[place].tolist())
        if isinstance(place, tuple):
            state, action = self._pair(place)
            return self[state][action]
        return self[self._state(place)]

    def __setitem__(self, place: Any, value: Any) -> None:
        if isinstance(place, tuple):
            state, action = self._pair(place)
            self[state][action] = value
        else:
            row, values, width = self[self._state(place)], np.asarray(value, np.float64), self.table.shape[1]
            if values.shape not in ((), (width,)):  # as after row *= 2, which repeats a list
                raise ValueError(f"a row of the q_table must have {width} values, got {value}; {USE_OF_ROWS}")
            row[:] = np.broadcast_to(values, width).tolist()

    def __len__(self) -> int:
        return self.states

    @property
    def shape(self) -> tuple[int, int]:
        """(states, actions)."""
        return self.table.shape

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{USE_OF_ROWS}; it has no {name}")

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError(f"{USE_OF_ROWS}, and not as a whole")

    __array__ = __contains__ = __iter__ = __or__ = copy = _refuse

    def _pair(self, place: tuple) -> tuple[int, int]:
        """The state and the action of a pair; TypeError for slices and the like."""
        try:
            state, action = map(operator.index, place)
        except (TypeError, ValueError):
            raise TypeError(f"{USE_OF_ROWS}, got q_table[{', '.join(map(repr, place))}]") from None
        return state, action

    def _state(self, place: Any) -> int:
        """A state's number; one below 0 counts from the end, as on an array."""
        try:
            state = operator.index(place)
        except TypeError:
            raise TypeError(f"{USE_OF_ROWS}, got q_table[{place!r}]") from None
        if not -self.states <= state < self.states:
            raise IndexError(f"q_table has states 0 to {self.states - 1}, got {state}")
        return state % self.states

    def write_back(self) -> None:
        """Store the rows in the table."""
        for state, row in self.items():
            self.table[state] = row

    def as_array(self) -> np.ndarray:
        """What the table would be."""
        rows = Rows(self.table.copy())
        rows.update(self)
        rows.write_back()
        return rows.table
