"""How should a server merge what its workers learned? Three rules at equal local rates, and two naive ones."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer, effective_rates
from figures.experiments import HALLWAY, RATES, lake_of, spread
from figures.rows import Data, settings_of, where
from figures.summaries import bootstrap, ci, markdown

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


def run(
    seeds=40, counts=(1, 4, 16, 64), rules=RULES + NAIVE, rates=RATES, epsilon=0.3, episodes=30_000, batch_size=10
):
    """What federated workers learn under each merge rule; a single worker needs none."""
    cases = [
        {
            "algorithm": algorithm,
            "rule": rule,
            "workers": count,
            "rate": rate,
            "epsilon": epsilon,
            "seed": seed,
            "episodes": episodes,
            "batch_size": batch_size,
        }
        for algorithm, rate, rule, count, seed in itertools.product(FEDERATED, rates, rules, counts, range(seeds))
        if count > 1 or rule == OURS
    ]
    yield from spread(merging_run, cases, "merging")


def merging_run(algorithm, rule, workers, rate, epsilon, seed, episodes, batch_size) -> list[dict]:
    """The exact values at the end, nan if the table is no longer finite; `largest` is its largest entry."""
    lake = lake_of(HALLWAY)
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
    agent = FEDERATED[algorithm](lake, epsilon, rate, episodes, **settings)
    agent.roles = agent.roles | {"server": SERVERS[rule]}
    with np.errstate(all="ignore"):
        agent.learn(episodes)
    q_table = agent.q_table
    finite = bool(np.isfinite(q_table).all())
    return [{
        "algorithm": algorithm,
        "rule": rule,
        "workers": workers,
        "learning_rate": rate,
        "local_rate": agent.local_rate,
        "epsilon": epsilon,
        "seed": seed,
        "value": td.policy_value(lake.table, q_table)[0] if finite else np.nan,
        "on_policy": td.policy_value(lake.table, q_table, epsilon=epsilon)[0] if finite else np.nan,
        "largest": float(np.abs(q_table).max()) if finite else np.inf,
    }]


# Numbers


def runs(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> pd.DataFrame:
    """The rows of a setting, one for each seed."""
    return where(data["merging"], algorithm=algorithm, learning_rate=rate, rule=rule, workers=workers)


def seeds(data: Data) -> int:
    return data["merging"]["seed"].nunique()


def single_core(data: Data, algorithm: str, rate: float, column: str = "value") -> float:
    """The mean over seeds for a single worker, which is the single core."""
    return runs(data, algorithm, rate, OURS, 1)[column].mean()


def merged(data: Data, algorithm: str, rate: float, rule: str, workers: int, column: str = "value") -> float:
    """The mean over seeds for `workers` workers."""
    return runs(data, algorithm, rate, rule, workers)[column].mean()


def difference(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> tuple:
    """The retention-matched rule less another, on the same seeds: (mean, low, high)."""
    ours, other = (runs(data, algorithm, rate, which, workers).set_index("seed")["value"] for which in (OURS, rule))
    return bootstrap(ours - other)


def ahead(data: Data, algorithm: str, rate: float, rule: str, workers: int) -> int:
    """In how many seeds the retention-matched rule ends better than another."""
    ours, other = (runs(data, algorithm, rate, which, workers).set_index("seed")["value"] for which in (OURS, rule))
    return int((ours > other).sum())


def widest_gap(data: Data, rate: float, counts: tuple) -> float:
    """How far apart the rules are at equal local rates, at most."""
    settings = itertools.product(FEDERATED, counts)
    return max(
        float(np.ptp([merged(data, algorithm, rate, rule, count) for rule in RULES])) for algorithm, count in settings
    )


def diverged(data: Data, *setting) -> int:
    """How many seeds end with impossibly large or non-finite entries."""
    return int((~(runs(data, *setting)["largest"] < DIVERGED)).sum())


def table(data: Data, algorithm: str) -> str:
    """Exact values after equally many episodes: a row for each rate and rule, a column for each number of workers."""
    settings = settings_of(run)
    rows = []
    for rate, rule in itertools.product(settings["rates"], settings["rules"]):
        cells = [table_cell(data, algorithm, rate, rule, count) for count in settings["counts"]]
        rows.append([f"{rate:g} {rule}", *cells])
    return markdown([f"{algorithm}, workers", *map(str, settings["counts"])], rows)


def table_cell(data: Data, *setting) -> str:
    group = runs(data, *setting)
    if group.empty:  # a single worker needs no rule
        return ""
    return "diverges" if diverged(data, *setting) else ci(group["value"], 0)
