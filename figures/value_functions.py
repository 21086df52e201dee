"""What do the learned value functions look like? The tables of one seed, drawn as lakes."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures import distributed
from figures.assignment import (
    AGENTS,
    BEST_RATE,
    EPISODES,
    EPSILONS,
    HALLWAY,
    LAKE,
    SINGLE,
    learned_table,
    values_at_start,
)
from figures.rows import Data, where
from figures.study import experiment, picture, spread
from tabular.plots import draw_grid

SHOWN = (SINGLE, *distributed.COUNTS)  # numbers of collectors
ACTIONS = ["left", "down", "right", "up"]
LOWEST = {HALLWAY: 800.0, LAKE: 0.0}  # of the colour scale: on Dangerous Hallway most values are close to 1000


@experiment
def run(seed=0, episodes=EPISODES, epsilons=EPSILONS, rate=0.001, best_rates=BEST_RATE, collectors=SHOWN):
    """Yield the tables of one seed: both algorithms on Dangerous Hallway, and distributed Q-learning on both maps."""
    algorithms = [
        {"shown": "algorithms", "map": HALLWAY, "algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon,
         "collectors": SINGLE, "seed": seed}
        for epsilon, algorithm in itertools.product(epsilons, AGENTS)
    ]  # fmt: skip
    teams = [
        {"shown": "distributed", "map": map, "algorithm": "Q-learning", "learning_rate": best_rates[map],
         "epsilon": epsilons[0], "collectors": count, "seed": seed}
        for map, count in itertools.product(episodes, collectors)
    ]  # fmt: skip
    for row in spread(table_run, algorithms + teams, episodes=episodes):
        seed = row.pop("seed")
        yield {**row, "seed": seed}  # the last column


def table_run(shown, map, algorithm, learning_rate, epsilon, collectors, seed, episodes) -> list[dict]:
    """Return a run's final table, one row per state."""
    lake = td.FrozenLakeEnv(map_name=map)
    if algorithm == "SARSA":
        agent = td.SARSAAgent(lake, epsilon, learning_rate, episodes[map], do_test=False, seed=seed)
        agent.learn(episodes[map])
        q_table = agent.q_table
    else:
        q_table = learned_table(lake, learning_rate, epsilon, episodes[map], collectors, seed)
    return [
        {"state": state, **dict(zip(ACTIONS, values, strict=True))} for state, values in enumerate(q_table.tolist())
    ]


def table_of(data: Data, shown: str, **fields) -> np.ndarray:
    """Return the q_table saved under `shown` and `fields`."""
    return where(data["value_functions"], shown=shown, **fields)[ACTIONS].to_numpy()


# Pictures


@picture
def values_hallway(data: Data):
    """Draw the learned values and routes of both algorithms, and the exact optima."""
    import matplotlib.pyplot as plt

    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    figure, panels = plt.subplots(2, 3, figsize=(9, 5.9), layout="constrained")
    for row, epsilon in zip(panels, EPSILONS, strict=True):
        shown = {name: table_of(data, "algorithms", algorithm=name, epsilon=epsilon) for name in AGENTS}
        shown["exact optimum"] = td.value_iteration(lake.table, epsilon=epsilon)
        for axes, (name, q_table) in zip(row, shown.items(), strict=True):
            found = values_at_start(lake, q_table, epsilon)
            title = f"{name}, epsilon {epsilon:g}\ngreedy {found['value']:.0f}, exploring {found['on_policy']:.0f}"
            image = draw_lake(axes, HALLWAY, q_table, title)
    figure.colorbar(image, ax=panels, label="highest action value of the table", shrink=0.7)
    return figure


@picture
def values_distributed(data: Data):
    """Draw the value functions of the single core and of all distributed configurations."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(SHOWN), figsize=(9.6, 5.2), layout="constrained")
    for row, map in zip(panels, EPISODES, strict=True):
        for axes, count in zip(row, SHOWN, strict=True):
            q_table = table_of(data, "distributed", map=map, collectors=count)
            title = f"{distributed.config_name(count)}: {values_of(map, q_table)[0]:.0f}"
            image = draw_lake(axes, map, q_table, title, LOWEST[map])
        row[0].set_ylabel(f"{map}, rate {BEST_RATE[map]:g}", fontsize=10)
        figure.colorbar(image, ax=row, label="highest action value", extend="min")
    return figure


def values_of(map: str, q_table: np.ndarray) -> np.ndarray:
    """The exact values of a table's greedy policy."""
    return td.policy_value(td.FrozenLakeEnv(map_name=map).table, q_table)


def draw_lake(axes, map: str, q_table: np.ndarray, title: str, lowest: float = 0.0):
    """Draw a lake's values from `lowest` to 1000 and the greedy policy's most likely path; return the image."""
    lake = td.FrozenLakeEnv(map_name=map)
    shape, arrows = lake.desc.shape, np.isin(lake.desc, [b"S", b"F"]) & (lake.ncol <= 8)
    values = np.where(lake.desc == b"H", np.nan, q_table[:-1].max(axis=1).reshape(shape))
    actions = np.where(arrows, q_table[:-1].argmax(axis=1).reshape(shape), -1)
    path = [divmod(state, lake.ncol) for state in td.greedy_path(q_table, lake)]
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    return draw_grid(axes, values, actions, lake.desc, path, 2 / lake.ncol, vmin=lowest, vmax=1_000)
