"""Exact values, compared with closed forms, a plain value iteration, each other, and rollouts."""

import dataclasses
import functools
import itertools

import gymnasium
import numpy as np
import pytest
from gym.envs.toy_text.cliffwalking import CliffWalkingEnv
from gym.envs.toy_text.taxi import TaxiEnv
from helpers import NO_SLIP, corridor, random_q_table

import td_helpers as td
from tabular import exact
from tabular.exact import action_values


def plain_value_iteration(P, beta, epsilon=0.0, sweeps=3000) -> np.ndarray:
    """Iterate values in synchronous sweeps over dicts (Sutton and Barto 4.4), with an epsilon-soft maximum."""
    values = dict.fromkeys(P, 0.0)
    for _ in range(sweeps):
        q = {
            s: [sum(p * (r + (0.0 if end else beta * values[n])) for p, n, r, end in P[s][a]) for a in P[s]] for s in P
        }
        values = {s: (1 - epsilon) * max(q[s]) + epsilon * sum(q[s]) / len(q[s]) for s in P}
    return np.array([q[s] for s in sorted(P)])


@pytest.mark.parametrize("length", [1, 3, 10])
@pytest.mark.parametrize("beta", [0.9, 1.0])
def test_the_value_of_a_corridor_has_a_closed_form(length, beta):
    lake = corridor(length, transition_prob=NO_SLIP)
    expected = 1000 * beta**length - sum(beta**t for t in range(length))
    q_table = td.value_iteration(lake.table, beta)
    assert q_table[0].max() == pytest.approx(expected, abs=1e-8)
    assert td.policy_value(lake.table, q_table, beta)[0] == pytest.approx(expected, abs=1e-8)


def test_the_value_of_a_slippery_step_has_a_closed_form():
    lake = corridor(1, transition_prob=(0.8, 0.0, 0.0, 0.2))  # to G, or up against the wall
    expected = (-1 + 0.8 * 0.99 * 1000) / (1 - 0.2 * 0.99)
    assert td.value_iteration(lake.table, 0.99)[0, td.RIGHT] == pytest.approx(expected, abs=1e-8)


def test_the_value_of_walking_into_a_wall_for_ever_has_a_closed_form():
    lake = corridor(2, transition_prob=NO_SLIP)
    assert td.policy_value(lake.table, np.zeros((4, 4)), 0.9).tolist() == pytest.approx([-10.0, -10.0, 1000.0, 0.0])


def test_the_value_of_exploring_has_a_closed_form():
    lake = corridor(1, transition_prob=NO_SLIP)
    q_table = np.zeros((3, 4))
    q_table[:, td.RIGHT] = 1.0
    reach = 0.6 + 0.4 / 4
    expected = (-1 + reach * 0.9 * 1000) / (1 - (1 - reach) * 0.9)
    assert td.policy_value(lake.table, q_table, 0.9, 0.4)[0] == pytest.approx(expected)


SMALL = {
    "random lake": td.FrozenLakeEnv(td.generate_map((5, 3), 0.3, 4), transition_prob=(0.7, 0.1, 0.0, 0.2)),
    "4x4": td.FrozenLakeEnv(),
    "CliffWalking": CliffWalkingEnv(),
    "FrozenLake": gymnasium.make("FrozenLake-v1").unwrapped,
}


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("env", SMALL.values(), ids=SMALL)
def test_value_iteration_equals_a_plain_one(env, epsilon):
    found = td.value_iteration(td.TransitionTable.from_env(env), 0.95, epsilon)
    assert found == pytest.approx(plain_value_iteration(env.P, 0.95, epsilon, 600), abs=1e-7)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("name", ["4x4", "Dangerous Hallway", "16x16"])
def test_the_best_epsilon_soft_policy_is_worth_what_value_iteration_says(name, epsilon):
    table = td.FrozenLakeEnv(map_name=name).table
    q_table = td.value_iteration(table, epsilon=epsilon)
    soft = (1 - epsilon) * q_table.max(axis=1) + epsilon * q_table.mean(axis=1)
    assert td.policy_value(table, q_table, epsilon=epsilon) == pytest.approx(soft, abs=1e-6)


@pytest.mark.parametrize("name, value", [("Dangerous Hallway", 960.26), ("16x16", 936.33)])
def test_optimal_values_of_the_assignments_maps(name, value):
    assert td.value_iteration(td.FrozenLakeEnv(map_name=name).table)[0].max() == pytest.approx(value, abs=0.005)


def test_the_best_route_through_the_hallway_is_worth_less_than_the_bypass(hallway):
    bypass_shut = [row[:5] + "HHH" if 2 <= i <= 5 else row for i, row in enumerate(td.MAPS["Dangerous Hallway"])]
    through = td.value_iteration(td.FrozenLakeEnv(bypass_shut).table)
    assert td.policy_value(hallway.table, through)[0] == pytest.approx(807.34, abs=0.005)


def test_an_exploring_agent_is_best_off_outside_the_hallway(hallway):
    assert td.policy_value(hallway.table, td.value_iteration(hallway.table, epsilon=0.3), epsilon=0.3)[0] == (
        pytest.approx(768, abs=0.5)
    )


def test_no_policy_beats_the_optimum(hallway):
    optimal = td.value_iteration(hallway.table).max(axis=1)
    for seed in range(20):
        assert (td.policy_value(hallway.table, random_q_table(hallway.table.shape, seed)) <= optimal + 1e-7).all()


def test_action_values_look_one_step_ahead():
    lake = corridor(1, transition_prob=NO_SLIP)
    ahead = action_values(lake.table, np.array([10.0, 20.0, 30.0]), 0.5)
    assert ahead.tolist() == [[4.0, 4.0, 9.0, 4.0], [1000.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
def test_rollouts_agree_with_the_exact_value(lake, compiled):
    agent = td.QLAgent(lake, compiled=compiled, max_step=1000, beta=0.9)
    agent.q_table = td.value_iteration(lake.table, 0.9)
    trials = 20_000 if compiled else 1000
    returns = [agent.evaluate_on(agent.q_table, 100 * test, 1, 1000) for test in range(300)]
    error = 5 * np.std(returns) / np.sqrt(trials)
    assert abs(agent.evaluate(trials=trials) - td.policy_value(lake.table, agent.q_table, 0.9)[0]) < error


LOOPING = {
    "against a wall": (NO_SLIP, td.UP),
    "round a corner": ((0.1, 0.7, 0.0, 0.2), td.UP),
    "three ways": ((0.7, 0.2, 0.0, 0.1), td.LEFT),
}


@pytest.mark.parametrize("slips, action", LOOPING.values(), ids=LOOPING)
def test_without_discount_a_policy_that_never_ends_has_no_value(slips, action):
    lake = td.FrozenLakeEnv(["SFF", "FFF", "FFG"], transition_prob=slips)
    q_table = np.zeros((10, 4))
    q_table[:, action] = 1.0
    with pytest.raises(RuntimeError, match="never ends"):
        td.policy_value(lake.table, q_table, beta=1.0)


def test_without_discount_an_endless_income_has_no_value():
    table = corridor(1).table
    endless = dataclasses.replace(table, terminated=np.zeros_like(table.terminated), reward=np.ones_like(table.reward))
    with pytest.raises(RuntimeError, match="beta=1 the values still change"):
        td.value_iteration(endless, beta=1.0)


def test_without_discount_states_that_are_never_reached_need_no_value():
    """A learned Taxi policy has states from which an episode never ends."""
    taxi = td.TransitionTable.from_env(TaxiEnv())
    agent = td.QLAgent(TaxiEnv(), 0.1, 0.5, 5000, do_test=False, beta=1.0)
    agent.learn_and_evaluate(progress=False)
    values = td.policy_value(taxi, agent.q_table, beta=1.0)
    assert np.isnan(values).any() and not np.isnan(values[taxi.start > 0]).any()
    exact_return = np.nansum(taxi.start * values)
    assert exact_return == pytest.approx(agent.evaluate(trials=20_000), abs=5 * 10 / np.sqrt(20_000))


def test_without_discount_a_walk_that_ends_has_a_value_however_long_it_takes():
    side = 330
    lake = td.FrozenLakeEnv(["S" + "F" * (side - 1)] + ["F" * side] * (side - 2) + ["F" * (side - 1) + "G"])
    q_table = np.zeros((side * side + 1, 4))
    q_table[:, td.RIGHT] = 1.0
    q_table[side - 1 : side * side : side, td.DOWN] = 2.0
    value = td.policy_value(lake.table, q_table, beta=1.0)[0]
    assert 1000 - 3 * 2 * side < value < 1000 - 2 * (side - 1)


def river_swim() -> td.TransitionTable:
    """RiverSwim (Strehl and Littman 2008): six states, 5 for staying at the left, 10,000 at the right."""
    lists = {}
    for state in range(6):
        left, right = max(state - 1, 0), min(state + 1, 5)
        swim = [(0.1, left, 0.0, False), (0.6, state, 0.0, False), (0.3, right, 0.0, False)]
        lists[state] = {0: [(1.0, left, 5.0 if state == 0 else 0.0, False)], 1: swim}
    lists[0][1] = [(0.7, 0, 0.0, False), (0.3, 1, 0.0, False)]
    lists[5][1] = [(0.7, 4, 0.0, False), (0.3, 5, 10_000.0, False)]
    return td.TransitionTable.from_lists(lists, [0.0, 0.5, 0.5, 0.0, 0.0, 0.0])


def all_policies(table, beta, epsilon):
    """Yield each policy, as the table of a q_table that has it, and its exact values by numpy."""
    states, actions = table.shape
    moves = np.zeros((states, actions, states))
    for state, action, k in np.ndindex(table.next_state.shape):
        moves[state, action, table.next_state[state, action, k]] += table.probability[state, action, k]
    reward = (table.probability * table.reward).sum(axis=2)
    for policy in itertools.product(range(actions), repeat=states):
        chosen = np.eye(actions)[list(policy)]
        share = (1 - epsilon) * chosen + epsilon / actions
        chain = np.einsum("sa,sat->st", share, moves)
        yield chosen, np.linalg.solve(np.eye(states) - beta * chain, (share * reward).sum(axis=1))


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("beta", [0.9, 0.999, 0.99999, 0.999999, 1 - 1e-9])
def test_a_task_without_an_end_is_solved_with_any_discount(beta, epsilon):
    table, policies = river_swim(), list(all_policies(river_swim(), beta, epsilon))
    best = np.max([values for _, values in policies], axis=0)
    like = functools.partial(pytest.approx, abs=1e-10 * beta / (1 - beta) + 1e-15 / (1 - beta) * best.max())
    q_table = td.value_iteration(table, beta, epsilon)
    assert (1 - epsilon) * q_table.max(axis=1) + epsilon * q_table.mean(axis=1) == like(best)
    assert td.policy_value(table, q_table, beta, epsilon) == like(best)
    for chosen, values in policies:
        assert td.policy_value(table, chosen, beta, epsilon) == like(values)


@pytest.mark.parametrize("tolerance", [100.0, 1.0, 0.01])
@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("task", ["4x4", "river"])
def test_the_tolerance_bounds_the_error_as_documented(task, beta, tolerance):
    table = river_swim() if task == "river" else td.FrozenLakeEnv(map_name=task).table
    error = np.abs(td.value_iteration(table, beta, tolerance=tolerance) - td.value_iteration(table, beta)).max()
    assert error <= tolerance * beta / (1 - beta)
    assert task == "4x4" or error > 0.0


def test_a_task_without_an_end_that_is_too_large_to_solve_says_why(monkeypatch):
    monkeypatch.setattr(exact, "SPARSE_STATES", 5)
    for work in (td.value_iteration, lambda *task: td.policy_value(task[0], np.zeros((6, 2)), task[1])):
        with pytest.raises(
            RuntimeError, match=r"with beta=0.9999999 the values still change by .* after 10000000 sweeps"
        ):
            work(river_swim(), 0.9999999)


@pytest.mark.parametrize("sparse_states", [10**6, 10], ids=["solved", "swept"])
@pytest.mark.parametrize("shape", [(3, 17), (17, 3), (9, 9)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_policy_value_solves_the_bellman_equation(monkeypatch, shape, epsilon, sparse_states):
    monkeypatch.setattr(exact, "SPARSE_STATES", sparse_states)
    table = td.FrozenLakeEnv(td.generate_map(shape, 0.1, seed=1)).table
    q_table = random_q_table(table.shape)
    share = np.full(table.shape, epsilon / 4)
    share[np.arange(len(share)), q_table.argmax(axis=1)] += 1 - epsilon
    moves, gain = np.eye(len(share)), np.zeros(len(share))
    for state, action, k in np.ndindex(table.next_state.shape):
        weight = share[state, action] * table.probability[state, action, k]
        gain[state] += weight * table.reward[state, action, k]
        if not table.terminated[state, action, k]:
            moves[state, table.next_state[state, action, k]] -= 0.999 * weight
    expected = np.linalg.solve(moves, gain)
    assert td.policy_value(table, q_table, epsilon=epsilon) == pytest.approx(expected, abs=1e-7)
