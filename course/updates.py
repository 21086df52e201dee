"""What each update of an agent on one core bootstraps from, told from the entry that changed.

It is solved for that value, `((new - old) / rate + old - reward) / beta`, which is then looked for among those of the
next state.
"""

from __future__ import annotations

import collections
import itertools
from typing import NamedTuple

import numpy as np

from .findings import Finding, failed
from .recorder import Event
from .runs import STATES, Episode, Run

CLOSE = 1e-6  # relative to the largest number of an update: tables of single precision are close enough


class Update(NamedTuple):
    """A step of a learning episode, and what it changed."""

    event: Event
    next_action: int | None  # the one taken in the next state; None at the end
    before: np.ndarray
    after: np.ndarray
    entries: list[tuple[int, int]]  # that changed
    step: int  # within its episode
    cut: bool  # whether the episode stopped here, but not at an end


def updates_of(run: Run) -> list[Update]:
    """The updates of all steps, whether they are done at once or after the next step."""
    pairs = [(i, j) for episode in run.learning for i, j in zip(episode.steps, episode.steps[1:], strict=False)]
    events = run.log.events
    own = lambda i: (events[i].state, events[i].action)
    at_once = sum(own(i) in run.changed(i) for i, _ in pairs)
    later = sum(own(i) in run.changed(j) for i, j in pairs)
    found = []
    for episode in run.learning:
        if later > at_once:
            found += _late_updates(run, episode)
            continue
        for t, i in enumerate(episode.steps):
            last = t + 1 == len(episode.steps)
            next_action = None if last else events[episode.steps[t + 1]].action
            cut = last and not events[i].done
            found.append(Update(events[i], next_action, run.tables[i], run.tables[i + 1], run.changed(i), t, cut))
    return found


def _late_updates(run: Run, episode: Episode) -> list[Update]:
    """Those of an agent that learns from a step once the next one is taken."""
    events, steps, found = run.log.events, episode.steps, []
    for t, (i, j) in enumerate(itertools.pairwise(steps)):
        entries = [entry for entry in run.changed(j) if entry == (events[i].state, events[i].action)]
        if t + 2 < len(steps):
            entries = run.changed(j)
        found.append(Update(events[i], events[j].action, run.tables[j], run.tables[j + 1], entries, t, False))
    return found


def targets(update: Update, settings: dict) -> dict[str, float]:
    """What the changed entry may have been moved towards, by name; the target is the reward plus `beta` times it."""
    event, row = update.event, update.before[update.event.next_state]
    epsilon = settings["epsilon"]
    found = {"max": row.max(), "zero": 0.0, "mean": (1 - epsilon) * row.max() + epsilon * row.mean(), "min": row.min()}
    if update.next_action is not None:
        found["taken"] = row[update.next_action]
    found["own"] = update.before[event.state, event.action]
    return found


def target_of(update: Update, settings: dict) -> list[str]:
    """The names of the values that explain an update: "nothing" where there was none, none where no one does."""
    event, rate, beta = update.event, settings["learning_rate"], settings["beta"]
    old, new = update.before[event.state, event.action], update.after[event.state, event.action]
    if not update.entries:
        return ["nothing"]
    if [entry for entry in update.entries if entry != (event.state, event.action)]:
        return ["elsewhere"]
    row, found = update.before[event.next_state], []
    close = CLOSE * max(1.0, abs(old), abs(new), abs(event.reward), np.abs(row).max())
    candidates = list(targets(update, settings).items()) + [("other", value) for value in row]
    for name, value in candidates:
        expected = old + rate * (event.reward + beta * value - old)
        if name not in found and abs(new - expected) <= close:
            found.append(name)
    return found


WORDS = {
    "max": "take the maximum at s'", "taken": "take the action then taken", "other": "take another action at s'",
    "zero": "take the reward alone", "nothing": "change nothing", "elsewhere": "change other entries, too",
    "mean": "take the mean over the policy", "own": "take the entry itself", "min": "take the minimum at s'",
    "unknown": "fit none of these",
}  # fmt: skip


def judge_update(run: Run, item: str) -> Finding:
    """What Q-learning or SARSA bootstraps from, its rate, its discount, and the ends of episodes."""
    if run.table is None:
        return Finding(item, 0.0, False, f"No table of {STATES} states and 4 actions was found on {run.called}.", "")
    settings = run.settings
    if "beta" not in run.taken:
        settings = settings | {"beta": 0.999}
    updates = [one for one in updates_of(run) if not one.cut]
    if not updates:
        if run.error:
            return failed(item, run.error)
        return Finding(item, 0.0, True, "The table never changed.", "Where does your code write to the table?")
    wanted = "max" if item == "q_learning" else "taken"
    inner = [one for one in updates if not one.event.done]
    ends = [one for one in updates if one.event.done]
    kinds = [target_of(one, settings) for one in inner]
    right = sum(wanted in found for found in kinds)
    end_kinds = [target_of(one, settings) for one in ends]
    ends_right = sum("zero" in found for found in end_kinds)
    if run.error:
        return failed(item, run.error, 0.0 if right < len(inner) else 0.5)
    if right == len(inner) and ends_right == len(ends):
        what = "the maximum at s'" if item == "q_learning" else "the action then taken"
        seen = f"All {len(inner)} targets take {what}, and the {len(ends)} at an end the reward alone."
        return Finding(item, 1.0, True, seen, "")
    if right == len(inner):
        from_row = sum(bool({"max", "taken", "other", "mean", "min"} & set(found)) for found in end_kinds)
        what = f"{from_row} add what the table says of the exit state" if from_row else "the target is another one"
        if all("nothing" in found for found in end_kinds):
            what = "the table does not change"
        seen = f"Of {len(ends)} last steps of an episode, {ends_right} take the reward alone; at others {what}."
        return Finding(item, 0.75, True, seen, "What follows after the end of an episode?")
    return Finding(item, 0.0, True, *describe(inner, kinds, wanted, settings))


def describe(updates: list[Update], kinds: list[list[str]], wanted: str, settings: dict) -> tuple[str, str]:
    """(what was seen, a hint) of updates of which some are wrong."""
    other_scale = scaled(updates, wanted, settings)
    if other_scale:
        return other_scale
    counts = collections.Counter()
    for found in kinds:
        preferred = [name for name in (wanted, "max", "taken", "mean", *found) if name in found]
        counts[preferred[0] if preferred else "unknown"] += 1
    parts = [f"{count} {WORDS[name]}" for name, count in counts.most_common(4)]
    expected = "the maximum at s'" if wanted == "max" else "the value of the action then taken"
    seen = f"Of {len(updates)} targets {', '.join(parts)}; expected {expected} in all."
    hints = {
        "nothing": "Does every step change the table?",
        "elsewhere": "Which single entry does a step tell you about?",
        "unknown": "Write down one update by hand, with numbers, and compare.",
    }
    worst = next((name for name, _ in counts.most_common() if name != wanted), "unknown")
    question = "Which action does the rule ask for in s', and is it the one that your code uses?"
    return seen, hints.get(worst, question)


def scaled(updates: list[Update], wanted: str, settings: dict) -> tuple[str, str] | None:
    """What was seen where the target is right, and its rate or discount is not; None where that is not it."""
    clean = [one for one in updates if one.entries == [(one.event.state, one.event.action)]]
    if len(clean) < 0.9 * len(updates) or len(clean) < 10:
        return None
    for name in (wanted, "max", "taken"):
        values = [targets(one, settings).get(name) for one in clean]
        if sum(value is not None for value in values) < 10:
            continue
        terms = Terms.of([(one, value) for one, value in zip(clean, values, strict=True) if value is not None])
        action = "the maximum" if name == "max" else "the action then taken"
        what = "" if name == wanted else f", and the value that of {action}"
        found = other_factors(terms, settings, what) or other_powers(terms, settings, what)
        found = found or (other_rates(terms, settings) if name == wanted else None)
        if found:
            return found
    return None


class Terms(NamedTuple):
    """The terms of several updates, an entry each."""

    old: np.ndarray
    new: np.ndarray
    reward: np.ndarray
    value: np.ndarray  # what was bootstrapped from
    steps: np.ndarray  # the step's number within its episode

    @classmethod
    def of(cls, rows: list[tuple[Update, float]]) -> Terms:
        """Those of updates and the values that they bootstrapped from."""
        entries = [(one.event.state, one.event.action) for one, _ in rows]
        old = np.array([one.before[entry] for (one, _), entry in zip(rows, entries, strict=True)])
        new = np.array([one.after[entry] for (one, _), entry in zip(rows, entries, strict=True)])
        reward = np.array([float(one.event.reward) for one, _ in rows])
        return cls(old, new, reward, np.array([value for _, value in rows]), np.array([one.step for one, _ in rows]))

    def changed_by(self, guess: np.ndarray) -> bool:
        """Whether this is by how much the entries changed, but for a few."""
        close = CLOSE * (1 + np.abs(self.new).max())
        return bool(np.mean(np.abs(self.new - self.old - guess) < close) > 0.95)


def other_factors(terms: Terms, settings: dict, what: str) -> tuple[str, str] | None:
    """What was seen where the change is p * reward + q * value - w * old, with other factors than it should have."""
    rate, beta = settings["learning_rate"], settings["beta"]
    columns = np.column_stack([terms.reward, terms.value, -terms.old])
    (p, q, w), *_ = np.linalg.lstsq(columns, terms.new - terms.old, rcond=None)
    if abs(p) <= 1e-9 or not terms.changed_by(columns @ (p, q, w)):
        return None
    if abs(p - w) > 1e-4:
        got, due = f"{1 - w:.3g} old + {p:.3g} reward + {q:.3g} next", (1 - rate, rate, rate * beta)
        seen = f"The new value is {got}; expected {due[0]:.3g}, {due[1]:.3g} and {due[2]:.3g}."
        return seen, "By how much of itself does the old value shrink?"
    wrong = []
    if abs(p - rate) > 1e-4:
        wrong.append(f"the learning rate is {p:.3g} where {rate:g} was given")
    if abs(q / p - beta) > 1e-4:
        wrong.append(f"the discount is {q / p:.3g} where {beta:g} was given")
    if not wrong:
        return None
    seen = "In all updates " + " and ".join(wrong) + what + "."
    if abs(p - beta) < 1e-4 or abs(q / p - rate) < 1e-4:
        return seen, "Which of your variables is the learning rate, and which the discount?"
    if abs(p - rate) > 1e-4:
        return seen, "What becomes of the learning rate on its way to the update?"
    return seen, "By what is the value of the next state multiplied?"


def other_powers(terms: Terms, settings: dict, what: str) -> tuple[str, str] | None:
    """What was seen where the rate, or the discount, is beta to the power of the step."""
    rate, beta = settings["learning_rate"], settings["beta"]
    for power in (terms.steps, terms.steps + 1):
        if terms.changed_by(rate * (terms.reward + beta**power * terms.value - terms.old)):
            seen = f"The next value is discounted by beta to the power of the step; expected {beta:g} at every step"
            return f"{seen}{what}.", "What does an update discount, one step or all?"
        if terms.changed_by(beta**power * (terms.reward + beta * terms.value - terms.old)):
            seen = f"The learning rate is beta to the power of the step; expected {rate:g}, as it was given"
            return f"{seen}{what}.", "Which factor stands before the bracket?"
    return None


def other_rates(terms: Terms, settings: dict) -> tuple[str, str] | None:
    """What was seen where each update goes towards the target, and not all as far."""
    gaps = terms.reward + settings["beta"] * terms.value - terms.old
    far = np.abs(gaps) > CLOSE * (1 + np.abs(terms.new).max())
    rates = (terms.new - terms.old)[far] / gaps[far]
    if len(rates) < 10 or rates.min() <= 0 or rates.max() > 1:
        return None
    seen = f"The learning rate is from {rates.min():.3g} to {rates.max():.3g}; expected {settings['learning_rate']:g}"
    return f"{seen} at every step.", "What becomes of the learning rate on its way to the update?"
