"""Hand-computed updates, random streams, compiled loops against plain Python, and users' rules."""

import functools
import math
import os
import pickle
import subprocess
import sys
import types

import gym
import gymnasium
import numba
import numpy as np
import pytest
from helpers import AGENTS, NO_SLIP, Ring, corridor, random_q_table

import td_helpers as td
from tabular import kernels
from tabular.kernels import Experience, Parameters
from tabular.rules import Rule
from tabular.tables import TransitionTable

compiled_once = functools.cache(numba.njit)


@pytest.fixture(params=[lambda function: function, compiled_once], ids=["plain", "compiled"])
def build(request):
    """The identity, or compilation by numba, once for all cases."""
    return request.param


def row_for(build, values):
    """Return a row of a q_table, as a list for plain Python or an array for compiled code."""
    return np.array(values) if build is compiled_once else list(values)


# Rules by hand ---------------------------------------------------------------------------

ACTIONS = (0, 1)
HALF = Parameters(epsilon=0.0, learning_rate=0.5, beta=0.9, max_step=10, key=0)


def table():
    return np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]])


def updated(build, update, *step) -> np.ndarray:
    """Return the table after one update."""
    q_table = table() if build is compiled_once else table().tolist()
    build(update)(q_table, 0, 0, *step, ACTIONS, HALF)
    return np.asarray(q_table)


@pytest.mark.parametrize(
    "reward, next_state, terminated, value",
    [
        (-1.0, 1, False, 2.25),  # 1 + 0.5 * (-1 + 0.9 * 5 - 1)
        (10.0, 1, True, 5.5),  # 1 + 0.5 * (10 - 1)
        (-1000.0, 1, False, -497.25),  # 1 + 0.5 * (-1000 + 0.9 * 5 - 1)
        (-1.0, 2, False, 1.8),  # a tie: 1 + 0.5 * (-1 + 0.9 * 4 - 1)
        (-1.0, 0, False, 0.9),  # to itself: 1 + 0.5 * (-1 + 0.9 * 2 - 1)
    ],
    ids=["step", "terminal", "negative", "tie", "loop"],
)
def test_q_learning_update_by_hand(build, reward, next_state, terminated, value):
    expected = table()
    expected[0, 0] = value
    found = updated(build, kernels.q_learning_update, reward, next_state, terminated)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "reward, next_state, next_action, terminated, value",
    [
        (-1.0, 1, 0, False, 1.35),  # 1 + 0.5 * (-1 + 0.9 * 3 - 1)
        (-1.0, 1, 1, False, 2.25),  # 1 + 0.5 * (-1 + 0.9 * 5 - 1)
        (10.0, 1, 0, True, 5.5),  # 1 + 0.5 * (10 - 1)
        (-1000.0, 1, 0, False, -498.15),  # 1 + 0.5 * (-1000 + 0.9 * 3 - 1)
        (-1.0, 0, 0, False, 0.45),  # to itself: 1 + 0.5 * (-1 + 0.9 * 1 - 1)
    ],
    ids=["step", "greedy", "terminal", "negative", "loop"],
)
def test_sarsa_update_by_hand(build, reward, next_state, next_action, terminated, value):
    expected = table()
    expected[0, 0] = value
    found = updated(build, kernels.sarsa_update, reward, next_state, next_action, terminated)
    assert found == pytest.approx(expected, abs=1e-12)


def test_greedy_choice_takes_the_lowest_of_equal_actions(build):
    chosen = build(kernels.explore_or_exploit)
    for row, action in (([0.0, 0.0, 0.0], 0), ([-1.0, 2.0, 2.0], 1), ([-3.0, -2.0, -1.0], 2), ([5.0, 5.0, 1.0], 0)):
        assert chosen(row_for(build, row), (0, 1, 2), 0.0, 0.0) == action


def test_exploring_is_even_over_the_actions_and_as_frequent_as_epsilon(build):
    chosen = build(kernels.explore_or_exploit)
    row = row_for(build, [1.0, 0.0, 0.0, 0.0])
    n = 4000
    counts = np.bincount([chosen(row, (0, 1, 2, 3), 0.4, (i + 0.5) / n) for i in range(n)])
    assert counts.tolist() == [2800, 400, 400, 400]  # 0.6 + 0.1, and 0.1 each
    assert chosen(row, (0, 1, 2, 3), 0.4, math.nextafter(0.4, 0.0)) == 3


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.5])
def test_random_ties_are_even_over_the_best_actions_and_exploring_is_as_ever(build, epsilon):
    act, old = build(kernels.explore_or_break_ties), build(kernels.explore_or_exploit)
    n, actions = 6000, (0, 1, 2, 3)
    draws = [i / n for i in range(n)]  # epsilon is among them
    for values, tied in (([2.0, 1.0, 2.0, 2.0], 3), ([0.0, 0.0, -0.0, 0.0], 4), ([-1.0, 5.0, 5.0, 2.0], 2)):
        row = row_for(build, values)
        chosen = [(draw, act(row, actions, epsilon, draw)) for draw in draws]
        assert all(action == old(row, actions, epsilon, draw) for draw, action in chosen if draw < epsilon)
        counts = np.bincount([action for draw, action in chosen if draw >= epsilon], minlength=4)
        best = np.array(values) == max(values)
        assert abs(counts[best] - n * (1 - epsilon) / tied).max() <= 1 and not counts[~best].any()
        assert act(row, actions, epsilon, epsilon) == best.argmax()
        assert act(row, actions, epsilon, 1 - 2.0**-32) == 3 - best[::-1].argmax()


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [math.nan] * 3, [7.0]], ids=str)
def test_without_ties_random_ties_choose_what_the_default_does(build, values):
    act, old = build(kernels.explore_or_break_ties), build(kernels.explore_or_exploit)
    row, actions = row_for(build, values), tuple(range(len(values)))
    draws = [i / 500 for i in range(500)] + [1 - 2.0**-32]
    for epsilon in (0.0, 2.0**-40, 0.3, 1 - 2.0**-32, 1.0):
        found = [act(row, actions, epsilon, draw) for draw in draws]
        assert found == [old(row, actions, epsilon, draw) for draw in draws]


Q_AFTER_TWO = [[-0.975, -0.975, 224.25, -0.5], [750.0, 0.0, 0.0, 0.0], [0.0] * 4]
SARSA_AFTER_ONE = [[-0.75, -0.75, -0.5, 0.0], [500.0, 0.0, 0.0, 0.0], [0.0] * 4]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
@pytest.mark.parametrize(
    "agent_class, episodes, steps, expected",
    [(td.QLAgent, 2, 9, Q_AFTER_TWO), (td.SARSAAgent, 1, 6, SARSA_AFTER_ONE)],
    ids=["Q-learning", "SARSA"],
)
def test_whole_episodes_by_hand(compiled, agent_class, episodes, steps, expected):
    """S beside G, no slips, greedy, lowest action on ties: left, down, right (SARSA chooses ahead, so each twice)."""
    agent = agent_class(corridor(1, transition_prob=NO_SLIP), 0.0, 0.5, beta=0.9, max_step=10, compiled=compiled)
    agent.learn(episodes)
    assert agent.q_table == pytest.approx(np.array(expected), abs=1e-12)
    assert agent.steps == steps


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
@pytest.mark.parametrize("agent_class", AGENTS)
@pytest.mark.parametrize("cut", ["TimeLimit", "max_step"])
def test_a_cut_episode_still_bootstraps(compiled, agent_class, cut):
    lake = corridor(3, transition_prob=NO_SLIP)
    simulator = gym.wrappers.TimeLimit(lake, 1) if cut == "TimeLimit" else lake
    limit = {} if cut == "TimeLimit" else {"max_step": 1}
    agent = agent_class(simulator, 0.0, 0.5, beta=0.9, compiled=compiled, **limit)
    agent.q_table[0] = 8.0, 1.0, 1.0, 1.0
    agent.learn(1)
    assert agent.q_table[0] == pytest.approx([7.1, 1.0, 1.0, 1.0])  # 8 + 0.5 * (-1 + 0.9 * 8 - 8)
    assert agent.steps == 1


# Random streams --------------------------------------------------------------------------


def splitmix64(counter: int) -> int:
    """Return output number `counter` of splitmix64 with seed 0, in Python integers (Steele, Lea and Flood 2014)."""
    mask = 2**64 - 1
    z = counter * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


@pytest.mark.parametrize("counter", [0, 1, 2, 12345, 2**31, 2**62 + 7, 2**63 - 1])
def test_mix_is_splitmix64(counter):
    assert int(kernels.mix(counter)) == splitmix64(counter)


def test_mix_gives_the_published_first_output():
    assert int(kernels.mix(1)) == 0xE220A8397B1DCDAF


def test_a_draw_is_the_two_halves_of_one_output():
    key, counter = splitmix64(42) >> 2, (1 << 62) + (5 << 40) + 17
    explore, slip = kernels.draw(key, counter)
    bits = splitmix64(key + counter)
    assert (explore * 2**32, slip) == (bits >> 32, bits & 0xFFFFFFFF)


@pytest.fixture
def streams(monkeypatch):
    """The (key, counter) of all draws of stepped agents while a test runs."""
    seen, draw = [], kernels.draw
    monkeypatch.setattr(kernels, "draw", lambda key, counter: seen.append((key, counter)) or draw(key, counter))
    return seen


@pytest.mark.parametrize("agent_class", AGENTS)
def test_no_draw_is_used_twice_in_learning_and_testing(streams, agent_class):
    agent = agent_class(Ring(), 0.3, 0.1, 40, test_interval=10, trials=3, max_step=30, seed=9)
    agent.evaluate(trials=3, max_steps=30)  # test 0
    agent.learn_and_evaluate(progress=False)
    assert len(set(streams)) == len(streams) > agent.steps
    assert len({key for key, _ in streams}) == 1


@pytest.mark.parametrize("rule, ahead", [(td.q_learning, 0), (td.sarsa, 1)], ids=["Q-learning", "SARSA"])
def test_an_episode_takes_its_draws_one_after_the_other(streams, rule, ahead):
    steps = rule(np.zeros((5, 2)), Ring(), ACTIONS, PARAMETERS, 3, 1)
    assert [counter - (3 << 20) for _, counter in streams] == list(range(1, steps + ahead + 1))


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
def test_evaluating_does_not_disturb_learning(lake, compiled):
    tested, untested = (
        td.QLAgent(lake, 0.3, 0.1, 60, test_interval=10, do_test=do_test, compiled=compiled)
        for do_test in (True, False)
    )
    tested.learn_and_evaluate(progress=False)
    untested.learn_and_evaluate(progress=False)
    assert np.array_equal(tested.q_table, untested.q_table)


def test_an_episode_at_the_step_limit_ends_its_draws_where_the_next_begins():
    assert kernels.MAX_STEP == 2**20 - 2
    last = kernels.MAX_STEP + 1  # SARSA's look ahead; 0 is the reset's
    assert last + 1 == (1 << 20)


def test_the_last_possible_streams_do_not_meet():
    last_learning = kernels.LEARNING + (kernels.MAX_EPISODES << 20) + 2**20
    last_testing = kernels.EVALUATION + (kernels.MAX_TESTS << 40)
    largest_key = (2**64 - 1) >> 2
    assert last_learning < kernels.EVALUATION < last_testing
    assert last_testing + largest_key < 2**64  # adding the key never wraps


def test_evaluation_after_more_test_intervals_than_there_are_streams():
    agent = td.QLAgent(corridor(1), do_test=False, test_interval=1, max_step=1)
    agent.learn(2 * kernels.MAX_TESTS)
    assert agent.evaluate(trials=2, max_steps=3) == agent.evaluate(trials=2, max_steps=3) >= -3


# Compiled and plain ----------------------------------------------------------------------


def expected_sarsa_update(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """A student's rule: the target is the mean over the next actions (Sutton and Barto 6.6)."""
    total = 0.0
    for next_action in actions:
        total += q_table[next_state][next_action]
    best = kernels.greedy_value(q_table[next_state], actions)
    expected = blend(parameters.epsilon, total / len(actions), best)
    target = reward if terminated else reward + parameters.beta * expected
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


def blend(weight, value, other):
    """A plain helper of a rule, without a numba decorator."""
    return weight * value + (1 - weight) * other


def by_turns(row, actions, epsilon, explore):
    """A user's policy: the greedy action, or the one after it."""
    best = kernels.greedy_action(row, actions)
    return (best + 1) % len(actions) if explore < epsilon else best


STUDENT = Rule(expected_sarsa_update)
RULES = {"Q-learning": td.q_learning, "SARSA": td.sarsa, "student": STUDENT}
REPLAYABLE = {name: rule for name, rule in RULES.items() if not rule.needs_next_action}
LAKES = {
    "4x4": (td.MAPS["4x4"], (0.97, 0.01, 0.01, 0.01)),
    "two starts": (["SFHF", "FFFS", "HFFG"], (0.1, 0.2, 0.3, 0.4)),
    "tall": (["FSF", "FFH", "SFF", "FFF", "HFG", "FFF"], (0.6, 0.3, 0.0, 0.1)),
}


def packed(desc, slips):
    return td.FrozenLakeEnv(desc, transition_prob=slips).table.packed


@pytest.fixture(params=LAKES.values(), ids=LAKES)
def lake_table(request):
    return packed(*request.param)


def small_lake():
    return packed(*LAKES["4x4"])


PARAMETERS = Parameters(0.3, 0.1, 0.999, 60, splitmix64(7) >> 2)
FOUR = (0, 1, 2, 3)


def zeros(simulator) -> np.ndarray:
    return np.zeros(simulator.outcomes.shape[:2])


def both(rule, simulator, actions, parameters, first, episodes, logs=(None, None)):
    """Learn compiled and in plain Python, check that the bits are equal, and return (q_table, steps)."""
    compiled, plain = zeros(simulator), zeros(simulator)
    steps = rule(compiled, simulator, actions, parameters, first, episodes, logs[0])
    assert rule.plain(plain, simulator, actions, parameters, first, episodes, logs[1]) == steps
    assert compiled.tobytes() == plain.tobytes()
    return compiled, steps


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_compiled_learning_equals_plain_bit_for_bit(lake_table, rule):
    q_table, steps = both(rule, lake_table, FOUR, PARAMETERS, 5, 100)
    assert q_table.any() and steps > 100
    visits = [zeros(lake_table).astype(np.int64) for _ in range(2)]
    counted, _ = both(rule, lake_table, FOUR, PARAMETERS, 5, 100, visits)
    assert counted.tobytes() == q_table.tobytes()
    assert np.array_equal(*visits) and visits[0].sum() == steps
    assert np.array_equal(visits[0] > 0, q_table != 0.0)


@pytest.mark.parametrize("rule", REPLAYABLE.values(), ids=REPLAYABLE)
def test_compiled_recording_and_replay_equal_plain_bit_for_bit(lake_table, rule):
    logs = [Experience.empty(100 * 61) for _ in range(2)]
    q_table, steps = both(rule, lake_table, FOUR, PARAMETERS, 0, 100, logs)
    (pairs, rewards), plain = (log.recorded() for log in logs)
    assert len(pairs) == steps + 100
    assert pairs.tobytes() == plain[0].tobytes() and rewards.tobytes() == plain[1].tobytes()
    replayed, by_plain = zeros(lake_table), zeros(lake_table)
    assert rule.replay(replayed, pairs, rewards, FOUR, PARAMETERS) == steps
    assert rule.replay_kernel.py_func(by_plain, pairs, rewards, FOUR, PARAMETERS) == steps
    assert replayed.tobytes() == by_plain.tobytes() == q_table.tobytes()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_greedy_and_random_runs_that_are_cut_equal_plain(rule, epsilon):
    both(rule, small_lake(), FOUR, PARAMETERS._replace(epsilon=epsilon, max_step=7), 0, 100)


def test_a_table_whose_pairs_have_thresholds_of_their_own_is_learned_alike():
    taxi = TransitionTable.from_env(gymnasium.make("Taxi-v4").unwrapped).packed
    slippery = TransitionTable.from_env(gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped).packed
    mixed = TransitionTable(*mdp(actions=4)).packed
    assert mixed.shared is None
    for simulator in (taxi, slippery, mixed):
        actions = kernels.action_range(simulator.outcomes.shape[1])
        both(td.q_learning, simulator, actions, PARAMETERS, 0, 20)


def test_a_pair_is_sampled_by_its_own_thresholds():
    table = TransitionTable(*mdp(actions=3))
    for state, action in np.ndindex(table.shape):
        border = round(table.probability[state, action, 0] * 2**32)  # draws below take the first outcome
        for outcome, slip in ((0, 0), (0, border - 1), (1, border), (1, 2**32 - 1)):
            at = state, action, outcome
            expected = table.next_state[at], table.reward[at], table.terminated[at], False
            assert kernels.sample_step(table.packed, state, action, slip) == expected


def test_values_and_visits_may_be_fields_of_one_array():
    simulator = small_lake()
    q_table, steps = both(td.q_learning, simulator, FOUR, PARAMETERS, 0, 50)
    fields = np.zeros(len(q_table), [("values", "f8", 4), ("visits", "i4", 4)])
    for learn in (td.q_learning, td.q_learning.plain):
        fields[:] = 0
        assert learn(fields["values"], simulator, FOUR, PARAMETERS, 0, 50, fields["visits"]) == steps
        assert fields["values"].tobytes() == q_table.tobytes() and fields["visits"].sum() == steps


def test_compiled_evaluation_equals_plain_bit_for_bit(lake_table):
    policy = random_q_table(lake_table.outcomes.shape[:2]).argmax(axis=1)
    arguments = policy, lake_table, PARAMETERS, 0, 0, 200
    assert kernels.evaluate(*arguments) == kernels.evaluate.py_func(*arguments)


def test_a_table_of_more_rewards_than_fit_32_bits_beside_the_states_is_learned_alike():
    n = 70_000  # 17 bits for a state, 18 for the number of its reward
    states = np.arange(n)
    column = lambda values: np.asarray(values)[:, None, None]
    chain = TransitionTable(
        probability=column(np.ones(n)),
        next_state=column(np.minimum(states + 1, n - 1).astype(np.int32)),
        reward=column(states + 0.25),
        terminated=column(states == n - 1),
        start=np.eye(1, n)[0],
    ).packed
    assert chain.outcomes.dtype == np.uint64
    assert kernels.sample_step(chain, 69_998, 0, 0) == (69_999, 69_998.25, False, False)
    assert kernels.sample_step(chain, 69_999, 0, 0) == (69_999, 69_999.25, True, False)
    q_table, steps = both(td.q_learning, chain, (0,), PARAMETERS._replace(max_step=n + 1), 0, 1)
    assert steps == n and q_table.all()


# Many actions ----------------------------------------------------------------------------


def mdp(actions, states=5):
    """Return a random table's five arrays; each pair has its own probabilities of two outcomes."""
    rng, shape = np.random.default_rng(0), (states, actions, 2)
    likely = rng.uniform(0.5, 1.0, shape[:2])
    return (
        np.stack([likely, 1 - likely], axis=-1),
        rng.integers(0, states, shape).astype(np.int32),
        rng.normal(size=shape),
        rng.random(shape) < 0.1,
        np.eye(1, states)[0],
    )


def test_few_actions_are_a_tuple_and_many_an_array():
    assert kernels.action_range(4) == (0, 1, 2, 3)
    assert type(kernels.action_range(kernels.MAX_UNROLLED)) is tuple
    assert kernels.action_range(kernels.MAX_UNROLLED + 1).tolist() == list(range(kernels.MAX_UNROLLED + 1))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_1500_actions_are_learned_replayed_and_evaluated(rule):
    simulator, actions = TransitionTable(*mdp(1500)).packed, kernels.action_range(1500)
    logs = [Experience.empty(20 * 61) for _ in range(2)]
    q_table, steps = both(rule, simulator, actions, PARAMETERS, 0, 20, logs)
    assert np.ptp(np.flatnonzero(q_table) % 1500) > 1400
    if not rule.needs_next_action:
        replayed = zeros(simulator)
        assert rule.replay(replayed, *logs[0].recorded(), actions, PARAMETERS) == steps
        assert replayed.tobytes() == q_table.tobytes()
    assert math.isfinite(kernels.evaluate(q_table.argmax(axis=1), simulator, PARAMETERS, 0, 0, 5))


# Logs, and refused input ---------------------------------------------------------------------


def test_experience_is_a_pair_and_a_reward_a_step_and_how_the_episode_ended():
    """S beside G, no slips, greedy to the right: two episodes that end, then one that is cut."""
    simulator = corridor(1, transition_prob=NO_SLIP).table.packed
    right = np.array([[0.0, 0.0, 9.0, 0.0], [0.0] * 4, [0.0] * 4])
    parameters = Parameters(0.0, 0.5, 0.9, 2, 1)
    log = Experience.empty(9)
    log.rewards.fill(7.0)  # as in a used log
    assert log.episodes_that_fit(2) == 3
    assert td.q_learning(right.copy(), simulator, FOUR, parameters, 0, 1, log) == 2
    assert td.q_learning.plain(right.copy(), simulator, FOUR, parameters, 0, 1, log) == 2
    assert td.q_learning(right.copy(), simulator, FOUR, parameters._replace(max_step=1), 0, 1, log) == 1
    pairs, rewards = log.recorded()
    assert pairs.dtype == np.int32
    # Go right, then act on the goal; the third is cut, so it bootstraps from state 1.
    assert pairs.tolist() == [2, 4, -1] * 2 + [2, -2 - 1]
    assert rewards.tolist() == [-1.0, 1000.0, 0.0] * 2 + [-1.0, 0.0]
    assert log.episodes_that_fit(2) == 0


def test_replay_learns_from_recorded_experience_by_hand():
    q_table = table()
    pairs = np.array([0, 3, -1, 1, -2 - 2], np.int32)  # (0, 0) to (1, 1), the end; then (0, 1), cut in state 2
    rewards = np.array([-1.0, 10.0, 0.0, -2.0, 0.0])
    assert td.q_learning.replay(q_table, pairs, rewards, ACTIONS, HALF) == 3
    # 1 + 0.5 * (-1 + 0.9 * 5 - 1) = 2.25;  5 + 0.5 * (10 - 5) = 7.5;  2 + 0.5 * (-2 + 0.9 * 4 - 2) = 1.8
    expected = np.array([[2.25, 1.8], [3.0, 7.5], [4.0, 4.0]])
    assert q_table == pytest.approx(expected, abs=1e-12)


def test_replay_takes_experience_as_it_is_shipped():
    pairs, rewards = np.array([0, 3, -1], np.int32), np.array([-1.0, 10.0, 0.0], np.float32)
    pairs.flags.writeable = rewards.flags.writeable = False
    q_table = table()
    compiled_for = len(td.q_learning.replay_kernel.signatures)
    assert td.q_learning.replay(q_table, pairs, rewards, ACTIONS, HALF) == 2
    assert q_table[0, 0] == pytest.approx(2.25)
    assert td.q_learning.replay(q_table, np.array(pairs), np.zeros(3), ACTIONS, HALF) == 2
    assert len(td.q_learning.replay_kernel.signatures) <= max(compiled_for, 1)
    assert td.q_learning.replay(q_table, pairs[:0], rewards[:0], ACTIONS, HALF) == 0


@pytest.mark.parametrize(
    "pairs, complaint",
    [
        ([0, 6, -1], "to 6"),  # three states of two actions end with pair 5
        ([0, -2 - 3, -1], "-5 to"),  # cut in state 3
        ([0, 2**31 - 1, -1], "2147483647"),
        ([0, -(2**31), -1], "-2147483648"),
        ([0, 3, 5], "the last 5"),
        ([0, -1], "rewards must be 2"),
        ([[0, 3, -1]], "array of int32"),
    ],
)
def test_replay_refuses_what_is_not_of_the_table(pairs, complaint):
    q_table = table()
    with pytest.raises(ValueError, match=complaint):
        td.q_learning.replay(q_table, np.array(pairs, np.int32), np.zeros(3), ACTIONS, HALF)
    assert np.array_equal(q_table, table())


def test_replay_refuses_other_types_tables_and_rules():
    pairs, rewards = np.array([0, -1], np.int32), np.zeros(2)
    replay = functools.partial(td.q_learning.replay, parameters=HALF)
    with pytest.raises(ValueError, match="int32"):
        replay(table(), pairs.astype(np.int64), rewards, ACTIONS)
    with pytest.raises(ValueError, match="floats"):
        replay(table(), pairs, rewards.astype(int), ACTIONS)
    with pytest.raises(ValueError, match=r"float64 of shape \(3, 3\)"):
        replay(table(), pairs, rewards, (0, 1, 2))
    with pytest.raises(ValueError, match="float64"):
        replay(table().astype(int), pairs, rewards, ACTIONS)
    with pytest.raises(TypeError, match="sarsa cannot be replayed: it needs the next action"):
        td.sarsa.replay(table(), pairs, rewards, ACTIONS, HALF)
    assert td.sarsa.replay_kernel is None


def test_tables_and_logs_that_do_not_fit_are_refused():
    simulator = small_lake()
    learn = lambda q_table, log=None: td.q_learning(q_table, simulator, FOUR, PARAMETERS, 0, 3, log)
    for wrong in (np.zeros((16, 4)), np.zeros((17, 5)), np.zeros((17, 4), int), np.zeros((17, 4), np.float32)):
        with pytest.raises(ValueError, match=r"float64 of shape \(17, 4\)"):
            learn(wrong)
    q_table = np.zeros((17, 4))
    with pytest.raises(ValueError, match="room for 3 more episodes, it has room for 2"):
        learn(q_table, Experience.empty(3 * 61 - 1))
    with pytest.raises(ValueError, match="visits"):
        learn(q_table, np.zeros((16, 4), int))
    assert not q_table.any()


# Users' rules ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "update",
    [
        lambda q, s, a, r, s2, done, actions, parameters: None,
        lambda q_table, state, action, reward, next_state, actions, parameters: None,
        lambda q_table, state, action, next_state, reward, terminated, actions, parameters: None,
    ],
    ids=["names", "too few", "order"],
)
def test_an_update_of_another_signature_is_refused_with_the_right_one(update):
    signature = r"\(q_table, state, action, reward, next_state, terminated, actions, parameters\)"
    with pytest.raises(TypeError, match=signature + ", and next_action after next_state"):
        Rule(update)


def test_arguments_that_do_not_go_by_their_place_are_refused():
    with pytest.raises(TypeError, match="plain arguments"):
        Rule(lambda q_table, state, action, reward, next_state, terminated, actions, *parameters: None)
    with pytest.raises(TypeError, match=r"\(row, actions, epsilon, explore\)"):
        Rule(kernels.sarsa_update, lambda row, actions: 0)


@pytest.mark.parametrize("thing", [None, 3, len, functools.partial(kernels.q_learning_update), Rule])
def test_a_rule_is_made_of_a_plain_function(thing):
    with pytest.raises(TypeError, match="plain function"):
        Rule(thing)


def test_a_compiled_update_serves_as_the_plain_one():
    rule = Rule(numba.njit(kernels.q_learning_update))
    assert rule.update is kernels.q_learning_update
    expected, _ = both(td.q_learning, small_lake(), FOUR, PARAMETERS, 0, 20)
    assert both(rule, small_lake(), FOUR, PARAMETERS, 0, 20)[0].tobytes() == expected.tobytes()


def test_a_policy_of_ones_own_acts_compiled_and_plain():
    rule = Rule(kernels.sarsa_update, by_turns)
    q_table, _ = both(rule, small_lake(), FOUR, PARAMETERS, 0, 50)
    assert q_table.tobytes() != both(td.sarsa, small_lake(), FOUR, PARAMETERS, 0, 50)[0].tobytes()


def test_a_rule_steps_an_env_and_says_where_an_error_fell():
    def fault(env):
        raise RuntimeError("broken")

    q_table = np.zeros((5, 2))
    with pytest.raises(RuntimeError, match="broken") as caught:
        STUDENT(q_table, Ring((3, 7), fault), ACTIONS, PARAMETERS, 10, 20)
    assert caught.value.__notes__ == ["in episode 13, step 7 (0: reset)"]
    with pytest.raises(RuntimeError) as caught:
        td.sarsa(q_table, Ring((2, 0), fault), ACTIONS, PARAMETERS, 0, 20)
    assert caught.value.__notes__ == ["in episode 2, step 0 (0: reset)"]
    assert not q_table.any()
    assert STUDENT(q_table, Ring(), ACTIONS, PARAMETERS, 0, 20) > 20 and q_table.any()


def test_built_in_rules_are_sent_by_name():
    for rule in (td.q_learning, td.sarsa):
        assert pickle.loads(pickle.dumps(rule)) is rule
        assert len(pickle.dumps(rule)) < 100


# Other processes -----------------------------------------------------------------------------


def answer(script: str, given, **environment) -> str:
    """Run a script in a fresh process with pickled input; return what it prints."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input=pickle.dumps(given),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


NOTEBOOK = """
import td_helpers as td

def halfway(reward, value):
    return reward + value

def lazy_update(q_table, state, action, reward, next_state, terminated, actions, parameters):
    target = reward
    if not terminated:
        target = halfway(reward, parameters.beta * max(q_table[next_state]))
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])

lazy = td.Rule(lazy_update)
"""
ELSEWHERE = """
import pickle, sys
sent, again, q_table, simulator, actions, parameters, log = pickle.load(sys.stdin.buffer)
rule = pickle.loads(sent)
assert rule.update.__module__ == "__main__" and pickle.loads(again) is rule
replayed = q_table.copy()
steps = rule(q_table, simulator, actions, parameters, 0, 30, log)
assert rule.replay(replayed, *log.recorded(), actions, parameters) == steps
assert replayed.tobytes() == q_table.tobytes()
print(steps, q_table.tobytes().hex())
"""


def test_a_rule_of_a_notebook_is_compiled_in_a_process_that_has_no_notebook():
    notebook = {"__name__": "__main__"}
    exec(NOTEBOOK, notebook)
    rule, simulator = notebook["lazy"], small_lake()
    q_table, steps = both(rule, simulator, FOUR, PARAMETERS, 0, 30)
    sent, again = (numba.cloudpickle.dumps(rule) for _ in range(2))
    log = Experience.empty(30 * 61)
    found = answer(ELSEWHERE, (sent, again, np.zeros_like(q_table), simulator, FOUR, PARAMETERS, log))
    assert found == f"{steps} {q_table.tobytes().hex()}"


DIGEST = """
import hashlib, pickle, sys
import numpy as np
from tabular import kernels, rules
simulator, parameters, policy = pickle.load(sys.stdin.buffer)
actions, digest = (0, 1, 2, 3), hashlib.sha256()
log = kernels.Experience.empty(30 * 61)
tables = np.zeros((3, *simulator.outcomes.shape[:2]))
rules.q_learning(tables[0], simulator, actions, parameters, 0, 30, log)
rules.q_learning.replay(tables[1], *log.recorded(), actions, parameters)
rules.sarsa(tables[2], simulator, actions, parameters, 0, 30)
total = kernels.evaluate(policy, simulator, parameters, 0, 0, 9)
print(hashlib.sha256(tables.tobytes() + np.float64(total).tobytes()).hexdigest())
"""


def test_all_runs_alike_where_numba_is_switched_off():
    given = small_lake(), PARAMETERS, random_q_table((17, 4)).argmax(axis=1)
    assert answer(DIGEST, given, NUMBA_DISABLE_JIT="1") == answer(DIGEST, given)


COMPILED_ANEW = """
import pickle, sys
import numpy as np
from tabular.rules import q_learning
simulator, parameters = pickle.load(sys.stdin.buffer)
q_learning(np.zeros(simulator.outcomes.shape[:2]), simulator, (0, 1, 2, 3), parameters, 0, 3)
print(sum(q_learning.kernel.stats.cache_misses.values()))
"""


def test_a_built_in_loop_is_compiled_once_for_all_processes(tmp_path):
    """Numba caches it under a hash of its closure, which must be the same in every process."""
    given = small_lake(), PARAMETERS
    assert [answer(COMPILED_ANEW, given, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)] == ["1", "0"]


# Interrupts ------------------------------------------------------------------------------


@pytest.fixture
def pace(monkeypatch):
    """A function that splits learning into parts, on a fake clock with a given pace in episodes per second."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(kernels, "time", types.SimpleNamespace(monotonic=lambda: clock.now))

    def parts(episodes, max_step, a_second):
        found = []
        for done, count in kernels.in_parts(episodes, max_step):
            clock.now += count / a_second
            found.append((done, count))
        return found

    return parts


@pytest.mark.parametrize("a_second", [3.0, 1e3, 1e5, 1e9])
@pytest.mark.parametrize("episodes, max_step", [(0, 1000), (1, 1000), (20_000_000, 1000), (50, kernels.MAX_STEP)])
def test_long_work_is_done_in_parts_of_a_twentieth_of_a_second(pace, episodes, max_step, a_second):
    if episodes > 1e6 and a_second < 1e5:
        episodes = 20_000
    parts = pace(episodes, max_step, a_second)
    assert [done for done, _ in parts] == [sum(count for _, count in parts[:i]) for i in range(len(parts))]
    assert sum(count for _, count in parts) == episodes
    assert all(count / a_second <= 0.21 or count == 1 for _, count in parts[1:])
    assert not parts or parts[0][1] * max_step <= kernels.FIRST_STEPS or parts[0][1] == 1
    assert len(parts) <= 10 + 25 * episodes / a_second


@pytest.mark.parametrize("size", [1, 3, 50, 10**9])
def test_parts_change_no_bit(monkeypatch, size):
    def run():
        agent = td.QLAgent(td.FrozenLakeEnv(), 0.3, 0.1, 120, test_interval=40, trials=30, seed=3)
        return agent.learn_and_evaluate(progress=False)

    rewards, q_table = run()
    cut = lambda episodes, _: ((done, min(size, episodes - done)) for done in range(0, episodes, size))
    monkeypatch.setattr("tabular.episodes.in_parts", cut)
    again = run()
    assert again[0] == rewards and again[1].tobytes() == q_table.tobytes()


def test_a_long_learn_that_is_stopped_between_two_parts_leaves_the_agent_as_it_was(monkeypatch):
    agent = td.QLAgent(td.FrozenLakeEnv(), 0.3, 0.1, do_test=False)
    agent.learn(10)
    before = agent.q_table.tobytes(), agent.episode, agent.steps

    def stopped(episodes, max_step):
        yield 0, 1000
        raise KeyboardInterrupt

    monkeypatch.setattr("tabular.episodes.in_parts", stopped)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(20_000_000)
    assert (agent.q_table.tobytes(), agent.episode, agent.steps) == before
