"""How long until a policy is good, and good to stay? One loop for all experiments that ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

import td_helpers as td

WITHIN = 5  # the usual target: the exact value of the start is so close to the optimum
LARGE_WITHIN = 200  # that on large lakes
HOLES = 0.08  # share of the cells of random lakes
SPACING = 0.02  # between looks: this share of the steps so far


class Held(NamedTuple):
    """When a value counts as held: where `of` the values at `looks` successive looks reaches the target."""

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
    """Watch a learner until its policy is good to stay; return the moments (first, held), each empty for never.

    `first` is when a value first reaches the target. Each of `moments` says how far learning has come, at least in
    "steps", and `value_of` judges the policy. It is asked once `first_look` steps are done, then each time that
    `next_look(due, steps)` are, where `due` is the last such number and `steps` those of the look. The loop ends when
    the target is held, after a look beyond `limit` steps, when the moments end, or when a value is nan: the learner
    has diverged.
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
    """The moments of what yields (q_table, steps), with the seconds that it took."""
    seconds = 0.0
    while True:
        start = time.perf_counter()
        found = next(learning, None)
        seconds += time.perf_counter() - start
        if found is None:
            return
        yield {"q_table": found[0], "steps": found[1], "seconds": seconds}


def exact_value(lake: td.FrozenLakeEnv) -> Callable[[dict], float]:
    """The judge that solves for the greedy policy of a moment's "q_table"; nan if that is no longer finite."""

    def value_of(moment: dict) -> float:
        q_table = moment["q_table"]
        return float(td.policy_value(lake.table, q_table)[0]) if np.isfinite(q_table).all() else np.nan

    return value_of


def rough_value(agent, target: float, trials: int, hopeless: float, max_steps: int = 1_000) -> Callable[[dict], float]:
    """The judge that solves for an agent's greedy policy unless some trials fall short by more than `hopeless`.

    Solving takes long on a large lake; in that case the value is the trials' mean.
    """

    def value_of(_: dict) -> float:
        rough = agent.evaluate(trials=trials, max_steps=max_steps)
        if rough < target - hopeless:
            return rough
        return float(td.policy_value(agent.simulator.table, agent.q_table)[0])

    return value_of


def random_lake(side: int, seed: int, holes: float = HOLES) -> td.FrozenLakeEnv:
    """A random lake."""
    return td.FrozenLakeEnv(td.generate_map((side, side), holes, seed=seed))


def optimum(lake: td.FrozenLakeEnv) -> float:
    """The exact value of the best policy at the start."""
    return td.value_iteration(lake.table)[0].max()
