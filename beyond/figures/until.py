"""Measure how long until a policy is near the optimum and stays there: one loop for all experiments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

import td_helpers as td

WITHIN = 5  # the usual target: the start's exact value is at most this far below the optimum
LARGE_WITHIN = 200  # the same on large lakes
HOLES = 0.08  # share of holes among the cells of random lakes
SPACING = 0.02  # steps between looks, as a share of the steps so far


class Held(NamedTuple):
    """When a value counts as held: when `of` the values at `looks` successive looks reaches the target."""

    looks: int
    of: Callable[[list[float]], float]
    moment: int  # which of these looks is reported


EACH_OF_THREE = Held(3, min, 0)
MEAN_OF_FIVE = Held(5, np.mean, 2)


def until_good(
    moments: Iterable[dict],
    value_of: Callable[[dict], float],
    target: float,
    held: Held,
    next_look: Callable[[float, int], float] = lambda due, steps: 0.0,
    first_look: float = 0.0,
    limit: float = np.inf,
) -> tuple[dict, dict]:
    """Watch a learner until its policy holds the target; return the moments (first, held), each empty if never.

    `first` is when a value first reaches the target. Each of `moments` reports progress, at least in "steps", and
    `value_of` evaluates the policy, first after `first_look` steps, then whenever `next_look(due, steps)` steps are
    reached; `due` is the previous threshold and `steps` the count at the previous look. The loop ends when the target
    is held, after a look beyond `limit` steps, when the moments end, or when a value is nan, since the learner has
    diverged.
    """
    first, recent, due = {}, [], first_look
    for moment in moments:
        if moment["steps"] < due:
            continue
        due = next_look(due, moment["steps"])
        value = value_of(moment)
        if np.isnan(value):
            break
        if value >= target and not first:
            first = moment
        recent = [*recent, (value, moment)][-held.looks :]
        if len(recent) == held.looks and held.of([value for value, _ in recent]) >= target:
            return first, recent[held.moment][1]
        if moment["steps"] > limit:
            break
    return first, {}


def clocked(learning: Iterator[tuple[np.ndarray, int]]) -> Iterator[dict]:
    """Yield a moment for each (q_table, steps) of a learner, with the seconds spent learning."""
    seconds = 0.0
    while True:
        start = time.perf_counter()
        found = next(learning, None)
        seconds += time.perf_counter() - start
        if found is None:
            return
        yield {"q_table": found[0], "steps": found[1], "seconds": seconds}


def exact_value(lake: td.FrozenLakeEnv) -> Callable[[dict], float]:
    """Return a `value_of` that evaluates a moment's "q_table" exactly; nan unless the table is finite."""

    def value_of(moment: dict) -> float:
        q_table = moment["q_table"]
        return float(td.policy_value(lake.table, q_table)[0]) if np.isfinite(q_table).all() else np.nan

    return value_of


def rough_value(agent, target: float, trials: int, hopeless: float, max_steps: int = 1_000) -> Callable[[dict], float]:
    """Return a `value_of` that evaluates an agent exactly, unless trials fall short by more than `hopeless`.

    Exact evaluation is slow on a large lake; a hopeless policy gets the trials' mean instead.
    """

    def value_of(_: dict) -> float:
        rough = agent.evaluate(trials=trials, max_steps=max_steps)
        if rough < target - hopeless:
            return rough
        return float(td.policy_value(agent.simulator.table, agent.q_table)[0])

    return value_of


def random_lake(side: int, seed: int, holes: float = HOLES) -> td.FrozenLakeEnv:
    """Return a random lake of `side` x `side` cells."""
    return td.FrozenLakeEnv(td.generate_map((side, side), holes, seed=seed))


def optimum(lake: td.FrozenLakeEnv) -> float:
    """Return the exact value of the start under the best policy."""
    return td.value_iteration(lake.table)[0].max()
