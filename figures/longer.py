"""Do slow learners end worse, or have they not ended yet? At the lower rate on 16x16, three times the episodes."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures.assignment import AGENTS, EPISODES, EPSILONS, LAKE, RATES
from figures.curves import THRESHOLD
from figures.rows import Data, settings_of, where
from figures.study import experiment, grid, spread
from figures.summaries import bootstrap, ci, markdown


@experiment
def run(seeds=100, map=LAKE, rate=RATES[0], epsilons=EPSILONS, tests=(100, 200, 300), interval=EPISODES[LAKE] // 100):
    """Yield the value around the end of the assignment's episodes, and after twice and three times as many."""
    cases = grid(algorithm=AGENTS, epsilon=epsilons, seed=range(seeds))
    yield from spread(longer_run, cases, map=map, rate=rate, tests=tests, interval=interval)


def longer_run(algorithm, epsilon, seed, map, rate, tests, interval) -> list[dict]:
    """Return a row for each of `tests`: the mean exact value at that test and the nine before it."""
    lake = td.FrozenLakeEnv(map_name=map)
    agent = AGENTS[algorithm](lake, epsilon, rate, do_test=False, seed=seed)
    rows = []
    for last in tests:
        values = []
        for test in range(last - 9, last + 1):
            agent.learn(test * interval - agent.episode)
            values.append(td.policy_value(lake.table, agent.q_table)[0])
        rows.append({"episode": last * interval, "value": np.mean(values)})
    return rows


def values(data: Data, algorithm: str, epsilon: float, episode: int) -> np.ndarray:
    """Each seed's value over the ten tests up to `episode`."""
    return where(data["longer"], algorithm=algorithm, epsilon=epsilon, episode=episode)["value"].to_numpy()


def table(data: Data) -> str:
    """A table of values by algorithm, epsilon and episode."""
    last = [test * settings_of(run)["interval"] for test in settings_of(run)["tests"]]
    rows = [
        [
            f"{algorithm}, epsilon {epsilon:g}",
            *(ci(values(data, algorithm, epsilon, episode)) for episode in last),
            f"{not_good(data, algorithm, epsilon, last[-1]):.0%}",
        ]
        for algorithm, epsilon in itertools.product(AGENTS, EPSILONS)
    ]
    return markdown(["16x16, rate 0.001", *(f"{episode:,} episodes" for episode in last), "not good"], rows)


def not_good(data: Data, algorithm: str, epsilon: float, episode: int) -> float:
    """The share of seeds whose value is not above the threshold then."""
    return float((values(data, algorithm, epsilon, episode) <= THRESHOLD[LAKE]).mean())


def gain(data: Data, algorithm: str, episode: int) -> tuple:
    """The lower epsilon's value minus the higher one's, on the same seeds: (mean, low, high)."""
    high, low = (values(data, algorithm, epsilon, episode) for epsilon in EPSILONS)
    return tuple(map(float, bootstrap(low - high)))
