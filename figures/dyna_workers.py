"""Do more workers of Dyna-Q need fewer steps each? On lakes that were not used to tune it."""

from __future__ import annotations

import itertools

import pandas as pd

import td_helpers as td
from beyond import DistributedDynaQAgent
from figures.dyna import HOLES, WITHIN, arrival, steps_until_there
from figures.experiments import spread
from figures.rows import Data, settings_of, where
from figures.summaries import markdown

SIDES = {64: 2_000_000, 128: 6_000_000}  # side of a lake: goal in steps, of one worker
BATCH_SIZES = {1: 10, 4: 10, 16: 4, 64: 1, 256: 1}  # workers: episodes of a worker in a round


def run(counts=tuple(BATCH_SIZES), batch_sizes=BATCH_SIZES, sides=SIDES, maps=(201, 202, 203), seeds=2, epsilon=0.05):
    """Steps of all workers together until their policy is good, played in one process."""
    cases = [
        {"side": side, "map_seed": lake, "workers": count, "seed": seed, "epsilon": epsilon}
        for side, count, lake, seed in itertools.product(sides, counts, maps, range(seeds))
    ]
    yield from spread(workers_run, cases, "dyna_workers")


def workers_run(side, map_seed, workers, seed, epsilon) -> list[dict]:
    """When so many workers arrive."""
    env = td.FrozenLakeEnv(td.generate_map((side, side), HOLES, seed=map_seed))
    steps, _ = arrival(env, learning(env, workers, seed, epsilon), WITHIN, SIDES[side], 10 * SIDES[side])
    return [{"side": side, "map_seed": map_seed, "workers": workers, "seed": seed, "steps": steps}]


def learning(env, workers: int, seed: int, epsilon: float):
    """Yield (q_table, steps) after every round."""
    agent = DistributedDynaQAgent(
        env, epsilon, seed=seed, do_test=False, cw_num=workers, batch_size=BATCH_SIZES[workers], workers=td.InProcess()
    )
    for _ in agent.learn_in_batches(10**9):
        yield agent.q_table, agent.steps


# Numbers


def runs(data: Data, side: int, workers: int) -> pd.DataFrame:
    """The rows of a number of workers, one for each lake and seed."""
    return where(data["dyna_workers"], side=side, workers=workers)


def millions(data: Data, side: int, workers: int) -> float:
    """Million steps of all workers together: the median."""
    return steps_until_there(runs(data, side, workers)) / 1e6


def gain(data: Data, side: int, workers: int) -> float:
    """How many times fewer steps one of the workers needs than one alone: a ratio of medians."""
    return workers * steps_until_there(runs(data, side, 1)) / steps_until_there(runs(data, side, workers))


def table(data: Data) -> str:
    """Steps in all and a worker, and how many times fewer these are than one worker's alone."""
    rows = []
    for side, count in itertools.product(settings_of(run)["sides"], BATCH_SIZES):
        group = runs(data, int(side), count)
        steps = steps_until_there(group)
        spread = f"{group['steps'].min() / 1e6:.3g} to {group['steps'].max() / 1e6:.3g}"
        arrived = f"{group['steps'].notna().sum()} of {len(group)}"
        cells = [f"{steps / 1e6:.3g} ({spread})", f"{steps / 1e6 / count:.3g}", f"{gain(data, int(side), count):.1f}"]
        rows.append([f"{side} x {side}", f"{count}", *cells, arrived])
    head = ["lake", "workers", "million steps in all", "a worker", "times fewer", "arrive"]
    return markdown(head, rows)


# Picture


def steps_a_worker(data: Data):
    """Steps a worker by the number of workers: the median and all runs, beside what would be ideal."""
    import matplotlib.pyplot as plt

    counts = list(BATCH_SIZES)
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True, layout="constrained")
    for axes, side in zip(panels, settings_of(run)["sides"], strict=True):
        medians = [steps_until_there(runs(data, int(side), count)) / count for count in counts]
        for count in counts:
            steps = runs(data, int(side), count)["steps"] / count
            axes.plot([count] * len(steps), steps, ".", color=td.color_of("Dyna-Q"), alpha=0.4)
        axes.plot(counts, medians, "o-", color=td.color_of("Dyna-Q"), label="median of 3 lakes, 2 seeds each")
        axes.plot(counts, [medians[0] / count for count in counts], "k--", label="one alone, divided")
        axes.set(xscale="log", yscale="log", xticks=counts, xticklabels=counts, xlabel="workers")
        axes.set_title(f"{side} x {side}", fontsize=10)
    panels[0].set_ylabel(f"steps a worker until within {WITHIN} of the optimum")
    panels[0].legend()
    return figure
