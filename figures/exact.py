"""How good can a policy be? The optima, computed exactly."""

from __future__ import annotations

import td_helpers as td
from figures.assignment import HALLWAY, LAKE, values_at_start
from figures.rows import Data, where
from figures.study import experiment
from figures.summaries import markdown

WITHOUT_BYPASS = [row[:5] + "HHH" if 2 <= y <= 5 else row for y, row in enumerate(td.MAPS[HALLWAY])]


@experiment(seeds=False)
def run(epsilons=(0.0, 0.05, 0.3)):
    """Yield the best policies with and without exploration, and the best ones through the hallway."""
    for name, policy, desc in (
        (HALLWAY, "best", td.MAPS[HALLWAY]),
        (HALLWAY, "best by the hallway", WITHOUT_BYPASS),
        (LAKE, "best", td.MAPS[LAKE]),
    ):
        lake = td.FrozenLakeEnv(desc)
        for epsilon in epsilons:
            q_table = td.value_iteration(lake.table, epsilon=epsilon)
            found = values_at_start(td.FrozenLakeEnv(map_name=name), q_table, epsilon)
            steps = len(td.greedy_path(q_table, lake))
            yield {"map": name, "policy": policy, "epsilon": epsilon, **found, "steps": steps}


def best(data: Data, map: str, epsilon: float = 0.0, policy: str = "best"):
    """The row of the best policy: value, on_policy, risks, route, steps."""
    return next(where(data["exact"], map=map, policy=policy, epsilon=epsilon).itertuples())


def through_hallway(data: Data, epsilon: float = 0.0):
    """The row of the best policy that takes the hallway."""
    return best(data, HALLWAY, epsilon, "best by the hallway")


def hallway_gap(data: Data, epsilon: float = 0.0) -> float:
    """The value of the bypass minus that of the hallway, for an agent that explores with this epsilon."""
    return best(data, HALLWAY, epsilon).on_policy - through_hallway(data, epsilon).on_policy


def hole_cost(data: Data, map: str) -> float:
    """The cost of a hole beside the path: with probability 1% a slip turns the optimum into -1000."""
    return 0.01 * (best(data, map).value + 1_000)


def table(data: Data) -> str:
    """A table of the values of the best policies."""
    rows = [
        [row.map, row.policy, f"{row.epsilon:g}", f"{row.value:.2f}", f"{row.on_policy:.2f}", f"{row.steps}",
         f"{row.risks}"]
        for row in data["exact"].itertuples()
    ]  # fmt: skip
    return markdown(["map", "policy", "epsilon", "value", "exploring", "steps", "holes beside it"], rows)
