"""How do the agents do on yardsticks that others set? Published values, or those of the book's algorithms, and ours."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from numba.extending import register_jitable

import td_helpers as td
from beyond import DynaQAgent
from beyond.figures import worlds
from figures.rows import Data, where
from figures.study import experiment, spread
from figures.summaries import bootstrap, ci, markdown
from tabular.kernels import Experience, draw

HORIZON = 5_000  # steps of a task without an end
MOST_EPISODES = {"deep_sea": 10_000, "FrozenLake8x8": 20_000}  # after which a task counts as not solved
BAD = 0.8  # bsuite's deep sea is solved once less than this share of the episodes so far have missed the treasure
MAZE_LENGTH = 18.0  # the Dyna maze is solved once five episodes in a row take at most this on average; at best 14
LONG = 10**6  # steps: more than an episode ever takes
BIASED_EPISODES = 300

ENDLESS = {"continuing": True, "max_step": 10, "keep_returns": True}
BOOK = {"epsilon": 0.1, "beta": 1.0, "max_step": LONG, "keep_returns": True}
MAZE = {"epsilon": 0.1, "learning_rate": 0.1, "beta": 0.95, "initial_value": 0.0, "max_step": LONG}
SEA = {"initial_value": 1.0, "max_step": LONG, "keep_returns": True}
EPISODE = {"batch_size": 1}  # Dyna-Q plans after every episode, or part of one

# By task and learner: the seeds, and the learner's settings. The settings of RiverSwim and SixArms were tuned on the
# seeds from 100,000 on.
TASKS = {
    "RiverSwim": {
        "Q-learning, optimistic": (100, {"epsilon": 0.0, "learning_rate": 0.1, "initial_value": 1e5} | ENDLESS),
        "Dyna-Q": (200, {"epsilon": 0.0, "initial_value": 1e4} | ENDLESS | EPISODE),
        "Dyna-Q, prior 0.01": (200, {"epsilon": 0.0, "prior": 0.01, "initial_value": 1e5} | ENDLESS | EPISODE),
        "Dyna-Q, prior 0.1": (200, {"epsilon": 0.0, "prior": 0.1, "initial_value": 2e4} | ENDLESS | EPISODE),
    },
    "SixArms": {
        "Q-learning, optimistic": (100, {"epsilon": 0.0, "learning_rate": 0.1, "initial_value": 1e5} | ENDLESS),
        "Dyna-Q": (200, {"epsilon": 0.0, "initial_value": 6e3} | ENDLESS | EPISODE),
        "Dyna-Q, prior 0.01": (200, {"epsilon": 0.0, "prior": 0.01, "initial_value": 3e6} | ENDLESS | EPISODE),
        "Dyna-Q, prior 0.1": (200, {"epsilon": 0.0, "prior": 0.1, "initial_value": 6e5} | ENDLESS | EPISODE),
    },
    **{
        f"deep_sea {size}": {
            "Q-learning, optimistic": (20, {"epsilon": 0.0, "learning_rate": 0.5} | SEA),
            "Dyna-Q": (20, {"epsilon": 0.0} | SEA | EPISODE),
            "Dyna-Q, epsilon 0.05": (20, {"epsilon": 0.05} | SEA | EPISODE),
            "Dyna-Q, prior 0.01": (20, {"epsilon": 0.0, "prior": 0.01} | SEA | EPISODE),
        }
        for size in (10, 20, 30, 40, 50)
    },
    "cliff walking": {name: (200, {"learning_rate": 0.5} | BOOK) for name in ("Q-learning", "SARSA")},
    **{
        f"figure 6.3, rate {rate:g}": {
            name: (200, {"learning_rate": rate} | BOOK) for name in ("Q-learning", "SARSA", "Expected SARSA")
        }
        for rate in (0.1, 0.5, 1.0)
    },
    "windy gridworld": {"SARSA": (400, {"learning_rate": 0.5} | BOOK)},
    "maximization bias": {
        name: (4_000, {"learning_rate": 0.1, "epsilon": 0.1, "beta": 1.0})
        for name in ("Q-learning", "Double Q-learning")
    },
    "Dyna maze": {
        f"Dyna-Q, {steps} planning steps": (100, {"planning_steps": steps} | MAZE | EPISODE) for steps in (0, 5, 50)
    },
    "FrozenLake8x8": {
        "Q-learning, ties lowest": (100, {"ties": "lowest", "keep_returns": True}),
        "Q-learning, ties random": (100, {"ties": "random", "keep_returns": True}),
    },
}


@experiment
def run(tasks=TASKS):
    """Yield what each learner scores in each task, by seed; nan if it does not solve it."""
    cases = [
        {"task": task, "learner": learner, "seed": seed}
        for task, learners in tasks.items()
        for learner, (seeds, _) in learners.items()
        for seed in range(seeds)
    ]
    yield from spread(score, cases, tasks=tasks)


def score(task, learner, seed, tasks) -> list[dict]:
    """Measure one learner with one seed; return its row."""
    name, _, variant = task.partition(" ")
    settings = {"ties": "random", "do_test": False, "seed": seed} | tasks[task][learner][1]
    measure = MEASURES.get(task) or MEASURES[name]
    return [{"value": measure(learner, settings, variant)}]


# The tasks


def expected_sarsa(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Update as Expected SARSA does: the target is the mean over the next actions (Sutton and Barto 6.6)."""
    target = reward
    if not terminated:
        row, epsilon = q_table[next_state], parameters.epsilon
        total = 0.0
        for next_action in range(len(actions)):
            total += row[next_action]
        target += parameters.beta * ((1 - epsilon) * td.greedy_value(row, actions) + epsilon * total / len(actions))
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


class ExpectedSARSAAgent(td.TDAgent):
    """Expected SARSA."""

    agent_name = "Expected SARSA"
    kernel = td.Rule(expected_sarsa)


AGENTS = {"Q-learning": td.QLAgent, "SARSA": td.SARSAAgent, "Expected SARSA": ExpectedSARSAAgent, "Dyna-Q": DynaQAgent}


@functools.cache
def world_of(make):
    """Return a world, made once: compiled runs share its table."""
    return make()


def agent_of(learner: str, world, settings: dict):
    """Return the agent that a learner's name begins with."""
    return AGENTS[learner.partition(",")[0]](world, **settings)


def earned(make, learner: str, settings: dict, _) -> float:
    """The total reward of the first steps in a world without an end, in millions."""
    agent = agent_of(learner, world_of(make), settings)
    agent.learn(HORIZON // settings["max_step"])
    return agent.returns.sum() / 1e6


def sunk(learner: str, settings: dict, size: str) -> float:
    """The episodes until bsuite counts the deep sea as solved."""
    agent = agent_of(learner, worlds.deep_sea(int(size), settings["seed"]), settings)
    while agent.episode < MOST_EPISODES["deep_sea"]:
        agent.learn(int(size))
        bad = np.cumsum(agent.returns < 0.5) / np.arange(1, agent.episode + 1)
        if (bad < BAD).any():
            return 1 + np.argmax(bad < BAD)
    return np.nan


def mean_return(episodes: int, learner: str, settings: dict, _) -> float:
    """The mean return of the first episodes on the cliff."""
    agent = agent_of(learner, world_of(worlds.cliff), settings)
    agent.learn(episodes)
    return agent.returns.mean()


def episodes_in_the_wind(learner: str, settings: dict, _) -> float:
    """The episodes that are over after 8,000 steps, each of which costs 1."""
    agent = agent_of(learner, world_of(worlds.windy), settings)
    agent.learn(600)
    return np.searchsorted(np.cumsum(-agent.returns), 8_000, side="right")


def episodes_in_the_maze(learner: str, settings: dict, _) -> float:
    """The first episode of the first five in a row that are short."""
    agent = agent_of(learner, world_of(worlds.dyna_maze), settings)
    ends = [0, *(agent.steps for _ in agent.learn_in_batches(200))]
    means = np.convolve(np.diff(ends), np.full(5, 0.2), mode="valid")
    return 1 + np.argmax(means <= MAZE_LENGTH) if (means <= MAZE_LENGTH).any() else np.nan


def first_goal(learner: str, settings: dict, _) -> float:
    """The first episode that reaches the goal of the 8x8 lake."""
    agent = agent_of(learner, world_of(worlds.frozen_lake_8x8), settings)
    agent.learn(MOST_EPISODES["FrozenLake8x8"])
    return 1 + np.argmax(agent.returns > 0) if agent.returns.any() else np.nan


# Double Q-learning, and the two actions of state A

FORBIDDEN = -1e9  # the value of actions that a state does not have
APART = 2**61  # the draws from here on belong to no episode


class DoubleParameters(NamedTuple):
    """`Parameters`, plus the state of Double Q-learning."""

    epsilon: float
    learning_rate: float
    beta: float
    max_step: int
    key: int
    tables: np.ndarray  # float64, (2, states, actions)
    updates: np.ndarray  # int64, (1,)


@register_jitable
def chosen(row, actions, floor, share):
    """Return one of the actions worth at least `floor`: the first for a share of 0, the last for one below 1."""
    count = 0
    for action in range(len(actions)):
        count += row[action] >= floor
    number = int(share * count)
    for action in range(len(actions)):
        number -= row[action] >= floor
        if number < 0:
            break
    return action


def among_allowed(row, actions, epsilon, explore):
    """The epsilon-greedy action among those that the state has; ties are broken at random."""
    if explore < epsilon:
        return chosen(row, actions, FORBIDDEN / 2, explore / epsilon)
    return chosen(row, actions, td.greedy_value(row, actions), (explore - epsilon) / (1 - epsilon))


def double_q_learning(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Update one of two tables with the other's value of its best action; act on their sum (Sutton and Barto 6.7)."""
    coin, _ = draw(parameters.key, APART + parameters.updates[0])
    parameters.updates[0] += 1
    one = int(2 * coin)
    table, other = parameters.tables[one], parameters.tables[1 - one]
    target = reward
    if not terminated:
        best = chosen(table[next_state], actions, td.greedy_value(table[next_state], actions), 2 * coin - one)
        target += parameters.beta * other[next_state, best]
    table[state, action] += parameters.learning_rate * (target - table[state, action])
    q_table[state][action] = table[state, action] + other[state, action]


@functools.cache
def biased_rule(learner: str) -> td.Rule:
    """Return the learner's rule for maximization bias, compiled once per process."""
    update = td.q_learning_update if learner == "Q-learning" else double_q_learning
    return td.Rule(update, policy=among_allowed)


def left_share(learner: str, settings: dict, _) -> float:
    """The share of episodes that go left, to rewards that are negative on average."""
    del settings["ties"]  # the policy has its own
    agent = td.QLAgent(world_of(worlds.biased), **settings)
    q_table, log = np.zeros(agent.q_table.shape), Experience.empty(3 * BIASED_EPISODES)
    q_table[0, 2:] = FORBIDDEN
    parameters = DoubleParameters(
        *agent.parameters()._replace(max_step=2), tables=np.zeros((2, *q_table.shape)), updates=np.zeros(1, np.int64)
    )
    table = agent.simulator.table.packed
    biased_rule(learner).kernel(q_table, table, agent.actions, parameters, 0, BIASED_EPISODES, log)
    return (log.recorded()[0] == 1).sum() / BIASED_EPISODES


MEASURES = {
    "RiverSwim": functools.partial(earned, worlds.river_swim),
    "SixArms": functools.partial(earned, worlds.six_arms),
    "deep_sea": sunk,
    "cliff walking": functools.partial(mean_return, 500),
    "figure": functools.partial(mean_return, 100),
    "windy gridworld": episodes_in_the_wind,
    "maximization bias": left_share,
    "Dyna maze": episodes_in_the_maze,
    "FrozenLake8x8": first_goal,
}
