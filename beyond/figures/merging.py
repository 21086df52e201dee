"""How should a server merge what its workers learned? Three rules at equal local rates, and two naive ones."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from beyond.federated import FederatedServer
from beyond.figures.variants import FEDERATED, AddingUp, Averaging, ImportanceAveraging
from figures.assignment import HALLWAY, RATES
from figures.rows import Data, where
from figures.study import experiment, spread
from figures.summaries import bootstrap

OURS, IMPORTANCE, AVERAGING = RULES = ("retention-matched", "importance averaging", "plain averaging")
NAIVE_AVERAGING, ADDING_UP = NAIVE = ("averaging (rate not raised)", "adding up (rate not raised)")
DIVERGED = 2_000  # an entry of a table beyond twice the highest reward
SERVERS = {
    OURS: FederatedServer,
    IMPORTANCE: ImportanceAveraging,
    AVERAGING: Averaging,
    NAIVE_AVERAGING: Averaging,
    ADDING_UP: AddingUp,
}


@experiment
def run(seeds=40, counts=(1, 4, 16, 64), rules=RULES + NAIVE, rates=RATES, epsilon=0.3, episodes=30_000, batch_size=10):
    """Exact values of what federated workers learn under each merge rule; a single worker needs none."""
    cases = [
        {"algorithm": algorithm, "rule": rule, "workers": count, "learning_rate": rate, "seed": seed}
        for algorithm, rate, rule, count, seed in itertools.product(FEDERATED, rates, rules, counts, range(seeds))
        if count > 1 or rule == OURS
    ]
    yield from spread(merging_run, cases, epsilon=epsilon, episodes=episodes, batch_size=batch_size)


def merging_run(algorithm, rule, workers, learning_rate, seed, epsilon, episodes, batch_size) -> list[dict]:
    """The exact values at the end, nan if the table is no longer finite; `largest` is its largest entry."""
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    settings = {
        "cw_num": workers,
        "ew_num": 0,
        "batch_size": batch_size,
        "do_test": False,
        "seed": seed,
        "workers": td.InProcess(),
    }
    if rule in NAIVE:
        settings["cap"] = 0.0  # workers learn at the learning rate itself
    agent = FEDERATED[algorithm](lake, epsilon, learning_rate, episodes, **settings)
    agent.roles = agent.roles | {"server": SERVERS[rule]}
    with np.errstate(all="ignore"):
        agent.learn(episodes)
    q_table = agent.q_table
    finite = bool(np.isfinite(q_table).all())
    return [
        {
            "algorithm": algorithm,
            "rule": rule,
            "workers": workers,
            "learning_rate": learning_rate,
            "local_rate": agent.local_rate,
            "epsilon": epsilon,
            "seed": seed,
            "value": td.policy_value(lake.table, q_table)[0] if finite else np.nan,
            "on_policy": td.policy_value(lake.table, q_table, epsilon=epsilon)[0] if finite else np.nan,
            "largest": float(np.abs(q_table).max()) if finite else np.inf,
        }
    ]


# Numbers


def merged(data: Data, algorithm: str, rate: float, rule: str, workers: int, column: str = "value") -> float:
    """The mean over seeds; of a single worker, which is the single core, there is only the retention-matched rule."""
    return where(data["merging"], algorithm, rule, workers, rate)[column].mean()


def lead(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> pd.Series:
    """By how much the retention-matched rule ends better than another, seed by seed."""
    ours, other = (
        where(data["merging"], algorithm, which, workers, rate).set_index("seed")["value"] for which in (OURS, rule)
    )
    return ours - other


def difference(data: Data, *setting) -> tuple:
    """The mean of `lead` with its interval: (mean, low, high)."""
    return bootstrap(lead(data, *setting))


def ahead(data: Data, *setting) -> int:
    """In how many seeds the retention-matched rule ends better than another."""
    return int((lead(data, *setting) > 0).sum())


def widest_gap(data: Data, rate: float, counts: tuple) -> float:
    """How far apart the rules are at equal local rates, at most."""
    settings = itertools.product(FEDERATED, counts)
    return max(
        float(np.ptp([merged(data, algorithm, rate, rule, count) for rule in RULES])) for algorithm, count in settings
    )


def diverged(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> int:
    """How many seeds end with impossibly large or non-finite entries."""
    return int((~(where(data["merging"], algorithm, rule, workers, rate)["largest"] < DIVERGED)).sum())
