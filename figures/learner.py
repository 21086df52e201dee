"""What limits the distributed runs? The learner's share of the time, and Ray's cost; from the rows of `timing`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from figures.distributed import config_name
from figures.experiments import SINGLE
from figures.rows import Data
from figures.summaries import markdown
from figures.timing import configuration, configurations, group_of, groups, name_of, step_seconds


def busy(data: Data, simulator: str, map_name: str, collectors: int) -> float:
    """The share of the time in which the learner learns, without evaluation."""
    return busy_share(group_of(data, simulator, map_name), collectors)


def busy_share(rows: pd.DataFrame, collectors: int) -> float:
    rows = configuration(rows, collectors)
    return np.median(rows["replay_seconds"] / rows["seconds"])


def step_us(data: Data, simulator: str, map_name: str) -> float:
    """The time per step on the single core, in µs."""
    return 1e6 * step_seconds(group_of(data, simulator, map_name), SINGLE)


def replay_us(data: Data, simulator: str, map_name: str) -> float:
    """The server's time to replay a step, with two collectors running beside it, in µs."""
    rows = configuration(group_of(data, simulator, map_name), 2)
    return 1e6 * np.median(rows["replay_seconds"] / rows["steps"])


def ceiling(data: Data, simulator: str, map_name: str) -> float:
    """The highest speed-up that replaying allows, with any number of collectors."""
    return step_us(data, simulator, map_name) / replay_us(data, simulator, map_name)


def ray_ms(rows: pd.DataFrame, collectors: int) -> float:
    """Ray's overhead per batch, in ms: its time beyond its share of a single core's time for as many steps."""
    step = step_seconds(rows, SINGLE)
    rows = configuration(rows, collectors)
    waits = (rows["simulator"] == "waits").all()  # collectors that wait need no core
    share = collectors if waits else np.minimum(collectors, rows["cores"])
    return 1e3 * np.median((rows["seconds"] - step * rows["steps"] / share) / (rows["episodes"] // rows["batch_size"]))


def table(data: Data) -> str:
    """How busy the learner is, and Ray's overhead per batch."""
    counts = [count for count in configurations(data) if count != SINGLE]
    rows = []
    for title, group in groups(data).items():
        cells = [f"{busy_share(group, count):.1%}, {ray_ms(group, count):.1f} ms" for count in counts]
        rows.append([name_of(title), f"{group['batch_size'].iloc[0]}", *cells])
    return markdown(["simulator, map", "batch", *map(config_name, counts)], rows)
