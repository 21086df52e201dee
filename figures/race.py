"""Which configuration has a good policy on 16x16 after fewer seconds, each at its own best learning rate?

Values and steps are computed in one process, which gives the same tables as Ray. Seconds are the steps and batches of
these runs, times what a step and a batch cost in the timed runs on 16x16.
"""

from __future__ import annotations

import functools

import numpy as np

import td_helpers as td
from figures import exact, timing, tuning
from figures.assignment import LAKE, SINGLE, learner
from figures.curves import THRESHOLD, stretch_near
from figures.distributed import COUNTS, config_name
from figures.rows import Data, settings_of, where
from figures.study import experiment, picture, spread
from figures.summaries import interval, markdown, number

BEST = (  # collectors, episodes per batch, and their best learning rate, as `tuning` finds it
    (SINGLE, 0, 0.2),
    (2, 10, 0.2), (4, 10, 0.2), (8, 10, 0.1),
    (2, 100, 0.2), (4, 100, 0.1), (8, 100, 0.1),
)  # fmt: skip
SIMULATORS = {"compiled": 100, "stepped": 100, "waits": 10}  # episodes per batch


@experiment
def run(seeds=100, best=BEST, epsilon=0.3, episodes=6_000, every=100):
    """Yield the exact value and the steps after every `every` episodes, for each configuration."""
    cases = [
        {"collectors": count, "batch_size": size, "rate": rate, "seed": seed}
        for count, size, rate in best
        for seed in range(seeds)
    ]
    yield from spread(race_run, cases, epsilon=epsilon, episodes=episodes, every=every)


def race_run(collectors, batch_size, rate, seed, epsilon, episodes, every) -> list[dict]:
    """Return a run's values and steps at all looks, in one row."""
    lake = td.FrozenLakeEnv(map_name=LAKE)
    agent = learner(lake, rate, epsilon, collectors, seed, batch_size)
    values, steps = {}, {}
    for look in range(1, episodes // every + 1):
        agent.learn(every)
        values[f"value_{look}"] = round(td.policy_value(lake.table, agent.q_table)[0], 1)
        steps[f"steps_{look}"] = agent.steps
    return [values | steps]


# Numbers


def looks(data: Data, collectors: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values and steps, each of shape (seeds, looks)."""
    rows = where(data["race"], collectors, 0 if collectors == SINGLE else batch_size)
    values, steps = (rows.filter(regex=f"^{name}_").to_numpy(float) for name in ("value", "steps"))
    return values, steps


def clock(data: Data, simulator: str, collectors: int) -> np.ndarray:
    """Return the seconds at the looks, shape (seeds, looks): what the steps and batches so far cost."""
    size = SIMULATORS[simulator]
    steps = looks(data, collectors, size)[1]
    batches = settings_of(run)["every"] / size * np.arange(1, steps.shape[1] + 1)
    price = timing.price(data, simulator, LAKE, collectors, size)
    return price.step * steps + price.batch * batches


def until_good(values: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """Each seed's progress, in steps or seconds, when its policy is good; infinite if it never is."""
    found = [tuning.first_good(*run) for run in zip(progress, values, strict=True)]
    return np.nan_to_num(found, nan=np.inf)


def seconds(data: Data, simulator: str, collectors: int) -> np.ndarray:
    """Each seed's seconds until its policy is good."""
    return until_good(looks(data, collectors, SIMULATORS[simulator])[0], clock(data, simulator, collectors))


def steps(data: Data, collectors: int, batch_size: int) -> np.ndarray:
    """Each seed's steps until its policy is good."""
    return until_good(*looks(data, collectors, batch_size))


def good_after(data: Data, simulator: str, collectors: int) -> float:
    """The median seed's seconds until its policy is good."""
    return float(np.median(seconds(data, simulator, collectors)))


def good_at_the_end(data: Data, collectors: int, batch_size: int) -> float:
    """The share of seeds whose policy is good at the last look."""
    return float((looks(data, collectors, batch_size)[0][:, -1] > THRESHOLD[LAKE]).mean())


def least_arrivals(data: Data) -> float:
    """The share of seeds that are good before the end, in the configuration where fewest are."""
    return float(min(np.isfinite(steps(data, count, size)).mean() for count, size, _ in settings_of(run)["best"]))


def ratio(one: np.ndarray, other: np.ndarray, resamples: int = 10_000) -> tuple:
    """The ratio of two medians over the same seeds: (ratio, low, high)."""
    drawn = np.random.default_rng(0).integers(len(one), size=(resamples, len(one)))
    ratios = np.median(one[drawn], axis=1) / np.median(other[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5], method="nearest")  # medians may be infinite
    return float(np.median(one) / np.median(other)), float(low), float(high)


def gain(data: Data, simulator: str, collectors: int) -> tuple:
    """One core's median seconds until good over the team's: (ratio, low, high)."""
    return ratio(*(seconds(data, simulator, count) for count in (SINGLE, collectors)))


def delay(data: Data, simulator: str, collectors: int) -> tuple:
    """The team's median seconds until good over one core's: (ratio, low, high)."""
    return ratio(*(seconds(data, simulator, count) for count in (collectors, SINGLE)))


def more_steps(data: Data, collectors: int, batch_size: int) -> tuple:
    """The team's median steps until good over one core's, each at its own rate: (ratio, low, high)."""
    return ratio(steps(data, collectors, batch_size), steps(data, SINGLE, 0))


def value_after(data: Data, simulator: str, collectors: int, moments: np.ndarray) -> np.ndarray:
    """Each seed's value after these seconds, that of the latest look, shape (seeds, moments)."""
    values, found = looks(data, collectors, SIMULATORS[simulator])[0], []
    for value, passed in zip(values, clock(data, simulator, collectors), strict=True):
        found.append(value[np.searchsorted(passed, moments, side="right") - 1])
    return np.array(found)


def dearest_rate(data: Data) -> float:
    """The most that a configuration's rate costs: its median steps in `tuning`, over those of the best rate tried."""
    found = []
    for count, size, rate in settings_of(run)["best"]:
        median = functools.partial(tuning.median_steps, data, count, size)
        found.append(median(rate) / median(tuning.best_rate(data, count, size)))
    return float(max(found))


# Table and picture


def table(data: Data) -> str:
    """A table of steps and seconds until the policy is good, by configuration and simulator."""
    rows = []
    for count in (SINGLE, *COUNTS):
        sizes = (0,) if count == SINGLE else (100, 10)
        medians = [number(np.median(steps(data, count, size))) for size in sizes] + [""] * (2 - len(sizes))
        if count == SINGLE:
            times = [f"{good_after(data, name, count):.2g} s" for name in SIMULATORS]
        else:
            times = [interval(gain(data, name, count), ".2g") for name in SIMULATORS]
        rows.append([config_name(count), *medians, *times])
    return markdown(["", "steps, by 100", "by 10", *SIMULATORS], rows)


@picture
def value_by_seconds(data: Data):
    """Exact value against seconds, a panel per simulator."""
    import matplotlib.pyplot as plt

    optimum = exact.best(data, LAKE).value
    figure, panels = plt.subplots(1, len(SIMULATORS), figsize=(9, 3.9), sharey=True, layout="constrained")
    for axes, simulator in zip(panels, SIMULATORS, strict=True):
        for count in (SINGLE, *COUNTS):
            draw_line(axes, data, simulator, count)
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {optimum:.0f}")
        axes.set_title("waits 200 µs a step" if simulator == "waits" else simulator, fontsize=11)
        axes.set(xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.25)
    stretch_near(panels[0], optimum)
    panels[0].set_ylabel("exact value (stretched near the optimum)", fontsize=10)
    figure.supxlabel("seconds (log scale)", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=10)
    return figure


def draw_line(axes, data: Data, simulator: str, count: int) -> None:
    """Draw the median seed's value and when its policy is good; for one core and the largest team also quartiles."""
    passed = clock(data, simulator, count)
    moments = np.geomspace(passed[:, 0].max(), passed[:, -1].min(), 150)  # all seeds have a value
    low, middle, high = np.percentile(value_after(data, simulator, count, moments), [25, 50, 75], axis=0)
    color = "black" if count == SINGLE else timing.COLORS[count]
    if count in (SINGLE, COUNTS[-1]):
        axes.fill_between(moments, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(moments, middle, color=color, linewidth=1.8, label=config_name(count))
    mark = {"color": color, "markersize": 9, "markeredgecolor": "black", "zorder": 3}
    axes.plot(good_after(data, simulator, count), 0.96, "v", transform=axes.get_xaxis_transform(), **mark)
