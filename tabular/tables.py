"""Transition tables: a finite MDP as arrays, and the packed form that kernels sample from."""

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

# Envs whose step and reset only sample from their P and initial_state_distrib. A user's env declares this of both
# methods with `samples_table`.
KNOWN_ENVS = {
    "gym.envs.toy_text.frozen_lake.FrozenLakeEnv",
    "gym.envs.toy_text.cliffwalking.CliffWalkingEnv",
    "gym.envs.toy_text.taxi.TaxiEnv",
    "gymnasium.envs.toy_text.frozen_lake.FrozenLakeEnv",
    "gymnasium.envs.toy_text.cliffwalking.CliffWalkingEnv",
    "gymnasium.envs.toy_text.taxi.TaxiEnv",
}


def samples_table(method: Method) -> Method:
    """Declare that an env's step or reset only samples from its `table` or `P`, so that it may be compiled.

    A subclass that overrides the method loses the mark.
    """
    marked: Any = method
    marked.samples_table = marked.__code__  # not True, which functools.wraps would copy to another function
    return method


class PackedTable(NamedTuple):
    """A transition table packed for sampling; on a lake a state takes 64 bytes, one cache line, and all else is shared.

    A 32-bit draw selects the first outcome of a pair whose threshold is not below it.

    `shared` is True if one row of thresholds serves all pairs, as on a lake, and None (not False) if each pair has its
    own. To numba None is a type, so it compiles each case separately and nothing is tested at run time.
    """

    outcomes: np.ndarray  # uint32 or uint64, (states, actions, outcomes): kind << bits | next_state
    bits: int  # the number of low bits of an outcome that hold the next state
    rewards: np.ndarray  # float64, (kinds,); outcomes of an odd kind terminate
    thresholds: np.ndarray  # uint32, (1, outcomes) if shared, else (states * actions, outcomes)
    shared: bool | None
    start_states: np.ndarray  # int64, (starts,)
    start_thresholds: np.ndarray  # uint32, (starts,)
    place: np.ndarray | None = None  # as in `tabular.continuing`; to numba another type, as with `shared`

    def __deepcopy__(self, memo: dict) -> PackedTable:
        """Return itself, since copies share what never changes; a place does."""
        return self if self.place is None else self._replace(place=self.place.copy())


# `reset` and `step` tell a table from an env by this; a property would cost time at each step.
PackedTable.env = None  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransitionTable:
    """A finite MDP as arrays; the value of an outcome that terminates is its reward alone.

    The outcomes of a pair are sorted from the most likely to the least likely, and padded with probability 0.
    """

    probability: np.ndarray  # float64, (states, actions, outcomes)
    next_state: np.ndarray  # int32, likewise
    reward: np.ndarray  # float64, likewise
    terminated: np.ndarray  # bool, likewise
    start: np.ndarray  # float64, (states,): probability that an episode starts there

    def __post_init__(self) -> None:
        """Raise ValueError unless this is an MDP: compiled code uses next_state as an index, without bounds checks."""
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

    def __repr__(self) -> str:
        states, actions, outcomes = self.next_state.shape
        return f"TransitionTable({states} states, {actions} actions, {outcomes} outcomes)"

    def __deepcopy__(self, memo: dict) -> TransitionTable:
        """Return itself: it never changes, so copies share it."""
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(states, actions), the shape of a q_table."""
        return self.next_state.shape[:2]

    @classmethod
    def from_env(cls, env: Any) -> TransitionTable:
        """Return the table of an env; raise ValueError unless its step and reset only sample from that table."""
        for name in ("step", "reset"):
            if not samples(env, name):
                raise ValueError(
                    f"simulator must be an env whose {name} is known to sample from a transition table and to do "
                    f"nothing else, to be compiled; got {env!r} (declare it of your own env with td.samples_table)"
                )
        if isinstance(getattr(env, "table", None), cls):
            return env.table
        if getattr(env, "fickle_passenger", False):  # Taxi then moves its goal, which is not in P
            raise ValueError("simulator must be fully described by its P to be compiled: a fickle passenger is not")
        try:
            return cls.from_lists(env.P, env.initial_state_distrib)
        except (AttributeError, TypeError, LookupError) as error:
            raise ValueError(f"P must be a dict of dicts of lists of outcomes ({error})") from error

    @classmethod
    def from_lists(cls, P: Any, start: Any) -> TransitionTable:
        """Build the table from P[state][action] = [(probability, next_state, reward, terminated), ...]."""
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
        if probability.strides[-1] == 0:  # a single number for all outcomes, which cumsum must see repeated
            probability = np.array(probability)
        probability = _without_repeats(probability)
        thresholds = _threshold(np.cumsum(probability, axis=-1))
        # Whatever rounding does, every draw must end at the last outcome with a probability above 0.
        last = np.ones(probability.shape, bool)
        last[..., :-1] = probability[..., 1:] == 0.0
        thresholds[last] = 2**32 - 1
        return thresholds


def samples(env: Any, name: str) -> bool:
    """Whether an env's method is known or declared only to sample from its transition table."""
    method = getattr(env, name, None)
    if not is_set_on_instance(env, name):
        method = getattr(type(env), name)
    code = getattr(method, "__code__", None)
    if code is not None and getattr(method, "samples_table", None) is code:
        return True
    place = f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}"
    return place.removesuffix(f".{name}") in KNOWN_ENVS and as_defined(method)


def is_set_on_instance(env: Any, name: str) -> bool:
    """Whether a method was set on this instance, in place of its class's."""
    # Looking into vars(env) would make CPython read the env's attributes more slowly afterwards.
    return getattr(getattr(env, name, None), "__func__", None) is not getattr(type(env), name, None)


def as_defined(method: Any) -> bool:
    """Whether a method's code is what its name and module say; functools.wraps gives that name to other code."""
    code, module = getattr(method, "__code__", None), sys.modules.get(getattr(method, "__module__", ""))
    if code is None or code.co_qualname != method.__qualname__:
        return False
    return code.co_filename == getattr(module, "__file__", None)


def _without_repeats(array: np.ndarray) -> np.ndarray:
    """Reduce each axis along which an array is broadcast to a single entry."""
    return array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]


def _threshold(cumulative: np.ndarray) -> np.ndarray:
    """Return the largest 32-bit draw that falls within a cumulative probability (resolution 2**-32)."""
    return np.clip(np.rint(cumulative * 2.0**32) - 1, 0, 2**32 - 1).astype(np.uint32)


class Moves(dict):
    """moves[state][action][k] = (probability, next_state, reward, terminated), from an env's `table`.

    The entries of a state are made when they are first accessed.
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
    raise TypeError("P is read-only, because step would ignore an edit: override step for other dynamics")


_refuse_edit: Any = _refuse  # untyped, to replace methods of any signature


class _ReadOnlyDict(dict):
    """A read-only dict."""

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse_edit


class _ReadOnlyList(list):
    """A read-only list."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse_edit
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse_edit


def read_only_lists(moves: Moves, states: int, order: list[int]) -> dict:
    """Build a read-only P[state][action] with outcomes in the given order; a terminated pair has a single outcome."""

    def outcomes(of_pair: list) -> _ReadOnlyList:
        return _ReadOnlyList([(1.0, *of_pair[0][1:])] if of_pair[0][3] else [of_pair[k] for k in order])

    return _ReadOnlyDict(
        (state, _ReadOnlyDict((action, outcomes(of_pair)) for action, of_pair in moves[state].items()))
        for state in range(states)
    )
