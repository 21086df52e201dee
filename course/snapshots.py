"""Tests of a distributed agent: each of the table at its episode, once, and its result in its place."""

from __future__ import annotations

import collections

import numpy as np

from .account import ANOTHER_ORDER, is_greedy
from .plays import STATES
from .records import Problem, Record, Test
from .runs import in_list


def snapshot_problems(record: Record) -> list[Problem]:
    """Each test is of the table at its episode, once, and its result in its place."""
    if record.broken:
        return [record.broken]
    found, due, results, tests = [], record.due, record.results, record.tests
    if results is None:
        return [Problem("results", "what came back is no list of numbers.", "What do your cells plot?")]
    if not tests:
        return [Problem("none", f"no test was run; expected {len(due)}.", "Who calls the evaluators?")]
    found += wrong_tables(record, tests)
    tested = [record.play.log.events[i] for test in tests for steps in test.episodes for i in steps]
    others = sum(not is_greedy(event) for event in tested if event.table is not None and event.state < STATES - 1)
    if others:
        seen = f"of {len(tested)} steps of tests {others} were not greedy; expected none."
        found.append(Problem("greedy", seen, "Which policy is tested, and of which table?"))
    if len(results) != len(due):
        seen = f"{len(results)} results came back; expected {len(due)}."
        found.append(Problem("number", seen, "When is the last result there, and who waits for it?", 0.5))
    elif not found:
        found += wrong_results(record, tests, results)
    return found


def wrong_tables(record: Record, tests: list[Test]) -> list[Problem]:
    """Tests of other tables than those that are due."""
    account, due = record.account, record.due
    if not account.known:
        return []
    tested = [account.episode_of(test.table) for test in tests]
    if sorted(tested, key=str) == sorted(due, key=str):
        return []
    counts = collections.Counter(tested)
    twice = [episode for episode in due if counts[episode] > 1]
    missing = [episode for episode in due if not counts[episode]]
    others = sorted(episode for episode in counts if episode is not None and episode not in due)
    if counts[None] and any(one.rule == ANOTHER_ORDER for one in account.learned):
        return []  # of those within a batch no table is known
    if counts[None]:
        seen = f"{counts[None]} tests were of a table that the server never had after an episode."
        return [Problem("tables", seen, SNAPSHOT_HINT)]
    if others or (missing and twice):
        what = f"of the tables after {in_list(sorted(map(int, counts.elements())))} episodes"
        seen = f"the tests were {what}; expected those after {in_list(due)}."
        return [Problem("tables", seen, SNAPSHOT_HINT)]
    if missing:
        seen = f"the tables after {in_list(missing)} episodes were not tested; expected a test after {in_list(due)}."
        return [Problem("lost", seen, "Which tests are still due when the last episode is learned?")]
    seen = f"the tables after {in_list(twice)} episodes were tested twice; expected once each."
    return [Problem("twice", seen, "How does the server know that a table is being tested?")]


def late(records: list[Record]) -> list[Problem]:
    """That under no schedule a test begins before all is learned, or before a collector's work is over."""
    if any(record.broken or not record.tests or not record.account.steps for record in records):
        return []
    firsts = [min(test.episodes[0][0] for test in record.tests) for record in records]
    if all(first > max(record.account.steps) for first, record in zip(firsts, records, strict=True)):
        before = "the last episode was learned"
    elif all(map(after_a_collector, records)):
        before = "a collector had come to its end"
    else:
        return []
    seen = f"under {len(records)} schedules no test began before {before}; expected some."
    return [Problem("late", seen, "When are your evaluators started?", 0.25, None)]


def after_a_collector(record: Record) -> bool:
    """Whether all evaluators were started after the end of a collector, where each collector works all the time."""
    collectors = [actor for actor in record.play.actors if actor.number in record.account.collectors]
    testers = {test.process for test in record.tests}
    ends = [actor.ended for actor in collectors if actor.is_task and actor.ended is not None]
    lasting = len(collectors) == record.settings["cw_num"] and not testers & record.account.collectors
    born = [actor.born for actor in record.play.actors if actor.number in testers]
    return bool(lasting and ends and born) and min(born) > min(ends)


def crossing(plain: Record, record: Record) -> list[Problem]:
    """That a test is lost where a batch is longer than a test interval, in which all is well otherwise."""
    if plain.broken or len(plain.results or ()) != len(plain.due):
        return []
    due, settings = len(record.due), record.settings
    if not record.broken and len(record.results or ()) == due:
        return []
    what = "the run does not end" if record.broken else f"{len(record.results or ())} results come back"
    how = f"with batches of {settings['batch_size']} and a test every {settings['test_interval']} episodes"
    seen = f"{how} {what}; expected {due}."
    return [Problem("crossing", seen, "How many tests may fall due within one call?", 0.25)]


def within(plain: Record, record: Record) -> list[Problem]:
    """That a test which is due within a batch is of the table at the batch's end, in which all is well otherwise."""
    account, due = record.account, record.due
    if plain.broken or record.broken or not account.known or wrong_tables(plain, plain.tests):
        return []
    if len(record.results or ()) != len(due):
        return []  # `crossing` says so
    if not account.right or account.episodes != record.settings["learning_episodes"]:
        return []
    # Other orders of learning within a batch are right: then no table is known but those between calls.
    tested = [episode for test in record.tests if (episode := account.episode_of(test.table)) is not None]
    if all(episode in due and tested.count(episode) == 1 for episode in tested):
        return []
    settings = record.settings
    how = f"with batches of {settings['batch_size']} and a test every {settings['test_interval']} episodes"
    seen = f"{how} the tests were of the tables after {in_list(sorted(tested))}; expected {in_list(due)}."
    return [Problem("within", seen, "When was the test due, and what was learned by then?", 0.5)]


SNAPSHOT_HINT = "What is in the list of tables to test: tables, or several names of one?"


def wrong_results(record: Record, tests: list[Test], results: list[float]) -> list[Problem]:
    """Results that are not those of their tests, or not in their order."""
    account = record.account
    means = [test.mean(record) for test in tests]
    episodes = [account.episode_of(test.table) for test in tests] if account.known else []
    if None not in episodes and episodes:
        means = [means[i] for i in sorted(range(len(tests)), key=lambda i: episodes[i])]
    elif np.allclose(sorted(means), sorted(results), rtol=1e-6):
        return []  # nobody knows their order
    if np.allclose(means, results, rtol=1e-6):
        return []
    if np.allclose(sorted(means), sorted(results), rtol=1e-6):
        pairs = enumerate(zip(means, results, strict=True))
        place = next(i for i, pair in pairs if not np.isclose(*pair, rtol=1e-6))
        at = [i for i, result in enumerate(results) if np.isclose(result, means[place], rtol=1e-6)]
        seen = f"the result of test {place + 1} came back as number {at[0] + 1}; expected them in the tests' order."
        return [Problem("order", seen, "What decides where a result goes, its test or its arrival?", 0.5)]
    bad = next(i for i, pair in enumerate(zip(means, results, strict=True)) if not np.isclose(*pair, rtol=1e-6))
    seen = f"result {bad + 1} is {results[bad]:.1f}, and the mean discounted return of its test {means[bad]:.1f}."
    return [Problem("returns", seen, "Add up one short episode by hand.", 0.5)]


def other_discount(plain: Record, changed: Record) -> list[Problem]:
    """That tests are right at the usual discount, and not at another one."""
    right = []
    for record in (plain, changed):
        means, results = [test.mean(record) for test in record.tests], record.results
        if record.broken or not means or results is None or len(means) != len(results):
            return []
        right.append(np.allclose(sorted(means), sorted(results), rtol=1e-6))
    if right != [True, False]:
        return []
    seen = f"with beta={changed.settings['beta']} results of tests are not discounted by it; expected that they are."
    return [Problem("discount", seen, "Follow beta from your agent on, to everyone who discounts.", 0.25)]


def other_trials(record: Record) -> list[Problem]:
    """That an evaluator runs another number of episodes for a test than it was told."""
    for test in record.tests:
        told, ran = record.play.trials.get(test.process), len(test.episodes)
        if told is not None and ran != told:
            seen = f"an evaluator that was given trials={told} ran {ran} episodes for a test; expected {told}."
            return [Problem("trials", seen, "Who reads trials?", 0.5)]
    return []
