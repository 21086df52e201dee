"""Do more workers of Dyna-Q need fewer steps each? On lakes that were not used to tune it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from beyond import DistributedDynaQAgent
from beyond.figures.until import EACH_OF_THREE, SPACING, WITHIN, exact_value, optimum, random_lake, until_good
from figures.rows import Data, where
from figures.study import experiment, spread
from figures.summaries import markdown

SIDES = {64: 2_000_000, 128: 6_000_000}  # side of a lake: goal in steps, of one worker
BATCH_SIZES = {1: 10, 4: 10, 16: 4, 64: 1, 256: 1}  # workers: episodes of a worker in a round


@experiment
def run(counts=tuple(BATCH_SIZES), batch_sizes=BATCH_SIZES, sides=SIDES, maps=(201, 202, 203), seeds=2, epsilon=0.05):
    """Steps of all workers together until their policy is good, played in one process."""
    cases = [
        {"side": side, "map_seed": lake, "workers": count, "seed": seed}
        for side, count, lake, seed in itertools.product(sides, counts, maps, range(seeds))
    ]
    yield from spread(workers_run, cases, batch_sizes=batch_sizes, sides=sides, epsilon=epsilon)


def workers_run(side, map_seed, workers, seed, batch_sizes, sides, epsilon) -> list[dict]:
    """Learn until the policy is good; return the steps, nan for never."""
    env = random_lake(side, map_seed)
    agent = DistributedDynaQAgent(
        env, epsilon, seed=seed, do_test=False, cw_num=workers, batch_size=batch_sizes[workers], workers=td.InProcess()
    )
    moments = ({"q_table": agent.q_table, "steps": agent.steps} for _ in agent.learn_in_batches(10**9))
    _, held = until_good(
        moments,
        exact_value(env),
        optimum(env) - WITHIN,
        EACH_OF_THREE,
        next_look=lambda _, steps: steps + SPACING * max(steps, sides[side]),
        limit=10 * sides[side],
    )
    return [{"steps": held.get("steps", np.nan)}]


# Numbers


def steps_of(data: Data, side: int, workers: int) -> pd.Series:
    """The steps of all workers together, one for each lake and seed; nan where they do not arrive."""
    return where(data["dyna_workers"], side=side, workers=workers)["steps"]


def millions(data: Data, side: int, workers: int) -> float:
    """Million steps of all workers together: the median."""
    return steps_of(data, side, workers).fillna(np.inf).median() / 1e6


def gain(data: Data, side: int, workers: int) -> float:
    """How many times fewer steps one of the workers needs than one alone: a ratio of medians."""
    return workers * millions(data, side, 1) / millions(data, side, workers)


def table(data: Data) -> str:
    """Steps of all workers and per worker, and how many times fewer these are than one worker's alone."""
    rows = []
    for side, count in itertools.product(SIDES, BATCH_SIZES):
        steps, million = steps_of(data, side, count), millions(data, side, count)
        spread = f"{steps.min() / 1e6:.3g} to {steps.max() / 1e6:.3g}"
        cells = [f"{million:.3g} ({spread})", f"{million / count:.3g}", f"{gain(data, side, count):.1f}"]
        rows.append([f"{side} x {side}", f"{count}", *cells, f"{steps.notna().sum()} of {len(steps)}"])
    head = ["lake", "workers", "million steps in all", "a worker", "times fewer", "arrive"]
    return markdown(head, rows)
