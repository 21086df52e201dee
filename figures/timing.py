"""How long does each configuration take, with evaluation and without?"""

from __future__ import annotations

import itertools
import os
import time
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

import td_helpers as td
from figures.assignment import EPISODES, HALLWAY, LAKE, SHORT, SINGLE, checksum
from figures.distributed import COUNTS, config_name
from figures.rows import Data, where
from figures.slow import Slow, Together
from figures.study import experiment, picture, start_ray
from figures.summaries import geometric_mean, markdown, mean_ratio

BRIEF = {"map": HALLWAY, "rate": 0.1, "episodes": 480, "batch_size": 10, "max_step": 100}
SUITE = {  # runs by simulator; those with a test interval run with and without evaluation
    "compiled": [
        {"map": HALLWAY, "rate": 0.1, "episodes": 30_000, "batch_size": 100, "test_interval": 300},
        {"map": LAKE, "rate": 0.001, "episodes": 100_000, "batch_size": 100, "test_interval": 1_000},
        BRIEF,
    ],
    "stepped": [  # at 0.1 these episodes suffice for a good policy
        {"map": HALLWAY, "rate": 0.1, "episodes": 10_000, "batch_size": 100, "test_interval": 500},
        {"map": LAKE, "rate": 0.1, "episodes": 10_000, "batch_size": 100, "test_interval": 1_000},
        BRIEF,
    ],
    "waits": [  # µs added to each step of the lake
        {**BRIEF, "microseconds": 200, "test_interval": 40},
        {"map": LAKE, "rate": 0.2, "episodes": 160, "batch_size": 10, "microseconds": 200},
        {**BRIEF, "microseconds": 10},
        {**BRIEF, "microseconds": 20},
        {**BRIEF, "microseconds": 50},
        {**BRIEF, "microseconds": 100},
    ],
    "computes": [{**BRIEF, "microseconds": 50}],
}
REPETITIONS = {"compiled": 4, "stepped": 12, "waits": 4, "computes": 4}  # stepped, seeds differ most in their steps
CASES = {  # by (simulator, map): the runs made with and without evaluation
    (simulator, timed["map"]): timed
    for simulator, group in SUITE.items()
    for timed in group
    if "test_interval" in timed
}
COLORS = {1: "#999999", 2: "#66c2a5", 4: "#009E73", 8: "#00543d"}  # by number of collectors
CONFIGURATIONS = (SINGLE, *COLORS)
SLOWEST = 4  # runs that `gain_without_slowest` leaves out
TOGETHER = 8  # lakes that one process steps together, where steps wait


@experiment(timed=True)
def run(repetitions=REPETITIONS, collectors=CONFIGURATIONS, evaluators=4, together=TOGETHER, epsilon=0.3, runs=SUITE):
    """Yield wall-clock times of runs, one at a time, on an otherwise idle machine; a repetition is a seed."""
    start_ray()
    with td.Workers(max(collectors), evaluators) as workers:
        shared = {"workers": workers, "evaluators": evaluators, "together": together, "epsilon": epsilon}
        warm_up = {"map": HALLWAY, "rate": 0.1, "episodes": 1_600, "batch_size": 100, "test_interval": 200}
        for learner, count in [("SARSA", SINGLE), *(("Q-learning", count) for count in collectors)]:
            timed_run("compiled", warm_up, learner, count, evaluated=True, seed=0, **shared)
        cases = list(cases_of(repetitions, runs, collectors))
        for case in tqdm(cases, desc="timing", unit="run"):
            yield timed_run(**case, **shared)


def cases_of(repetitions, runs, collectors):
    """Yield the runs in order, one whole repetition after the other."""
    for seed, (simulator, group) in itertools.product(range(max(repetitions.values())), runs.items()):
        if seed >= repetitions[simulator]:
            continue
        for timed in group:
            learners = [("Q-learning", count) for count in collectors]
            if "test_interval" in timed:
                learners += [("SARSA", SINGLE)] + [("together", SINGLE)] * (simulator == "waits")
            for evaluated in (False, True) if "test_interval" in timed else (False,):
                for learner, count in learners:
                    yield {
                        "simulator": simulator,
                        "timed": timed,
                        "learner": learner,
                        "count": count,
                        "evaluated": evaluated,
                        "seed": seed,
                    }


def timed_run(simulator, timed, learner, count, evaluated, seed, workers, evaluators, together, epsilon) -> dict:
    """Time one run; a test has as many trials as its interval has episodes."""
    settings = {
        "epsilon": epsilon,
        "learning_rate": timed["rate"],
        "learning_episodes": timed["episodes"],
        "test_interval": timed.get("test_interval", timed["episodes"]),
        "max_step": timed.get("max_step", 1_000),
        "do_test": evaluated,
        "seed": seed,
    }
    seconds_a_step = timed.get("microseconds", 0) * 1e-6
    if learner == "together":
        agent = Together(timed["map"], together, seconds_a_step, **settings)
    else:
        lake = td.FrozenLakeEnv(map_name=timed["map"])
        if seconds_a_step:
            lake = Slow(lake, seconds_a_step, computes=simulator == "computes")
        settings["compiled"] = simulator == "compiled"
        if count == SINGLE:
            agent = (td.SARSAAgent if learner == "SARSA" else td.QLAgent)(lake, **settings)
        else:
            settings |= {"cw_num": count, "ew_num": evaluators, "batch_size": timed["batch_size"], "workers": workers}
            agent = td.DistributedQLAgent(lake, **settings)
    start = time.perf_counter()
    agent.learn_and_evaluate(progress=False)
    seconds = time.perf_counter() - start
    cost = td.Cost() if count == SINGLE else agent.cost
    return {
        "simulator": simulator,
        "map": timed["map"],
        "microseconds": timed.get("microseconds", 0),
        "episodes": timed["episodes"],
        "batch_size": timed["batch_size"],
        "evaluated": int(evaluated),
        "learner": learner,
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


# Numbers: a case is (simulator, map); seconds are geometric means over repetitions, so that their ratios multiply


def cores(data: Data) -> int:
    """The number of cores of the machine where the runs were timed."""
    return data["timing"]["cores"].iloc[0]


def runs(data: Data, simulator: str, map: str, collectors: int, evaluated: bool = False, learner="Q-learning"):
    """The rows of a case in one configuration, one per repetition."""
    timed = CASES[simulator, map]
    setting = timed.get("microseconds", 0), timed["episodes"], timed["batch_size"], int(evaluated)
    return where(data["timing"], simulator, map, *setting, learner, collectors)


def seconds(data: Data, *case, **regime) -> float:
    """The seconds of a run."""
    return geometric_mean(runs(data, *case, **regime)["seconds"])


def mean_of(data: Data, column: str, *case, **regime) -> float:
    """The mean of a column of `runs`."""
    return float(runs(data, *case, **regime)[column].mean())


def speed_ups(data: Data, simulator: str, map: str, collectors: int, evaluated=False, learner="Q-learning"):
    """The single core's seconds over the configuration's, for the same episodes, in each repetition."""
    single = runs(data, simulator, map, SINGLE, evaluated)
    other = runs(data, simulator, map, collectors, evaluated, learner)
    return single["seconds"].to_numpy() / other["seconds"].to_numpy()


def speed_up(data: Data, *case, **regime) -> float:
    """The geometric mean of `speed_ups`."""
    return geometric_mean(speed_ups(data, *case, **regime))


def gain(data: Data, *case, **regime) -> tuple:
    """The geometric mean of `speed_ups`, with its interval."""
    return mean_ratio(speed_ups(data, *case, **regime))


def surest_gain(data: Data, simulator: str, map: str, evaluated: bool = False) -> tuple:
    """The `gain` of the one of (2, 4), (4, 4) and (8, 4) whose interval begins highest."""
    found = [gain(data, simulator, map, count, evaluated) for count in COUNTS]
    return max(found, key=lambda interval: interval[1])


def pace(data: Data, simulator: str, map: str, collectors: int) -> tuple:
    """How many times one core's steps a second the configuration makes without evaluation, with its interval."""
    single, team = (runs(data, simulator, map, count) for count in (SINGLE, collectors))
    paces = [(rows["steps"] / rows["seconds"]).to_numpy() for rows in (single, team)]
    return mean_ratio(paces[1] / paces[0])


def cost_of_tests(data: Data, *case, **regime) -> float:
    """How many times as long a run with evaluation takes."""
    return seconds(data, *case, evaluated=True, **regime) / seconds(data, *case, **regime)


def best_speed_up(data: Data, simulator: str) -> float:
    """The best speed-up of any distributed configuration, over maps, with and without evaluation."""
    cases = itertools.product([case for case in CASES if case[0] == simulator], CONFIGURATIONS[1:], (False, True))
    return max(speed_up(data, *case, count, evaluated) for case, count, evaluated in cases)


class Price(NamedTuple):
    """What learning costs: seconds per step of all collectors together, and per batch beyond its steps."""

    step: float
    batch: float


def price(data: Data, simulator: str, map: str, collectors: int, batch_size: int) -> Price:
    """What a step and a batch cost without evaluation; a step takes a single core's time, divided among the team."""
    timed = {"simulator": simulator, "map": map, "batch_size": batch_size, "evaluated": 0, "learner": "Q-learning"}
    single, team = (where(data["timing"], **timed, collectors=count) for count in (SINGLE, collectors))
    step = geometric_mean(single["seconds"] / single["steps"])
    if collectors == SINGLE:
        return Price(step, 0.0)
    step /= collectors if simulator == "waits" else min(collectors, cores(data))  # waiting occupies no core
    return Price(step, np.median((team["seconds"] - step * team["steps"]) / (team["episodes"] / batch_size)))


def least_growth(data: Data, simulator: str, map: str) -> float:
    """The least gain by more collectors, of (2,4), (4,4) and (8,4), starting from one core, without evaluation."""
    speeds = [speed_up(data, simulator, map, count) for count in (SINGLE, 2, 4, 8)]
    return min(more / less for less, more in itertools.pairwise(speeds))


def gain_without_slowest(data: Data, simulator: str, map: str, collectors: int) -> tuple:
    """The `gain` with evaluation, without the pairs of the single core's SLOWEST slowest runs."""
    kept = np.argsort(runs(data, simulator, map, SINGLE, True)["seconds"].to_numpy())[:-SLOWEST]
    return mean_ratio(speed_ups(data, simulator, map, collectors, True)[kept])


def extreme_gains(data: Data, simulator: str) -> tuple[tuple, tuple]:
    """The least and the largest `gain` of (2, 4), (4, 4) and (8, 4) on both maps without evaluation."""
    cases = itertools.product([case for case in CASES if case[0] == simulator], COUNTS)
    found = sorted(gain(data, *case, count) for case, count in cases)
    return found[0], found[-1]


def collecting(data: Data, simulator: str, map: str) -> tuple:
    """One collector's own seconds over the single core's, without evaluation, for the same steps, with its interval."""
    one, single = (runs(data, simulator, map, count) for count in (1, SINGLE))
    return mean_ratio(one["collect_seconds"].to_numpy() / single["seconds"].to_numpy())


def best_with_one(data: Data) -> float:
    """The best speed-up that one collector has over the single core without evaluation, over all cases."""
    return max(speed_up(data, *case, 1) for case in CASES)


def has_tables_of_one_process(data: Data) -> bool:
    """Whether all runs with the settings of `distributed` end with its tables, bit for bit."""
    timed = where(data["timing"], "compiled", learner="Q-learning")
    timed = timed[timed["episodes"] == timed["map"].map(EPISODES)]
    timed = timed.assign(batch_size=timed["batch_size"].where(timed["collectors"] != SINGLE, 0))
    alone = data["distributed"][data["distributed"]["in_flight"] <= 2]
    key = ["map", "collectors", "batch_size", "seed"]
    pairs = timed.merge(alone, on=key, how="left", suffixes=("", "_in_process"))
    return bool((pairs["table"] == pairs["table_in_process"]).all())


# Tables


def name_of(case: tuple[str, str]) -> str:
    """The name of a case, as written in tables."""
    return f"{case[0]}, {SHORT[case[1]]}"


COLUMNS = (  # of the report's table: learner and collectors
    ("Q-learning", SINGLE), ("SARSA", SINGLE), ("Q-learning", 2), ("Q-learning", 4), ("Q-learning", 8),
    ("together", SINGLE),
)  # fmt: skip


def table(data: Data) -> str:
    """A table of seconds by case and configuration, with evaluation / without."""
    rows = []
    for case in CASES:
        cells = []
        for learner, count in COLUMNS:
            if learner == "together" and case[0] != "waits":
                cells.append("")
                continue
            both = [seconds(data, *case, count, tested, learner) for tested in (True, False)]
            cells.append(" / ".join(f"{one:.2g}" if one < 10 else f"{one:.0f}" for one in both))
        rows.append([name_of(case), *cells])
    names = ["one core", "by SARSA", *map(config_name, (2, 4, 8)), f"{TOGETHER} lakes"]
    return markdown(["seconds", *names], rows)


# Picture


@picture
def timing_runs(data: Data):
    """Speed-ups over the single core by case and configuration, a row with evaluation and one without."""
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(2, len(CASES), figsize=(9, 4.8), sharey="col", layout="constrained")
    for panels, evaluated in zip(rows, (True, False), strict=True):
        for axes, case in zip(panels, CASES, strict=True):
            draw_speed_ups(axes, data, case, evaluated)
        panels[0].set_ylabel("with evaluation" if evaluated else "without", fontsize=10)
    for axes, case in zip(rows[0], CASES, strict=True):
        axes.set_title(name_of(case).replace(", ", "\n"), fontsize=11)
    figure.supylabel("times as fast as one core", fontsize=10)
    return figure


def draw_speed_ups(axes, data: Data, case: tuple[str, str], evaluated: bool) -> None:
    """Draw a bar for each configuration, with its interval."""
    bars = {config_name(count): (("Q-learning", count), COLORS[count]) for count in (2, 4, 8)}
    if case[0] == "waits":
        bars[f"{TOGETHER} lakes"] = ("together", SINGLE), "#CC79A7"
    top = 1.0
    for x, ((learner, count), color) in enumerate(bars.values()):
        middle, low, high = gain(data, *case, count, evaluated, learner)
        axes.bar(x, middle, 0.75, color=color)
        axes.plot([x, x], [low, high], color="#444444", linewidth=1.5)
        label = axes.text(x, high, f"{middle:.2g}", ha="center", va="bottom", fontsize=9)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        top = max(top, high)
    axes.axhline(1, color="black", linewidth=1, zorder=1.5)
    axes.set(ylim=(0, max(1.2 * top, axes.get_ylim()[1])))
    axes.set_xticks(range(len(bars)), bars, rotation=45, fontsize=9)
    axes.grid(alpha=0.25, axis="y")
