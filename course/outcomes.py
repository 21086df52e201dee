"""Can a threshold on what was learned mark this assignment? An experiment: right and faulty rules, 100 seeds each.

`python -m course.outcomes` runs it anew (some minutes), and draws the picture and writes the sentences of README.md;
`python -m course.outcomes --draw` does so from the committed rows.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import os
import textwrap
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

import td_helpers as td

FOLDER = Path(__file__).resolve().parent
ROWS, PICTURE, README = FOLDER / "data" / "outcomes.csv", FOLDER / "outcomes.png", FOLDER / "README.md"
RIGHT = ("Q-learning", "SARSA")
FAULTY = (
    "never explores to the left",
    "never explores upwards",
    "discounts by beta to the power of t",
    "explores at the first step only",
    "bootstraps from the action just taken",
    "SARSA with its next action drawn anew",
    "takes the discount for the rate",
    "does not discount",
    "never explores",
    "bootstraps from nothing",
)
RULES = RIGHT + FAULTY
RATES = (0.001, 0.1)
SEEDS = 100
EPISODES, EPSILON, BETA, MAX_STEP, THRESHOLD = 30_000, 0.3, 0.999, 1_000, 800.0
LEFT, UP = td.LEFT, td.UP


# Learning ---------------------------------------------------------------------------------------


@numba.njit(cache=False, nogil=True)
def choose(row, epsilon, banned, random):
    """An epsilon-greedy action; exploring never draws the banned one (-1: none is banned)."""
    if random.random() < epsilon:
        action = int(random.random() * 4)
        while action == banned:
            action = int(random.random() * 4)
        return action
    return row.argmax()


@numba.njit(cache=False, nogil=True)
def learn(rule, next_state, cumulative, reward, terminated, rate, random):
    """The table that a rule, given by its place in RULES, has learned after EPISODES episodes from state 0."""
    q_table = np.zeros((len(reward), 4))
    banned = LEFT if rule == 2 else UP if rule == 3 else -1
    on_policy = rule in (1, 7)
    if rule == 8:
        rate = BETA
    for _ in range(EPISODES):
        state, next_action = 0, -1
        for t in range(MAX_STEP):
            exploring = 0.0 if rule == 10 or (rule == 5 and t > 0) else EPSILON
            action = next_action
            if action < 0:
                action = choose(q_table[state], exploring, banned, random)
            slip, k = random.random(), 0
            while k < 3 and slip > cumulative[k]:
                k += 1
            following = next_state[state, action, k]
            next_action = choose(q_table[following], EPSILON, banned, random) if on_policy else -1
            if terminated[state] or rule == 11:
                value = 0.0
            elif on_policy:
                value = q_table[following, next_action]
            elif rule == 6:
                value = q_table[following, action]
            else:
                value = q_table[following].max()
            beta = BETA ** (t + 1) if rule == 4 else 1.0 if rule == 9 else BETA
            q_table[state, action] += rate * (reward[state] + beta * value - q_table[state, action])
            if rule == 7:  # the action taken is another one than that of the target
                next_action = -1
            if terminated[state]:
                break
            state = following
    return q_table


@functools.cache
def hallway() -> td.FrozenLakeEnv:
    """The lake of the experiment."""
    return td.FrozenLakeEnv(map_name="Dangerous Hallway")


def outcome(rule: str, rate: float, seed: int) -> dict:
    """One run as a row: the exact value at the start of what it has learned."""
    table = hallway().table
    random = np.random.default_rng([seed, RULES.index(rule), RATES.index(rate)])
    cumulative = np.cumsum(table.probability[0, 0])
    ends = np.ascontiguousarray(table.terminated[:, 0, 0])
    rewards = np.ascontiguousarray(table.reward[:, 0, 0])
    q_table = learn(RULES.index(rule), table.next_state, cumulative, rewards, ends, rate, random)
    return {"rule": rule, "rate": rate, "seed": seed, "value": round(float(td.policy_value(table, q_table)[0]), 2)}


def run() -> list[dict]:
    """All rows, in threads, in an order that does not depend on who is done first."""
    cases = list(itertools.product(RULES, RATES, range(SEEDS)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda case: outcome(*case), cases))


# Rows -------------------------------------------------------------------------------------------


def write_rows(rows: list[dict]) -> None:
    """Write the rows as csv."""
    with open(ROWS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_values() -> dict[tuple[str, float], list[float]]:
    """The committed values, by rule and rate."""
    values = defaultdict(list)
    with open(ROWS, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values[row["rule"], float(row["rate"])].append(float(row["value"]))
    return dict(values)


def passes(values: dict, rule: str, rate: float) -> int:
    """How many runs of a rule reach the threshold."""
    return sum(value >= THRESHOLD for value in values[rule, rate])


# What is said of them ------------------------------------------------------------------------------


def text(values: dict) -> str:
    """The sentences of README.md."""
    slow, fast = RATES
    always = [rule for rule in FAULTY if passes(values, rule, slow) == SEEDS]
    some = [rule for rule in FAULTY if passes(values, rule, fast)]
    failed = {rule: SEEDS - passes(values, rule, fast) for rule in RIGHT}
    sentences = (
        f"At a learning rate of {slow:g}, {len(always)} of {len(FAULTY)} faulty rules pass in every one of {SEEDS} "
        "runs.",
        f"At {fast:g} correct Q-learning fails {failed['Q-learning']} of {SEEDS} runs and correct SARSA "
        f"{failed['SARSA']}, while {len(some)} of the faulty rules pass in some of theirs.",
    )
    return textwrap.fill(" ".join(sentences), 120)


def in_readme(readme: str, values: dict) -> str:
    """README.md with what these values say between its marks."""
    before, mark, rest = readme.partition("<!-- outcomes -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not (mark and end):
        raise ValueError("course/README.md must have the marks <!-- outcomes --> and <!-- end -->")
    return before + mark + text(values) + "\n" + end + after


def picture(values: dict):
    """Every run as a dot at its value, a row for each rule and a panel for each rate."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, SEEDS)
    for rate, axes in zip(RATES, panels, strict=True):
        axes.axvline(THRESHOLD, color="0.35", linestyle="--", linewidth=1)
        for place, rule in enumerate(RULES):
            color = "#0072B2" if rule in RIGHT else "#D55E00"
            shown = np.clip(values[rule, rate], -1_050, 1_050)
            axes.scatter(shown, place + spread, s=7, color=color, alpha=0.5, linewidths=0)
            axes.text(1_120, place, f"{passes(values, rule, rate)}", va="center", ha="left", fontsize=9, color=color)
        axes.text(1_120, -1.0, "pass", va="center", ha="left", fontsize=9)
        axes.set(title=f"learning rate {rate:g}", xlabel="exact value of the greedy policy at the start")
        axes.set_xlim(-1_100, 1_100)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(RULES)), [f"{rule} (right)" if rule in RIGHT else rule for rule in RULES])
    panels[0].set_ylim(len(RULES) - 0.4, -0.6)
    return figure


def main() -> None:
    """Run the experiment, unless it is only to be drawn, and write what is made of it."""
    parser = argparse.ArgumentParser(prog="python -m course.outcomes", description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", action="store_true", help="from the committed rows")
    if not parser.parse_args().draw:
        write_rows(run())
    values = read_values()
    figure = picture(values)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    if README.exists():
        README.write_text(in_readme(README.read_text(encoding="utf-8"), values), encoding="utf-8")


if __name__ == "__main__":
    main()
