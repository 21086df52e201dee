"""Does distributed Q-learning learn as well as a single core?"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd

from figures.experiments import (
    BEST_RATE,
    EPISODES,
    SINGLE,
    checksum,
    lake_of,
    learned_table,
    over_ray,
    values_at_start,
)
from figures.rows import Data, where
from figures.summaries import ci, markdown

OTHER_SEED = 1_000  # added to a seed, for a second single-core run to compare with


def run(seeds=20, collectors=(1, 2, 4, 8), episodes=EPISODES, rates=BEST_RATE, epsilon=0.3, batch_size=100):
    """What each number of collectors learns, beside a single core with the same seed."""
    cases = [
        {
            "map_name": map_name,
            "rate": rates[map_name],
            "epsilon": epsilon,
            "episodes": episodes[map_name],
            "seed": seed,
            "collectors": collectors,
            "batch_size": batch_size,
        }
        for map_name, seed in itertools.product(episodes, range(seeds))
    ]
    yield from over_ray(distributed_run, cases, "distributed")


def distributed_run(map_name, rate, epsilon, episodes, seed, collectors, batch_size) -> list[dict]:
    """The runs of one seed.

    `difference` is how far the values are from the single core's; for the single core itself, from another seed's.
    """
    lake = lake_of(map_name)
    learn = functools.partial(learned_table, lake, rate, epsilon, episodes, batch_size=batch_size)
    single = learn(SINGLE, seed)
    rows = []
    for count in (SINGLE, *collectors):
        if count == SINGLE:
            q_table = single
            difference = value_difference(single, learn(SINGLE, seed + OTHER_SEED))
        else:
            q_table = learn(count, seed)
            difference = value_difference(q_table, single)
        rows.append({
            "map": map_name,
            "learning_rate": rate,
            "epsilon": epsilon,
            "collectors": count,
            "seed": seed,
            **values_at_start(lake, q_table, epsilon),
            "difference": difference,
            "table": checksum(q_table),
        })
    return rows


def value_difference(one, other) -> float:
    """The mean absolute difference of the highest action values, over the states that both tables have visited."""
    both = one.any(axis=1) & other.any(axis=1)
    return np.abs(one.max(axis=1) - other.max(axis=1))[both].mean()


# Numbers


def runs(data: Data, map_name: str, collectors: int) -> pd.DataFrame:
    """The rows of a configuration, one for each seed."""
    return where(data["distributed"], map=map_name, collectors=collectors)


def values(data: Data, map_name: str, collectors: int) -> np.ndarray:
    """Each seed's exact value at the end."""
    return runs(data, map_name, collectors)["value"].to_numpy()


def gain(data: Data, map_name: str, collectors: int) -> np.ndarray:
    """The difference from the single core's value, seed by seed."""
    return values(data, map_name, collectors) - values(data, map_name, SINGLE)


def gains(data: Data, map_name: str) -> list[float]:
    """The mean gains with two, four and eight collectors, in ascending order."""
    return sorted(gain(data, map_name, collectors).mean() for collectors in (2, 4, 8))


def difference(data: Data, map_name: str, collectors: int) -> float:
    """The mean difference from the single core's values."""
    return runs(data, map_name, collectors)["difference"].mean()


def hole_free(data: Data, map_name: str, collectors: int) -> int:
    """How many seeds end on a path without an adjacent hole."""
    return int((runs(data, map_name, collectors)["risks"] == 0).sum())


def runs_with_one_collector(data: Data) -> int:
    return len(where(data["distributed"], collectors=1))


def same_with_one_collector(data: Data) -> int:
    """How many of these end with the single core's table, bit for bit."""
    one, single = (
        where(data["distributed"], collectors=count).set_index(["map", "seed"])["table"] for count in (1, SINGLE)
    )
    return int((one == single).sum())


def config_name(collectors: int) -> str:
    """The assignment's name of a configuration: (collectors, evaluators)."""
    return "single core" if collectors == SINGLE else f"({collectors}, 4)"


def table(data: Data) -> str:
    """Values and tables of distributed learning beside the single core's."""
    rows = []
    for map_name, count in itertools.product(EPISODES, (SINGLE, 1, 2, 4, 8)):
        value = values(data, map_name, count)
        rows.append([
            f"{map_name}, {config_name(count)}",
            ci(value),
            f"{value.min():.0f}",
            "" if count == SINGLE else ci(gain(data, map_name, count), sign="+"),
            ci(runs(data, map_name, count)["difference"]),
            f"{hole_free(data, map_name, count)} of {len(value)}",
        ])
    head = ["map, (collectors, evaluators)", "value, greedy", "worst seed", "less single core, same seeds"]
    return markdown([*head, "mean difference of values", "seeds whose way has no hole beside it"], rows)
