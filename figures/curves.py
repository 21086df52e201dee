"""How do the settings learn, and where do they end? Learning curves, and what learning rate and epsilon change."""

from __future__ import annotations

import itertools
import re

import numpy as np

import td_helpers as td
from figures import exact
from figures.experiments import AGENTS, EPISODES, EPSILONS, HALLWAY, LAKE, RATES, lake_of, route_of, spread
from figures.rows import Data, settings_of, where
from figures.rules import ExpectedSARSAAgent
from figures.summaries import bootstrap, ci, coverage, markdown, number, unseen

THRESHOLD = {HALLWAY: 800, LAKE: 900}  # a value above it: a policy that reaches the goal nearly always
LATE = 20  # tests, the last fifth
EXPECTED = "Expected SARSA"
SHORT = {HALLWAY: "Hallway", LAKE: "16x16"}


def run(seeds=100, tests=100, episodes=EPISODES, rates=RATES, epsilons=EPSILONS, sampled_every=5):
    """Learning curves of all settings on both maps; Expected SARSA at the higher rate only."""
    algorithms = [(name, rate) for name, rate in itertools.product(AGENTS, rates)] + [(EXPECTED, max(rates))]
    cases = [
        {
            "map_name": map_name,
            "algorithm": algorithm,
            "rate": rate,
            "epsilon": epsilon,
            "seed": seed,
            "episodes": episodes[map_name],
            "tests": tests,
            "sampled_every": sampled_every,
        }
        for map_name, (algorithm, rate), epsilon, seed in itertools.product(
            episodes, algorithms, epsilons, range(seeds)
        )
    ]
    yield from spread(learning_curve, cases, "curves")


def learning_curve(map_name, algorithm, rate, epsilon, seed, episodes, tests, sampled_every) -> list[dict]:
    """One run as one row: the greedy policy's exact value at every test, and at some the sampled one too.

    `routes` has a letter for each test on Dangerous Hallway, that of the route; `steps` are those up to the first
    test above the threshold.
    """
    lake = lake_of(map_name)
    kind = ExpectedSARSAAgent if algorithm == EXPECTED else AGENTS[algorithm]
    agent = kind(lake, epsilon, rate, episodes, test_interval=episodes // tests, seed=seed)
    values, sampled, routes, steps = {}, {}, "", np.nan
    for test in range(1, tests + 1):
        agent.learn()
        value = td.policy_value(lake.table, agent.q_table)[0]
        values[f"value_{test}"] = round(value, 2)
        routes += route_of(lake, agent.q_table)[:1]
        if value > THRESHOLD[map_name] and np.isnan(steps):
            steps = agent.steps
        if test % sampled_every == 0:
            sampled[f"sampled_{test}"] = round(agent.evaluate(trials=agent.trials), 1)
    setting = {"map": map_name, "algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon, "seed": seed}
    return [{**setting, "steps": steps, "routes": routes, **sampled, **values}]


# Numbers: a setting is (map, algorithm, learning rate, epsilon)


def settings() -> list[tuple]:
    """All settings of both maps."""
    return list(itertools.product(EPISODES, AGENTS, RATES, EPSILONS))


def seeds(data: Data) -> int:
    return data["curves"]["seed"].nunique()


def curve(data: Data, map_name, algorithm, rate, epsilon, column="value") -> np.ndarray:
    """A setting's values at the tests, exact or "sampled", shape (seeds, tests)."""
    rows = where(data["curves"], map=map_name, algorithm=algorithm, learning_rate=rate, epsilon=epsilon)
    return rows.filter(regex=f"^{column}_").to_numpy()


def episodes_of_tests(data: Data, map_name: str, column: str = "value") -> np.ndarray:
    """The episodes after which the policies were evaluated."""
    found = [int(name.removeprefix(f"{column}_")) for name in data["curves"].filter(regex=f"^{column}_")]
    return np.array(found) * (EPISODES[map_name] // settings_of(run)["tests"])


def late(data: Data, *setting) -> np.ndarray:
    """Each seed's mean exact value over the last tests."""
    return curve(data, *setting)[:, -LATE:].mean(axis=1)


def mean_late(data: Data, *setting) -> float:
    """The mean of `late` over the seeds."""
    return late(data, *setting).mean()


def last(data: Data, *setting) -> np.ndarray:
    """Each seed's exact value at the last test."""
    return curve(data, *setting)[:, -1]


def above_threshold(data: Data, *setting) -> np.ndarray:
    """Which tests are above the map's threshold, shape (seeds, tests)."""
    return curve(data, *setting) > THRESHOLD[setting[0]]


def arrived(data: Data, *setting) -> int:
    """How many seeds ever pass the threshold."""
    return int(above_threshold(data, *setting).any(axis=1).sum())


def first_passed(data: Data, *setting) -> float:
    """The episode at which the median seed first passes the threshold."""
    above = above_threshold(data, *setting)
    tests = above.shape[1]
    first = np.where(above.any(axis=1), above.argmax(axis=1), tests)
    return (np.median(first) + 1) * (EPISODES[setting[0]] // tests)


def relapse(data: Data, *setting) -> float:
    """The share of tests below the threshold after first passing it, averaged over the seeds that pass it."""
    above = above_threshold(data, *setting)
    return np.mean([1 - seed[seed.argmax() :].mean() for seed in above if seed.any()])


def near_optimum(data: Data, *setting) -> int:
    """How many seeds end within 5 of the exact optimum."""
    return int((last(data, *setting) > exact.best(data, setting[0]).value - 5).sum())


def million_steps(data: Data, map_name, algorithm, rate, epsilon) -> float:
    """The steps, in millions, after which the median seed first passes the threshold."""
    rows = where(data["curves"], map=map_name, algorithm=algorithm, learning_rate=rate, epsilon=epsilon)
    return np.median(rows["steps"].fillna(np.inf)) / 1e6


def changed(data: Data, one: tuple, other: tuple) -> tuple:
    """How much the late value changes from one setting to the other: (mean, low, high) over the same seeds."""
    return tuple(map(float, bootstrap(late(data, *other) - late(data, *one))))


def median_changed(data: Data, one: tuple, other: tuple) -> float:
    """The median of the same change over the seeds."""
    return float(np.median(late(data, *other) - late(data, *one)))


def gaining(data: Data, one: tuple, other: tuple) -> int:
    """How many seeds have a higher late value in the other setting."""
    return int((late(data, *other) > late(data, *one)).sum())


def worst_late(data: Data, *setting) -> float:
    """The lowest of `late`."""
    return late(data, *setting).min()


def in_hallway(data: Data, *setting) -> list[int]:
    """For how many tests on end each seed's greedy path was in the hallway, at the most."""
    map_name, algorithm, rate, epsilon = setting
    rows = where(data["curves"], map=map_name, algorithm=algorithm, learning_rate=rate, epsilon=epsilon)
    return [max(map(len, re.findall("h*", routes))) for routes in rows["routes"]]


def ever_in_hallway(data: Data, *setting) -> int:
    """How many seeds' greedy path was in the hallway at a test."""
    return sum(longest > 0 for longest in in_hallway(data, *setting))


def tests_in_hallway(data: Data, *setting) -> int:
    """The longest stay there, in tests, over all seeds."""
    return max(in_hallway(data, *setting))


def bypass_first(data: Data, *setting) -> int:
    """How many seeds' greedy path was on the bypass at a test before any at which it was in the hallway."""
    map_name, algorithm, rate, epsilon = setting
    rows = where(data["curves"], map=map_name, algorithm=algorithm, learning_rate=rate, epsilon=epsilon)
    return sum("b" in routes.partition("h")[0] for routes in rows["routes"])


def mean_after(data: Data, episode: int, *setting) -> float:
    """The mean value over the seeds after so many episodes, at which there is a test."""
    places = episodes_of_tests(data, setting[0]) == episode
    return float(curve(data, *setting)[:, places].mean())


def coverages(data: Data) -> list[float]:
    """How often the interval of a late value contains the mean, by setting; see `summaries.coverage`."""
    return [coverage(late(data, *setting)) for setting in settings()]


def least_coverage(data: Data) -> float:
    return min(coverages(data))


def median_coverage(data: Data) -> float:
    return float(np.median(coverages(data)))


def best_rate(data: Data, map_name: str) -> float:
    """The learning rate with the better late values, for Q-learning with the higher epsilon."""
    return max(RATES, key=lambda rate: mean_late(data, map_name, "Q-learning", rate, EPSILONS[0]))


def below_at_the_end(data: Data, rate: float, tests: int = 10) -> int:
    """How many of the last tests are below the threshold, over all settings with this rate."""
    chosen = [setting for setting in settings() if setting[2] == rate]
    return sum(int((~above_threshold(data, *setting)[:, -tests:]).sum()) for setting in chosen)


def sampled_excess(data: Data, below: float = -900) -> float:
    """By how much the sampled value exceeds the exact one where the exact one is very low."""
    sampled = data["curves"].filter(regex="^sampled_")
    value = data["curves"][sampled.columns.str.replace("sampled", "value")].to_numpy()
    return (sampled.to_numpy() - value)[value < below].mean()


def return_of_a_loop(steps: int = 1_000) -> float:
    """The discounted return of a policy that walks in circles up to the step limit of an evaluation."""
    return -sum(0.999**t for t in range(steps))


def unseen_share(data: Data) -> float:
    """The largest share of all seeds that could go unseen in this sample (95%, one-sided)."""
    return unseen(seeds(data))


def arrivals(data: Data) -> int:
    """How many runs ever pass the threshold, over all settings."""
    return sum(arrived(data, *setting) for setting in settings())


def is_ten_times_as_soon(data: Data) -> bool:
    """Does the higher rate pass the threshold in at most a tenth of the episodes, in all settings?"""
    return all(
        first_passed(data, map_name, algorithm, RATES[0], epsilon)
        >= 10 * first_passed(data, map_name, algorithm, RATES[1], epsilon)
        for map_name, algorithm, epsilon in itertools.product(EPISODES, AGENTS, EPSILONS)
    )


# Tables


def table(data: Data) -> str:
    """All settings of both maps."""
    rows = []
    for setting in settings():
        map_name, algorithm, rate, epsilon = setting
        values = late(data, *setting)
        rows.append([
            SHORT[map_name],
            algorithm,
            f"{rate:g}",
            f"{epsilon:g}",
            ci(values),
            number(np.median(values), 1),
            number(values.min()),
            number(first_passed(data, *setting)),
            number(million_steps(data, *setting), 2),
            f"{relapse(data, *setting):.0%}",
        ])
    head = ["map", "algorithm", "rate", "epsilon", "late value", "median", "worst", "passed", "M steps", "below"]
    return markdown(head, rows)


def rates_compared(data: Data, algorithm: str) -> str:
    """The higher learning rate minus the lower one, on the same seeds."""
    rows = []
    for map_name, epsilon in itertools.product(EPISODES, EPSILONS):
        pair = [(map_name, algorithm, rate, epsilon) for rate in RATES]
        rows.append([SHORT[map_name], f"{epsilon:g}", *compared(data, *pair)])
    return comparison("epsilon", [f"rate {rate:g}" for rate in RATES], rows)


def epsilons_compared(data: Data, algorithm: str) -> str:
    """The lower epsilon minus the higher one, on the same seeds."""
    rows = []
    for map_name, rate in itertools.product(EPISODES, RATES):
        pair = [(map_name, algorithm, rate, epsilon) for epsilon in EPSILONS]
        rows.append([SHORT[map_name], f"{rate:g}", *compared(data, *pair)])
    return comparison("rate", [f"epsilon {epsilon:g}" for epsilon in EPSILONS], rows)


def compared(data: Data, one: tuple, other: tuple) -> list[str]:
    """The cells of a row that compares two settings."""
    difference = late(data, *other) - late(data, *one)
    return [*(ci(late(data, *setting), 0) for setting in (one, other)), ci(difference, 0, sign="+"),
            f"{np.median(difference):+.1f}"]  # fmt: skip


def comparison(fixed: str, pair: list[str], rows: list[list[str]]) -> str:
    return markdown(["map", fixed, *pair, "difference", "its median"], rows)


def table_of_expected(data: Data) -> str:
    """Expected SARSA beside the two algorithms at the higher rate."""
    rows = []
    for map_name, epsilon in itertools.product(EPISODES, EPSILONS):
        cells = [ci(late(data, map_name, name, RATES[1], epsilon), 0) for name in ("SARSA", EXPECTED, "Q-learning")]
        rows.append([SHORT[map_name], f"{epsilon:g}", *cells])
    return markdown(["map", "epsilon", "SARSA", EXPECTED, "Q-learning"], rows)


# Pictures


def curves_hallway(data: Data):
    return draw_curves(data, HALLWAY)


def curves_16x16(data: Data):
    return draw_curves(data, LAKE)


def draw_curves(data: Data, map_name: str):
    """Panels of epsilon by learning rate: mean exact value with its band, mean sampled value as dots."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), sharex=True, sharey=True, layout="constrained")
    optimum = exact.best(data, map_name).value
    for axes, (epsilon, rate) in zip(panels.flat, itertools.product(EPSILONS, RATES), strict=True):
        for algorithm in AGENTS:
            draw_curve(axes, data, map_name, algorithm, rate, epsilon)
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {optimum:.1f}")
        if map_name == HALLWAY:
            value = exact.through_hallway(data).value
            label = f"best by the hallway {value:.1f}"
            axes.axhline(value, color="#555555", linestyle=":", linewidth=1.2, label=label)
        axes.set_title(f"learning rate {rate:g}, epsilon {epsilon:g}", fontsize=11)
        axes.grid(alpha=0.25)
    figure.supxlabel("learning episodes", fontsize=10)
    figure.supylabel("discounted return of the greedy policy", fontsize=10)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=10)
    return figure


def draw_curve(axes, data: Data, *setting) -> None:
    """One setting's values over the episodes."""
    algorithm = setting[1]
    color = td.COLORS[algorithm]
    episode = episodes_of_tests(data, setting[0])
    mean, low, high = bootstrap(curve(data, *setting), 2_000)
    axes.fill_between(episode, low, high, color=color, alpha=0.25, linewidth=0)
    axes.plot(episode, mean, color=color, linewidth=1.8, label=f"{algorithm}, exact")
    sampled = curve(data, *setting, column="sampled").mean(axis=0)
    episode = episodes_of_tests(data, setting[0], "sampled")
    axes.plot(episode, sampled, "o", color=color, markersize=3, alpha=0.8, label=f"{algorithm}, sampled")


def late_values(data: Data):
    """Shortfall from the optimum over the last fifth of the tests: one dot per seed, and the mean with its interval."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(9, 7), sharex=True, layout="constrained")
    for axes, map_name in zip(panels, EPISODES, strict=True):
        draw_shortfalls(axes, data, map_name)
    panels[-1].set_xlabel("optimum less exact value of the greedy policy, mean of the last 20 tests (log scale)")
    return figure


def draw_shortfalls(axes, data: Data, map_name: str) -> None:
    """All settings of one map, one below the other."""
    optimum = exact.best(data, map_name).value
    jitter = np.linspace(-0.22, 0.22, seeds(data))
    names = []
    for y, (algorithm, rate, epsilon) in enumerate(itertools.product(AGENTS, RATES, EPSILONS)):
        shortfall = optimum - late(data, map_name, algorithm, rate, epsilon)
        mean, low, high = bootstrap(shortfall)
        color = td.COLORS[algorithm]
        axes.plot(shortfall, y + jitter, ".", color=color, alpha=0.4, markersize=4)
        axes.plot([low, high], [y, y], color="black", linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, y, "D", color=color, markeredgecolor="black", markersize=7)
        names.append(f"{algorithm}, rate {rate:g}, epsilon {epsilon:g}")
    draw_mark(axes, exact.hole_cost(data, map_name), "one hole beside the path", side="right")
    if map_name == HALLWAY:
        draw_mark(axes, exact.hallway_gap(data), "best by the hallway", side="left")
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlim=(0.2, 2_500), ylim=(len(names) - 0.5, -1.35))
    axes.set_title(f"{map_name}, optimum {optimum:.1f}", fontsize=11)
    axes.grid(alpha=0.25)


def draw_mark(axes, x: float, name: str, side: str) -> None:
    """A dotted line at a shortfall with a known cause."""
    axes.axvline(x, color="#555555", linestyle=":", linewidth=1.2)
    axes.text(x, -0.75, f" {name}, {x:.0f} ", ha=side, va="bottom", fontsize=9, color="#333333")
