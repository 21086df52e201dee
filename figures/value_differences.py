"""How far are the values of distributed learning from a single core's, state by state?"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

import td_helpers as td
from figures import distributed
from figures.assignment import BEST_RATE, EPISODES, OTHER_SEED, SINGLE, learned_table
from figures.rows import Data, where
from figures.study import experiment, grid, spread

MANY = 8  # collectors, the most that are compared


@experiment
def run(seeds=100, episodes=EPISODES, epsilon=0.3, rates=BEST_RATE, collectors=MANY):
    """Mean absolute difference of each state's value from the single core's: with collectors, and for another seed."""
    cases = grid(map=episodes, seed=range(seeds))
    settings = {"episodes": episodes, "epsilon": epsilon, "rates": rates, "collectors": collectors}
    found = pd.DataFrame(list(spread(differences_run, cases, **settings)))
    for (map, count), rows in found.groupby(["map", "collectors"], sort=False):
        by_state = np.array(rows["difference"].tolist())
        visited = ~np.isnan(by_state)
        means = np.where(visited, by_state, 0).sum(axis=0) / np.maximum(visited.sum(axis=0), 1)
        for state, mean in enumerate(means):
            yield {"map": map, "collectors": count, "state": state, "difference": mean if mean else np.nan}


def differences_run(map, seed, episodes, epsilon, rates, collectors) -> list[dict]:
    """The differences of one seed."""
    learn = functools.partial(learned_table, td.FrozenLakeEnv(map_name=map), rates[map], epsilon, episodes[map])
    single, other = learn(SINGLE, seed), learn(SINGLE, seed + OTHER_SEED)
    many = learn(collectors, seed)
    return [
        {"collectors": count, "difference": distributed.value_difference(q_table, single)}
        for count, q_table in ((collectors, many), (SINGLE, other))
    ]


def at_start(data: Data, map: str, collectors: int) -> float:
    """The mean difference from the single core's value of the start: with collectors, or of another seed (SINGLE)."""
    rows = where(data["value_differences"], map=map, collectors=collectors, state=0)
    return float(rows["difference"].iloc[0])


def draw_differences(axes, data: Data, map: str, count: int):
    """The mean absolute difference from the single core's values: with collectors, or of another seed (SINGLE)."""
    lake = td.FrozenLakeEnv(map_name=map)
    rows = where(data["value_differences"], map=map, collectors=count)
    values = rows.sort_values("state")["difference"].to_numpy()[:-1].reshape(lake.desc.shape)
    image = axes.imshow(np.where(lake.desc == b"H", np.nan, values), cmap="magma", vmin=0, vmax=400)
    what = "itself, other seed" if count == SINGLE else f"{distributed.config_name(count)}, same seed"
    axes.set(facecolor="#888888", xticks=[], yticks=[])
    axes.set_title(f"single core against\n{what}", fontsize=9)
    return image
