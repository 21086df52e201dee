"""Tasks without an end: an episode that only `max_step` cut goes on as the next one, in the state where it stopped.

A place, an int64 array of 3, says where: the state, or -1 if the next episode starts at a start; the steps since the
last start; and the env's own time limit in steps, at which it truncates. A compiled table and a stepped env change it
in place while an agent learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import check_count
from .kernels import MAX_EPISODES, MAX_STEP
from .stepping import checked_start, checked_step
from .tables import PackedTable


def at_start(limit: int) -> np.ndarray:
    """Return the place of an agent whose next episode starts at a start; a limit of MAX_STEP or more is none."""
    return np.array([-1, 0, limit if limit < MAX_STEP else 2**62])


def going_on(simulator: Any, place: np.ndarray, states: int) -> Any:
    """Return a packed table, or an env, in the form that goes on from a place."""
    if isinstance(simulator, PackedTable):
        return simulator._replace(place=place)
    return _Env(simulator, place, states)


class _Env:
    """An env that is reset only where an episode has ended for good."""

    def __init__(self, env: Any, place: np.ndarray, states: int):
        self.env, self.place, self.states = env, place, states

    def reset(self, seed: int) -> tuple[int, dict]:
        """Return the state where the last episode was cut; if none was, reset the env."""
        if self.place[0] < 0:
            self.place[:2] = checked_start(self.env.reset(seed=seed), self.states), 0
        return int(self.place[0]), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        """Act once, and note the place."""
        state, reward, terminated, truncated = checked_step(self.env.step(action), self.states)
        self.place[:2] = -1 if terminated or truncated else state, self.place[1] + 1
        return state, reward, terminated, truncated, {}


def to_save(place: np.ndarray | None) -> list[int] | None:
    """Return what a save's header has of a place: [state, steps], or None if the next episode starts at a start."""
    return None if place is None or place[0] < 0 else place[:2].tolist()


def from_save(saved: Any, states: int, limit: int) -> np.ndarray | None:
    """Return the place that was saved; raise TypeError or ValueError if there is no such place."""
    if saved is None:
        return None
    if not isinstance(saved, list) or len(saved) != 2:
        raise ValueError(f"place must be a state and a number of steps, got {saved}")
    state, steps = check_count("place", saved[0], 0, states - 1), check_count("place", saved[1], 0, MAX_EPISODES << 20)
    return np.array([state, steps, at_start(limit)[2]])
