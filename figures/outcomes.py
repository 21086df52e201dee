"""Why does a lower epsilon save Q-learning episodes? How the episodes end, until the policy is good."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures.assignment import EPISODES, EPSILONS, RATES
from figures.curves import THRESHOLD
from figures.rows import Data, where
from figures.study import experiment, grid, spread
from figures.summaries import bootstrap, markdown, number


def counting_q_learning(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Q-learning that counts how episodes end: the exit state's row, which no target reads, has goals and holes."""
    target = reward
    if terminated:
        q_table[next_state][0 if reward > 0 else 1] += 1.0
    else:
        target = reward + parameters.beta * max(q_table[next_state])
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


class CountingAgent(td.TDAgent):
    agent_name = "Counting Q-learning agent"
    kernel = td.Rule(counting_q_learning)


@experiment
def run(seeds=100, episodes=EPISODES, rate=RATES[0], epsilons=EPSILONS, tests=100):
    """Yield, for each run at the lower rate, how its episodes ended until its policy was good."""
    cases = grid(map=episodes, epsilon=epsilons, seed=range(seeds))
    yield from spread(outcomes_run, cases, episodes=episodes, rate=rate, tests=tests)


def outcomes_run(map, epsilon, seed, episodes, rate, tests) -> list[dict]:
    """Learn until the first test above the threshold; return the counts of episodes by their end."""
    lake = td.FrozenLakeEnv(map_name=map)
    agent = CountingAgent(lake, epsilon, rate, episodes[map], do_test=False, seed=seed)
    while agent.episode < episodes[map]:
        agent.learn(episodes[map] // tests)
        if td.policy_value(lake.table, agent.q_table)[0] > THRESHOLD[map]:
            break
    goals, holes = agent.q_table[-1, :2]
    return [{
        "episodes": agent.episode,
        "steps": agent.steps,
        "goals": int(goals),
        "holes": int(holes),
    }]  # fmt: skip


# Numbers


def runs(data: Data, map: str, epsilon: float) -> pd.DataFrame:
    """The rows of a setting, one per seed."""
    return where(data["outcomes"], map=map, epsilon=epsilon)


def mean_of(data: Data, column: str, map: str, epsilon: float) -> float:
    """The mean over seeds of episodes, steps, goals or holes until the policy is good."""
    return float(runs(data, map, epsilon)[column].mean())


def share(data: Data, column: str, map: str, epsilon: float) -> float:
    """The share of the episodes until the policy is good that end in a goal or hole (`column`)."""
    return mean_of(data, column, map, epsilon) / mean_of(data, "episodes", map, epsilon)


def ratio(data: Data, column: str, map: str) -> tuple:
    """How many times as many with the higher epsilon as with the lower: the geometric mean, (mean, low, high)."""
    high, low = (runs(data, map, epsilon).set_index("seed")[column] for epsilon in EPSILONS)
    return tuple(float(np.exp(x)) for x in bootstrap(np.log(high / low)))


def table(data: Data) -> str:
    """A table of episodes by their end until the policy is good."""
    rows = []
    for map, epsilon in itertools.product(EPISODES, EPSILONS):
        means = {name: mean_of(data, name, map, epsilon) for name in ("episodes", "goals", "holes", "steps")}
        shares = [f"{number(means[name])} ({share(data, name, map, epsilon):.0%})" for name in ("goals", "holes")]
        rows.append([map, f"{epsilon:g}", number(means["episodes"]), *shares, number(means["steps"])])
    return markdown(["map", "epsilon", "episodes", "goals", "holes", "steps"], rows)
