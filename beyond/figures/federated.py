"""Do workers that learn for themselves beat a single core? On lakes of growing size, against the clock."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import td_helpers as td
from beyond import FederatedQLAgent
from beyond.figures.until import LARGE_WITHIN, MEAN_OF_FIVE, exact_value, optimum, random_lake, until_good
from figures import timing
from figures.assignment import SINGLE
from figures.break_even import crossing
from figures.rows import Data, seeds, settings_of, where
from figures.study import experiment, picture, start_ray
from figures.summaries import bootstrap, interval, markdown

SIDES = {16: 600, 32: 2_000, 64: 12_000, 128: 80_000}  # side of a lake: episodes of a round, and between evaluations
STRICT = 50  # a stricter target: so close to the optimum
COUNTS = (SINGLE, 2, 4)
NAMES = {SINGLE: "one core", 2: "2 workers", 4: "4 workers"}
STYLES = {SINGLE: (td.COLORS["Q-learning"], "-"), 2: (td.COLORS["Federated"], "-"), 4: ("#7a3b5e", ":")}


@experiment(timed=True)
def run(seeds=10, counts=COUNTS, sides=SIDES, rate=0.01, epsilon=0.05, holes=0.08, map_seed=1, rounds=24):
    """Wall-clock time and exact values, on a single core and with federated workers."""
    start_ray()
    with td.Workers(max(counts), 0) as workers:
        settings = {"rate": rate, "epsilon": epsilon, "workers": workers}
        for side, count in itertools.product(sides, counts):  # once each to warm up
            timed_rounds(random_lake(side, map_seed, holes), count, 2, sides[side], seed=0, **settings)
        cases = list(itertools.product(sides, range(seeds), counts))
        for side, seed, count in tqdm(cases, desc="federated", unit="run"):
            lake = random_lake(side, map_seed, holes)
            moments = timed_rounds(lake, count, rounds, sides[side], seed=seed, **settings)
            with concurrent.futures.ThreadPoolExecutor() as pool:  # solving takes a while
                values = list(pool.map(exact_value(lake), moments))
            for i, (moment, value) in enumerate(zip(moments, values, strict=True), 1):
                del moment["q_table"]
                setting = {"side": side, "workers": count, "seed": seed, "episode": i * sides[side]}
                yield setting | moment | {"value": value}


def timed_rounds(lake, count, rounds, episodes, rate, epsilon, seed, workers) -> list[dict]:
    """The seconds, steps and q_table after every round of `episodes` episodes."""
    settings = {"do_test": False, "seed": seed}
    if count == SINGLE:
        agent = td.QLAgent(lake, epsilon, rate, rounds * episodes, **settings)
        learning = (agent.learn(episodes) for _ in range(rounds))  # lazily, one round at a time
    else:
        settings |= {"cw_num": count, "ew_num": 0, "batch_size": episodes // count, "workers": workers}
        agent = FederatedQLAgent(lake, epsilon, rate, rounds * episodes, **settings)
        learning = agent.learn_in_batches(rounds * episodes)
    moments = []
    start = time.perf_counter()
    for _ in learning:
        moments.append({"steps": agent.steps, "seconds": time.perf_counter() - start, "q_table": agent.q_table})
    return moments


# Numbers


class Speedup(NamedTuple):
    """speed_up = workers * hardware * statistics; each is (geometric mean over seeds, low, high)."""

    speed_up: tuple
    hardware: tuple  # steps per second and worker, relative to the single core
    statistics: tuple  # steps that the single core needs, relative to theirs


@functools.cache
def best_on(side: int) -> float:
    """The exact optimum of the experiment's lake of this size."""
    settings = settings_of(run)
    return optimum(random_lake(side, settings["map_seed"], settings["holes"]))


def climbs(data: Data, side: int, workers: int, within: float = LARGE_WITHIN) -> pd.DataFrame:
    """Seconds, steps and episodes until the target is held, for the seeds that hold it."""
    target = best_on(side) - within
    found = {}
    for seed, rows in where(data["federated"], side=side, workers=workers).groupby("seed"):
        moments = rows[["seconds", "steps", "episode", "value"]].to_dict("records")
        _, held = until_good(moments, lambda moment: moment["value"], target, MEAN_OF_FIVE)
        if held:
            found[seed] = held
    return pd.DataFrame(found, index=["seconds", "steps", "episode"]).T


def arrived(data: Data, side: int, workers: int, within: float = LARGE_WITHIN) -> int:
    """How many seeds hold the target."""
    return len(climbs(data, side, workers, within))


def lost_again(data: Data, side: int, workers: int) -> int:
    """How many seeds hold the target and end below it."""
    ends = where(data["federated"], side=side, workers=workers).groupby("seed")["value"].last()
    return int((ends[climbs(data, side, workers).index] < best_on(side) - LARGE_WITHIN).sum())


def all_arrive(data: Data) -> bool:
    """Do all seeds hold the target, on all lakes and with any number of workers?"""
    count = seeds(data, "federated")
    return all(arrived(data, side, workers) == count for side, workers in itertools.product(SIDES, COUNTS))


def needed(data: Data, side: int, workers: int, column: str = "seconds") -> float:
    """The median of the seconds, steps or episodes until the target is held."""
    return climbs(data, side, workers)[column].median()


def speed_up(data: Data, side: int, workers: int, within: float = LARGE_WITHIN) -> Speedup:
    """The speed-up over a single core and its factors, from the seeds that arrive on both sides."""
    single = climbs(data, side, SINGLE, within)
    many = climbs(data, side, workers, within)
    pairs = single.merge(many, left_index=True, right_index=True, suffixes=("", "_federated"))
    faster = pairs["seconds"] / pairs["seconds_federated"]
    fewer = pairs["steps"] / pairs["steps_federated"]
    ratios = faster, faster / fewer / workers, fewer
    return Speedup(*(tuple(np.exp(bootstrap(np.log(ratio)))) for ratio in ratios))


def even_side(data: Data) -> float:
    """The side length at which two workers are as fast as a single core."""
    return crossing(SIDES, [speed_up(data, side, 2).speed_up[0] for side in SIDES])


def table(data: Data) -> str:
    """Seconds and steps to the target by size and workers, and the speed-up with its factors."""
    rows = []
    for side, count in itertools.product(SIDES, COUNTS):
        climb = climbs(data, side, count)
        factors = [""] * 3 if count == SINGLE else [interval(x, ".2g") for x in speed_up(data, side, count)]
        rows.append([
            f"{side} x {side}, {NAMES[count]}",
            f"{climb['seconds'].median():.3g}",
            f"{climb['steps'].median() / 1e6:.3g}",
            *factors,
        ])
    return markdown(["lake", "seconds", "M steps", "speed-up", "hardware", "statistics"], rows)


# Picture


@picture
def federated_speed(data: Data):
    """Exact value over seconds on the largest lake, and the speed-up over a single core by the lake's size."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", width_ratios=(1.25, 1))
    draw_values(left, data, max(SIDES))
    draw_speed_ups(right, data)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    return figure


def draw_values(axes, data: Data, side: int) -> None:
    """The median value over the median seconds of each round, and a band from the lowest to the highest seed."""
    for count, (color, line) in STYLES.items():
        rounds = where(data["federated"], side, count).groupby("episode")
        seconds, value = rounds["seconds"].median(), rounds["value"]
        axes.fill_between(seconds, value.min(), value.max(), color=color, alpha=0.18, linewidth=0)
        axes.plot(seconds, value.median(), line, color=color, linewidth=1.5, label=NAMES[count])
    best = best_on(side)
    axes.axhline(best, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {best:.1f}")
    target = best - LARGE_WITHIN
    axes.axhline(target, color="#555555", linestyle=":", linewidth=1.2, label=f"target {target:.1f}")
    axes.set(xlabel="wall-clock seconds", ylabel="exact value of the greedy policy")
    axes.set_title(f"{side} x {side}, median and range of {seeds(data, 'federated')} seeds", fontsize=11)


def draw_speed_ups(axes, data: Data) -> None:
    """A line for each number of workers, labelled with the speed-up on the largest lake."""
    lowest = 1.0
    sides = list(SIDES)
    for count, label_at in ((2, 1.1), (4, 0.88)):
        color, line = STYLES[count]
        mean, low, high = np.array([speed_up(data, side, count).speed_up for side in sides]).T
        bars = {"yerr": [mean - low, high - mean], "capsize": 3}
        axes.errorbar(sides, mean, **bars, color=color, fmt="o", linestyle=line, markersize=6, label=NAMES[count])
        text = f"{NAMES[count]}: {mean[-1]:.2f}"
        axes.text(sides[-1] * 1.15, mean[-1] * label_at, text, color=color, fontsize=9, va="center")
        lowest = min(lowest, low.min())
    axes.axhline(1, color="black", linestyle=(0, (6, 3)), linewidth=1)
    axes.text(380, 0.95, "as fast as a single core", fontsize=9, ha="right", va="top")
    axes.set(xscale="log", yscale="log", xlim=(14, 400), xlabel="side of the lake (log scale)")
    axes.set_ylabel("speed-up to the target (log scale)")
    axes.set_xticks(sides, [f"{side}" for side in sides])
    axes.minorticks_off()
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4], ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "4"])
    axes.set_ylim(lowest / 1.5, 4)
    axes.set_title(f"{timing.cores(data)} cores", fontsize=11)
