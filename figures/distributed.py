"""Does distributed Q-learning learn as well as a single core?"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures.assignment import BEST_RATE, EPISODES, OTHER_SEED, SHORT, SINGLE, checksum, learned_table, values_at_start
from figures.rows import Data, where
from figures.study import experiment, grid, spread
from figures.summaries import bootstrap, ci, markdown

TEAMS = ((1, 100), (2, 100), (4, 100), (8, 100), (8, 25), (4, 200), (2, 400))  # collectors, episodes of a batch
GETS_THERE = 900  # a value above it, with no hole adjacent: the path leads to the goal


@experiment
def run(seeds=200, teams=TEAMS, episodes=EPISODES, rates=BEST_RATE, epsilon=0.3):
    """Values and tables for each number of collectors, beside a single core with the same seed."""
    cases = grid(map=episodes, seed=range(seeds))
    yield from spread(distributed_run, cases, teams=teams, episodes=episodes, rates=rates, epsilon=epsilon)


def distributed_run(map, seed, teams, episodes, rates, epsilon) -> list[dict]:
    """Run one seed with each team; return one row per team.

    `difference` is the mean absolute difference from the single core's values, and `on_route` the same along the single
    core's greedy path. The single core itself is compared with another seed.
    """
    lake = td.FrozenLakeEnv(map_name=map)
    learn = functools.partial(learned_table, lake, rates[map], epsilon, episodes[map])
    single = learn(SINGLE, seed)
    other = learn(SINGLE, seed + OTHER_SEED)
    route = td.greedy_path(single, lake)
    rows = []
    for count, batch_size in ((SINGLE, 0), *teams):
        q_table = single if count == SINGLE else learn(count, seed, batch_size)
        difference = value_difference(q_table, other if count == SINGLE else single)
        start = values_at_start(lake, q_table, epsilon)
        rows.append({
            "map": map,
            "collectors": count,
            "batch_size": batch_size,
            "seed": seed,
            "value": start["value"],
            "risks": start["risks"],
            "difference": np.nanmean(difference),
            "on_route": np.nanmean(difference[route]),
            "table": checksum(q_table),
        })
    return rows


def value_difference(one, other) -> np.ndarray:
    """Each state's absolute difference of the highest action values; nan unless both tables have visited it."""
    both = one.any(axis=1) & other.any(axis=1)
    return np.where(both, np.abs(one.max(axis=1) - other.max(axis=1)), np.nan)


# Numbers


def runs(data: Data, map: str, collectors: int, batch_size: int = 100) -> pd.DataFrame:
    """The rows of a configuration, one for each seed."""
    return where(data["distributed"], map, collectors, 0 if collectors == SINGLE else batch_size)


def values(data: Data, map: str, collectors: int) -> np.ndarray:
    """Each seed's exact value at the end."""
    return runs(data, map, collectors)["value"].to_numpy()


def gain(data: Data, map: str, collectors: int) -> np.ndarray:
    """The difference from the single core's value, seed by seed."""
    return values(data, map, collectors) - values(data, map, SINGLE)


def mean_gain(data: Data, map: str, collectors: int) -> tuple:
    """The mean of `gain` with its interval: (mean, low, high)."""
    mean, low, high = bootstrap(gain(data, map, collectors))
    return float(mean), float(low), float(high)


def difference(data: Data, map: str, collectors: int, column: str = "difference") -> float:
    """The mean difference from the single core's values, in all states or on_route."""
    return runs(data, map, collectors)[column].mean()


def hole_free(data: Data, map: str, collectors: int, batch_size: int = 100) -> float:
    """The share of seeds that end on a path to the goal without an adjacent hole."""
    found = runs(data, map, collectors, batch_size)
    return ((found["risks"] == 0) & (found["value"] > GETS_THERE)).mean()


def runs_with_one_collector(data: Data) -> int:
    """How many runs have one collector."""
    return len(where(data["distributed"], collectors=1))


def same_with_one_collector(data: Data) -> int:
    """How many runs with one collector end with the single core's table, bit for bit."""
    one, single = (
        where(data["distributed"], collectors=count).set_index(["map", "seed"])["table"] for count in (1, SINGLE)
    )
    return int((one == single).sum())


def config_name(collectors: int) -> str:
    """The assignment's name of a configuration: (collectors, evaluators)."""
    return "single core" if collectors == SINGLE else f"({collectors}, 4)"


def row_name(map: str, collectors: int) -> str:
    """A configuration on a map, as the tables have it."""
    return f"{SHORT[map]}, {config_name(collectors)}"


def table(data: Data) -> str:
    """Values and tables of distributed learning beside the single core's."""
    rows = []
    for map, count in itertools.product(EPISODES, (SINGLE, 1, 2, 4, 8)):
        value = values(data, map, count)
        rows.append([
            row_name(map, count),
            ci(value, 0),
            f"{np.median(value):.0f}",
            "" if count == SINGLE else ci(gain(data, map, count), sign="+"),
            ci(runs(data, map, count)["difference"], 0),
            ci(runs(data, map, count)["on_route"], 0),
        ])
    head = ["map, configuration", "value", "median", "gain", "all states", "on its path"]
    return markdown(head, rows)


def table_of_lags(data: Data) -> str:
    """The share of hole-free paths by map, number of collectors, and lag in episodes."""
    lags = sorted({count * batch_size for count, batch_size in TEAMS if count > 1})
    rows = []
    for map, count in itertools.product(EPISODES, (SINGLE, 2, 4, 8)):
        cells = dict.fromkeys([0, *lags], "")
        for team, batch_size in TEAMS:
            if team == count:
                cells[count * batch_size] = f"{hole_free(data, map, count, batch_size):.1%}"
        if count == SINGLE:
            cells[0] = f"{hole_free(data, map, SINGLE):.1%}"
        rows.append([row_name(map, count), *cells.values()])
    return markdown(["map, configuration", "no lag", *(f"lag {lag}" for lag in lags)], rows)
