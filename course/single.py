"""What an agent on one core does: it learns on a random table before a recorder, and each update is told apart.

After each step the entry that changed is solved for the value that was bootstrapped from,
`((new - old) / rate + old - reward) / beta`, which is then looked for among those of the next state.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import chance, recorder, roles
from .errors import in_words, stopped
from .findings import Finding
from .recorder import Endless, Event, Log
from .roles import Missing

STATES = len(recorder.LAKE) ** 2 + 1
SETTINGS = {
    "epsilon": 0.3, "learning_rate": 0.23, "learning_episodes": 24, "map_size": len(recorder.LAKE), "test_interval": 4,
    "action_space": 4, "beta": 0.9, "do_test": True,
}  # fmt: skip
CLOSE = 1e-6  # relative to the largest number of an update: tables of single precision are close enough


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
        log.endless_after = 1 if longest < 20_000 else None
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
            raise Missing(f"{self.called} cannot be made: {in_words(problem)}") from None

    def _run(self) -> None:
        run = roles.method_of(self.agent, "run")
        if run is None:
            raise Missing(f"{self.called} has no method learn_and_evaluate")
        if self.trials is not None:
            run = self._evaluation()
        try:
            self.returned = run()
        except Endless:
            self.error = "it took more steps than it can need, and was stopped"
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


def failed(item: str, error: str, share: float = 0.0) -> Finding:
    """A finding of an item of which a run ended with an error."""
    seen, hint = stopped(error)
    return Finding(item, share, True, seen[0].upper() + seen[1:], hint)


# An update ---------------------------------------------------------------------------------------


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
    rate, beta = settings["learning_rate"], settings["beta"]
    clean = [one for one in updates if one.entries == [(one.event.state, one.event.action)]]
    if len(clean) < 0.9 * len(updates) or len(clean) < 10:
        return None
    for name in (wanted, "max", "taken"):
        rows = [(one, targets(one, settings).get(name)) for one in clean]
        rows = [(one, value) for one, value in rows if value is not None]
        if len(rows) < 10:
            continue
        old = np.array([one.before[one.event.state, one.event.action] for one, _ in rows])
        new = np.array([one.after[one.event.state, one.event.action] for one, _ in rows])
        reward, value = np.array([float(one.event.reward) for one, _ in rows]), np.array([value for _, value in rows])
        steps = np.array([one.step for one, _ in rows])
        delta, scale = new - old, 1 + np.abs(new).max()
        fits = lambda guess: np.mean(np.abs(delta - guess) < CLOSE * scale) > 0.95  # noqa: B023
        what = (
            ""
            if name == wanted
            else f", and the value that of {'the maximum' if name == 'max' else 'the action then taken'}"
        )
        # delta = p * reward + q * value - w * old
        (p, q, w), *_ = np.linalg.lstsq(np.column_stack([reward, value, -old]), delta, rcond=None)
        if fits(p * reward + q * value - w * old) and abs(p) > 1e-9:
            if abs(p - w) > 1e-4:
                got, due = f"{1 - w:.3g} old + {p:.3g} reward + {q:.3g} next", (1 - rate, rate, rate * beta)
                seen = f"The new value is {got}; expected {due[0]:.3g}, {due[1]:.3g} and {due[2]:.3g}."
                return seen, "By how much of itself does the old value shrink?"
            wrong = []
            if abs(p - rate) > 1e-4:
                wrong.append(f"the learning rate is {p:.3g} where {rate:g} was given")
            if abs(q / p - beta) > 1e-4:
                wrong.append(f"the discount is {q / p:.3g} where {beta:g} was given")
            if wrong:
                seen = "In all updates " + " and ".join(wrong) + what + "."
                return seen, "Which of your variables is the learning rate, and which the discount?"
        for power in (steps, steps + 1):
            if fits(rate * (reward + beta**power * value - old)):
                seen = f"The next value is discounted by beta to the power of the step; expected {beta:g} at every step"
                return f"{seen}{what}.", "What does an update discount, one step or all?"
            if fits(beta**power * (reward + beta * value - old)):
                seen = f"The learning rate is beta to the power of the step; expected {rate:g}, as it was given"
                return f"{seen}{what}.", "Which factor stands before the bracket?"
    return None


# Policies ----------------------------------------------------------------------------------------


def judge_policies(runs: dict[float, list[Run]]) -> Finding:
    """How often the agents explore at each epsilon, with which actions, at which steps."""
    item, judged = "policies", set()
    for epsilon in (0.0, 1.0, 0.3):
        for run in runs[epsilon]:
            problem = policy_problem(run, epsilon)
            if problem:
                return Finding(item, 0.0, True, f"{run.called}, epsilon {epsilon:g}: {problem[0]}", problem[1])
            judged |= {run.called} if run.learning else set()
    if not judged:
        error = next((run.error for each in runs.values() for run in each if run.error), "no table changed")
        return Finding(item, 0.0, True, f"No step of learning was seen: {error}.", "What does learn_and_evaluate run?")
    seen = "Greedy at epsilon 0; at 0.3 and 1 it explores as often as it should, at every step, all actions alike."
    alone = f" Judged by {judged.pop()} alone, as the other agent does not learn." if len(judged) == 1 else ""
    return Finding(item, 1.0, True, seen + alone, "")


def policy_problem(run: Run, epsilon: float) -> tuple[str, str] | None:
    """(what was seen, a hint) where a run does not explore as it should."""
    events = run.log.events
    first = [episode.steps[0] for episode in run.learning]
    later = [i for episode in run.learning for i in episode.steps[1:] if events[i].state != STATES - 1]
    for steps, which in ((first + later, "steps"), (first, "first steps of an episode"), (later, "later steps")):
        greedy = [one for one in map(run.greedy, steps) if one is not None]
        others = len(greedy) - sum(greedy)
        if not chance.likely(others, len(greedy), 0.75 * epsilon):
            due = f"about {0.75 * epsilon * len(greedy):.0f}" if epsilon else "none"
            seen = f"of {len(greedy)} {which} {others} took another action than the greedy one; expected {due}."
            if not epsilon and others == sum(run.greedy(i) is False for i in first):
                return seen, f"Which steps are these? All {others} are the first of an episode."
            return seen, "How often do you explore, and from how many actions do you draw then?"
    if epsilon < 1:
        return None
    counts = collections.Counter(events[i].action for i in first + later)
    for action in range(4):
        if not chance.likely(counts[action], len(first + later), 0.25):
            name, drawn = ("left", "down", "right", "up")[action], len(first + later)
            seen = f"of {drawn} actions drawn at random {counts[action]} were {name}; expected about {drawn // 4}."
            return seen, "Is every action among those that you draw from, and as likely as the others?"
    return None


# Episodes ----------------------------------------------------------------------------------------


def judge_episodes(runs: list[Run]) -> Finding:
    """As many as asked for, each from a reset to its end; each agent counts alike."""
    problems = [problem for problem in map(episodes_problem, runs) if problem]
    if problems:
        return Finding("episodes", 1 - len(problems) / len(runs), True, *problems[0])
    asked = runs[0].settings["learning_episodes"]
    return Finding("episodes", 1.0, True, f"All {asked} episodes, each from a reset to its end.", "")


def halved(finding: Finding, there: int) -> Finding:
    """A finding of both agents, of which so many are there."""
    if there == 2 or not finding.judged:
        return finding
    hint = finding.hint or "Keep the names of the assignment."
    return finding._replace(
        share=finding.share / 2, seen=f"One of the two agents is missing. {finding.seen}", hint=hint
    )


def episodes_problem(run: Run) -> tuple[str, str] | None:
    """(what was seen, a hint) where a run's episodes are not as they should be."""
    events, learning = run.log.events, run.learning
    if run.error:
        seen, hint = stopped(run.error, f" after {len(learning)} episodes")
        return f"{run.called}: {seen}", hint
    if not learning:
        return f"{run.called} learned from no episode.", "What does your loop go over?"
    beyond = sum(events[i].state == STATES - 1 for episode in run.episodes for i in episode.steps)
    if beyond:
        seen = f"{run.called} took {beyond} steps after the end of an episode; expected a reset instead."
        return seen, "What tells you that an episode is over?"
    wanted = run.settings["learning_episodes"]
    if len(learning) != wanted:
        due = f"{wanted} were asked for, in {wanted // run.settings['test_interval']} test intervals"
        seen = f"{run.called} learned from {len(learning)} episodes, where {due}."
        return seen, "Count the episodes between two tests, and the tests."
    cut = [len(one.steps) for one in learning if not events[one.steps[-1]].done and len(one.steps) < 200]
    if cut:
        gave_up = f"{run.called} gave up {len(cut)} of {wanted} episodes before their end"
        seen = f"{gave_up}, one after {cut[0]} steps; expected to go on to the end, or for max_step steps."
        return seen, "When does your loop over steps stop?"
    return None


# Tests -------------------------------------------------------------------------------------------


def judge_tests(tested: list[Run], untested: list[Run], limited: list[Run], tried: list[Run]) -> Finding:
    """Of the greedy policy, at the right episodes, as many as due, discounted, with a limit, or none.

    `tried` are runs of `evaluate` with so many trials.
    """
    wrong = []
    for run in tested:
        wrong += [(f"{run.called}: {seen}", hint) for seen, hint in test_problems(run)]
    for run in untested:
        count = sum(map(len, run.tests))
        if count and run.learning:
            what = (
                f"{count} episodes were run that taught nothing" if not run.results else f"{len(run.results)} results"
            )
            seen = f"{run.called}: with do_test=False {what}; expected no test."
            wrong.append((seen, "Who reads do_test?"))
    for run in limited:
        if run.log.exhausted and run.learning and run.tests:
            seen = f"{run.called}: a test in which no end is met went on for {run.log.longest} steps; expected a limit."
            wrong.append((seen, "What does a greedy policy do that runs in a circle?"))
    for run in tried:
        if not run.error and run.returned is not None and len(run.episodes) != run.trials:
            asked = f"asked for {run.trials} trials evaluate ran {len(run.episodes)} episodes; expected {run.trials}."
            wrong.append((f"{run.called}: {asked}", "Who reads trials?"))
    if not wrong:
        due = tested[0].settings["learning_episodes"] // tested[0].settings["test_interval"]
        seen = f"{due} tests of the greedy policy, discounted, each after its interval; none with do_test=False."
        return Finding("tests", 1.0, True, seen, "")
    shares = [share_of_tests(run, [seen for seen, _ in wrong if seen.startswith(f"{run.called}: ")]) for run in tested]
    return Finding("tests", sum(shares) / len(shares), True, wrong[0][0], wrong[0][1])


def share_of_tests(run: Run, wrong: list[str]) -> float:
    """How much of an agent's tests is right: half where one thing is wrong, nothing where no test was run."""
    if not wrong:
        return 1.0
    return 0.5 if len(set(wrong)) == 1 and run.learning and run.tests and not run.error else 0.0


def test_problems(run: Run) -> list[tuple[str, str]]:
    """(what was seen, a hint) of each thing that is wrong with a run's tests."""
    settings, events, results = run.settings, run.log.events, run.results
    beta = settings["beta"] if "beta" in run.taken else 0.999
    due = settings["learning_episodes"] // settings["test_interval"]
    if run.error:
        return [stopped(run.error)]
    if not run.learning:
        return [("nothing was learned between tests.", "Where does your code write to the table?")]
    if results is None:
        return [("it returned no list of numbers; expected (total_rewards, q_table).", "What do your cells plot?")]
    wrong, groups = [], run.tests
    if not groups:
        returns = [one.returned(events, 1.0) for one in run.learning]
        collected = any(abs(result - value) < CLOSE * abs(value) for result in results for value in returns)
        what = "its results are returns of learning episodes" if collected else "no episode was run for a test"
        return [(f"{what}; expected {due} tests of the greedy policy.", "Which policy is to be tested?")]
    steps = [i for group in groups for episode in group for i in episode.steps if events[i].state < STATES - 1]
    others = sum(events[i].action not in greedy_actions(run.tables[i][events[i].state]) for i in steps)
    if others:
        seen = f"of {len(steps)} steps of tests {others} were not greedy; expected none."
        wrong.append((seen, "Which policy does your test run?"))
    marks = tested_after(run)
    expected = [settings["test_interval"] * (i + 1) for i in range(due)]
    if marks != expected:
        seen = f"tests after {in_list(marks)} episodes; expected after {in_list(expected)}."
        wrong.append((seen, "Count episodes, not steps, between two tests."))
    if len(results) != due:
        seen = f"{len(results)} results were returned; expected {due}, one per test."
        wrong.append((seen, "When is a result added to the list?"))
    if wrong:
        return wrong
    means = [np.mean([one.returned(events, beta) for one in group]) for group in groups]
    if not np.allclose(means, results, rtol=1e-6):
        wrong.append(other_returns(run, groups, results, means))
    return wrong


def other_returns(run: Run, groups, results, means) -> tuple[str, str]:
    """(what was seen, a hint) where results are not the mean discounted return."""
    events, beta = run.log.events, run.settings["beta"]
    ways = {
        "undiscounted": lambda one: one.returned(events, 1.0),
        "discounted by one step too many": lambda one: beta * one.returned(events, beta),
        "without their first step": lambda one: sum(beta**t * events[i].reward for t, i in enumerate(one.steps) if t),
        "of their last step alone": lambda one: float(events[one.steps[-1]].reward),
    }
    for name, way in ways.items():
        for several in (np.mean, np.sum):
            if np.allclose([several([way(one) for one in group]) for group in groups], results, rtol=1e-6):
                seen = f"results are returns {name}; expected the mean discounted return."
                return seen, "What does a reward after t steps count?"
    for name, of in (("the sum over episodes", np.sum), ("the last episode's return alone", lambda few: few[-1])):
        found = [of([one.returned(events, beta) for one in group]) for group in groups]
        if np.allclose(found, results, rtol=1e-6):
            return f"results are {name}; expected the mean.", "Over what is the mean taken?"
    due = f"the episodes of that test had a mean discounted return of {means[0]:.1f}"
    return f"the first result is {results[0]:.1f}, where {due}.", "Add up one short episode by hand."


def tested_after(run: Run) -> list[int]:
    """After how many episodes of learning each group of test episodes was run."""
    learned, marks, last_learned = 0, [], True
    for episode in run.episodes:
        learned += episode.learns
        if not episode.learns and last_learned:
            marks.append(learned)
        last_learned = episode.learns
    return marks


def in_list(values: list) -> str:
    """A few values as text."""
    shown = ", ".join(map(str, values[:12]))
    return (shown + ", ..." if len(values) > 12 else shown) or "no"
