"""Which learner has a good policy sooner by the clock: Q-learning or Dyna-Q, alone, in threads, or over Ray?"""

from __future__ import annotations

import functools
import itertools
import time

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent
from beyond.figures.until import EACH_OF_THREE, SPACING, WITHIN, exact_value, optimum, until_good
from figures.assignment import LAKE, SINGLE
from figures.rows import Data, settings_of, where
from figures.slow import Slow
from figures.study import experiment, picture, start_ray

LEARNERS = {
    "Q-learning": (td.QLAgent, td.DistributedQLAgent),
    "Dyna-Q": (DynaQAgent, DistributedDynaQAgent),
}
SIMULATORS = {"compiled": 0, "stepped": 0, "waiting": 200}  # microseconds that a step waits
FIRST = {"Q-learning": 4_000, "Dyna-Q": 800}  # episodes that are learned before the tables are first looked at
BATCH_SIZES = {"Q-learning": 8, "Dyna-Q": 4}  # episodes of a collector
POOLS = ("threads", "Ray")  # where collectors run
ALONE = "one core"  # where a single core's run has its "pool"
LONGEST = 5  # stretches, each with half as many episodes as all before, until a run has failed


@experiment(timed=True)
def run(
    seeds=3, collectors=(2, 4, 8), pools=POOLS, simulators=SIMULATORS, rate=0.1, epsilon=0.05, initial_value=1000.0
):
    """Seconds until within the optimum, one run at a time; the machine should be otherwise idle.

    No evaluators: tests do not change what is learned.
    """
    start_ray()
    settings = {"epsilon": epsilon, "learning_rate": rate, "initial_value": initial_value, "do_test": False}
    places = [(ALONE, SINGLE), *itertools.product(pools, collectors)]
    with td.Workers(max(collectors), 0) as processes:
        workers = {ALONE: None, "threads": td.Threads(), "Ray": processes}
        cases = list(itertools.product(range(seeds), simulators, LEARNERS, places))
        for seed, simulator, learner, (pool, count) in tqdm(cases, desc="dyna_clock", unit="run"):
            case = functools.partial(make, simulator, learner, count, workers[pool], seed=seed, **settings)
            case().learn(80)  # compiles
            held = time_to_good(case(), FIRST[learner])
            yield {
                "simulator": simulator,
                "learner": learner,
                "pool": pool,
                "collectors": count,
                "seed": seed,
                **{name: held.get(name, np.nan) for name in ("steps", "seconds")},
            }


def make(simulator: str, learner: str, collectors: int, workers, **settings):
    """An agent that has learned nothing."""
    lake, waiting = td.FrozenLakeEnv(map_name=LAKE), SIMULATORS[simulator] * 1e-6
    env = Slow(lake, waiting) if waiting else lake
    alone, distributed = LEARNERS[learner]
    settings["compiled"] = simulator == "compiled"
    if collectors == SINGLE:
        return alone(env, **settings)
    return distributed(env, cw_num=collectors, ew_num=0, workers=workers, batch_size=BATCH_SIZES[learner], **settings)


def time_to_good(agent, first: int) -> dict:
    """The steps and seconds until the policy is within the optimum to stay; empty for never."""
    lake = td.FrozenLakeEnv(map_name=LAKE)
    _, held = until_good(
        stretches(agent, first),
        exact_value(lake),
        optimum(lake) - WITHIN,
        EACH_OF_THREE,
        next_look=lambda _, steps: (1 + SPACING) * steps + 1_000,
    )
    return held


def stretches(agent, first: int):
    """Learn a stretch of episodes, then yield its moments, so that judging them does not count; and so on.

    The first stretch has `first` episodes, each later one half as many as all before it.
    """
    elapsed = 0.0
    for _ in range(LONGEST):
        moments, start = [], time.perf_counter()
        for _ in learning(agent, max(first, agent.episode // 2)):
            seconds = elapsed + time.perf_counter() - start
            moments.append({"seconds": seconds, "steps": agent.steps, "q_table": np.array(agent.q_table)})
        elapsed += time.perf_counter() - start
        yield from moments


def learning(agent, episodes: int):
    """Learn `episodes` episodes; yield after every batch."""
    if hasattr(agent, "learn_in_batches"):
        yield from agent.learn_in_batches(episodes)
    else:
        for _ in range(episodes // 10):
            yield agent.learn(10)


# Numbers


def runs(data: Data, simulator: str, learner: str, collectors: int, pool: str = "Ray") -> pd.DataFrame:
    """The rows of a setting, one for each seed; a single core runs in no pool."""
    return where(data["dyna_clock"], simulator, learner, ALONE if collectors == SINGLE else pool, collectors)


def speed_ups(data: Data, simulator: str, slower: tuple, faster: tuple) -> np.ndarray:
    """The seconds of one (learner, collectors, pool) over those of another, seed by seed; by default over Ray."""
    seconds = [runs(data, simulator, *who).sort_values("seed")["seconds"].fillna(np.inf) for who in (slower, faster)]
    return seconds[0].to_numpy() / seconds[1].to_numpy()


def speed_up(data: Data, *setting) -> float:
    """The median of `speed_ups`."""
    return float(np.median(speed_ups(data, *setting)))


def best_alone(data: Data, simulator: str, learner: str = "Dyna-Q") -> bool:
    """Is one core there sooner than any number of collectors in any pool, by medians?"""
    teams = itertools.product(settings_of(run)["collectors"], POOLS)
    return all(speed_up(data, simulator, (learner, SINGLE), (learner, *team)) < 1 for team in teams)


def more_steps(data: Data, simulator: str, learner: str, collectors: int) -> float:
    """The steps of all collectors together over those of one core, in any pool: a ratio of medians."""
    many, alone = (runs(data, simulator, learner, count)["steps"].median() for count in (collectors, SINGLE))
    return many / alone


def pace(data: Data, simulator: str, learner: str, collectors: int) -> float:
    """Steps per second of all collectors together over those of one core: the median of the seeds."""
    many, alone = (runs(data, simulator, learner, count).set_index("seed") for count in (collectors, SINGLE))
    return float(((many["steps"] / many["seconds"]) / (alone["steps"] / alone["seconds"])).median())


# Picture


@picture
def dyna_clock(data: Data):
    """Seconds until near the optimum, by the number of collectors: the median and all seeds, a panel per simulator."""
    import matplotlib.pyplot as plt

    counts = (SINGLE, *settings_of(run)["collectors"])
    figure, panels = plt.subplots(1, len(SIMULATORS), figsize=(9, 3.4), sharey=True, layout="constrained")
    for axes, simulator in zip(panels, SIMULATORS, strict=True):
        for learner, (pool, line) in itertools.product(LEARNERS, zip(POOLS, ("-", "--"), strict=True)):
            color = td.color_of(learner)
            groups = [runs(data, simulator, learner, count, pool)["seconds"].fillna(np.inf) for count in counts]
            axes.plot([group.median() for group in groups], f"o{line}", color=color, label=f"{learner}, {pool}")
            for place, group in enumerate(groups):
                axes.plot(np.full(len(group), place), group, ".", color=color, alpha=0.4)
        names = ["one\ncore" if count == SINGLE else f"{count}" for count in counts]
        waits = f", {SIMULATORS[simulator]} µs a step" if SIMULATORS[simulator] else ""
        axes.set(title=simulator + waits, xticks=range(len(counts)), xticklabels=names, yscale="log")
    panels[0].set(ylabel=f"seconds until within {WITHIN} of the optimum")
    panels[1].set(xlabel="collectors")
    panels[-1].legend(fontsize=8)
    return figure
