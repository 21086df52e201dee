"""What an agent on one core does besides its updates: its policies, its episodes and its tests."""

from __future__ import annotations

import collections

import numpy as np

from . import chance
from .errors import stopped
from .findings import KEEP_NAMES, Finding
from .runs import STATES, Run, greedy_actions, in_list

CLOSE = 1e-6  # of results, relative


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
    hint = finding.hint or KEEP_NAMES
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

    In `limited` runs every other test meets no end; `tried` are runs of `evaluate` with so many trials.
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
        elif problem := cut_problem(run):
            wrong.append((f"{run.called}: {problem[0]}", problem[1]))
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


def cut_problem(run: Run) -> tuple[str, str] | None:
    """(what was seen, a hint) where a test's result leaves out the trials that reached the limit of steps."""
    events, results = run.log.events, run.results or []
    if run.error or len(run.tests) != 1 or len(results) != 1:
        return None
    beta = run.settings["beta"] if "beta" in run.taken else 0.999
    returns = [(one.returned(events, beta), events[one.steps[-1]].done) for one in run.tests[0]]
    cut, ended = sum(not done for _, done in returns), [value for value, done in returns if done]
    if not cut or np.isclose(np.mean([value for value, _ in returns]), results[0], rtol=1e-6):
        return None
    if not ended or np.isclose(np.mean(ended), results[0], rtol=1e-6):
        seen = f"of a test's {len(returns)} trials {cut} reached max_steps and are left out; expected the mean of all."
        return seen, "What did a trial earn that was cut off?"
    return None


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
