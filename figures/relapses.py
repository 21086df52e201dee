"""How long do relapses last at a learning rate of 0.1? The value after every few episodes, late in the run."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures.curves import THRESHOLD
from figures.experiments import EPISODES, EPSILONS, RATES, lake_of, spread
from figures.rows import Data, settings_of, where
from figures.summaries import bootstrap, interval, markdown, number


def run(seeds=100, episodes=EPISODES, rate=RATES[1], epsilons=EPSILONS, watched=2_000, every=10):
    """Q-learning on both maps, watched at the end of the assignment's episodes."""
    cases = [
        {"map_name": map_name, "rate": rate, "epsilon": epsilon, "seed": seed, "episodes": episodes[map_name],
         "watched": watched, "every": every}
        for map_name, epsilon, seed in itertools.product(episodes, epsilons, range(seeds))
    ]  # fmt: skip
    yield from spread(relapses_run, cases, "relapses")


def relapses_run(map_name, rate, epsilon, seed, episodes, watched, every) -> list[dict]:
    """How often the value falls below the threshold, and the episodes and steps that it spends there."""
    lake = lake_of(map_name)
    agent = td.QLAgent(lake, epsilon, rate, episodes, do_test=False, seed=seed)
    agent.learn(episodes - watched)
    below, steps = [], [agent.steps]
    for _ in range(watched // every):
        below.append(td.policy_value(lake.table, agent.q_table)[0] < THRESHOLD[map_name])
        agent.learn(every)
        steps.append(agent.steps)
    below = np.array(below)
    return [{
        "map": map_name,
        "epsilon": epsilon,
        "seed": seed,
        "falls": int((below[1:] & ~below[:-1]).sum() + below[0]),
        "episodes_below": int(below.sum()) * every,
        "steps_below": int(np.diff(steps)[below].sum()),
        "steps": steps[-1] - steps[0],
    }]  # fmt: skip


def seeds(data: Data) -> int:
    return data["relapses"]["seed"].nunique()


def mean_length(data: Data, map_name: str, epsilon: float, unit: str = "episodes") -> tuple:
    """The mean length of a relapse in episodes or steps, with its interval over seeds."""
    rows = where(data["relapses"], map=map_name, epsilon=epsilon)
    mean = rows[f"{unit}_below"].sum() / rows["falls"].sum()
    # The ratio of two sums is nearly linear in them.
    spread = bootstrap((rows[f"{unit}_below"] - mean * rows["falls"]) / rows["falls"].mean())
    return mean, mean + spread[1], mean + spread[2]


def falls(data: Data, map_name: str, epsilon: float) -> float:
    """How often a run falls below the threshold in 1,000 episodes."""
    watched = settings_of(run)["watched"]
    return where(data["relapses"], map=map_name, epsilon=epsilon)["falls"].mean() / (watched / 1_000)


def table(data: Data) -> str:
    """Relapses by map and epsilon."""
    rows = []
    for map_name, epsilon in itertools.product(EPISODES, EPSILONS):
        group = where(data["relapses"], map=map_name, epsilon=epsilon)
        rows.append([
            map_name,
            f"{epsilon:g}",
            number(falls(data, map_name, epsilon), 1),
            interval(mean_length(data, map_name, epsilon), ".0f"),
            interval(mean_length(data, map_name, epsilon, "steps"), ",.0f"),
            f"{group['steps_below'].sum() / group['steps'].sum():.0%}",
        ])
    return markdown(["map", "epsilon", "relapses", "episodes each", "steps each", "share of steps"], rows)
