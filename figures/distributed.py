"""Does distributed Q-learning learn as well as a single core?"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
from scipy import stats

import td_helpers as td
from figures.assignment import BEST_RATE, EPISODES, OTHER_SEED, SHORT, SINGLE, checksum, learned_table, values_at_start
from figures.rows import Data, where
from figures.study import experiment, grid, spread
from figures.summaries import bootstrap, ci, interval, markdown

TEAMS = (  # collectors, episodes per batch, batches in flight per collector
    (1, 100, 2), (1, 100, 9),
    (2, 100, 2), (2, 200, 2), (2, 400, 2),
    (4, 50, 2), (4, 100, 2), (4, 200, 2),
    (8, 25, 2), (8, 50, 2), (8, 100, 2),
)  # fmt: skip
COUNTS = (2, 4, 8)  # the assignment's numbers of collectors
LAGS = (200, 400, 800)  # collectors x episodes per batch: how old a batch's table is; each number has each lag
GETS_THERE = 900  # a path worth more, with no adjacent hole, leads to the goal


@experiment
def run(seeds=100, teams=TEAMS, episodes=EPISODES, rates=BEST_RATE, epsilon=0.3):
    """Yield values and tables for each number of collectors and each lag, compared with a single core's."""
    cases = grid(map=episodes, seed=range(seeds))
    yield from spread(distributed_run, cases, teams=teams, episodes=episodes, rates=rates, epsilon=epsilon)


def distributed_run(map, seed, teams, episodes, rates, epsilon) -> list[dict]:
    """Run one seed with each team; return one row per team.

    `difference` is the mean absolute difference from the single core's values, `on_route` the mean along its greedy
    path. The single core itself is compared with another seed.
    """
    lake = td.FrozenLakeEnv(map_name=map)
    learn = functools.partial(learned_table, lake, rates[map], epsilon, episodes[map])
    single = learn(SINGLE, seed)
    other = learn(SINGLE, seed + OTHER_SEED)
    route = td.greedy_path(single, lake)
    rows = []
    for count, batch_size, in_flight in ((SINGLE, 0, 0), *teams):
        q_table = single if count == SINGLE else learn(count, seed, batch_size, in_flight)
        difference = value_difference(q_table, other if count == SINGLE else single)
        start = values_at_start(lake, q_table, epsilon)
        rows.append({
            "map": map,
            "collectors": count,
            "batch_size": batch_size,
            "in_flight": in_flight,
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


# Numbers: a team is (collectors, episodes per batch)


def runs(data: Data, map: str, collectors: int, batch_size: int = 100) -> pd.DataFrame:
    """The rows of a team with two batches in flight per collector, or of the single core, one per seed."""
    key = (0, 0) if collectors == SINGLE else (batch_size, 2)
    return where(data["distributed"], map, collectors, *key)


def values(data: Data, map: str, *team) -> np.ndarray:
    """Each seed's exact value at the end."""
    return runs(data, map, *team)["value"].to_numpy()


def gain(data: Data, map: str, *team) -> np.ndarray:
    """The value minus the single core's, for each seed."""
    return values(data, map, *team) - values(data, map, SINGLE)


def mean_gain(data: Data, map: str, *team) -> tuple:
    """The mean of `gain` with its interval: (mean, low, high)."""
    return tuple(map_to_float(bootstrap(gain(data, map, *team))))


def worse(data: Data, map: str, *team) -> int:
    """How many seeds end worse than the single core."""
    return int((gain(data, map, *team) < 0).sum())


def sign_test(data: Data, map: str, *team) -> float:
    """The two-sided p-value of as unequal a split into better and worse seeds, if both were equally likely."""
    split = gain(data, map, *team)
    better, below = int((split > 0).sum()), int((split < 0).sum())
    return float(stats.binomtest(below, better + below).pvalue)


def difference(data: Data, map: str, *team) -> tuple:
    """The mean absolute difference from the single core's values, over states: (mean, low, high)."""
    return tuple(map_to_float(bootstrap(runs(data, map, *team)["difference"])))


def excess(data: Data, map: str, *team) -> tuple:
    """The team's difference from the single core less another seed's: (mean, low, high)."""
    team, other = (runs(data, map, *one)["difference"].to_numpy() for one in (team, (SINGLE,)))
    return tuple(map_to_float(bootstrap(team - other)))


def map_to_float(numbers) -> list[float]:
    return [float(one) for one in numbers]


def hole_free(data: Data, map: str, *team) -> float:
    """The share of seeds that end on a path to the goal without an adjacent hole."""
    return is_hole_free(data, map, *team).mean()


def is_hole_free(data: Data, map: str, *team) -> np.ndarray:
    """Whether each seed ends on a path to the goal without an adjacent hole."""
    found = runs(data, map, *team)
    return ((found["risks"] == 0) & (found["value"] > GETS_THERE)).to_numpy()


def hole_free_gain(data: Data, map: str, *team) -> tuple:
    """The share of `is_hole_free` minus the single core's, on the same seeds: (mean, low, high)."""
    team, single = (is_hole_free(data, map, *one).astype(float) for one in (team, (SINGLE,)))
    return tuple(map_to_float(bootstrap(team - single)))


def by_collectors(data: Data, map: str, lag: int) -> tuple:
    """What eight collectors for two add to it at the same lag: (mean, low, high)."""
    more, less = (runs(data, map, count, lag // count)["difference"].to_numpy() for count in (COUNTS[-1], COUNTS[0]))
    return tuple(map_to_float(bootstrap(more - less)))


def same_as_single(data: Data) -> int:
    """How many runs with one collector and fresh tables end with the single core's table, bit for bit."""
    return same_tables(data, (SINGLE, 0, 0), (1, 100, 2))


def same_as_eight(data: Data) -> int:
    """How many runs with one collector, whose tables are eight batches old, end with the table of eight collectors."""
    return same_tables(data, (8, 100, 2), (1, 100, 9))


def same_tables(data: Data, *teams) -> int:
    """How many runs end with the same table, bit for bit, with both teams."""
    names = ("collectors", "batch_size", "in_flight")
    one, other = (
        where(data["distributed"], **dict(zip(names, team, strict=True))).set_index(["map", "seed"])["table"]
        for team in teams
    )
    return int((one == other).sum())


def pairs_of_runs(data: Data) -> int:
    """How many runs each team has, on both maps together."""
    return len(where(data["distributed"], collectors=SINGLE))


# Tables


def config_name(collectors: int) -> str:
    """The assignment's name for a configuration: (collectors, evaluators)."""
    return "one core" if collectors == SINGLE else f"({collectors}, 4)"


def table(data: Data) -> str:
    """A table of the values and tables of distributed learning compared with the single core's."""
    rows = []
    for map, count in itertools.product(EPISODES, (SINGLE, *COUNTS)):
        alone = count == SINGLE
        rows.append([
            f"{SHORT[map]}, {config_name(count)}",
            ci(values(data, map, count), 0),
            "" if alone else interval(mean_gain(data, map, count), "+.1f"),
            "" if alone else f"{worse(data, map, count)} (p {p_value(sign_test(data, map, count))})",
            f"{hole_free(data, map, count):.0%}",
            interval(difference(data, map, count), ".0f"),
        ])
    return markdown(["map, configuration", "value", "gain", "worse", "no hole beside", "distance"], rows)


def p_value(p: float) -> str:
    return f"{p:.2f}" if p >= 0.095 else f"{p:.1g}" if p >= 0.0001 else "< .0001"


def table_of_lags(data: Data) -> str:
    """A table of distance and share of hole-free paths by map, number of collectors and lag in episodes."""
    rows = []
    for map, count in itertools.product(EPISODES, COUNTS):
        teams = [(count, lag // count) for lag in LAGS]
        cells = [f"{difference(data, map, *team)[0]:.0f}, {hole_free(data, map, *team):.0%}" for team in teams]
        rows.append([f"{SHORT[map]}, {config_name(count)}", *cells])
    return markdown(["map, configuration", *(f"lag {lag}" for lag in LAGS)], rows)
