"""How should a server merge what its workers learned? Three rules at equal local rates, and two naive ones."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer, effective_rates
from figures.experiments import HALLWAY, RATES
from figures.rows import Data, where
from figures.spread import spread
from figures.study import experiment
from figures.summaries import bootstrap

FEDERATED = {"Q-learning": FederatedQLAgent, "SARSA": FederatedSARSAAgent}
OURS, IMPORTANCE, AVERAGING = RULES = ("retention-matched", "importance averaging", "plain averaging")
NAIVE_AVERAGING, ADDING_UP = NAIVE = ("averaging (rate not raised)", "adding up (rate not raised)")
DIVERGED = 2_000  # an entry of a table beyond twice the highest reward


class Averaging(FederatedServer):
    """Takes a mean of the workers' tables."""

    def combine(self, values, learning_rate, reports):
        tables, visits = side_by_side(values, reports)
        weights = self.weights(visits)
        values[:] = (weights * tables).sum(axis=0) / weights.sum(axis=0)

    def weights(self, visits) -> np.ndarray:
        """The weight of each worker's value of a pair, by its visits."""
        return np.ones_like(visits)


class ImportanceAveraging(Averaging):
    """Weights a value by one over what its worker kept of the old one (Woo, Joshi and Chi 2023)."""

    def weights(self, visits):
        most = visits.max(axis=0)  # all weights relative to the largest, which would overflow
        return 1 - together(self.agent.learning_rate, most - visits)


class AddingUp(FederatedServer):
    """Adds the workers' differences to the table."""

    def combine(self, values, learning_rate, reports):
        tables, _ = side_by_side(values, reports)
        values += (tables - values).sum(axis=0)


def together(rate: float, visits) -> np.ndarray:
    """What so many updates at a rate amount to, 1 - (1 - rate)**visits, by sums and products: see `effective_rates`."""
    visits = np.asarray(visits, np.int64)
    rates = effective_rates(rate, visits.ravel())
    return rates[np.minimum(visits, len(rates) - 1)]


def side_by_side(values, reports) -> tuple[np.ndarray, np.ndarray]:
    """The workers' values of all pairs, and their visits: a row for each worker."""
    tables = np.tile(values, (len(reports), 1))
    visits = np.zeros(tables.shape)
    for i, report in enumerate(reports):
        pairs = slice(None) if report.pairs is None else report.pairs
        tables[i, pairs], visits[i, pairs] = report.values, report.visits
    return tables, visits


SERVERS = {
    OURS: FederatedServer,
    IMPORTANCE: ImportanceAveraging,
    AVERAGING: Averaging,
    NAIVE_AVERAGING: Averaging,
    ADDING_UP: AddingUp,
}


@experiment
def run(seeds=40, counts=(1, 4, 16, 64), rules=RULES + NAIVE, rates=RATES, epsilon=0.3, episodes=30_000, batch_size=10):
    """What federated workers learn under each merge rule; a single worker needs none."""
    cases = [
        {"algorithm": algorithm, "rule": rule, "workers": count, "learning_rate": rate, "seed": seed}
        for algorithm, rate, rule, count, seed in itertools.product(FEDERATED, rates, rules, counts, range(seeds))
        if count > 1 or rule == OURS
    ]
    yield from spread(merging_run, cases, epsilon=epsilon, episodes=episodes, batch_size=batch_size)


def merging_run(algorithm, rule, workers, learning_rate, seed, epsilon, episodes, batch_size) -> list[dict]:
    """The exact values at the end, nan if the table is no longer finite; `largest` is its largest entry."""
    lake = td.as_lake(HALLWAY)
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


def runs(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> pd.DataFrame:
    """The rows of a setting, one for each seed."""
    return where(data["merging"], algorithm=algorithm, learning_rate=rate, rule=rule, workers=workers)


def merged(data: Data, algorithm: str, rate: float, rule: str, workers: int, column: str = "value") -> float:
    """The mean over seeds; of a single worker, which is the single core, there is only the retention-matched rule."""
    return runs(data, algorithm, rate, rule, workers)[column].mean()


def lead(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> pd.Series:
    """By how much the retention-matched rule ends better than another, seed by seed."""
    ours, other = (runs(data, algorithm, rate, which, workers).set_index("seed")["value"] for which in (OURS, rule))
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


def diverged(data: Data, *setting) -> int:
    """How many seeds end with impossibly large or non-finite entries."""
    return int((~(runs(data, *setting)["largest"] < DIVERGED)).sum())
