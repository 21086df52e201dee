"""A thousand workers of Dyna-Q on lakes that are large enough for them: do they need fewer steps each?"""

from __future__ import annotations

import math

import pandas as pd

import td_helpers as td
from beyond import DistributedDynaQAgent
from figures.dyna import HOLES, IN_A_ROW
from figures.experiments import spread
from figures.rows import Data, where
from figures.summaries import markdown

WITHIN = 200  # the target: the exact value of the start is so close to the optimum
LOOK = 0.02  # between evaluations: this share of the steps so far
LOST = 300  # a policy that falls short of the target by more in three trials is not solved for exactly
CASES = ((256, 1, 10), (256, 256, 2), (256, 1024, 2), (512, 1, 10), (512, 1024, 2))  # side, workers, episodes of each
LARGEST = 512  # the side of the lake that the report speaks of


def run(cases=CASES, map_seed=401, epsilon=0.05, seed=0, max_step=5_000, most=5 * 10**9):
    """Steps, rounds, planning and bytes until the policy is good, for each number of workers, played in one process.

    The shortest path on the larger lake has 1,022 moves, so an episode must not end after 1000.
    """
    settings = {"map_seed": map_seed, "epsilon": epsilon, "seed": seed, "max_step": max_step, "most": most}
    cases = [settings | {"side": side, "workers": workers, "batch_size": size} for side, workers, size in cases]
    yield from spread(large_run, cases, "dyna_large")


def large_run(side, map_seed, workers, batch_size, epsilon, seed, max_step, most) -> list[dict]:
    """When so many workers arrive; nan where they have not after `most` steps."""
    env = td.FrozenLakeEnv(td.generate_map((side, side), HOLES, seed=map_seed))
    target = td.value_iteration(env.table)[0].max() - WITHIN
    settings = {"cw_num": workers, "batch_size": batch_size, "max_step": max_step, "workers": td.InProcess()}
    agent = DistributedDynaQAgent(env, epsilon, seed=seed, do_test=False, **settings)
    good, due, arrived = 0, 0.0, (math.nan,) * 5
    for rounds, _ in enumerate(agent.learn_in_batches(10**9), 1):
        if agent.steps < due:
            continue
        due = agent.steps * (1 + LOOK)
        if value_of(agent, target) < target:
            good = 0
        else:
            good += 1
            if good == 1:
                arrived = agent.steps, rounds, agent.cost.replay, agent.cost.collect, agent.cost.bytes
        if good == IN_A_ROW or agent.steps > most:
            break
    names = "steps", "rounds", "planning_seconds", "acting_seconds", "bytes"
    found = dict(zip(names, arrived if good == IN_A_ROW else (math.nan,) * 5, strict=True))
    return [{"side": side, "workers": workers, "batch_size": batch_size, "seed": seed, **found}]


def value_of(agent, target: float) -> float:
    """The exact value of the greedy policy; where three trials say that it is hopeless, their mean."""
    rough = agent.evaluate(trials=3, max_steps=20 * agent.simulator.nrow)
    if rough < target - LOST:
        return rough
    return float(td.policy_value(agent.simulator.table, agent.q_table)[0])


# Numbers


def row(data: Data, workers: int) -> pd.Series:
    """What was found for so many workers on the largest lake."""
    return where(data["dyna_large"], side=LARGEST, workers=workers).iloc[0]


def fewer(data: Data, workers: int = 1024) -> float:
    """How many times fewer steps a worker needs there than one alone."""
    return row(data, 1)["steps"] / (row(data, workers)["steps"] / workers)


def table(data: Data) -> str:
    """Steps, and what they cost, by the number of workers."""
    rows = [
        [f"{row.side} x {row.side}, {row.workers:,}", f"{row.batch_size}", f"{row.rounds:,.0f}",
         f"{row.steps / 1e6:,.0f}", f"{row.steps / row.workers / 1e6:.3g}", f"{row.planning_seconds:.0f}",
         f"{row.acting_seconds:.0f}", f"{row.bytes / 1e6:,.0f}"]
        for row in data["dyna_large"].itertuples()
    ]  # fmt: skip
    head = ["lake, workers", "episodes", "rounds", "million steps", "a worker", "planning, s", "acting, s", "MB"]
    return markdown(head, rows)
