"""A thousand workers of Dyna-Q on lakes that are large enough for them: do they need fewer steps each?"""

from __future__ import annotations

import numpy as np
import pandas as pd

import td_helpers as td
from beyond import DistributedDynaQAgent
from beyond.figures.until import EACH_OF_THREE, LARGE_WITHIN, SPACING, optimum, random_lake, rough_value, until_good
from figures.rows import Data, where
from figures.study import experiment, spread
from figures.summaries import markdown

HOPELESS = 300  # a policy that falls short of the target by more in three trials is not solved for exactly
CASES = ((256, 1, 10), (256, 256, 2), (256, 1024, 2), (512, 1, 10), (512, 1024, 2))  # side, workers, episodes of each
LARGEST = 512  # the side of the lake that the report speaks of


@experiment(timed=True)
def run(cases=CASES, map_seed=401, epsilon=0.05, seed=0, max_step=5_000, most=5 * 10**9):
    """Steps, rounds, planning and bytes until the policy is good, for each number of workers, played in one process.

    The shortest path on the larger lake has 1,022 moves, so an episode must not end after 1000.
    """
    cases = [{"side": side, "workers": count, "batch_size": size, "seed": seed} for side, count, size in cases]
    yield from spread(large_run, cases, map_seed=map_seed, epsilon=epsilon, max_step=max_step, most=most)


def large_run(side, workers, batch_size, seed, map_seed, epsilon, max_step, most) -> list[dict]:
    """Learn until the policy is good; return steps and costs, nan after `most` steps without."""
    env = random_lake(side, map_seed)
    target = optimum(env) - LARGE_WITHIN
    settings = {"cw_num": workers, "batch_size": batch_size, "max_step": max_step, "workers": td.InProcess()}
    agent = DistributedDynaQAgent(env, epsilon, seed=seed, do_test=False, **settings)
    _, held = until_good(
        moments_of(agent),
        rough_value(agent, target, trials=3, hopeless=HOPELESS, max_steps=20 * side),
        target,
        EACH_OF_THREE,
        next_look=lambda _, steps: steps * (1 + SPACING),
        limit=most,
    )
    names = "steps", "rounds", "planning_seconds", "acting_seconds", "bytes"
    return [{name: held.get(name, np.nan) for name in names}]


def moments_of(agent):
    """Yield the steps and costs of learning after each round."""
    for rounds, _ in enumerate(agent.learn_in_batches(10**9), 1):
        cost = agent.cost
        yield {
            "steps": agent.steps,
            "rounds": rounds,
            "planning_seconds": cost.replay,
            "acting_seconds": cost.collect,
            "bytes": cost.bytes,
        }


# Numbers


def row(data: Data, workers: int) -> pd.Series:
    """The row of `workers` workers on the largest lake."""
    return where(data["dyna_large"], side=LARGEST, workers=workers).iloc[0]


def fewer(data: Data, workers: int = 1024) -> float:
    """How many times fewer steps each worker needs there than one alone."""
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
