"""How many steps until the policy is good? Dyna-Q beside Q-learning, SARSA and Q(λ), each at its best rate."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from numba.extending import register_jitable

import td_helpers as td
from beyond import DynaQAgent
from beyond.figures.until import (
    EACH_OF_THREE,
    LARGE_WITHIN,
    SPACING,
    WITHIN,
    clocked,
    exact_value,
    optimum,
    random_lake,
    until_good,
)
from figures.assignment import HALLWAY, LAKE
from figures.rows import Data, settings_of, where
from figures.study import experiment, spread
from figures.summaries import markdown
from tabular.kernels import greedy_value

LAKES = {  # by name: goal in steps, tolerance below the optimum, number of seeds
    HALLWAY: (10_000, WITHIN, 40),
    LAKE: (50_000, WITHIN, 40),
    "32x32": (500_000, WITHIN, 10),
    "64 x 64": (2_000_000, WITHIN, 10),
    "128 x 128": (6_000_000, WITHIN, 10),
    "256 x 256": (40_000_000, LARGE_WITHIN, 3),
}
LEARNERS = ("Dyna-Q", "Q-learning", "SARSA", "Q(λ)")
RATES = {"constant": (0.01, 0.03, 0.1, 0.2), "decaying": (0.6,)}  # a learning rate, or an exponent of 1 / visits
STARTS = (0, 1000)  # initial values
COMPARED = (HALLWAY, LAKE, "32x32")  # lakes for the other learners, which rarely arrive on larger ones
TRACE = 0.9  # λ, the decay of a trace per step


class TracingParameters(NamedTuple):
    """`Parameters`, plus the state that the rules below keep between steps."""

    epsilon: float
    learning_rate: float  # constant; if 0, the rate is visits ** -power
    beta: float
    max_step: int
    key: int
    power: float
    visits: np.ndarray  # int64, (states, actions)
    trace: np.ndarray  # int64, (64, 2): ring buffer of the last pairs; after 64 steps a trace is about 0.001
    latest: np.ndarray  # int64, (states, actions): a pair's last position in the trace
    ends: np.ndarray  # int64, (3,): the trace's begin and end, and the state expected next


@register_jitable
def rate_of(state, action, parameters):
    """Count a visit of a pair; return its learning rate."""
    parameters.visits[state, action] += 1
    if parameters.learning_rate > 0.0:
        return parameters.learning_rate
    return parameters.visits[state, action] ** -parameters.power


def decaying_q_learning(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Update as Q-learning does, with a constant or decaying rate."""
    target = reward if terminated else reward + parameters.beta * greedy_value(q_table[next_state], actions)
    q_table[state][action] += rate_of(state, action, parameters) * (target - q_table[state][action])


def decaying_sarsa(q_table, state, action, reward, next_state, next_action, terminated, actions, parameters):
    """Update as SARSA does, with a constant or decaying rate."""
    target = reward if terminated else reward + parameters.beta * q_table[next_state][next_action]
    q_table[state][action] += rate_of(state, action, parameters) * (target - q_table[state][action])


def q_lambda(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Update as Watkins's Q(λ) with replacing traces: non-greedy actions cut the trace (Sutton and Barto 12.10)."""
    trace, ends = parameters.trace, parameters.ends
    if state != ends[2] or q_table[state][action] < greedy_value(q_table[state], actions):
        ends[0] = ends[1]
    target = reward if terminated else reward + parameters.beta * greedy_value(q_table[next_state], actions)
    change = rate_of(state, action, parameters) * (target - q_table[state][action])
    trace[ends[1] % len(trace), 0], trace[ends[1] % len(trace), 1] = state, action
    parameters.latest[state, action] = ends[1]
    ends[1] += 1
    ends[0] = max(ends[0], ends[1] - len(trace))
    for i in range(ends[1] - 1, ends[0] - 1, -1):
        before, chosen = trace[i % len(trace)]
        if parameters.latest[before, chosen] == i:  # otherwise a later visit has updated the pair
            q_table[before][chosen] += change
        change *= parameters.beta * TRACE
    ends[2] = -1 if terminated else next_state


UPDATES = {"Q-learning": decaying_q_learning, "SARSA": decaying_sarsa, "Q(λ)": q_lambda}


@functools.cache
def rule_of(learner: str) -> td.Rule:
    """Return a learner's rule, compiled once per process."""
    rule = td.Rule(UPDATES[learner])
    rule.tried = True  # a rehearsal would leave its steps in the trace
    return rule


@experiment
def run(lakes=LAKES, compared=COMPARED, rates=RATES, starts=STARTS, epsilon=0.05, patience=50, batch_size=10):
    """Yield steps and seconds until each learner arrives; nan if it needs more than `patience` times the goal."""
    cases = []
    for lake, (_, _, seeds) in lakes.items():
        plans = [("Dyna-Q", "", np.nan, 1000)]
        if lake in compared:
            kinds = [(kind, rate) for kind in rates for rate in rates[kind]]
            plans += [(who, *kind, start) for who, kind, start in itertools.product(LEARNERS[1:], kinds, starts)]
        cases += [
            {"lake": lake, "learner": learner, "schedule": schedule, "rate": rate, "start": start, "seed": seed}
            for (learner, schedule, rate, start), seed in itertools.product(plans, range(seeds))
        ]
    yield from spread(dyna_run, cases, lakes=lakes, epsilon=epsilon, patience=patience, batch_size=batch_size)


def dyna_run(lake, learner, schedule, rate, start, seed, lakes, epsilon, patience, batch_size) -> list[dict]:
    """Learn until the policy is good; return steps and seconds, nan for never."""
    goal, within, _ = lakes[lake]
    env = td.FrozenLakeEnv(map_name=lake) if lake in td.MAPS else random_lake(int(lake.split()[0]), seed=100 + seed)
    if learner == "Dyna-Q":
        learning = functools.partial(dyna_learning, env, epsilon, start, seed, batch_size)
    else:
        learning = functools.partial(plain_learning, env, epsilon, start, seed, learner, schedule, rate)
    next(learning())  # compile before the clock starts
    _, held = until_good(
        clocked(learning()),
        exact_value(env),
        optimum(env) - within,
        EACH_OF_THREE,
        next_look=lambda _, steps: steps + SPACING * max(steps, goal),
        limit=(10 if learner == "Dyna-Q" else patience) * goal,
    )
    return [{name: held.get(name, np.nan) for name in ("steps", "seconds")}]


def dyna_learning(env, epsilon, start, seed, batch_size):
    """Yield (q_table, steps) after every batch of Dyna-Q."""
    agent = DynaQAgent(env, epsilon, seed=seed, initial_value=start, do_test=False, batch_size=batch_size)
    for _ in agent.learn_in_batches(10**9):
        yield agent.q_table, agent.steps


def plain_learning(env, epsilon, start, seed, learner, schedule, rate):
    """Yield (q_table, steps) of a model-free learner, after batches of growing size."""
    agent = td.QLAgent(env, epsilon, seed=seed, initial_value=start, do_test=False)
    q_table, rule = agent.q_table.copy(), rule_of(learner)
    parameters = TracingParameters(
        *agent.parameters()._replace(learning_rate=rate if schedule == "constant" else 0.0),
        power=rate,
        visits=np.zeros(q_table.shape, np.int64),
        trace=np.zeros((64, 2), np.int64),
        latest=np.zeros(q_table.shape, np.int64),
        ends=np.array([0, 0, -1]),
    )
    steps = episode = 0
    while True:
        count = max(5, episode // 100)
        steps += rule(q_table, env.table.packed, agent.actions, parameters, episode, count)
        episode += count
        yield q_table, steps


# Numbers


def until_there(rows: pd.DataFrame, column: str = "steps") -> float:
    """The median of the steps, or seconds, until arrival; infinite if at least half of the seeds never arrive."""
    return rows[column].fillna(np.inf).median()


def best_setting(data: Data, lake: str, learner: str) -> tuple[tuple, pd.DataFrame]:
    """The (schedule, rate, start) with the fewest steps, and its rows."""
    settings = where(data["dyna"], lake, learner).fillna({"rate": 0.0}).groupby(["schedule", "rate", "start"])
    return min(settings, key=lambda setting: until_there(setting[1]))


def advantage(data: Data, lake: str) -> float:
    """The ratio of the best other learner's median steps to Dyna-Q's, each at its best setting."""
    return 100 / percent_of_steps(data, lake)[0]


def percent_of_steps(data: Data, lake: str, resamples: int = 10_000) -> tuple:
    """Dyna-Q's median steps in percent of the best other learner's, each at its best setting: (percent, low, high).

    Resamples of the seeds choose the settings anew.
    """
    rows = where(data["dyna"], lake=lake).fillna({"rate": 0.0, "steps": np.inf})
    steps = rows.pivot(index=["learner", "schedule", "rate", "start"], columns="seed", values="steps")
    planned = steps.index.get_level_values("learner") == "Dyna-Q"
    drawn = np.random.default_rng(0).integers(steps.shape[1], size=(resamples, steps.shape[1]))

    def fewest(of: np.ndarray) -> np.ndarray:
        """The fewest median steps over settings, for the seeds as they are and for each resample."""
        return np.min([np.median(np.vstack([seeds, seeds[drawn]]), axis=1) for seeds in of], axis=0)

    percent, *resampled = 100 * fewest(steps[planned].to_numpy()) / fewest(steps[~planned].to_numpy())
    low, high = np.percentile(resampled, [2.5, 97.5], method="nearest")  # medians may be infinite
    return float(percent), float(low), float(high)


def slower(data: Data, lake: str) -> float:
    """The ratio of Dyna-Q's seconds to those of the fastest other learner at its fastest setting."""
    others = where(data["dyna"], lake=lake).query("learner != 'Dyna-Q'").fillna({"rate": 0.0, "seconds": np.inf})
    quickest = others.groupby(["learner", "schedule", "rate", "start"])["seconds"].median().min()
    return until_there(where(data["dyna"], lake, "Dyna-Q"), "seconds") / quickest


def table(data: Data) -> str:
    """A table of median steps and seconds until arrival, each learner at its best setting."""
    rows = []
    for lake, learner in itertools.product(settings_of(run)["lakes"], LEARNERS):
        if len(where(data["dyna"], lake, learner)):
            (schedule, rate, start), group = best_setting(data, lake, learner)
            steps, arrived = until_there(group), int(group["steps"].notna().sum())
            setting = f"{schedule} {rate:g}, from {start:g}" if schedule else f"from {start:g}"
            cells = ["never", ""]
            if np.isfinite(steps):
                cells = [f"{steps / 1e6:.3g}", f"{until_there(group, 'seconds'):.2g}"]
            rows.append([lake, learner, setting if arrived else "any", *cells, f"{arrived} of {len(group)}"])
    return markdown(["lake", "learner", "setting", "million steps", "seconds", "arrive"], rows)
