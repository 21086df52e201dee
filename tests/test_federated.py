"""Federated learning: the merge keeps what one core would keep, and the rest follows."""

import functools
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import td_helpers as td

HALLWAY = td.FrozenLakeEnv(map_name="Dangerous Hallway")


def merged(old, reports, learning_rate, local_rate):
    """The merge of reports [(pairs, values, visits), ...] into a copy of the old values."""
    values, targets, counts = old.copy(), np.zeros_like(old), np.zeros(len(old), np.int64)
    for pairs, local, visits in reports:
        parts = np.asarray(pairs, np.int32), np.asarray(local, float), np.asarray(visits, np.int32)
        td.add_report(values, targets, counts, *parts, local_rate)
    td.merge(values, targets, counts, learning_rate)
    return values


def rounds(kind, lake, episodes, workers, batch_size, merge=None, **settings):
    """Learn without Ray, with the very methods of the actors: the final snapshot."""
    agent = kind(lake, learning_episodes=episodes, cw_num=workers, batch_size=batch_size, do_test=False, **settings)
    recipe = pickle.dumps(functools.partial(agent.single, lake, **agent._local_settings()))
    server, worker = td.QLAgentServer(), td.CollectingWorker()
    snapshot, first = (agent.q_table, 0), 0
    server.begin(snapshot)
    while first < episodes:
        end = agent._batch_end(first, episodes)
        cuts = [first + (end - first) * m // workers for m in range(workers + 1)]
        reports = [worker.learn(recipe, snapshot, a, b - a) for a, b in itertools.pairwise(cuts)]
        snapshot = (merge or server.merge)(recipe, agent.learning_rate, *reports)
        first = end
    return snapshot


def adding_up(server_table):
    """The naive rule: the sum of the workers' differences."""

    def merge(recipe, learning_rate, *reports):
        flat = server_table.reshape(-1)
        old = flat.copy()
        for pairs, values, _, _, _ in reports:
            pairs = slice(None) if pairs is None else pairs
            flat[pairs] += values - old[pairs]
        return server_table.copy(), 0

    return merge


@pytest.mark.parametrize(
    ("kind", "single"), [(td.FederatedQLAgent, td.QLAgent), (td.FederatedSARSAAgent, td.SARSAAgent)]
)
def test_one_worker_equals_the_single_core(kind, single):
    alone = single(HALLWAY, learning_episodes=5050, do_test=False)
    alone.learn_and_evaluate(progress=False)
    q_table, steps, _ = rounds(kind, HALLWAY, 5050, 1, 300)
    assert np.array_equal(q_table, alone.q_table) and steps == alone.steps


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


@pytest.mark.parametrize("rate", [0.0, 1e-9, 1e-4, 0.0199, 0.5, 0.97, 1.0])
def test_effective_rates_are_those_of_the_formula_up_to_the_last_visit(rate):
    visits = np.array([1, 2, 7, 1500, 2500, 600_000], np.int32)
    rates = td.effective_rates(rate, visits)
    found = rates[np.minimum(visits, len(rates) - 1)]
    expected = -np.expm1(visits * np.log1p(-rate)) if rate < 1 else np.ones(6)
    np.testing.assert_array_max_ulp(found, expected, maxulp=2)
    assert len(rates) <= 1 + min(600_000, np.ceil(38 / max(rate, 1e-9)))
    assert len(td.effective_rates(rate, visits[:0])) == 1


def test_two_rounds_of_workers_give_the_same_bits_twice():
    first = rounds(td.FederatedQLAgent, HALLWAY, 2000, 3, 50)[0]
    assert np.array_equal(first, rounds(td.FederatedQLAgent, HALLWAY, 2000, 3, 50)[0])


def test_sarsa_stays_on_policy():
    q_table = rounds(td.FederatedSARSAAgent, HALLWAY, 30_000, 4, 10)[0]
    best = td.value_iteration(HALLWAY.table, epsilon=0.3)[0].max()
    on_policy = td.policy_value(HALLWAY.table, q_table, epsilon=0.3)[0]
    hallway = -265  # what an agent that explores gets in the hallway
    assert on_policy > hallway + 0.8 * (best - hallway)


def test_adding_up_differences_diverges_where_the_merge_stays_bounded():
    chain = td.FrozenLakeEnv(["SFFG"])
    arguments = {"learning_rate": 0.1, "epsilon": 1.0, "seed": 1}
    naive = np.zeros(chain.table.shape)
    rounds(td.FederatedQLAgent, chain, 64 * 200, 64, 10, merge=adding_up(naive), cap=0.1, **arguments)
    ours = rounds(td.FederatedQLAgent, chain, 64 * 200, 64, 10, **arguments)[0]
    assert not np.abs(naive).max() <= 1e5
    assert np.abs(ours).max() <= 1000 + 1e-9


def test_few_touched_pairs_travel_alone_and_many_as_the_whole_table():
    agent = td.FederatedQLAgent(HALLWAY, cw_num=2, do_test=False, epsilon=1.0)
    recipe = pickle.dumps(functools.partial(agent.single, HALLWAY, **agent._local_settings()))
    few, many = (td.CollectingWorker().learn(recipe, (agent.q_table, 0), 0, episodes) for episodes in (1, 2000))
    assert len(few[0]) == len(few[1]) == len(few[2]) == np.count_nonzero(few[2]) < agent.q_table.size
    assert many[0] is None and len(many[1]) == len(many[2]) == agent.q_table.size
    assert few[2].sum() == few[3] and many[2].sum() == many[3]


def test_over_ray_it_is_what_the_actors_do_and_learns_exactly_the_episodes(workers):
    agent = td.FederatedQLAgent(
        HALLWAY, learning_episodes=3050, test_interval=500, cw_num=3, ew_num=2, batch_size=40, workers=workers
    )
    rewards, q_table = agent.learn_and_evaluate(progress=False)
    expected, steps, _ = rounds(td.FederatedQLAgent, HALLWAY, 3050, 3, 40, test_interval=500)
    assert np.array_equal(q_table, expected)
    assert (agent.episode, agent.steps, len(rewards)) == (3050, steps, 6)


def test_a_federated_run_saved_and_loaded_goes_on_to_the_same_bits(workers, tmp_path):
    arguments = {"learning_episodes": 3000, "test_interval": 500, "cw_num": 2, "ew_num": 1, "batch_size": 100}
    whole, half, rest = (td.FederatedSARSAAgent(HALLWAY, workers=workers, **arguments) for _ in range(3))
    whole.learn_and_evaluate(progress=False)
    half.learn(1500)
    half.save(tmp_path / "half.npz")
    rest.load(tmp_path / "half.npz").learn(1500)
    assert np.array_equal(rest.q_table, whole.q_table) and rest.steps == whole.steps
    with pytest.raises(ValueError, match="cap"):
        td.FederatedSARSAAgent(HALLWAY, cap=0.3, **arguments).load(tmp_path / "half.npz")


@pytest.mark.parametrize("cap", [-0.1, 1.5, float("nan"), "much"])
def test_a_bad_cap_is_refused(cap):
    with pytest.raises((TypeError, ValueError), match="cap must be a number from 0 to 1, got"):
        td.FederatedQLAgent(HALLWAY, cap=cap)
