"""How should a server merge what its workers learned? Three rules on Dangerous Hallway."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer
from figures import exact
from figures.experiments import HALLWAY, RATES, lake_of, over_ray
from figures.rows import Data, settings_of, where
from figures.summaries import bootstrap, ci, markdown

FEDERATED = {"Q-learning": FederatedQLAgent, "SARSA": FederatedSARSAAgent}
LEARNED_AT_ONCE = 100  # episodes; a round ends there at the latest: 16 workers share 100, not 160
RULES = ("retention-matched", "plain averaging", "adding up")
DIVERGED = 2_000  # an entry of a table beyond twice the highest reward
STYLES = {RULES[0]: ("o", "-"), RULES[1]: ("s", "--"), RULES[2]: ("x", ":")}  # marker, line


class AddingUp(FederatedServer):
    """Adds the workers' differences to the table."""

    def combine(self, values, learning_rate, reports):
        old = values.copy()
        for report in reports:
            pairs = slice(None) if report.pairs is None else report.pairs
            values[pairs] += self.weight(reports) * (report.values - old[pairs])

    def weight(self, reports) -> float:
        """The weight of one worker's difference."""
        return 1.0


class Averaging(AddingUp):
    """Takes the mean of the workers' tables."""

    def weight(self, reports) -> float:
        return 1.0 / len(reports)


SERVERS = {RULES[0]: FederatedServer, RULES[1]: Averaging, RULES[2]: AddingUp}


def run(seeds=20, counts=(1, 4, 16), rules=RULES, rates=RATES, epsilon=0.3, episodes=30_000, batch_size=10):
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
        if count > 1 or rule == rules[0]
    ]
    yield from over_ray(merging_run, cases, "merging")


def merging_run(algorithm, rule, workers, rate, epsilon, seed, episodes, batch_size) -> list[dict]:
    """The exact values at the end, nan if the table is no longer finite; `largest` is its largest entry."""
    lake = lake_of(HALLWAY)
    settings = {
        "cap": 0.2 if rule == RULES[0] else 0.0,  # 0: workers learn at the learning rate itself
        "cw_num": workers,
        "ew_num": 0,
        "batch_size": batch_size,
        "do_test": False,
        "seed": seed,
        "workers": td.InProcess(),
    }
    agent = FEDERATED[algorithm](lake, epsilon, rate, episodes, **settings)
    agent.roles = agent.roles | {"server": SERVERS[rule]}
    with np.errstate(all="ignore"):
        for _ in range(episodes // LEARNED_AT_ONCE):
            agent.learn(LEARNED_AT_ONCE)
    q_table = agent.q_table
    finite = bool(np.isfinite(q_table).all())
    return [{
        "algorithm": algorithm,
        "rule": rule,
        "workers": workers,
        "learning_rate": rate,
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


def single_core(data: Data, algorithm: str, rate: float, column: str = "value") -> float:
    """The mean over seeds for a single worker, which is the single core."""
    return runs(data, algorithm, rate, RULES[0], 1)[column].mean()


def merged(data: Data, algorithm: str, rate: float, rule: str, workers: int, column: str = "value") -> float:
    """The mean over seeds for `workers` workers."""
    return runs(data, algorithm, rate, rule, workers)[column].mean()


def diverged(data: Data, *setting) -> int:
    """How many seeds end with impossibly large or non-finite entries."""
    return int((~(runs(data, *setting)["largest"] < DIVERGED)).sum())


def table(data: Data) -> str:
    """Exact values after equally many episodes, by rule and workers; a single worker is listed once."""
    settings = settings_of(run)
    rows = []
    for rate, rule, count in itertools.product(settings["rates"], settings["rules"], settings["counts"]):
        if count == 1 and rule != RULES[0]:
            continue
        columns = [("Q-learning", "value"), ("SARSA", "value"), ("SARSA", "on_policy")]
        cells = [table_cell(data, column, algorithm, rate, rule, count) for algorithm, column in columns]
        rows.append([f"{rate:g}, {rule}", f"{count}", *cells])
    head = ["learning rate, rule", "workers", "Q-learning, value", "SARSA, value", "SARSA, value while exploring"]
    return markdown(head, rows)


def table_cell(data: Data, column: str, *setting) -> str:
    group = runs(data, *setting)
    lost = diverged(data, *setting)
    return f"diverges ({lost} of {len(group)})" if lost else ci(group[column], 0)


# Picture


def merging_rules(data: Data):
    """Exact value against the number of federated workers, by the rule that merges what they learned."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True, layout="constrained")
    counts = settings_of(run)["counts"]
    optimum = exact.best(data, HALLWAY).value
    for axes, rate in zip(panels, RATES, strict=True):
        for rule, algorithm in itertools.product(RULES, FEDERATED):
            draw_rule(axes, data, algorithm, rate, rule, counts)
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {optimum:.1f}")
        axes.set_title(f"learning rate {rate:g}", fontsize=11)
        axes.set_xticks(range(len(counts)), [f"{count}" for count in counts])
        axes.set(xlabel="workers", ylim=(-1_080, 1_060))
        axes.grid(alpha=0.25)
    panels[1].text(1.5, -920, "diverges", ha="center", va="bottom", fontsize=10)
    panels[0].set_ylabel("exact value of the greedy policy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def draw_rule(axes, data: Data, algorithm: str, rate: float, rule: str, counts: list[int]) -> None:
    """One line over the number of workers, and a mark at the bottom where the rule diverges."""
    marker, line = STYLES[rule]
    color = td.COLORS[algorithm]
    shift = (0.04 if algorithm == "SARSA" else -0.04) * (1 + 0.05 * RULES.index(rule))  # else lines would coincide
    points = []
    for x, count in enumerate(counts):
        setting = algorithm, rate, RULES[0] if count == 1 else rule, count
        if diverged(data, *setting):
            axes.plot(x + shift, -960, marker, color=color, markersize=7)
        else:
            points.append((x + shift, *bootstrap(runs(data, *setting)["value"])))
    x, mean, low, high = np.array(points).T
    bars = {"yerr": [mean - low, high - mean], "capsize": 2}
    axes.errorbar(x, mean, **bars, color=color, fmt=marker, markersize=6, linestyle=line, label=f"{algorithm}, {rule}")
