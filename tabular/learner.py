"""What an agent has learned, as users see it and as it is saved; nothing changes it in the midst of a run."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .arguments import refuse_misnamed
from .changes import materialized
from .checks import check_count, check_q_table
from .continuing import from_save, to_save
from .kernels import MAX_EPISODES, MAX_TESTS
from .mistakes import warn_caller
from .plan import Learned
from .returns import MOST_SAVED, Returns
from .saves import FORMAT, Save, Saveable
from .simulators import fingerprint
from .usage import Usage


class Learner(Saveable):
    """The learned state of an agent: its table, what it counts, its returns and the results of its tests."""

    simulator: Any
    seed: int
    beta: float
    ties: str
    keep_returns: bool
    continuing: bool
    rewards: dict[int, float]
    _shape: tuple[int, int]
    _table: Any
    _time_limit: int
    _usage: Usage
    _learned: Learned

    if not TYPE_CHECKING:  # or checkers of types would allow any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in vars(self) and not hasattr(type(self), name):
                refuse_misnamed(self, name)
            super().__setattr__(name, value)

    def _before_change(self, name: str) -> None:
        if "_usage" in vars(self):  # else it is being constructed
            self._usage.check_may_change(name)

    def __copy__(self) -> Self:
        try:
            return copy.deepcopy(self)
        except Exception as error:
            problem = f"this agent cannot be copied, since its simulator cannot ({error})"
            raise TypeError(f"{problem}: construct another one with its own simulator") from error

    @property
    def compiled(self) -> bool:
        """Whether the simulator is compiled; if not, it is stepped."""
        return self._table is not None

    @property
    def q_table(self) -> np.ndarray:
        """The action values, float64, (states, actions). An assigned table is checked and copied."""
        return materialized(self._learned.q_table)

    @q_table.setter
    def q_table(self, q_table: np.ndarray) -> None:
        self._before_change("q_table")
        q_table = check_q_table("q_table", q_table, self._shape)
        self._learned = self._learned._replace(q_table=q_table, recent=())

    @property
    def episode(self) -> int:
        """The number of episodes learned; it also selects the next one's random draws. A custom `learn` adds to it."""
        return self._learned.episode

    @episode.setter
    def episode(self, episode: int) -> None:
        self._before_change("episode")
        episode = check_count("episode", episode, 0, MAX_EPISODES)
        self._learned = self._learned._replace(episode=episode, returns=Returns())

    @property
    def steps(self) -> int:
        """The number of steps learned. A custom `learn` adds to it."""
        return self._learned.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._before_change("steps")
        self._learned = self._learned._replace(steps=check_count("steps", steps, 0, 2**62))

    @property
    def returns(self) -> np.ndarray | None:
        """The undiscounted return of each episode learned, float64, (episodes,); None without `keep_returns`.

        It is nan for episodes that were learned without `keep_returns`, or by a custom `learn`.
        """
        return self._learned.returns.of_episodes(self.episode) if self.keep_returns else None

    @property
    def total_rewards(self) -> list[float]:
        """The greedy policy's mean discounted return in every test so far, in order."""
        return [self.rewards[episode] for episode in sorted(self.rewards)]

    def _identity(self) -> dict[str, Any]:
        """Return the fields that a save must match to be loaded."""
        return {
            "agent": type(self).__name__,
            "simulator": fingerprint(self.simulator, self._table, self._time_limit),
            "seed": self.seed,
            "beta": self.beta,
            "ties": self.ties,
        }

    def _header(self) -> dict[str, Any]:
        """Return the part of a save that is written as JSON."""
        place = {"place": to_save(self._learned.place)} if self.continuing else {}
        return {"format": FORMAT} | self._identity() | {"episode": self.episode, "steps": self.steps} | place

    def _state(self) -> dict[str, Any]:
        """Return all that resuming needs, as named arrays."""
        state = {
            "header": np.array(json.dumps(self._header())),
            "q_table": self.q_table,
            "tests": np.array(sorted(self.rewards), np.int64),
            "rewards": np.array(self.total_rewards, np.float64),
        }
        return state | ({"returns": self._learned.returns.latest[-MOST_SAVED:]} if self.keep_returns else {})

    def _restore(self, saved: Save) -> None:
        """Restore what `_state` returned; raise ValueError if the save is invalid."""
        learned = Learned(
            q_table=saved.read("q_table", np.float64, self._shape),
            episode=check_count("episode", saved.header.get("episode"), 0),
            steps=check_count("steps", saved.header.get("steps"), 0, 2**62),
        )
        if self.keep_returns and "returns" in saved:
            most = min(learned.episode, MOST_SAVED)
            learned = learned._replace(returns=Returns().plus(saved.read("returns", np.float64, (None,), most)))
        place = from_save(saved.header.get("place"), self._shape[0], self._time_limit) if self.continuing else None
        if self.compiled:
            learned = learned._replace(place=place)
        elif place is not None:
            warn_caller("it was saved in the midst of an episode: the simulator is reset, and the next one starts anew")
        tests = saved.read_episodes("tests", MAX_TESTS)
        rewards = saved.read("rewards", np.float64, tests.shape)
        self._learned = learned
        self.rewards = dict(zip(tests.tolist(), rewards.tolist(), strict=True))
