"""Federated learning: the merge retains old values as one core would, and all that follows from it."""

import numpy as np
import pytest
from helpers import Fan, interrupted, learned, same_as_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer, FederatedWorker, add_report, effective_rates, merge

HALLWAY = td.FrozenLakeEnv(map_name="Dangerous Hallway")


def merged(old, reports, learning_rate, local_rate):
    """Merge reports [(pairs, values, visits), ...] into a copy of the old values, and return it."""
    values, targets, counts = old.copy(), np.zeros_like(old), np.zeros(len(old), np.int64)
    for pairs, local, visits in reports:
        parts = np.asarray(pairs, np.int32), np.asarray(local, float), np.asarray(visits, np.int32)
        add_report(values, targets, counts, *parts, local_rate)
    merge(values, targets, counts, learning_rate)
    return values


def federated(kind, simulator=HALLWAY, **settings):
    """Return an untrained federated agent."""
    return kind(simulator, **({"ew_num": 2, "workers": td.InProcess()} | settings))


def finished(*arguments, **settings):
    """Return a federated agent that has learned all its episodes."""
    agent = federated(*arguments, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


kinds = pytest.mark.parametrize("kind", [FederatedQLAgent, FederatedSARSAAgent])


@kinds
@pytest.mark.parametrize("ties", ["lowest", "random"])
@pytest.mark.parametrize("batch_size", [1, 50, 300])
def test_one_worker_equals_the_single_core(kind, batch_size, ties):
    settings = {"learning_episodes": 1050, "test_interval": 500, "trials": 20, "ties": ties}
    alone = kind.single(HALLWAY, **settings)
    alone.learn_and_evaluate(progress=False)
    assert learned(finished(kind, cw_num=1, batch_size=batch_size, **settings)) == learned(alone)


@kinds
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
@pytest.mark.parametrize("cw_num, batch_size, do_test", [(2, 10, True), (3, 7, False), (100, 1, True)])
def test_a_run_equals_rounds_by_hand(kind, compiled, cw_num, batch_size, do_test):
    settings = {"learning_episodes": 500, "test_interval": 100, "trials": 5, "max_step": 100, "do_test": do_test}
    assert same_as_by_hand(finished(kind, cw_num=cw_num, batch_size=batch_size, compiled=compiled, **settings))


def test_equal_visits_give_the_mean_of_the_targets():
    # two visits each at rate 1/2 from 0: a value of 3/4 of the target; four visits at 1/4 keep (3/4)**4
    values = merged(np.zeros(1), [([0], [0.75 * 100], [2]), ([0], [0.75 * 200], [2])], 0.25, 0.5)
    assert values[0] == pytest.approx((1 - 0.75**4) * 150)


def test_a_lone_visitor_is_not_diluted():
    # one visit at rate 1/2 towards 100; the other worker was elsewhere
    values = merged(np.array([0.0, 8.0]), [([0], [50.0], [1]), ([1], [8.0], [3])], 0.5, 0.5)
    assert values == pytest.approx([50.0, 8.0])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    old=st.floats(-1000, 1000),
    targets=st.lists(st.tuples(st.floats(-1000, 1000), st.integers(1, 50)), min_size=1, max_size=6),
    rates=st.tuples(st.floats(0.001, 0.5), st.floats(0.001, 0.5)),
)
def test_the_merge_lies_between_the_old_value_and_the_targets(old, targets, rates):
    learning_rate, local_rate = sorted(rates)
    reports = [([0], [old + (1 - (1 - local_rate) ** n) * (target - old)], [n]) for target, n in targets]
    value = merged(np.array([old]), reports, learning_rate, local_rate)[0]
    hull = [old, *(target for target, _ in targets)]
    assert min(hull) - 1e-6 <= value <= max(hull) + 1e-6


ALL_SIZES = [0.0, 1e-300, 1e-9, 1e-6, 1e-4, 0.0199, 0.5, 0.97, 1 - 2**-53, 1.0]
rates_of_all_sizes = pytest.mark.parametrize("rate", ALL_SIZES)


@rates_of_all_sizes
def test_effective_rates_are_those_of_the_formula_up_to_the_last_visit(rate):
    visits = np.array([1, 2, 7, 1500, 2500, 600_000], np.int32)
    rates = effective_rates(rate, visits)
    found = rates[np.minimum(visits, len(rates) - 1)]
    expected = -np.expm1(visits * np.log1p(-rate)) if rate < 1 else np.ones(6)
    half_ulps = np.minimum(visits, 1 / max(rate, 1e-300)) + 6  # one per update; later updates shrink earlier errors
    assert (np.abs(found - expected) <= 2.0**-53 * half_ulps * expected).all()
    assert len(effective_rates(rate, visits[:0])) == 1


@rates_of_all_sizes
def test_effective_rates_rise_to_at_most_1_and_end_where_no_update_changes_them(rate):
    rates = effective_rates(rate, np.array([10_000_000]))
    assert rates[0] == 0.0 and (np.diff(rates) > 0).all() and rates[-1] <= 1.0
    ended = rates[-1] + rate * (1.0 - rates[-1]) == rates[-1]
    assert ended == (len(rates) < 10_000_001) == (rate == 0.0 or rate > 1e-5)
    assert len(rates) <= 10_000_001 and len(rates) * rate < 40


@kinds
def test_the_same_run_twice_has_the_same_bits(kind):
    settings = {"learning_episodes": 2000, "cw_num": 3, "batch_size": 30}
    assert learned(finished(kind, **settings)) == learned(finished(kind, **settings))


def test_rounds_are_a_batch_a_worker_and_cut_where_tests_are():
    agent = federated(FederatedQLAgent, cw_num=3, batch_size=40, test_interval=200)
    assert [batch.last for batch in agent.learn_in_batches(500)] == [120, 200, 320, 400, 500]
    agent = federated(FederatedQLAgent, cw_num=3, batch_size=40, do_test=False)
    assert [batch.last for batch in agent.learn_in_batches(500)] == [120, 240, 360, 480, 500]


def test_rounds_that_tests_cut_are_told_of():
    with pytest.warns(UserWarning, match="a batch of 160 episodes is truncated to 100, as a test follows every 100"):
        federated(FederatedQLAgent, cw_num=4, batch_size=40, test_interval=100)


@kinds
def test_an_interrupted_run_goes_on_with_the_same_bits(monkeypatch, kind):
    settings = {"learning_episodes": 600, "test_interval": 100, "trials": 5, "cw_num": 3, "batch_size": 20}
    agent = federated(kind, **settings)
    for target, method, call in ((FederatedWorker, "learn", 5), (td.EvaluationWorker, "evaluate", 2)):
        with interrupted(monkeypatch, target, method, call):
            agent.learn_and_evaluate(progress=False)
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(kind, **settings))


def test_local_rates_follow_the_number_of_workers_up_to_the_cap():
    rate = lambda **settings: federated(FederatedQLAgent, do_test=False, **settings).local_rate
    assert rate(cw_num=1, learning_rate=0.3) == 0.3
    assert rate(cw_num=4, learning_rate=0.01) == pytest.approx(1 - 0.99**6)
    assert [rate(cw_num=count, learning_rate=0.1) for count in (4, 16, 40, 64, 256)] == [0.2, 0.2, 0.4, 0.6, 0.6]
    assert rate(cw_num=64, learning_rate=0.01, cap=0.4) == 0.4
    assert rate(cw_num=2, learning_rate=0.7) == 0.7
    assert rate(cw_num=2, learning_rate=1.0) == 1.0


@pytest.mark.parametrize("learning_rate", [0.0, 1e-12, 1e-6, 0.001, 0.01, 0.3, 1 - 2**-53])
@pytest.mark.parametrize("cw_num", [2, 3, 16, 1001])
def test_local_rates_are_exact_for_small_learning_rates_too(learning_rate, cw_num):
    agent = federated(FederatedQLAgent, do_test=False, cap=1.0, cw_num=cw_num, learning_rate=learning_rate)
    expected = -np.expm1(1.5 * cw_num * np.log1p(-learning_rate))
    assert agent.local_rate == pytest.approx(expected, rel=1e-13)


def test_sarsa_stays_on_policy():
    agent = finished(FederatedSARSAAgent, learning_episodes=30_000, do_test=False, cw_num=4, batch_size=10)
    best = td.value_iteration(HALLWAY.table, epsilon=0.3)[0].max()
    on_policy = td.policy_value(HALLWAY.table, agent.q_table, epsilon=0.3)[0]
    hallway = -265  # the value of the hallway for an agent that explores
    assert on_policy > hallway + 0.8 * (best - hallway)


class AddingServer(FederatedServer):
    """A server with the naive rule: add up the workers' changes."""

    def combine(self, values, learning_rate, reports):
        old = values.copy()
        for report in reports:
            pairs = slice(None) if report.pairs is None else report.pairs
            values[pairs] += report.values - old[pairs]


class AddingUp(FederatedQLAgent):
    """A federated agent with such a server."""

    roles = FederatedQLAgent.roles | {"server": AddingServer}


def test_adding_up_differences_diverges_where_the_merge_stays_bounded():
    settings = {
        "simulator": td.FrozenLakeEnv(["SFFG"]), "learning_rate": 0.1, "epsilon": 1.0, "seed": 1, "do_test": False,
        "learning_episodes": 64 * 200, "cw_num": 64, "batch_size": 10,
    }  # fmt: skip
    assert not np.abs(finished(AddingUp, cap=0.1, **settings).q_table).max() <= 1e5
    assert np.abs(finished(FederatedQLAgent, **settings).q_table).max() <= 1000 + 1e-9


def test_few_touched_pairs_travel_alone_and_many_as_the_whole_table():
    worker = FederatedWorker(td.QLAgent(HALLWAY, 1.0))
    few, many = (worker.learn(td.Snapshot(np.zeros((65, 4)), 0), 0, episodes) for episodes in (1, 2000))
    assert len(few.pairs) == len(few.values) == len(few.visits) == np.count_nonzero(few.visits) < 65 * 4
    assert many.pairs is None and len(many.values) == len(many.visits) == 65 * 4
    assert few.visits.sum() == few.steps and many.visits.sum() == many.steps
    assert (few.nbytes, many.nbytes) == (16 * len(few.pairs), 12 * 65 * 4)


def test_what_is_shipped_is_counted_to_the_byte():
    lake = td.FrozenLakeEnv(["SFG"])
    agent = federated(FederatedQLAgent, lake, cw_num=2, batch_size=200, do_test=False, epsilon=1.0)
    agent.learn(1200)
    agent.learn(800)
    assert agent.cost.bytes == 10 * 12 * 16  # ten reports of the whole table, 8 for a value and 4 for its visits


def test_a_round_leaves_the_snapshot_that_it_starts_from_alone():
    worker, start = td.QLAgent(HALLWAY), td.Snapshot(np.zeros((65, 4)), 0)
    start.q_table.flags.writeable = False  # as Ray's arrays are
    server = FederatedServer(worker)
    server.begin(start)
    report = FederatedWorker(worker).learn(start, 0, 50)
    assert server.merge(0.1, report, report).q_table.any() and not start.q_table.any()


class Forgetful(td.QLAgent):
    """An agent that leaves no log."""

    def learn_on(self, q_table, first, episodes, log=None, returns=None):
        return super().learn_on(q_table, first, episodes)


class OfForgetful(FederatedQLAgent):
    """A federated agent with such workers."""

    single = Forgetful


def test_visits_that_were_not_counted_are_noticed_before_they_are_merged():
    agent = federated(OfForgetful, cw_num=2, batch_size=5)
    with pytest.raises(RuntimeError, match=r"the rule counted 0 of \d+ visits: nothing to merge by"):
        agent.learn(50)
    assert agent.episode == 0 and not agent.q_table.any()


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
def test_many_actions_are_learned(compiled):
    settings = {"learning_episodes": 600, "do_test": False, "compiled": compiled, "epsilon": 1.0}
    agent = finished(FederatedQLAgent, Fan(1500), cw_num=2, batch_size=100, **settings)
    assert agent.compiled == compiled and agent.steps == 600
    assert same_as_by_hand(agent)


@pytest.mark.parametrize("kind", [FederatedQLAgent, FederatedSARSAAgent])
def test_rounds_do_not_overlap(kind):
    with pytest.raises(ValueError, match="in_flight must be 2, since each round starts where the last ends, got 3"):
        federated(kind, in_flight=3)
