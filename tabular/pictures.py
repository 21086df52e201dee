"""Pictures of a q_table on a lake (values, greedy actions, the likeliest path), and films of how they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import names_checked
from .checks import check_q_table
from .exact import likeliest_path, policy_value
from .lake import FrozenLakeEnv, as_lake
from .plots import Film, Picture, film, plot_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@names_checked
def greedy_path(q_table: np.ndarray, lake: Any) -> list[int]:
    """The states that the greedy policy visits from S if every move has its likeliest outcome, up to any loop.

    `lake` is a FrozenLakeEnv, a name of `MAPS`, or a map. The last state is a goal if the path reaches one.
    """
    lake = as_lake(lake)
    return [state for state in likeliest_path(lake.table, q_table) if state != lake.exit_state]


def _picture(q_table: np.ndarray, lake: FrozenLakeEnv, text: str = "") -> Picture:
    """Return the values, greedy actions and path of a q_table; cells never updated have no action."""
    cells = check_q_table("q_table", q_table, lake.table.shape)[:-1]  # without the exit state
    learned = cells.any(axis=1).reshape(lake.desc.shape) & np.isin(lake.desc, [b"S", b"F"])
    values = cells.max(axis=1).reshape(lake.desc.shape)
    values = np.where(lake.desc == b"H", np.nan, values)  # holes would stretch the scale
    actions = np.where(learned, cells.argmax(axis=1).reshape(lake.desc.shape), -1)
    return Picture(values, actions, [divmod(state, lake.ncol) for state in greedy_path(q_table, lake)], text)


@names_checked
def plot_image(
    q_table: np.ndarray, lake: Any, title: str = "Value and greedy policy", scale: tuple[float, float] | None = None
) -> Figure:
    """Plot learned values as a heat map, greedy actions as arrows and the likeliest path as a line; return the figure.

    `lake` is a FrozenLakeEnv, a name of `MAPS`, or a map. Cells never updated have no arrow. The colours span `scale`,
    (lowest, highest); None: from 0, or the lowest value if it is negative, to the highest. Maps of more than 4096 cells
    are shown without arrows, at no more than 1000 cells per side. Raises ValueError if `q_table` does not fit the lake.
    """
    lake = as_lake(lake)
    values, actions, path, _ = _picture(q_table, lake)
    return plot_grid(values, actions, lake.desc, title, path, scale)


@names_checked
def animate(tables: dict[str, list[np.ndarray]], lake: Any, episodes: Sequence[int], seconds: float = 0.2) -> Film:
    """Make a film of learners' values and greedy policies, side by side, which can be shown or saved as a GIF.

    `tables` maps a learner's name to its q_tables, one for each of `episodes`, the numbers of episodes learned by then.
    The greedy policy's exact value is shown below each picture. Raises ValueError unless all lists have one length.
    """
    lake = as_lake(lake)
    pictures = {
        name: [_picture(table, lake, f"exact value {policy_value(lake.table, table)[0]:.0f}") for table in of_one]
        for name, of_one in tables.items()
    }
    alt = f"{' and '.join(tables)} while learning: the value of each cell, the greedy actions and the likeliest path"
    return Film(film(lake.desc, pictures, [f"episode {episode:,}" for episode in episodes], seconds), alt)
