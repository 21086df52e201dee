"""How an agent learns and tests episodes in its simulator, compiled or stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .continuing import at_start, going_on
from .kernels import MAX_TESTS, Log, Parameters, evaluate, greedy_action, in_parts, key_of
from .learner import Learner
from .mistakes import warn_caller
from .rules import Rule, place_noted
from .simulators import Policy, copied
from .stepping import Rows, Stepped


class EpisodeLearner(Learner):
    """Learns and tests episodes by a rule, on any table of action values: what an agent and its workers share."""

    kernel: Rule
    epsilon: float
    learning_rate: float
    max_step: int
    test_interval: int
    actions: Any
    _simulator: Any
    _place: np.ndarray | None

    @property
    def simulator(self) -> Any:
        """The env; it cannot be assigned: for another env, construct another agent."""
        return self._simulator

    def _set_out(self) -> None:
        """Set `_place` to a copy of where the next episode starts, or None: an interrupt must leave the original."""
        place = self._learned.place
        if not self.compiled and place is not None and place is not self._place and place[0] >= 0:
            self._learned, place = self._learned._replace(place=None), None
            warn_caller("the simulator was left in the midst of an episode: it is reset, and the next one starts anew")
        place = at_start(self._time_limit) if place is None else place.copy()
        self._place = place if self.continuing else None

    def learn_on(
        self, q_table: np.ndarray, first: int, episodes: int, log: Log = None, returns: np.ndarray | None = None
    ) -> int:
        """Learn `episodes` episodes from number `first` on `q_table`, in place; return the number of steps.

        `log` and `returns`, an array with an entry per episode, are filled if they are given.
        """
        if self.kernel is None:
            raise NotImplementedError("TDAgent has no rule to learn by: use QLAgent or SARSAAgent")
        simulator, parameters = self._table if self.compiled else self.simulator, self.parameters()
        if self._place is not None:
            simulator = going_on(simulator, self._place, self._shape[0])
        task, parts = (q_table, simulator, self.actions, parameters), in_parts(episodes, parameters.max_step)
        rule, steps = self.kernel.with_ties(self.ties), 0
        for done, count in parts:
            part = None if returns is None else returns[done : done + count]
            steps += rule(*task, first + done, count, log, part)
        return steps

    def evaluate_on(
        self, q_table: np.ndarray, episode: int, trials: int, max_step: int, policy: Callable | None = None
    ) -> float:
        """Return the mean discounted return of `policy` (None: greedy by `q_table`) in the test after `episode`."""
        test, parameters = episode // self.test_interval % MAX_TESTS, self.parameters(max_step)
        if policy is None and self.compiled:
            actions, total = np.argmax(q_table, axis=1), 0.0
            for done, count in in_parts(trials, parameters.max_step):
                total = evaluate(actions, self._table, parameters, test, done, count, total)
            return total / trials
        if policy is None:
            rows = Rows(q_table)
            policy = lambda state: greedy_action(rows[state], self.actions)
        with place_noted():
            simulator = Stepped(self._env_to_test(), self._shape[0])
            acting = Policy(policy, len(self.actions))
            return float(evaluate.py_func(acting, simulator, parameters, test, 0, trials)) / trials

    def _env_to_test(self) -> Any:
        """Return the env, or a copy if learning goes on in it; where it cannot be copied, learning must start anew."""
        if self.compiled or self._learned.place is None:
            return self.simulator
        env = copied(self.simulator)
        if env is None:
            self._place = None
        return self.simulator if env is None else env

    def parameters(self, max_step: int | None = None) -> Parameters:
        """Return the kernels' parameters; an episode is truncated after `max_step` steps (None: the agent's)."""
        max_step = self.max_step if max_step is None else max_step
        if self.compiled:  # a stepped TimeLimit truncates by itself
            max_step = min(max_step, self._time_limit)
        return Parameters(self.epsilon, self.learning_rate, self.beta, max_step, key_of(self.seed))
