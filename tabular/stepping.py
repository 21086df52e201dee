"""Stepping in plain Python: checks of what an env returns, and a q_table with rows as lists."""

from __future__ import annotations

import operator
import reprlib
from typing import Any, NoReturn

import numpy as np

from .stopping import between_steps

LOWEST_REWARD, HIGHEST_REWARD = -1e38, 1e38  # these fit float32, and no sum of rewards overflows


class Stepped:
    """An env in the form that the episode loops step, with its number of states."""

    __slots__ = ("act", "env", "states")

    def __init__(self, env: Any, states: int):
        self.env, self.states, self.act = env, states, between_steps(env.step)


# What an env returns --------------------------------------------------------------------


def checked_start(returned: Any, states: int) -> int:
    """Return the state from what an env's reset returned; raise ValueError unless that is (valid state, info)."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"the simulator's reset must return (state, info), got {reprlib.repr(returned)}")
    return _checked_state(returned[0], states)


def checked_step(returned: Any, states: int) -> tuple[int, float, bool, bool]:
    """Check what an env's step returned; return (next_state, reward, terminated, truncated) or raise ValueError."""
    if not isinstance(returned, tuple) or len(returned) != 5:
        expected = "(state, reward, terminated, truncated, info), as in gym since 0.26"
        raise ValueError(f"the simulator's step must return {expected}, got {reprlib.repr(returned)}")
    next_state, reward, terminated, truncated, _ = returned
    ends = _checked_end("terminated", terminated), _checked_end("truncated", truncated)
    return _checked_state(next_state, states), _checked_reward(reward), *ends


def _checked_state(state: Any, states: int) -> int:
    """Convert a state to int, because numpy's narrow types would overflow; raise ValueError if it is invalid."""
    try:
        number = int(state) if isinstance(state, np.bool_) else operator.index(state)
    except TypeError:
        number = -1
    if not 0 <= number < states:
        raise ValueError(f"the simulator's state must be from 0 to {states - 1}, got {reprlib.repr(state)}")
    return number


def _checked_end(name: str, value: Any) -> bool:
    """Convert a flag that ends an episode to bool; raise ValueError if it is neither true nor false."""
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "biu" or value not in (0, 1):
        raise ValueError(f"the simulator's {name} must be True or False, got {reprlib.repr(value)}")
    return bool(value)


def _checked_reward(reward: Any) -> float:
    """Convert a reward to float; raise ValueError unless it is one finite number within the bounds."""
    try:
        number = np.nan if isinstance(reward, str | bytes) or np.ma.is_masked(reward) else float(reward)
        allowed = LOWEST_REWARD <= number <= HIGHEST_REWARD and np.ndim(reward) == 0
    except (TypeError, ValueError, OverflowError):
        allowed = False
    if not allowed:
        bounds = f"from {LOWEST_REWARD:g} to {HIGHEST_REWARD:g}"
        raise ValueError(f"the simulator's reward must be a number {bounds}, got {reprlib.repr(reward)}")
    return number


# A q_table with rows as lists ------------------------------------------------------------

USE_OF_ROWS = "use a stepped q_table as q_table[state], q_table[state][action] or q_table[state, action]"


class Rows(dict):
    """A table whose rows become Python lists when first accessed, because a stepped loop is faster on plain numbers.

    An update reads and writes `rows[state][action]`, or `rows[state, action]` as on an array. Everything else that an
    array can do raises an error, because a dict would silently do something different.
    """

    def __init__(self, table: np.ndarray):
        self.table, self.states = table, len(table)

    # Reading a row that is a list already is the dict's fast path; every other read ends up here.
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
            if values.shape not in ((), (width,)):  # for instance after row *= 2, which repeats a list
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
        raise TypeError(f"{USE_OF_ROWS}, not as a whole")

    __array__ = __contains__ = __iter__ = __or__ = copy = _refuse

    def _pair(self, place: tuple) -> tuple[int, int]:
        """Return (state, action) as ints; raise TypeError for slices and the like."""
        try:
            state, action = map(operator.index, place)
        except (TypeError, ValueError):
            raise TypeError(f"{USE_OF_ROWS}, got q_table[{', '.join(map(repr, place))}]") from None
        return state, action

    def _state(self, place: Any) -> int:
        """Return a state as an int; a negative one counts from the end, as in an array."""
        try:
            state = operator.index(place)
        except TypeError:
            raise TypeError(f"{USE_OF_ROWS}, got q_table[{place!r}]") from None
        if not -self.states <= state < self.states:
            raise IndexError(f"q_table has states 0 to {self.states - 1}, got {state}")
        return state % self.states

    def write_back(self) -> None:
        """Copy the rows into the table."""
        for state, row in self.items():
            self.table[state] = row

    def as_array(self) -> np.ndarray:
        """Return a copy of the table with the rows written to it."""
        rows = Rows(self.table.copy())
        rows.update(self)
        rows.write_back()
        return rows.table
