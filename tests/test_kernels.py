"""The update rules by hand, the random streams, and compiled loops against their own plain Python."""

import math

import gym
import numba
import numpy as np
import pytest
from helpers import AGENTS, NO_SLIP, Ring, corridor, plain, random_q_table

import td_helpers as td

ACTIONS = (0, 1)


def table():
    return np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]])


@pytest.fixture(params=[lambda rule: rule, numba.njit], ids=["plain", "compiled"])
def build(request):
    """What makes a callable of a rule: nothing, or numba."""
    return request.param


@pytest.mark.parametrize(
    "reward, next_state, terminated, updated",
    [
        (-1.0, 1, False, 2.25),  # 1 + 0.5 * (-1 + 0.9 * 5 - 1)
        (10.0, 1, True, 5.5),  # 1 + 0.5 * (10 - 1)
        (-1000.0, 1, False, -497.25),  # 1 + 0.5 * (-1000 + 0.9 * 5 - 1)
        (-1.0, 2, False, 1.8),  # a tie: 1 + 0.5 * (-1 + 0.9 * 4 - 1)
        (-1.0, 0, False, 0.9),  # to itself: 1 + 0.5 * (-1 + 0.9 * 2 - 1)
    ],
    ids=["step", "terminal", "negative", "tie", "loop"],
)
def test_q_learning_update_by_hand(build, reward, next_state, terminated, updated):
    q_table = table() if build is numba.njit else table().tolist()
    build(td.q_learning_update)(q_table, 0, 0, reward, next_state, terminated, 0.5, 0.9, ACTIONS)
    expected = table()
    expected[0, 0] = updated
    assert np.asarray(q_table) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "reward, next_state, next_action, terminated, updated",
    [
        (-1.0, 1, 0, False, 1.35),  # 1 + 0.5 * (-1 + 0.9 * 3 - 1)
        (-1.0, 1, 1, False, 2.25),  # 1 + 0.5 * (-1 + 0.9 * 5 - 1)
        (10.0, 1, 0, True, 5.5),  # 1 + 0.5 * (10 - 1)
        (-1000.0, 1, 0, False, -498.15),  # 1 + 0.5 * (-1000 + 0.9 * 3 - 1)
        (-1.0, 0, 0, False, 0.45),  # to itself: 1 + 0.5 * (-1 + 0.9 * 1 - 1)
    ],
    ids=["step", "greedy", "terminal", "negative", "loop"],
)
def test_sarsa_update_by_hand(build, reward, next_state, next_action, terminated, updated):
    q_table = table()
    build(td.sarsa_update)(q_table, 0, 0, reward, next_state, next_action, terminated, 0.5, 0.9)
    expected = table()
    expected[0, 0] = updated
    assert q_table == pytest.approx(expected, abs=1e-12)


def test_greedy_choice_takes_the_lowest_of_equal_actions(build):
    chosen = build(td.explore_or_exploit)
    for row, action in (([0.0, 0.0, 0.0], 0), ([-1.0, 2.0, 2.0], 1), ([-3.0, -2.0, -1.0], 2)):
        row = np.array(row) if build is numba.njit else row
        assert chosen(row, (0, 1, 2), 0.0, 0.0) == action


def test_exploring_is_even_over_the_actions_and_as_frequent_as_epsilon(build):
    chosen = build(td.explore_or_exploit)
    row = np.array([1.0, 0.0, 0.0, 0.0]) if build is numba.njit else [1.0, 0.0, 0.0, 0.0]
    n = 4000
    counts = np.bincount([chosen(row, (0, 1, 2, 3), 0.4, (i + 0.5) / n) for i in range(n)])
    assert counts.tolist() == [2800, 400, 400, 400]  # 0.6 + 0.1, and 0.1 each
    assert chosen(row, (0, 1, 2, 3), 0.4, math.nextafter(0.4, 0.0)) == 3


Q_AFTER_TWO = [[-0.975, -0.975, 224.25, -0.5], [750.0, 0.0, 0.0, 0.0], [0.0] * 4]
SARSA_AFTER_ONE = [[-0.75, -0.75, -0.5, 0.0], [500.0, 0.0, 0.0, 0.0], [0.0] * 4]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
@pytest.mark.parametrize(
    "agent_class, episodes, steps, expected",
    [(td.QLAgent, 2, 9, Q_AFTER_TWO), (td.SARSAAgent, 1, 6, SARSA_AFTER_ONE)],
    ids=["Q-learning", "SARSA"],
)
def test_whole_episodes_by_hand(compiled, agent_class, episodes, steps, expected):
    """S beside G, no slips, greedy, ties to the lowest: left, down, right (SARSA: each twice, for it chose before)."""
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


def test_replay_learns_from_recorded_experience_by_hand():
    q_table = table()
    pairs = np.array([0, 3, -1, 1, -2 - 2], np.int32)  # (0, 0) to (1, 1), the end; then (0, 1), cut in state 2
    rewards = np.array([-1.0, 10.0, 0.0, -2.0, 0.0])
    assert td.replay(q_table, (pairs, rewards), ACTIONS, 0.5, 0.9) == 3
    # 1 + 0.5 * (-1 + 0.9 * 5 - 1) = 2.25;  5 + 0.5 * (10 - 5) = 7.5;  2 + 0.5 * (-2 + 0.9 * 4 - 2) = 1.8
    assert q_table == pytest.approx(np.array([[2.25, 1.8], [3.0, 7.5], [4.0, 4.0]]), abs=1e-12)


# Random streams --------------------------------------------------------------------------


def splitmix64(counter: int) -> int:
    """Output `counter` of splitmix64 seeded with 0, in whole numbers: constants of Steele, Lea and Flood (2014)."""
    mask = 2**64 - 1
    z = counter * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


@pytest.mark.parametrize("counter", [0, 1, 2, 12345, 2**31, 2**62 + 7, 2**63 - 1])
def test_mix_is_splitmix64(counter):
    assert int(td.mix(counter)) == splitmix64(counter)


def test_mix_gives_the_published_first_output():
    assert int(td.mix(1)) == 0xE220A8397B1DCDAF


def test_a_draw_is_the_two_halves_of_one_output():
    key, counter = splitmix64(42) >> 2, (1 << 62) + (5 << 40) + 17
    explore, slip = td.draw(key, counter)
    bits = splitmix64(key + counter)
    assert (explore * 2**32, slip) == (bits >> 32, bits & 0xFFFFFFFF)


@pytest.fixture
def streams(monkeypatch):
    """The counters of all draws of stepped agents, and the seeds of all resets, while a test runs."""
    seen, draw = [], td.draw
    monkeypatch.setattr(td, "draw", lambda key, counter: seen.append((key, counter)) or draw(key, counter))
    return seen


@pytest.mark.parametrize("agent_class", AGENTS)
def test_no_draw_is_used_twice_in_learning_and_testing(streams, agent_class):
    agent = agent_class(Ring(), 0.3, 0.1, 40, test_interval=10, trials=3, max_step=30, seed=9)
    agent.evaluate(trials=3, max_steps=30)  # test 0
    agent.learn_and_evaluate(progress=False)
    assert len(set(streams)) == len(streams) > agent.steps
    assert len({key for key, _ in streams}) == 1


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
def test_evaluating_does_not_disturb_learning(lake, compiled):
    tested, untested = (
        td.QLAgent(lake, 0.3, 0.1, 60, test_interval=10, do_test=do_test, compiled=compiled)
        for do_test in (True, False)
    )
    tested.learn_and_evaluate(progress=False)
    untested.learn_and_evaluate(progress=False)
    assert np.array_equal(tested.q_table, untested.q_table)


def test_the_last_possible_streams_do_not_meet():
    last_learning = td.LEARNING + (td.MAX_EPISODES << 20) + 2**20
    last_testing = td.EVALUATION + (td.MAX_TESTS << 40)
    largest_key = (2**64 - 1) >> 2
    assert last_learning < td.EVALUATION < last_testing
    assert last_testing + largest_key < 2**64  # so that adding the key never wraps


def test_evaluation_after_more_test_intervals_than_there_are_streams():
    agent = td.QLAgent(corridor(1), do_test=False, test_interval=1, max_step=1)
    agent.learn(2 * td.MAX_TESTS)
    assert agent.evaluate(trials=2, max_steps=3) == agent.evaluate(trials=2, max_steps=3) >= -3


# Compiled against plain ------------------------------------------------------------------

LAKES = {
    "4x4": (td.MAPS["4x4"], (0.97, 0.01, 0.01, 0.01)),
    "two starts": (["SFHF", "FFFS", "HFFG"], (0.1, 0.2, 0.3, 0.4)),
    "tall": (["FSF", "FFH", "SFF", "FFF", "HFG", "FFF"], (0.6, 0.3, 0.0, 0.1)),
}


@pytest.fixture(params=LAKES.values(), ids=LAKES)
def model(request):
    desc, slips = request.param
    return td.FrozenLakeEnv(desc, transition_prob=slips).table.model


PARAMETERS = td.Parameters(0.3, 0.1, 0.999, 60, splitmix64(7) >> 2)
FOUR = (0, 1, 2, 3)


@pytest.mark.parametrize("loop", [td.q_learning, td.sarsa], ids=["Q-learning", "SARSA"])
def test_compiled_learning_equals_plain_bit_for_bit(model, loop):
    tables = [np.zeros(model.outcomes.shape[:2]) for _ in range(2)]
    visits = [np.zeros(model.outcomes.shape[:2], np.int64) for _ in range(2)]
    compiled = loop(tables[0], model, FOUR, PARAMETERS, 5, 100, visits[0], None)
    assert plain(loop, tables[1], model, FOUR, PARAMETERS, 5, 100, visits[1], None) == compiled
    assert tables[0].tobytes() == tables[1].tobytes() and tables[0].any()
    assert np.array_equal(*visits) and visits[0].sum() == compiled[1]


def test_compiled_recording_and_replay_equal_plain_bit_for_bit(model):
    shape = model.outcomes.shape[:2]
    logs = [(np.zeros(2000, np.int32), np.zeros(2000)) for _ in range(2)]
    tables = [np.zeros(shape) for _ in range(4)]
    counts = td.q_learning(tables[0], model, FOUR, PARAMETERS, 0, 100, None, logs[0])
    assert plain(td.q_learning, tables[1], model, FOUR, PARAMETERS, 0, 100, None, logs[1]) == counts
    assert [part.tobytes() for part in logs[0]] == [part.tobytes() for part in logs[1]]
    log = tuple(part[: sum(counts)] for part in logs[0])
    assert (
        td.replay(tables[2], log, FOUR, 0.1, 0.999) == plain(td.replay, tables[3], log, FOUR, 0.1, 0.999) == counts[1]
    )
    assert len({one.tobytes() for one in tables}) == 1


def test_compiled_evaluation_equals_plain_bit_for_bit(model):
    policy = random_q_table(model.outcomes.shape[:2]).argmax(axis=1)
    arguments = policy, model, PARAMETERS, td.EVALUATION, 200
    assert td.evaluate(*arguments) == td.evaluate.py_func(*arguments)


def test_a_table_of_more_rewards_than_fit_32_bits_beside_the_states_is_learned_alike():
    n = 70_000  # 17 bits for a state, 18 for the number of its reward
    states = np.arange(n)
    column = lambda values: np.asarray(values)[:, None, None]
    start = np.eye(1, n)[0]
    chain = td.TransitionTable(
        column(np.ones(n)), column(np.minimum(states + 1, n - 1).astype(np.int32)), column(states + 0.25),
        column(states == n - 1), start,
    )  # fmt: skip
    assert chain.model.outcomes.dtype == np.uint64
    assert td.sample_step(chain.model, 69_998, 0, 0) == (69_999, 69_998.25, False, False)
    assert td.sample_step(chain.model, 69_999, 0, 0) == (69_999, 69_999.25, True, False)
    tables = [np.zeros((n, 1)) for _ in range(2)]
    arguments = chain.model, (0,), PARAMETERS._replace(max_step=n + 1), 0, 1, None, None
    assert td.q_learning(tables[0], *arguments) == plain(td.q_learning, tables[1], *arguments) == (1, n)
    assert np.array_equal(*tables) and tables[0].all()
