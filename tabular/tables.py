"""Transition tables as arrays, and packed for the compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PackedTable(NamedTuple):
    """A transition table packed for sampling: on a lake a state is 64 bytes, one cache line, and the rest is shared.

    Outcome k of a state and action falls where a 32-bit draw first does not exceed threshold k.

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


def pack(table) -> PackedTable:
    """Pack a table of probability, next_state, reward, terminated (states, actions, outcomes), start (states,)."""
    states = table.next_state.shape[0]
    reward, terminated = _once(table.reward), _once(table.terminated)
    rewards, kinds = np.unique(reward, return_inverse=True)
    kinds = 2 * kinds.reshape(reward.shape) + terminated
    bits = int(states - 1).bit_length()
    word = np.uint32 if bits + int(kinds.max()).bit_length() <= 32 else np.uint64
    outcomes = kinds.astype(word) << word(bits) | table.next_state.astype(word)

    probability = _once(table.probability)
    thresholds = _threshold(np.cumsum(probability, axis=-1))
    # Nothing can follow the last outcome of a probability above 0, whatever rounding leaves.
    thresholds[..., :-1][probability[..., 1:] == 0.0] = 2**32 - 1
    thresholds[..., -1] = 2**32 - 1
    shared = thresholds.size == thresholds.shape[-1]
    if not shared:
        thresholds = np.broadcast_to(thresholds, table.next_state.shape)

    start_states = np.flatnonzero(table.start)
    start_thresholds = _threshold(np.cumsum(table.start[start_states]))
    start_thresholds[-1] = 2**32 - 1
    return PackedTable(
        outcomes=outcomes,
        bits=bits,
        rewards=np.repeat(rewards, 2),
        thresholds=thresholds.reshape(-1, thresholds.shape[-1]),
        shared=True if shared else None,
        start_states=start_states,
        start_thresholds=start_thresholds,
    )


def _once(array: np.ndarray) -> np.ndarray:
    """The array, with a single entry along each axis over which it is broadcast."""
    return array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]


def _threshold(cumulative) -> np.ndarray:
    """The largest 32-bit draw that falls within a cumulative probability (resolution 2**-32)."""
    return np.clip(np.rint(cumulative * 2.0**32) - 1, 0, 2**32 - 1).astype(np.uint32)
