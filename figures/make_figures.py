"""The experiments, pictures and numbers of Report.md.

python figures/make_figures.py              all experiments, then all pictures and the report
python figures/make_figures.py NAME ...     the named experiments alone
python figures/make_figures.py --draw       no experiment: pictures and report from figures/data

An experiment is a function that yields rows; its default arguments are its settings, and stand in the
first line of figures/data/NAME.csv. A picture is a function of the rows and is saved as figures/NAME.png.
A table is a function of the rows and replaces {NAME} in figures/report_template.md; so do single numbers.
Nothing that is committed changes before all of it has been made.
"""

from __future__ import annotations

import argparse
import csv
import functools
import inspect
import itertools
import json
import os
import pickle
import sys
import tempfile
import time
import zlib
from collections import deque
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import td_helpers as td  # noqa: E402

HALLWAY, LAKE = "Dangerous Hallway", "16x16"
EPISODES = {HALLWAY: 30_000, LAKE: 100_000}  # the assignment's
RATES, EPSILONS = (0.001, 0.1), (0.3, 0.05)
BEST_RATE = {HALLWAY: 0.1, LAKE: 0.001}  # of Q-learning with epsilon 0.3, as `curves` has it
AGENTS = {"Q-learning": td.QLAgent, "SARSA": td.SARSAAgent}
SINGLE = 0  # the number of collectors of a single-core run

# --------------------------------------------------------------------------------------
# Experiments
# --------------------------------------------------------------------------------------


def over_ray(run, cases: list[dict], name: str):
    """The rows of `run(**case)` for all cases, in the order of the cases; each case is a Ray task on a core."""
    import ray

    td.start_ray()
    if run.__module__ != "__main__":  # workers cannot import this file
        ray.cloudpickle.register_pickle_by_value(sys.modules[run.__module__])
    task = ray.remote(num_cpus=1)(run)
    references = [task.remote(**case) for case in cases]
    waiting = list(references)
    with tqdm(total=len(cases), desc=name, unit="run") as bar:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=min(8, len(waiting)), timeout=1)
            bar.update(len(done))
    for reference in references:
        yield from ray.get(reference)


def lake_of(map_name: str) -> td.FrozenLakeEnv:
    """The lake of a map."""
    return td.FrozenLakeEnv(desc=td.MAPS[map_name])


def values_at_start(lake, q_table, epsilon: float) -> dict:
    """The exact value of the start under the greedy and under the exploring policy of a table, and the way it goes."""
    greedy, exploring = (td.policy_value(lake.table, q_table, epsilon=e)[0] for e in (0.0, epsilon))
    return {"value": greedy, "on_policy": exploring, "route": route_of(lake, q_table)}


def path_of(lake, q_table) -> list[int]:
    """The states on the most likely path of the greedy policy from the start; ends at the exit or where it repeats."""
    path = [int(np.argmax(lake.initial_state_distrib))]
    while path[-1] != lake.exit_state:
        following = int(lake.table.next_state[path[-1], np.argmax(q_table[path[-1]]), 0])
        if following in path:
            break
        path.append(following)
    return path


def route_of(lake, q_table) -> str:
    """How the most likely greedy path crosses Dangerous Hallway: hallway (column 1), bypass, or neither."""
    path = path_of(lake, q_table)
    reached = path[-1] == lake.exit_state and lake.desc.flat[path[-2]] == b"G"
    crossed = {state % lake.ncol for state in path[:-1] if 2 <= state // lake.ncol <= 5}
    return "neither" if not reached or not crossed else "hallway" if crossed == {1} else "bypass"


def exact(epsilons=(0.0, 0.05, 0.3)):
    """The best policies there are, with exploration for ever or without; and the best through the hallway."""
    closed = [row if not 2 <= y <= 5 else row[:5] + "HHH" for y, row in enumerate(td.MAPS[HALLWAY])]
    for map_name, policy, desc in (
        (HALLWAY, "best", None),
        (HALLWAY, "best by the hallway", closed),
        (LAKE, "best", None),
    ):
        lake = td.FrozenLakeEnv(desc=desc or td.MAPS[map_name])
        for epsilon in epsilons:
            q_table = td.value_iteration(lake.table, epsilon=epsilon)
            found = values_at_start(lake_of(map_name), q_table, epsilon)
            yield {"map": map_name, "policy": policy, "epsilon": epsilon} | found


def curves(seeds=20, tests=100, episodes=EPISODES, rates=RATES, epsilons=EPSILONS):
    """Learning curves of all settings on both maps."""
    yield from over_ray(learning_curve, [
        {"map_name": m, "algorithm": a, "rate": rate, "epsilon": e, "seed": seed, "episodes": episodes[m], "tests": tests}
        for m, a, rate, e, seed in itertools.product(episodes, AGENTS, rates, epsilons, range(seeds))
    ], "curves")  # fmt: skip


def learning_curve(map_name, algorithm, rate, epsilon, seed, episodes, tests) -> list[dict]:
    """A run: at every test the sampled value of the greedy policy, as the assignment has it, and the exact one."""
    lake, rows = lake_of(map_name), []
    agent = AGENTS[algorithm](lake, epsilon, rate, episodes, test_interval=episodes // tests, seed=seed)
    setting = {"map": map_name, "algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon, "seed": seed}
    for _ in range(tests):
        agent.learn()
        sampled, value = agent.evaluate(trials=agent.trials), td.policy_value(lake.table, agent.q_table)[0]
        rows.append(setting | {"episode": agent.episode, "sampled": sampled, "value": value})
    return rows


def hallway(
    seeds=20, rates=RATES, epsilons=EPSILONS, recommended=30_000, from_zeros=3_000_000, from_optimum=300_000,
):  # fmt: skip
    """Which way through Dangerous Hallway; for the lowest rate for long, too, and from the optimal table."""
    cases = [
        {"algorithm": a, "rate": rate, "epsilon": e, "start": start, "seed": seed, "episodes": episodes}
        for rate, starts in (
            (rates[0], {"zeros": from_zeros, "optimum": from_optimum}), *((r, {"zeros": recommended}) for r in rates[1:]))
        for start, episodes in starts.items() for a in AGENTS for e in epsilons for seed in range(seeds)
    ]  # fmt: skip
    yield from over_ray(hallway_run, cases, "hallway")


CHECKPOINTS = [n * 10**k for k in range(2, 7) for n in (1, 3)]
FORK, BEHIND = 9, 30  # the cell above the hallway; a cell half way along the bypass


def hallway_run(algorithm, rate, epsilon, start, seed, episodes) -> list[dict]:
    """A run: at every checkpoint the route, its exact values, and the table's at the fork and along the bypass."""
    lake, rows = lake_of(HALLWAY), []
    agent = AGENTS[algorithm](lake, epsilon, rate, episodes, do_test=False, seed=seed)
    if start == "optimum":
        agent.q_table = td.value_iteration(lake.table)
    setting = {"algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon, "start": start, "seed": seed}
    for checkpoint in (c for c in CHECKPOINTS if c <= episodes):
        agent.learn(checkpoint - agent.episode)
        table = agent.q_table
        learned = {"down": table[FORK, td.DOWN], "right": table[FORK, td.RIGHT], "behind": table[BEHIND].max()}
        rows.append(setting | {"episode": checkpoint} | values_at_start(lake, table, epsilon) | learned)
    return rows


def distributed(seeds=20, collectors=(1, 2, 4, 8), episodes=EPISODES, rates=BEST_RATE, epsilon=0.3, batch_size=100):
    """What so many collectors learn, beside a single core with the same seed."""
    yield from over_ray(distributed_run, [
        {"map_name": m, "rate": rates[m], "epsilon": epsilon, "episodes": episodes[m], "seed": seed,
         "collectors": collectors, "batch_size": batch_size}
        for m in episodes for seed in range(seeds)
    ], "distributed")  # fmt: skip


def distributed_run(map_name, rate, epsilon, episodes, seed, collectors, batch_size) -> list[dict]:
    """The runs of a seed. `difference`: how far values are from the single core's, whose own is that to another seed."""
    lake = lake_of(map_name)
    learn = functools.partial(learned_table, lake, rate, epsilon, episodes, batch_size=batch_size)
    single, other = learn(SINGLE, seed), learn(SINGLE, seed + 1_000)
    rows = []
    for count in (SINGLE, *collectors):
        q_table, against = (single, other) if count == SINGLE else (learn(count, seed), single)
        both = q_table.any(axis=1) & against.any(axis=1)
        difference = np.abs(q_table.max(axis=1) - against.max(axis=1))[both].mean()
        rows.append({"map": map_name, "learning_rate": rate, "epsilon": epsilon, "collectors": count, "seed": seed}
                    | values_at_start(lake, q_table, epsilon) | {"difference": difference, "table": checksum(q_table)})  # fmt: skip
    return rows


def learned_table(lake, rate, epsilon, episodes, collectors, seed, batch_size=100) -> np.ndarray:
    """The table of a single core, or of so many collectors: what the actors do, called in turn in this process.

    `timing` has the same runs over Ray; their tables are compared by checksum.
    """
    make = functools.partial(
        td.QLAgent, lake, epsilon, rate, episodes, do_test=False, test_interval=episodes, seed=seed
    )
    agent = make()
    if collectors == SINGLE:
        agent.learn()
        return agent.q_table
    recipe, collector, server = pickle.dumps(make), td.CollectingWorker(), td.QLAgentServer()
    snapshots = deque([(agent.q_table, 0)] * collectors)
    server.begin(snapshots[0])
    for first in range(0, episodes, batch_size):
        experience = collector.collect(recipe, snapshots.popleft(), first, min(batch_size, episodes - first))
        snapshots.append(server.learn(recipe, experience))
    return snapshots[-1][0]


def checksum(q_table) -> str:
    """Tells tables apart, to the bit."""
    return f"{zlib.crc32(np.ascontiguousarray(q_table).tobytes()):08x}"


def tables(seed=0, episodes=EPISODES, epsilons=EPSILONS, rate=0.001, best_rates=BEST_RATE, collectors=(0, 2, 4, 8)):
    """The tables of a seed, for the pictures of value functions."""
    yield from over_ray(table_run, [
        *({"map_name": HALLWAY, "algorithm": a, "rate": rate, "epsilon": e, "episodes": episodes[HALLWAY], "seed": seed,
           "collectors": SINGLE, "shown": "algorithms"} for e in epsilons for a in AGENTS),
        *({"map_name": m, "algorithm": "Q-learning", "rate": best_rates[m], "epsilon": epsilons[0],
           "episodes": episodes[m], "seed": seed, "collectors": c, "shown": "distributed"}
          for m in episodes for c in collectors),
    ], "tables")  # fmt: skip


def table_run(map_name, algorithm, rate, epsilon, episodes, seed, collectors, shown) -> list[dict]:
    """The table of a run, a row a state."""
    lake = lake_of(map_name)
    if algorithm == "SARSA":
        agent = td.SARSAAgent(lake, epsilon, rate, episodes, do_test=False, seed=seed)
        agent.learn(episodes)
        q_table = agent.q_table
    else:
        q_table = learned_table(lake, rate, epsilon, episodes, collectors, seed)
    setting = {"shown": shown, "map": map_name, "algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon,
               "collectors": collectors}  # fmt: skip
    names = "left", "down", "right", "up"
    return [setting | {"state": s} | dict(zip(names, row.tolist(), strict=True)) for s, row in enumerate(q_table)]


class Slow(td.gym.Wrapper):
    """A simulator whose step takes `seconds` longer on average: it waits, as for a robot, or it computes.

    The time owed is paid once a millisecond of it has come together, since the clock keeps no shorter sleep.
    """

    def __init__(self, env, seconds: float, computes: bool = False):
        super().__init__(env)
        self.seconds, self.computes, self.owed = seconds, computes, 0.0

    def step(self, action):
        self.owed += self.seconds
        if self.owed >= 0.001:
            start = time.perf_counter()
            if self.computes:
                while time.perf_counter() - start < self.owed:
                    pass
            else:
                time.sleep(self.owed)
            self.owed -= time.perf_counter() - start
        return self.env.step(action)


TIMED = {  # simulator: what runs of it are like; microseconds are what a step takes longer than the lake's own
    "compiled": [
        {"map": HALLWAY, "episodes": 30_000, "test_interval": 300},
        {"map": LAKE, "episodes": 100_000, "test_interval": 1_000},
        {"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100},
    ],
    "stepped": [
        {"map": HALLWAY, "episodes": 10_000, "test_interval": 300},
        {"map": LAKE, "episodes": 10_000, "test_interval": 1_000},
        {"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100},
    ],
    "waits": [
        {"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100, "microseconds": 200,
         "test_interval": 40, "trials": 10},
        *({"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100, "microseconds": microseconds}
          for microseconds in (10, 20, 50, 100)),
    ],
    "computes": [{"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100, "microseconds": 50}],
}  # fmt: skip


def timing(repetitions=5, collectors=(0, 1, 2, 4, 8), evaluators=4, epsilon=0.3, rates=BEST_RATE, runs=TIMED):
    """Wall-clock seconds, one run after the other; a repetition is a seed. Run alone: other work on the machine shows."""
    cases = [
        (repetition, simulator, run, count, evaluated)
        for repetition in range(repetitions) for simulator, group in runs.items() for run in group
        for evaluated in ((False, True) if "test_interval" in run else (False,)) for count in collectors
    ]  # fmt: skip
    with td.Workers(max(collectors), evaluators) as workers:
        warm_up = {"map": HALLWAY, "episodes": 1_600, "test_interval": 200}
        for count in collectors:
            timed_run("compiled", warm_up, count, True, 0, workers, evaluators, epsilon, rates)
        for repetition, simulator, run, count, evaluated in tqdm(cases, desc="timing", unit="run"):
            yield timed_run(simulator, run, count, evaluated, repetition, workers, evaluators, epsilon, rates)


def timed_run(simulator, run, count, evaluated, seed, workers, evaluators, epsilon, rates) -> dict:
    """A timed run; a test has 100 trials where `run` does not say otherwise."""
    lake, microseconds = lake_of(run["map"]), run.get("microseconds", 0)
    if microseconds:
        lake = Slow(lake, microseconds * 1e-6, computes=simulator == "computes")
    settings = {"epsilon": epsilon, "learning_rate": rates[run["map"]], "learning_episodes": run["episodes"],
                "test_interval": run.get("test_interval", run["episodes"]), "trials": run.get("trials", 100),
                "max_step": run.get("max_step", 1_000), "do_test": evaluated, "seed": seed,
                "compiled": simulator == "compiled"}  # fmt: skip
    batch_size = run.get("batch_size", 100)
    if count == SINGLE:
        agent = td.QLAgent(lake, **settings)
    else:
        agent = td.DistributedQLAgent(
            lake, **settings, cw_num=count, ew_num=evaluators, batch_size=batch_size, workers=workers
        )
    start = time.perf_counter()
    agent.learn_and_evaluate(progress=False)
    seconds = time.perf_counter() - start
    parts = {
        f"{role}_seconds": getattr(agent, "seconds", {}).get(role, 0.0) for role in ("collect", "replay", "evaluate")
    }
    return {"simulator": simulator, "map": run["map"], "microseconds": microseconds, "episodes": run["episodes"],
            "batch_size": batch_size, "evaluated": int(evaluated), "collectors": count, "seed": seed,
            "table": checksum(agent.q_table), "steps": agent.steps, "cores": os.cpu_count(), "seconds": seconds,
            **parts}  # fmt: skip


EXPERIMENTS = {f.__name__: f for f in (exact, curves, hallway, distributed, tables)}


# --------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------


def settings_of(experiment) -> dict:
    """An experiment's settings: its default arguments, as JSON gives them back."""
    return json.loads(json.dumps({p.name: p.default for p in inspect.signature(experiment).parameters.values()}))


def write_rows(path: Path, experiment, rows) -> None:
    """Write rows as csv below a line of settings; floats have six digits."""
    rows = list(rows)
    with open(path, "w", newline="") as file:
        file.write(f"# {json.dumps(settings_of(experiment))}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row.values())


def read_rows(path: Path, experiment) -> list[dict]:
    """The rows of a file; ValueError with the file and the field where they are not those of the code's settings."""
    again = f"run: python figures/make_figures.py {experiment.__name__}"
    name = f"figures/data/{path.name}"
    if not path.exists():
        raise ValueError(f"{name} is missing; {again}")
    with open(path, newline="") as file:
        try:
            saved = json.loads(file.readline().removeprefix("# "))
        except json.JSONDecodeError:
            raise ValueError(f"{name} has no settings in its first line; {again}") from None
        for field, value in settings_of(experiment).items():
            if field not in saved or saved[field] != value:
                raise ValueError(f"{name} has {field} = {saved.get(field)}, the code has {value}; {again}")
        rows = []
        for line, row in enumerate(csv.DictReader(file), 3):
            for field, text in row.items():
                if text is None or field is None:
                    raise ValueError(f"{name}, line {line}, is cut short at {field}; {again}")
            rows.append({field: number_of(text) if field != "table" else text for field, text in row.items()})
    return rows


def number_of(text: str):
    """The text as an int or a float, where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def where(rows, **fields) -> list[dict]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def column(rows, name: str) -> np.ndarray:
    """A column as an array."""
    return np.array([row[name] for row in rows])


def by_seed(rows, name: str) -> np.ndarray:
    """A column as an array with a row a seed."""
    seeds = sorted({row["seed"] for row in rows})
    return np.array([column(where(rows, seed=seed), name) for seed in seeds])


def bootstrap(values, resamples: int = 10_000, seed: int = 0) -> tuple:
    """(mean, low, high): the mean over the first axis, the seeds, and its 95% percentile bootstrap interval."""
    values = np.asarray(values, float)
    count = len(values)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
    low, high = np.percentile(weights @ values, [2.5, 97.5], axis=0)
    return values.mean(axis=0), low, high


# --------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------


def curves_hallway(data):
    return draw_curves(data, HALLWAY)


def curves_16x16(data):
    return draw_curves(data, LAKE)


def draw_curves(data, map_name):
    """Panels of learning rate by epsilon: the exact value's mean with its band, the sampled one's mean as dots."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), sharex=True, sharey=True, layout="constrained")
    best = where(data["exact"], map=map_name, policy="best", epsilon=0.0)[0]["value"]
    through = where(data["exact"], map=map_name, policy="best by the hallway", epsilon=0.0)
    for axes, (epsilon, rate) in zip(panels.flat, itertools.product(EPSILONS, RATES), strict=True):
        for algorithm in AGENTS:
            rows = where(data["curves"], map=map_name, algorithm=algorithm, learning_rate=rate, epsilon=epsilon)
            episode = column(where(rows, seed=0), "episode")
            mean, low, high = bootstrap(by_seed(rows, "value"), 2_000)
            color = td.COLORS[algorithm]
            axes.fill_between(episode, low, high, color=color, alpha=0.25, linewidth=0)
            axes.plot(episode, mean, color=color, linewidth=1.8, label=f"{algorithm}, exact")
            axes.plot(episode, by_seed(rows, "sampled").mean(axis=0), ".", color=color, markersize=2.5, alpha=0.7,
                      label=f"{algorithm}, sampled")  # fmt: skip
        axes.axhline(best, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {best:.1f}")
        for row in through:
            axes.axhline(row["value"], color="#555555", linestyle=":", linewidth=1.2,
                         label=f"best by the hallway {row['value']:.1f}")  # fmt: skip
        axes.set_title(f"learning rate {rate:g}, epsilon {epsilon:g}", fontsize=11)
        axes.grid(alpha=0.25)
    figure.supxlabel("learning episodes", fontsize=10)
    figure.supylabel("discounted return of the greedy policy", fontsize=10)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=10)
    return figure


FIGURES = {f.__name__: f for f in (curves_hallway, curves_16x16)}


# --------------------------------------------------------------------------------------
# Report
# --------------------------------------------------------------------------------------


def publish(draft: Path, data: dict) -> None:
    """Make pictures and report of the data in `draft`, then move all that is there to its place."""
    for name, figure in tqdm(FIGURES.items(), desc="pictures"):
        td.save_figure(figure(data), draft / f"{name}.png")
    for path in sorted(draft.iterdir()):
        place = {".csv": HERE / "data", ".png": HERE, ".md": HERE.parent}[path.suffix]
        os.replace(path, place / path.name)


def main(arguments=None) -> None:
    """Run experiments, draw, write the report."""
    parser = argparse.ArgumentParser(description="Run the report's experiments, draw its pictures, fill in its numbers.")
    parser.add_argument("names", nargs="*", metavar="experiment", help=f"one of {', '.join(EXPERIMENTS)}; none: all")
    parser.add_argument("--draw", action="store_true", help="run no experiment, draw from figures/data")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(EXPERIMENTS)):
        parser.error(f"unknown experiment {unknown[0]}; known are {', '.join(EXPERIMENTS)}")
    names = [] if chosen.draw else [n for n in EXPERIMENTS if n in chosen.names] or list(EXPERIMENTS)
    import matplotlib

    matplotlib.use("Agg")
    start = time.perf_counter()
    try:
        data = {n: read_rows(HERE / "data" / f"{n}.csv", f) for n, f in EXPERIMENTS.items() if n not in names}
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    (HERE / "data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HERE, suffix=".tmp") as draft:
        for name in names:
            path = Path(draft, f"{name}.csv")
            write_rows(path, EXPERIMENTS[name], EXPERIMENTS[name]())
            data[name] = read_rows(path, EXPERIMENTS[name])
            print(f"{name}: {len(data[name])} rows after {time.perf_counter() - start:.0f} s", flush=True)
        publish(Path(draft), data)


if __name__ == "__main__":
    main()
