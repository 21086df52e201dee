"""Dangerous Hallway: which route do the algorithms take, and why?"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures import exact
from figures.assignment import AGENTS, EPSILONS, HALLWAY, RATES, values_at_start
from figures.rows import Data, settings_of, where
from figures.study import experiment, picture, spread
from figures.summaries import markdown, number

CHECKPOINTS = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
SUGGESTED = 30_000  # episodes that the assignment suggests
LAST = {"zeros": 3_000_000, "optimum": 300_000}  # episodes at the lowest rate, by initial table
FORK = 9  # the cell above the hallway
HALF_WAY = 30  # a cell halfway along the bypass
WORTH = {"bypass": "#56B4E9", "hallway": "#E69F00"}
ROUTES = {"bypass": WORTH["bypass"], "neither": "#cccccc", "hallway": WORTH["hallway"]}


@experiment
def run(
    seeds=200,
    rates=RATES,
    epsilons=EPSILONS,
    recommended=SUGGESTED,
    from_zeros=LAST["zeros"],
    long_seeds=40,
    from_optimum=LAST["optimum"],
):
    """Yield routes through Dangerous Hallway; at the lowest rate also from the optimal table, longer for some seeds."""
    cases = []
    for rate in rates:
        episodes = {"zeros": from_zeros, "optimum": from_optimum} if rate == rates[0] else {"zeros": recommended}
        for start, algorithm, epsilon, seed in itertools.product(episodes, AGENTS, epsilons, range(seeds)):
            cases.append({
                "algorithm": algorithm,
                "learning_rate": rate,
                "epsilon": epsilon,
                "start": start,
                "seed": seed,
                "episodes": recommended if start == "zeros" and seed >= long_seeds else episodes[start],
            })
    for row in spread(hallway_run, cases):
        del row["episodes"]
        yield row


def hallway_run(algorithm, learning_rate, epsilon, start, seed, episodes) -> list[dict]:
    """Run one agent; return a row per checkpoint: route, exact values, the table's values at the fork and beyond."""
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    agent = AGENTS[algorithm](lake, epsilon, learning_rate, episodes, do_test=False, seed=seed)
    if start == "optimum":
        agent.q_table = td.value_iteration(lake.table)
    rows = []
    for checkpoint in CHECKPOINTS:
        if checkpoint > episodes:
            break
        agent.learn(checkpoint - agent.episode)
        q_table = agent.q_table
        found = values_at_start(lake, q_table, epsilon)
        rows.append({
            "episode": checkpoint,
            "route": found["route"],
            "value": round(found["value"], 1),
            "on_policy": round(found["on_policy"], 1),
            "down": round(q_table[FORK, td.DOWN], 1),
            "right": round(q_table[FORK, td.RIGHT], 1),
            "behind": round(q_table[HALF_WAY].max(), 1),
        })
    return rows


# Numbers


def runs(data: Data, algorithm, rate, epsilon, start="zeros", episode=SUGGESTED) -> pd.DataFrame:
    """The rows of a setting after `episode` episodes, one per seed."""
    setting = {"algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon}
    return where(data["hallway"], **setting, start=start, episode=episode)


def seeds_on(data: Data, route: str, *setting, **moment) -> int:
    """How many seeds take a route."""
    return int((runs(data, *setting, **moment)["route"] == route).sum())


def share_on(data: Data, route: str, *setting, **moment) -> float:
    """The share of seeds that take a route."""
    return (runs(data, *setting, **moment)["route"] == route).mean()


def groups(data: Data):
    """Yield (setting, rows) after the suggested episodes and at the end, in the order of the report's tables."""
    for start, last in LAST.items():
        for episode, rate, epsilon, algorithm in itertools.product((SUGGESTED, last), RATES, EPSILONS, AGENTS):
            rows = runs(data, algorithm, rate, epsilon, start, episode)
            if len(rows):
                yield (algorithm, rate, epsilon, start, episode), rows


# Tables


def table_of_routes(data: Data) -> str:
    """A table of routes and exact values, by initial table, number of episodes and setting."""
    rows = []
    for setting, group in groups(data):
        algorithm, rate, epsilon, start, episode = setting
        rows.append([
            f"{algorithm}, {rate:g}, {epsilon:g}",
            start,
            f"{episode:,}",
            f"{len(group)}",
            *(f"{seeds_on(data, route, *setting)}" for route in ("hallway", "bypass", "neither")),
            number(group["value"].mean()),
            number(group["on_policy"].mean()),
        ])
    head = ["algorithm, rate, epsilon", "from", "episodes", "seeds", "hallway", "bypass", "neither", "greedy"]
    return markdown([*head, "exploring"], rows)


def table_of_beliefs(data: Data) -> str:
    """A table of the action values at the fork and along the bypass, at the lowest rate."""
    rows = []
    for (algorithm, rate, epsilon, start, episode), group in groups(data):
        if rate == RATES[0] and start == "zeros":
            means = group[["down", "right", "behind"]].mean()
            rows.append([f"{algorithm}, {epsilon:g}", f"{episode:,}", *(f"{value:.1f}" for value in means)])
    optimum = td.value_iteration(td.FrozenLakeEnv(map_name=HALLWAY).table)
    values = optimum[FORK, td.DOWN], optimum[FORK, td.RIGHT], optimum[HALF_WAY].max()
    rows.append(["exact optimum", "", *(f"{value:.1f}" for value in values)])
    head = ["algorithm, epsilon", "episodes", "fork: down", "fork: right", "half way along the bypass"]
    return markdown(head, rows)


# Picture


@picture
def two_routes(data: Data):
    """The two routes on the map, what each is worth to an agent that explores, and which one seeds take."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(9.6, 3.9), layout="constrained", width_ratios=(1, 0.85, 1.35)
    )
    draw_map(left)
    draw_worth(middle, data)
    draw_shares(right, data)
    return figure


def draw_map(axes) -> None:
    """Draw Dangerous Hallway with the optimal path and the best one through the hallway."""
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    bypass = td.greedy_path(td.value_iteration(lake.table), lake)
    hallway = td.greedy_path(td.value_iteration(td.FrozenLakeEnv(exact.WITHOUT_BYPASS).table), lake)
    draw_letters_only(axes, lake.desc)
    for path, (name, color), side in zip((bypass, hallway), WORTH.items(), (0.1, -0.1), strict=True):
        rows, cols = np.array([divmod(state, lake.ncol) for state in path], float).T + side
        axes.plot(cols, rows, color=color, linewidth=4, solid_joinstyle="round", label=f"{name}, {len(path)} steps")
    axes.set_title("the two routes", fontsize=11)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=9, frameon=False)


def draw_letters_only(axes, letters: np.ndarray) -> None:
    """Draw a lake's cells: holes dark, the goal yellow."""
    from matplotlib.colors import ListedColormap

    kinds = (letters == b"H") + 2 * (letters == b"G")
    axes.imshow(kinds, cmap=ListedColormap(["#F2F2F2", "#404040", "#F0E442"]), vmin=0, vmax=2)
    for row, col in np.argwhere(letters != b"F"):
        color = "white" if letters[row, col] == b"H" else "black"
        axes.text(col, row, letters[row, col].decode(), ha="center", va="center", fontsize=10, color=color)
    axes.set(xticks=[], yticks=[])


def draw_worth(axes, data: Data) -> None:
    """Draw each route's value at the start while exploring, by epsilon."""
    epsilons = settings_of(exact.run)["epsilons"]
    for policy, (name, color), side in zip(("best", "best by the hallway"), WORTH.items(), (-0.2, 0.2), strict=True):
        worth = [exact.best(data, HALLWAY, epsilon, policy).on_policy for epsilon in epsilons]
        bars = axes.bar(np.arange(len(epsilons)) + side, worth, 0.38, color=color, label=name)
        axes.bar_label(bars, [f"{value:.0f}" for value in worth], fontsize=9, padding=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axes.set(ylim=(-400, 1_120), xlabel="epsilon")
    axes.set_title("exact value while exploring", fontsize=11)


def route_share(data: Data, *setting) -> dict[str, float]:
    """The share of seeds on each route."""
    return {route: share_on(data, route, *setting) for route in ROUTES}


def draw_shares(axes, data: Data) -> None:
    """Draw one bar per setting, divided into routes."""
    settings = list(itertools.product(RATES, EPSILONS, AGENTS))
    for y, (rate, epsilon, algorithm) in enumerate(settings):
        begin = 0.0
        for route, share in route_share(data, algorithm, rate, epsilon).items():
            axes.barh(y, share, left=begin, color=ROUTES[route], edgecolor="white", linewidth=0.5)
            if share >= 0.06:  # narrower bars have no room for text
                text = f"{route} {share:.0%}" if share > 0.4 else f"{share:.0%}"
                axes.text(begin + share / 2, y, text, ha="center", va="center", fontsize=9, color="black")
            begin += share
    names = [f"{algorithm}\nrate {rate:g}, epsilon {epsilon:g}" for rate, epsilon, algorithm in settings]
    axes.set_yticks(range(len(settings)), names, fontsize=9)
    axes.set(xlim=(0, 1), ylim=(len(settings) - 0.5, -0.5), xlabel="share of seeds")
    axes.set_title(f"greedy route after {SUGGESTED:,} episodes", fontsize=11)
