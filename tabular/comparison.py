"""Q-learning and SARSA side by side: learned from zeros for given settings, and measured exactly."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .checks import check_count, check_number
from .exact import policy_value, value_iteration
from .kernels import Parameters, action_range, key_of
from .lake import FrozenLakeEnv
from .pictures import greedy_path
from .rules import Rule, q_learning, sarsa
from .stopping import stop_if_ended

RULES: dict[str, Rule] = {"Q-learning": q_learning, "SARSA": sarsa}
BETA, MAX_STEP = 0.999, 1000  # as an agent's by default
MOST_CELLS = 64  # per side
MOST_EPISODES, MOST_SEEDS = 1_000_000, 100
MOST_SLIP = 0.75  # then all four directions are equally likely
PART = 1000  # episodes that are learned in one call, which nothing can stop
FIRST_STEPS = 2_500_000  # of both learners, some 40 ms; then a first picture is due


# Settings -------------------------------------------------------------------------------------


class Settings(NamedTuple):
    """What decides a comparison: the map as a tuple of strings, and the learners' settings."""

    rows: tuple[str, ...]
    epsilon: float
    learning_rate: float
    slip: float  # the probability that a move goes in one of the three other directions
    episodes: int
    seeds: int
    seed: int  # the first

    def checked(self) -> Settings:
        """Return the settings; raise TypeError or ValueError if one of them is invalid."""
        settings = Settings(
            self.rows,
            check_number("epsilon", self.epsilon),
            check_number("learning_rate", self.learning_rate),
            check_number("slip", self.slip, 0.0, MOST_SLIP),
            check_count("episodes", self.episodes, 1, MOST_EPISODES),
            check_count("seeds", self.seeds, 1, MOST_SEEDS),
            check_count("seed", self.seed, 0, 2**62),
        )
        shape = settings.lake().desc.shape
        if max(shape) > MOST_CELLS:
            raise ValueError(f"lake must have at most {MOST_CELLS} rows and columns to be explored, got {shape}")
        return settings

    def lake(self) -> FrozenLakeEnv:
        """Make the lake; raise TypeError or ValueError if the map is invalid."""
        return _lake(self.rows, self.slip)


@functools.lru_cache(maxsize=8)
def _lake(rows: tuple[str, ...], slip: float) -> FrozenLakeEnv:
    return FrozenLakeEnv(list(rows), transition_prob=(1.0 - slip, slip / 3, slip / 3, slip / 3))


# Learning -------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What a learner came to with each seed so far: in lists, one entry per seed."""

    tables: list[np.ndarray]
    greedy: list[float]  # the exact value of the greedy policy, where an episode starts
    exploring: list[float]  # the same while it explores
    paths: list[list[tuple[int, int]]]  # the cells (row, column) of the likeliest greedy path


class Comparison(NamedTuple):
    """Results of the learners by name, after `episodes` episodes of the last seed; complete if no learning is left."""

    settings: Settings
    results: dict[str, Result]
    best: float  # the exact optimum
    best_exploring: float  # the same for a policy that must explore
    episodes: int
    complete: bool


def compare(settings: Settings) -> Iterator[Comparison]:
    """Learn from zeros; yield the comparison when it is complete, and before that after ever more steps.

    The steps of all seeds count, so that a first picture comes early: with fewer seeds, or of the first seed with fewer
    episodes. How much each shows depends on the settings alone, never on the time.
    """
    table = settings.lake().table
    best = float(table.start @ value_iteration(table, BETA).max(axis=1))
    soft = value_iteration(table, BETA, settings.epsilon)
    best_exploring = float(table.start @ policy_value(table, soft, BETA, settings.epsilon))
    results: dict[str, Result] = {name: Result([], [], [], []) for name in RULES}
    steps, due = 0, FIRST_STEPS
    for number in range(settings.seeds):
        for episodes, tables, more in _learned(settings, settings.seed + number):
            steps += more
            finished = episodes == settings.episodes
            if not finished and (number > 0 or steps < due):
                continue
            so_far = {name: _with(results[name], settings, q_table) for name, q_table in tables.items()}
            results = so_far if finished else results
            complete = finished and number + 1 == settings.seeds
            if complete or steps >= due:
                due = 2 * steps
                yield Comparison(settings, so_far, best, best_exploring, episodes, complete)


def _learned(settings: Settings, seed: int) -> Iterator[tuple[int, dict[str, np.ndarray], int]]:
    """Learn with one seed; yield the episodes so far, the tables, which learning changes, and the last steps."""
    table = settings.lake().table
    parameters = Parameters(settings.epsilon, settings.learning_rate, BETA, MAX_STEP, key_of(seed))
    tables = {name: np.zeros(table.shape) for name in RULES}
    for first in range(0, settings.episodes, PART):
        stop_if_ended()
        count = min(PART, settings.episodes - first)
        task = table.packed, action_range(table.shape[1]), parameters, first, count
        yield first + count, tables, sum(rule(tables[name], *task) for name, rule in RULES.items())


def _with(result: Result, settings: Settings, q_table: np.ndarray) -> Result:
    """Add the results of another seed."""
    lake = settings.lake()
    greedy, exploring = (
        float(lake.table.start @ policy_value(lake.table, q_table, BETA, epsilon))
        for epsilon in (0.0, settings.epsilon)
    )
    path = [divmod(state, lake.ncol) for state in greedy_path(q_table, lake)]
    return Result(
        [*result.tables, q_table.copy()],
        [*result.greedy, greedy],
        [*result.exploring, exploring],
        [*result.paths, path],
    )


# Routes ----------------------------------------------------------------------------------------


class Route(NamedTuple):
    """The runs whose paths end at one goal and pass all holes on the same sides, or those that reach no goal."""

    runs: list[int]  # their numbers
    arrives: bool


def routes(paths: Sequence[list[tuple[int, int]]], letters: np.ndarray) -> list[Route]:
    """Sort the runs by the routes that their paths take; those of most runs come first."""
    kinds = [(path[-1], _passed(path, letters)) if letters[path[-1]] == b"G" else None for path in paths]
    return [
        Route([run for run, other in enumerate(kinds) if other == kind], kind is not None)
        for kind, _ in Counter(kinds).most_common()
    ]


def _passed(path: list[tuple[int, int]], letters: np.ndarray) -> tuple[int, ...]:
    """How often a path passes above each group of holes to the right, less how often to the left.

    The numbers stay the same if a path is moved without crossing a hole.
    """
    cells = np.array(path)
    row, col, step = cells[:-1, 0], cells[:, 1], np.diff(cells[:, 1])
    border = np.maximum(col[:-1], col[1:])  # that a step crosses: on the left of this column
    groups = _groups_of_holes(letters.tobytes(), letters.shape)
    return tuple(int(step[(border == left) & (row < top)].sum()) for top, left in groups)


@functools.lru_cache(maxsize=8)
def _groups_of_holes(letters: bytes, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """The first cell (row, column) of each group of holes that touch, at least by their corners."""
    from scipy.ndimage import label  # imported here, as in grids

    holes = np.frombuffer(letters, "S1").reshape(shape) == b"H"
    groups, count = label(holes, np.ones((3, 3)))
    return [tuple(np.argwhere(groups == group)[0].tolist()) for group in range(1, count + 1)]
