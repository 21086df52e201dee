"""Transition tables: which envs are compiled, and that draws from the packed form follow P."""

import functools

import gym
import gymnasium
import numpy as np
import pytest
from gym.envs.toy_text.cliffwalking import CliffWalkingEnv
from gym.envs.toy_text.frozen_lake import FrozenLakeEnv as GymFrozenLake
from gym.envs.toy_text.taxi import TaxiEnv
from helpers import NO_SLIP, Ring, frequencies, table_frequencies

import td_helpers as td
from tabular.kernels import sample_start, sample_step

# Draws from the packed form -----------------------------------------------------------------


TAXI = max(name for name in gymnasium.registry if name.startswith("Taxi-"))
SLIPS = [(0.97, 0.01, 0.01, 0.01), (0.1, 0.2, 0.3, 0.4), (0.0, 0.5, 0.5, 0.0), NO_SLIP]
SMALL = td.FrozenLakeEnv(["SF", "HG"])

STOCHASTIC = {
    **{f"lake {slips}": td.FrozenLakeEnv(["FFF", "FSH", "FFG"], transition_prob=slips) for slips in SLIPS},
    "gym FrozenLake": GymFrozenLake(is_slippery=True),
    "gymnasium FrozenLake": gymnasium.make("FrozenLake-v1", success_rate=0.8).unwrapped,
    "gymnasium slippery CliffWalking": gymnasium.make("CliffWalking-v1", is_slippery=True).unwrapped,
    "gymnasium rainy Taxi": gymnasium.make(TAXI, is_rainy=True).unwrapped,
}


def even_draws(n: int) -> np.ndarray:
    """Return `n` evenly spaced draws of 32 bits."""
    return ((np.arange(n) + 0.5) / n * 2**32).astype(np.int64)


@pytest.mark.parametrize("env", STOCHASTIC.values(), ids=STOCHASTIC)
def test_draws_are_divided_among_the_outcomes_of_each_pair_as_p_says(env):
    packed = td.TransitionTable.from_env(env).packed
    n = 100
    for state, action in np.ndindex(packed.outcomes.shape[:2]):
        drawn = [sample_step(packed, state, action, slip)[:3] for slip in even_draws(n)]
        found = {outcome: drawn.count(outcome) / n for outcome in set(drawn)}
        assert found == pytest.approx(frequencies(env.P[state][action]), abs=1 / n), (state, action)


@pytest.mark.parametrize("cells", [2, 3, 4, 7, 8, 15, 16])
def test_every_state_is_told_from_the_others_whatever_their_number(cells):
    packed = td.FrozenLakeEnv(["S" + "F" * (cells - 2) + "G"], transition_prob=NO_SLIP).table.packed
    assert [sample_step(packed, state, td.RIGHT, 0)[0] for state in range(cells)] == list(range(1, cells + 1))
    assert packed.bits == cells.bit_length()  # the last state is number `cells`


def test_a_lakes_thresholds_are_one_row_and_foreign_ones_a_row_for_each_pair():
    lake, foreign = (td.TransitionTable.from_env(env).packed for env in (SMALL, GymFrozenLake()))
    assert (lake.shared, lake.thresholds.shape) == (True, (1, 4))
    assert (foreign.shared, foreign.thresholds.shape) == (None, (16 * 4, 3))


def test_equal_probabilities_may_be_one_number():
    table = td.TransitionTable(
        probability=np.broadcast_to(0.25, (5, 1, 4)),
        next_state=np.broadcast_to(np.arange(4, dtype=np.int32), (5, 1, 4)),
        reward=np.zeros((5, 1, 4)),
        terminated=np.zeros((5, 1, 4), bool),
        start=np.eye(1, 5)[0],
    )
    drawn = [sample_step(table.packed, 4, 0, slip)[0] for slip in even_draws(8)]
    assert drawn == [0, 0, 1, 1, 2, 2, 3, 3]


def test_uneven_starts_are_drawn_as_often_as_the_distribution_says():
    env = CliffWalkingEnv()
    env.initial_state_distrib = np.zeros(48)
    env.initial_state_distrib[[3, 30, 36]] = 0.5, 0.2, 0.3
    packed = td.TransitionTable.from_env(env).packed
    drawn = [sample_start(packed, slip) for slip in even_draws(10)]
    assert drawn == [3] * 5 + [30] * 2 + [36] * 3


@pytest.mark.parametrize("shortfall", [0.0, 9e-10])
def test_outcomes_of_probability_zero_are_never_drawn(shortfall):
    lake = td.FrozenLakeEnv(["FFF", "FSF", "FFG"], transition_prob=(1.0 - shortfall, 0.0, 0.0, 0.0))
    assert [sample_step(lake.table.packed, 4, td.LEFT, slip)[0] for slip in (0, 2**31, 2**32 - 1)] == [3, 3, 3]


# Other envs ------------------------------------------------------------------------------


FOREIGN = {
    "gym CliffWalking": CliffWalkingEnv,
    "gym Taxi": TaxiEnv,
    "gym FrozenLake": GymFrozenLake,
    "gymnasium CliffWalking": lambda: gymnasium.make("CliffWalking-v1"),
    "gymnasium slippery CliffWalking": lambda: gymnasium.make("CliffWalking-v1", is_slippery=True),
    "gymnasium Taxi": lambda: gymnasium.make(TAXI),
    "gymnasium FrozenLake": lambda: gymnasium.make("FrozenLake-v1", map_name="8x8", success_rate=0.8),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_foreign_tables_equal_their_p(make):
    env = make().unwrapped
    table = td.TransitionTable.from_env(env)
    assert table.shape == (env.observation_space.n, env.action_space.n)
    assert np.array_equal(table.start, env.initial_state_distrib)
    assert (np.diff(table.probability, axis=-1) <= 0).all()
    for state, action in np.ndindex(table.shape):
        assert table_frequencies(table, state, action) == pytest.approx(frequencies(env.P[state][action]))


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_foreign_envs_with_a_p_are_compiled(make):
    agent = td.QLAgent(make(), 0.3, 0.1)
    agent.learn(20)
    assert agent.compiled and agent.episode == 20 and agent.steps > 20


class HalfPrice(gym.RewardWrapper):
    """A wrapper that changes the reward."""

    def reward(self, reward):
        return reward / 2


class Doubled(CliffWalkingEnv):
    """An env whose step deviates from its P."""

    def step(self, action):
        state, reward, *rest = super().step(action)
        return state, 2 * reward, *rest


class TiltedLake(td.FrozenLakeEnv):
    """A lake whose step deviates from its table."""

    def step(self, action):
        return super().step(td.RIGHT)


class MovedStart(td.FrozenLakeEnv):
    """A lake whose reset deviates from its table."""

    def reset(self, **settings):
        super().reset(**settings)
        self.s = 5
        return 5, {}


class Costly(gymnasium.envs.toy_text.frozen_lake.FrozenLakeEnv):
    """An env that follows its P but subtracts 1 from every reward."""

    def step(self, action):
        state, reward, *rest = super().step(action)
        return state, reward - 1, *rest


MORE_THAN_P = {
    "fickle Taxi": lambda: gymnasium.make(TAXI, fickle_passenger=True),
    "step overridden": Doubled,
    "gymnasium's step overridden": Costly,
    "lake's step overridden": TiltedLake,
    "lake's reset overridden": MovedStart,
    "reward wrapper": lambda: HalfPrice(CliffWalkingEnv()),
    "reward wrapper of a lake": lambda: HalfPrice(td.FrozenLakeEnv()),
    "no P": Ring,
}  # fmt: skip


@pytest.mark.parametrize("make", MORE_THAN_P.values(), ids=MORE_THAN_P)
def test_an_env_that_is_more_than_its_p_is_stepped(make):
    assert not td.QLAgent(make()).compiled


@pytest.mark.parametrize("make", MORE_THAN_P.values(), ids=MORE_THAN_P)
def test_an_env_that_is_more_than_its_p_is_refused_where_compiling_is_asked_for(make):
    with pytest.raises(ValueError, match="simulator must"):
        td.QLAgent(make(), compiled=True)


def test_what_a_step_does_besides_its_p_is_learned():
    agent = td.QLAgent(Costly(desc=["SG"], is_slippery=False), 0.0, 1.0, beta=0.0, max_step=1)
    agent.learn(1)
    assert agent.q_table[0].tolist() == [-1.0, 0.0, 0.0, 0.0]


class Declared(td.FrozenLakeEnv):
    """A lake that overrides step and declares that it still follows the table."""

    @td.samples_table
    def step(self, action):
        return super().step(action)


class Reversed(Declared):
    """A lake that overrides a declared step."""

    def step(self, action):
        return super().step(3 - action)


def test_an_env_may_declare_that_it_does_no_more_than_its_table():
    assert td.QLAgent(Declared()).compiled
    assert not td.QLAgent(Reversed()).compiled


def broken(change) -> CliffWalkingEnv:
    env = CliffWalkingEnv()
    change(env)
    return env


def set_outcome(env, outcome):
    env.P[3][1] = [outcome]


BROKEN = {
    "next state beyond the last": lambda env: set_outcome(env, (1.0, 48, -1, False)),
    "negative next state": lambda env: set_outcome(env, (1.0, -1, -1, False)),
    "next state between": lambda env: set_outcome(env, (1.0, 0.5, -1, False)),
    "next state nan": lambda env: set_outcome(env, (1.0, float("nan"), -1, False)),
    "reward nan": lambda env: set_outcome(env, (1.0, 0, float("nan"), False)),
    "reward too large to add up": lambda env: set_outcome(env, (1.0, 0, 1e308, False)),
    "probabilities short of 1": lambda env: set_outcome(env, (0.9, 0, -1, False)),
    "no outcome": lambda env: env.P[3].update({1: []}),
    "start short of 1": lambda env: setattr(env, "initial_state_distrib", env.initial_state_distrib * 0.5),
    "start of another length": lambda env: setattr(env, "initial_state_distrib", np.ones(1)),
    "lists instead of dicts": lambda env: setattr(env, "P", [list(actions.values()) for actions in env.P.values()]),
    "a state's list instead of its dict": lambda env: env.P.update({3: list(env.P[3].values())}),
    "a word for a probability": lambda env: set_outcome(env, ("much", 0, -1, False)),
    "an outcome cut short": lambda env: set_outcome(env, (1.0, 0)),
    "a state without an entry": lambda env: env.P.pop(3),
    "an action without an entry": lambda env: env.P[3].pop(1),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
@pytest.mark.filterwarnings("error")
def test_a_broken_p_is_never_compiled(change):
    with pytest.raises(ValueError):
        td.TransitionTable.from_env(broken(change))
    assert not td.QLAgent(broken(change)).compiled


def test_a_step_put_upon_an_env_is_stepped():
    for env in (td.FrozenLakeEnv(), CliffWalkingEnv()):
        env.step = functools.partial(type(env).step, env)
        assert not td.QLAgent(env).compiled


def test_the_last_start_gets_all_that_rounding_leaves():
    env = CliffWalkingEnv()
    env.initial_state_distrib = np.zeros(48)
    env.initial_state_distrib[:3] = 0.5, 0.25, 0.25 - 9e-10
    assert td.TransitionTable.from_env(env).packed.start_thresholds[-1] == 2**32 - 1


TWO_STATES = {
    "probability": np.ones((2, 1, 1)),
    "next_state": np.ones((2, 1, 1), np.int32),
    "reward": np.zeros((2, 1, 1)),
    "terminated": np.ones((2, 1, 1), bool),
    "start": np.array([1.0, 0.0]),
}
IMPOSSIBLE = {
    "a next state beyond the last": ("next_state", np.full((2, 1, 1), 2), "states from 0 to 1"),
    "a next state below 0": ("next_state", np.full((2, 1, 1), -1), "states from 0 to 1"),
    "next states that are no whole numbers": ("next_state", np.ones((2, 1, 1)), "states from 0 to 1"),
    "a reward that is none": ("reward", np.full((2, 1, 1), np.nan), "rewards from"),
    "a reward too large": ("reward", np.full((2, 1, 1), 1e308), "rewards from"),
    "probabilities short of 1": ("probability", np.full((2, 1, 1), 0.5), "sum to 1"),
    "probabilities nan": ("probability", np.full((2, 1, 1), np.nan), "sum to 1"),
    "a start short of 1": ("start", np.array([0.5, 0.0]), "sum to 1"),
    "rewards of another shape": ("reward", np.zeros((2, 1)), "four arrays"),
    "a start of another length": ("start", np.array([1.0]), "four arrays"),
}


@pytest.mark.parametrize("name, value, message", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_table_that_cannot_be_is_refused(name, value, message):
    td.TransitionTable(**TWO_STATES)
    with pytest.raises(ValueError, match=message):
        td.TransitionTable(**(TWO_STATES | {name: value}))
