"""What breaks the lock-in in the Dangerous Hallway: the model, the optimism, or only both?"""

from __future__ import annotations

import itertools

import pandas as pd

import td_helpers as td
from beyond import DistributedDynaQAgent
from figures.experiments import HALLWAY, lake_of, route_of, spread
from figures.rows import Data, settings_of, where
from figures.summaries import markdown

CELLS = {  # name: whether it plans, and the initial value
    "neither (Q-learning)": (False, 0),
    "optimism alone": (False, 1000),
    "model alone": (True, 0),
    "both (Dyna-Q)": (True, 1000),
}


def run(
    seeds=100, counts=(1, 2, 4, 8), cells=tuple(CELLS), rate=0.001, epsilon=0.3, batch_size=10,
    tests=(500, 1_000, 2_000), later=(30_000, 100_000),
):  # fmt: skip
    """Route and exact value after some episodes of the assignment's setting, with the part that each cell has.

    One collector that does not plan, and so learns slowly, goes on to the `later` tests.
    """
    cases = [
        {"cell": cell, "collectors": count, "seed": seed, "rate": rate, "epsilon": epsilon, "batch_size": batch_size,
         "tests": tests if count > 1 or CELLS[cell][0] else (*tests, *later)}
        for cell, count, seed in itertools.product(cells, counts, range(seeds))
    ]  # fmt: skip
    yield from spread(lock_in_run, cases, "lock_in")


def lock_in_run(cell, collectors, seed, rate, epsilon, batch_size, tests) -> list[dict]:
    """The rows of one run, a row a test."""
    lake = lake_of(HALLWAY)
    plans, start = CELLS[cell]
    agent = (DistributedDynaQAgent if plans else td.DistributedQLAgent)(
        lake, epsilon, rate, seed=seed, do_test=False, cw_num=collectors, batch_size=batch_size, initial_value=start,
        workers=td.InProcess(),
    )  # fmt: skip
    rows = []
    for episode in tests:
        agent.learn(episode - agent.episode)
        rows.append({
            "cell": cell,
            "collectors": collectors,
            "seed": seed,
            "episode": episode,
            "steps": agent.steps,
            "value": td.policy_value(lake.table, agent.q_table)[0],
            "route": route_of(lake, agent.q_table),
        })
    return rows


# Numbers


def runs(data: Data, cell: str, collectors: int, episode: int | None = None) -> pd.DataFrame:
    """The rows of a cell after so many episodes (None: the last), one for each seed."""
    episode = settings_of(run)["tests"][-1] if episode is None else episode
    return where(data["lock_in"], cell=cell, collectors=collectors, episode=episode)


def on_bypass(data: Data, cell: str, collectors: int, episode: int | None = None) -> float:
    """The share of seeds whose greedy policy takes the bypass."""
    return (runs(data, cell, collectors, episode)["route"] == "bypass").mean()


def table(data: Data) -> str:
    """The share of seeds on the bypass, and the mean value, by cell and collectors."""
    settings = settings_of(run)
    rows = []
    for cell in CELLS:
        cells = [
            f"{on_bypass(data, cell, count):.0%}, {runs(data, cell, count)['value'].mean():.0f}"
            for count in settings["counts"]
        ]
        rows.append([cell, *cells])
    return markdown(["", *(f"{count} collector{'s' * (count > 1)}" for count in settings["counts"])], rows)


# Picture


def routes_taken(data: Data):
    """The share of seeds on the bypass, a bar for each number of collectors, by cell."""
    import matplotlib.pyplot as plt

    counts = settings_of(run)["counts"]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for i, count in enumerate(counts):
        shares = [100 * on_bypass(data, cell, count) for cell in CELLS]
        places = [j + 0.2 * (i - (len(counts) - 1) / 2) for j in range(len(CELLS))]
        shade = 0.35 + 0.65 * i / (len(counts) - 1)
        bars = axes.bar(places, shares, width=0.18, color=td.color_of("Dyna-Q"), alpha=shade, label=f"{count}")
        axes.bar_label(bars, [f"{share:.0f}" for share in shares], fontsize=8)
    axes.set(xticks=range(len(CELLS)), xticklabels=list(CELLS), ylabel="% of seeds on the bypass", ylim=(0, 112))
    axes.legend(title="collectors", ncols=len(counts), loc="upper left", fontsize=8)
    return figure
