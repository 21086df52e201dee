"""What the experiments share: the assignment's settings, what a table's policy does and is worth, and its cores."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import zlib

import numpy as np
from tqdm.auto import tqdm

import td_helpers as td

HALLWAY = "Dangerous Hallway"
LAKE = "16x16"
EPISODES = {HALLWAY: 30_000, LAKE: 100_000}  # the assignment's
RATES = (0.001, 0.1)
EPSILONS = (0.3, 0.05)
BEST_RATE = {HALLWAY: 0.1, LAKE: 0.001}  # of Q-learning with epsilon 0.3: a claim of the report's section 3
AGENTS = {"Q-learning": td.QLAgent, "SARSA": td.SARSAAgent}
SINGLE = 0  # the number of collectors, or of workers, of a single-core run
OTHER_SEED = 1_000_000  # added to a seed, for a second run that has nothing in common with it
seeds_from = 0  # added to every case's seed: see `other_seeds`


def lake_of(map_name: str) -> td.FrozenLakeEnv:
    """The lake of a map."""
    return td.FrozenLakeEnv(desc=td.MAPS[map_name])


def greedy_path(lake, q_table) -> list[int]:
    """The states on the greedy policy's most likely path from the start: to the exit, or until a state repeats."""
    path = [int(np.argmax(lake.initial_state_distrib))]
    while path[-1] != lake.exit_state:
        following = int(lake.table.next_state[path[-1], np.argmax(q_table[path[-1]]), 0])
        if following in path:
            break
        path.append(following)
    return path


def route_of(lake, q_table) -> str:
    """How the greedy path crosses Dangerous Hallway: "hallway" (column 1), "bypass" or "neither"; "" elsewhere."""
    if lake.nrow != len(td.MAPS[HALLWAY]):
        return ""
    path = greedy_path(lake, q_table)
    reaches_goal = path[-1] == lake.exit_state and lake.desc.flat[path[-2]] == b"G"
    columns = {state % lake.ncol for state in path[:-1] if 2 <= state // lake.ncol <= 5}  # rows of the hallway
    if not reaches_goal or not columns:
        return "neither"
    return "hallway" if columns == {1} else "bypass"


def values_at_start(lake, q_table, epsilon: float) -> dict:
    """The exact value of the start under a table's greedy and exploring policies, and the greedy policy's route.

    `risks` are the slips on the greedy path that lead into a hole; each has a probability of 1%.
    """
    path = [state for state in greedy_path(lake, q_table) if state != lake.exit_state]
    slips = lake.table.next_state[path, q_table[path].argmax(axis=1), 1:]
    letters = np.append(lake.desc.ravel(), b"X")  # the exit state has none of its own
    return {
        "value": td.policy_value(lake.table, q_table)[0],
        "on_policy": td.policy_value(lake.table, q_table, epsilon=epsilon)[0],
        "risks": int((letters[slips] == b"H").sum()),
        "route": route_of(lake, q_table),
    }


def learned_table(lake, rate, epsilon, episodes, collectors, seed, batch_size=100) -> np.ndarray:
    """The final table of Q-learning on a single core or with collectors, computed in this process."""
    settings = {"do_test": False, "seed": seed}
    if collectors == SINGLE:
        agent = td.QLAgent(lake, epsilon, rate, episodes, **settings)
    else:
        settings |= {"cw_num": collectors, "ew_num": 0, "batch_size": batch_size, "workers": td.InProcess()}
        agent = td.DistributedQLAgent(lake, epsilon, rate, episodes, **settings)
    agent.learn(episodes)
    return agent.q_table


def checksum(q_table) -> str:
    """A checksum that tells tables apart, bit for bit."""
    return f"{zlib.crc32(np.ascontiguousarray(q_table).tobytes()):08x}"


def start_ray() -> None:
    """Start Ray, or join a cluster; this package's functions and classes are sent to its processes by value."""
    import ray

    td.start_ray()
    ray.cloudpickle.register_pickle_by_value(sys.modules["figures"])


@contextlib.contextmanager
def other_seeds(shift: int):
    """Experiments that run within see other seeds."""
    global seeds_from
    before, seeds_from = seeds_from, shift
    try:
        yield
    finally:
        seeds_from = before


def spread(run, cases: list[dict], name: str):
    """Yield the rows of `run(**case)` for all cases, in their order, each case on a core of its own.

    In threads on this machine, where compiled learning runs side by side, or over Ray where RAY_ADDRESS names a
    cluster. Seeds are shifted by `seeds_from`; rows have those of the cases, so that fresh ones read like committed
    ones.
    """
    shifted = [case | {"seed": case["seed"] + seeds_from} for case in cases]
    rows_of = _over_ray if os.environ.get("RAY_ADDRESS") else _in_threads
    with tqdm(total=len(cases), desc=name, unit="run") as bar:
        for case, rows in zip(cases, rows_of(run, shifted, bar), strict=True):
            for row in rows:
                yield row | {"seed": case["seed"]}


def _in_threads(run, cases: list[dict], bar):
    """The rows of each case, computed in as many threads as there are cores."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        futures = [pool.submit(run, **case) for case in cases]
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # what has begun comes to its end


def _over_ray(run, cases: list[dict], bar):
    """The rows of each case, computed in as many tasks at once as the cluster has cores."""
    import ray

    start_ray()
    task = ray.remote(num_cpus=1)(run)
    references = [task.remote(**case) for case in cases]
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=min(8, len(waiting)), timeout=1)
        bar.update(len(done))
    for reference in references:
        yield ray.get(reference)
