"""What breaks the lock-in in the Dangerous Hallway: the model, the optimism, or only both?"""

from __future__ import annotations

import pandas as pd

import td_helpers as td
from beyond import DistributedDynaQAgent
from figures.assignment import HALLWAY, route_of
from figures.rows import Data, settings_of, where
from figures.study import experiment, grid, spread
from figures.summaries import markdown

CELLS = {  # name: whether it plans, and the initial value
    "neither (Q-learning)": (False, 0),
    "optimism alone": (False, 1000),
    "model alone": (True, 0),
    "both (Dyna-Q)": (True, 1000),
}


@experiment
def run(
    seeds=100, counts=(1, 2, 4, 8), cells=tuple(CELLS), rate=0.001, epsilon=0.3, batch_size=10,
    tests=(500, 1_000, 2_000), later=(30_000, 100_000),
):  # fmt: skip
    """Route and exact value after some episodes of the assignment's setting, for each cell.

    One collector that does not plan, and so learns slowly, goes on to the `later` tests.
    """
    settings = {"rate": rate, "epsilon": epsilon, "batch_size": batch_size, "tests": tests, "later": later}
    yield from spread(lock_in_run, grid(cell=cells, collectors=counts, seed=range(seeds)), **settings)


def lock_in_run(cell, collectors, seed, rate, epsilon, batch_size, tests, later) -> list[dict]:
    """The rows of one run, a row per test."""
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    plans, start = CELLS[cell]
    agent = (DistributedDynaQAgent if plans else td.DistributedQLAgent)(
        lake, epsilon, rate, seed=seed, do_test=False, cw_num=collectors, batch_size=batch_size, initial_value=start,
        workers=td.InProcess(),
    )  # fmt: skip
    rows = []
    for episode in tests if plans or collectors > 1 else (*tests, *later):
        agent.learn(episode - agent.episode)
        rows.append({
            "episode": episode,
            "steps": agent.steps,
            "value": td.policy_value(lake.table, agent.q_table)[0],
            "route": route_of(lake, agent.q_table),
        })
    return rows


# Numbers


def runs(data: Data, cell: str, collectors: int, episode: int | None = None) -> pd.DataFrame:
    """The rows of a cell after `episode` episodes (None: the last of all cells), one for each seed."""
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
