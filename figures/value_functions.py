"""What do the learned value functions look like? The tables of one seed, drawn as lakes."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures import distributed
from figures.experiments import (
    AGENTS,
    BEST_RATE,
    EPISODES,
    EPSILONS,
    HALLWAY,
    OTHER_SEED,
    SINGLE,
    greedy_path,
    lake_of,
    learned_table,
    spread,
    values_at_start,
)
from figures.rows import Data, where

MANY = 8  # collectors, the most that are compared
ACTIONS = ["left", "down", "right", "up"]


def run(seed=0, episodes=EPISODES, epsilons=EPSILONS, rate=0.001, best_rates=BEST_RATE, collectors=(SINGLE, MANY)):
    """The tables of one seed: both algorithms on Dangerous Hallway, and distributed Q-learning on both maps."""
    cases = [
        {
            "shown": "algorithms",
            "map_name": HALLWAY,
            "algorithm": algorithm,
            "rate": rate,
            "epsilon": epsilon,
            "episodes": episodes[HALLWAY],
            "seed": seed,
            "collectors": SINGLE,
        }
        for epsilon, algorithm in itertools.product(epsilons, AGENTS)
    ]
    cases += [
        {
            "shown": "distributed",
            "map_name": map_name,
            "algorithm": "Q-learning",
            "rate": best_rates[map_name],
            "epsilon": epsilons[0],
            "episodes": episodes[map_name],
            "seed": seed,
            "collectors": count,
        }
        for map_name, count in itertools.product(episodes, collectors)
    ]
    yield from spread(table_run, cases, "value_functions")


def table_run(shown, map_name, algorithm, rate, epsilon, episodes, seed, collectors) -> list[dict]:
    """A run's final table, one row per state."""
    lake = lake_of(map_name)
    if algorithm == "SARSA":
        agent = td.SARSAAgent(lake, epsilon, rate, episodes, do_test=False, seed=seed)
        agent.learn(episodes)
        q_table = agent.q_table
    else:
        q_table = learned_table(lake, rate, epsilon, episodes, collectors, seed)
    setting = {
        "shown": shown,
        "map": map_name,
        "algorithm": algorithm,
        "learning_rate": rate,
        "epsilon": epsilon,
        "collectors": collectors,
    }
    return [
        {**setting, "state": state, **dict(zip(ACTIONS, values, strict=True))}
        for state, values in enumerate(q_table.tolist())
    ]


def differences(seeds=100, episodes=EPISODES, epsilon=0.3, rates=BEST_RATE, collectors=MANY):
    """How far each state's value is from the single core's, mean over seeds: with collectors, and for another seed."""
    cases = [
        {"map_name": map_name, "rate": rates[map_name], "epsilon": epsilon, "episodes": episodes[map_name],
         "seed": seed, "collectors": collectors}
        for map_name, seed in itertools.product(episodes, range(seeds))
    ]  # fmt: skip
    found = pd.DataFrame(list(spread(differences_run, cases, "differences")))
    for (map_name, count), rows in found.groupby(["map", "collectors"], sort=False):
        by_state = np.array(rows["difference"].tolist())
        visited = ~np.isnan(by_state)
        means = np.where(visited, by_state, 0).sum(axis=0) / np.maximum(visited.sum(axis=0), 1)
        for state, mean in enumerate(means):
            yield {"map": map_name, "collectors": count, "state": state, "difference": mean if mean else np.nan}


def differences_run(map_name, rate, epsilon, episodes, seed, collectors) -> list[dict]:
    """The differences of one seed."""
    lake = lake_of(map_name)
    single, other = (learned_table(lake, rate, epsilon, episodes, SINGLE, s) for s in (seed, seed + OTHER_SEED))
    many = learned_table(lake, rate, epsilon, episodes, collectors, seed)
    return [
        {"map": map_name, "collectors": count, "difference": distributed.value_difference(q_table, single)}
        for count, q_table in ((collectors, many), (SINGLE, other))
    ]


def table_of(data: Data, shown: str, **fields) -> np.ndarray:
    """A q_table from its rows."""
    return where(data["value_functions"], shown=shown, **fields)[ACTIONS].to_numpy()


def start_value(data: Data, map_name: str, collectors: int) -> float:
    """The highest action value of the start, after the run of seed 0."""
    return float(table_of(data, "distributed", map=map_name, collectors=collectors)[0].max())


def difference_at_start(data: Data, map_name: str, collectors: int) -> float:
    """The mean difference from the single core's value of the start: with collectors, or of another seed (SINGLE)."""
    rows = where(data["value_differences"], map=map_name, collectors=collectors, state=0)
    return float(rows["difference"].iloc[0])


# Pictures


def values_hallway(data: Data):
    """Learned values and routes of both algorithms, and the exact optima."""
    import matplotlib.pyplot as plt

    lake = lake_of(HALLWAY)
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


def values_distributed(data: Data):
    """Value functions of the single core and of distributed learning, and how far they are apart."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 4, figsize=(9.6, 5.2), layout="constrained")
    for row, map_name in zip(panels, EPISODES, strict=True):
        for axes, count in zip(row[:2], (SINGLE, MANY), strict=True):
            q_table = table_of(data, "distributed", map=map_name, collectors=count)
            values = distributed.values(data, map_name, count)
            title = f"{distributed.config_name(count)}, seed 0\nvalue of {len(values)} seeds: {values.mean():.0f}"
            image = draw_lake(axes, map_name, q_table, title)
        for axes, count in zip(row[2:], (MANY, SINGLE), strict=True):
            far = draw_differences(axes, data, map_name, count)
        row[0].set_ylabel(f"{map_name}\nlearning rate {BEST_RATE[map_name]:g}", fontsize=9)
    below = {"location": "bottom", "shrink": 0.7}
    figure.colorbar(image, ax=panels[:, :2], label="highest action value", **below)
    figure.colorbar(far, ax=panels[:, 2:], label="mean absolute difference", extend="max", **below)
    return figure


def draw_differences(axes, data: Data, map_name: str, count: int):
    """The mean absolute difference from the single core's values: with collectors, or of another seed (SINGLE)."""
    lake = lake_of(map_name)
    rows = where(data["value_differences"], map=map_name, collectors=count)
    values = rows.sort_values("state")["difference"].to_numpy()[:-1].reshape(lake.desc.shape)
    image = axes.imshow(np.where(lake.desc == b"H", np.nan, values), cmap="magma", vmin=0, vmax=400)
    what = "itself, other seed" if count == SINGLE else f"{distributed.config_name(count)}, same seed"
    axes.set(facecolor="#888888", xticks=[], yticks=[])
    axes.set_title(f"single core against\n{what}", fontsize=9)
    return image


def draw_lake(axes, map_name: str, q_table, title: str):
    """A lake's values from 0 to 1000 with the greedy policy's most likely path; arrows on small maps."""
    lake = lake_of(map_name)
    values = q_table.max(axis=1)[:-1].reshape(lake.desc.shape)
    image = axes.imshow(np.where(lake.desc == b"H", np.nan, values), cmap="viridis", vmin=0, vmax=1000)
    axes.set(facecolor="#222222", xticks=[], yticks=[])
    if lake.ncol <= 8:
        draw_arrows(axes, lake, q_table)
    rows, columns = np.divmod([state for state in greedy_path(lake, q_table) if state != lake.exit_state], lake.ncol)
    axes.plot(columns, rows, color="#D55E00", linewidth=2.2)
    circle = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "linewidth": 0.5}
    for letter in b"S", b"G":
        y, x = np.argwhere(lake.desc == letter)[0]
        axes.text(x, y, letter.decode(), ha="center", va="center", fontsize=8, fontweight="bold", bbox=circle)
    axes.set_title(title, fontsize=9)
    return image


def draw_arrows(axes, lake, q_table) -> None:
    """Arrows for the greedy actions, on the cells where the agent moves on."""
    row, column = np.nonzero((lake.desc == b"F") | (lake.desc == b"S"))
    direction = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # (x, y) by action, y downwards
    dx, dy = direction[q_table.argmax(axis=1)[row * lake.ncol + column]].T
    units = {"angles": "xy", "scale_units": "xy", "scale": 1.8, "width": 0.012}
    axes.quiver(column, row, dx, dy, color="white", alpha=0.8, pivot="mid", **units)
