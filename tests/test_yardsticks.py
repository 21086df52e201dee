"""The yardsticks: their worlds against the sources, and each learner on a few seeds."""

import numpy as np
import pytest
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

import td_helpers as td
from beyond.figures import worlds, yardsticks

# Worlds ---------------------------------------------------------------------------------------


def outcomes(world, state, action) -> list:
    """Return [(probability, next_state, reward, terminated), ...] of a pair, without what has probability 0."""
    table = world.table
    arrays = (table.probability, table.next_state, table.reward, table.terminated)
    found = zip(*(array[state, action].tolist() for array in arrays), strict=True)
    return [outcome for outcome in found if outcome[0] > 0]


def average_reward(world, policy) -> float:
    """Return the reward per step of a policy that is followed for ever."""
    table, states = world.table, np.arange(len(policy))
    chain = np.zeros((len(policy), len(policy)))
    for k in range(table.next_state.shape[-1]):
        np.add.at(chain, (states, table.next_state[states, policy, k]), table.probability[states, policy, k])
    rewards = (table.probability * table.reward).sum(axis=-1)[states, policy]
    shares = np.linalg.lstsq(
        np.vstack([chain.T - np.eye(len(policy)), np.ones(len(policy))]), np.eye(len(policy) + 1)[-1]
    )
    return float(shares[0] @ rewards)


def test_river_swim_is_as_in_its_figure():
    river = worlds.river_swim()
    assert outcomes(river, 0, 0) == [(1.0, 0, 5.0, False)] and outcomes(river, 3, 0) == [(1.0, 2, 0.0, False)]
    assert outcomes(river, 0, 1) == [(0.7, 0, 0.0, False), (0.3, 1, 0.0, False)]
    assert outcomes(river, 2, 1) == [(0.6, 2, 0.0, False), (0.3, 3, 0.0, False), (0.1, 1, 0.0, False)]
    assert outcomes(river, 5, 1) == [(0.7, 4, 0.0, False), (0.3, 5, 10_000.0, False)]
    assert river.table.start.tolist() == [0.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    # By detailed balance, the states are visited 1 : 3 : 9 : 27 : 81 : 81 * .3 / .7; the last one pays .3 * 10,000.
    shares = np.array([1.0, 3.0, 9.0, 27.0, 81.0, 81.0 * 3 / 7])
    assert average_reward(river, np.ones(6, int)) == pytest.approx(3000 * shares[-1] / shares.sum())


def test_six_arms_are_as_in_their_figure():
    arms = worlds.six_arms()
    assert outcomes(arms, 0, 0) == [(1.0, 1, 0.0, False)]
    assert outcomes(arms, 0, 5) == [(0.99, 0, 0.0, False), (0.01, 6, 0.0, False)]
    assert [outcomes(arms, 1, action)[0][1:3] for action in range(6)] == [(1, 50.0)] * 4 + [(0, 0.0), (1, 50.0)]
    for arm, reward in zip(range(2, 7), (133.0, 300.0, 800.0, 1660.0, 6000.0), strict=True):
        pays = [outcomes(arms, arm, action)[0][1:3] for action in range(6)]
        assert pays == [(arm, reward) if action == arm - 1 else (0, 0.0) for action in range(6)]
    chances = [{outcome[1]: outcome[0] for outcome in outcomes(arms, 0, action)}[action + 1] for action in range(6)]
    assert chances == [1.0, 0.15, 0.1, 0.05, 0.03, 0.01]


@pytest.mark.parametrize("size", [2, 5])
def test_the_deep_sea_pays_on_its_diagonal_alone(size):
    sea = worlds.deep_sea(size, 3)
    state, total, way = 0, 0.0, []
    for row in range(size):
        ahead = [action for action in (0, 1) if outcomes(sea, state, action)[0][2] != 0.0]
        (outcome,) = outcomes(sea, state, ahead[0])
        assert len(ahead) == 1 and outcome[3] == (row == size - 1)
        (left,) = outcomes(sea, state, 1 - ahead[0])
        assert left[2] == 0.0 and (row == size - 1 or left[1] == (row + 1) * size + max(row - 1, 0))
        total, state = total + outcome[2], outcome[1]
        way += ahead
    assert total == pytest.approx(0.99)
    others = {tuple(outcomes(worlds.deep_sea(5, seed), s, 0)[0][2] == 0.0 for s in range(25)) for seed in range(5)}
    assert len(others) == 5  # another seed has another map of actions


@pytest.mark.parametrize(
    ("world", "env"),
    [
        (worlds.cliff, lambda: CliffWalkingEnv()),
        (worlds.frozen_lake_8x8, lambda: FrozenLakeEnv(map_name="8x8", is_slippery=False)),
    ],
)
def test_worlds_of_gymnasium_are_the_same(world, env):
    ours, theirs = world().table, td.TransitionTable.from_env(env())
    played = np.ones(ours.shape[0], bool)
    played[[state for state in range(ours.shape[0]) if ours.terminated[state].all()]] = False
    ends = ours.terminated[..., 0][played]
    assert ours.start.tolist() == theirs.start.tolist()
    for name in ("next_state", "reward", "terminated"):
        mine, other = (getattr(table, name)[..., 0][played] for table in (ours, theirs))
        assert (mine == other)[~ends if name == "next_state" else ...].all(), name


def test_the_wind_blows_as_in_the_book():
    windy = worlds.windy()
    cell = lambda row, column: row * 10 + column
    right, up = 1, 0
    assert outcomes(windy, cell(3, 0), right) == [(1.0, cell(3, 1), -1.0, False)]
    assert outcomes(windy, cell(3, 3), right) == [(1.0, cell(2, 4), -1.0, False)]  # the wind of the cell left
    assert outcomes(windy, cell(4, 6), up) == [(1.0, cell(1, 6), -1.0, False)]
    assert outcomes(windy, cell(0, 6), up) == [(1.0, cell(0, 6), -1.0, False)]
    assert outcomes(windy, cell(4, 8), 3) == [(1.0, cell(3, 7), -1.0, True)]
    assert td.value_iteration(windy.table, beta=1.0)[cell(3, 0)].max() == -15.0  # the book's shortest path


def test_the_dyna_maze_is_as_in_the_book():
    maze = worlds.dyna_maze()
    assert td.value_iteration(maze.table, beta=0.95)[18].max() == pytest.approx(0.95**13)  # 14 steps
    assert outcomes(maze, 9 + 1, 2) == [(1.0, 9 + 1, 0.0, False)]  # a wall
    assert outcomes(maze, 9 + 8, 3) == [(1.0, 8, 1.0, True)]


def test_maximization_bias_is_as_in_the_book():
    table = worlds.biased().table
    assert table.terminated[0, 0, 0] and table.next_state[0, 1, 0] == 1 and not table.terminated[0, 1, 0]
    assert table.terminated[1].all()
    mean = (table.probability * table.reward)[1].sum(axis=-1)
    deviation = np.sqrt((table.probability * table.reward**2)[1].sum(axis=-1) - mean**2)
    np.testing.assert_allclose(mean, -0.1, atol=1e-9)
    np.testing.assert_allclose(deviation, 1.0, atol=0.01)


@pytest.mark.parametrize("make", [worlds.river_swim, worlds.six_arms, worlds.cliff, worlds.biased])
def test_a_world_steps_as_its_table_says(make):
    world, rng = make(), np.random.default_rng(0)
    assert td.QLAgent(world, do_test=False).compiled
    state, _ = world.reset(seed=1)
    seen = {}
    for _ in range(3000):
        action = int(rng.integers(world.action_space.n))
        before = state
        state, reward, terminated, truncated, _ = world.step(action)
        seen.setdefault((before, action), set()).add((state, reward, terminated))
        assert not truncated
        if terminated:
            state, _ = world.reset()
    for pair, found in seen.items():
        assert found <= {outcome[1:] for outcome in outcomes(world, *pair)}


# Learners -----------------------------------------------------------------------------------------

# By task and learner: the seeds, and bounds of their mean score, wide enough for other seeds.
BOUNDS = {
    ("RiverSwim", "Dyna-Q"): (3, 0.0, 0.3),
    ("RiverSwim", "Dyna-Q (prior 0.01)"): (3, 2.6, 3.6),
    ("RiverSwim", "Q-learning (optimistic)"): (3, 2.2, 3.3),
    ("SixArms", "Dyna-Q (prior 0.1)"): (4, 3.0, 25.0),
    ("deep_sea 20", "Dyna-Q"): (3, 30, 60),
    ("deep_sea 20", "Q-learning (optimistic)"): (3, 200, 800),
    ("cliff walking", "Q-learning"): (10, -63, -48),
    ("cliff walking", "SARSA"): (10, -43, -30),
    ("figure 6.3 (rate 0.5)", "Expected SARSA"): (10, -68, -48),
    ("windy gridworld", "SARSA"): (20, 150, 172),
    ("maximization bias", "Q-learning"): (100, 0.33, 0.43),
    ("maximization bias", "Double Q-learning"): (100, 0.09, 0.14),
    ("Dyna maze", "Dyna-Q (0 planning steps)"): (5, 18, 32),
    ("Dyna maze", "Dyna-Q (50 planning steps)"): (5, 1, 8),
    ("FrozenLake8x8", "Q-learning (ties random)"): (5, 50, 1_500),
}


@pytest.mark.filterwarnings("ignore:after 1000 episodes no reward")
@pytest.mark.parametrize(("case", "bounds"), BOUNDS.items(), ids=map(" ".join, BOUNDS))
def test_a_learner_scores_what_it_did(case, bounds):
    seeds, low, high = bounds
    scored = [yardsticks.score(*case, seed, yardsticks.TASKS)[0]["value"] for seed in range(2_000, 2_000 + seeds)]
    assert low <= np.mean(scored) <= high


def test_with_ties_to_the_lowest_the_8x8_lake_is_not_solved(monkeypatch):
    monkeypatch.setitem(yardsticks.MOST_EPISODES, "FrozenLake8x8", 2_000)
    with pytest.warns(UserWarning, match="no reward other than 0"):
        (row,) = yardsticks.score("FrozenLake8x8", "Q-learning (ties lowest)", 0, yardsticks.TASKS)
    assert np.isnan(row["value"])


def test_the_best_policies_earn_what_their_worlds_pay():
    assert yardsticks.best_possible(worlds.six_arms) == pytest.approx(29.4, abs=0.05)  # some 100 steps to the best arm
    assert yardsticks.best_possible(worlds.river_swim) == pytest.approx(3.34, abs=0.02)
