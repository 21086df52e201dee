"""Who has a good policy sooner by the clock? Q-learning and Dyna-Q, alone and with collectors, on three simulators."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent
from figures.dyna import IN_A_ROW, WITHIN
from figures.experiments import LAKE, SINGLE, lake_of, start_ray
from figures.rows import Data, settings_of, where
from figures.slow import Slow
from figures.summaries import markdown, median_range

LEARNERS = {
    "Q-learning": (td.QLAgent, td.DistributedQLAgent),
    "Dyna-Q": (DynaQAgent, DistributedDynaQAgent),
}
SIMULATORS = {"compiled": 0, "stepped": 0, "waits": 200}  # microseconds that a step waits
LEARNING = {  # the rates with which each arrives, from 1000; episodes of a batch, and of all batches at most
    "Q-learning": {"learning_rate": 0.1, "batch_size": 20, "episodes": 20_000},
    "Dyna-Q": {"learning_rate": 0.1, "batch_size": 2, "episodes": 3_000},
}


def run(repetitions=5, collectors=(SINGLE, 2, 4, 8), simulators=SIMULATORS, learning=LEARNING, epsilon=0.05):
    """Seconds until within the optimum, one run at a time; the machine should be otherwise idle."""
    start_ray()
    with td.Workers(max(collectors), 0) as workers:
        cases = list(itertools.product(range(repetitions), simulators, learning, collectors))
        for seed, simulator, learner, count in tqdm(cases, desc="dyna_clock", unit="run"):
            if seed == 0:
                make(simulator, learner, count, seed, epsilon, workers).learn(count * 2 or 2)  # to warm up
            agent = make(simulator, learner, count, seed, epsilon, workers)
            steps, seconds = timed(agent, learning[learner]["episodes"])
            yield {
                "simulator": simulator,
                "learner": learner,
                "collectors": count,
                "seed": seed,
                "steps": steps,
                "seconds": seconds,
            }


def make(simulator, learner, collectors, seed, epsilon, workers):
    """An agent that has learned nothing."""
    alone, distributed = LEARNERS[learner]
    lake, settings = lake_of(LAKE), {"seed": seed, "initial_value": 1000.0, "do_test": False}
    env = Slow(lake, SIMULATORS[simulator] * 1e-6) if SIMULATORS[simulator] else lake
    settings |= {"compiled": simulator == "compiled", "learning_rate": LEARNING[learner]["learning_rate"]}
    if collectors != SINGLE:
        settings |= {"cw_num": collectors, "ew_num": 0, "workers": workers}
    if collectors != SINGLE or learner == "Dyna-Q":
        settings["batch_size"] = LEARNING[learner]["batch_size"]
    return (alone if collectors == SINGLE else distributed)(env, epsilon, **settings)


def timed(agent, episodes: int) -> tuple[float, float]:
    """(steps, seconds) until the policy is within the optimum to stay; evaluated when the clock has stopped."""
    record, start = [], time.perf_counter()
    for _ in batches(agent, episodes):
        record.append((time.perf_counter() - start, agent.steps, np.array(agent.q_table)))
    lake = lake_of(LAKE)
    best, reached, due, arrived = td.value_iteration(lake.table)[0].max(), 0, 0.0, (math.nan, math.nan)
    for seconds, steps, q_table in record:
        if steps < due:
            continue
        due = steps * 1.02 + 1000
        good = td.policy_value(lake.table, q_table)[0] >= best - WITHIN
        reached, arrived = (reached + 1, arrived if reached else (steps, seconds)) if good else (0, arrived)
        if reached == IN_A_ROW:
            return arrived
    return math.nan, math.nan


def batches(agent, episodes: int):
    """Learn, and stop after every batch."""
    if hasattr(agent, "learn_in_batches"):
        yield from agent.learn_in_batches(episodes)
    else:
        for _ in range(episodes // 20):
            yield agent.learn(20)


# Numbers


def runs(data: Data, simulator: str, learner: str, collectors: int) -> pd.DataFrame:
    """The rows of a setting, one for each seed."""
    return where(data["dyna_clock"], simulator=simulator, learner=learner, collectors=collectors)


def table(data: Data) -> str:
    """Seconds until there, by simulator, learner and collectors."""
    settings = settings_of(run)
    rows = []
    for simulator, learner in itertools.product(SIMULATORS, LEARNERS):
        groups = [runs(data, simulator, learner, count)["seconds"] for count in settings["collectors"]]
        rows.append([f"{simulator}, {learner}", *(median_range(group.fillna(math.inf)) for group in groups)])
    names = ["single core" if count == SINGLE else f"{count} collectors" for count in settings["collectors"]]
    return markdown(["", *names], rows)
