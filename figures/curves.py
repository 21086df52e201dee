"""How do the settings learn, and where do they end? Learning curves, and what learning rate and epsilon change."""

from __future__ import annotations

import itertools
import re

import numpy as np

import td_helpers as td
from figures import exact
from figures.assignment import AGENTS, EPISODES, EPSILONS, HALLWAY, LAKE, RATES, SHORT, route_of
from figures.rows import Data, seeds, settings_of, where
from figures.study import experiment, picture, spread
from figures.summaries import bootstrap, ci, coverage, markdown, number

THRESHOLD = {HALLWAY: 800, LAKE: 900}  # a value above it: a policy that reaches the goal nearly always
LATE = 20  # tests, the last fifth
EXPECTED = "Expected SARSA"
SETTINGS = list(itertools.product(EPISODES, AGENTS, RATES, EPSILONS))  # (map, algorithm, learning rate, epsilon)


def expected_sarsa(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Update with the mean over the next actions: SARSA without the noise of exploration.

    Van Seijen et al. (2009); Sutton and Barto 6.6.
    """
    target = reward
    if not terminated:
        row, epsilon = q_table[next_state], parameters.epsilon
        value = (1 - epsilon) * max(row) + epsilon * sum(row) / len(actions)
        target = reward + parameters.beta * value
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


class ExpectedSARSAAgent(td.TDAgent):
    agent_name = "Expected SARSA agent"
    kernel = td.Rule(expected_sarsa)


@experiment
def run(seeds=100, tests=100, episodes=EPISODES, rates=RATES, epsilons=EPSILONS, sampled_every=5):
    """Learning curves of all settings on both maps; Expected SARSA at the higher rate only."""
    algorithms = [*itertools.product(AGENTS, rates), (EXPECTED, max(rates))]
    cases = [
        {"map": map, "algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon, "seed": seed}
        for map, (algorithm, rate), epsilon, seed in itertools.product(episodes, algorithms, epsilons, range(seeds))
    ]
    yield from spread(learning_curve, cases, episodes=episodes, tests=tests, sampled_every=sampled_every)


def learning_curve(map, algorithm, learning_rate, epsilon, seed, episodes, tests, sampled_every) -> list[dict]:
    """Run one agent; return one row with the exact value of its greedy policy at each test, sampled at some of them.

    `routes` has the first letter of the route at each test on Dangerous Hallway. `steps` are the learning steps up to
    the first test above the threshold, nan if there is none.
    """
    lake = td.FrozenLakeEnv(map_name=map)
    kind = ExpectedSARSAAgent if algorithm == EXPECTED else AGENTS[algorithm]
    agent = kind(lake, epsilon, learning_rate, episodes[map], test_interval=episodes[map] // tests, seed=seed)
    values, sampled, routes, steps = {}, {}, "", np.nan
    for test in range(1, tests + 1):
        agent.learn()
        value = td.policy_value(lake.table, agent.q_table)[0]
        values[f"value_{test}"] = round(value, 2)
        routes += route_of(lake, agent.q_table)[:1]
        if value > THRESHOLD[map] and np.isnan(steps):
            steps = agent.steps
        if test % sampled_every == 0:
            sampled[f"sampled_{test}"] = round(agent.evaluate(trials=agent.trials), 1)
    return [{"steps": steps, "routes": routes, **sampled, **values}]


# Numbers: a setting is (map, algorithm, learning rate, epsilon)


def curve(data: Data, *setting, column: str = "value") -> np.ndarray:
    """A setting's values at the tests, exact or "sampled", shape (seeds, tests)."""
    return where(data["curves"], *setting).filter(regex=f"^{column}_").to_numpy()


def episodes_of_tests(data: Data, map: str, column: str = "value") -> np.ndarray:
    """The episodes after which the policies were evaluated."""
    found = [int(name.removeprefix(f"{column}_")) for name in data["curves"].filter(regex=f"^{column}_")]
    return np.array(found) * (EPISODES[map] // settings_of(run)["tests"])


def late(data: Data, *setting) -> np.ndarray:
    """Each seed's mean exact value over the last tests."""
    return curve(data, *setting)[:, -LATE:].mean(axis=1)


def difference(data: Data, one: tuple, other: tuple) -> np.ndarray:
    """The late value of the other setting minus that of the one, for each seed."""
    return late(data, *other) - late(data, *one)


def changed(data: Data, one: tuple, other: tuple) -> tuple:
    """The mean of `difference` with its interval: (mean, low, high)."""
    return tuple(map(float, bootstrap(difference(data, one, other))))


def above_threshold(data: Data, *setting) -> np.ndarray:
    """Which tests are above the map's threshold, shape (seeds, tests)."""
    return curve(data, *setting) > THRESHOLD[setting[0]]


def first_passed(data: Data, *setting) -> float:
    """The episode at which the median seed first passes the threshold."""
    above = above_threshold(data, *setting)
    tests = above.shape[1]
    first = np.where(above.any(axis=1), above.argmax(axis=1), tests)
    return (np.median(first) + 1) * (EPISODES[setting[0]] // tests)


def million_steps(data: Data, *setting) -> float:
    """The steps, in millions, after which the median seed first passes the threshold."""
    return np.median(where(data["curves"], *setting)["steps"].fillna(np.inf)) / 1e6


def relapse(data: Data, *setting) -> float:
    """The share of tests below the threshold after first passing it, averaged over the seeds that pass it."""
    return np.mean([1 - seed[seed.argmax() :].mean() for seed in above_threshold(data, *setting) if seed.any()])


def near_optimum(data: Data, *setting) -> int:
    """How many seeds end within 5 of the exact optimum."""
    return int((curve(data, *setting)[:, -1] > exact.best(data, setting[0]).value - 5).sum())


def stays_in_hallway(data: Data, *setting) -> list[int]:
    """The longest stay of each seed's greedy path in the hallway, in tests."""
    return [max(map(len, re.findall("h*", routes))) for routes in where(data["curves"], *setting)["routes"]]


def ever_in_hallway(data: Data, *setting) -> int:
    """How many seeds' greedy path was in the hallway at a test."""
    return sum(longest > 0 for longest in stays_in_hallway(data, *setting))


def tests_in_hallway(data: Data, *setting) -> int:
    """The longest stay there over all seeds, in tests."""
    return max(stays_in_hallway(data, *setting))


def bypass_first(data: Data, *setting) -> int:
    """How many seeds' greedy path was on the bypass at a test before any at which it was in the hallway."""
    return sum("b" in routes.partition("h")[0] for routes in where(data["curves"], *setting)["routes"])


def mean_after(data: Data, episode: int, *setting) -> float:
    """The mean value over the seeds after `episode` episodes, when there is a test."""
    places = episodes_of_tests(data, setting[0]) == episode
    return float(curve(data, *setting)[:, places].mean())


def coverages(data: Data) -> list[float]:
    """How often the interval of a late value contains the mean, by setting; see `summaries.coverage`."""
    return [coverage(late(data, *setting)) for setting in SETTINGS]


def least_coverage(data: Data) -> float:
    """The coverage in the worst setting."""
    return min(coverages(data))


def best_rate(data: Data, map: str) -> float:
    """The learning rate with the better late values, for Q-learning with the higher epsilon."""
    return max(RATES, key=lambda rate: late(data, map, "Q-learning", rate, EPSILONS[0]).mean())


def below_at_the_end(data: Data, rate: float, tests: int = 10) -> int:
    """How many of the last tests are below the threshold, over all settings with this rate."""
    chosen = [setting for setting in SETTINGS if setting[2] == rate]
    return sum(int((~above_threshold(data, *setting)[:, -tests:]).sum()) for setting in chosen)


def sampled_excess(data: Data, below: float = -900) -> float:
    """By how much the sampled value exceeds the exact one where the exact one is very low."""
    sampled = data["curves"].filter(regex="^sampled_")
    value = data["curves"][sampled.columns.str.replace("sampled", "value")].to_numpy()
    return (sampled.to_numpy() - value)[value < below].mean()


def arrivals(data: Data) -> int:
    """How many runs ever pass the threshold, over all settings."""
    return sum(int(above_threshold(data, *setting).any(axis=1).sum()) for setting in SETTINGS)


def is_ten_times_as_soon(data: Data) -> bool:
    """Does the higher rate pass the threshold in at most a tenth of the episodes, in all settings?"""
    return all(
        first_passed(data, map, algorithm, RATES[0], epsilon)
        >= 10 * first_passed(data, map, algorithm, RATES[1], epsilon)
        for map, algorithm, epsilon in itertools.product(EPISODES, AGENTS, EPSILONS)
    )


# Tables


def table(data: Data) -> str:
    """All settings of both maps."""
    rows = []
    for setting in SETTINGS:
        map, algorithm, rate, epsilon = setting
        values = late(data, *setting)
        rows.append([
            SHORT[map],
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


def table_of_rates(data: Data, algorithm: str) -> str:
    """The higher learning rate minus the lower one, on the same seeds."""
    pairs = {
        (map, epsilon): [(map, algorithm, rate, epsilon) for rate in RATES]
        for map, epsilon in itertools.product(EPISODES, EPSILONS)
    }
    return comparison(data, "epsilon", [f"rate {rate:g}" for rate in RATES], pairs)


def table_of_epsilons(data: Data, algorithm: str) -> str:
    """The lower epsilon minus the higher one, on the same seeds."""
    pairs = {
        (map, rate): [(map, algorithm, rate, epsilon) for epsilon in EPSILONS]
        for map, rate in itertools.product(EPISODES, RATES)
    }
    return comparison(data, "rate", [f"epsilon {epsilon:g}" for epsilon in EPSILONS], pairs)


def comparison(data: Data, fixed: str, names: list[str], pairs: dict[tuple, list[tuple]]) -> str:
    """Late values of two settings and their difference, by map and by what both have in common."""
    rows = []
    for (map, common), pair in pairs.items():
        gain = difference(data, *pair)
        values = [ci(late(data, *setting), 0) for setting in pair]
        rows.append([SHORT[map], f"{common:g}", *values, ci(gain, 0, sign="+"), f"{np.median(gain):+.1f}"])
    return markdown(["map", fixed, *names, "difference", "its median"], rows)


def table_of_expected(data: Data) -> str:
    """Expected SARSA beside the two algorithms at the higher rate."""
    rows = []
    for map, epsilon in itertools.product(EPISODES, EPSILONS):
        cells = [ci(late(data, map, name, RATES[1], epsilon), 0) for name in ("SARSA", EXPECTED, "Q-learning")]
        rows.append([SHORT[map], f"{epsilon:g}", *cells])
    return markdown(["map", "epsilon", "SARSA", EXPECTED, "Q-learning"], rows)


# Pictures


@picture
def curves_hallway(data: Data):
    """Learning curves on Dangerous Hallway."""
    return draw_curves(data, HALLWAY)


@picture
def curves_16x16(data: Data):
    """Learning curves on 16x16."""
    return draw_curves(data, LAKE)


def draw_curves(data: Data, map: str):
    """Panels of epsilon by learning rate: mean exact value with its band, mean sampled value as dots."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), sharex=True, sharey=True, layout="constrained")
    optimum = exact.best(data, map).value
    for axes, (epsilon, rate) in zip(panels.flat, itertools.product(EPSILONS, RATES), strict=True):
        for algorithm in AGENTS:
            draw_curve(axes, data, map, algorithm, rate, epsilon)
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {optimum:.1f}")
        if map == HALLWAY:
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


@picture
def late_values(data: Data):
    """Optimum minus value over the last fifth of the tests: one dot per seed, and the mean with its interval."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(9, 7), sharex=True, layout="constrained")
    for axes, map in zip(panels, EPISODES, strict=True):
        draw_shortfalls(axes, data, map)
    panels[-1].set_xlabel("optimum minus exact value of the greedy policy, mean of the last 20 tests (log scale)")
    return figure


def draw_shortfalls(axes, data: Data, map: str) -> None:
    """All settings of one map, one below the other."""
    optimum = exact.best(data, map).value
    jitter = np.linspace(-0.22, 0.22, seeds(data, "curves"))
    names = []
    for y, (algorithm, rate, epsilon) in enumerate(itertools.product(AGENTS, RATES, EPSILONS)):
        shortfall = optimum - late(data, map, algorithm, rate, epsilon)
        mean, low, high = bootstrap(shortfall)
        color = td.COLORS[algorithm]
        axes.plot(shortfall, y + jitter, ".", color=color, alpha=0.4, markersize=4)
        axes.plot([low, high], [y, y], color="black", linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, y, "D", color=color, markeredgecolor="black", markersize=7)
        names.append(f"{algorithm}, rate {rate:g}, epsilon {epsilon:g}")
    draw_mark(axes, exact.hole_cost(data, map), "one hole beside the path", side="right")
    if map == HALLWAY:
        draw_mark(axes, exact.hallway_gap(data), "best by the hallway", side="left")
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlim=(0.2, 2_500), ylim=(len(names) - 0.5, -1.35))
    axes.set_title(f"{map}, optimum {optimum:.1f}", fontsize=11)
    axes.grid(alpha=0.25)


def draw_mark(axes, x: float, name: str, side: str) -> None:
    """A dotted line at a shortfall with a known cause."""
    axes.axvline(x, color="#555555", linestyle=":", linewidth=1.2)
    axes.text(x, -0.75, f" {name}, {x:.0f} ", ha=side, va="bottom", fontsize=9, color="#333333")
