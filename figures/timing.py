"""How long does each configuration take, with evaluation and without?"""

from __future__ import annotations

import itertools
import os
import time

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import td_helpers as td
from figures.distributed import config_name
from figures.experiments import BEST_RATE, EPISODES, HALLWAY, LAKE, SINGLE, checksum
from figures.rows import Data, seeds, where
from figures.slow import Slow
from figures.spread import start_ray
from figures.study import experiment, picture
from figures.summaries import markdown

SHORT = {"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100}
SUITE = {  # simulator: its runs; those with a test interval are made with evaluation and without
    "compiled": [
        {"map": HALLWAY, "episodes": 30_000, "test_interval": 300},
        {"map": LAKE, "episodes": 100_000, "test_interval": 1_000},
        SHORT,
    ],
    "stepped": [
        {"map": HALLWAY, "episodes": 10_000, "test_interval": 500, "batch_size": 500},
        {"map": LAKE, "episodes": 10_000, "test_interval": 1_000, "batch_size": 500},
        SHORT,
    ],
    "waits": [  # microseconds: added to each step of the lake
        {**SHORT, "microseconds": 200, "test_interval": 40, "trials": 10},
        {**SHORT, "microseconds": 10},
        {**SHORT, "microseconds": 20},
        {**SHORT, "microseconds": 50},
        {**SHORT, "microseconds": 100},
    ],
    "computes": [{**SHORT, "microseconds": 50}],
}


@experiment(timed=True)
def run(repetitions=5, collectors=(0, 1, 2, 4, 8), evaluators=4, epsilon=0.3, rates=BEST_RATE, runs=SUITE):
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
    lake = td.as_lake(timed["map"])
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


# Numbers: a group is the runs of one simulator that were made with evaluation and without


def cores(data: Data) -> int:
    return data["timing"]["cores"].iloc[0]


def configurations(data: Data) -> list[int]:
    """The numbers of collectors that were timed, single core first."""
    return sorted(data["timing"]["collectors"].unique())


def cases() -> list[tuple[str, str]]:
    """The (simulator, map) of all groups."""
    return [(name, timed["map"]) for name, runs in SUITE.items() for timed in runs if "test_interval" in timed]


def group_of(data: Data, simulator: str, map: str) -> pd.DataFrame:
    """The rows of the simulator's runs on a map."""
    timed = next(timed for timed in SUITE[simulator] if timed["map"] == map and "test_interval" in timed)
    fields = {"episodes": timed["episodes"], "microseconds": timed.get("microseconds", 0)}
    return where(data["timing"], simulator=simulator, map=map, **fields)


def groups(data: Data) -> dict[str, pd.DataFrame]:
    """All groups, by a title of two lines."""
    found = {}
    for simulator, runs in SUITE.items():
        for timed in runs:
            if "test_interval" in timed:
                what = {"stepped": "stepped in Python", "waits": f"waits {timed.get('microseconds')} µs a step"}
                title = f"{what.get(simulator, simulator)}\n{timed['map']}, {timed['episodes']:,} ep."
                found[title] = group_of(data, simulator, timed["map"])
    return found


def configuration(rows: pd.DataFrame, collectors: int, evaluated: bool = False) -> pd.DataFrame:
    """A group's rows for one configuration, one per repetition."""
    return where(rows, collectors=collectors, evaluated=int(evaluated))


def step_seconds(rows: pd.DataFrame, collectors: int, evaluated: bool = False) -> float:
    """The median time per learning step, since runs with the same number of episodes differ in steps."""
    rows = configuration(rows, collectors, evaluated)
    return np.median(rows["seconds"] / rows["steps"])


def seconds(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False) -> float:
    """The median time of a run."""
    return np.median(configuration(group_of(data, simulator, map), collectors, evaluated)["seconds"])


def steps(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False) -> float:
    """The median number of learning steps of a run."""
    return np.median(configuration(group_of(data, simulator, map), collectors, evaluated)["steps"])


def speed_ups(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False) -> np.ndarray:
    """The speed-up over the single core, by time per step, in each repetition."""
    rows = group_of(data, simulator, map)
    single, many = (configuration(rows, count, evaluated).sort_values("seed") for count in (SINGLE, collectors))
    return ((single["seconds"] / single["steps"]).to_numpy()) / (many["seconds"] / many["steps"]).to_numpy()


def speed_up(data: Data, *case, **regime) -> float:
    """The median of `speed_ups`."""
    return float(np.median(speed_ups(data, *case, **regime)))


def speed_up_range(data: Data, *case, **regime) -> str:
    """The median of `speed_ups` with their range."""
    pairs = speed_ups(data, *case, **regime)
    return f"{np.median(pairs):.2f} ({pairs.min():.2f} to {pairs.max():.2f})"


def seconds_range(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False) -> str:
    """The shortest and the longest time of the repetitions."""
    times = configuration(group_of(data, simulator, map), collectors, evaluated)["seconds"]
    return f"{times.min():.1f} to {times.max():.1f}"


def best_speed_up(data: Data, simulator: str) -> float:
    """The best speed-up of a distributed configuration, over maps, with evaluation and without."""
    maps = {timed["map"] for timed in SUITE[simulator] if "test_interval" in timed}
    counts = [count for count in configurations(data) if count != SINGLE]
    return max(speed_up(data, simulator, *case) for case in itertools.product(maps, counts, (False, True)))


def grows_with_collectors(data: Data, simulator: str, map: str) -> bool:
    """Are (2,4), (4,4) and (8,4) each faster than the configuration before, beginning with the single core?"""
    for evaluated in (False, True):
        speeds = [speed_up(data, simulator, map, count, evaluated) for count in (SINGLE, 2, 4, 8)]
        if any(more <= less for less, more in itertools.pairwise(speeds)):
            return False
    return True


def fall_with_collectors(data: Data, evaluated: bool = False) -> bool:
    """Do eight collectors take less time than one, in all groups?"""
    return all(seconds(data, *case, 8, evaluated) < seconds(data, *case, 1, evaluated) for case in cases())


def slower_with_one(data: Data) -> bool:
    """Is one collector slower than the single core without evaluation, by the step, in all groups?"""
    return all(speed_up(data, *case, 1) < 1 for case in cases())


def evaluation_ratio(data: Data, simulator: str, map: str, collectors: int) -> float:
    """The median time with evaluation, as a multiple of that without."""
    times = [seconds(data, simulator, map, collectors, evaluated) for evaluated in (True, False)]
    return times[0] / times[1]


def evaluators_seconds(data: Data, simulator: str, map: str, collectors: int) -> float:
    """The median time that the evaluators of a run spend."""
    rows = configuration(group_of(data, simulator, map), collectors, evaluated=True)
    return np.median(rows["evaluate_seconds"])


def full_runs(data: Data) -> pd.DataFrame:
    """The timed runs that have the settings of `distributed`, seed by seed."""
    rows = where(data["timing"], simulator="compiled")
    return rows[rows["episodes"] == rows["map"].map(EPISODES)]


def runs_over_ray(data: Data) -> int:
    """How many of them are distributed."""
    return int((full_runs(data)["collectors"] != SINGLE).sum())


def same_tables(data: Data) -> int:
    """How many of all of them ended with the table of `distributed`, bit for bit."""
    key = ["map", "collectors", "batch_size", "seed"]
    timed = full_runs(data)
    timed = timed.assign(batch_size=timed["batch_size"].where(timed["collectors"] != SINGLE, 0))
    pairs = timed.merge(data["distributed"], on=key, how="left", suffixes=("", "_in_process"))
    return int((pairs["table"] == pairs["table_in_process"]).sum())


# Tables


def table_of_seconds(data: Data, evaluated: bool) -> str:
    """Seconds by group and configuration: the median of the repetitions."""
    counts = configurations(data)
    rows = []
    for title, group in groups(data).items():
        times = [configuration(group, count, evaluated)["seconds"] for count in counts]
        rows.append([name_of(title), *(f"{np.median(seconds):.3g}" for seconds in times)])
    return markdown(["simulator, map, seconds", *map(config_name, counts)], rows)


def table_of_speed_ups(data: Data) -> str:
    """Speed-ups by group and configuration, with evaluation and without: the median of the pairs with their range."""
    counts = [count for count in configurations(data) if count != SINGLE]
    rows = []
    for (title, group), evaluated in itertools.product(groups(data).items(), (True, False)):
        case = group["simulator"].iloc[0], group["map"].iloc[0]
        cells = [speed_up_range(data, *case, count, evaluated=evaluated).replace(" to ", "-") for count in counts]
        rows.append([name_of(title), "yes" if evaluated else "no", *cells])
    return markdown(["simulator, map", "tests", *map(config_name, counts)], rows)


def name_of(title: str) -> str:
    """A group's title as a cell."""
    what, where_and_how_long = title.split("\n")
    return f"{what.split()[0]}, {where_and_how_long.split(',')[0].removeprefix('Dangerous ')}"


def table_of_evaluation(data: Data) -> str:
    """What evaluation adds: medians with and without, as a difference in seconds and a ratio."""
    counts = configurations(data)
    rows = []
    for title, group in groups(data).items():
        cells = []
        for count in counts:
            tested = np.median(configuration(group, count, evaluated=True)["seconds"])
            untested = np.median(configuration(group, count, evaluated=False)["seconds"])
            cells.append(f"{tested - untested:+.2g} s x{tested / untested:.2f}")
        rows.append([name_of(title), *cells])
    return markdown(["simulator, map", *map(config_name, counts)], rows)


# Picture


@picture
def timing_runs(data: Data):
    """Seconds of every configuration, with evaluation and without, for each group."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(9.6, 6.2), layout="constrained")
    for axes, (title, group) in zip(panels.flat, groups(data).items(), strict=False):
        draw_seconds(axes, group, configurations(data))
        axes.set_title(title, fontsize=10)
    draw_legend(panels.flat[-1], f"{cores(data)} cores; median and\nrange of {seeds(data, 'timing')} repetitions")
    figure.supylabel("seconds (log scale)", fontsize=10)
    figure.supxlabel("(collectors, evaluators)", fontsize=10)
    return figure


def draw_seconds(axes, group: pd.DataFrame, counts: list[int]) -> None:
    """Medians and ranges of a group."""
    for evaluated, marker, shift in ((True, "s", 0.12), (False, "o", -0.12)):
        for x, count in enumerate(counts):
            times = configuration(group, count, evaluated)["seconds"]
            color = td.COLORS["Q-learning" if count == SINGLE else "Distributed"]
            fill = color if evaluated else "white"
            axes.plot([x + shift] * 2, [times.min(), times.max()], color=color, linewidth=2)
            axes.plot(x + shift, np.median(times), marker, color=color, markersize=7, markerfacecolor=fill)
    axes.set_xticks(range(len(counts)), ["single\ncore", *(f"({count},4)" for count in counts[1:])], fontsize=9)
    axes.set(yscale="log")
    axes.grid(alpha=0.25, which="both", axis="y")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    if high / low > 8:
        digits = "25"
    elif high / low > 4:
        digits = "23468"
    else:
        digits = "23456789"
    axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in digits else "")
    axes.tick_params(axis="y", which="both", labelsize=9)


def draw_legend(axes, title: str) -> None:
    """The legend, in a panel of its own."""
    axes.axis("off")
    for role, name in (("Q-learning", "single core"), ("Distributed", "distributed")):
        color = td.COLORS[role]
        axes.plot([], [], "s", color=color, markerfacecolor=color, markersize=7, label=f"{name}, with evaluation")
        axes.plot([], [], "o", color=color, markerfacecolor="white", markersize=7, label=f"{name}, without")
    axes.legend(loc="upper center", fontsize=10, title=title)
