"""Does noise free Q-learning from the hallway at a learning rate of 0.1? With and without it, from two tables."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures.experiments import EPISODES, EPSILONS, HALLWAY, OTHER_SEED, RATES, lake_of, route_of, spread
from figures.rows import Data, where
from figures.rules import expecting_agent
from figures.summaries import ci, markdown

STARTS = ("zeros", "locked")
TARGETS = ("sampled", "expected")


def run(
    seeds=200, starts=STARTS, targets=TARGETS, epsilons=EPSILONS, rates=RATES, episodes=EPISODES[HALLWAY], tests=20
):
    """Dangerous Hallway at the higher rate, from zeros and from what the lower rate has learned."""
    cases = [
        {"start": start, "targets": kind, "epsilon": epsilon, "seed": seed, "rates": rates, "episodes": episodes,
         "tests": tests}
        for start, kind, epsilon, seed in itertools.product(starts, targets, epsilons, range(seeds))
    ]  # fmt: skip
    yield from spread(noise_run, cases, "noise")


def noise_run(start, targets, epsilon, seed, rates, episodes, tests) -> list[dict]:
    """The route before and after, and the exact value over the last fifth of the run."""
    lake = lake_of(HALLWAY)
    kind = td.QLAgent if targets == "sampled" else expecting_agent(HALLWAY)
    agent = kind(lake, epsilon, max(rates), episodes, do_test=False, seed=seed)
    if start == "locked":
        slow = td.QLAgent(lake, epsilon, min(rates), episodes, do_test=False, seed=seed + OTHER_SEED)
        slow.learn(episodes)
        agent.q_table = slow.q_table
    before = route_of(lake, agent.q_table)
    values = []
    for _ in range(tests):
        agent.learn(episodes // tests)
        values.append(td.policy_value(lake.table, agent.q_table)[0])
    return [{
        "start": start,
        "targets": targets,
        "epsilon": epsilon,
        "seed": seed,
        "before": before,
        "route": route_of(lake, agent.q_table),
        "value": np.mean(values[-tests // 5 :]),
    }]  # fmt: skip


# Numbers


def runs(data: Data, start: str, targets: str, epsilon: float) -> pd.DataFrame:
    """The rows of a setting, one for each seed; from the locked table only those that were in the hallway."""
    rows = where(data["noise"], start=start, targets=targets, epsilon=epsilon)
    return where(rows, before="hallway") if start == "locked" else rows


def share(data: Data, route: str, *setting) -> float:
    """The share of seeds that end on a route."""
    return (runs(data, *setting)["route"] == route).mean()


def table(data: Data) -> str:
    """Where runs end at the higher rate."""
    rows = []
    for start, epsilon, targets in itertools.product(STARTS, EPSILONS, TARGETS):
        group = runs(data, start, targets, epsilon)
        shares = [f"{share(data, route, start, targets, epsilon):.0%}" for route in ("hallway", "bypass", "neither")]
        rows.append([start, f"{epsilon:g}", targets, f"{len(group)}", *shares, ci(group["value"], 0)])
    return markdown(["from", "epsilon", "targets", "seeds", "hallway", "bypass", "neither", "value"], rows)
