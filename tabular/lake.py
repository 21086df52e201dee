"""The assignment's environment: a frozen lake, as an env of gym and gymnasium, and as a transition table."""

from __future__ import annotations

import contextlib
import copy
import functools
from bisect import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arguments import names_checked
from .checks import check_probabilities
from .grids import MAPS, generate_random_map, neighbours, parse_map
from .gyms import Discrete, Env, gym
from .plots import grid_pixels
from .tables import Moves, TransitionTable, read_only_lists, samples_table

LEFT, DOWN, RIGHT, UP = range(4)


class FrozenLakeEnv(Env):
    """A slippery grid world: walk from S to G over ice (F), past holes (H).

    Action a (LEFT, DOWN, RIGHT, UP) moves in direction (a + k) % 4 with probability `transition_prob[k]`; a wall keeps
    the agent in place. A step from S or F costs 1. On H or G any action pays -1000 or +1000 and leads to the exit
    state, number nrow * ncol, which ends the episode. States are numbered row by row. It is an env of gym and of
    gymnasium, and goes into the wrappers of both. Raises TypeError or ValueError if the map is ragged or empty, has
    unknown letters or lacks S or G, if the map name is unknown, or if the probabilities are not four numbers that sum
    to 1.

    Arguments:
        desc: the map, a list of equally long strings of the letters S, F, H and G; None: the map of `map_name`
        map_name: a key of `MAPS`; None without a `desc`: a random 8 x 8 map
        transition_prob: the probabilities of the intended direction and of the three others; (1, 0, 0, 0) never slips
        render_mode: what `render` gives: None, "human", "ansi" or "rgb_array"
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "ansi", "rgb_array"], "render_fps": 4}
    reward_range = (-1000, 1000)

    @names_checked
    def __init__(
        self, desc: Any = None, map_name: str | None = "4x4",
        transition_prob: Sequence[float] = (0.97, 0.01, 0.01, 0.01), render_mode: str | None = None,
    ):  # fmt: skip
        if desc is None and map_name not in [None, *MAPS]:
            raise ValueError(f"map_name must be one of {sorted(MAPS)}, got {map_name!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'human', 'ansi' or 'rgb_array', got {render_mode!r}")
        if desc is None:
            desc = generate_random_map() if map_name is None else MAPS[map_name]
        self.desc = parse_map(desc)
        self.desc.flags.writeable = False  # `table` would ignore an edit
        self.nrow, self.ncol = self.desc.shape
        self._transition_prob = check_probabilities("transition_prob", transition_prob, 4)
        self.render_mode = render_mode
        self.exit_state = self.desc.size
        self.observation_space = Discrete(self.exit_state + 1)
        self.action_space = Discrete(4)
        self._starts = np.flatnonzero(self.desc == b"S").tolist()
        self._order = np.argsort(-np.array(self.transition_prob), kind="stable").tolist()  # likeliest first
        self._sorted_prob = [self.transition_prob[k] for k in self._order]
        self._cumulative = np.cumsum(self._sorted_prob).tolist()
        self._draws: list[float] = []  # uniform numbers drawn in advance: numpy draws 64 nearly as fast as one
        self._moves = Moves(self)
        self.s: int = self._starts[0]
        self.lastaction: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is derived from the map; it is made again when the unpickled lake needs it."""
        derived = ("table", "P", "initial_state_distrib", "_moves")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():  # after __dict__.update CPython would read attributes more slowly
            setattr(self, name, value)
        self._moves = Moves(self)

    def __deepcopy__(self, memo: dict) -> FrozenLakeEnv:
        """Copy the lake with its random generator; share the table, which never changes."""
        lake = memo[id(self)] = type(self).__new__(type(self))
        lake.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        if "table" in vars(self):
            lake.table = self.table
        return lake

    @property
    def map_name(self) -> str:
        """The name of the map in `MAPS`, or its size."""
        rows = [row.tobytes().decode() for row in self.desc]
        return next((name for name, desc in MAPS.items() if desc == rows), f"a {self.nrow}x{self.ncol} map")

    def __repr__(self) -> str:
        mode = "" if self.render_mode is None else f", render_mode={self.render_mode!r}"
        return f"{type(self).__name__}({self.map_name}, transition_prob={self.transition_prob}{mode})"

    __str__ = __repr__

    @property
    def transition_prob(self) -> tuple[float, ...]:
        """The probabilities of the intended and the three other directions; to change them, make a new lake."""
        return self._transition_prob

    @samples_table
    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        """Act once; return (state, reward, terminated, truncated, info). Raises ValueError for an unknown action."""
        try:
            outcomes = self._moves[self.s][action]
        except (KeyError, TypeError):
            raise ValueError(f"action must be 0, 1, 2 or 3, got {action!r}") from None
        if not self._draws:
            self._draws = self.np_random.random(64).tolist()
        slip = self._draws.pop()
        k = 0 if slip < self._cumulative[0] else bisect(self._cumulative, slip, 0, 3)
        probability, next_state, reward, terminated = outcomes[k]
        self.s, self.lastaction = next_state, action
        if self.render_mode == "human":
            self.render()
        return next_state, reward, terminated, False, {"prob": probability}

    @samples_table
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        """Start at S, or at one of several chosen at random; return (state, info)."""
        super().reset(seed=seed)
        if seed is not None:
            self._draws = []
        starts = self._starts
        self.s = starts[0] if len(starts) == 1 else starts[int(self.np_random.integers(len(starts)))]
        self.lastaction = None
        if self.render_mode == "human":
            self.render()
        return self.s, {"prob": 1.0 / len(starts)}

    def render(self) -> str | np.ndarray | None:
        """Draw the map, the agent in red: return text ("ansi") or uint8 pixels ("rgb_array"), or print it ("human")."""
        if self.render_mode is None:
            return None
        if self.render_mode == "rgb_array":
            return grid_pixels(self.desc, None if self.s == self.exit_state else divmod(self.s, self.ncol))
        rows = [[cell.decode() for cell in row] for row in self.desc]
        lines = []
        if self.s == self.exit_state:
            lines.append("exit")
        else:
            row, col = divmod(self.s, self.ncol)
            rows[row][col] = gym.utils.colorize(rows[row][col], "red", highlight=True)
        lines.append("" if self.lastaction is None else f"  ({('Left', 'Down', 'Right', 'Up')[self.lastaction]})")
        text = "\n".join([*lines, *map("".join, rows)]) + "\n"
        return text if self.render_mode == "ansi" else print(text)

    @functools.cached_property
    def table(self) -> TransitionTable:
        """The lake as arrays of shape (states, 4, 4), including the exit state; most are broadcast views."""
        shape = (self.exit_state + 1, 4, 4)
        letters = np.append(self.desc.ravel(), b"X")  # X is the exit state, after the last cell
        terminated = np.isin(letters, [b"H", b"G", b"X"])
        reward = np.select([letters == b"H", letters == b"G", letters == b"X"], [-1000.0, 1000.0, 0.0], -1.0)
        directions = (np.arange(4)[:, None] + self._order) % 4  # of each action, likeliest first
        next_state = np.full(shape, self.exit_state, np.int32)
        next_state[:-1] = neighbours(self.desc.shape)[:, directions]
        next_state[terminated] = self.exit_state
        return TransitionTable(
            probability=np.broadcast_to(np.array(self._sorted_prob), shape),
            next_state=next_state,
            reward=np.broadcast_to(reward[:, None, None], shape),
            terminated=np.broadcast_to(terminated[:, None, None], shape),
            start=self.initial_state_distrib,
        )

    @functools.cached_property
    def P(self) -> dict:
        """The dynamics as gym has them: P[state][action] lists (probability, next_state, reward, terminated).

        It is read-only, because `table` and `step` would ignore an edit; to change the dynamics, override `step`.
        """
        return read_only_lists(self._moves, len(self.table.next_state), np.argsort(self._order).tolist())

    @functools.cached_property
    def initial_state_distrib(self) -> np.ndarray:
        """The probability that an episode starts in each state, shape (states,): uniform over the S cells."""
        distribution = np.zeros(self.exit_state + 1)
        distribution[self._starts] = 1.0 / len(self._starts)
        return distribution


def as_lake(lake: Any) -> FrozenLakeEnv:
    """Coerce an env (even a wrapped one), a name of `MAPS` or a map to a lake; raise TypeError for anything else."""
    inner = getattr(lake, "unwrapped", lake)
    if isinstance(inner, FrozenLakeEnv):
        return inner
    if hasattr(inner, "step"):
        raise TypeError(f"lake must be a FrozenLakeEnv, a name of MAPS or a map, got an env without a map, {lake}")
    with contextlib.suppress(ValueError):  # rows of different lengths
        if np.asarray(lake).dtype.kind in "fiu":
            raise TypeError("lake must be a FrozenLakeEnv, a name of MAPS or a map, after the q_table; got numbers")
    return FrozenLakeEnv(map_name=lake) if isinstance(lake, str) else FrozenLakeEnv(lake)
