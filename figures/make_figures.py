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
from types import SimpleNamespace

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
FEDERATED = {"Q-learning": td.FederatedQLAgent, "SARSA": td.FederatedSARSAAgent}
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
    """The exact value of the start under the greedy and the exploring policy of a table, and the greedy one's way.

    `risks` are the slips on that way that lead into a hole; each has a probability of 1%.
    """
    greedy, exploring = (td.policy_value(lake.table, q_table, epsilon=e)[0] for e in (0.0, epsilon))
    way = np.array([state for state in path_of(lake, q_table) if state != lake.exit_state])
    slips = lake.table.next_state[way, q_table[way].argmax(axis=1), 1:]
    risks = int((np.append(lake.desc.ravel(), b"X")[slips] == b"H").sum())
    return {"value": greedy, "on_policy": exploring, "risks": risks, "route": route_of(lake, q_table)}


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
    if lake.nrow != len(td.MAPS[HALLWAY]):
        return ""
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
            length = {"steps": len(path_of(lake, q_table)) - 1}
            yield {"map": map_name, "policy": policy, "epsilon": epsilon} | found | length


def curves(seeds=20, tests=100, episodes=EPISODES, rates=RATES, epsilons=EPSILONS):
    """Learning curves of all settings on both maps."""
    yield from over_ray(learning_curve, [
        {"map_name": m, "algorithm": a, "rate": r, "epsilon": e, "seed": seed, "episodes": episodes[m], "tests": tests}
        for m, a, r, e, seed in itertools.product(episodes, AGENTS, rates, epsilons, range(seeds))
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
    slow = {"zeros": from_zeros, "optimum": from_optimum}
    cases = [
        {"algorithm": a, "rate": rate, "epsilon": e, "start": start, "seed": seed, "episodes": episodes}
        for rate, starts in ((rates[0], slow), *((r, {"zeros": recommended}) for r in rates[1:]))
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
    """The runs of a seed. `difference`: how far values are from the single core's; its own is that to another seed."""
    lake = lake_of(map_name)
    learn = functools.partial(learned_table, lake, rate, epsilon, episodes, batch_size=batch_size)
    single, other = learn(SINGLE, seed), learn(SINGLE, seed + 1_000)
    rows = []
    for count in (SINGLE, *collectors):
        q_table, against = (single, other) if count == SINGLE else (learn(count, seed), single)
        both = q_table.any(axis=1) & against.any(axis=1)
        difference = np.abs(q_table.max(axis=1) - against.max(axis=1))[both].mean()
        setting = {"map": map_name, "learning_rate": rate, "epsilon": epsilon, "collectors": count, "seed": seed}
        found = values_at_start(lake, q_table, epsilon)
        rows.append(setting | found | {"difference": difference, "table": checksum(q_table)})
    return rows


def learned_table(lake, rate, epsilon, episodes, collectors, seed, batch_size=100) -> np.ndarray:
    """The table of a single core, or of so many collectors called in turn. `timing` has the same runs over Ray."""
    settings = {"do_test": False, "test_interval": episodes, "seed": seed}
    if collectors == SINGLE:
        agent = td.QLAgent(lake, epsilon, rate, episodes, **settings)
        agent.learn()
        return agent.q_table
    return in_turn(td.DistributedQLAgent(
        lake, epsilon, rate, episodes, cw_num=collectors, ew_num=0, batch_size=batch_size, **settings
    ))  # fmt: skip


class InTurn:
    """An actor in this process: what is sent to it is done at once."""

    def __init__(self, role):
        self.role = role

    def __getattr__(self, method):
        return SimpleNamespace(remote=getattr(self.role, method))


def in_turn(agent, server=td.QLAgentServer) -> np.ndarray:
    """The table that an agent's run over Ray would end with: what the actors do, called in turn in this process."""
    collector = InTurn(td.CollectingWorker())
    workers = SimpleNamespace(server=InTurn(server()), collectors=[collector] * agent.cw_num)
    recipe = pickle.dumps(functools.partial(agent.single, agent.simulator, **agent._local_settings()))
    snapshots, first, number = deque([(agent.q_table, 0)] * len(agent._recent)), 0, 0
    workers.server.begin.remote(snapshots[0])
    while first < agent.learning_episodes:
        end = agent._batch_end(first, agent.learning_episodes)
        snapshots.append(agent._send(workers, recipe, number, snapshots.popleft(), first, end))
        first, number = end, number + 1
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
        self.clock = time.thread_time if computes else time.perf_counter  # what others compute meanwhile does not count

    def step(self, action):
        self.owed += self.seconds
        if self.owed >= 0.001:
            start = self.clock()
            if self.computes:
                while self.clock() - start < self.owed:
                    pass
            else:
                time.sleep(self.owed)
            self.owed -= self.clock() - start
        return self.env.step(action)


TIMED = {  # simulator: what runs of it are like; microseconds are what a step takes longer than the lake's own
    "compiled": [
        {"map": HALLWAY, "episodes": 30_000, "test_interval": 300},
        {"map": LAKE, "episodes": 100_000, "test_interval": 1_000},
        {"map": HALLWAY, "episodes": 480, "batch_size": 10, "max_step": 100},
    ],
    "stepped": [
        {"map": HALLWAY, "episodes": 10_000, "test_interval": 500, "batch_size": 500},
        {"map": LAKE, "episodes": 10_000, "test_interval": 1_000, "batch_size": 500},
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
    """Wall-clock seconds, one run after the other; a repetition is a seed. Other work on the machine would show."""
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


SIDES = {16: 600, 32: 2_000, 64: 12_000, 128: 80_000}  # side of a lake: episodes of a round, and between evaluations


def federated(seeds=10, counts=(0, 2, 4), sides=SIDES, rate=0.01, epsilon=0.05, holes=0.08, map_seed=1, rounds=24):
    """Wall-clock and exact values on lakes of growing size: a single core, and workers that learn for themselves."""
    cases = list(itertools.product(sides, range(seeds), counts))
    with td.Workers(max(counts), 0) as workers:
        for side, count in itertools.product(sides, counts):  # once each to warm up
            timed_rounds(side, 0, count, sides[side], 2, rate, epsilon, holes, map_seed, workers)
        for side, seed, count in tqdm(cases, desc="federated", unit="run"):
            lake, record = timed_rounds(side, seed, count, sides[side], rounds, rate, epsilon, holes, map_seed, workers)
            values = exact_values(lake, [q_table for _, _, q_table in record])
            for i, (seconds, steps, _) in enumerate(record):
                yield {"side": side, "workers": count, "seed": seed, "episode": (i + 1) * sides[side], "steps": steps,
                       "seconds": seconds, "value": values[i]}  # fmt: skip


def timed_rounds(side, seed, count, episodes, rounds, rate, epsilon, holes, map_seed, workers):
    """The lake, and (seconds, steps, q_table) after every round of so many episodes."""
    lake = td.FrozenLakeEnv(td.generate_map((side, side), holes, seed=map_seed))
    settings = {"test_interval": rounds * episodes, "do_test": False, "seed": seed}
    if count == SINGLE:
        agent, record = td.QLAgent(lake, epsilon, rate, rounds * episodes, **settings), []
        start = time.perf_counter()
        for _ in range(rounds):
            agent.learn(episodes)
            record.append((time.perf_counter() - start, agent.steps, agent.q_table))
        return lake, record
    agent = Recorded(
        lake, epsilon, rate, rounds * episodes, cw_num=count, ew_num=0, batch_size=episodes // count, workers=workers,
        **settings,
    )  # fmt: skip
    start = time.perf_counter()
    agent.learn_and_evaluate(progress=False)
    return lake, [(moment - start, steps, q_table) for moment, steps, q_table in agent.record]


class Recorded(td.FederatedQLAgent):
    """Keeps the moment, the steps and the table of every round."""

    def _batches(self, *arguments):
        self.record = []
        for _ in super()._batches(*arguments):
            self.record.append((time.perf_counter(), self.steps, self.q_table))
            yield


def exact_values(lake, q_tables) -> list[float]:
    """The exact value of the start under the greedy policy of each table; in two Ray tasks, as it takes a while."""
    import ray

    task = ray.remote(num_cpus=1)(lambda lake, *tables: [float(td.policy_value(lake.table, t)[0]) for t in tables])
    halves = q_tables[::2], q_tables[1::2]
    found = ray.get([task.remote(lake, *map(np.array, half)) for half in halves])
    return [found[i % 2][i // 2] for i in range(len(q_tables))]


RULES = ("retention-matched", "plain averaging", "adding up")
DIVERGED = 2_000  # an entry of a table beyond twice the highest reward


def merging(seeds=20, counts=(1, 4, 16), rules=RULES, rates=RATES, epsilon=0.3, episodes=30_000, batch_size=10):
    """What workers that learn for themselves come to on Dangerous Hallway, by the rule that merges their tables."""
    yield from over_ray(merging_run, [
        {"algorithm": a, "rule": rule, "workers": count, "rate": rate, "epsilon": epsilon, "seed": seed,
         "episodes": episodes, "batch_size": batch_size}
        for a, rate, rule, count, seed in itertools.product(FEDERATED, rates, rules, counts, range(seeds))
        if count > 1 or rule == rules[0]
    ], "merging")  # fmt: skip


def merging_run(algorithm, rule, workers, rate, epsilon, seed, episodes, batch_size) -> list[dict]:
    """The exact values at the end, or none where the table is not finite any more; `largest` is its largest entry."""
    lake, setting = lake_of(HALLWAY), {"cw_num": workers, "ew_num": 0, "batch_size": batch_size, "seed": seed}
    cap = 0.2 if rule == RULES[0] else 0.0  # 0: workers learn at the learning rate itself
    agent = FEDERATED[algorithm](lake, epsilon, rate, episodes, cap=cap, do_test=False, **setting)
    with np.errstate(all="ignore"):
        q_table = in_turn(agent, {RULES[0]: td.QLAgentServer, RULES[1]: Averaging, RULES[2]: AddingUp}[rule])
    bounded = bool(np.isfinite(q_table).all())
    values = [td.policy_value(lake.table, q_table, epsilon=e)[0] if bounded else np.nan for e in (0.0, epsilon)]
    return [{"algorithm": algorithm, "rule": rule, "workers": workers, "learning_rate": rate, "epsilon": epsilon,
             "seed": seed, "value": values[0], "on_policy": values[1],
             "largest": float(np.abs(q_table).max()) if bounded else np.inf}]  # fmt: skip


class AddingUp(td.QLAgentServer):
    """Adds the workers' differences to the table."""

    def merge(self, recipe, learning_rate, *reports):
        values, old = self.q_table.reshape(-1), self.q_table.flatten()
        for pairs, learned, *_ in reports:
            pairs = slice(None) if pairs is None else pairs
            values[pairs] += self.share(reports) * (learned - old[pairs])
        return self.q_table.copy(), 0

    def share(self, reports) -> float:
        return 1.0


class Averaging(AddingUp):
    """Takes the mean of the workers' tables."""

    def share(self, reports) -> float:
        return 1.0 / len(reports)


EXPERIMENTS = {f.__name__: f for f in (  # those with a clock last: alone
    exact, curves, hallway, distributed, tables, merging, timing, federated,
)}  # fmt: skip


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
    found = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(row[name])
    return np.array([found[seed] for seed in sorted(found)])


def bootstrap(values, resamples: int = 10_000, seed: int = 0) -> tuple:
    """(mean, low, high): the mean over the first axis, the seeds, and its 95% percentile bootstrap interval."""
    values = np.asarray(values, float)
    count = len(values)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
    low, high = np.percentile(weights @ values, [2.5, 97.5], axis=0)
    return values.mean(axis=0), low, high


# --------------------------------------------------------------------------------------
# What pictures, tables and text have in common
# --------------------------------------------------------------------------------------

THRESHOLD = {HALLWAY: 800, LAKE: 900}  # of the value: a policy that reaches the goal nearly always
LATE = 20  # tests


def optimum_of(data, map_name, policy="best", epsilon=0.0, name="value") -> float:
    return where(data["exact"], map=map_name, policy=policy, epsilon=epsilon)[0][name]


def curve_of(data, map_name, algorithm, rate, epsilon, name="value") -> np.ndarray:
    """A column of `curves` in a setting, shape (seeds, tests)."""
    index = data.setdefault("curves by setting", {})  # the rows are many and asked for often
    for row in data["curves"] if not index else ():
        index.setdefault((row["map"], row["algorithm"], row["learning_rate"], row["epsilon"]), []).append(row)
    return by_seed(index[map_name, algorithm, rate, epsilon], name)


def slip_cost(data, map_name) -> float:
    """What a hole beside the way costs: a slip of 1% that turns the optimum into -1000."""
    return 0.01 * (optimum_of(data, map_name) + 1_000)


def late_value(data, *setting) -> np.ndarray:
    """Each seed's mean exact value over the last tests."""
    return curve_of(data, *setting)[:, -LATE:].mean(axis=1)


def pace_of(data, map_name, *setting) -> dict:
    """When the median seed first passes the threshold, how many do, and the share of later tests below it."""
    above = curve_of(data, map_name, *setting) > THRESHOLD[map_name]
    arrived = above.any(axis=1)
    first = np.where(arrived, above.argmax(axis=1), above.shape[1])
    later = [1 - row[test:].mean() for row, test in zip(above[arrived], first[arrived], strict=True)]
    interval = EPISODES[map_name] // above.shape[1]
    return {"first": (np.median(first) + 1) * interval, "arrived": arrived.sum(), "relapse": np.mean(later)}


def route_share(data, algorithm, rate, epsilon, start="zeros", episode=30_000) -> dict[str, float]:
    """The share of seeds on each route."""
    setting = {"algorithm": algorithm, "learning_rate": rate, "epsilon": epsilon, "start": start, "episode": episode}
    found = where(data["hallway"], **setting)
    return {route: len(where(found, route=route)) / len(found) for route in ROUTES}


def table_of(data, shown, **fields) -> np.ndarray:
    """A q_table from its rows."""
    rows = where(data["tables"], shown=shown, **fields)
    return np.array([[row[name] for name in ("left", "down", "right", "up")] for row in rows])


def cores_of(data) -> int:
    return data["timing"][0]["cores"]


def repetitions_of(data) -> int:
    return len({row["seed"] for row in data["timing"]})


def main_runs(data) -> dict[str, list[dict]]:
    """The timed runs that were made with evaluation, too, by simulator and map."""
    groups = {}
    for simulator, runs in TIMED.items():
        for run in (run for run in runs if "test_interval" in run):
            rows = where(data["timing"], simulator=simulator, map=run["map"], episodes=run["episodes"],
                         microseconds=run.get("microseconds", 0))  # fmt: skip
            what = {"stepped": "stepped in Python", "waits": f"waits {rows[0]['microseconds']} µs a step"}
            groups[f"{what.get(simulator, simulator)}\n{run['map']}, {run['episodes']:,} ep."] = rows
    return groups


def batches_of(row) -> int:
    return row["episodes"] // row["batch_size"]


def ray_cost(rows, count) -> float:
    """Ray's cost of a batch in ms: what a batch takes beyond its share of the time that a single core needs for it."""
    step, rows = step_seconds(rows, 0, SINGLE), where(rows, evaluated=0, collectors=count)
    share = count if rows[0]["simulator"] == "waits" else min(count, rows[0]["cores"])
    return 1e3 * np.median([(row["seconds"] - step * row["steps"] / share) / batches_of(row) for row in rows])


def utilisation(rows, count) -> float:
    """The share of the time in which the learner learns."""
    rows = where(rows, evaluated=0, collectors=count)
    return np.median(column(rows, "replay_seconds") / column(rows, "seconds"))


def sweep(data, count) -> list[dict]:
    """Cost of a step and speed-up for each of the simulators that were run at a batch size of 10."""
    points = []
    for simulator, runs in TIMED.items():
        for run in (run for run in runs if run.get("batch_size") == 10):
            rows = where(data["timing"], simulator=simulator, microseconds=run.get("microseconds", 0), batch_size=10,
                         evaluated=0)  # fmt: skip
            single, many = where(rows, collectors=SINGLE), where(rows, collectors=count)
            pace = [column(part, "steps") / column(part, "seconds") for part in (single, many)]
            ratio = pace[1] / pace[0]
            points.append({"simulator": simulator, "cost": np.median(1e6 / pace[0]), "speed_up": np.median(ratio),
                           "low": ratio.min(), "high": ratio.max()})  # fmt: skip
    return points


def model_of(data, count) -> dict:
    """A batch takes max(simulation / collectors + Ray's cost, replay); all but the simulation from compiled runs."""
    rows = where(data["timing"], simulator="compiled", batch_size=10, evaluated=0, collectors=count)
    ray_us = 1e6 * np.median([row["seconds"] / batches_of(row) for row in rows])
    replay_us = 1e6 * np.median([row["replay_seconds"] / batches_of(row) for row in rows])
    waits = where(data["timing"], simulator="waits", batch_size=10, evaluated=0, collectors=count)
    steps = np.median([row["steps"] / batches_of(row) for row in waits])

    def speed_up(cost):
        return cost * steps / np.maximum(cost * steps / count + ray_us, replay_us)

    even = ray_us * count / ((count - 1) * steps) if count > 1 else np.inf
    return {"speed_up": speed_up, "break_even": even, "ray_ms": ray_us / 1e3, "steps": steps}


def crossing(points) -> float:
    """Where the speed-up of points (x, speed-up) passes 1, between two of them on log scales; nan if nowhere."""
    for (x0, y0), (x1, y1) in itertools.pairwise(sorted(points)):
        if y0 < 1 <= y1:
            return x0 * (x1 / x0) ** (np.log(1 / y0) / np.log(y1 / y0))
    return np.nan


def measured_break_even(data, count) -> float:
    """The cost of a step in µs from which on so many collectors are faster than a single core."""
    return crossing((p["cost"], p["speed_up"]) for p in sweep(data, count) if p["simulator"] != "computes")


SHORTFALL, STRICT, WINDOW = 200, 50, 5  # targets of federated runs: optimum less this, by the mean of so many values


def optimum_of_side(data, side) -> float:
    """The exact optimum of a lake of the experiment `federated`."""
    settings = settings_of(federated)
    desc = td.generate_map((side, side), settings["holes"], seed=settings["map_seed"])
    cache = data.setdefault("optima by side", {})
    if side not in cache:
        cache[side] = td.value_iteration(td.FrozenLakeEnv(desc).table)[0].max()
    return cache[side]


def climb_of(data, side, count, shortfall=SHORTFALL) -> dict[int, tuple[float, float] | None]:
    """By seed, (seconds, steps) in the middle of the first five evaluations whose mean reaches the target, or None."""
    target, found = optimum_of_side(data, side) - shortfall, {}
    rows = where(data["federated"], side=side, workers=count)
    for seed in sorted({row["seed"] for row in rows}):
        run = where(rows, seed=seed)
        means = np.convolve(column(run, "value"), np.full(WINDOW, 1 / WINDOW), "valid")
        middle = run[int(np.argmax(means >= target)) + WINDOW // 2]
        found[seed] = (middle["seconds"], middle["steps"]) if (means >= target).any() else None
    return found


def split_of(data, side, count, shortfall=SHORTFALL) -> dict[str, tuple]:
    """Geometric means over the seeds that arrive on both sides: speed_up = workers * hardware * statistics."""
    single, many = (climb_of(data, side, c, shortfall) for c in (SINGLE, count))
    pairs = np.array([(*single[s], *many[s]) for s in single if single[s] and many[s]])
    seconds, steps = pairs[:, 0] / pairs[:, 2], pairs[:, 1] / pairs[:, 3]
    parts = {"speed_up": seconds, "hardware": seconds / steps / count, "statistics": steps}
    return {name: tuple(np.exp(bootstrap(np.log(ratio)))) for name, ratio in parts.items()}


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
            setting = map_name, algorithm, rate, epsilon
            episode = curve_of(data, *setting, name="episode")[0]
            mean, low, high = bootstrap(curve_of(data, *setting), 2_000)
            color = td.COLORS[algorithm]
            axes.fill_between(episode, low, high, color=color, alpha=0.25, linewidth=0)
            axes.plot(episode, mean, color=color, linewidth=1.8, label=f"{algorithm}, exact")
            sampled = curve_of(data, *setting, name="sampled").mean(axis=0)
            axes.plot(episode, sampled, ".", color=color, markersize=2.5, alpha=0.7, label=f"{algorithm}, sampled")
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


def late_values(data):
    """Shortfall from the optimum over the last fifth of the tests: a dot a seed, the mean with its interval."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(9, 7), sharex=True, layout="constrained")
    jitter = np.linspace(-0.22, 0.22, len({row["seed"] for row in data["curves"]}))
    for axes, map_name in zip(panels, EPISODES, strict=True):
        best = optimum_of(data, map_name)
        names = []
        for y, (algorithm, rate, epsilon) in enumerate(itertools.product(AGENTS, RATES, EPSILONS)):
            shortfall = best - late_value(data, map_name, algorithm, rate, epsilon)
            mean, low, high = bootstrap(shortfall)
            color = td.COLORS[algorithm]
            axes.plot(shortfall, y + jitter, ".", color=color, alpha=0.5, markersize=6)
            axes.plot([low, high], [y, y], color="black", linewidth=2.2, solid_capstyle="butt")
            axes.plot(mean, y, "D", color=color, markeredgecolor="black", markersize=7)
            names.append(f"{algorithm}, rate {rate:g}, epsilon {epsilon:g}")
        marks = {"one hole beside the way": slip_cost(data, map_name)}
        if map_name == HALLWAY:
            marks["best by the hallway"] = best - optimum_of(data, HALLWAY, "best by the hallway")
        for name, x in marks.items():
            axes.axvline(x, color="#555555", linestyle=":", linewidth=1.2)
            axes.text(
                x,
                -0.75,
                f" {name}, {x:.0f} ",
                ha="right" if name[0] == "o" else "left",
                va="bottom",
                fontsize=9,
                color="#333333",
            )
        axes.set_yticks(range(len(names)), names)
        axes.set(xscale="log", xlim=(0.2, 2_500), ylim=(len(names) - 0.5, -1.35))
        axes.set_title(f"{map_name}, optimum {best:.1f}", fontsize=11)
        axes.grid(alpha=0.25)
    panels[-1].set_xlabel("optimum less exact value of the greedy policy, mean of the last 20 tests (log scale)")
    return figure


ROUTES = {"bypass": "#dddddd", "neither": "#999999", "hallway": "#222222"}


def routes(data):
    """Shares of the routes after the suggested episodes, and the share on the bypass as learning goes on."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", width_ratios=(1, 1.15))
    settings = list(itertools.product(RATES, EPSILONS, AGENTS))
    for y, (rate, epsilon, algorithm) in enumerate(settings):
        share, begin = route_share(data, algorithm, rate, epsilon), 0.0
        for route, color in ROUTES.items():
            left.barh(y, share[route], left=begin, color=color, edgecolor="black", linewidth=0.5)
            if share[route] >= 0.08:
                text = f"{route} {share[route]:.0%}" if share[route] > 0.3 else f"{share[route]:.0%}"
                left.text(begin + share[route] / 2, y, text, ha="center", va="center",
                          fontsize=9, color="white" if route == "hallway" else "black")  # fmt: skip
            begin += share[route]
    left.set_yticks(range(len(settings)), [f"{a}\nrate {r:g}, eps. {e:g}" for r, e, a in settings], fontsize=9)
    left.set(xlim=(0, 1), ylim=(len(settings) - 0.5, -0.5), xlabel="share of seeds")
    left.set_title("way after 30,000 episodes (grey: neither)", fontsize=11)
    for algorithm, epsilon, start in itertools.product(AGENTS, EPSILONS, ("zeros", "optimum")):
        share = {e: route_share(data, algorithm, RATES[0], epsilon, start, e)["bypass"] for e in CHECKPOINTS
                 if where(data["hallway"], start=start, learning_rate=RATES[0], episode=e)}  # fmt: skip
        shift = 0.012 * (1 if algorithm == "SARSA" else -1) * (1 if epsilon == EPSILONS[0] else 2)  # else they coincide
        right.plot(list(share), np.array(list(share.values())) + shift, "o" if epsilon == EPSILONS[0] else "^",
                   linestyle="-" if start == "zeros" else "--", color=td.COLORS[algorithm], markersize=5,
                   markerfacecolor=td.COLORS[algorithm] if start == "zeros" else "white",
                   label=f"{algorithm}, epsilon {epsilon:g}, from {start}")  # fmt: skip
    right.axvline(30_000, color="#555555", linestyle=":", linewidth=1)
    right.text(32_000, 0.78, "suggested", rotation=90, ha="left", va="center", fontsize=9, color="#333333")
    right.set(xscale="log", ylim=(-0.06, 1.06), xlabel="learning episodes (log scale)")
    right.set_ylabel("share of seeds on the bypass")
    right.set_title("learning rate 0.001, for longer", fontsize=11)
    right.grid(alpha=0.25)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return figure


def draw_lake(axes, map_name, q_table, title):
    """A lake's values from 0 to 1000 with the most likely greedy way from the start; arrows on small maps."""
    lake = lake_of(map_name)
    values = np.where(lake.desc == b"H", np.nan, q_table.max(axis=1)[:-1].reshape(lake.desc.shape))
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1000)
    axes.set(facecolor="#222222", xticks=[], yticks=[])
    if lake.ncol <= 8:
        row, col = np.nonzero((lake.desc == b"F") | (lake.desc == b"S"))
        moves = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])[q_table.argmax(axis=1)[row * lake.ncol + col]]
        axes.quiver(col, row, *moves.T, color="white", alpha=0.8, pivot="mid", angles="xy", scale_units="xy", scale=1.8,
                    width=0.012)  # fmt: skip
    way = [divmod(state, lake.ncol) for state in path_of(lake, q_table) if state != lake.exit_state]
    axes.plot([x for _, x in way], [y for y, _ in way], color="#D55E00", linewidth=2.2)
    for letter in b"S", b"G":
        y, x = np.argwhere(lake.desc == letter)[0]
        axes.text(x, y, letter.decode(), ha="center", va="center", fontsize=8, fontweight="bold",
                  bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "linewidth": 0.5})  # fmt: skip
    axes.set_title(title, fontsize=9)
    return image


def values_hallway(data):
    """Learned values and routes of both algorithms, and the exact optima."""
    import matplotlib.pyplot as plt

    lake = lake_of(HALLWAY)
    figure, panels = plt.subplots(2, 3, figsize=(9, 5.9), layout="constrained")
    for row, epsilon in zip(panels, EPSILONS, strict=True):
        shown = {a: table_of(data, "algorithms", algorithm=a, epsilon=epsilon) for a in AGENTS}
        shown["exact optimum"] = td.value_iteration(lake.table, epsilon=epsilon)
        for axes, (name, q_table) in zip(row, shown.items(), strict=True):
            found = values_at_start(lake, q_table, epsilon)
            title = f"{name}, epsilon {epsilon:g}\ngreedy {found['value']:.0f}, exploring {found['on_policy']:.0f}"
            image = draw_lake(axes, HALLWAY, q_table, title)
    figure.colorbar(image, ax=panels, label="highest action value of the table", shrink=0.7)
    return figure


def values_distributed(data):
    """Value functions of the single core and of distributed learning, beside the optimum."""
    import matplotlib.pyplot as plt

    counts = (SINGLE, 2, 4, 8)
    figure, panels = plt.subplots(2, 1 + len(counts), figsize=(9.6, 4.7), layout="constrained")
    for row, map_name in zip(panels, EPISODES, strict=True):
        lake = lake_of(map_name)
        shown = {"exact optimum": td.value_iteration(lake.table)}
        shown |= {config_name(c): table_of(data, "distributed", map=map_name, collectors=c) for c in counts}
        for axes, (name, q_table) in zip(row, shown.items(), strict=True):
            title = f"{name}\nvalue {td.policy_value(lake.table, q_table)[0]:.1f}"
            if axes is not row[0]:
                count = counts[list(shown).index(name) - 1]
                values = column(where(data["distributed"], map=map_name, collectors=count), "value")
                title += f"\n{len(values)} seeds: {values.mean():.1f}"
            image = draw_lake(axes, map_name, q_table, title)
        row[0].set_ylabel(f"{map_name}\nlearning rate {BEST_RATE[map_name]:g}", fontsize=9)
    figure.colorbar(image, ax=panels, label="highest action value", shrink=0.7)
    return figure


def config_name(collectors: int) -> str:
    """The assignment's name of a configuration: (collectors, evaluators)."""
    return "single core" if collectors == SINGLE else f"({collectors}, 4)"


def timing_runs(data):
    """Seconds of every configuration, with evaluation and without, for each simulator."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(9.6, 6.2), layout="constrained")
    counts = sorted({row["collectors"] for row in data["timing"]})
    for axes, (title, group) in zip(panels.flat, main_runs(data).items(), strict=False):
        for evaluated, marker, shift in ((1, "s", 0.12), (0, "o", -0.12)):
            for x, count in enumerate(counts):
                seconds = column(where(group, evaluated=evaluated, collectors=count), "seconds")
                color = td.COLORS["Q-learning" if count == SINGLE else "Distributed"]
                axes.plot([x + shift] * 2, [seconds.min(), seconds.max()], color=color, linewidth=2)
                axes.plot(x + shift, np.median(seconds), marker, color=color, markersize=7,
                          markerfacecolor=color if evaluated else "white")  # fmt: skip
        axes.set_xticks(range(len(counts)), ["single\ncore", *(f"({c},4)" for c in counts[1:])], fontsize=9)
        axes.set(yscale="log")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25, which="both", axis="y")
        axes.yaxis.set_major_formatter("{x:g}")
        low, high = axes.get_ylim()
        digits = "25" if high / low > 8 else "23468" if high / low > 4 else "23456789"
        axes.yaxis.set_minor_formatter(lambda x, _, digits=digits: f"{x:g}" if f"{x:e}"[0] in digits else "")
        axes.tick_params(axis="y", which="both", labelsize=9)
    note = panels.flat[-1]
    note.axis("off")
    for label, color, marker, fill in (
        ("single core, with evaluation", "Q-learning", "s", True), ("single core, without", "Q-learning", "o", False),
        ("distributed, with evaluation", "Distributed", "s", True), ("distributed, without", "Distributed", "o", False),
    ):  # fmt: skip
        color = td.COLORS[color]
        note.plot([], [], marker, color=color, markerfacecolor=color if fill else "white", markersize=7, label=label)
    title = f"{cores_of(data)} cores; median and\nrange of {repetitions_of(data)} repetitions"
    note.legend(loc="upper center", fontsize=10, title=title)
    figure.supylabel("seconds (log scale)", fontsize=10)
    figure.supxlabel("(collectors, evaluators)", fontsize=10)
    return figure


def break_even(data):
    """Speed-up over a single core against the cost of a simulator's step, with the model drawn through."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.6), layout="constrained")
    cost = np.geomspace(0.014, 400, 400)
    greens = {1: "#999999", 2: "#66c2a5", 4: "#009E73", 8: "#00543d"}
    for count, color in greens.items():
        points = sweep(data, count)
        model = model_of(data, count)
        axes.plot(cost, model["speed_up"](cost), color=color, linewidth=1.5)
        for name, marker in (("compiled", "s"), ("stepped", "D"), ("waits", "o"), ("computes", "x")):
            chosen = [p for p in points if p["simulator"] == name]
            middle, aside = column(chosen, "speed_up"), count**0.13 if name == "computes" else 1  # else they coincide
            axes.errorbar(column(chosen, "cost") * aside, middle, color=color, fmt=marker, markersize=6, linewidth=1.2,
                          yerr=[middle - column(chosen, "low"), column(chosen, "high") - middle])  # fmt: skip
        end = model["speed_up"](cost[-1])
        below = "top" if count == 1 else "center"
        axes.text(cost[-1] * 1.1, end, f"{count} collector{'s' * (count > 1)}", color=color, va=below, fontsize=10)
        if count > 1:
            axes.plot(model["break_even"], 1, "*", color=color, markersize=15, markeredgecolor="black", zorder=5)
    axes.axhline(1, color="black", linestyle=(0, (6, 3)), linewidth=1)
    axes.text(0.015, 1.08, "as fast as a single core", fontsize=10)
    for name, marker in (("compiled", "s"), ("stepped in Python", "D"), ("waits", "o"), ("computes 50 µs", "x")):
        axes.plot([], [], marker, color="#444444", label=f"measured: {name}")
    axes.plot([], [], color="#444444", label="model")
    axes.plot([], [], "*", color="white", markeredgecolor="black", markersize=13, label="break-even by the model")
    axes.set(xscale="log", yscale="log", xlim=(0.012, 1_500))
    axes.set_xlabel("cost of a step on a single core, µs (log scale)")
    axes.set_ylabel("steps per second, as a multiple of a single core's")
    axes.set_title(f"Dangerous Hallway, batches of 10 episodes, {cores_of(data)} cores, no evaluation", fontsize=11)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9)
    return figure


def federated_speed(data):
    """Exact value over seconds on the largest lake, and the speed-up over a single core by the lake's size."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", width_ratios=(1.25, 1))
    side, counts = max(SIDES), [c for c in sorted({row["workers"] for row in data["federated"]}) if c != SINGLE]
    styles = {SINGLE: ("single core", td.COLORS["Q-learning"], "-")} | {
        count: (f"{count} workers", (td.COLORS["Federated"], "#7a3b5e")[i], ("-", ":")[i])
        for i, count in enumerate(counts)
    }
    for count, (name, color, line) in styles.items():
        rows = where(data["federated"], side=side, workers=count)
        for i, seed in enumerate(sorted({row["seed"] for row in rows})):
            run = where(rows, seed=seed)
            left.plot(column(run, "seconds"), column(run, "value"), line, color=color, linewidth=1, alpha=0.7,
                      label=name if i == 0 else None)  # fmt: skip
    best = optimum_of_side(data, side)
    left.axhline(best, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {best:.1f}")
    target = best - SHORTFALL
    left.axhline(target, color="#555555", linestyle=":", linewidth=1.2, label=f"target {target:.1f}")
    left.set(xlabel="wall-clock seconds", ylabel="exact value of the greedy policy")
    left.set_title(f"{side} x {side}, one line a seed", fontsize=11)
    left.legend(loc="center left", fontsize=9, handlelength=1.5)
    least = 1.0
    for count in counts:
        name, color, line = styles[count]
        mean, low, high = np.array([split_of(data, side, count)["speed_up"] for side in SIDES]).T
        right.errorbar(list(SIDES), mean, yerr=[mean - low, high - mean], color=color, fmt="o", linestyle=line,
                       markersize=6, capsize=3, label=name)  # fmt: skip
        beside = mean[-1] * (1.1 if count == counts[0] else 0.88)
        right.text(side * 1.15, beside, f"{name}: {mean[-1]:.2f}", color=color, fontsize=9, va="center")
        least = min(least, low.min())
    right.axhline(1, color="black", linestyle=(0, (6, 3)), linewidth=1)
    right.text(380, 0.95, "as fast as a single core", fontsize=9, ha="right", va="top")
    right.set(xscale="log", yscale="log", xlim=(14, 400), xlabel="side of the lake (log scale)")
    right.set_ylabel("speed-up to the target (log scale)")
    right.set_xticks(list(SIDES), [f"{side}" for side in SIDES])
    right.minorticks_off()
    right.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2], ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"])
    right.set_ylim(least / 1.5, 2.6)
    right.set_title(f"{cores_of(data)} cores", fontsize=11)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


def merging_rules(data):
    """Exact value against the number of federated workers, by the rule that merges what they learned."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True, layout="constrained")
    counts = settings_of(merging)["counts"]
    styles = {RULES[0]: ("o", "-"), RULES[1]: ("s", "--"), RULES[2]: ("x", ":")}
    for axes, rate in zip(panels, RATES, strict=True):
        for (rule, (marker, line)), algorithm in itertools.product(styles.items(), FEDERATED):
            shift = (1 if algorithm == "SARSA" else -1) * (1 + 0.05 * list(styles).index(rule)) * 0.04
            points = []
            for x, count in enumerate(counts):
                found = {"rule": RULES[0] if count == 1 else rule, "workers": count}
                group = where(data["merging"], algorithm=algorithm, learning_rate=rate, **found)
                if all(row["largest"] < DIVERGED for row in group):
                    points.append((x + shift, *bootstrap(column(group, "value"))))
                else:
                    axes.plot(x + shift, -960, marker, color=td.COLORS[algorithm], markersize=7)
            x, mean, low, high = np.array(points).T
            axes.errorbar(x, mean, yerr=[mean - low, high - mean], color=td.COLORS[algorithm], fmt=marker, markersize=6,
                          linestyle=line, capsize=2, label=f"{algorithm}, {rule}")  # fmt: skip
        best = optimum_of(data, HALLWAY)
        axes.axhline(best, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"optimum {best:.1f}")
        axes.set_title(f"learning rate {rate:g}", fontsize=11)
        axes.set_xticks(range(len(counts)), [f"{count}" for count in counts])
        axes.set(xlabel="workers", ylim=(-1_080, 1_060))
        axes.grid(alpha=0.25)
    panels[1].text(1.5, -920, "diverges", ha="center", va="bottom", fontsize=10)
    panels[0].set_ylabel("exact value of the greedy policy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


FIGURES = {f.__name__: f for f in (
    curves_hallway, curves_16x16, late_values, values_hallway, routes, values_distributed, timing_runs, break_even,
    federated_speed, merging_rules,
)}  # fmt: skip


# --------------------------------------------------------------------------------------
# Tables and numbers of the report
# --------------------------------------------------------------------------------------


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column is text, the others stand to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(values, digits: int = 1, sign: str = "") -> str:
    """A mean with its 95% bootstrap interval."""
    mean, low, high = (f"{x:{sign}.{digits}f}" for x in bootstrap(values))
    return f"{mean} [{low}, {high}]"


def spread(seconds) -> str:
    """A median with its range, to three digits."""
    return f"{np.median(seconds):.3g} ({np.min(seconds):.3g} to {np.max(seconds):.3g})"


def table_exact(data):
    """What the best policies are worth, exactly."""
    rows = [
        [row["map"], row["policy"], f"{row['epsilon']:g}", f"{row['value']:.2f}", f"{row['on_policy']:.2f}",
         f"{row['steps']}", f"{row['risks']}"]
        for row in data["exact"]
    ]  # fmt: skip
    return markdown(
        ["map", "policy", "epsilon", "value, greedy", "value, exploring", "steps of its way", "holes beside it"], rows
    )


def table_settings(data):
    """All settings of both maps."""
    rows = []
    for map_name, algorithm, rate, epsilon in itertools.product(EPISODES, AGENTS, RATES, EPSILONS):
        setting = map_name, algorithm, rate, epsilon
        late, last, pace = late_value(data, *setting), curve_of(data, *setting)[:, -1], pace_of(data, *setting)
        rows.append([
            f"{map_name}, {algorithm}", f"{rate:g}", f"{epsilon:g}", interval(late), f"{late.min():.0f}",
            interval(last), f"{pace['first']:,.0f}", f"{pace['relapse']:.0%}",
        ])  # fmt: skip
    head = ["map, algorithm", "rate", "epsilon", "value, last 20 tests", "worst seed", "value, last test"]
    return markdown([*head, "episodes to threshold", "later tests below it"], rows)


def compared(data, algorithm, fixed: str):
    """Differences between the two learning rates, or the two epsilons, on the same seeds."""
    rows = []
    for map_name, kept in itertools.product(EPISODES, EPSILONS if fixed == "epsilon" else RATES):
        pairs = [(rate, kept) for rate in RATES] if fixed == "epsilon" else [(kept, epsilon) for epsilon in EPSILONS]
        late = [late_value(data, map_name, algorithm, *pair) for pair in pairs]
        pace = [pace_of(data, map_name, algorithm, *pair) for pair in pairs]
        rows.append([
            map_name, f"{kept:g}", *(interval(values) for values in late), interval(late[1] - late[0], sign="+"),
            " / ".join(f"{p['first']:,.0f}" for p in pace), " / ".join(f"{p['relapse']:.0%}" for p in pace),
        ])  # fmt: skip
    changed = [f"rate {r:g}" for r in RATES] if fixed == "epsilon" else [f"epsilon {e:g}" for e in EPSILONS]
    return markdown(["map", fixed, *changed, "difference, same seeds", "episodes to threshold", "tests below it"], rows)


def table_sarsa_rates(data):
    return compared(data, "SARSA", "epsilon")


def table_q_rates(data):
    return compared(data, "Q-learning", "epsilon")


def table_sarsa_epsilons(data):
    return compared(data, "SARSA", "learning rate")


def table_q_epsilons(data):
    return compared(data, "Q-learning", "learning rate")


def hallway_groups(data) -> dict[tuple, list[dict]]:
    """The rows at the recommended and the last number of episodes, by (start, episode, rate, epsilon, algorithm)."""
    last = {"zeros": 3_000_000, "optimum": 300_000}
    cases = itertools.product(last, (30_000, *last.values()), RATES, EPSILONS, AGENTS)
    found = {}
    for start, episode, rate, epsilon, algorithm in cases:
        setting = {"start": start, "learning_rate": rate, "epsilon": epsilon, "algorithm": algorithm}
        rows = where(data["hallway"], episode=episode, **setting) if episode in (30_000, last[start]) else []
        if rows:
            found[start, episode, rate, epsilon, algorithm] = rows
    return found


def table_routes(data):
    """Ways and exact values, by start, length and setting."""
    rows = []
    for (start, episode, rate, epsilon, algorithm), group in hallway_groups(data).items():
        share = [f"{len(where(group, route=route))}" for route in ("hallway", "bypass", "neither")]
        values = [interval(column(group, name), 0) for name in ("value", "on_policy")]
        rows.append([f"{algorithm}, {rate:g}, {epsilon:g}", start, f"{episode:,}", *share, *values])
    head = ["algorithm, rate, epsilon", "from", "episodes", "hallway", "bypass", "neither", "value, greedy"]
    return markdown([*head, "value, exploring"], rows)


def table_beliefs(data):
    """What the tables say at the fork and along the bypass, at the lowest rate."""
    rows = []
    for (start, episode, rate, epsilon, algorithm), group in hallway_groups(data).items():
        if rate == RATES[0] and start == "zeros":
            learned = [f"{column(group, name).mean():.1f}" for name in ("down", "right", "behind")]
            rows.append([f"{algorithm}, {epsilon:g}", f"{episode:,}", *learned])
    table = td.value_iteration(lake_of(HALLWAY).table)
    rows.append(
        ["exact optimum", "", *(f"{table[FORK, a]:.1f}" for a in (td.DOWN, td.RIGHT)), f"{table[BEHIND].max():.1f}"]
    )
    head = ["algorithm, epsilon", "episodes", "fork: down, into the hallway", "fork: right, to the bypass"]
    return markdown([*head, "half way along the bypass"], rows)


def table_distributed(data):
    """Values and tables of distributed learning beside the single core's."""
    rows = []
    for map_name, count in itertools.product(EPISODES, (SINGLE, 1, 2, 4, 8)):
        group = where(data["distributed"], map=map_name, collectors=count)
        single = where(data["distributed"], map=map_name, collectors=SINGLE)
        value, base = column(group, "value"), column(single, "value")
        against = "" if count == SINGLE else interval(value - base, sign="+")
        rows.append([
            f"{map_name}, {config_name(count)}", interval(value), f"{value.min():.0f}", against,
            interval(column(group, "difference")), f"{(column(group, 'risks') == 0).sum()} of {len(group)}",
        ])  # fmt: skip
    head = ["map, (collectors, evaluators)", "value, greedy", "worst seed", "less single core, same seeds"]
    return markdown([*head, "mean difference of values", "seeds whose way has no hole beside it"], rows)


def step_seconds(rows, evaluated, count) -> float:
    """The median time of a learning step: runs of as many episodes differ in their steps."""
    rows = where(rows, evaluated=evaluated, collectors=count)
    return np.median(column(rows, "seconds") / column(rows, "steps"))


def timing_table(data, evaluated):
    """Seconds by simulator and configuration, and the best of the distributed ones against the single core, by step."""
    rows, counts = [], sorted({row["collectors"] for row in data["timing"]})
    for name, group in main_runs(data).items():
        seconds = [column(where(group, evaluated=evaluated, collectors=c), "seconds") for c in counts]
        single, *others = (step_seconds(group, evaluated, c) for c in counts)
        rows.append([name.replace("\n", ", "), *map(spread, seconds), f"{single / min(others):.3g}"])
    return markdown(["simulator, map", *map(config_name, counts), "best speed-up, by step"], rows)


def table_time_evaluated(data):
    return timing_table(data, 1)


def table_time_unevaluated(data):
    return timing_table(data, 0)


def table_evaluation(data):
    """What evaluation adds, by configuration: medians with and without, as a difference in seconds and a ratio."""
    rows, counts = [], sorted({row["collectors"] for row in data["timing"]})
    for name, group in main_runs(data).items():
        cells = []
        for count in counts:
            with_it, without = (
                np.median(column(where(group, evaluated=e, collectors=count), "seconds")) for e in (1, 0)
            )
            cells.append(f"{with_it - without:+.2g} s (x{with_it / without:.2f})")
        rows.append([name.replace("\n", ", "), *cells])
    return markdown(["simulator, map", *map(config_name, counts)], rows)


def table_learner(data):
    """How busy the learner is, and what Ray costs a batch."""
    rows, counts = [], [c for c in sorted({row["collectors"] for row in data["timing"]}) if c != SINGLE]
    for name, group in main_runs(data).items():
        cells = [f"{utilisation(group, c):.1%}, {ray_cost(group, c):.1f} ms" for c in counts]
        rows.append([name.replace("\n", ", "), f"{group[0]['batch_size']}", *cells])
    return markdown(["simulator, map", "episodes a batch", *map(config_name, counts)], rows)


def table_break_even(data):
    """Where distributing begins to pay: by the model and by the measured points."""
    rows = []
    for count in (2, 4, 8):
        model, measured = model_of(data, count), measured_break_even(data, count)
        ahead = max(sweep(data, count), key=lambda p: p["cost"] if p["simulator"] == "waits" else 0)
        rows.append([
            f"{count}", f"{model['ray_ms']:.2f}", f"{model['break_even']:.1f}",
            "" if np.isnan(measured) else f"{measured:.1f}",
            f"{model['break_even'] * model['steps'] / 1e3:.1f}", f"{ahead['speed_up']:.2f}",
            f"{model['speed_up'](ahead['cost']):.2f}",
        ])  # fmt: skip
    head = [
        "collectors",
        "Ray, ms a batch",
        "break-even, µs a step, model",
        "measured",
        "the same as ms of simulation a batch",
    ]
    return markdown([*head, "speed-up at 200 µs, measured", "model"], rows)


def table_federated(data):
    """Seconds and steps to the target by size and workers, and the speed-up with its three factors."""
    rows = []
    for side, count in itertools.product(SIDES, sorted({row["workers"] for row in data["federated"]})):
        climbs = climb_of(data, side, count)
        arrived = np.array([climb for climb in climbs.values() if climb])
        name, factors = ("single core", [""] * 3) if count == SINGLE else (f"{count} workers", [
            f"{mean:.3g} [{low:.3g}, {high:.3g}]" for mean, low, high in split_of(data, side, count).values()
        ])  # fmt: skip
        steps = f"{np.median(arrived[:, 1]) / 1e6:.3g}"
        arrivals = f"{len(arrived)} of {len(climbs)}"
        rows.append([f"{side} x {side}, {name}", spread(arrived[:, 0]), steps, arrivals, *factors])
    head = ["lake", "seconds to the target", "million steps", "seeds that arrive", "speed-up"]
    return markdown([*head, "hardware efficiency", "statistical efficiency"], rows)


def table_merging(data):
    """What merging comes to by rule: exact values at equal episodes, and how large the tables grow."""
    rows = []
    settings = settings_of(merging)
    for rate, rule, count in itertools.product(settings["rates"], settings["rules"], settings["counts"]):
        cells = []
        for algorithm, name in (("Q-learning", "value"), ("SARSA", "value"), ("SARSA", "on_policy")):
            group = where(data["merging"], algorithm=algorithm, learning_rate=rate, rule=rule, workers=count)
            lost = sum(not row["largest"] < DIVERGED for row in group)
            value = interval(column(group, name), 0) if group and not lost else ""
            cells.append(f"diverges ({lost} of {len(group)})" if lost else value)
        if any(cells):
            rows.append([f"{rate:g}, {rule}", f"{count}", *cells])
    head = ["learning rate, rule", "workers", "Q-learning, value", "SARSA, value", "SARSA, value while exploring"]
    return markdown(head, rows)


TABLES = {f.__name__: f for f in (
    table_exact, table_settings, table_sarsa_rates, table_q_rates, table_sarsa_epsilons, table_q_epsilons,
    table_routes, table_beliefs, table_distributed, table_time_evaluated, table_time_unevaluated, table_evaluation,
    table_learner, table_break_even, table_federated, table_merging,
)}  # fmt: skip

SHORT = {HALLWAY: "hallway", LAKE: "lake", "Q-learning": "q", "SARSA": "sarsa", 0.001: "slow", 0.1: "fast",
         0.3: "e30", 0.05: "e05"}  # fmt: skip


def numbers(data) -> dict:
    """Every number in the report's prose, by the name that the template gives it."""
    found = {"seeds": len({row["seed"] for row in data["curves"]}), "cores": cores_of(data),
             "repetitions": repetitions_of(data)}  # fmt: skip
    for row in data["exact"]:
        name = "best" if row["policy"] == "best" else "through"
        key = f"{SHORT[row['map']]}_{name}_{SHORT.get(row['epsilon'], 'e0')}"
        found |= {key: row["value"], f"{key}_exploring": row["on_policy"]}
        found |= {f"{key}_risks": row["risks"], f"{key}_steps": row["steps"]}
    found["slip_cost"] = slip_cost(data, LAKE)
    for setting in itertools.product(EPISODES, AGENTS, RATES, EPSILONS):
        key = "_".join(SHORT[part] for part in setting)
        found[key], found[f"{key}_low"], found[f"{key}_high"] = bootstrap(late_value(data, *setting))
        found |= {f"{key}_{name}": value for name, value in pace_of(data, *setting).items()}
        last = curve_of(data, *setting)[:, -1]
        if setting[2] == RATES[0]:
            below = (curve_of(data, *setting)[:, -10:] < THRESHOLD[setting[0]]).sum()
            found["slow_below"] = found.get("slow_below", 0) + below
        found |= {f"{key}_worst": last.min(), f"{key}_near": (last > optimum_of(data, setting[0]) - 5).sum()}
    sampled = np.concatenate([
        (curve_of(data, *s, name="sampled") - curve_of(data, *s))[curve_of(data, *s) < -900]
        for s in itertools.product(EPISODES, AGENTS, RATES, EPSILONS)
    ])  # fmt: skip
    found["sampled_too_high"] = sampled.mean()
    for row in data["hallway"]:
        key = "_".join([SHORT[row["algorithm"]], SHORT[row["learning_rate"]], SHORT[row["epsilon"]], row["start"],
                        f"{row['episode']:.0e}".replace("e+0", "e")])  # fmt: skip
        found[f"{key}_{row['route']}"] = found.get(f"{key}_{row['route']}", 0) + 1
        for route in ROUTES:
            found.setdefault(f"{key}_{route}", 0)
        for name in ("value", "on_policy", "down", "right", "behind"):
            found.setdefault(f"{key}_{name}", []).append(row[name])
    found = {key: np.mean(value) if isinstance(value, list) else value for key, value in found.items()}
    found["behind"] = td.value_iteration(lake_of(HALLWAY).table)[BEHIND].max()
    for map_name, count in itertools.product(EPISODES, (SINGLE, 1, 2, 4, 8)):
        group, single = (where(data["distributed"], map=map_name, collectors=c) for c in (count, SINGLE))
        key = f"{SHORT[map_name]}_c{count}"
        found[key], found[f"{key}_low"], found[f"{key}_high"] = bootstrap(column(group, "value"))
        gain = bootstrap(column(group, "value") - column(single, "value"))
        found |= dict(zip((f"{key}_gain", f"{key}_gain_low", f"{key}_gain_high"), gain, strict=True))
        found[f"{key}_difference"] = column(group, "difference").mean()
        found[f"{key}_free"] = (column(group, "risks") == 0).sum()
    for map_name in EPISODES:
        gains = [found[f"{SHORT[map_name]}_c{count}_gain"] for count in (2, 4, 8)]
        found |= {f"{SHORT[map_name]}_gain_least": min(gains), f"{SHORT[map_name]}_gain_most": max(gains)}
    found["one_same"] = (column(where(data["distributed"], collectors=1), "difference") == 0).sum()
    found["one_runs"] = len(where(data["distributed"], collectors=1))
    found |= timing_numbers(data) | {"same_tables": same_tables(data), "timed_tables": len(full_runs(data))}
    found |= federated_numbers(data)
    return found | {
        "settings": len(EPISODES) * len(AGENTS) * len(RATES) * len(EPSILONS),
        "hallway_gap": found["hallway_best_e0"] - found["hallway_through_e0"],
        "hallway_q_epsilon_gap": abs(found["hallway_q_slow_e05"] - found["hallway_q_slow_e30"]),
        "lake_q_epsilon_gap": abs(found["lake_q_slow_e05"] - found["lake_q_slow_e30"]),
        "compiled_over_stepped": found["stepped_lake_step_us"] / found["compiled_lake_step_us"],
        "loop_sampled": -sum(0.999**t for t in range(1_000)),
        "zero_share": 1 - 0.05 ** (1 / found["seeds"]),  # the highest share that shows in no seed once in 20 times
    }


def full_runs(data) -> list[dict]:
    """The timed runs that have the settings of `distributed`, seed by seed."""
    return [row for row in data["timing"] if row["simulator"] == "compiled" and row["episodes"] == EPISODES[row["map"]]]


def same_tables(data) -> int:
    """How many of them ended with the table of `distributed`, to the bit."""
    known = {(row["map"], row["collectors"], row["seed"]): row["table"] for row in data["distributed"]}
    return sum(row["table"] == known[row["map"], row["collectors"], row["seed"]] for row in full_runs(data))


def timing_numbers(data) -> dict:
    """Times and speed-ups by simulator, map, configuration, with (1) and without (0) evaluation."""
    found = {}
    for group in main_runs(data).values():
        name = f"{group[0]['simulator']}_{SHORT[group[0]['map']]}"
        counts = sorted({row["collectors"] for row in group})
        medians = {}
        for evaluated, count in itertools.product((0, 1), counts):
            key = f"{name}_c{count}_{'with' if evaluated else 'without'}"
            ratio = step_seconds(group, evaluated, count) / step_seconds(group, evaluated, SINGLE)
            seconds = medians[evaluated, count] = np.median(
                column(where(group, evaluated=evaluated, collectors=count), "seconds")
            )
            found |= {key: seconds, f"{key}_speedup": 1 / ratio, f"{key}_slowdown": ratio}
        for count in counts:
            found[f"{name}_c{count}_evaluation"] = medians[1, count] / medians[0, count]
            if count != SINGLE:
                found[f"{name}_c{count}_busy"] = utilisation(group, count)
                tests = column(where(group, evaluated=1, collectors=count), "evaluate_seconds")
                found[f"{name}_c{count}_tests"] = np.median(tests)
        found[f"{name}_step_us"] = 1e6 * step_seconds(group, 0, SINGLE)
        server = [
            row["replay_seconds"] / row["steps"] for row in group if row["collectors"] == 2 and not row["evaluated"]
        ]
        found[f"{name}_replay_us"] = 1e6 * np.median(server)
        found[f"{name}_ceiling"] = found[f"{name}_step_us"] / found[f"{name}_replay_us"]
    for count in (2, 4, 8):
        model, far = model_of(data, count), sweep(data, count)
        found |= {f"even{count}": model["break_even"], f"even{count}_measured": measured_break_even(data, count),
                  f"even{count}_batch_ms": model["break_even"] * model["steps"] / 1e3}  # fmt: skip
        found[f"computes_c{count}"] = where(far, simulator="computes")[0]["speed_up"]
        waits = max(where(far, simulator="waits"), key=lambda p: p["cost"])
        found |= {
            f"far{count}": waits["speed_up"],
            f"far{count}_model": model["speed_up"](waits["cost"]),
            "computes_us": where(far, simulator="computes")[0]["cost"],
        }
    return found


def federated_numbers(data) -> dict:
    """Climbs and speed-ups by side and workers; values at equal episodes by rule."""
    found = {"target_shortfall": SHORTFALL, "federated_seeds": len({row["seed"] for row in data["federated"]})}
    for side, count in itertools.product(SIDES, (SINGLE, 2, 4)):
        key = f"fed{side}_w{count}"
        climbs = climb_of(data, side, count)
        arrived = np.array([climb for climb in climbs.values() if climb])
        found |= {f"{key}_seconds": np.median(arrived[:, 0]), f"{key}_msteps": np.median(arrived[:, 1]) / 1e6,
                  f"{key}_arrived": len(arrived),
                  f"{key}_late": int(np.sum(arrived[:, 1] > 1.2 * np.median(arrived[:, 1])))}  # fmt: skip
        if count != SINGLE:
            for name, interval_ in split_of(data, side, count).items():
                found |= {f"{key}_{name}{end}": x for end, x in zip(("", "_low", "_high"), interval_, strict=True)}
    strict = split_of(data, max(SIDES), 2, STRICT)["speed_up"]
    found |= dict(zip(("strict_speed_up", "strict_low", "strict_high"), strict, strict=True))
    for count in (SINGLE, 2, 4):
        found[f"strict_w{count}_arrived"] = sum(map(bool, climb_of(data, max(SIDES), count, STRICT).values()))
    found["strict_shortfall"] = STRICT
    *small, largest = (f"{episodes:,}" for episodes in SIDES.values())
    found |= {"fed_round": max(SIDES.values()), "fed_rounds": f"{', '.join(small)} and {largest}"}
    found |= {"fed_even": crossing((side, found[f"fed{side}_w2_speed_up"]) for side in SIDES)}
    for row in data["merging"]:
        key = f"merge_{SHORT[row['algorithm']]}_{SHORT[row['learning_rate']]}_{row['rule'].split('-')[0].split()[0]}"
        for name in ("value", "on_policy", "largest"):
            found.setdefault(f"{key}_w{row['workers']}_{name}", []).append(row[name])
    return {
        key: (max(value) if key.endswith("largest") else np.mean(value)) if isinstance(value, list) else value
        for key, value in found.items()
    }


def claims(data) -> dict[str, bool]:
    """What the report's words say, and whether the data still do; measured anew, times might not."""
    n = numbers(data)
    names = [f"{SHORT[m]}_{SHORT[a]}" for m in EPISODES for a in AGENTS]
    seeds = n["seeds"]
    q, sarsa = "q_slow_e30_zeros_3e4", "sarsa_slow_e30_zeros_3e4"
    return {
        "all settings reach the goal": all(n[f"{name}_{rate}_{e}_arrived"] == seeds for name in names
                                           for rate in ("slow", "fast") for e in ("e30", "e05")),
        "0.1 is at least ten times as soon": all(n[f"{name}_slow_{e}_first"] >= 10 * n[f"{name}_fast_{e}_first"]
                                                 for name in names for e in ("e30", "e05")),
        "Q-learning is in the hallway, SARSA on the bypass": n[f"{q}_hallway"] == n[f"{sarsa}_bypass"] == seeds,
        "with epsilon 0.05 both are in the hallway": n["q_slow_e05_zeros_3e4_hallway"] == seeds
                                                     == n["sarsa_slow_e05_zeros_3e4_hallway"],
        "the bypass is optimal": n["hallway_gap"] > 0
                                 and n["hallway_best_e05_exploring"] > n["hallway_through_e05_exploring"],
        "lock-in": n["q_slow_e30_zeros_3e6_bypass"] == 0 and n["q_slow_e30_optimum_3e5_bypass"] == seeds,
        "lock-in of SARSA": n["sarsa_slow_e05_zeros_3e6_bypass"] == 0
                            and n["sarsa_slow_e05_optimum_3e5_bypass"] == seeds,
        "at 0.001 the last ten tests are above the threshold": n["slow_below"] == 0,
        "best rates": all((n[f"{SHORT[m]}_q_fast_e30"] > n[f"{SHORT[m]}_q_slow_e30"]) == (BEST_RATE[m] == 0.1)
                          for m in EPISODES),
        "SARSA relapses more at 0.1, epsilon 0.3": all(
            n[f"{m}_sarsa_fast_e30_relapse"] > 1.5 * n[f"{m}_q_fast_e30_relapse"] for m in ("hallway", "lake")),
        "distributed values are not worse": all(n[f"{SHORT[m]}_gain_least"] > 0 for m in EPISODES),
        "one collector is the single core": n["one_same"] == n["one_runs"],
        "Ray's tables are those of one process": n["same_tables"] == n["timed_tables"],
        "compiled, the single core is fastest": all(n[f"compiled_{m}_c{c}_{w}_speedup"] < 1 for m in ("hallway", "lake")
                                                    for c in (1, 2, 4, 8) for w in ("with", "without")),
        "stepped, (2,4) is faster": min(n[f"stepped_lake_c2_{w}_speedup"] for w in ("with", "without")) > 1,
        "stepped tests of the single core's tables take longer": n["stepped_hallway_c1_tests"]
                                                                 > 2 * n["stepped_hallway_c2_tests"],
        "waiting, more collectors are faster": all(
            n[f"waits_hallway_c{more}_{w}_speedup"] > n[f"waits_hallway_c{less}_{w}_speedup"]
            for less, more in ((SINGLE, 2), (2, 4), (4, 8)) for w in ("with", "without")),
        "the learner is idle most of the time": n["compiled_lake_c8_busy"] < 0.5 and n["stepped_lake_c2_busy"] < 0.1,
        "two federated workers beat one core on the largest lake": n["fed128_w2_speed_up_low"] > 1,
        "and need no more than 5% more steps": n["fed128_w2_statistics"] > 1 / 1.05,
        "small lakes do not pay": n["fed16_w2_speed_up_high"] < 1 and n["fed32_w2_speed_up_high"] < 1,
        "all federated runs arrive": all(n[f"fed{s}_w{w}_arrived"] == n["federated_seeds"]
                                         for s in SIDES for w in (SINGLE, 2, 4)),
        "plain averaging is behind": n["merge_q_slow_plain_w16_value"] < n["merge_q_slow_retention_w16_value"] - 500,
        "adding up diverges": not n["merge_q_fast_adding_w4_largest"] < DIVERGED,
    }  # fmt: skip


def report(data) -> str:
    """Report.md: the template with its tables and numbers."""
    template = (HERE / "report_template.md").read_text()
    filled = {name: table(data) for name, table in TABLES.items()} | numbers(data)
    return template.format_map(filled)


# --------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------


def publish(draft: Path, data: dict) -> None:
    """Make pictures and report of the data in `draft`, then move all that is there to its place."""
    for name, figure in tqdm(FIGURES.items(), desc="pictures"):
        td.save_figure(figure(data), draft / f"{name}.png")
    (draft / "Report.md").write_text(report(data))
    for claim in (claim for claim, holds in claims(data).items() if not holds):
        print(f"warning: the report says, the data do not: {claim}", file=sys.stderr)
    for path in sorted(draft.iterdir()):
        place = {".csv": HERE / "data", ".png": HERE, ".md": HERE.parent}[path.suffix]
        os.replace(path, place / path.name)


def main(arguments=None) -> None:
    """Run experiments, draw, write the report."""
    parser = argparse.ArgumentParser(description="Run the report's experiments, draw its pictures, write the report.")
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
