"""How does each setting learn, and where does it end? Learning curves, and the effects of learning rate and epsilon."""

from __future__ import annotations

import itertools

import numpy as np

import td_helpers as td
from figures import exact
from figures.assignment import AGENTS, EPISODES, EPSILONS, HALLWAY, LAKE, RATES, SHORT, route_of
from figures.rows import Data, settings_of, where
from figures.study import experiment, picture, spread
from figures.summaries import bootstrap, ci, coverage, markdown, number

THRESHOLD = {HALLWAY: 800, LAKE: 900}  # a policy worth more reaches the goal nearly always
LAST = 10  # the number of tests at the end whose mean is a run's last value
EXPECTED = "Expected SARSA"
SETTINGS = list(itertools.product(EPISODES, AGENTS, RATES, EPSILONS))  # (map, algorithm, learning rate, epsilon)


def expected_sarsa(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Update toward the mean over the next actions: SARSA without the sampling noise of exploration.

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
    """Yield the learning curves of all settings on both maps; Expected SARSA at the higher rate only."""
    algorithms = [*itertools.product(AGENTS, rates), (EXPECTED, max(rates))]
    cases = [
        {"map": map, "algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon, "seed": seed}
        for map, (algorithm, rate), epsilon, seed in itertools.product(episodes, algorithms, epsilons, range(seeds))
    ]
    yield from spread(learning_curve, cases, episodes=episodes, tests=tests, sampled_every=sampled_every)


def learning_curve(map, algorithm, learning_rate, epsilon, seed, episodes, tests, sampled_every) -> list[dict]:
    """Run one agent; return a row with the exact value of its greedy policy at each test, and sampled values at some.

    On Dangerous Hallway `routes` has the first letter of the route at each test. `steps` is the number of learning
    steps up to the first test above the threshold, or nan.
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
    """A setting's values at the tests, exact ("value") or "sampled", shape (seeds, tests)."""
    return where(data["curves"], *setting).filter(regex=f"^{column}_").to_numpy()


def episodes_of_tests(data: Data, map: str, column: str = "value") -> np.ndarray:
    """The episodes after which the policies were evaluated."""
    found = [int(name.removeprefix(f"{column}_")) for name in data["curves"].filter(regex=f"^{column}_")]
    return np.array(found) * (EPISODES[map] // settings_of(run)["tests"])


def last(data: Data, *setting) -> np.ndarray:
    """Each seed's mean exact value over the last tests."""
    return curve(data, *setting)[:, -LAST:].mean(axis=1)


def last_table(data: Data, *setting) -> float:
    """The median seed's exact value at the very last test."""
    return float(np.median(curve(data, *setting)[:, -1]))


def rise(data: Data, *setting, over: int) -> tuple:
    """The last value minus that of as many tests, `over` tests before: (mean, low, high)."""
    values = curve(data, *setting)
    return tuple(map(float, bootstrap(last(data, *setting) - values[:, -over - LAST : -over].mean(axis=1))))


def difference(data: Data, one: tuple, other: tuple) -> np.ndarray:
    """The second setting's last value minus the first's, for each seed."""
    return last(data, *other) - last(data, *one)


def changed(data: Data, one: tuple, other: tuple) -> tuple:
    """The mean of `difference` with its interval: (mean, low, high)."""
    return tuple(map(float, bootstrap(difference(data, one, other))))


def by_rate(data: Data, map: str, algorithm: str, epsilon: float) -> tuple:
    """What the higher learning rate changes: (mean, low, high)."""
    return changed(data, *((map, algorithm, rate, epsilon) for rate in RATES))


def by_epsilon(data: Data, map: str, algorithm: str, rate: float) -> tuple:
    """What the lower epsilon changes: (mean, low, high)."""
    return changed(data, *((map, algorithm, rate, epsilon) for epsilon in EPSILONS))


def above_threshold(data: Data, *setting) -> np.ndarray:
    """Whether each test is above the map's threshold, shape (seeds, tests)."""
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


def lost(data: Data, *setting) -> float:
    """The share of a setting's last tests below the threshold."""
    return float(1 - above_threshold(data, *setting)[:, -LAST:].mean())


def late_below(data: Data, *setting) -> float:
    """The share of the later half's tests that are below the threshold."""
    below = ~above_threshold(data, *setting)
    return float(below[:, below.shape[1] // 2 :].mean())


def ruined(data: Data, *pair, by: float) -> int:
    """How many seeds lose more than `by` in the last value from the first setting to the second."""
    return int((difference(data, *pair) < -by).sum())


def bypass_first(data: Data, *setting) -> int:
    """How many seeds had their greedy path on the bypass before it was ever in the hallway."""
    return sum("b" in routes.partition("h")[0] for routes in where(data["curves"], *setting)["routes"])


def coverages(data: Data) -> list[float]:
    """The coverage of the last values' intervals, by setting; see `summaries.coverage`."""
    return [coverage(last(data, *setting)) for setting in SETTINGS]


def least_coverage(data: Data) -> float:
    """The coverage in the worst setting."""
    return min(coverages(data))


def best_rate(data: Data, map: str) -> float:
    """The learning rate with the better last value, for Q-learning with the higher epsilon."""
    return max(RATES, key=lambda rate: last(data, map, "Q-learning", rate, EPSILONS[0]).mean())


def share_below(data: Data, rate: float, threshold: dict[str, float] = THRESHOLD) -> float:
    """The share of the last tests below the maps' thresholds, over all settings with this learning rate."""
    chosen = [setting for setting in SETTINGS if setting[2] == rate]
    return float(np.mean([curve(data, *setting)[:, -LAST:] <= threshold[setting[0]] for setting in chosen]))


def arrivals(data: Data) -> int:
    """How many runs ever pass the threshold, over all settings."""
    return sum(int(above_threshold(data, *setting).any(axis=1).sum()) for setting in SETTINGS)


def least_haste(data: Data) -> float:
    """How many times as many episodes the lower rate takes to pass the threshold, at least, over all settings."""
    return min(
        first_passed(data, map, algorithm, RATES[0], epsilon) / first_passed(data, map, algorithm, RATES[1], epsilon)
        for map, algorithm, epsilon in itertools.product(EPISODES, AGENTS, EPSILONS)
    )


# Tables


def table(data: Data) -> str:
    """A table of all settings on both maps."""
    rows = []
    for setting in SETTINGS:
        map, algorithm, rate, epsilon = setting
        rows.append([
            SHORT[map],
            algorithm,
            f"{rate:g}",
            f"{epsilon:g}",
            ci(last(data, *setting), 0),
            number(last_table(data, *setting)),
            number(first_passed(data, *setting)),
            number(million_steps(data, *setting), 2),
            f"{lost(data, *setting):.0%}",
        ])
    head = ["map", "algorithm", "rate", "epsilon", "last value", "last test", "good after", "M steps", "not good"]
    return markdown(head, rows)


def table_of_changes(data: Data) -> str:
    """A table of what the higher rate and the lower epsilon change, on the same seeds, by map and algorithm."""
    rows = []
    for map in EPISODES:
        for epsilon in EPSILONS:
            pairs = [[(map, name, rate, epsilon) for rate in RATES] for name in AGENTS]
            rows.append([SHORT[map], f"rate {RATES[0]:g} to {RATES[1]:g}", f"epsilon {epsilon:g}", *cells(data, pairs)])
        for rate in RATES:
            pairs = [[(map, name, rate, epsilon) for epsilon in EPSILONS] for name in AGENTS]
            change = f"epsilon {EPSILONS[0]:g} to {EPSILONS[1]:g}"
            rows.append([SHORT[map], change, f"rate {rate:g}", *cells(data, pairs)])
    return markdown(["map", "change", "at", *(name for one in AGENTS for name in (one, "median"))], rows)


def cells(data: Data, pairs: list[list[tuple]]) -> list[str]:
    """Return the mean difference with its interval, and the median one, for each pair of settings."""
    gains = [difference(data, *pair) for pair in pairs]
    return [cell for gain in gains for cell in (ci(gain, 0, sign="+"), f"{np.median(gain):+.1f}")]


def table_of_expected(data: Data) -> str:
    """A table of Expected SARSA and the two algorithms at the higher rate."""
    rows = []
    for map, epsilon in itertools.product(EPISODES, EPSILONS):
        values = [ci(last(data, map, name, RATES[1], epsilon), 0) for name in ("SARSA", EXPECTED, "Q-learning")]
        rows.append([SHORT[map], f"{epsilon:g}", *values])
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
    """Draw panels of epsilon by learning rate: mean exact value with its band, mean sampled value as dots."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), sharex=True, sharey=True, layout="constrained")
    optimum = exact.best(data, map).value
    for axes, (epsilon, rate) in zip(panels.flat, itertools.product(EPSILONS, RATES), strict=True):
        for algorithm in AGENTS:
            draw_curve(axes, data, map, algorithm, rate, epsilon)
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {optimum:.0f}")
        if map == HALLWAY:
            value = exact.through_hallway(data).value
            label = f"best by the hallway {value:.0f}"
            axes.axhline(value, color="#555555", linestyle=":", linewidth=1.2, label=label)
        axes.set_title(f"learning rate {rate:g}, epsilon {epsilon:g}", fontsize=11)
        axes.grid(alpha=0.25)
    stretch_near(panels[0, 0], optimum)
    panels[0, 0].xaxis.set_major_formatter("{x:,.0f}")
    figure.supxlabel("learning episodes", fontsize=10)
    figure.supylabel("discounted return of the greedy policy (stretched near the optimum)", fontsize=10)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=10)
    return figure


def stretch_near(axes, optimum: float) -> None:
    """Scale an axis of values by the logarithm of their distance from just above the optimum."""
    ceiling = optimum + 10
    scale = lambda value: -np.log10(np.maximum(ceiling - np.asarray(value, float), 1))
    values = lambda scaled: ceiling - 10 ** -np.asarray(scaled, float)
    axes.set_yscale("function", functions=(scale, values))
    axes.set_ylim(-1_100, optimum + 3)
    ticks = [-1_000, 0, 500, 700, 800, 850, 900, 920] + [940, 950] * (optimum > 950)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def draw_curve(axes, data: Data, *setting) -> None:
    """Draw one setting's values over the episodes."""
    algorithm = setting[1]
    color = td.COLORS[algorithm]
    episode = episodes_of_tests(data, setting[0])
    mean, low, high = bootstrap(curve(data, *setting), 2_000)
    axes.fill_between(episode, low, high, color=color, alpha=0.25, linewidth=0)
    axes.plot(episode, mean, color=color, linewidth=1.8, label=f"{algorithm}, exact")
    sampled = curve(data, *setting, column="sampled").mean(axis=0)
    episode = episodes_of_tests(data, setting[0], "sampled")
    axes.plot(episode, sampled, "o", color=color, markersize=3, alpha=0.8, label=f"{algorithm}, sampled")
