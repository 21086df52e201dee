"""What limits distributed runs, and when do they pay? The cost of a batch and a model, from the rows of `timing`."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd

from figures import timing
from figures.assignment import HALLWAY, SINGLE
from figures.rows import Data, where
from figures.study import picture
from figures.summaries import markdown

MARKERS = {"compiled": "s", "stepped": "D", "waits": "o", "computes": "x"}


# The parts of a batch


def step_us(data: Data, simulator: str, map: str) -> float:
    """The time per step on a single core, in µs."""
    rows = timing.runs(data, simulator, map, SINGLE)
    return 1e6 * np.median(rows["seconds"] / rows["steps"])


def replay_us(data: Data, simulator: str, map: str) -> float:
    """The server's time to replay a step while two collectors run beside it, in µs."""
    rows = timing.runs(data, simulator, map, 2)
    return 1e6 * np.median(rows["replay_seconds"] / rows["steps"])


# The model


class Model(NamedTuple):
    """A model of the speed-up: a batch takes max(simulation / collectors + Ray's cost, replay)."""

    collectors: int
    ray_us: float  # this and the next two are per batch
    replay_us: float
    steps: float

    def speed_up(self, cost):
        """Speed-up over a single core when a simulator step costs `cost` µs."""
        simulation = cost * self.steps
        return simulation / np.maximum(simulation / self.collectors + self.ray_us, self.replay_us)

    @property
    def break_even(self) -> float:
        """The step cost, in µs, above which the collectors beat a single core."""
        if self.collectors == 1:
            return np.inf
        return self.ray_us * self.collectors / ((self.collectors - 1) * self.steps)

    @property
    def break_even_ms(self) -> float:
        """The break-even as simulation time per batch, in ms."""
        return self.break_even * self.steps / 1e3


def short_runs(data: Data, simulator: str, collectors: int) -> pd.DataFrame:
    """The runs in batches of 10 episodes, without evaluation."""
    case = {"simulator": simulator, "map": HALLWAY, "batch_size": 10, "evaluated": 0, "learner": "Q-learning"}
    return where(data["timing"], **case, collectors=collectors)


def model(data: Data, collectors: int) -> Model:
    """The model fitted to runs with the compiled simulator, whose steps cost next to nothing."""
    compiled = short_runs(data, "compiled", collectors)
    batches = compiled["episodes"] // compiled["batch_size"]
    waiting = short_runs(data, "waits", collectors)
    return Model(
        collectors,
        ray_us=1e6 * np.median(compiled["seconds"] / batches),
        replay_us=1e6 * np.median(compiled["replay_seconds"] / batches),
        steps=np.median(waiting["steps"] / (waiting["episodes"] // waiting["batch_size"])),
    )


def points(data: Data, collectors: int) -> pd.DataFrame:
    """Step cost on a single core and speed-up: one row per simulator run in batches of 10."""
    found = []
    for simulator in timing.SUITE:
        single = short_runs(data, simulator, SINGLE)
        many = short_runs(data, simulator, collectors)
        for microseconds in single["microseconds"].unique():
            pace = [
                (rows["steps"] / rows["seconds"]).to_numpy()
                for rows in (where(single, microseconds=microseconds), where(many, microseconds=microseconds))
            ]
            ratio = pace[1] / pace[0]
            found.append({
                "simulator": simulator,
                "cost": np.median(1e6 / pace[0]),
                "speed_up": np.median(ratio),
                "low": ratio.min(),
                "high": ratio.max(),
            })
    return pd.DataFrame(found)


def measured(data: Data, collectors: int) -> float:
    """The measured break-even, in µs per step; nan if there is none.

    Simulators that compute are left out: they gain nothing from more collectors than cores.
    """
    rows = points(data, collectors)
    rows = rows[rows["simulator"] != "computes"]
    return crossing(rows["cost"], rows["speed_up"])


def crossing(x, speed_up) -> float:
    """The x at which the speed-up crosses 1, by log-log interpolation; nan if it never does."""
    for (x0, y0), (x1, y1) in itertools.pairwise(sorted(zip(x, speed_up, strict=True))):
        if y0 < 1 <= y1:
            return x0 * (x1 / x0) ** (np.log(1 / y0) / np.log(y1 / y0))
    return np.nan


def table(data: Data) -> str:
    """A table of the break-even, predicted by the model and measured."""
    rows = []
    for count in (2, 4, 8):
        law = model(data, count)
        found = measured(data, count)
        waiting = where(points(data, count), simulator="waits")
        far = waiting.loc[waiting["cost"].idxmax()]
        rows.append([
            f"{count}",
            f"{law.ray_us / 1e3:.2f}",
            f"{law.break_even:.1f}",
            "" if np.isnan(found) else f"{found:.1f}",
            f"{law.break_even_ms:.1f}",
            f"{far.speed_up:.2f} ({far.low:.2f} to {far.high:.2f})",
            f"{law.speed_up(far.cost):.2f}",
        ])
    head = ["collectors", "overhead, ms", "pays from, µs: model", "measured", "ms a batch", "at 200 µs", "model"]
    return markdown(head, rows)


@picture
def break_even(data: Data):
    """Speed-up over a single core against the cost of a simulator step, with the model as a line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.6), layout="constrained")
    for count in timing.COLORS:
        draw_collectors(axes, data, count)
    axes.axhline(1, color="black", linestyle=(0, (6, 3)), linewidth=1)
    axes.text(0.015, 1.08, "as fast as a single core", fontsize=10)
    names = {"stepped": "stepped in Python", "computes": "computes 50 µs"}
    for simulator, marker in MARKERS.items():
        axes.plot([], [], marker, color="#444444", label=f"measured: {names.get(simulator, simulator)}")
    axes.plot([], [], color="#444444", label="model")
    axes.plot([], [], "*", color="white", markeredgecolor="black", markersize=13, label="break-even by the model")
    axes.set(xscale="log", yscale="log", xlim=(0.012, 1_500))
    axes.set_xlabel("cost of a step on a single core, µs (log scale)")
    axes.set_ylabel("steps per second, as a multiple of a single core's")
    title = f"Dangerous Hallway, batches of 10 episodes, {timing.cores(data)} cores, no evaluation"
    axes.set_title(title, fontsize=11)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9)
    return figure


def draw_collectors(axes, data: Data, count: int) -> None:
    """Draw the model's line and the measured points for `count` collectors."""
    color = timing.COLORS[count]
    law = model(data, count)
    cost = np.geomspace(0.014, 400, 400)
    axes.plot(cost, law.speed_up(cost), color=color, linewidth=1.5)
    for simulator, marker in MARKERS.items():
        rows = where(points(data, count), simulator=simulator)
        shift = count**0.13 if simulator == "computes" else 1  # so that points do not coincide
        bars = [rows["speed_up"] - rows["low"], rows["high"] - rows["speed_up"]]
        axes.errorbar(
            rows["cost"] * shift, rows["speed_up"], color=color, fmt=marker, markersize=6, linewidth=1.2, yerr=bars
        )
    name = f"{count} collector{'s' if count > 1 else ''}"
    below = "top" if count == 1 else "center"
    axes.text(cost[-1] * 1.1, law.speed_up(cost[-1]), name, color=color, va=below, fontsize=10)
    if count > 1:
        axes.plot(law.break_even, 1, "*", color=color, markersize=15, markeredgecolor="black", zorder=5)
