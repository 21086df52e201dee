"""Dangerous Hallway: which route do the algorithms take, and why?"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import td_helpers as td
from figures.assignment import AGENTS, EPSILONS, HALLWAY, RATES, values_at_start
from figures.rows import Data, where
from figures.study import experiment, picture, spread
from figures.summaries import markdown, number

CHECKPOINTS = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
SUGGESTED = 30_000  # episodes, by the assignment
LAST = {"zeros": 3_000_000, "optimum": 300_000}  # episodes at the lowest rate, by the table at the start
STARTS = {"zeros": "zeros", "optimum": "the optimal table"}  # name of a table at the start: in the picture
FORK = 9  # the cell above the hallway
HALF_WAY = 30  # a cell half way along the bypass
ROUTES = {"bypass": "#dddddd", "neither": "#999999", "hallway": "#222222"}


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
    """Routes through Dangerous Hallway; at the lowest rate also from the optimal table, and longer for some seeds."""
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
    """One run: route, exact values and the table's values at the fork and on the bypass, at every checkpoint."""
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
    """How many seeds are on a route."""
    return int((runs(data, *setting, **moment)["route"] == route).sum())


def share_on(data: Data, route: str, *setting, **moment) -> float:
    """The share of seeds on a route."""
    return (runs(data, *setting, **moment)["route"] == route).mean()


def mean_of(data: Data, column: str, *setting, **moment) -> float:
    """The mean over the seeds of value, on_policy, or the table at the fork (down, right) or half way (behind)."""
    return runs(data, *setting, **moment)[column].mean()


def optimal_half_way() -> float:
    """The optimal value half way along the bypass."""
    return td.value_iteration(td.FrozenLakeEnv(map_name=HALLWAY).table)[HALF_WAY].max()


def groups(data: Data):
    """Yield (setting, rows) after the suggested number of episodes and at the end, in the order of the tables."""
    for start, last in LAST.items():
        for episode, rate, epsilon, algorithm in itertools.product((SUGGESTED, last), RATES, EPSILONS, AGENTS):
            rows = runs(data, algorithm, rate, epsilon, start, episode)
            if len(rows):
                yield (algorithm, rate, epsilon, start, episode), rows


# Tables


def table_of_routes(data: Data) -> str:
    """Routes and exact values by start, number of episodes and setting."""
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
    """What the tables say at the fork and along the bypass, at the lowest rate."""
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
def routes(data: Data):
    """Shares of the routes after the suggested episodes, and the share on the bypass as learning goes on."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", width_ratios=(1, 1.15))
    draw_shares(left, data)
    draw_long_runs(right, data)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return figure


def route_share(data: Data, *setting) -> dict[str, float]:
    """The share of seeds on each route."""
    shares = runs(data, *setting)["route"].value_counts(normalize=True)
    return {route: shares.get(route, 0.0) for route in ROUTES}


def draw_shares(axes, data: Data) -> None:
    """One bar per setting, divided into routes."""
    settings = list(itertools.product(RATES, EPSILONS, AGENTS))
    for y, (rate, epsilon, algorithm) in enumerate(settings):
        begin = 0.0
        for route, share in route_share(data, algorithm, rate, epsilon).items():
            axes.barh(y, share, left=begin, color=ROUTES[route], edgecolor="black", linewidth=0.5)
            if share >= 0.08:  # else there is no room for text
                text = f"{route} {share:.0%}" if share > 0.3 else f"{share:.0%}"
                color = "white" if route == "hallway" else "black"
                axes.text(begin + share / 2, y, text, ha="center", va="center", fontsize=9, color=color)
            begin += share
    names = [f"{algorithm}\nrate {rate:g}, eps. {epsilon:g}" for rate, epsilon, algorithm in settings]
    axes.set_yticks(range(len(settings)), names, fontsize=9)
    axes.set(xlim=(0, 1), ylim=(len(settings) - 0.5, -0.5), xlabel="share of seeds")
    axes.set_title(f"after {SUGGESTED:,} episodes (grey: neither)", fontsize=11)


def draw_long_runs(axes, data: Data) -> None:
    """The share of seeds on the bypass as learning goes on, at the lowest rate."""
    for algorithm, epsilon, start in itertools.product(AGENTS, EPSILONS, ("zeros", "optimum")):
        episodes = [checkpoint for checkpoint in CHECKPOINTS if checkpoint <= LAST[start]]
        shares = [route_share(data, algorithm, RATES[0], epsilon, start, episode)["bypass"] for episode in episodes]
        shift = 0.012 if epsilon == EPSILONS[0] else 0.024  # else lines at 0 and 1 would coincide
        if algorithm == "Q-learning":
            shift = -shift
        axes.plot(
            episodes,
            np.array(shares) + shift,
            "o" if epsilon == EPSILONS[0] else "^",
            linestyle="-" if start == "zeros" else "--",
            color=td.COLORS[algorithm],
            markersize=5,
            markerfacecolor=td.COLORS[algorithm] if start == "zeros" else "white",
            label=f"{algorithm}, epsilon {epsilon:g}, from {STARTS[start]}",
        )
    axes.axvline(SUGGESTED, color="#555555", linestyle=":", linewidth=1)
    axes.set(xscale="log", ylim=(-0.06, 1.06), xlabel="learning episodes (log scale)")
    axes.set_ylabel("share of seeds on the bypass")
    axes.set_title("learning rate 0.001, for longer", fontsize=11)
    axes.grid(alpha=0.25)
