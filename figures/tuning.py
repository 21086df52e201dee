"""Which learning rate is each configuration's best on 16x16? Steps until the policy is good, on seeds kept for this."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures.assignment import LAKE, OTHER_SEED, SINGLE, learner
from figures.curves import THRESHOLD
from figures.distributed import COUNTS, config_name
from figures.rows import Data, where
from figures.study import experiment, spread
from figures.summaries import markdown, number

RATES = (0.03, 0.1, 0.2, 0.3)
BATCHES = (10, 100)  # episodes per batch: small where steps wait, larger where a batch costs more than its steps
LOOKS = 3  # a policy is good if its value is above the threshold at that many looks in a row
TEAMS = ((SINGLE, 0), *itertools.product(COUNTS, BATCHES))  # collectors, episodes per batch


@experiment
def run(seeds=60, teams=TEAMS, rates=RATES, epsilon=0.3, episodes=10_000, every=100):
    """Yield the steps until the policy is good, for each configuration and rate."""
    cases = [
        {"collectors": count, "batch_size": size, "rate": rate, "seed": OTHER_SEED + seed}
        for (count, size), rate, seed in itertools.product(teams, rates, range(seeds))
    ]
    yield from spread(tuning_run, cases, epsilon=epsilon, episodes=episodes, every=every)


def tuning_run(collectors, batch_size, rate, seed, epsilon, episodes, every) -> list[dict]:
    """Learn until the policy is good; return the steps at the first of its good looks, or nan."""
    lake = td.FrozenLakeEnv(map_name=LAKE)
    agent = learner(lake, rate, epsilon, collectors, seed, batch_size)
    steps, values = [], []
    while agent.episode < episodes and np.isnan(first_good(steps, values)):
        agent.learn(every)
        steps.append(agent.steps)
        values.append(td.policy_value(lake.table, agent.q_table)[0])
    return [{"steps": first_good(steps, values)}]


def first_good(steps: list, values: list) -> float:
    """Return the steps at the first of LOOKS looks in a row whose values are above the threshold; nan if none is."""
    good = np.array(values) > THRESHOLD[LAKE]
    for place in range(len(good) - LOOKS + 1):
        if good[place : place + LOOKS].all():
            return steps[place]
    return np.nan


# Numbers


def median_steps(data: Data, collectors: int, batch_size: int, rate: float) -> float:
    """The steps after which the median seed is good; infinite if most seeds never are."""
    rows = where(data["tuning"], collectors, batch_size, rate)
    return float(np.median(rows["steps"].fillna(np.inf)))


def best_rate(data: Data, collectors: int, batch_size: int) -> float:
    """The rate with the fewest `median_steps`."""
    return min(RATES, key=lambda rate: median_steps(data, collectors, batch_size, rate))


def table(data: Data) -> str:
    """A table of `median_steps` in thousands, by configuration and rate."""
    rows = []
    for count, size in TEAMS:
        name = config_name(count) + (f", batches of {size}" if size else "")
        rows.append([name, *(number(median_steps(data, count, size, rate) / 1e3) for rate in RATES)])
    return markdown(["configuration", *(f"rate {rate:g}" for rate in RATES)], rows)
