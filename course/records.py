"""What can be told of a play: how it ended, which tests are due and were run, and problems as a student reads them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .account import Account, is_greedy
from .errors import stopped
from .plays import Play
from .runs import numbers

STUCK_HINT = "Follow one worker from its first call to its last: who tells it to stop?"


class Problem(NamedTuple):
    """Something that is wrong."""

    kind: str  # the same for the same fault under another schedule
    seen: str
    hint: str
    weight: float = 1.0  # the share of the item's points that it costs
    under: Mapping[str, object] | None = {}  # other settings of the run that shows it; None: no single run does


class Record:
    """A play and what can be told of it."""

    def __init__(self, play: Play):
        self.play, self.settings = play, play.settings

    @functools.cached_property
    def account(self) -> Account:
        """What the server learned."""
        return Account(self.play)

    @property
    def unjudged(self) -> str:
        """Why nothing can be told; "" where it can."""
        if self.play.not_simulated:
            return f"It uses what the simulated Ray does not have: {self.play.not_simulated}."
        return ""

    @property
    def broken(self) -> Problem | None:
        """That the run came to no result."""
        play = self.play
        if play.stuck:
            return Problem("stuck", f"the run does not come to an end: {play.stuck}.", STUCK_HINT)
        if play.error:
            return Problem("error", *stopped(play.error))
        return None

    @property
    def due(self) -> list[int]:
        """After how many episodes a test is due."""
        settings = self.settings
        if not settings["do_test"]:
            return []
        return list(range(settings["test_interval"], settings["learning_episodes"] + 1, settings["test_interval"]))

    @property
    def results(self) -> list[float] | None:
        """The test results that were returned."""
        returned = self.play.returned
        found = returned[0] if isinstance(returned, tuple) and returned else None
        return [] if found is None else numbers(found)

    @functools.cached_property
    def tests(self) -> list[Test]:
        """What evaluators did with each table that they got; where there are none, what collectors tested."""
        collectors = self.account.collectors
        others = self._greedy_work(lambda process: process not in collectors)
        if others or not self.due:
            return others
        return self._greedy_work(lambda process: process in collectors, shipped=self._sent())

    def _sent(self) -> set[int]:
        return {number for call in self.account.calls for number, _ in call.steps}

    def _greedy_work(self, of: Callable[[int], bool], shipped: set[int] = frozenset()) -> list[Test]:
        """The episodes of some processes by the table that they had got; of collectors, greedy ones that stayed."""
        log, groups, steps = self.play.log, {}, {}
        for number, event in enumerate(log.events):
            if not of(event.process) or event.process == self.account.server:
                continue
            if event.action is None:
                steps[event.simulator] = []
                if event.table is not None:
                    group = groups.setdefault((event.process, id(event.table)), Test(event.process, event.table, []))
                    group.episodes.append(steps[event.simulator])
            else:
                steps.setdefault(event.simulator, []).append(number)
        kept = lambda one: one and not (shipped and (one[0] in shipped or not self._all_greedy(one)))
        tests = [test._replace(episodes=list(filter(kept, test.episodes))) for test in groups.values()]
        return [test for test in tests if test.episodes]

    def _all_greedy(self, steps: list[int]) -> bool:
        events = self.play.log.events
        return all(is_greedy(events[i]) for i in steps if events[i].table is not None)


class Test(NamedTuple):
    """An evaluator's work on one table."""

    process: int
    table: np.ndarray
    episodes: list[list[int]]  # the numbers of their steps in the log

    def mean(self, record: Record) -> float:
        """The mean discounted return."""
        events, beta = record.play.log.events, record.settings["beta"]
        returns = [sum(beta**t * events[i].reward for t, i in enumerate(steps)) for steps in self.episodes]
        return float(np.mean(returns))


def elsewhere(problems: Callable[[Record], list[Problem]], plain: Record, others: list[Record]) -> list[Problem]:
    """The first thing that is wrong with other settings, where all is well with the usual ones.

    A run that does not end counts at another batch size alone: else a collector too few, or too many questions, may be
    why, which is told elsewhere.
    """
    if problems(plain):
        return []
    for record in others:
        changed = {name: value for name, value in record.settings.items() if value != plain.settings[name]}
        if record.play.stuck and "batch_size" not in changed:
            continue
        with_these = " and ".join(f"{name}={value}" for name, value in changed.items())
        for problem in problems(record):
            return [problem._replace(seen=f"with {with_these} {problem.seen}")]
    return []
