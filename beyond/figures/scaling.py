"""How many steps do many federated workers need for what one core learns? On lakes that were not used to tune them."""

from __future__ import annotations

import functools
import itertools

import numpy as np

import td_helpers as td
from beyond import FederatedQLAgent
from beyond.figures.until import LARGE_WITHIN, MEAN_OF_FIVE, optimum, random_lake, rough_value, until_good
from beyond.figures.variants import FEDERATED, VARIANTS
from figures.assignment import AGENTS, SINGLE
from figures.rows import Data, settings_of, where
from figures.study import experiment, picture, spread
from figures.summaries import bootstrap, interval, markdown

LOOKS = {64: 1_000_000, 128: 8_000_000}  # side of a lake: steps between two looks at the policy, 2% of what is needed
MOST = {64: 450_000_000, 128: 1_500_000_000}  # steps after which a run has failed: 10 or 3 times what one core needs
EPISODES_AHEAD = 10**9  # more than a run learns: it ends when it has arrived
HOPELESS = 400  # a policy that falls short of the target by more in ten trials is not solved for exactly
DEFAULT = "default"
FASTER = "rate .015"  # a single core with half the learning rate again, as the workers' powers are
RATES = {FASTER: 0.015, "rate .02": 0.02, "rate .03": 0.03, "rate .05": 0.05}  # variants at other learning rates
MARKERS = {"Q-learning": "o", "SARSA": "s"}
COUNTS = (4, 16, 64, 256)
LINES = {64: "-", 128: "--"}  # side of a lake
WORKERS = {16: td.COLORS["Federated"], 64: "#7a3b5e"}
CASES = (  # algorithm, side, workers, episodes of a worker in a round, variant, seeds on each lake
    *(("Q-learning", 64, count, 100, DEFAULT, 8) for count in (SINGLE, 4, 16, 64)),
    *(("SARSA", 64, count, 100, DEFAULT, 8) for count in (SINGLE, 4, 16, 64)),
    *(("Q-learning", 128, count, 100, DEFAULT, 8) for count in (SINGLE, 16, 64)),
    *(("SARSA", 128, count, 100, DEFAULT, 1) for count in (SINGLE, 16, 64)),
    ("Q-learning", 128, 4, 100, DEFAULT, 1),
    *((algorithm, 64, 256, 100, DEFAULT, 2) for algorithm in FEDERATED),
    ("Q-learning", 128, 256, 100, DEFAULT, 1),
    *(("Q-learning", 64, count, size, DEFAULT, 2) for count, size in itertools.product((16, 64), (400, 1_600))),
    *(("Q-learning", 128, count, size, DEFAULT, 2) for count, size in itertools.product((16, 64), (400, 1_600))),
    ("Q-learning", 64, SINGLE, 100, FASTER, 8),
    ("Q-learning", 128, SINGLE, 100, FASTER, 2),
    *(("Q-learning", 64, count, 100, variant, 2) for variant, count in itertools.product(VARIANTS, (16, 64))),
    *(("Q-learning", 64, count, 100, FASTER, 4) for count in (16, 64)),
    *(("Q-learning", 64, count, 100, rate, 4) for rate, count in itertools.product([*RATES][1:], (SINGLE, 16, 64))),
    *(("Q-learning", 128, count, 100, rate, 1) for rate, count in itertools.product([*RATES][1:], (SINGLE, 16, 64))),
)


@experiment
def run(cases=CASES, lakes=(301, 302, 303), rate=0.01, epsilon=0.05, holes=0.08):
    """The steps to the target: when it is first crossed, and when it is held; nan for never."""
    names = ("algorithm", "side", "workers", "batch_size", "variant")
    runs = [
        {**dict(zip(names, case, strict=True)), "map_seed": map_seed, "seed": seed}
        for *case, seeds in cases
        for seed, map_seed in itertools.product(range(seeds), lakes)
    ]
    yield from spread(scaling_run, runs, rate=rate, epsilon=epsilon, holes=holes)


def scaling_run(algorithm, side, workers, batch_size, variant, map_seed, seed, rate, epsilon, holes) -> list[dict]:
    """Learn until the mean of five looks in a row reaches the target."""
    lake = random_lake(side, map_seed, holes)
    target = target_on(side, map_seed, holes)
    settings, rate = {"do_test": False, "seed": seed}, RATES.get(variant, rate)
    if workers == SINGLE:
        agent = AGENTS[algorithm](lake, epsilon, rate, EPISODES_AHEAD, **settings)
        learning = (agent.learn(1_000) for _ in itertools.count())
    else:
        settings |= {"cw_num": workers, "ew_num": 0, "batch_size": batch_size, "workers": td.InProcess()}
        agent = VARIANTS.get(variant, FEDERATED[algorithm])(lake, epsilon, rate, EPISODES_AHEAD, **settings)
        learning = agent.learn_in_batches(EPISODES_AHEAD)
    first, held = until_good(
        ({"steps": agent.steps, "rounds": rounds} for rounds, _ in enumerate(learning, 1)),
        rough_value(agent, target, trials=10, hopeless=HOPELESS),
        target,
        MEAN_OF_FIVE,
        next_look=lambda due, _: due + LOOKS[side],
        first_look=LOOKS[side],
        limit=MOST[side],
    )
    found = {"first": first.get("steps"), "first_rounds": first.get("rounds"), "sustained": held.get("steps")}
    return [{name: np.nan if count is None else float(count) for name, count in found.items()}]


@functools.cache
def target_on(side: int, map_seed: int, holes: float) -> float:
    """The value to reach."""
    return optimum(random_lake(side, map_seed, holes)) - LARGE_WITHIN


# Numbers


def runs(data: Data, algorithm: str, side: int, workers: int, batch_size: int = 100, variant: str = DEFAULT):
    """The rows of a setting, by lake and seed."""
    rows = where(data["scaling"], algorithm, side, workers, batch_size, variant)
    return rows.set_index(["map_seed", "seed"])


def efficiency(data: Data, algorithm: str, side: int, *setting, column: str = "first", seeds: int = 8) -> tuple:
    """Steps that one core needs, relative to the workers': (geometric mean, low, high) over lakes and `seeds` seeds.

    Only pairs of runs that both arrive count; nan where none do.
    """
    alone = runs(data, algorithm, side, SINGLE).query("seed < @seeds")[column]
    pairs = (alone / runs(data, algorithm, side, *setting)[column]).dropna()
    return tuple(np.exp(bootstrap(np.log(pairs)))) if len(pairs) else (np.nan,) * 3


def arrived(data: Data, algorithm: str, side: int, *setting, column: str = "first") -> tuple[int, int]:
    """(how many runs arrive, how many there are)."""
    found = runs(data, algorithm, side, *setting)[column]
    return int(found.notna().sum()), len(found)


def local_rate(workers: int) -> float:
    """The workers' learning rate where a single core learns at the experiment's."""
    rate = settings_of(run)["rate"]
    return FederatedQLAgent(td.FrozenLakeEnv(), learning_rate=rate, cw_num=workers, ew_num=0, do_test=False).local_rate


def least(data: Data, workers: int, column: str = "first") -> float:
    """The lowest efficiency of `workers` workers over algorithms and sizes of lake."""
    return min(
        efficiency(data, algorithm, side, workers, column=column)[0]
        for algorithm, side in itertools.product(FEDERATED, LOOKS)
    )


def all_stay(data: Data, side: int, workers: int) -> bool:
    """Do all runs of `workers` workers hold the target?"""
    return bool(where(data["scaling"], side=side, workers=workers)["sustained"].notna().all())


def cell(data: Data, algorithm: str, side: int, workers: int, batch_size: int = 100) -> str:
    """The efficiency until the target is first crossed, and until it is held."""
    setting = algorithm, side, workers, batch_size
    return " / ".join(_efficiency(data, *setting, column) for column in ("first", "sustained"))


def millions(data: Data, side: int, workers: int, variant: str, column: str = "first") -> float:
    """Million steps of all workers of Q-learning until the target is crossed: the geometric mean of those that do."""
    return float(np.exp(np.log(runs(data, "Q-learning", side, workers, 100, variant)[column]).mean()) / 1e6)


def fewest(data: Data, side: int, workers: int, column: str = "first") -> float:
    """Million steps at the best of the learning rates."""
    return min(millions(data, side, workers, variant, column) for variant in (DEFAULT, *RATES))


def table_of_rates(data: Data) -> str:
    """Million steps until the target is first crossed, and held, by learning rate and workers."""
    rows = []
    for side, (variant, rate) in itertools.product(LOOKS, {DEFAULT: 0.01, **RATES}.items()):
        cells = []
        for count in (SINGLE, *WORKERS):
            there, of = arrived(data, "Q-learning", side, count, 100, variant, column="sustained")
            steps = [f"{millions(data, side, count, variant, column):.3g}" for column in ("first", "sustained")]
            cells.append(" / ".join(steps) + (f" ({there} of {of})" if there < of else "") if of else "")
        rows.append([f"{side} x {side}, {rate:g}", *cells])
    return markdown(["lake, learning rate", "one core", *(f"{count} workers" for count in WORKERS)], rows)


def table_of_variants(data: Data) -> str:
    """The efficiency of each variant on 64 x 64, and of the default on the same seeds."""
    rows = []
    for name in (DEFAULT, *VARIANTS):
        cells = []
        for count in WORKERS:
            stay = runs(data, "Q-learning", 64, count, 100, name).query("seed < 2")["sustained"].notna()
            estimate = efficiency(data, "Q-learning", 64, count, 100, name, seeds=2)
            cells.append(f"{interval(estimate, '.2f')}, {stay.sum()} of {len(stay)}")
        rows.append([name, *cells])
    return markdown(["variant", *(f"{count} workers" for count in WORKERS)], rows)


def _efficiency(data: Data, algorithm: str, side: int, workers: int, batch_size: int, column: str) -> str:
    """An efficiency, and the share of the runs that arrive if not all do."""
    there, of = arrived(data, algorithm, side, workers, batch_size, column=column)
    if not there:
        return "never" if of else "-"
    middle = f"{efficiency(data, algorithm, side, workers, batch_size, column=column)[0]:.2f}"
    return middle if there == of else f"{middle} ({there / of:.0%})"


# Picture


@picture
def statistical_efficiency(data: Data):
    """Efficiency by the number of workers and by the length of a round."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained")
    for (algorithm, marker), (side, line) in itertools.product(MARKERS.items(), LINES.items()):
        points = [(count, *efficiency(data, algorithm, side, count)) for count in COUNTS]
        points = [point for point in points if arrived(data, algorithm, side, point[0])[0]]
        draw(left, points, marker, line, td.COLORS[algorithm], f"{algorithm}, {side} x {side}")
    left.set(xlabel="workers", ylabel="efficiency: steps of one core / steps of all", xscale="log")
    left.set_xticks(COUNTS, [f"{count}" for count in COUNTS])
    left.legend(fontsize=9, loc="lower left")
    for (count, color), (side, line) in itertools.product(WORKERS.items(), LINES.items()):
        sizes = [size for size in (100, 400, 1_600) if arrived(data, "Q-learning", side, count, size)[0]]
        points = [(size, *efficiency(data, "Q-learning", side, count, size)) for size in sizes]
        draw(right, points, "o", line, color, f"{count} workers, {side} x {side}")
    right.set(xlabel="episodes of a worker in a round", xscale="log")
    right.set_xticks((100, 400, 1_600), ("100", "400", "1,600"))
    right.legend(fontsize=9, loc="lower left")
    for axes in (left, right):
        axes.axhline(1, color="black", linestyle=(0, (6, 3)), linewidth=1)
        axes.set_ylim(0, 1.3)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    return figure


def draw(axes, points: list[tuple], marker: str, line: str, color: str, label: str) -> None:
    """A line through (x, mean, low, high), with bars."""
    if points:
        x, mean, low, high = np.array(points).T
        bars = {"yerr": [mean - low, high - mean], "capsize": 2, "markersize": 5}
        axes.errorbar(x, mean, **bars, color=color, marker=marker, linestyle=line, label=label)
