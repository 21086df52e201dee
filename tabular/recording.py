"""Recording of every step that a collector learns, for a server to replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from .kernels import Experience

LARGEST_LOG = 2**18  # entries, unless a single episode may need more


class Recorder:
    """Records learned steps in logs, which are reused in turn because allocating one takes as long as learning.

    An episode has at most `max_step` steps. `logs` is the number of logs that may be in use at the same time. With
    `ships=False` the experience is not copied: it is returned as views, which the next use of their log overwrites.
    """

    def __init__(self, max_step: int, ships: bool = True, logs: int = 1):
        self.max_step, self.ships = max_step, ships
        self.logs = deque([Experience.empty(0)] * logs)

    def record(
        self, learn: Callable, first: int, episodes: int, returns: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Call `learn(first, episodes, log, returns)`, in parts if the log is full, and return its (pairs, rewards).

        They are as in `Experience`; with `ships`, rewards are float32 if that is exact. Raises RuntimeError if the log
        does not have the number of steps that `learn` returns.
        """
        log = self._next_log(episodes)
        parts: list[Sequence[np.ndarray]] = []
        done = steps = 0
        while done < episodes:
            fitting = min(log.episodes_that_fit(self.max_step), episodes - done)
            if fitting == 0:
                parts.append([part.copy() for part in log.recorded()])
                log.clear()
                continue
            part = None if returns is None else returns[done : done + fitting]
            steps += learn(first + done, fitting, log, part)
            done += fitting
        parts.append(log.recorded())
        pairs, rewards = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        if len(pairs) != steps + episodes:  # an episode has one more entry, for its end
            raise RuntimeError(f"the rule recorded {len(pairs) - episodes} of {steps} steps: nothing to replay")
        return compact(pairs, rewards) if self.ships else (pairs, rewards)

    def _next_log(self, episodes: int) -> Experience:
        """Return an empty log that holds the episodes at their longest, or as many as fit into `LARGEST_LOG`."""
        longest = self.max_step + 1  # entries of an episode
        entries = max(longest, min(episodes * longest, LARGEST_LOG))
        self.logs.rotate(-1)
        if len(self.logs[0].pairs) < entries:
            self.logs[0] = Experience.empty(entries)
        self.logs[0].clear()
        return self.logs[0]


def compact(pairs: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of experience to ship, with rewards as float32 if that is exact."""
    short = rewards.astype(np.float32)
    return pairs.copy(), short if np.array_equal(short, rewards) else rewards.copy()
