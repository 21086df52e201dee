"""How long do relapses last at a learning rate of 0.1? The value after every few episodes, late in the run."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures.assignment import EPISODES, EPSILONS, RATES
from figures.curves import THRESHOLD
from figures.rows import Data, settings_of, where
from figures.study import experiment, grid, spread
from figures.summaries import bootstrap, interval, markdown, number


@experiment
def run(seeds=100, episodes=EPISODES, rate=RATES[1], epsilons=EPSILONS, watched=2_000, every=10):
    """Q-learning on both maps, watched at the end of the assignment's episodes."""
    cases = grid(map=episodes, epsilon=epsilons, seed=range(seeds))
    yield from spread(relapses_run, cases, episodes=episodes, rate=rate, watched=watched, every=every)


def relapses_run(map, epsilon, seed, episodes, rate, watched, every) -> list[dict]:
    """Count how often the value falls below the threshold, and the episodes and steps that it stays there."""
    lake = td.FrozenLakeEnv(map_name=map)
    agent = td.QLAgent(lake, epsilon, rate, episodes[map], do_test=False, seed=seed)
    agent.learn(episodes[map] - watched)
    below, steps = [], [agent.steps]
    for _ in range(watched // every):
        below.append(td.policy_value(lake.table, agent.q_table)[0] < THRESHOLD[map])
        agent.learn(every)
        steps.append(agent.steps)
    below = np.array(below)
    return [{
        "falls": int((below[1:] & ~below[:-1]).sum() + below[0]),
        "episodes_below": int(below.sum()) * every,
        "steps_below": int(np.diff(steps)[below].sum()),
        "steps": steps[-1] - steps[0],
    }]  # fmt: skip


def mean_length(data: Data, map: str, epsilon: float, unit: str = "episodes") -> tuple:
    """The mean length of a relapse in episodes or steps, with its interval over seeds."""
    rows = where(data["relapses"], map=map, epsilon=epsilon)
    mean = rows[f"{unit}_below"].sum() / rows["falls"].sum()
    # The ratio of two sums is nearly linear in them.
    spread = bootstrap((rows[f"{unit}_below"] - mean * rows["falls"]) / rows["falls"].mean())
    return mean, mean + spread[1], mean + spread[2]


def table(data: Data) -> str:
    """Relapses by map and epsilon."""
    thousands, rows = settings_of(run)["watched"] / 1_000, []  # of episodes
    for map, epsilon in itertools.product(EPISODES, EPSILONS):
        group = where(data["relapses"], map=map, epsilon=epsilon)
        rows.append([
            map,
            f"{epsilon:g}",
            number(group["falls"].mean() / thousands, 1),
            interval(mean_length(data, map, epsilon), ".0f"),
            interval(mean_length(data, map, epsilon, "steps"), ",.0f"),
            f"{group['steps_below'].sum() / group['steps'].sum():.0%}",
        ])
    return markdown(["map", "epsilon", "relapses", "episodes each", "steps each", "share of steps"], rows)
