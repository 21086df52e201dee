"""The assignment's settings, and what its questions share: the route and exact value of a table's policy."""

from __future__ import annotations

import zlib

import numpy as np

import td_helpers as td

HALLWAY = "Dangerous Hallway"
LAKE = "16x16"
SHORT = {HALLWAY: "Hallway", LAKE: "16x16"}  # in tables
EPISODES = {HALLWAY: 30_000, LAKE: 100_000}  # the assignment's
RATES = (0.001, 0.1)
EPSILONS = (0.3, 0.05)
BEST_RATE = {HALLWAY: 0.1, LAKE: 0.001}  # for Q-learning with epsilon 0.3; the report's section 3 claims it
AGENTS = {"Q-learning": td.QLAgent, "SARSA": td.SARSAAgent}
SINGLE = 0  # the number of collectors, or of workers, of a single-core run
OTHER_SEED = 1_000_000  # added to a seed, for an independent second run


def route_of(lake: td.FrozenLakeEnv, q_table: np.ndarray) -> str:
    """Return how the greedy path crosses Dangerous Hallway: "hallway" (column 1), "bypass" or "neither"; else ""."""
    if [row.decode() for row in lake.desc.view(f"S{lake.ncol}").ravel()] != td.MAPS[HALLWAY]:
        return ""
    path = td.greedy_path(q_table, lake)
    columns = {state % lake.ncol for state in path if 2 <= state // lake.ncol <= 5}  # rows of the hallway
    if lake.desc.flat[path[-1]] != b"G" or not columns:
        return "neither"
    return "hallway" if columns == {1} else "bypass"


def values_at_start(lake: td.FrozenLakeEnv, q_table: np.ndarray, epsilon: float) -> dict:
    """Return the exact value of the start under a table's greedy and exploring policies, and the greedy route.

    `risks` counts the slips off the greedy path into a hole; each has a probability of 1%.
    """
    path = td.greedy_path(q_table, lake)
    slips = lake.table.next_state[path, q_table[path].argmax(axis=1), 1:]
    letters = np.append(lake.desc.ravel(), b"X")  # X: the exit state, which is no cell
    return {
        "value": td.policy_value(lake.table, q_table)[0],
        "on_policy": td.policy_value(lake.table, q_table, epsilon=epsilon)[0],
        "risks": int((letters[slips] == b"H").sum()),
        "route": route_of(lake, q_table),
    }


def learned_table(
    lake: td.FrozenLakeEnv,
    rate: float,
    epsilon: float,
    episodes: int,
    collectors: int,
    seed: int,
    batch_size: int = 100,
    in_flight: int = 2,
) -> np.ndarray:
    """Return the final table of Q-learning, on a single core or with collectors, computed in this process."""
    agent = learner(lake, rate, epsilon, collectors, seed, batch_size, in_flight)
    agent.learn(episodes)
    return agent.q_table


def learner(
    lake: td.FrozenLakeEnv, rate: float, epsilon: float, collectors: int, seed: int, batch_size: int, in_flight: int = 2
) -> td.TDAgent:
    """Return an untrained Q-learning agent, on a single core or with collectors that run in this process."""
    settings = {"do_test": False, "seed": seed}
    if collectors == SINGLE:
        return td.QLAgent(lake, epsilon, rate, **settings)
    settings |= {"cw_num": collectors, "ew_num": 0, "batch_size": batch_size, "in_flight": in_flight}
    return td.DistributedQLAgent(lake, epsilon, rate, workers=td.InProcess(), **settings)


def checksum(q_table: np.ndarray) -> str:
    """Return a checksum of a table's exact bits."""
    return f"{zlib.crc32(np.ascontiguousarray(q_table).tobytes()):08x}"
