"""Properties that hold for any small lake, any parameters, and any division of a run into parts."""

import numpy as np
import pytest
from helpers import learned, random_q_table, same_as_by_hand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from tabular.kernels import draw, evaluate

FOUR = (0, 1, 2, 3)
few = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=120)


@st.composite
def lakes(draw):
    """Draw a lake of at most 4 x 4 cells with any number of S and G, and any slips."""
    rows, cols = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    letters = draw(st.lists(st.sampled_from("SFFFHG"), min_size=rows * cols, max_size=rows * cols))
    start, goal = draw(st.permutations(range(rows * cols)))[:2]
    letters[start], letters[goal] = "S", "G"
    weights = draw(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any))
    desc = ["".join(letters[cols * row : cols * row + cols]) for row in range(rows)]
    return td.FrozenLakeEnv(desc, transition_prob=[weight / sum(weights) for weight in weights])


@st.composite
def agents(draw):
    """Draw (class, lake, settings) of an agent with at most 40 episodes."""
    return (
        draw(st.sampled_from([td.QLAgent, td.SARSAAgent])),
        draw(lakes()),
        {
            "epsilon": draw(st.floats(0, 1)),
            "learning_rate": draw(st.floats(0, 1)),
            "beta": draw(st.floats(0, 0.999)),
            "learning_episodes": draw(st.integers(1, 40)),
            "test_interval": draw(st.integers(1, 12)),
            "trials": draw(st.integers(1, 5)),
            "max_step": draw(st.integers(1, 30)),
            "seed": draw(st.integers(0, 2**63 - 1)),
            "ties": draw(st.sampled_from(["lowest", "random"])),
            "keep_returns": draw(st.booleans()),
        },
    )


def run(agent_class, lake, parameters, **others):
    """Return an agent that has learned all its episodes."""
    agent = agent_class(lake, **parameters, **others)
    agent.learn_and_evaluate(progress=False)
    return agent


@few
@given(agents(), st.integers(0, 2**31))
def test_compiled_learning_equals_plain(case, table_seed):
    agent = case[0](case[1], **case[2])
    tables = [random_q_table((case[1].exit_state + 1, 4), table_seed) for _ in range(2)]
    arguments = case[1].table.packed, FOUR, agent.parameters(), 3, 10
    rule = agent.kernel.with_ties(agent.ties)
    returns = np.zeros((2, 10))
    assert rule(tables[0], *arguments, None, returns[0]) == rule.plain(tables[1], *arguments, None, returns[1])
    assert tables[0].tobytes() == tables[1].tobytes() and returns[0].tobytes() == returns[1].tobytes()


@few
@given(agents())
def test_compiled_evaluation_equals_plain(case):
    agent = case[0](case[1], **case[2])
    policy = random_q_table((case[1].exit_state + 1, 4)).argmax(axis=1)
    arguments = policy, case[1].table.packed, agent.parameters(), 0, 0, 10
    assert evaluate(*arguments) == evaluate.py_func(*arguments)


@many
@given(agents(), st.data())
def test_results_never_depend_on_how_learning_is_cut(case, data):
    whole, cut = run(*case, do_test=False), case[0](case[1], **case[2])
    while cut.episode < whole.episode:
        cut.learn(data.draw(st.integers(0, whole.episode - cut.episode)))
    assert learned(cut) == learned(whole)


def in_process(kind, case, **settings):
    """Return a distributed agent with these settings that needs no Ray."""
    return kind(case[1], workers=td.InProcess(), **(case[2] | settings))


FEDERATED = {td.QLAgent: FederatedQLAgent, td.SARSAAgent: FederatedSARSAAgent}


@many
@given(agents(), st.integers(1, 45), st.booleans())
@pytest.mark.filterwarnings("ignore:a batch of .* is truncated")
def test_one_collector_or_worker_with_any_batch_size_equals_single_core(case, batch_size, federated):
    kind = FEDERATED[case[0]] if federated else td.DistributedQLAgent
    agent = in_process(kind, case, cw_num=1, batch_size=batch_size)
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(run(agent.single, *case[1:]))


@many
@given(agents(), st.data())
def test_one_collector_with_any_cuts_equals_single_core(case, data):
    agent = in_process(td.DistributedQLAgent, case, cw_num=1, do_test=False)
    while agent.episode < agent.learning_episodes:
        agent.learn(data.draw(st.integers(1, agent.learning_episodes - agent.episode)))
    assert learned(agent) == learned(run(td.QLAgent, *case[1:], do_test=False))


@few
@given(agents(), st.integers(2, 5), st.integers(1, 20), st.booleans(), st.booleans())
@pytest.mark.filterwarnings("ignore:a batch of .* is truncated")
def test_several_collectors_or_workers_equal_the_dataflow_by_hand(case, cw_num, batch_size, federated, do_test):
    kind = FEDERATED[case[0]] if federated else td.DistributedQLAgent
    agent = in_process(kind, case, cw_num=cw_num, batch_size=batch_size, do_test=do_test)
    agent.learn_and_evaluate(progress=False)
    assert same_as_by_hand(agent)
    assert agent.learning_episodes <= agent.steps <= agent.learning_episodes * agent.max_step


@few
@given(agents())
def test_a_seed_repeats(case):
    assert learned(run(*case)) == learned(run(*case))


@few
@given(agents())
def test_stepping_repeats_and_counts_alike(case):
    first = run(*case, compiled=False)
    assert learned(run(*case, compiled=False)) == learned(first)
    assert first.episode == case[2]["learning_episodes"]
    assert len(first.total_rewards) == case[2]["learning_episodes"] // case[2]["test_interval"]


@many
@given(agents())
def test_values_stay_within_what_rewards_and_beta_imply(case):
    """Values start at zero; with beta <= 0.999, the worst return is -1 / (1 - beta) >= -1000, the best is 1000."""
    agent = run(*case, do_test=False)
    assert -1000 - 1e-9 <= agent.q_table.min() <= agent.q_table.max() <= 1000 + 1e-9
    ice = np.append(np.isin(case[1].desc.ravel(), [b"S", b"F"]), False)
    assert agent.q_table[ice].max() <= max(0.0, -1 + 1000 * agent.beta) + 1e-9
    assert not agent.q_table[-1].any()  # the exit is never left


@many
@given(agents())
def test_returns_stay_within_what_rewards_and_beta_imply(case):
    agent = run(*case)
    worst = -1000 - 1e-9
    assert all(worst <= total <= -1 + 1000 * agent.beta + 1e-9 for total in agent.total_rewards)


@few
@given(agents())
def test_no_policy_beats_value_iteration(case):
    agent = run(*case, do_test=False)
    table = case[1].table
    for epsilon in (0.0, agent.epsilon):
        best = td.value_iteration(table, agent.beta, epsilon)
        soft = (1 - epsilon) * best.max(axis=1) + epsilon * best.mean(axis=1)
        assert (td.policy_value(table, agent.q_table, agent.beta, epsilon) <= soft + 1e-6).all()
        assert td.policy_value(table, best, agent.beta, epsilon) == pytest.approx(soft, abs=1e-5)


@few
@given(agents(), st.integers(0, 39))
def test_saving_anywhere_changes_no_bit(tmp_path_factory, case, episodes):
    path = tmp_path_factory.getbasetemp() / "property.npz"
    agent = case[0](case[1], **case[2])
    agent.learn(min(episodes, agent.test_interval, agent.learning_episodes))
    agent.save(path)
    resumed = case[0](case[1], **case[2]).load(path)
    resumed.learn_and_evaluate(progress=False)
    assert learned(resumed) == learned(run(*case))


@many
@given(lakes())
def test_outcomes_of_any_lake_sum_to_one(lake):
    for state in range(lake.exit_state + 1):
        for outcomes in lake.P[state].values():
            assert sum(p for p, *_ in outcomes) == pytest.approx(1.0)
    assert lake.table.probability.sum(axis=-1) == pytest.approx(1.0)
    assert 0 <= lake.table.next_state.min() <= lake.table.next_state.max() == lake.exit_state


@many
@given(st.integers(0, 2**62 - 1), st.integers(0, 2**63 - 1))
def test_draws_are_in_range(key, counter):
    explore, slip = draw(key, counter)
    assert 0 <= explore < 1 and 0 <= slip < 2**32
