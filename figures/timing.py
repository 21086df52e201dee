"""How long does each configuration take, with evaluation and without?"""

from __future__ import annotations

import itertools
import os
import time

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import td_helpers as td
from figures.assignment import BEST_RATE, EPISODES, HALLWAY, LAKE, SHORT, SINGLE, checksum
from figures.distributed import config_name
from figures.rows import Data, where
from figures.slow import Slow
from figures.study import experiment, picture, start_ray
from figures.summaries import markdown

BRIEF = {"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100}
SUITE = {  # simulator: its runs; those with a test interval are made with evaluation and without
    "compiled": [
        {"map": HALLWAY, "episodes": 30_000, "test_interval": 300},
        {"map": LAKE, "episodes": 100_000, "test_interval": 1_000},
        BRIEF,
    ],
    "stepped": [
        {"map": HALLWAY, "episodes": 10_000, "test_interval": 500, "batch_size": 500},
        {"map": LAKE, "episodes": 10_000, "test_interval": 1_000, "batch_size": 500},
        BRIEF,
    ],
    "waits": [  # microseconds: added to each step of the lake
        {**BRIEF, "microseconds": 200, "test_interval": 40, "trials": 10},
        {**BRIEF, "microseconds": 10},
        {**BRIEF, "microseconds": 20},
        {**BRIEF, "microseconds": 50},
        {**BRIEF, "microseconds": 100},
    ],
    "computes": [{**BRIEF, "microseconds": 50}],
}
CASES = {  # (simulator, map): the runs that are made with evaluation and without
    (simulator, timed["map"]): timed
    for simulator, group in SUITE.items()
    for timed in group
    if "test_interval" in timed
}
COLORS = {1: "#999999", 2: "#66c2a5", 4: "#009E73", 8: "#00543d"}  # by collectors
CONFIGURATIONS = (SINGLE, *COLORS)


@experiment(timed=True)
def run(repetitions=5, collectors=CONFIGURATIONS, evaluators=4, epsilon=0.3, rates=BEST_RATE, runs=SUITE):
    """Wall-clock times, one run at a time; a repetition is a seed. The machine should be otherwise idle."""
    start_ray()
    with td.Workers(max(collectors), evaluators) as workers:
        shared = {"workers": workers, "evaluators": evaluators, "epsilon": epsilon, "rates": rates}
        warm_up = {"map": HALLWAY, "episodes": 1_600, "test_interval": 200}
        for count in collectors:
            timed_run("compiled", warm_up, count, evaluated=True, seed=0, **shared)
        cases = list(cases_of(repetitions, runs, collectors))
        for case in tqdm(cases, desc="timing", unit="run"):
            yield timed_run(**case, **shared)


def cases_of(repetitions, runs, collectors):
    """Yield the runs in order, a whole repetition before the next."""
    for seed, (simulator, group) in itertools.product(range(repetitions), runs.items()):
        for timed in group:
            for evaluated in (False, True) if "test_interval" in timed else (False,):
                for count in collectors:
                    yield {
                        "simulator": simulator,
                        "timed": timed,
                        "count": count,
                        "evaluated": evaluated,
                        "seed": seed,
                    }


def timed_run(simulator, timed, count, evaluated, seed, workers, evaluators, epsilon, rates) -> dict:
    """One timed run; a test has 100 trials unless `timed` says otherwise."""
    microseconds = timed.get("microseconds", 0)
    batch_size = timed.get("batch_size", 100)
    lake = td.FrozenLakeEnv(map_name=timed["map"])
    if microseconds:
        lake = Slow(lake, microseconds * 1e-6, computes=simulator == "computes")
    settings = {
        "epsilon": epsilon,
        "learning_rate": rates[timed["map"]],
        "learning_episodes": timed["episodes"],
        "test_interval": timed.get("test_interval", timed["episodes"]),
        "trials": timed.get("trials", 100),
        "max_step": timed.get("max_step", 1_000),
        "do_test": evaluated,
        "seed": seed,
        "compiled": simulator == "compiled",
    }
    if count == SINGLE:
        agent = td.QLAgent(lake, **settings)
    else:
        settings |= {"cw_num": count, "ew_num": evaluators, "batch_size": batch_size, "workers": workers}
        agent = td.DistributedQLAgent(lake, **settings)
    start = time.perf_counter()
    agent.learn_and_evaluate(progress=False)
    seconds = time.perf_counter() - start
    cost = td.Cost() if count == SINGLE else agent.cost
    return {
        "simulator": simulator,
        "map": timed["map"],
        "microseconds": microseconds,
        "episodes": timed["episodes"],
        "batch_size": batch_size,
        "evaluated": int(evaluated),
        "collectors": count,
        "seed": seed,
        "table": checksum(agent.q_table),
        "steps": agent.steps,
        "cores": os.cpu_count(),
        "seconds": seconds,
        "collect_seconds": cost.collect,
        "replay_seconds": cost.replay,
        "evaluate_seconds": cost.evaluate,
    }


# Numbers: a case is (simulator, map)


def cores(data: Data) -> int:
    """The number of cores of the machine that was timed."""
    return data["timing"]["cores"].iloc[0]


def runs(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False) -> pd.DataFrame:
    """The rows of a case in one configuration, one for each repetition."""
    timed = CASES[simulator, map]
    setting = timed.get("microseconds", 0), timed["episodes"], timed.get("batch_size", 100), int(evaluated)
    return where(data["timing"], simulator, map, *setting, collectors)


def median_of(data: Data, column: str, *case, **regime) -> float:
    """The median of a column of `runs`."""
    return float(np.median(runs(data, *case, **regime)[column]))


def step_seconds(data: Data, *case, **regime) -> np.ndarray:
    """The time per learning step in each repetition, since runs with the same number of episodes differ in steps."""
    rows = runs(data, *case, **regime)
    return (rows["seconds"] / rows["steps"]).to_numpy()


def speed_ups(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False) -> np.ndarray:
    """The speed-up over the single core, by time per step, in each repetition."""
    single, many = (step_seconds(data, simulator, map, count, evaluated=evaluated) for count in (SINGLE, collectors))
    return single / many


def speed_up(data: Data, *case, **regime) -> float:
    """The median of `speed_ups`."""
    return float(np.median(speed_ups(data, *case, **regime)))


def best_speed_up(data: Data, simulator: str) -> float:
    """The best speed-up of a distributed configuration, over maps, with evaluation and without."""
    cases = itertools.product([case for case in CASES if case[0] == simulator], CONFIGURATIONS[1:], (False, True))
    return max(speed_up(data, *case, count, evaluated) for case, count, evaluated in cases)


def grows_with_collectors(data: Data, simulator: str, map: str) -> bool:
    """Are (2,4), (4,4) and (8,4) each faster than the configuration before, beginning with the single core?"""
    for evaluated in (False, True):
        speeds = [speed_up(data, simulator, map, count, evaluated) for count in (SINGLE, 2, 4, 8)]
        if any(more <= less for less, more in itertools.pairwise(speeds)):
            return False
    return True


def fall_with_collectors(data: Data, evaluated: bool) -> bool:
    """Do eight collectors take less time than one, in all cases?"""
    seconds = [[median_of(data, "seconds", *case, count, evaluated=evaluated) for count in (8, 1)] for case in CASES]
    return all(eight < one for eight, one in seconds)


def slower_with_one(data: Data) -> bool:
    """Is one collector slower than the single core without evaluation, by the step, in all cases?"""
    return all(speed_up(data, *case, 1) < 1 for case in CASES)


def has_tables_of_one_process(data: Data) -> bool:
    """Do all runs with the settings of `distributed` end with its tables, bit for bit?"""
    timed = where(data["timing"], "compiled")
    timed = timed[timed["episodes"] == timed["map"].map(EPISODES)]
    timed = timed.assign(batch_size=timed["batch_size"].where(timed["collectors"] != SINGLE, 0))
    key = ["map", "collectors", "batch_size", "seed"]
    pairs = timed.merge(data["distributed"], on=key, how="left", suffixes=("", "_in_process"))
    return bool((pairs["table"] == pairs["table_in_process"]).all())


# Tables


def name_of(case: tuple[str, str]) -> str:
    """A case as a cell."""
    return f"{case[0]}, {SHORT[case[1]]}"


def table_of_seconds(data: Data, evaluated: bool) -> str:
    """Seconds by case and configuration: the median of the repetitions."""
    rows = []
    for case in CASES:
        seconds = [median_of(data, "seconds", *case, count, evaluated=evaluated) for count in CONFIGURATIONS]
        rows.append([name_of(case), *(f"{median:.3g}" for median in seconds)])
    return markdown(["simulator, map, seconds", *map(config_name, CONFIGURATIONS)], rows)


# Picture


@picture
def timing_runs(data: Data):
    """Speed-ups over the single core by case and collectors, a panel with evaluation and one without."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(9, 6.4), sharex=True, sharey=True, layout="constrained")
    for axes, evaluated in zip(panels, (True, False), strict=True):
        for i, count in enumerate(COLORS):
            pairs = np.array([speed_ups(data, *case, count, evaluated) for case in CASES])
            medians = np.median(pairs, axis=1)
            ranges = [medians - pairs.min(axis=1), pairs.max(axis=1) - medians]
            places = np.arange(len(CASES)) + 0.2 * (i - 1.5)
            axes.bar(places, medians - 1, 0.18, bottom=1, yerr=ranges, color=COLORS[count], label=config_name(count))
            for x, median, low, high in zip(places, medians, pairs.min(axis=1), pairs.max(axis=1), strict=True):
                y, below = (high * 1.1, "bottom") if median > 1 else (low / 1.1, "top")
                axes.text(x, y, f"{median:.2g}", ha="center", va=below, fontsize=7)
        axes.axhline(1, color="black", linewidth=1)
        axes.set(yscale="log", ylim=(0.005, 16), title="with evaluation" if evaluated else "without evaluation")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.25, axis="y")
    panels[1].set_xticks(range(len(CASES)), map(name_of, CASES))
    panels[0].legend(title="(collectors, evaluators)", ncols=len(COLORS), loc="upper left", fontsize=9)
    figure.supylabel("steps per second, as a multiple of a single core's (log scale)", fontsize=10)
    return figure
