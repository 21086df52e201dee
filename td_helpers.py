"""Q-learning and SARSA on frozen lakes: on one core, and distributed over Ray.

The sections follow the data: a lake (1) becomes a transition table (2), kernels (3) learn from the table or from the
stepped environment, agents (4) hold what was learned, exact answers (5) judge it, Ray (6) spreads the work, and
pictures (7) show it. Every number is a function of the arguments: all that is random takes a seed, and the draws of
an episode depend on the seed and the episode's number alone, never on how a run is cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import math
import os
import pickle
import random
import socket
import threading
import time
import warnings
import zlib
from bisect import bisect
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload
from tqdm.auto import tqdm

try:
    with contextlib.redirect_stderr(io.StringIO()):  # gym prints a notice, which no filter stops
        import gym
        from gym.envs.toy_text.frozen_lake import is_valid
except ImportError:
    import gymnasium as gym
    from gymnasium.envs.toy_text.frozen_lake import is_valid

# Used by all sections: checks of arguments, seeds, files --------------------------------


def _check_count(name: str, value, low: int = 1, high: int = 2**40) -> int:
    """The value as an int; TypeError unless it is a whole number, ValueError outside low..high."""
    whole = hasattr(value, "__index__") and not isinstance(value, (bool, np.bool_))
    if not whole or not low <= value <= high:
        error = ValueError if whole else TypeError
        raise error(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def _check_number(name: str, value, low: float = 0.0, high: float = 1.0) -> float:
    """The value as a float; TypeError unless it is a real number, ValueError outside low..high."""
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not real or not low <= value <= high:  # false for nan, too
        error = ValueError if real else TypeError
        raise error(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def _check_flag(name: str, value) -> bool:
    """The value as a bool; TypeError unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _check_probabilities(name: str, values, count: int) -> tuple[float, ...]:
    """The values as floats; raises unless they are `count` probabilities that sum to 1."""
    if not np.iterable(values):
        raise TypeError(f"{name} must be {count} probabilities that sum to 1, got {values!r}")
    values = tuple(_check_number(name, value) for value in values)
    if len(values) != count or not math.isclose(sum(values), 1.0, abs_tol=1e-9):
        raise ValueError(f"{name} must be {count} probabilities that sum to 1, got {values} (sum {sum(values):g})")
    return values


def _generator(seed) -> np.random.Generator:
    """The generator of a seed; a generator is taken as it is."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(_check_count("seed", seed, 0, 2**63 - 1))


@contextlib.contextmanager
def _replacing(path):
    """A file to write in, which takes the place of `path` when all is written: whole or not at all."""
    draft = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# 1. Frozen lake -----------------------------------------------------------------------

LEFT, DOWN, RIGHT, UP = range(4)

_PICTURE = """\
SFFFFFFFFFFFFFFFFFFFFFFFFFHFFFFF  SFFFFFFFFHFFFFHF  SFFFFFFF  SFFFFFFF  SFFF
FFFFFFFFHFFFFFFFFFFFFFFFFFHFFFFF  FFFFFFFFFFFFFHFF  FFFFFFFF  FFFFFFFF  FHFH
FFFHFFFFFFFFHFFHFFFFFFFFFFFFFFFF  FFFHFFFFHFFFFFFF  HFHHHFFF  FFFHFFFF  FFFF
FFFFFFFFFFFFFFHFHHFHFHFFFFFHFFFH  FFFFFFFFHFFFFFFF  HFHHHFFF  FFFFFHFF  HFFG
FFFFHFFFFFFFFFFFFFFFHFHFFFFFFFHF  FFFFFFFFFFFFFFFF  HFHHHFFF  FFFHFFFF
FFFFFHFFFFFFFFFFHFFFFFFFFFFHFFFF  FFHHFFFFFFFHFFFH  HFHHHFFF  FHHFFFHF
FFHHFFFFHFFFFFFFFFFFFFFFFFFFFFFF  FFFFFFFFFFFFFFFF  HFFFFFFF  FHFFHFHF
FFFHFFFFFFFFFFHFFFHFHFFFFFFFFHFF  FFFFFHFFFFFFHFFF  FGFFFFFF  FFFHFFFG
FFFFHFFFFFFHFFFFHFHFFFFFFFFFFFFH  FFFFFHFFFFFFFFFH
FFFFHHFHFFFFHFFFFFFFFFFFFFFFFFFF  FFFFFFFHFFFFFFFF
FHFFFFFFFFFFHFFFFFFFFFFFHHFFFHFH  FFFFFFFFFFFFHFFF
FFFHFFFHFFFFFFFFFFFFFFFFFFFFHFFF  FFFFFFHFFFFFFFFF
FFFHFHFFFFFFFFHFFFFFFFFFFFFHFFHF  FFFFFFFFHFFFFFFF
FFFFFFFFFFFFFFFFHFFFFFFFHFFFFFFF  FFFFFFFFFHFFFFHF
FFFFFFHFFFFFFFFHHFFFFFFFHFFFFFFF  FFFFFFFFFFHFFFFF
FFHFFFFFFFFFHFFFFFFFFFFHFFFFFFFF  FFFHFFFFFFFFFFFG
FFFHFFFFFFFFFHFFFFHFFFFFFHFFFFFF
FFFFFFFFFFFFFFFFFFFFFFFFFFHFFFFF
FFFFFFFFHFFFFFFFHFFFFFFFFFFFFFFH
FFHFFFFFFFFFFFFFFFHFFFFFFFFFFFFF
FFFFFFFHFFFFFFFFFFFFFFFFFFFFFFFF
FFFFFFFFFFFFFFFHFFFFHFFFFFFFHFFF
FFHFFFFHFFFFFFFFFHFFFFFFFFFFFHFH
FFFFFFFFFFHFFFFHFFFFFFFFFFFFFFFF
FFFFFFFFFFFFFFFFFHHFFHHHFFFHFFFF
FFFFFFFFFFFFFFHFFFFHFFFFFFFHFFFF
FFFFFFFHFFFFFFFFFFFFFFFFFFFFFFFF
FFFFFHFFFFFFFFFFFFFFFFHFFHFFFFFF
FFFFFFFHFFFFFFFFFHFFFFFFFFFFFFFF
FFFFFFFFFFFFFFFFFFFFFFFFHFFFFFFF
FFFFFFFFFFFFFFFFFFFFFFFFHFFFFFFF
FFFFFFFFFFFFFFFHFFFFFFFFHFFFFFFG
"""
_NAMES = "32x32", "16x16", "Dangerous Hallway", "8x8", "4x4"  # of the columns
_ROWS = [line.split() for line in _PICTURE.splitlines()]
MAPS = {_NAMES[column]: [row[column] for row in _ROWS if column < len(row)] for column in (4, 3, 2, 1, 0)}


def generate_row(length: int, h_prob: float = 0.1, seed=0) -> str:
    """A row of `length` cells, each a hole with probability `h_prob`, else frozen.

    `seed` is an int or a numpy Generator. Raises TypeError or ValueError for bad arguments.
    """
    _check_count("length", length, 0)
    _check_number("h_prob", h_prob)
    return "".join(np.where(_generator(seed).random(length) < h_prob, "H", "F"))


def generate_map(shape: tuple[int, int], h_prob: float = 0.1, seed=0) -> list[str]:
    """A map of `shape` (width, height): S and G in opposite corners, 2 x 2 safe cells at each, else holes at `h_prob`.

    A path to G is likely, not certain. Raises TypeError or ValueError for bad arguments or fewer than two cells.
    """
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (width, height), got {shape!r}")
    width, height = (_check_count("shape", side, 1, 2**15) for side in shape)
    if width * height < 2:
        raise ValueError(f"shape must have room for S and G, two cells at least, got {shape!r}")
    rng = _generator(seed)
    grid = np.array([list(generate_row(width, h_prob, rng)) for _ in range(height)])
    grid[:2, :2] = grid[-2:, -2:] = "F"
    grid[0, 0], grid[-1, -1] = "S", "G"
    return ["".join(row) for row in grid]


def generate_random_map(size: int = 8, p: float = 0.8, seed=0) -> list[str]:
    """A `size` x `size` map whose cells are frozen with probability `p`, with a path from S to G.

    Raises ValueError where 1000 maps have no path, and TypeError or ValueError for bad arguments.
    """
    _check_count("size", size, 2, 2**15)
    _check_number("p", p)
    rng = _generator(seed)
    for _ in range(1000):
        grid = np.where(rng.random((size, size)) < p, "F", "H")
        grid[0, 0], grid[-1, -1] = "S", "G"
        if is_valid(grid.tolist(), size):  # whether there is a path
            return ["".join(row) for row in grid]
    raise ValueError(f"p must leave a path: {p!r} gave none in 1000 maps of {size} x {size}")


class FrozenLakeEnv(gym.Env):
    """A lake to cross on foot from S to G over ice (F), past holes (H), slipping at times.

    `desc` is a list of equally long strings of the letters S, F, H, G, or None for `map_name` (a key of `MAPS`; both
    None: a random 8 x 8 map). Action a (LEFT, DOWN, RIGHT, UP) moves in direction (a + k) % 4 with probability
    `transition_prob[k]`; a wall keeps the agent in place. A step from S or F costs -1. Standing on H or G, any action
    pays -1000 or +1000 and leads to the exit state, number nrow * ncol, which ends the episode. States are numbered
    row by row. Raises TypeError or ValueError for maps that are ragged, empty, of unknown letters, or without S or G,
    for an unknown map name, and for probabilities that are not four numbers that sum to 1.
    """

    metadata = {"render_modes": ["human", "ansi"], "render_fps": 4}
    reward_range = (-1000, 1000)

    def __init__(self, desc=None, map_name="4x4", transition_prob=(0.97, 0.01, 0.01, 0.01), render_mode=None):
        if desc is None and map_name not in [None, *MAPS]:
            raise ValueError(f"map_name must be one of {sorted(MAPS)}, got {map_name!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'human' or 'ansi', got {render_mode!r}")
        if desc is None:
            desc = generate_random_map() if map_name is None else MAPS[map_name]
        self.desc = _parse_map(desc)
        self.nrow, self.ncol = self.desc.shape
        self.transition_prob = _check_probabilities("transition_prob", transition_prob, 4)
        self.render_mode = render_mode
        self.exit_state = self.desc.size
        self.observation_space = gym.spaces.Discrete(self.exit_state + 1)
        self.action_space = gym.spaces.Discrete(4)
        self._starts = np.flatnonzero(self.desc == b"S").tolist()
        self._order = np.argsort(-np.array(self.transition_prob), kind="stable").tolist()  # likely first
        self._sorted_prob = [self.transition_prob[k] for k in self._order]
        self._cumulative = np.cumsum(self._sorted_prob).tolist()
        self._draws, self._moves = [], _Moves(self)
        self.s, self.lastaction = self._starts[0], None

    def __getstate__(self):
        """What was derived from the map is not shipped to other processes; it is made again."""
        caches = ("table", "P", "initial_state_distrib", "_moves")
        return {name: value for name, value in self.__dict__.items() if name not in caches}

    def __setstate__(self, state):
        for name, value in state.items():  # not __dict__.update, after which CPython reads attributes more slowly
            setattr(self, name, value)
        self._moves = _Moves(self)

    def step(self, action):
        """Act once: (state, reward, terminated, truncated, info). Raises ValueError for an unknown action."""
        try:
            outcomes = self._moves[self.s][action]
        except (KeyError, TypeError):
            raise ValueError(f"action must be 0, 1, 2 or 3, got {action!r}") from None
        if not self._draws:
            self._draws = self.np_random.random(64).tolist()
        slip = self._draws.pop()
        k = 0 if slip < self._cumulative[0] else bisect(self._cumulative, slip, 0, 3)
        probability, next_state, reward, terminated = outcomes[k]
        self.s, self.lastaction = next_state, action
        if self.render_mode == "human":
            self.render()
        return next_state, reward, terminated, False, {"prob": probability}

    def reset(self, *, seed=None, options=None):
        """Back to S (one of them, drawn, where there are several): (state, info)."""
        super().reset(seed=seed)
        if seed is not None:
            self._draws = []
        starts = self._starts
        self.s = starts[0] if len(starts) == 1 else starts[int(self.np_random.integers(len(starts)))]
        self.lastaction = None
        if self.render_mode == "human":
            self.render()
        return self.s, {"prob": 1.0 / len(starts)}

    def render(self):
        """The map as text, the agent's cell in red: returned for "ansi", printed for "human"."""
        if self.render_mode is None:
            return None
        rows = [[cell.decode() for cell in row] for row in self.desc]
        exited = "exit\n" if self.s == self.exit_state else ""
        if not exited:
            row, col = divmod(self.s, self.ncol)
            rows[row][col] = gym.utils.colorize(rows[row][col], "red", highlight=True)
        action = "" if self.lastaction is None else f"  ({('Left', 'Down', 'Right', 'Up')[self.lastaction]})"
        text = exited + "\n".join([action, *map("".join, rows)]) + "\n"
        return text if self.render_mode == "ansi" else print(text)

    @functools.cached_property
    def table(self) -> TransitionTable:
        """The lake as arrays of shape (states, 4, 4), exit state included; most are broadcast views."""
        shape = (self.exit_state + 1, 4, 4)
        cells = np.arange(self.exit_state, dtype=np.int32).reshape(self.desc.shape)
        padded = np.pad(cells, 1, mode="edge")  # beyond a wall lies the cell itself
        beside = np.stack([padded[1:-1, :-2], padded[2:, 1:-1], padded[1:-1, 2:], padded[:-2, 1:-1]], axis=-1)
        next_state = np.full(shape, self.exit_state, np.int32)
        next_state[:-1] = beside.reshape(-1, 4)[:, (np.arange(4)[:, None] + self._order) % 4]
        letters = np.append(self.desc.ravel(), b"X")  # the exit state, behind the last cell
        terminated = np.isin(letters, [b"H", b"G", b"X"])
        next_state[terminated] = self.exit_state
        reward = np.select([letters == b"H", letters == b"G", letters == b"X"], [-1000.0, 1000.0, 0.0], -1.0)
        probability, reward, terminated = (
            np.broadcast_to(part, shape)
            for part in (np.array(self._sorted_prob), reward[:, None, None], terminated[:, None, None])
        )
        return TransitionTable(probability, next_state, reward, terminated, self.initial_state_distrib)

    @functools.cached_property
    def P(self) -> dict:
        """P[state][action] is the list of (probability, next_state, reward, terminated); made when first asked for."""
        rank = np.argsort(self._order).tolist()  # from the intended direction on

        def outcomes(moves):
            return [(1.0, *moves[0][1:])] if moves[0][3] else [moves[k] for k in rank]

        return {s: {a: outcomes(self._moves[s][a]) for a in range(4)} for s in range(self.exit_state + 1)}

    @functools.cached_property
    def initial_state_distrib(self) -> np.ndarray:
        """The probability that an episode starts in a state, shape (states,): even over the S cells."""
        distribution = np.zeros(self.exit_state + 1)
        distribution[self._starts] = 1.0 / len(self._starts)
        return distribution


class _Moves(dict):
    """moves[state][action][k] = (probability, next_state, reward, terminated), made when a state is first left."""

    def __init__(self, lake: FrozenLakeEnv):
        self.lake = lake

    def __missing__(self, state):
        table = self.lake.table
        arrays = table.probability, table.next_state, table.reward, table.terminated
        pairs = zip(*(array[state].tolist() for array in arrays), strict=True)
        self[state] = {action: list(zip(*pair, strict=True)) for action, pair in enumerate(pairs)}
        return self[state]


def _parse_map(desc) -> np.ndarray:
    """The map as an array of single bytes, shape (rows, columns)."""
    if isinstance(desc, str) or not np.iterable(desc) or not all(map(np.iterable, desc)):
        raise TypeError(f"desc must be a list of strings, one a row, got {desc!r}")
    rows = [[cell.decode() if isinstance(cell, bytes) else str(cell) for cell in row] for row in desc]
    lengths, letters = {len(row) for row in rows}, {cell for row in rows for cell in row}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"desc must have rows of one length, 1 or more, got lengths {sorted(lengths)}")
    if not letters <= set("SFHG"):
        raise ValueError(f"desc must consist of the letters S, F, H and G, got {sorted(letters - set('SFHG'))}")
    if missing := [letter for letter in "SG" if letter not in letters]:
        raise ValueError(f"desc must have at least one S and one G, got a map without {' and '.join(missing)}")
    return np.array(rows, dtype="S1")


# 2. Transition table ------------------------------------------------------------------


class Model(NamedTuple):
    """A transition table packed for sampling: on a lake a state is 64 bytes, one cache line, and the rest is shared."""

    outcomes: np.ndarray  # uint32 or uint64, (states, actions, outcomes): kind << bits | next_state
    bits: int
    rewards: np.ndarray  # float64, (kinds,); outcomes of an odd kind terminate
    thresholds: np.ndarray  # uint32, (states * actions, outcomes), or (1, outcomes) where all pairs share them
    by_pair: bool | None  # None where they are shared: a type of its own, so the compiler knows
    start_states: np.ndarray  # int64, (starts,)
    start_thresholds: np.ndarray  # uint32, (starts,)


@dataclasses.dataclass(frozen=True, eq=False)
class TransitionTable:
    """An MDP with finite states and actions as arrays; a terminated outcome is worth its reward alone."""

    probability: np.ndarray  # float64, (states, actions, outcomes); outcomes fall in probability, padded with 0
    next_state: np.ndarray  # int32, likewise
    reward: np.ndarray  # float64, likewise
    terminated: np.ndarray  # bool, likewise
    start: np.ndarray  # float64, (states,): where episodes start

    @property
    def shape(self) -> tuple[int, int]:
        """(states, actions), the shape of a q_table."""
        return self.next_state.shape[:2]

    @classmethod
    def from_env(cls, env) -> TransitionTable:
        """The table of an env whose step and reset sample from its `P` and `initial_state_distrib`; else ValueError."""
        step, reset = (getattr(method, "__func__", method) for method in (env.step, env.reset))
        if isinstance(env, FrozenLakeEnv):
            if step is FrozenLakeEnv.step and reset is FrozenLakeEnv.reset:
                return env.table
            raise ValueError("simulator must not override step or reset of FrozenLakeEnv to be compiled")
        for method, source in ((step, "P"), (reset, "initial_state_distrib")):
            if not hasattr(env, source) or source not in getattr(getattr(method, "__code__", None), "co_names", ()):
                raise ValueError(f"simulator must have a {source} and sample from it to be compiled, got {env!r}")
        if getattr(env, "fickle_passenger", False):  # Taxi then moves its goal, which P does not tell
            raise ValueError("simulator must be all in its P to be compiled: a fickle passenger is not")
        try:
            return cls._from_lists(env.P, env.initial_state_distrib)
        except (AttributeError, TypeError, LookupError) as error:
            raise ValueError(f"P must be a dict of dicts of lists of outcomes ({error})") from error

    @classmethod
    def _from_lists(cls, P, start) -> TransitionTable:
        """The table of P[state][action] = [(probability, next_state, reward, terminated), ...]."""
        width = max(len(outcomes) for actions in P.values() for outcomes in actions.values())
        shape = (len(P), max(map(len, P.values())), width)
        if set(P) != set(range(shape[0])) or any(set(actions) != set(range(shape[1])) for actions in P.values()):
            raise ValueError("P must have an entry for every state and action, numbered from 0")
        start = np.array(_check_probabilities("initial_state_distrib", np.ravel(start).tolist(), shape[0]))
        entries = np.zeros((*shape, 4))
        for state, actions in P.items():
            for action, outcomes in actions.items():
                _check_probabilities(f"P[{state}][{action}]", (outcome[0] for outcome in outcomes), len(outcomes))
                entries[state, action, : len(outcomes)] = sorted(outcomes, key=lambda outcome: -outcome[0])
        probability, next_state, reward, terminated = np.moveaxis(entries, -1, 0).copy()
        if not np.isfinite(reward).all():
            raise ValueError("P must have finite rewards")
        if not 0 <= next_state.min() <= next_state.max() < shape[0]:
            raise ValueError(f"P must lead to states from 0 to {shape[0] - 1}")
        return cls(probability, next_state.astype(np.int32), reward, terminated.astype(bool), start)

    @functools.cached_property
    def model(self) -> Model:
        """The table packed for the kernels."""
        rewards, kinds = np.unique(_once(self.reward), return_inverse=True)
        kinds = 2 * kinds.reshape(_once(self.reward).shape) + _once(self.terminated)
        bits = int(self.shape[0] - 1).bit_length()
        word = np.uint32 if bits + int(kinds.max()).bit_length() <= 32 else np.uint64
        outcomes = kinds.astype(word) << word(bits) | self.next_state.astype(word)
        probability = _once(self.probability)
        thresholds = _threshold(np.cumsum(probability, axis=-1))
        # Nothing can follow the last outcome of a probability above 0, whatever rounding leaves.
        thresholds[..., :-1][probability[..., 1:] == 0.0] = thresholds[..., -1] = 2**32 - 1
        shared = thresholds.size == thresholds.shape[-1]
        if not shared:
            thresholds = np.broadcast_to(thresholds, self.next_state.shape)
        starts = np.flatnonzero(self.start)
        start_thresholds = _threshold(np.cumsum(self.start[starts]))
        start_thresholds[-1] = 2**32 - 1
        return Model(
            outcomes, bits, np.repeat(rewards, 2), thresholds.reshape(-1, thresholds.shape[-1]),
            None if shared else True, starts, start_thresholds,
        )  # fmt: skip


def _once(array: np.ndarray) -> np.ndarray:
    """The array, with a single entry along each axis over which it is broadcast."""
    return array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]


def _threshold(cumulative) -> np.ndarray:
    """The largest 32-bit draw that falls within a cumulative probability (resolution 2**-32)."""
    return np.clip(np.rint(cumulative * 2.0**32) - 1, 0, 2**32 - 1).astype(np.uint32)


# 3. Kernels ---------------------------------------------------------------------------
# Plain Python under numba.njit. Compiled, they learn from a Model; their .py_func is the reference, and
# runs as it stands on a stepped env, with a dict of lists for a q_table. `actions` is the tuple
# (0, 1, ...): a length known at compile time, which lets the loops over actions be unrolled.


def kernel(function):
    """Compile a function when it is first called, and keep the result for the next process."""
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither the module's folder nor HOME can be written to: compiled anew in each process
        return numba.njit(error_model="numpy")(function)


LEARNING, EVALUATION = 0, 1 << 62  # where the two halves of a seed's stream of draws begin
MAX_STEP = (1 << 20) - 2  # an episode has 2**20 draws to itself, and SARSA looks one ahead
MAX_TESTS, MAX_TRIALS, MAX_EPISODES = 1 << 22, 1 << 20, 1 << 40


class Parameters(NamedTuple):
    """What a kernel needs to know of an agent."""

    epsilon: float
    learning_rate: float
    beta: float
    max_step: int
    key: int  # the seed, mixed


@kernel
def mix(counter):
    """Splitmix64's output function (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    z = np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def draw(key, counter):
    """Draw number `counter` of a seed: 32 bits to explore with, in [0, 1), and 32 bits to slip with."""
    bits = mix(np.uint64(key) + np.uint64(counter))
    return np.int64(bits >> np.uint64(32)) * 2.0**-32, np.int64(bits & np.uint64(0xFFFFFFFF))


def reset(simulator, key, stream):
    """Start the episode whose draws begin at `stream`."""
    if type(simulator) is Model:
        return sample_start.py_func(simulator, draw(key, stream)[1])
    return _widened(simulator.reset(seed=key ^ stream)[0])


def step(simulator, state, action, slip):
    """Act once: (next_state, reward, terminated, truncated)."""
    if type(simulator) is Model:
        return sample_step.py_func(simulator, state, action, slip)
    next_state, reward, terminated, truncated, _ = simulator.step(action)
    if not reward - reward == 0:
        raise ValueError(f"the simulator's reward must be finite, got {reward!r}")
    if type(next_state) is not int or type(reward) is not float:
        next_state, reward = _widened(next_state), float(reward)
    return next_state, reward, terminated, truncated


def _widened(state):
    """A state as Python's int where it is numpy's, whose narrow types overflow."""
    return int(state) if isinstance(state, np.integer) else state


def greedy_action(row, actions):
    """The action of the highest value; ties go to the lowest action."""
    return row.index(max(row))


def greedy_value(row, actions):
    """The highest value."""
    return max(row)


@kernel
def sample_start(model, slip):
    start = 0
    while slip > model.start_thresholds[start]:
        start += 1
    return np.int64(np.uint32(model.start_states[start]))


@kernel
def sample_step(model, state, action, slip):
    row, k = 0 if model.by_pair is None else state * model.outcomes.shape[1] + action, 0
    while slip > model.thresholds[row, k]:
        k += 1
    outcome = np.int64(model.outcomes[state, action, k])
    # By way of unsigned, the compiler sees indices that cannot be negative, and drops what would count from the end.
    next_state = np.int64(np.uint32(outcome & ((1 << model.bits) - 1)))
    kind = np.int64(np.uint32(outcome >> model.bits))
    return next_state, model.rewards[kind], kind & 1 == 1, False


# What the four functions above are when compiled.


@overload(reset)
def _(simulator, key, stream):
    return lambda simulator, key, stream: sample_start(simulator, draw(key, stream)[1])


@overload(step)
def _(simulator, state, action, slip):
    return lambda simulator, state, action, slip: sample_step(simulator, state, action, slip)


@overload(greedy_action)
def _(row, actions):
    def compiled(row, actions):
        best, value = 0, row[0]
        for action in range(1, len(actions)):
            if row[action] > value:
                best, value = action, row[action]
        return best

    return compiled


@overload(greedy_value)
def _(row, actions):
    def compiled(row, actions):
        value = row[0]
        for action in range(1, len(actions)):
            if row[action] > value:
                value = row[action]
        return value

    return compiled


@numba.extending.register_jitable
def explore_or_exploit(row, actions, epsilon, explore):
    """The epsilon-greedy action: `explore`, uniform in [0, 1), says whether to explore, and where to."""
    if explore < epsilon:
        return min(int(explore * (len(actions) / epsilon)), len(actions) - 1)
    return greedy_action(row, actions)


@numba.extending.register_jitable
def q_learning_update(q_table, state, action, reward, next_state, terminated, learning_rate, beta, actions):
    """Off-policy: the target takes the best next action (Watkins 1989; Sutton and Barto 6.5)."""
    target = reward if terminated else reward + beta * greedy_value(q_table[next_state], actions)
    q_table[state][action] += learning_rate * (target - q_table[state][action])


@numba.extending.register_jitable
def sarsa_update(q_table, state, action, reward, next_state, next_action, terminated, learning_rate, beta):
    """On-policy: the target takes the next action itself (Rummery and Niranjan 1994; Sutton and Barto 6.4)."""
    target = reward if terminated else reward + beta * q_table[next_state][next_action]
    q_table[state][action] += learning_rate * (target - q_table[state][action])


@kernel
def q_learning(q_table, simulator, actions, parameters, first, episodes, visits, experience):
    """Learn `episodes` episodes from number `first`: (episodes learned, steps).

    Counts `visits`; records in `experience` = (pairs, rewards) what `replay` needs, and stops before it might overflow.
    """
    epsilon, learning_rate, beta, max_step, key = parameters
    steps, width = 0, len(actions)
    if experience is not None:
        pairs, rewards = experience
    for episode in range(first, first + episodes):
        if experience is not None:
            recorded = steps + episode - first
            if recorded + max_step >= len(pairs):
                return episode - first, steps
        stream, t = LEARNING + (episode << 20), 0
        state = reset(simulator, key, stream)
        for t in range(1, max_step + 1):
            explore, slip = draw(key, stream + t)
            action = explore_or_exploit(q_table[state], actions, epsilon, explore)
            next_state, reward, terminated, truncated = step(simulator, state, action, slip)
            q_learning_update(q_table, state, action, reward, next_state, terminated, learning_rate, beta, actions)
            if visits is not None:
                visits[state, action] += 1
            if experience is not None:
                pairs[recorded], rewards[recorded] = state * width + action, reward
                recorded += 1
            steps += 1
            if terminated or truncated:
                break
            state = next_state
        if experience is not None:  # what the last update looked ahead to: nothing, or a state
            pairs[recorded] = -1 if terminated else -2 - next_state
    return episodes, steps


@kernel
def sarsa(q_table, simulator, actions, parameters, first, episodes, visits, experience):
    """As `q_learning`, but for the rule and for choosing the next action before the update; records no experience."""
    epsilon, learning_rate, beta, max_step, key = parameters
    steps = 0
    for episode in range(first, first + episodes):
        stream, t = LEARNING + (episode << 20), 0
        state = reset(simulator, key, stream)
        explore, slip = draw(key, stream + 1)
        action = explore_or_exploit(q_table[state], actions, epsilon, explore)
        for t in range(1, max_step + 1):
            next_state, reward, terminated, truncated = step(simulator, state, action, slip)
            explore, slip = draw(key, stream + t + 1)
            next_action = explore_or_exploit(q_table[next_state], actions, epsilon, explore)
            sarsa_update(q_table, state, action, reward, next_state, next_action, terminated, learning_rate, beta)
            if visits is not None:
                visits[state, action] += 1
            steps += 1
            if terminated or truncated:
                break
            state, action = next_state, next_action
    return episodes, steps


@kernel
def replay(q_table, experience, actions, learning_rate, beta):
    """Learn by Q-learning from recorded experience, in its order: the number of steps."""
    pairs, rewards = experience
    steps = 0
    for i in range(len(pairs)):
        if pairs[i] >= 0:
            state, action, following = pairs[i] // len(actions), pairs[i] % len(actions), pairs[i + 1]
            next_state, terminated = following // len(actions) if following >= 0 else -2 - following, following == -1
            q_learning_update(q_table, state, action, rewards[i], next_state, terminated, learning_rate, beta, actions)
            steps += 1
    return steps


@kernel
def effective_rates(rate, visits):
    """What n updates at `rate` amount to together, 1 - (1 - rate)**n, by n up to the most visits."""
    most = 0
    for n in visits:
        most = max(most, n)
    return -np.expm1(np.arange(min(most, 38 / rate) + 1.0) * np.log1p(-rate))  # from 38 / rate on, 1 to the last bit


@kernel
def add_report(old_values, targets, counts, pairs, values, visits, local_rate):
    """Add visits * (a worker's mean target - old value): what its visits changed, over their effective rate."""
    rates = effective_rates(local_rate, visits)
    for i in range(len(pairs)):
        change = values[i] - old_values[pairs[i]]
        if change != 0.0:
            targets[pairs[i]] += visits[i] * change / rates[min(visits[i], len(rates) - 1)]
        counts[pairs[i]] += visits[i]


@kernel
def merge(values, targets, counts, learning_rate):
    """The retention-matched merge, in place: keep of the old values what one core would after as many visits.

    Q = Q0 + (1 - (1 - alpha)**N) * sum of (n_m / N) * (Q_m - Q0) / (1 - (1 - a)**n_m). Scaling the local step
    follows federated Q-learning (Khodadadian et al. 2022; Woo, Joshi and Chi 2023); the rule was derived here.
    """
    rates = effective_rates(learning_rate, counts)
    for pair in range(len(values)):
        n = counts[pair]
        if n > 0:
            values[pair] += rates[min(n, len(rates) - 1)] * targets[pair] / n


@kernel
def evaluate(policy, simulator, parameters, first, trials):
    """The sum of the discounted returns of `policy[state]` in `trials` episodes whose draws begin at stream `first`."""
    total = 0.0
    beta, max_step, key = parameters.beta, parameters.max_step, parameters.key
    for trial in range(trials):
        stream, t = first + (trial << 20), 0
        state = reset(simulator, key, stream)
        discount = 1.0
        for t in range(1, max_step + 1):
            state, reward, terminated, truncated = step(simulator, state, policy[state], draw(key, stream + t)[1])
            total += discount * reward
            discount *= beta
            if terminated or truncated:
                break
    return total


# 4. Agents ----------------------------------------------------------------------------


class _Rows(dict):
    """The rows of a table as Python lists, made when first touched: a stepped loop runs on plain numbers."""

    def __init__(self, table: np.ndarray):
        self.table = table

    def __missing__(self, state):
        if not hasattr(state, "__index__") or not 0 <= state < len(self.table):
            raise ValueError(f"the simulator's state must be one of 0 to {len(self.table) - 1}, got {state!r}")
        row = self[state] = self.table[state].tolist()
        return row

    def write_back(self):
        """Store the rows in the table."""
        for state, row in self.items():
            self.table[state] = row


class _Policy(NamedTuple):
    """A function of a state in the form of an array of actions."""

    function: object

    def __getitem__(self, state):
        return self.function(state)


class TDAgent:
    """What Q-learning and SARSA share: a table of action values, exploring, and learning in test intervals.

    `simulator` is an env of gym or gymnasium with Discrete observations and actions that start at 0. An agent explores
    with probability `epsilon`, discounts by `beta`, cuts an episode after `max_step` steps, and after every
    `test_interval` of its `learning_episodes` evaluates the greedy policy in `trials` episodes (None: `test_interval`)
    unless `do_test` is False. `compiled=None` compiles where the simulator has a `TransitionTable` and steps it
    otherwise, False always steps, True insists. Everything random follows from `seed`. Between calls settings may be
    changed, as for an epsilon that decays.

    Attributes: `q_table` (states, actions) float64, `episode` and `steps` learned so far, `compiled` (a bool), and
    `rewards`, a dict of each test's mean discounted return by its number, from 1. Raises TypeError or ValueError for
    bad arguments before any work.
    """

    agent_name = "TD agent"
    kernel = None  # the learning loop, of a subclass

    def __init__(
        self, simulator, epsilon=0.3, learning_rate=0.001, learning_episodes=30_000, *, test_interval=100, trials=None,
        beta=0.999, do_test=True, max_step=1000, seed=0, compiled=None,
    ):  # fmt: skip
        self.simulator = simulator
        self.epsilon = _check_number("epsilon", epsilon)
        self.learning_rate = _check_number("learning_rate", learning_rate)
        self.learning_episodes = _check_count("learning_episodes", learning_episodes, 1, MAX_EPISODES)
        self.test_interval = _check_count("test_interval", test_interval, 1, MAX_EPISODES)
        trials = min(self.test_interval, MAX_TRIALS) if trials is None else trials
        self.trials = _check_count("trials", trials, 1, MAX_TRIALS)
        self.beta = _check_number("beta", beta)
        self.do_test = _check_flag("do_test", do_test)
        self.seed = _check_count("seed", seed, 0, 2**63 - 1)
        if self.do_test and self.learning_episodes // self.test_interval >= MAX_TESTS:
            raise ValueError(f"test_interval must leave fewer than {MAX_TESTS} tests, got {test_interval!r}")
        max_step = _check_count("max_step", max_step, 1, MAX_STEP)
        compiled = compiled if compiled is None else _check_flag("compiled", compiled)
        shape, limit, self._model = _look_into(simulator, compiled)
        self.compiled = self._model is not None
        self._limit = limit if self.compiled else MAX_STEP  # a stepped TimeLimit cuts itself
        self.max_step = min(max_step, self._limit)
        self._actions = tuple(range(shape[1]))
        self._random = random.Random(self.seed)  # for explore_or_exploit_policy alone
        self.q_table = np.zeros(shape)
        self.episode, self.steps, self.rewards = 0, 0, {}

    @property
    def total_rewards(self) -> list[float]:
        """The mean discounted greedy return of every test done, in the order of the tests."""
        return [self.rewards[test] for test in sorted(self.rewards)]

    def greedy_policy(self, state: int) -> int:
        """The action of the highest value in `state`; ties go to the lowest action."""
        return int(np.argmax(self.q_table[state]))

    def explore_or_exploit_policy(self, state: int) -> int:
        """A random action with probability epsilon, else the greedy one."""
        return explore_or_exploit(self.q_table[state].tolist(), self._actions, self.epsilon, self._random.random())

    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more (None: a test interval). All or nothing: an interrupt leaves the agent as it was."""
        episodes = self.test_interval if episodes is None else _check_count("episodes", episodes, 0, MAX_EPISODES)
        q_table = self.q_table.copy()
        _, steps = self._learn(q_table, self.episode, episodes)
        # One statement without a call in it, so that no interrupt can fall between the three.
        self.q_table, self.episode, self.steps = q_table, self.episode + episodes, self.steps + steps

    def evaluate(self, policy=None, trials: int = 100, max_steps: int = 1000) -> float:
        """The mean discounted return of `policy(state)` (None: the greedy policy) over `trials` episodes.

        The draws are those of the test due at the present episode: asked twice, it answers the same.
        """
        if policy is not None and not callable(policy):
            raise TypeError(f"policy must be a function of a state, got {policy!r}")
        trials = _check_count("trials", trials, 1, MAX_TRIALS)
        max_steps = _check_count("max_steps", max_steps, 1, MAX_STEP)
        return self._evaluate(self.q_table, self.episode // self.test_interval, trials, max_steps, policy)

    def learn_and_evaluate(self, progress: bool = True) -> tuple[list[float], np.ndarray]:
        """Learn up to `learning_episodes`, testing after every interval: (total_rewards, q_table).

        `total_rewards` has one mean discounted greedy return a finished test interval, none with `do_test=False` or for
        those that `learn` went past: `rewards` has the tests' numbers. Interrupted and called again, it goes on where
        it stopped.
        """
        self._run(self.learning_episodes, self.do_test, _check_flag("progress", progress))
        return self.total_rewards, self.q_table.copy()

    def _run(self, until: int, do_test: bool, progress: bool) -> None:
        """Learn up to episode `until`, with a test at the end of every interval."""
        with self._bar(until, progress) as bar:
            while True:
                test, rest = divmod(self.episode, self.test_interval)
                if do_test and test and not rest and test not in self.rewards:
                    self.rewards[test] = self._evaluate(self.q_table, test, self.trials, self.max_step)
                if self.episode >= until:
                    break
                self.learn(min(self.test_interval - rest, until - self.episode))
                bar.update(self.episode - bar.n)

    def _bar(self, until: int, progress: bool):
        """A progress bar over episodes, which shows up once two seconds have passed."""
        start = min(self.episode, until)
        return tqdm(desc=self.agent_name, unit="episode", initial=start, total=until, delay=2, disable=not progress)

    def _learn(self, q_table, first, episodes, visits=None, experience=None) -> tuple[int, int]:
        """Learn on `q_table` in place: (episodes, steps), as the kernel has it."""
        if self.kernel is None:
            raise NotImplementedError("TDAgent has no rule to learn by: take QLAgent or SARSAAgent")
        task = self._actions, self._parameters(self.max_step), first, episodes, visits
        if self.compiled:
            return self.kernel(q_table, self._model, *task, experience)
        rows = _Rows(q_table)
        experience = experience and tuple(memoryview(part) for part in experience)  # quicker to write to than arrays
        with _saying_where(self.kernel):
            learned = self.kernel.py_func(rows, self.simulator, *task, experience)
        rows.write_back()
        return learned

    def _evaluate(self, q_table, test, trials, max_steps, policy=None) -> float:
        """The mean discounted return of the greedy policy of `q_table`, or of `policy`, in the trials of a test."""
        task = self._parameters(min(max_steps, self._limit)), EVALUATION + (test % MAX_TESTS << 40), trials
        if self.compiled and policy is None:
            return evaluate(np.argmax(q_table, axis=1), self._model, *task) / trials
        if policy is None:
            rows = _Rows(q_table)
            policy = lambda state: greedy_action(rows[state], self._actions)
        with _saying_where(evaluate):
            return float(evaluate.py_func(_Policy(policy), self.simulator, *task)) / trials

    def _parameters(self, max_step: int) -> Parameters:
        key = int(mix(self.seed)) >> 2  # 62 bits: with an episode's number they still fit 63
        return Parameters(self.epsilon, self.learning_rate, self.beta, max_step, key)

    @property
    def _settings(self) -> dict:
        """What makes the same agent elsewhere, as it stands now: an epsilon that was changed goes with it."""
        names = "epsilon learning_rate learning_episodes test_interval trials beta do_test max_step seed compiled"
        return {name: getattr(self, name) for name in names.split()}

    def save(self, path) -> None:
        """Write all that resuming needs to one .npz file: whole or not at all. What counts costs starts anew."""
        with _replacing(path) as file:
            np.savez_compressed(file, **self._state())

    def load(self, path) -> TDAgent:
        """Take over what an agent of the same settings saved; returns self.

        Raises ValueError, naming the first field that differs, and changes nothing where the file is not such a save.
        """
        content = io.BytesIO(Path(path).read_bytes())
        try:
            with np.load(content, allow_pickle=False) as file:
                saved = dict(file)
        except Exception as error:  # numpy raises ten kinds where a byte is wrong
            raise ValueError(f"{path} is not a saved agent, or is cut short: {error}") from None
        state = self._state()
        if missing := sorted(state.keys() - saved.keys()):
            raise ValueError(f"{path} is not a saved agent: it has no {missing[0]}")
        length = {"tests": "tests", "rewards": "tests", "untested": "untested", "untested_q_tables": "untested"}
        for name, own in state.items():
            found = saved[name]
            if name.startswith("settings_"):
                if found.shape != () or found != own:
                    raise ValueError(f"{path} has {name.removeprefix('settings_')} {found!s}, this agent has {own!s}")
                continue
            shape = (saved[length[name]].size, *own.shape[1:]) if name in length else own.shape
            if found.dtype != own.dtype or found.shape != shape:
                raise ValueError(f"{path} has a {name} of another kind or shape than this agent's")
            if not np.isfinite(found).all() or (own.dtype.kind == "i" and (found < 0).any()):
                raise ValueError(f"{path} has a {name} with values that cannot be")
            if length.get(name) == name and (np.diff(found) <= 0).any():
                raise ValueError(f"{path} has {name} that do not rise")
        self._restore(saved)
        return self

    def _state(self) -> dict[str, np.ndarray]:
        """All that resuming needs, as arrays by name."""
        settings = {"agent": type(self).__name__, "simulator": self._fingerprint()} | self._settings
        return {f"settings_{name}": np.array(value) for name, value in settings.items()} | {
            "q_table": self.q_table,
            "episode": np.array(self.episode),
            "steps": np.array(self.steps),
            "tests": np.array(sorted(self.rewards), dtype=np.int64),
            "rewards": np.array(self.total_rewards, dtype=np.float64),
        }

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        """The reverse of `_state`."""
        self.q_table, self.episode, self.steps = state["q_table"], int(state["episode"]), int(state["steps"])
        self.rewards = dict(zip(state["tests"].tolist(), state["rewards"].tolist(), strict=True))

    def _fingerprint(self) -> str:
        """What tells one simulator from another: a checksum of its table, or its types and spaces."""
        try:
            model = self._model or _look_into(self.simulator, True)[-1]
        except ValueError:
            env, inner = self.simulator, getattr(self.simulator, "unwrapped", None)
            return f"{type(env).__name__} {type(inner).__name__} {env.observation_space} {env.action_space}"
        arrays = [part.tobytes() for part in model if isinstance(part, np.ndarray)]
        return f"table {zlib.crc32(b''.join(arrays)):08x}"


class QLAgent(TDAgent):
    """Q-learning: off-policy, learns the value of the greedy policy whatever it does to explore."""

    agent_name = "Q-learning agent"
    kernel = staticmethod(q_learning)


class SARSAAgent(TDAgent):
    """SARSA: on-policy, learns the value of the policy that it follows, exploring included."""

    agent_name = "SARSA agent"
    kernel = staticmethod(sarsa)


def _look_into(simulator, compiled: bool | None) -> tuple[tuple[int, int], int, Model | None]:
    """Its (states, actions), its step limit, and its packed table, or None where it is to be stepped."""
    if not callable(getattr(simulator, "step", None)) or not callable(getattr(simulator, "reset", None)):
        raise TypeError(f"simulator must be an env of gym or gymnasium, got {simulator!r}")
    for name in ("observation_space", "action_space"):
        space = getattr(simulator, name, None)
        if type(space).__name__ != "Discrete" or getattr(space, "start", 0) != 0:
            raise ValueError(f"simulator must have a Discrete {name} that starts at 0, got {space!r}")
    shape = int(simulator.observation_space.n), int(simulator.action_space.n)
    env, limit, model = simulator, MAX_STEP, None
    while type(env).__name__ in ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker"):  # which change the limit alone
        env, limit = env.env, min(limit, getattr(env, "_max_episode_steps", None) or MAX_STEP)
    try:
        if compiled is not False:
            table = TransitionTable.from_env(env)
            if table.shape != shape:  # compiled code would write beyond the table
                raise ValueError(f"simulator must have a P of shape {shape} to be compiled, got {table.shape}")
            model = table.model
    except ValueError:
        if compiled:
            raise
    return shape, limit, model


@contextlib.contextmanager
def _saying_where(loop):
    """Add to an error from within a stepped kernel in which episode and step it fell: the loop's own variables tell."""
    try:
        yield
    except Exception as error:
        traceback = error.__traceback__
        while traceback and traceback.tb_frame.f_code is not loop.py_func.__code__:
            traceback = traceback.tb_next
        if traceback:
            at = traceback.tb_frame.f_locals
            unit = "episode" if "episode" in at else "trial"
            error.add_note(f"in the simulator, {unit} {at.get(unit)}, step {at.get('t', 0)} (0: reset)")
        raise


# 5. Exact answers ---------------------------------------------------------------------


@kernel
def _value_sweeps(values, probability, next_state, reward, terminated, policy, beta, epsilon, tolerance, sweeps):
    """Gauss-Seidel backups in place, to and fro, until none changes by over `tolerance`; an empty policy is greedy."""
    states, actions, outcomes = next_state.shape
    change = np.inf
    for sweep in range(sweeps):
        change = 0.0
        for i in range(states):
            state = i if sweep % 2 else states - 1 - i
            best, mean = -np.inf, 0.0
            for action in range(actions):
                value = 0.0
                for k in range(outcomes):
                    p = probability[state, action, k]
                    if p == 0.0:
                        break
                    value += p * reward[state, action, k]
                    if not terminated[state, action, k]:
                        value += p * beta * values[next_state[state, action, k]]
                mean += value / actions
                if value > best if len(policy) == 0 else action == policy[state]:
                    best = value
            value = (1.0 - epsilon) * best + epsilon * mean
            change = max(change, abs(value - values[state]))
            values[state] = value
        if change <= tolerance:
            break
    return change


def value_iteration(table: TransitionTable, beta: float = 0.999, epsilon: float = 0.0, tolerance: float = 1e-10):
    """The optimal action values, shape (states, actions): Sutton and Barto 4.4, by Gauss-Seidel sweeps.

    They end when no value changes by more than `tolerance`. With `epsilon` > 0, those of the best policy that explores
    with that probability for ever. Raises TypeError or ValueError for bad arguments, and RuntimeError where the values
    do not settle: with beta=1 or next to it, and a policy that never ends.
    """
    beta, epsilon = _check_exact(table, beta, epsilon)
    tolerance = _check_number("tolerance", tolerance, 0.0, math.inf)
    return action_values(table, _sweep(table, np.empty(0, np.int64), beta, epsilon, tolerance), beta)


def policy_value(table: TransitionTable, q_table: np.ndarray, beta: float = 0.999, epsilon: float = 0.0) -> np.ndarray:
    """The exact value of every state, shape (states,), under the (epsilon-)greedy policy of `q_table`; no rollouts.

    Solves the Bellman equation (Sutton and Barto 4.1), on lakes beyond some 300 x 300 by sweeps to 1e-10. Raises
    TypeError or ValueError for bad arguments, and RuntimeError where beta=1 and the policy never ends.
    """
    beta, epsilon = _check_exact(table, beta, epsilon)
    q_table = _check_q_table(q_table, table.shape)
    states, actions = table.shape
    greedy = np.argmax(q_table, axis=1)
    distance = np.abs(table.next_state - np.arange(states, dtype=np.int32)[:, None, None])
    reach = int(distance.max(where=~table.terminated & (table.probability > 0.0), initial=1))
    if states * reach**2 > 1e10:
        return _sweep(table, greedy, beta, epsilon, 1e-10)
    share = np.full(table.shape, epsilon / actions)
    share[np.arange(states), greedy] += 1.0 - epsilon
    chance = share[:, :, None] * table.probability
    reward, flow = (chance * table.reward).sum(axis=(1, 2)), beta * chance * ~table.terminated
    ends, grown = np.zeros(states, bool), (chance * table.terminated).any(axis=(1, 2))
    while beta == 1.0 and grown.sum() > ends.sum():
        ends, grown = grown, grown | (flow * grown[table.next_state]).any(axis=(1, 2))
    if beta == 1.0 and not ends.all():
        raise RuntimeError("with beta=1 a policy that never ends has no value")
    return _solve(table.next_state, flow, reward, reach)


def _solve(next_state, flow, reward, width: int) -> np.ndarray:
    """The v of v = reward + flow v, where no flow goes further than `width` states: by elimination, block by block."""
    # The matrix is diagonally dominant, so it needs no pivots beyond those within a block.
    ahead, own = [np.zeros((width, width))], [np.zeros(width)]  # a block is own + ahead @ the next block
    for first in range(0, len(reward), width):
        block, window, gain = slice(first, first + width), np.zeros((width, 3, width)), np.zeros(width)
        column = np.where(flow[block] > 0.0, next_state[block] - first + width, 0)
        row = np.broadcast_to(np.arange(len(column))[:, None, None], column.shape)
        np.add.at(window.reshape(width, -1), (row, column), flow[block])
        gain[: len(column)] = reward[block]
        behind, here, after = window[:, 0], window[:, 1], window[:, 2]
        right = np.column_stack([after, gain + behind @ own[-1]])
        solved = np.linalg.solve(np.eye(width) - here - behind @ ahead[-1], right)
        ahead.append(solved[:, :-1])
        own.append(solved[:, -1])
    for i in reversed(range(1, len(own) - 1)):
        own[i] += ahead[i] @ own[i + 1]
    return np.concatenate(own[1:])[: len(reward)]


def action_values(table: TransitionTable, values: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """One step of look-ahead: the value of every action, shape (states, actions), from those of the states."""
    ahead = np.zeros(table.shape)
    for k in range(table.next_state.shape[-1]):
        bootstrap = np.where(table.terminated[..., k], 0.0, beta * values[table.next_state[..., k]])
        ahead += table.probability[..., k] * (table.reward[..., k] + bootstrap)
    return ahead


def _sweep(table, policy, beta, epsilon, tolerance) -> np.ndarray:
    """The values of the states, swept until they stand still."""
    # They start at what walking about for ever costs: the goal's value then spreads in a few sweeps, where from 0
    # a cell far from it would first have to sink for 1 / (1 - beta) of them.
    idle = table.reward.min(where=~table.terminated, initial=0.0) / (1.0 - beta) if beta < 1.0 else 0.0
    values = np.full(table.shape[0], idle)
    limit = 10_000 if beta == 1.0 else 10_000_000  # a sweep contracts by beta: enough up to 0.999995
    arrays = table.probability, table.next_state, table.reward, table.terminated
    if _value_sweeps(values, *arrays, policy, beta, epsilon, tolerance, limit) > tolerance:
        raise RuntimeError(f"with beta={beta:.15g} the values still grow after {limit} sweeps: some policy never ends")
    return values


def _check_exact(table, beta, epsilon) -> tuple[float, float]:
    """(beta, epsilon), checked, as is the table."""
    if not isinstance(table, TransitionTable):
        raise TypeError(f"table must be a TransitionTable (lake.table), got {type(table).__name__}")
    return _check_number("beta", beta), _check_number("epsilon", epsilon)


def _check_q_table(q_table, shape: tuple[int, int]) -> np.ndarray:
    """The table as an array; ValueError unless it has the shape (states, actions)."""
    q_table = np.asarray(q_table)
    if q_table.shape != shape:
        raise ValueError(f"q_table must have shape {shape} (states, actions), got {q_table.shape}")
    if not np.isfinite(q_table).all():
        raise ValueError("q_table must be finite, got nan or inf")
    return q_table


# 6. Distributed -----------------------------------------------------------------------
# The actors are plain classes: what they do can be read, and run, without Ray. Their methods are
# pure functions of the arguments, but for the server's table, so a call can be sent again at will.
#
#     q[i] = server.learn(collector[i % cw_num].collect(q[i - cw_num], batch i))
#     rewards[test] = evaluator[test % ew_num].evaluate(q at the test, test)

READY_SECONDS = 120  # how long to wait for the next of the processes to start
LOSSES = 5  # a run gives up where more processes than this are lost in a row, with nothing learned or tested between


def start_ray(num_cpus: int | None = None) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, else start a private one, quietly; called again, do nothing.

    `num_cpus` (None: all) is for the private one. Raises ImportError where ray is not installed, and ConnectionError
    where nothing answers at RAY_ADDRESS, or the private one has not started in three tries, each told by a warning.
    """
    if num_cpus is not None:
        _check_count("num_cpus", num_cpus)
    try:
        import ray
    except ImportError as error:
        raise ImportError("ray is not installed: pip install -r requirements.txt") from error
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    quiet, module = {"log_to_driver": False, "logging_level": logging.ERROR}, Path(__file__).resolve()
    if address != "local":
        _check_address(address)
        ray.init(address=address, runtime_env={"py_modules": [str(module)]}, **quiet)
        return
    quiet["include_dashboard"] = False
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(module.parent), path]))  # for the workers
    try:
        for tries_left in (2, 1, 0):
            try:
                ray.init(address="local", num_cpus=num_cpus, object_store_memory=10**9, **quiet)
                break
            except Exception as error:  # on a busy machine Ray gives up after 30 s; what it loaded helps the next try
                ray.shutdown()
                needs = "it needs a writable HOME and temporary folder, and a machine idle enough to start in 30 s"
                if not tries_left or "timed out" not in str(error):
                    raise ConnectionError(f"Ray did not start ({error}); {needs}") from error
                warnings.warn(f"Ray did not start in 30 s, trying {tries_left} times more; {needs}", stacklevel=2)
    finally:
        os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)


def _check_address(address: str) -> None:
    """ConnectionError unless something listens at host:port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        hint = "start a cluster there, or unset RAY_ADDRESS to use this machine alone"
        raise ConnectionError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error}): {hint}") from None


class _Worker:
    """A process of a run; knows the agent that it works for from the call itself."""

    _recipe = _agent = None

    def ready(self) -> int:
        """The process id, which tells that the process is up."""
        return os.getpid()

    def agent(self, recipe: bytes) -> TDAgent:
        """The agent of a recipe, made once."""
        if recipe != self._recipe:
            self._recipe, self._agent = recipe, pickle.loads(recipe)()
        return self._agent


class CollectingWorker(_Worker):
    """A collector: acts on a copy of the q_table that it goes on learning on, and ships what it saw."""

    def collect(self, recipe: bytes, snapshot, first: int, episodes: int):
        """The experience of `episodes` episodes from number `first`: (pairs, rewards, seconds).

        `pairs` is int32, a state * actions + action a step, and after an episode's last step -1 where it terminated
        or -2 - state where it was cut; `rewards` runs beside it, float32 where that is exact.
        """
        start = time.perf_counter()
        agent, q_table, done, chunks = self.agent(recipe), np.array(snapshot[0]), 0, []
        room = agent.max_step + 1
        buffer = [np.zeros(max(room, min(episodes * room, 2**18)), dtype) for dtype in (np.int32, np.float64)]
        while done < episodes:
            learned, steps = agent._learn(q_table, first + done, episodes - done, experience=tuple(buffer))
            done += learned
            chunks.append([part[: steps + learned].copy() for part in buffer])
        pairs, rewards = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        short = rewards.astype(np.float32)
        return pairs, short if np.array_equal(short, rewards) else rewards, time.perf_counter() - start

    def learn(self, recipe: bytes, snapshot, first: int, episodes: int):
        """What it learned itself, if federated: (pairs touched, None for all; values; visits; steps; seconds)."""
        start, agent, q_table = time.perf_counter(), self.agent(recipe), snapshot[0]
        row = np.dtype([("values", "f8", q_table.shape[1]), ("visits", "i4", q_table.shape[1])])
        table = np.zeros(len(q_table), row)  # a pair's count lies beside its value, in the same cache line
        table["values"] = q_table
        _, steps = agent._learn(table["values"], first, episodes, visits=table["visits"])
        values, visits = table["values"].ravel(), table["visits"].ravel()
        pairs = np.flatnonzero(visits).astype(np.int32)
        if len(pairs) * 16 < q_table.size * 12:  # bytes, with the pair's number and without
            return pairs, values[pairs], visits[pairs], steps, time.perf_counter() - start
        return None, values, visits, steps, time.perf_counter() - start


class QLAgentServer(_Worker):
    """The learner: holds the one true q_table, and learns from experience with its own max."""

    def begin(self, snapshot) -> None:
        """Start from a snapshot: (q_table, steps learned, ...)."""
        self.q_table, self.steps = np.array(snapshot[0]), snapshot[1]

    def learn(self, recipe: bytes, experience) -> tuple:
        """Replay a batch: the snapshot (q_table, steps, {"collect", "replay": seconds, "bytes": of the batch})."""
        pairs, rewards, collect = experience
        start, agent = time.perf_counter(), self.agent(recipe)
        batch = np.array(pairs), rewards.astype(np.float64)  # arrays from Ray are read-only, another type to numba
        self.steps += replay(self.q_table, batch, agent._actions, agent.learning_rate, agent.beta)
        seconds = {"collect": collect, "replay": time.perf_counter() - start}
        return self.q_table.copy(), self.steps, seconds | {"bytes": pairs.nbytes + rewards.nbytes}

    def merge(self, recipe: bytes, learning_rate: float, *reports) -> tuple:
        """Merge what federated workers learned from the present table: a snapshot, as from `learn`."""
        start, local_rate = time.perf_counter(), self.agent(recipe).learning_rate
        q_table, shipped = self.q_table.reshape(-1), 0
        targets, counts = np.zeros(q_table.size), np.zeros(q_table.size, np.int64)
        for pairs, values, visits, steps, _ in reports:
            shipped += sum(part.nbytes for part in (pairs, values, visits) if part is not None)
            pairs = np.arange(q_table.size, dtype=np.int32) if pairs is None else np.array(pairs)
            if len(reports) == 1:  # did what one core would have done
                q_table[pairs] = values
            else:
                add_report(q_table, targets, counts, pairs, np.array(values), np.array(visits), local_rate)
            self.steps += steps
        merge(q_table, targets, counts, learning_rate)
        seconds = {"collect": sum(part[-1] for part in reports), "replay": time.perf_counter() - start}
        return self.q_table.copy(), self.steps, seconds | {"bytes": shipped}


class EvaluationWorker(_Worker):
    """An evaluator: tests the greedy policy of a snapshot."""

    def evaluate(self, recipe: bytes, snapshot, test: int) -> tuple[float, float]:
        """(mean discounted return, seconds) of a test."""
        start, agent = time.perf_counter(), self.agent(recipe)
        mean = agent._evaluate(np.array(snapshot[0]), test, agent.trials, agent.max_step)
        return mean, time.perf_counter() - start


class Workers:
    """The processes of distributed runs: a server, `cw_num` collectors and `ew_num` evaluators.

    Starting them takes seconds, so a series of runs shares one set: `with Workers(8, 4) as workers:` and
    `workers=workers`; runs in several threads take turns. Collectors and evaluators restart by themselves; a server
    that dies is replaced by its run.
    """

    def __init__(self, cw_num: int = 4, ew_num: int = 4):
        self.cw_num, self.ew_num = _check_count("cw_num", cw_num), _check_count("ew_num", ew_num, 0)
        self.server, self.collectors, self.evaluators = None, [], []
        self.session, self.turn = None, threading.Lock()

    def start(self) -> Workers:
        """Start what is not running, and wait until all answer; TimeoutError where for 120 s none more does."""
        import ray

        start_ray()
        context = ray.get_runtime_context()
        session = context.get_job_id(), context.get_node_id()
        if session != self.session:  # those of a Ray that was shut down are gone
            self.session, self.server, self.collectors, self.evaluators = session, None, [], []
        tough, running = {"max_restarts": -1, "max_task_retries": LOSSES}, len(self._all())
        try:
            self.server = self.server or self._spawn(QLAgentServer)
            while len(self.collectors) < self.cw_num:
                self.collectors.append(self._spawn(CollectingWorker, **tough))
            while len(self.evaluators) < self.ew_num:
                self.evaluators.append(self._spawn(EvaluationWorker, **tough))
            waiting = [actor.ready.remote() for actor in self._all()] if len(self._all()) > running else []
            while waiting:
                done, waiting = ray.wait(waiting, timeout=READY_SECONDS)
                ray.get(done)
                if not done:
                    raise TimeoutError(f"{len(waiting)} Ray actors did not start: none in {READY_SECONDS} s")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, *_) -> None:
        """End the processes."""
        import ray

        actors = self._all()
        self.server, self.collectors, self.evaluators = None, [], []
        for actor in actors if ray.is_initialized() else ():
            with contextlib.suppress(ray.exceptions.RayError, ValueError):  # of a Ray that was shut down meanwhile
                ray.kill(actor)

    __enter__, __exit__ = start, stop

    def replace_server(self) -> None:
        """A new server for one that was lost; and another one where its node is lost before it is up."""
        import ray

        up = False
        while not up:
            ray.kill(self.server)
            self.server = self._spawn(QLAgentServer)
            with contextlib.suppress(*_system_failures()):
                up = ray.get(self.server.ready.remote(), timeout=READY_SECONDS)

    def restarts(self, cw_num: int, ew_num: int) -> int:
        """How many times Ray has restarted one of so many collectors and evaluators."""
        from ray._private.state import actors  # the public API needs the dashboard

        used = self.collectors[:cw_num] + self.evaluators[:ew_num]
        return sum(actors(actor._actor_id.hex()).get("NumRestarts", 0) for actor in used)

    def _all(self) -> list:
        return [actor for actor in (self.server, *self.collectors, *self.evaluators) if actor]

    @staticmethod
    def _spawn(role, **options):
        import ray

        # No CPU of its own: an actor that asks for one waits silently where there is none left. A byte of memory,
        # since Ray would place one that asks for nothing at random, and not spread them.
        return ray.remote(role).options(num_cpus=0, memory=1, scheduling_strategy="SPREAD", **options).remote()


class DistributedQLAgent(QLAgent):
    """Q-learning with `cw_num` collectors, `ew_num` evaluators and one server, over Ray.

    Batches of `batch_size` episodes (cut at test points) are collected on the q_table of `cw_num` batches before and
    replayed in order. So the result is a function of (seed, cw_num, batch_size, test_interval) alone, whatever process
    is killed; with one collector it is `QLAgent`'s, bit for bit. All else is as in `QLAgent`.

    `workers` lends processes; without, each call starts its own and ends them. `restarts` counts the processes
    replaced, `seconds` sums what the batches took: collect, replay, evaluate; `bytes` what was shipped. A run raises
    RuntimeError where more than 5 processes are lost in a row, with nothing learned or tested between.
    """

    agent_name = "Distributed Q-learning"
    single = QLAgent  # what its workers hold

    def __init__(
        self, simulator, epsilon=0.3, learning_rate=0.001, learning_episodes=30_000, *,
        cw_num=4, ew_num=4, batch_size=100, workers: Workers | None = None, **settings,
    ):  # fmt: skip
        super().__init__(simulator, epsilon, learning_rate, learning_episodes, **settings)
        self.cw_num, self.ew_num = _check_count("cw_num", cw_num), _check_count("ew_num", ew_num, int(self.do_test))
        self.batch_size = _check_count("batch_size", batch_size)
        if not isinstance(workers, Workers | None):
            raise TypeError(f"workers must be Workers or None, got {workers!r}")
        if workers and (workers.cw_num < self.cw_num or workers.ew_num < self.ew_num * self.do_test):
            got = f"{workers.cw_num} and {workers.ew_num}"
            raise ValueError(f"workers must be {cw_num} collectors and {ew_num} evaluators at least, got {got}")
        self.workers, self.restarts, self.batches, self.bytes = workers, 0, 0, 0
        self.seconds = {"collect": 0.0, "replay": 0.0, "evaluate": 0.0}
        self._recent = (self.q_table,) * self.cw_num  # the tables that the next batches are collected on
        self._untested = {}  # test: q_table, until its result is in

    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more (None: a test interval). Cut within a batch, it gives another result than in one go."""
        episodes = self.test_interval if episodes is None else _check_count("episodes", episodes, 0, MAX_EPISODES)
        self._run(self.episode + episodes, False, False)

    def _run(self, until: int, do_test: bool, progress: bool) -> None:
        """Learn up to episode `until`, whatever process dies; what was learned stays when it is interrupted."""
        import ray

        test, rest = divmod(self.episode, self.test_interval)
        if do_test and test and not rest and test not in self.rewards:
            self._untested.setdefault(test, self.q_table)
        if self.episode >= until and not (do_test and self._untested):
            return
        recipe = ray.cloudpickle.dumps(functools.partial(self.single, self.simulator, **self._local_settings()))
        workers = self.workers or Workers(self.cw_num, self.ew_num if do_test else 0)
        try:
            with workers.turn:
                self._run_on(workers, recipe, until, do_test, progress)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # the simulator's own error, from a worker
        finally:
            # Ray's arrays are read-only, and would fill its store for as long as this agent lives.
            self.q_table, *recent = map(np.array, (self.q_table, *self._recent))
            self._recent, self._untested = tuple(recent), {test: np.array(q) for test, q in self._untested.items()}
            if self.workers is None:
                workers.stop()

    def _run_on(self, workers: Workers, recipe, until: int, do_test: bool, progress: bool) -> None:
        """The run, on processes that work for no other meanwhile."""
        import ray

        workers.start()
        recipe = ray.put(recipe) if len(recipe) > 50_000 else recipe
        used = self.cw_num, self.ew_num if do_test else 0
        self._losses, before = 0, workers.restarts(*used)
        with self._bar(until, progress) as bar:
            evaluations = _Evaluations(self, workers, recipe, do_test)
            while self.episode < until:
                try:
                    for _ in self._batches(workers, recipe, until):
                        self._losses = 0
                        if do_test and self.episode % self.test_interval == 0:
                            evaluations.add(self.episode // self.test_interval)
                        bar.update(self.episode - bar.n)
                except _system_failures() as error:  # a lost collector tries again, so this was the server
                    self._lost(error)
                    workers.replace_server()
                    self.restarts += 1
            while evaluations.flight:
                evaluations.take()
        self.restarts += workers.restarts(*used) - before

    def _lost(self, error: Exception) -> None:
        """Count a lost process; RuntimeError where it was one too many."""
        self._losses += 1
        if self._losses > LOSSES:
            problem = f"processes were lost {self._losses} times in a row, with nothing learned between"
            raise RuntimeError(f"{problem}: does the simulator end its process?") from error

    def _batches(self, workers: Workers, recipe, until: int):
        """The dataflow, two batches a collector in flight, so that no snapshot waits here; yields after each batch."""
        import ray

        snapshots = deque((table, self.steps) for table in (*self._recent[:-1], self.q_table))
        flight, sent, number = deque(), self.episode, 0
        workers.server.begin.remote(snapshots[-1])
        while self.episode < until:
            while len(flight) < 2 * len(self._recent) and sent < until:
                end = self._batch_end(sent, until)
                snapshots.append(self._send(workers, recipe, number, snapshots.popleft(), sent, end))
                flight.append((end, snapshots[-1]))
                sent, number = end, number + 1
            end, reference = flight.popleft()
            q_table, steps, cost = ray.get(reference)
            self.bytes += cost.pop("bytes")
            self.batches += 1
            for role, seconds in cost.items():
                self.seconds[role] += seconds
            # One statement without a call in it, so that no interrupt can fall between the four.
            self.q_table, self.episode, self.steps, self._recent = q_table, end, steps, (*self._recent[1:], q_table)
            yield

    def _local_settings(self) -> dict:
        """The settings of the workers' agents."""
        return self._settings

    def _send(self, workers: Workers, recipe, number: int, snapshot, first: int, end: int):
        """Send batch `number`, episodes `first` to `end`, on its way: the reference of its snapshot."""
        collector = workers.collectors[number % self.cw_num]
        return workers.server.learn.remote(recipe, collector.collect.remote(recipe, snapshot, first, end - first))

    def _batch_end(self, first: int, until: int) -> int:
        """Where the batch that begins at episode `first` ends: at a test point at the latest."""
        size = self.batch_size * self.cw_num // len(self._recent)  # federated workers share one
        return min(first + size, first - first % self.test_interval + self.test_interval, until)

    def _state(self):
        tests = sorted(self._untested)
        return super()._state() | {
            "settings_cw_num": np.array(self.cw_num),
            "settings_batch_size": np.array(self.batch_size),
            "recent": np.array(self._recent),
            "untested": np.array(tests, dtype=np.int64),
            "untested_q_tables": np.array([self._untested[test] for test in tests]).reshape(-1, *self.q_table.shape),
        }

    def _restore(self, state):
        super()._restore(state)
        self._recent = tuple(state["recent"])
        self._untested = dict(zip(state["untested"].tolist(), state["untested_q_tables"], strict=True))


class FederatedQLAgent(DistributedQLAgent):
    """Q-learning on `cw_num` workers that learn for themselves, and a server that merges what they learned.

    A round is `batch_size` episodes a worker, cut at test points, all from the same table, with a local learning rate
    of max(learning_rate, min(cap, 1 - (1 - learning_rate)**cw_num)); `merge` has the rule. With one worker the result
    is the single-core agent's. The rest is as in `DistributedQLAgent`, also if processes are killed.
    """

    agent_name = "Federated Q-learning"

    def __init__(self, *arguments, cap: float = 0.2, **settings):
        self.cap = _check_number("cap", cap)
        super().__init__(*arguments, **settings)
        self._recent = (self.q_table,)  # all workers start from the latest

    @property
    def local_rate(self) -> float:
        """The workers' learning rate."""
        together = -math.expm1(self.cw_num * math.log1p(-self.learning_rate)) if self.learning_rate < 1 else 1.0
        return max(self.learning_rate, min(self.cap, together)) if self.cw_num > 1 else self.learning_rate

    def _local_settings(self) -> dict:
        return self._settings | {"learning_rate": self.local_rate}

    def _send(self, workers, recipe, number, snapshot, first, end):
        """Each worker learns an even share of the episodes; the server merges them in the workers' order."""
        cuts = [first + (end - first) * m // self.cw_num for m in range(self.cw_num + 1)]
        shares = zip(workers.collectors, cuts, cuts[1:], strict=False)
        reports = [worker.learn.remote(recipe, snapshot, cut, after - cut) for worker, cut, after in shares]
        return workers.server.merge.remote(recipe, self.learning_rate, *reports)

    def _state(self):
        return super()._state() | {"settings_cap": np.array(self.cap)}


class FederatedSARSAAgent(FederatedQLAgent):
    """SARSA in the same way: a worker's next action comes from its own present table, so it stays on-policy."""

    agent_name = "Federated SARSA"
    kernel = staticmethod(sarsa)
    single = SARSAAgent


class _Evaluations:
    """The tests of a run in flight: two an evaluator at most, taken in the order of the tests."""

    def __init__(self, agent: DistributedQLAgent, workers: Workers, recipe, do_test: bool):
        self.agent, self.workers, self.recipe, self.flight = agent, workers, recipe, deque()
        for test in sorted(agent._untested) if do_test else ():  # of a run that was interrupted
            self.send(test)

    def add(self, test: int) -> None:
        """Test the table as it is now."""
        self.agent._untested[test] = self.agent.q_table
        self.send(test)
        while len(self.flight) > 2 * self.agent.ew_num:
            self.take()

    def send(self, test: int) -> None:
        evaluator = self.workers.evaluators[test % self.agent.ew_num]
        self.flight.append((test, evaluator.evaluate.remote(self.recipe, (self.agent._untested[test],), test)))

    def take(self) -> None:
        import ray

        test, reference = self.flight.popleft()
        try:
            mean, seconds = ray.get(reference)
        except _system_failures() as error:
            self.agent._lost(error)
            self.send(test)
            return
        self.agent._losses = 0
        self.agent.rewards[test] = mean
        self.agent.seconds["evaluate"] += seconds
        self.agent._untested.pop(test)


def _system_failures() -> tuple:
    """What Ray raises where a process or an object is lost; the work is sent again."""
    from ray import exceptions

    return exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError, exceptions.NodeDiedError


# 7. Pictures --------------------------------------------------------------------------
# Plots take data and return the figure. matplotlib is imported where it is used: workers never need it.

COLORS = {"Q-learning": "#0072B2", "SARSA": "#D55E00", "Distributed": "#009E73", "Federated": "#CC79A7"}


def color_of(label: str) -> str | None:
    """The colour of an algorithm (Okabe and Ito's, told apart by all), by the last of its names in a label."""
    found = [name for name in COLORS if name.lower() in label.lower()]
    return COLORS[found[-1]] if found else None


def plot_result(total_rewards, test_interval: int, legend, optimum: float | None = None, title: str = "Learning curve"):
    """Learning curves over episodes: the figure.

    `total_rewards` is one curve (a number a test) with its name in `legend`, or a list of curves with a list of names.
    A dashed line marks the `optimum`. Raises ValueError where names are missing.
    """
    import matplotlib.pyplot as plt

    _check_count("test_interval", test_interval)
    names = [legend] if isinstance(legend, str) else list(legend or ())
    curves = [total_rewards] if np.ndim(total_rewards[0] if len(total_rewards) else 0) == 0 else list(total_rewards)
    if len(names) != len(curves):
        raise ValueError(f"legend must have a name for each of {len(curves)} curves, got {names or legend!r}")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    styles = {}
    for name, curve in zip(names, curves, strict=True):
        color = color_of(name)
        shade = styles[color] = styles.get(color, -1) + 1  # curves of one algorithm differ by their dashes
        dashes = ("-", "--", ":", "-.")[shade % 4]
        axes.plot(test_interval * np.arange(1, len(curve) + 1), curve, dashes, color=color, label=name, linewidth=1.5)
    if optimum is not None:
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"exact optimum {optimum:.1f}")
    axes.set(title=title, xlabel="learning episodes", ylabel="mean discounted return, greedy policy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # curves leave no room
    return figure


def plot_image(q_table: np.ndarray, desc, title: str = "Value and greedy policy"):
    """A lake's learned values as a heat map with the greedy actions as arrows: the figure.

    Cells that were never updated carry no arrow; maps beyond 4096 cells are shown without arrows, and
    thinned out to 1000 cells a side. Raises ValueError where `q_table` does not fit the map.
    """
    import matplotlib.pyplot as plt

    letters = _parse_map(desc)
    q_table = _check_q_table(q_table, (letters.size + 1, 4))
    rows, cols = letters.shape
    thin = max(1, -(-max(rows, cols) // 1000))
    values = np.where(letters == b"H", np.nan, q_table.max(axis=1)[:-1].reshape(rows, cols))  # holes stretch the scale
    cell = min(0.45, 9 / max(rows, cols))
    figure, axes = plt.subplots(figsize=(max(4.0, cell * cols + 2), max(3.2, cell * rows + 1)), layout="constrained")
    least = min(0.0, np.nanmin(values))  # 0 is in the scale, so that pictures of one lake can be compared
    image = axes.imshow(values[::thin, ::thin], vmin=least, extent=(-0.5, cols - 0.5, rows - 0.5, -0.5))
    figure.colorbar(image, ax=axes, label="value: highest action value", shrink=0.8)
    if letters.size <= 4096:
        moves = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])[q_table.argmax(axis=1)[:-1]]
        ice = np.isin(letters.ravel(), [b"S", b"F"]) & q_table.any(axis=1)[:-1]
        row, col = np.divmod(np.flatnonzero(ice), cols)
        axes.quiver(
            col, row, *moves[ice].T, color="white", edgecolor="black", linewidth=0.4, pivot="mid", angles="xy",
            scale_units="xy", scale=1.5, units="x", width=0.09, headwidth=4, headlength=4, headaxislength=4,
        )  # fmt: skip
        size = max(4.0, min(11.0, 40 * cell))
        for row, col in np.argwhere(letters != b"F"):
            letter = letters[row, col].decode()
            ink, ground = {"H": ("white", "#333333"), "G": ("black", "#F0E442"), "S": ("white", "none")}[letter]
            axes.add_patch(plt.Rectangle((col - 0.5, row - 0.5), 1, 1, facecolor=ground))
            at = (col - 0.32, row - 0.28) if letter == "S" else (col, row)  # S leaves room for its arrow
            axes.text(*at, letter, color=ink, fontsize=size * (0.8 if letter == "S" else 1), ha="center", va="center")
    axes.set(title=title, xlabel="column", ylabel="row", facecolor="#333333")
    return figure


def plot_timing(run_time: dict, title: str = "Running time"):
    """Running times as sorted bars on a log scale: the figure.

    `run_time` maps a name to seconds, or to a list of repetitions: then the bar is the median, the
    line the range. Raises ValueError where there is none, or one is not positive.
    """
    import matplotlib.pyplot as plt

    if not isinstance(run_time, dict):
        raise TypeError(f"run_time must map names to positive seconds, got {run_time!r}")
    times = {name: np.atleast_1d(np.asarray(seconds, float)) for name, seconds in run_time.items()}
    if not times or any(t.size == 0 or not (t > 0).all() for t in times.values()):
        raise ValueError(f"run_time must map names to positive seconds, got {run_time!r}")
    names = sorted(times, key=lambda name: -np.median(times[name]))
    medians = np.array([np.median(times[name]) for name in names])
    spread = np.array([(m - times[n].min(), times[n].max() - m) for n, m in zip(names, medians, strict=True)]).T
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(names)), layout="constrained")
    colors = [color_of(name) or "#777777" for name in names]
    bars = axes.barh(names, medians, xerr=spread if spread.any() else None, color=colors)
    axes.bar_label(bars, [f"{m:.3g} s" for m in medians], padding=4, fontsize="small")
    axes.set(xscale="log", xlabel="seconds (log scale)", title=title)
    axes.set_xlim(right=medians.max() * 4)
    return figure


def save_figure(figure, path) -> None:
    """Write a figure as PNG, the same bytes every time: whole or not at all."""
    with _replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def show_source(*things):
    """The source of functions or classes, to be shown by a notebook."""
    import inspect

    from IPython.display import Markdown

    sources = (inspect.getsource(getattr(thing, "py_func", thing)).rstrip() for thing in things)
    return Markdown("```python\n" + "\n\n\n".join(sources) + "\n```")
