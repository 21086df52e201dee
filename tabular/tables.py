"""Transition tables: an MDP with finite states and actions as arrays, and the packed form that kernels sample from."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .checks import check_probabilities
from .stepping import HIGHEST_REWARD, LOWEST_REWARD

Method = TypeVar("Method", bound=Callable)

# Envs whose step and reset do nothing but sample from their P and initial_state_distrib. An env of one's own
# says the same of its two methods with `samples_table`.
KNOWN_ENVS = {
    "gym.envs.toy_text.frozen_lake.FrozenLakeEnv",
    "gym.envs.toy_text.cliffwalking.CliffWalkingEnv",
    "gym.envs.toy_text.taxi.TaxiEnv",
    "gymnasium.envs.toy_text.frozen_lake.FrozenLakeEnv",
    "gymnasium.envs.toy_text.cliffwalking.CliffWalkingEnv",
    "gymnasium.envs.toy_text.taxi.TaxiEnv",
}


def samples_table(method: Method) -> Method:
    """Declare that an env's step or reset does nothing but sample from its `table`, or its `P`: it may be compiled.

    The mark is the method's own, so a subclass that overrides the method loses it.
    """
    marked: Any = method
    marked.samples_table = marked.__code__  # and not True, which functools.wraps would lend to another function
    return method


class PackedTable(NamedTuple):
    """A transition table packed for sampling: on a lake a state is 64 bytes, one cache line, and the rest is shared.

    Outcome k of a state and action is drawn where a 32-bit draw first does not exceed threshold k.

    `shared` is True where one row of thresholds serves all pairs, as on a lake, and None (not False) where each pair
    has its own. To numba None is a type, not a value: the two cases are compiled apart, and neither asks at run time.
    """

    outcomes: np.ndarray  # uint32 or uint64, (states, actions, outcomes): kind << bits | next_state
    bits: int  # of an outcome that hold the next state
    rewards: np.ndarray  # float64, (kinds,); outcomes of an odd kind terminate
    thresholds: np.ndarray  # uint32, (1, outcomes) where shared, else (states * actions, outcomes)
    shared: bool | None
    start_states: np.ndarray  # int64, (starts,)
    start_thresholds: np.ndarray  # uint32, (starts,)

    def __deepcopy__(self, memo: dict) -> PackedTable:
        """Itself: it is never changed, so copies share it."""
        return self


# What a loop steps instead, where there is no table: no field, and no property, which would take time at each step.
PackedTable.env = None  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, eq=False)
class TransitionTable:
    """An MDP with finite states and actions as arrays; a terminated outcome is worth its reward alone.

    Outcomes of a pair are ordered from the most likely to the least, and padded with probability 0.
    """

    probability: np.ndarray  # float64, (states, actions, outcomes)
    next_state: np.ndarray  # int32, likewise
    reward: np.ndarray  # float64, likewise
    terminated: np.ndarray  # bool, likewise
    start: np.ndarray  # float64, (states,): where episodes start

    def __post_init__(self) -> None:
        """ValueError for what no MDP is: compiled code reads and writes where a table tells it to."""
        shape, states = np.shape(self.next_state), len(self.next_state)
        parts = self.probability, self.reward, self.terminated
        if len(shape) != 3 or any(np.shape(part) != shape for part in parts) or np.shape(self.start) != (states,):
            shapes = [np.shape(part) for part in (*parts, self.next_state, self.start)]
            raise ValueError(f"a table must have four arrays (states, actions, outcomes) and a start, got {shapes}")
        if self.next_state.dtype.kind not in "iu" or not 0 <= self.next_state.min() <= self.next_state.max() < states:
            raise ValueError(f"a table must lead to states from 0 to {states - 1}")
        rewards = _without_repeats(self.reward)
        if not ((rewards >= LOWEST_REWARD) & (rewards <= HIGHEST_REWARD)).all():
            raise ValueError(f"a table must have rewards from {LOWEST_REWARD:g} to {HIGHEST_REWARD:g}")
        sums = sum(map(_without_repeats, np.moveaxis(self.probability, -1, 0)))  # of each pair
        for part, total in ((self.probability, sums), (self.start, self.start.sum())):
            if not (part.min() >= 0.0 and np.abs(total - 1.0).max() <= 1e-9):
                raise ValueError("a table must have probabilities that sum to 1, for each pair and for the start")

    def __deepcopy__(self, memo: dict) -> TransitionTable:
        """Itself: it is never changed, so copies share it."""
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(states, actions), the shape of a q_table."""
        return self.next_state.shape[:2]

    @classmethod
    def from_env(cls, env: Any) -> TransitionTable:
        """The table of an env whose step and reset do nothing but sample from it; else ValueError."""
        for name in ("step", "reset"):
            if not samples(env, name):
                raise ValueError(
                    f"simulator must be an env whose {name} is known to sample from a transition table and to do "
                    f"nothing else, to be compiled; got {env!r} (td.samples_table declares it of one's own)"
                )
        if isinstance(getattr(env, "table", None), cls):
            return env.table
        if getattr(env, "fickle_passenger", False):  # Taxi then moves its goal, which P does not tell
            raise ValueError("simulator must be all in its P to be compiled: a fickle passenger is not")
        try:
            return cls.from_lists(env.P, env.initial_state_distrib)
        except (AttributeError, TypeError, LookupError) as error:
            raise ValueError(f"P must be a dict of dicts of lists of outcomes ({error})") from error

    @classmethod
    def from_lists(cls, P: Any, start: Any) -> TransitionTable:
        """The table of P[state][action] = [(probability, next_state, reward, terminated), ...]."""
        states, actions = len(P), max(map(len, P.values()))
        outcomes = max(len(pair) for row in P.values() for pair in row.values())
        if set(P) != set(range(states)) or any(set(row) != set(range(actions)) for row in P.values()):
            raise ValueError("P must have an entry for every state and action, numbered from 0")
        start = np.array(check_probabilities("initial_state_distrib", np.ravel(start).tolist(), states))
        entries = np.zeros((states, actions, outcomes, 4))
        for state, row in P.items():
            for action, pair in row.items():
                check_probabilities(f"P[{state}][{action}]", (outcome[0] for outcome in pair), len(pair))
                entries[state, action, : len(pair)] = sorted(pair, key=lambda outcome: -outcome[0])
        probability, next_state, reward, terminated = np.moveaxis(entries, -1, 0).copy()
        if not np.isin(next_state, np.arange(states)).all():
            raise ValueError(f"P must lead to states from 0 to {states - 1}")
        return cls(probability, next_state.astype(np.int32), reward, terminated.astype(bool), start)

    @functools.cached_property
    def packed(self) -> PackedTable:
        """The table packed for the kernels."""
        rewards, numbers = np.unique(_without_repeats(self.reward), return_inverse=True)
        kinds = 2 * numbers.reshape(_without_repeats(self.reward).shape) + _without_repeats(self.terminated)
        bits = int(self.shape[0] - 1).bit_length()
        word = np.uint32 if bits + int(kinds.max()).bit_length() <= 32 else np.uint64
        outcomes = kinds.astype(word) << word(bits) | self.next_state.astype(word)
        thresholds = self._thresholds()
        shared = thresholds.size == thresholds.shape[-1]
        if not shared:
            thresholds = np.broadcast_to(thresholds, self.next_state.shape)
        starts = np.flatnonzero(self.start)
        start_thresholds = _threshold(np.cumsum(self.start[starts]))
        start_thresholds[-1] = 2**32 - 1
        return PackedTable(
            outcomes=outcomes,
            bits=bits,
            rewards=np.repeat(rewards, 2),
            thresholds=thresholds.reshape(-1, thresholds.shape[-1]),
            shared=True if shared else None,
            start_states=starts,
            start_thresholds=start_thresholds,
        )

    def _thresholds(self) -> np.ndarray:
        """The cumulative probabilities of the outcomes as 32-bit thresholds."""
        probability = self.probability
        if probability.strides[-1] == 0:  # one number for all outcomes: an axis to sum over, not a repeat to drop
            probability = np.array(probability)
        probability = _without_repeats(probability)
        thresholds = _threshold(np.cumsum(probability, axis=-1))
        # Nothing can follow the last outcome of a probability above 0, whatever rounding leaves.
        last = np.ones(probability.shape, bool)
        last[..., :-1] = probability[..., 1:] == 0.0
        thresholds[last] = 2**32 - 1
        return thresholds


def samples(env: Any, name: str) -> bool:
    """Whether an env's method is known, or declared, to sample from its table and to do nothing else."""
    method = getattr(env, name, None)
    if not is_put_upon(env, name):
        method = getattr(type(env), name)
    code = getattr(method, "__code__", None)
    if code is not None and getattr(method, "samples_table", None) is code:
        return True
    place = f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}"
    return place.removesuffix(f".{name}") in KNOWN_ENVS and as_defined(method)


def is_put_upon(env: Any, name: str) -> bool:
    """Whether a method is not the class's, but was put upon this very instance."""
    # Not asked of vars(env), after which CPython reads the env's attributes more slowly.
    return getattr(getattr(env, name, None), "__func__", None) is not getattr(type(env), name, None)


def as_defined(method: Any) -> bool:
    """Whether a method has the code that stands under its name in its module: functools.wraps lends names to others."""
    code, module = getattr(method, "__code__", None), sys.modules.get(getattr(method, "__module__", ""))
    if code is None or code.co_qualname != method.__qualname__:
        return False
    return code.co_filename == getattr(module, "__file__", None)


def _without_repeats(array: np.ndarray) -> np.ndarray:
    """The array, with a single entry along each axis over which it is broadcast."""
    return array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]


def _threshold(cumulative: np.ndarray) -> np.ndarray:
    """The largest 32-bit draw that falls within a cumulative probability (resolution 2**-32)."""
    return np.clip(np.rint(cumulative * 2.0**32) - 1, 0, 2**32 - 1).astype(np.uint32)


class Moves(dict):
    """moves[state][action][k] = (probability, next_state, reward, terminated), made when a state is first left.

    They come from the `table` of an env.
    """

    def __init__(self, env: Any):
        self.env = env

    def __missing__(self, state: int) -> dict:
        table = self.env.table
        arrays = table.probability, table.next_state, table.reward, table.terminated
        pairs = zip(*(array[state].tolist() for array in arrays), strict=True)
        self[state] = {action: list(zip(*pair, strict=True)) for action, pair in enumerate(pairs)}
        return self[state]


def _refuse(*_: object) -> Any:
    raise TypeError("P is read-only, since step would not follow an edit: override step for other dynamics")


_refuse_edit: Any = _refuse  # of any signature


class _ReadOnlyDict(dict):
    """A dict that refuses to be edited."""

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse_edit


class _ReadOnlyList(list):
    """A list that refuses to be edited."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse_edit
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse_edit


def read_only_lists(moves: Moves, states: int, order: list[int]) -> dict:
    """P[state][action], read-only lists of the outcomes in an order; of one alone where it is the end."""

    def outcomes(of_pair: list) -> _ReadOnlyList:
        return _ReadOnlyList([(1.0, *of_pair[0][1:])] if of_pair[0][3] else [of_pair[k] for k in order])

    return _ReadOnlyDict(
        (state, _ReadOnlyDict((action, outcomes(of_pair)) for action, of_pair in moves[state].items()))
        for state in range(states)
    )
