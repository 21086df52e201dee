"""What a server learned, call by call: which steps, by which rule, and the table after each episode.

A call's change of the table is explained by replaying the steps that it carried, by one rule after another, until one
leads to the same table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .plays import Asked, Play
from .recorder import Event

Steps = list[tuple[Event, list]]
DEFAULT_BETA = "a discount of 0.999"
OWN, ANOTHER_ORDER, NOTHING = "own maximum", "own maximum in another order", "nothing"
RIGHT = {OWN, ANOTHER_ORDER}


class Learned(NamedTuple):
    """What a call led to."""

    call: Asked
    steps: int  # that it carried, or that were left from before
    learned: int  # of these
    rule: str  # one of RIGHT, NOTHING, or a wrong one, as a student reads it


class Account:
    """The server of a play, and what it learned."""

    def __init__(self, play: Play):
        self.play, self.settings = play, play.settings
        self.server = server_of(play)
        self.calls = [call for call in play.calls if call.process == self.server]
        self.learned: list[Learned] = []
        self.episodes = 0  # learned to their end
        self.steps: list[int] = []  # learned, by their numbers
        self.tables: dict[int, list[np.ndarray]] = {}  # by the number of episodes learned
        self.unlearned: list[int] = []
        self.after_call: list[int] = []  # episodes learned after each call
        if self.calls and self.calls[0].before is not None:
            self._keep(self.calls[0].before)
            for call in self.calls:
                self._take(call)
                self.after_call.append(self.episodes)

    @property
    def known(self) -> bool:
        """Whether there is a server whose table could be read."""
        return bool(self.tables)

    @property
    def right(self) -> bool:
        """Whether all that was learned was learned by the rule, so that its episodes are told apart."""
        return {one.rule for one in self.learned} <= RIGHT | {NOTHING}

    def _keep(self, table: np.ndarray) -> None:
        self.tables.setdefault(self.episodes, []).append(table)

    def _take(self, call: Asked) -> None:
        events = self.play.log.events
        carried = [(number, (events[number], row)) for number, row in call.steps]
        pending = [(number, (events[number], [])) for number in self.unlearned] + carried
        if call.before is None or call.after is None or np.array_equal(call.before, call.after):
            if self.episodes < self.settings["learning_episodes"]:
                self.unlearned += [number for number, _ in carried]
            if carried:
                self.learned.append(Learned(call, len(carried), 0, NOTHING))
            return
        remaining = self.settings["learning_episodes"] - self.episodes
        for steps in (pending, carried) if len(pending) > len(carried) else (pending,):
            rule, count = explained(call, [step for _, step in steps], self.settings, remaining)
            if rule:
                break
        rule, count = rule or "another rule", count if rule else len(steps)
        cut = count == cut_at([step for _, step in steps], remaining)  # what lies beyond the last episode is surplus
        self.unlearned = [number for number, _ in steps[count:]] if cut else []
        self.learned.append(Learned(call, len(steps), count, rule))
        self._count(call, steps[:count] if cut else steps, rule == OWN and (cut or count == len(steps)))
        self._keep(call.after)

    def _count(self, call: Asked, learned: list, by_rule: bool) -> None:
        """Count the episodes, and keep the table after each, where it is known."""
        table = call.before.copy()
        for number, (event, _) in learned:
            self.steps.append(number)
            update(table, event, best(table, event), self.settings)
            if event.done:
                self.episodes += 1
                if by_rule:
                    self._keep(table.copy())

    def episode_of(self, table: np.ndarray) -> int | None:
        """After how many learned episodes the table was this one; None where it never was."""
        for episode, tables in self.tables.items():
            if any(np.allclose(table, one, rtol=1e-6, atol=1e-6) for one in tables):
                return episode
        return None

    @functools.cached_property
    def collectors(self) -> set[int]:
        """The processes whose steps were sent to the server, and others of their kind, which may have come too late.

        Where one kind does all the work, it is those that were not always greedy.
        """
        events, play = self.play.log.events, self.play
        sent = {events[number].process for call in self.calls for number, _ in call.steps}
        kinds = {actor.name for actor in play.actors if actor.number in sent}
        alike = {actor.number for actor in play.actors if actor.name in kinds}
        acted = {event.process for event in events if event.action is not None}
        if acted - alike:
            return sent | alike
        return sent | {process for process in alike if not self.always_greedy(process)}

    def always_greedy(self, process: int) -> bool:
        """Whether a process never explored by the tables that it had got; of a table of zeros nobody can tell."""
        steps = [event for event in self.play.log.events if event.process == process and event.action is not None]
        told = [event for event in steps if event.table is not None and event.table.any()]
        return bool(told) and all(map(is_greedy, told))


def server_of(play: Play) -> int | None:
    """The process that holds the table: called a server, or else the one that got most steps."""
    candidates = {call.process: call for call in play.calls if call.before is not None}
    called = [number for number, call in candidates.items() if "server" in call.target.lower()]
    if called:
        return called[0]
    weight = {number: sum(len(one.steps) for one in play.calls if one.process == number) for number in candidates}
    return max(weight, key=weight.get) if weight else None


def is_greedy(event: Event) -> bool:
    """Whether a step took an action with the largest value in the table at hand."""
    row = event.table[event.state]
    return bool(row[event.action] == row.max())


# Rules -------------------------------------------------------------------------------------------


def update(table: np.ndarray, event: Event, value: float, settings: dict) -> None:
    """Move the entry of a step towards its target."""
    entry = event.state, event.action
    target = event.reward + settings["beta"] * value
    table[entry] += settings["learning_rate"] * (target - table[entry])


def best(table: np.ndarray, event: Event) -> float:
    """The value of the best next action, by this table; 0 at an end."""
    return 0.0 if event.done else table[event.next_state].max()


def in_turn(steps: Steps, before: np.ndarray, settings: dict, value: Callable) -> Iterator[np.ndarray]:
    """The table after each step, if they are learned one after another."""
    table = before.copy()
    for i, (event, _) in enumerate(steps):
        update(table, event, value(table, i), settings)
        yield table


def explained(call: Asked, steps: Steps, settings: dict, remaining: int) -> tuple[str, int]:
    """(the rule by which a call changed the table, how many of the steps it learned); ("", 0) where none does."""
    before, after = call.before, call.after
    most = np.unravel_index(np.argmax(np.abs(after - before)), after.shape)  # looked at first: it is quick
    same = lambda table: abs(table[most] - after[most]) < 1e-3 and np.allclose(table, after, rtol=1e-6, atol=1e-6)
    for name, value in rules(steps, before):
        count = matching_prefix(in_turn(steps, before, settings, value), same)
        if count:
            return name, count
    for some in dict.fromkeys((len(steps), cut_at(steps, remaining))):
        if any(map(same, in_other_orders(steps[:some], before, settings))):
            return ANOTHER_ORDER, some
    for name, several in (("twice", steps + steps), ("last episode alone", steps[last_start(steps) :])):
        value = lambda table, i, several=several: best(table, several[i][0])
        if several and matching_prefix(in_turn(several, before, settings, value), same) == len(several):
            return name, len(steps)
    for name, changed in other_settings(settings):
        value = lambda table, i: best(table, steps[i][0])
        if matching_prefix(in_turn(steps, before, changed, value), same) == len(steps):
            return name, len(steps)
    return "", 0


def matching_prefix(tables: Iterator[np.ndarray], same: Callable) -> int:
    """After how many steps the table is the right one, the most if there are several; 0 where it never is."""
    return max((i for i, table in enumerate(tables, 1) if same(table)), default=0)


def rules(steps: Steps, before: np.ndarray) -> Iterator[tuple[str, Callable]]:
    """The rules that learn one step after another, by name, the right one first."""
    yield OWN, lambda table, i: best(table, steps[i][0])
    yield ANOTHER_ORDER, lambda table, i: best(before, steps[i][0])
    for field in range(max((len(row) for _, row in steps), default=0)):
        if all(is_action(row[field]) if field < len(row) else False for _, row in steps):
            yield "carried", lambda table, i, field=field: table[steps[i][0].next_state, int(steps[i][1][field])]
    yield "taken", lambda table, i: taken(table, steps, i)
    yield "reward alone", lambda table, i: 0.0


def is_action(value) -> bool:
    """Whether a field of a row may be an action."""
    return not isinstance(value, (bool, np.bool_)) and value in (0, 1, 2, 3)


def taken(table: np.ndarray, steps: Steps, i: int) -> float:
    """The value of the action that was taken next."""
    event = steps[i][0]
    if event.done or i + 1 == len(steps):
        return 0.0
    return table[event.next_state, steps[i + 1][0].action]


def cut_at(steps: Steps, ends: int) -> int:
    """How many steps there are up to so many ends."""
    for i, (event, _) in enumerate(steps, 1):
        ends -= event.done
        if ends == 0:
            return i
    return len(steps)


def last_start(steps: Steps) -> int:
    """Where the last episode begins."""
    ends = [i for i, (event, _) in enumerate(steps[:-1], 1) if event.done]
    return ends[-1] if ends else 0


def in_other_orders(steps: Steps, before: np.ndarray, settings: dict) -> Iterator[np.ndarray]:
    """The table if steps are learned from back to front, all or by episode, or all at once."""
    backwards, episode = [], []
    for step in steps:
        episode.insert(0, step)
        if step[0].done:
            backwards, episode = backwards + episode, []
    for ordered in (steps[::-1], backwards + episode):
        table = before.copy()
        for event, _ in ordered:
            update(table, event, best(table, event), settings)
        yield table
    table = before.copy()
    for event, _ in steps:
        entry = event.state, event.action
        target = event.reward + settings["beta"] * best(before, event)
        table[entry] += settings["learning_rate"] * (target - before[entry])
    yield table


def other_settings(settings: dict) -> Iterator[tuple[str, dict]]:
    """Settings that a server may have in the place of those given."""
    yield DEFAULT_BETA, settings | {"beta": 0.999}
    yield "no discount", settings | {"beta": 1.0}
    yield "rate and discount exchanged", settings | {
        "beta": settings["learning_rate"], "learning_rate": settings["beta"]
    }  # fmt: skip
    yield "epsilon for a rate", settings | {"learning_rate": settings["epsilon"]}
    yield "epsilon for a discount", settings | {"beta": settings["epsilon"]}
    for rate in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0):
        yield f"a rate of {rate}", settings | {"learning_rate": rate}
