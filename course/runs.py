"""A run of an agent on one core, with a random table before a recorder: its episodes, and what each step changed."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import chance, recorder, roles
from .errors import ENDLESS, in_words
from .recorder import Endless, Event, Log
from .roles import Missing

STATES = len(recorder.LAKE) ** 2 + 1
SETTINGS = {
    "epsilon": 0.3, "learning_rate": 0.23, "learning_episodes": 24, "map_size": len(recorder.LAKE), "test_interval": 4,
    "action_space": 4, "beta": 0.9, "do_test": True,
}  # fmt: skip


class Episode(NamedTuple):
    """The steps from a reset to the next one of the same lake, by their numbers in the log."""

    steps: list[int]
    learns: bool  # whether any entry of the table changed

    def returned(self, events: list[Event], beta: float) -> float:
        """The discounted return."""
        return sum(beta**t * events[i].reward for t, i in enumerate(self.steps))


class Run:
    """A run of `learn_and_evaluate`, or of `evaluate` with so many trials, and what was recorded of it."""

    def __init__(
        self,
        names: dict,
        kind: str,
        seed: int,
        *,
        random_table=True,
        longest=20_000,
        globals_=(),
        trials: int | None = None,
        **changed,
    ):
        self.settings, self.trials = SETTINGS | changed, trials
        self.log = log = Log(longest=longest)
        self.endless_after = None
        self.error, self.returned = "", None
        log.endless_after = self.settings["learning_episodes"] if longest < 20_000 else None
        with roles.lakes(names, log) as simulator, chance.repeatable(seed, names):
            names.update(self.settings | dict(globals_))
            self.called, cls = roles.class_of(names, kind)
            self.agent, self.taken = self._made(cls, simulator)
            self.table = roles.table_name(self.agent, STATES)
            if self.table is not None:
                if random_table:
                    values = np.random.Generator(np.random.PCG64(seed)).uniform(-300, 300, (STATES, 4))
                    roles.fill(self.agent, self.table, values)
                log.table_of = lambda: roles.table_of(self.agent, self.table, STATES)
            self._run()
        self.tables = [event.table for event in log.events] + [log.table_of()]

    def _made(self, cls, simulator):
        try:
            return roles.made(cls, self.settings | {"simulator": simulator})
        except Missing:
            raise
        except (Exception, Endless) as problem:
            hint = "Make one with the arguments of the assignment, and nothing else run before."
            raise Missing(f"{self.called} cannot be made: {in_words(problem)}", hint) from None

    def _run(self) -> None:
        run = roles.method_of(self.agent, "run")
        if run is None:
            raise Missing(f"{self.called} has no method learn_and_evaluate")
        if self.trials is not None:
            run = self._evaluation()
        try:
            self.returned = run()
        except Endless:
            self.error = ENDLESS
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            self.error = in_words(problem)

    def _evaluation(self) -> Callable:
        """What calls `evaluate` with so many trials; it does nothing where there is no such argument."""
        evaluate, greedy = (roles.method_of(self.agent, which) for which in ("evaluate", "greedy"))
        with contextlib.suppress(TypeError, ValueError):
            if greedy is not None and "trials" in inspect.signature(evaluate).parameters:
                return lambda: evaluate(greedy, trials=self.trials)
        return lambda: None

    @functools.cached_property
    def episodes(self) -> list[Episode]:
        """The episodes in the order of their first steps, those without a step left out."""
        running, episodes = {}, []
        for i, event in enumerate(self.log.events):
            if event.action is None:
                running[event.simulator] = None
            else:
                if running.get(event.simulator) is None:
                    running[event.simulator] = []
                    episodes.append(running[event.simulator])
                running[event.simulator].append(i)
        return [Episode(steps, any(self.changed(i) for i in steps)) for steps in episodes]

    def changed(self, i: int) -> list[tuple[int, int]]:
        """The entries that changed between an event and the next one."""
        return self._changes[i]

    @functools.cached_property
    def _changes(self) -> list[list[tuple[int, int]]]:
        changes = []
        for before, after in zip(self.tables, self.tables[1:], strict=False):
            same = before is None or after is None or np.array_equal(before, after)
            changes.append([] if same else [tuple(map(int, entry)) for entry in np.argwhere(before != after)])
        return changes

    @property
    def learning(self) -> list[Episode]:
        """The episodes that changed the table."""
        return [episode for episode in self.episodes if episode.learns]

    @property
    def tests(self) -> list[list[Episode]]:
        """The episodes that changed nothing, those without a learning one between them together."""
        groups, last_learned = [], True
        for episode in self.episodes:
            if not episode.learns:
                if last_learned:
                    groups.append([])
                groups[-1].append(episode)
            last_learned = episode.learns
        return groups

    @property
    def results(self):
        """The list of test results that was returned, or None."""
        returned = self.returned
        found = returned[0] if isinstance(returned, tuple) and returned else returned
        return numbers(found)

    def greedy(self, i: int) -> bool | None:
        """Whether a step took a greedy action; None where the last update changed which ones are."""
        event = self.log.events[i]
        sets = [greedy_actions(table[event.state]) for table in (self.tables[i], self.tables[max(i - 1, 0)])]
        return (event.action in sets[0]) if sets[0] == sets[1] else None


def numbers(found) -> list[float] | None:
    """What was returned as test results, as numbers in their order; None where they are none."""
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found)]
    try:
        found = [one[-1] if isinstance(one, (tuple, list)) else one for one in found]
        return [float(one) for one in found]
    except (TypeError, ValueError, IndexError):
        return None


def greedy_actions(row: np.ndarray) -> set[int]:
    """The actions with the largest value."""
    return set(np.flatnonzero(row == row.max()).tolist())


def in_list(values: list) -> str:
    """A few values as text."""
    shown = ", ".join(map(str, values[:12]))
    return (shown + ", ..." if len(values) > 12 else shown) or "no"
