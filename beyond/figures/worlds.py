"""Small worlds of the literature, as envs with a transition table: what the yardsticks are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import NormalDist

import numpy as np

import td_helpers as td
from td_helpers import gym

FROZEN_LAKE_8X8 = """
    SFFFFFFF
    FFFFFFFF
    FFFHFFFF
    FFFFFHFF
    FFFHFFFF
    FHHFFFHF
    FHFFHFHF
    FFFHFFFG
"""
DYNA_MAZE = """
    .......#G
    ..#....#.
    S.#....#.
    ..#......
    .....#...
    .........
"""
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)  # by column, in cells up
ARMS = ((1.0, 50.0), (0.15, 133.0), (0.1, 300.0), (0.05, 800.0), (0.03, 1660.0), (0.01, 6000.0))  # (chance, reward)
BIASED_ACTIONS = 10  # in state B; the book says "many"
QUANTILES = 201  # of a normal reward

Outcome = tuple[float, int, float, bool]  # probability, next state, reward, terminated


class World(gym.Env):
    """An env that samples from a transition table."""

    def __init__(self, table: td.TransitionTable):
        self.table = table
        states, actions = table.shape
        self.observation_space, self.action_space = gym.spaces.Discrete(states), gym.spaces.Discrete(actions)

    @td.samples_table
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(len(self.table.start), p=self.table.start))
        return self.state, {}

    @td.samples_table
    def step(self, action):
        table, pair = self.table, (self.state, action)
        k = self.np_random.choice(table.probability.shape[-1], p=table.probability[pair])
        self.state = int(table.next_state[pair][k])
        return self.state, float(table.reward[pair][k]), bool(table.terminated[pair][k]), False, {}


def world(states: int, actions: int, outcomes: Callable[[int, int], Iterable[Outcome]], *starts: int) -> World:
    """Return a world from a function of (state, action); an episode starts in one of `starts`, each as likely."""
    P = {state: {action: list(outcomes(state, action)) for action in range(actions)} for state in range(states)}
    start = np.bincount(starts, minlength=states) / len(starts)
    return World(td.TransitionTable.from_lists(P, start))


def river_swim() -> World:
    """Strehl and Littman (2008), figure 1: six states in a row; left (0) goes with the current, right (1) against it.

    Staying in the first state pays 5 to those who swim left, in the last one 10,000 to those who swim right.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        if action == 0:
            return [(1.0, max(state - 1, 0), 5.0 * (state == 0), False)]
        if state == 0:
            return [(0.7, 0, 0.0, False), (0.3, 1, 0.0, False)]
        if state == 5:
            return [(0.7, 4, 0.0, False), (0.3, 5, 10_000.0, False)]
        return [(0.6, state, 0.0, False), (0.3, state + 1, 0.0, False), (0.1, state - 1, 0.0, False)]

    return world(6, 2, outcomes, 1, 2)


def six_arms() -> World:
    """Strehl and Littman (2008), figure 2: from the hub (0) action a leads to arm a + 1, the less likely the better.

    In an arm its own action stays and pays, all others lead back; in the first arm action 4 alone leads back.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        chance, reward = ARMS[action if state == 0 else state - 1]
        if state == 0:
            return [(chance, action + 1, 0.0, False), (1.0 - chance, 0, 0.0, False)]
        stays = action != 4 if state == 1 else action == state - 1
        return [(1.0, state, reward, False) if stays else (1.0, 0, 0.0, False)]

    return world(7, 6, outcomes, 0)


def deep_sea(size: int, seed: int) -> World:
    """bsuite (Osband et al. 2020): a square in which each step goes down a row and left or right by a column.

    Which action goes right is drawn for each cell. Right costs 0.01 / `size`; in the last column it pays 1.
    """
    right = np.random.default_rng(seed).integers(2, size=(size, size))

    def outcomes(state: int, action: int) -> list[Outcome]:
        row, column = divmod(state, size)
        to_right = action == right[row, column]
        reward = to_right * ((column == size - 1) - 0.01 / size)
        column = min(column + 1, size - 1) if to_right else max(column - 1, 0)
        return [(1.0, min(row + 1, size - 1) * size + column, reward, row == size - 1)]

    return world(size * size, 2, outcomes, 0)


UP, RIGHT, DOWN, LEFT = (-1, 0), (0, 1), (1, 0), (0, -1)


def cliff() -> World:
    """Sutton and Barto, example 6.6: 4 x 12 cells; the cliff, between start and goal, costs 100 and leads back."""

    def outcomes(state: int, action: int) -> list[Outcome]:
        row, column = _moved(state, (UP, RIGHT, DOWN, LEFT)[action], 4, 12)
        if row == 3 and 0 < column < 11:
            return [(1.0, 36, -100.0, False)]
        return [(1.0, row * 12 + column, -1.0, (row, column) == (3, 11))]

    return world(48, 4, outcomes, 36)


def windy() -> World:
    """Sutton and Barto, example 6.5: 7 x 10 cells, with an upward wind in the middle columns."""

    def outcomes(state: int, action: int) -> list[Outcome]:
        row, column = _moved(state, (UP, RIGHT, DOWN, LEFT)[action], 7, 10)
        row = max(row - WIND[state % 10], 0)
        return [(1.0, row * 10 + column, -1.0, (row, column) == (3, 7))]

    return world(70, 4, outcomes, 30)


def dyna_maze() -> World:
    """Sutton and Barto, example 8.1: 6 x 9 cells with walls, at best 14 steps; the last one pays 1."""
    cells = "".join(DYNA_MAZE.split())

    def outcomes(state: int, action: int) -> list[Outcome]:
        row, column = _moved(state, (LEFT, DOWN, RIGHT, UP)[action], 6, 9)
        cell = row * 9 + column
        cell = state if cells[cell] == "#" else cell
        return [(1.0, cell, float(cells[cell] == "G"), cells[cell] == "G")]

    return world(54, 4, outcomes, cells.index("S"))


def frozen_lake_8x8() -> World:
    """Gymnasium's FrozenLake-v1 with map_name="8x8" and is_slippery=False: the goal pays 1, all else nothing."""
    cells = "".join(FROZEN_LAKE_8X8.split())

    def outcomes(state: int, action: int) -> list[Outcome]:
        if cells[state] in "GH":
            return [(1.0, state, 0.0, True)]
        row, column = _moved(state, (LEFT, DOWN, RIGHT, UP)[action], 8, 8)
        cell = row * 8 + column
        return [(1.0, cell, float(cells[cell] == "G"), cells[cell] in "GH")]

    return world(64, 4, outcomes, 0)


def biased() -> World:
    """Sutton and Barto, example 6.7: from A (0) right (0) ends; left (1) leads to B (1), where any action ends.

    Actions in B pay N(-0.1, 1), here one of its quantiles. A's other actions must not be taken.
    """
    normal = NormalDist(-0.1, 1.0)
    rewards = [normal.inv_cdf((k + 0.5) / QUANTILES) for k in range(QUANTILES)]

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state == 1:
            return [(1 / QUANTILES, 0, reward, True) for reward in rewards]
        return [(1.0, 1, 0.0, False) if action == 1 else (1.0, 0, 0.0, True)]

    return world(2, BIASED_ACTIONS, outcomes, 0)


def _moved(state: int, direction: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """Return the (row, column) after a move within a grid."""
    row, column = divmod(state, columns)
    down, right = direction
    return min(max(row + down, 0), rows - 1), min(max(column + right, 0), columns - 1)
