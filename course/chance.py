"""Chance under control: a submission's draws repeat, and what is counted has bounds.

Every statistical check asks `likely` with the same rate of false alarms, `ALPHA`. A sheet makes at most some sixty
such checks, so all of them together raise a false alarm for fewer than 1 in 100,000 correct submissions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Iterator
from unittest import mock

import numpy as np
from scipy.special import bdtr, bdtrc

ALPHA = 1e-7
CHECKS = 60  # the most that one sheet asks

_real_default_rng, _RealRandom, _RealState = np.random.default_rng, random.Random, np.random.RandomState
_fresh = itertools.count()


def likely(count: int, trials: int, probability: float) -> bool:
    """Whether so many of so many may be chance: neither tail of the binomial distribution is below ALPHA / 2."""
    if trials == 0 or probability in (0, 1):
        return count == trials * probability
    low = bdtr(count, trials, probability)  # that many or fewer
    high = bdtrc(count - 1, trials, probability) if count else 1.0  # that many or more
    return min(low, high) >= ALPHA / 2


def mixed(*numbers: int) -> int:
    """A seed made of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def default_rng(seed=None):
    """numpy's, whose generators repeat also where no seed is given."""
    return _real_default_rng(next(_fresh) if seed is None else seed)


class Random(_RealRandom):
    """The standard library's, which repeats also where no seed is given."""

    def __init__(self, x=None):
        super().__init__(next(_fresh) if x is None else x)

    def seed(self, a=None, version=2):
        """Start anew."""
        super().seed(next(_fresh) if a is None else a, version)


class RandomState(_RealState):
    """numpy's, which repeats also where no seed is given."""

    def __init__(self, seed=None):
        super().__init__(next(_fresh) % 2**32 if seed is None else seed)


def _seed(a=None, version=2):
    """random.seed, which repeats also where no seed is given."""
    random.setstate(Random(a).getstate())


REPLACED = {id(_real_default_rng): default_rng, id(_RealRandom): Random, id(_RealState): RandomState}


@contextlib.contextmanager
def repeatable(seed: int, names: dict[str, object] | None = None) -> Iterator[None]:
    """Have every draw of the standard library's and numpy's repeat within the block, also of unseeded generators.

    Generators among `names` start anew from the seed, and functions that make some are replaced there.
    """
    global _fresh
    _fresh = itertools.count(mixed(seed, 1) * 1000)
    start_process(seed, 0)
    ticks = itertools.count()
    clock = lambda *_: 1e9 + 1e-3 * next(ticks)
    with contextlib.ExitStack() as stack:
        for module, name, value in (
            (np.random, "default_rng", default_rng), (np.random, "RandomState", RandomState),
            (random, "Random", Random), (random, "seed", _seed), (os, "urandom", lambda n: bytes(
                next(_fresh) >> 8 * (i % 4) & 255 for i in range(n))),
            (time, "time", clock), (time, "time_ns", lambda: int(1e9 * clock())), (time, "monotonic", clock),
            (time, "perf_counter", clock), (time, "sleep", lambda seconds: None),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, name, value))
        for i, (name, value) in enumerate(list((names or {}).items())):
            if id(value) in REPLACED:
                names[name] = REPLACED[id(value)]
            elif isinstance(value, np.random.Generator):
                names[name] = _real_default_rng(mixed(seed, 2, i))
            elif isinstance(value, (_RealState, _RealRandom)):
                value.seed(mixed(seed, 2, i))
        yield


def start_process(seed: int, number: int) -> None:
    """Give the global generators the state that they have at the start of a process."""
    random.setstate(_RealRandom(mixed(seed, 3, number)).getstate())
    np.random.seed(mixed(seed, 4, number))  # noqa: NPY002


def saved() -> tuple:
    """The state of the global generators."""
    return random.getstate(), np.random.get_state()  # noqa: NPY002


def restore(state: tuple) -> None:
    """Set the state of the global generators."""
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
