"""What do the learned value functions look like? The tables of one seed, drawn as lakes."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures import distributed
from figures.assignment import AGENTS, BEST_RATE, EPISODES, EPSILONS, HALLWAY, SINGLE, learned_table, values_at_start
from figures.rows import Data, where
from figures.study import experiment, picture, spread
from figures.value_differences import MANY, draw_differences
from tabular.plots import draw_grid

ACTIONS = ["left", "down", "right", "up"]


@experiment
def run(seed=0, episodes=EPISODES, epsilons=EPSILONS, rate=0.001, best_rates=BEST_RATE, collectors=(SINGLE, MANY)):
    """The tables of one seed: both algorithms on Dangerous Hallway, and distributed Q-learning on both maps."""
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
    """A run's final table, one row per state."""
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
    """A q_table from its rows."""
    return where(data["value_functions"], shown=shown, **fields)[ACTIONS].to_numpy()


def start_value(data: Data, map: str, collectors: int) -> float:
    """The highest action value of the start, after the run of seed 0."""
    return float(table_of(data, "distributed", map=map, collectors=collectors)[0].max())


# Pictures


@picture
def values_hallway(data: Data):
    """Learned values and routes of both algorithms, and the exact optima."""
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
    """Value functions of the single core and of distributed learning, and how far they are apart."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 4, figsize=(9.6, 5.2), layout="constrained")
    for row, map in zip(panels, EPISODES, strict=True):
        for axes, count in zip(row[:2], (SINGLE, MANY), strict=True):
            q_table = table_of(data, "distributed", map=map, collectors=count)
            values = distributed.values(data, map, count)
            title = f"{distributed.config_name(count)}, seed 0\nvalue of {len(values)} seeds: {values.mean():.0f}"
            image = draw_lake(axes, map, q_table, title)
        for axes, count in zip(row[2:], (MANY, SINGLE), strict=True):
            far = draw_differences(axes, data, map, count)
        row[0].set_ylabel(f"{map}\nlearning rate {BEST_RATE[map]:g}", fontsize=9)
    below = {"location": "bottom", "shrink": 0.7}
    figure.colorbar(image, ax=panels[:, :2], label="highest action value", **below)
    figure.colorbar(far, ax=panels[:, 2:], label="mean absolute difference", extend="max", **below)
    return figure


def draw_lake(axes, map: str, q_table: np.ndarray, title: str):
    """A lake's values from 0 to 1000 with the greedy policy's most likely path; arrows on small maps; the image."""
    lake = td.FrozenLakeEnv(map_name=map)
    shape, arrows = lake.desc.shape, np.isin(lake.desc, [b"S", b"F"]) & (lake.ncol <= 8)
    values = np.where(lake.desc == b"H", np.nan, q_table[:-1].max(axis=1).reshape(shape))
    actions = np.where(arrows, q_table[:-1].argmax(axis=1).reshape(shape), -1)
    path = [divmod(state, lake.ncol) for state in td.greedy_path(q_table, lake)]
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    return draw_grid(axes, values, actions, lake.desc, path, 2 / lake.ncol, vmin=0, vmax=1_000)
