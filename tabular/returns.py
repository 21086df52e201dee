"""Undiscounted returns of the episodes learned: what an agent keeps of them, and what workers send of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_SAVED = 2**28  # returns, 2 GB: of more episodes the latest are saved


class Returns(NamedTuple):
    """The returns of the latest episodes: the first `kept` entries of a buffer that may have room for more.

    These entries never change, so a version with more episodes may share the buffer.
    """

    buffer: np.ndarray = np.zeros(0)
    kept: int = 0

    @property
    def latest(self) -> np.ndarray:
        """The returns, in order of the episodes."""
        return self.buffer[: self.kept]

    def plus(self, more: np.ndarray | None) -> Returns:
        """Return a version that ends with the returns of the next episodes; None, if they are not known, empties it.

        Raises RuntimeError for nan, which stands for a return that a custom `learn_on` did not fill in.
        """
        if more is None:
            return Returns()
        if len(more) and math.isnan(more[0] + more[-1]):
            raise RuntimeError("learn_on must fill in the returns of all its episodes, or keep_returns must be False")
        buffer, kept = self.buffer, self.kept + len(more)
        if kept > len(buffer):
            buffer = np.zeros(max(kept, 2 * len(buffer)))
            buffer[: self.kept] = self.latest
        buffer[self.kept : kept] = more
        return Returns(buffer, kept)

    def of_episodes(self, episodes: int) -> np.ndarray:
        """Return a new array with an entry for each of so many episodes: nan for those before the latest."""
        found = np.full(episodes, np.nan)
        found[episodes - self.kept :] = self.latest
        return found


def to_fill(episodes: int, keeps: bool) -> np.ndarray | None:
    """Return an array for a rule to fill with returns, at first nan; None where they are not kept."""
    return np.full(episodes, np.nan) if keeps else None


def joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Join the returns of several workers, in order of the episodes; None if any did not keep them."""
    kept = [part for part in parts if part is not None]
    return np.concatenate(kept) if len(kept) == len(parts) else None
