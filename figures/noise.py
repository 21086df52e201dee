"""Does noise free Q-learning from the hallway at a learning rate of 0.1? With and without noise, from two tables."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures.assignment import EPISODES, EPSILONS, HALLWAY, OTHER_SEED, RATES, route_of
from figures.rows import Data, where
from figures.study import experiment, grid, spread
from figures.summaries import ci, markdown

STARTS = ("zeros", "locked")
TARGETS = ("sampled", "expected")


@functools.cache
def expecting_agent(map: str) -> type[td.TDAgent]:
    """An agent whose target is the mean over the slips, from the lake's table: Q-learning without any noise.

    It still meets only the pairs that it tries, so it can be locked in.
    """
    table = td.FrozenLakeEnv(map_name=map).table
    outcomes = table.probability.shape[2]
    probability, following = table.probability, table.next_state
    expected_reward = (probability * table.reward).sum(axis=2)
    going_on = probability * ~table.terminated

    def expected_q_learning(q_table, state, action, reward, next_state, terminated, actions, parameters):
        target = expected_reward[state, action]
        for k in range(outcomes):
            target += parameters.beta * going_on[state, action, k] * max(q_table[following[state, action, k]])
        q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])

    return type("ExpectingAgent", (td.TDAgent,), {"kernel": td.Rule(expected_q_learning)})


@experiment
def run(
    seeds=200, starts=STARTS, targets=TARGETS, epsilons=EPSILONS, rates=RATES, episodes=EPISODES[HALLWAY], tests=20
):
    """Dangerous Hallway at the higher rate, from zeros and from what the lower rate has learned."""
    cases = grid(start=starts, targets=targets, epsilon=epsilons, seed=range(seeds))
    yield from spread(noise_run, cases, rates=rates, episodes=episodes, tests=tests)


def noise_run(start, targets, epsilon, seed, rates, episodes, tests) -> list[dict]:
    """The route before and after, and the exact value over the last fifth of the run."""
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
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
    return [{"before": before, "route": route_of(lake, agent.q_table), "value": np.mean(values[-tests // 5 :])}]


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
