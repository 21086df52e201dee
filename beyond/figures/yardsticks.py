"""How do the agents do on yardsticks that others set? Published values, or those of the book's algorithms, and ours."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from numba.extending import register_jitable

import td_helpers as td
from beyond import DynaQAgent
from beyond.figures import dyna, worlds
from beyond.figures.until import EACH_OF_THREE, SPACING, WITHIN, exact_value, optimum, random_lake, until_good
from figures.assignment import HALLWAY, LAKE
from figures.rows import Data, where
from figures.study import experiment, spread
from figures.summaries import bootstrap, ci, markdown
from tabular.kernels import Experience, draw

HORIZON = 5_000  # steps of a task without an end
MOST_EPISODES = {"deep_sea": 10_000, "FrozenLake8x8": 20_000}  # after which a task counts as not solved
BAD = 0.8  # bsuite's deep sea is solved once less than this share of the episodes so far have missed the treasure
MAZE_LENGTH = 20.0  # the Dyna maze is solved once five episodes in a row take at most this on average; at best 14
LONG = 10**6  # steps: more than an episode ever takes
BIASED_EPISODES = 300
SIZES = (10, 20, 30, 40, 50)  # of the deep sea

ENDLESS = {"epsilon": 0.0, "beta": 0.95, "continuing": True, "max_step": 10, "keep_returns": True}
BOOK = {"epsilon": 0.1, "beta": 1.0, "max_step": LONG, "keep_returns": True}
MAZE = {"epsilon": 0.1, "learning_rate": 0.1, "beta": 0.95, "initial_value": 0.0, "max_step": LONG}
SEA = {"epsilon": 0.0, "initial_value": 1.0, "max_step": LONG, "keep_returns": True}
EPISODE = {"batch_size": 1}  # Dyna-Q plans after every episode, or part of one

LAKES = {HALLWAY: 40, LAKE: 40, "32x32": 20, "64 x 64": 10}  # the number of seeds by lake, as in `dyna`

# By task and learner: the seeds, and the learner's settings. The settings of RiverSwim and SixArms were tuned on the
# seeds from 100,000 on.
TASKS = {
    "RiverSwim": {
        "Q-learning (optimistic)": (200, {"learning_rate": 0.2, "initial_value": 5e3} | ENDLESS),
        "Dyna-Q": (200, {"initial_value": 1e6} | ENDLESS | EPISODE),
        "Dyna-Q (prior 0.01)": (200, {"prior": 0.01, "initial_value": 1e5} | ENDLESS | EPISODE),
        "Dyna-Q (prior 0.1)": (200, {"prior": 0.1, "initial_value": 2e4} | ENDLESS | EPISODE),
    },
    "SixArms": {
        "Q-learning (optimistic)": (200, {"learning_rate": 0.003, "initial_value": 2e4} | ENDLESS),
        "Dyna-Q": (200, {"initial_value": 1e5} | ENDLESS | EPISODE),
        "Dyna-Q (prior 0.01)": (200, {"prior": 0.01, "initial_value": 3e6} | ENDLESS | EPISODE),
        "Dyna-Q (prior 0.1)": (200, {"prior": 0.1, "initial_value": 6e5} | ENDLESS | EPISODE),
    },
    **{
        f"deep_sea {size}": {
            "Q-learning (optimistic)": (20, {"learning_rate": 1.0} | SEA),
            "Dyna-Q": (20, SEA | EPISODE),
            "Dyna-Q (epsilon 0.05)": (20, SEA | EPISODE | {"epsilon": 0.05}),
            "Dyna-Q (prior 0.01)": (20, {"prior": 0.01} | SEA | EPISODE),
        }
        for size in SIZES
    },
    "cliff walking": {name: (200, {"learning_rate": 0.5} | BOOK) for name in ("Q-learning", "SARSA")},
    **{
        f"figure 6.3 (rate {rate:g})": {
            name: (200, {"learning_rate": rate} | BOOK) for name in ("Q-learning", "SARSA", "Expected SARSA")
        }
        for rate in (0.1, 0.5, 1.0)
    },
    "windy gridworld": {"SARSA": (400, {"learning_rate": 0.5} | BOOK)},
    "maximization bias": {
        name: (2_000, {"learning_rate": 0.1, "epsilon": 0.1, "beta": 1.0})
        for name in ("Q-learning", "Double Q-learning")
    },
    "Dyna maze": {
        f"Dyna-Q ({steps} planning steps)": (100, {"planning_steps": steps} | MAZE | EPISODE) for steps in (0, 5, 50)
    },
    **{
        lake: {
            "Dyna-Q" if prior == 0 else f"Dyna-Q (prior {prior:g})": (seeds, {"epsilon": 0.05, "prior": prior})
            for prior in (0.0, 0.01, 0.1)
        }
        for lake, seeds in LAKES.items()
    },
    "FrozenLake8x8": {
        f"Q-learning (ties {ties})": (100, {"ties": ties, "max_step": 200, "keep_returns": True})
        for ties in ("lowest", "random")
    },
}


# What is published, in the unit of the task. RiverSwim and SixArms: the best of E3, R-max, MBIE and OIM, as Szita and
# Lorincz (2008) report it. The maze: Sutton and Barto 8.2, in words. The others: means of Shangtong Zhang's code for
# the book's figures (commit 96bc203), run for as many episodes as ours: 108 runs on the cliff, 46 of figure 6.3, 139 in
# the wind, 2,027 with the bias. Its Expected SARSA chooses an action before an update, ours, as the book's, after it.
PUBLISHED = {
    "RiverSwim": dict.fromkeys(TASKS["RiverSwim"], 3.201),
    "SixArms": dict.fromkeys(TASKS["SixArms"], 10.007),
    "windy gridworld": {"SARSA": 161.0},
    "maximization bias": {"Q-learning": 0.381, "Double Q-learning": 0.116},
    "cliff walking": {"Q-learning": -56.3, "SARSA": -36.9},
    "figure 6.3 (rate 0.1)": {"Q-learning": -150.0, "SARSA": -140.1, "Expected SARSA": -136.5},
    "figure 6.3 (rate 0.5)": {"Q-learning": -81.3, "SARSA": -71.0, "Expected SARSA": -58.2},
    "figure 6.3 (rate 1)": {"Q-learning": -76.1, "SARSA": -73.6, "Expected SARSA": -45.4},
    "Dyna maze": {
        "Dyna-Q (0 planning steps)": 25.0,
        "Dyna-Q (5 planning steps)": 5.0,
        "Dyna-Q (50 planning steps)": 3.0,
    },
}


OF_THE_BOOK = "cliff", "figure", "windy", "maximization"  # the tasks that are compared with that code


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
    settings = {"ties": "random", "do_test": False, "seed": seed} | tasks[task][learner][1]
    measure = MEASURES.get(task) or MEASURES[task.partition(" ")[0]]
    return [{"value": measure(task, learner, settings)}]


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
    return AGENTS[learner.partition(" (")[0]](world, **settings)


def earned(make, task: str, learner: str, settings: dict) -> float:
    """The total reward of the first steps in a world without an end, in millions."""
    agent = agent_of(learner, world_of(make), settings)
    agent.learn(HORIZON // settings["max_step"])
    return agent.returns.sum() / 1e6


def sunk(task: str, learner: str, settings: dict) -> float:
    """The episodes until bsuite counts the deep sea as solved."""
    size = int(task.partition(" ")[2])
    agent = agent_of(learner, worlds.deep_sea(size, settings["seed"]), settings)
    while agent.episode < MOST_EPISODES["deep_sea"]:
        agent.learn(size)
        bad = np.cumsum(agent.returns < 0.5) / np.arange(1, agent.episode + 1)
        if (bad < BAD).any():
            return 1 + np.argmax(bad < BAD)
    return np.nan


def mean_return(episodes: int, task: str, learner: str, settings: dict) -> float:
    """The mean return of the first episodes on the cliff."""
    agent = agent_of(learner, world_of(worlds.cliff), settings)
    agent.learn(episodes)
    return agent.returns.mean()


def episodes_in_the_wind(task: str, learner: str, settings: dict) -> float:
    """The episodes that are over after 8,000 steps, each of which costs 1."""
    agent = agent_of(learner, world_of(worlds.windy), settings)
    agent.learn(600)
    return np.searchsorted(np.cumsum(-agent.returns), 8_000, side="right")


def episodes_in_the_maze(task: str, learner: str, settings: dict) -> float:
    """The first episode of the first five in a row that are short."""
    agent = agent_of(learner, world_of(worlds.dyna_maze), settings)
    ends = [0, *(agent.steps for _ in agent.learn_in_batches(200))]
    means = np.convolve(np.diff(ends), np.full(5, 0.2), mode="valid")
    return 1 + np.argmax(means <= MAZE_LENGTH) if (means <= MAZE_LENGTH).any() else np.nan


def first_goal(task: str, learner: str, settings: dict) -> float:
    """The first episode that reaches the goal of the 8x8 lake."""
    agent = agent_of(learner, world_of(worlds.frozen_lake_8x8), settings)
    while agent.episode < MOST_EPISODES["FrozenLake8x8"]:
        agent.learn(1_000)
        if agent.returns.any():
            return 1 + np.argmax(agent.returns > 0)
    return np.nan


def steps_to_the_optimum(task: str, learner: str, settings: dict) -> float:
    """Million steps until a lake's policy stays near the optimum."""
    lake = td.FrozenLakeEnv(map_name=task) if task in td.MAPS else random_lake(64, seed=100 + settings["seed"])
    agent, goal = agent_of(learner, lake, settings | {"ties": "lowest"}), dyna.LAKES[task][0]
    _, held = until_good(
        ({"q_table": agent.q_table, "steps": agent.steps} for _ in agent.learn_in_batches(10**9)),
        exact_value(lake),
        optimum(lake) - WITHIN,
        EACH_OF_THREE,
        next_look=lambda _, steps: steps + SPACING * max(steps, goal),
        limit=10 * goal,
    )
    return held.get("steps", np.nan) / 1e6


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
    rule = td.Rule(td.q_learning_update if learner == "Q-learning" else double_q_learning, policy=among_allowed)
    rule.tried = True  # a rehearsal would change the second table
    return rule


def left_share(task: str, learner: str, settings: dict) -> float:
    """The share of episodes that go left, to rewards that are negative on average."""
    del settings["ties"]  # the policy has its own
    agent = td.QLAgent(world_of(worlds.biased), **settings)
    q_table, log = np.zeros(agent.q_table.shape), Experience.empty(3 * BIASED_EPISODES)
    q_table[0, 2:] = FORBIDDEN
    parameters = DoubleParameters(
        *agent.parameters()._replace(max_step=2), tables=np.zeros((2, *q_table.shape)), updates=np.zeros(1, np.int64)
    )
    table = agent.simulator.table.packed
    biased_rule(learner)(q_table, table, agent.actions, parameters, 0, BIASED_EPISODES, log)
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
    **dict.fromkeys(LAKES, steps_to_the_optimum),
}


# Numbers


def scores(data: Data, task: str, learner: str) -> pd.Series:
    """The scores of a learner in a task, one per seed."""
    return where(data["yardsticks"], task=task, learner=learner)["value"]


def mean(data: Data, task: str, learner: str) -> tuple:
    """The mean score over seeds, with its interval."""
    return bootstrap(scores(data, task, learner))


def solved(data: Data, task: str, learner: str) -> float:
    """The share of seeds that solve a task."""
    return scores(data, task, learner).notna().mean()


def against_published(data: Data, task: str, learner: str) -> tuple:
    """The mean score less the published one, with its interval."""
    return tuple(one - PUBLISHED[task][learner] for one in mean(data, task, learner))


def furthest_from_the_book(data: Data) -> float:
    """The largest deviation from the public code for the book's figures, as a share of what it gives."""
    ours = [(task, name) for task in PUBLISHED if task.startswith(OF_THE_BOOK) for name in PUBLISHED[task]]
    return max(abs(against_published(data, *one)[0] / PUBLISHED[one[0]][one[1]]) for one in ours)


def best_possible(make) -> float:
    """The most that a task without an end pays on average, in millions."""
    table = world_of(make).table
    values = np.zeros(len(table.start))
    for _ in range(HORIZON):
        values = (table.probability * (table.reward + values[table.next_state])).sum(axis=-1).max(axis=-1)
    return float(table.start @ values) / 1e6


def cost_of_prior(data: Data, lake: str, prior: float) -> tuple:
    """How many times the steps Dyna-Q needs on a lake with a prior: geometric mean over the seeds that arrive."""
    without, with_it = (scores(data, lake, name).to_numpy() for name in ("Dyna-Q", f"Dyna-Q (prior {prior:g})"))
    ratios = with_it / without
    return tuple(np.exp(bootstrap(np.log(ratios[~np.isnan(ratios)]))))


def lost_with_prior(data: Data, lake: str, prior: float) -> int:
    """How many seeds do not arrive on a lake with a prior."""
    return int(scores(data, lake, f"Dyna-Q (prior {prior:g})").isna().sum())


def cell(values: pd.Series) -> str:
    """A mean with its interval and three digits, or how many seeds solve the task if not all do."""
    if values.isna().any():
        return f"{values.notna().sum()} solve it"
    decimals = max(0, 2 - int(np.floor(np.log10(abs(values.mean())))))
    return ci(values, decimals)


def table(data: Data) -> str:
    """A table of all tasks but the lakes: what is published, what we measure, and the deviation."""
    rows = []
    for task, learners in TASKS.items():
        if task in LAKES or task.startswith("deep_sea"):
            continue
        for learner in learners:
            values, published = scores(data, task, learner), PUBLISHED.get(task, {}).get(learner)
            known = published is not None
            deviation = f"{(values.mean() - published) / abs(published):+.1%}" if known and values.notna().all() else ""
            name = learner.replace(" planning steps", " a step")
            rows.append([task, name, f"{published:g}" if known else "", cell(values), deviation, f"{len(values)}"])
    for learner in TASKS["deep_sea 10"]:
        by_size = [scores(data, f"deep_sea {size}", learner) for size in SIZES]
        means = ", ".join(f"{values.mean():.0f}" for values in by_size)
        rows.append([f"deep_sea {SIZES[0]} to {SIZES[-1]}", learner, "", means, "", f"{len(by_size[0])}"])
    return markdown(["task", "learner", "published", "ours", "differs", "seeds"], rows)
