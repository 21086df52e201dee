"""Returns while learning: the sum of each episode's rewards, the same wherever and however an agent learns."""

import copy
import functools
import itertools

import gym
import numpy as np
import pytest
from helpers import AGENTS, NO_SLIP, Ring, corridor, interrupted, learned

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent, FederatedSARSAAgent
from tabular.returns import Returns, joined

LAKE = td.FrozenLakeEnv()
SETTINGS = {"learning_episodes": 90, "test_interval": 30, "trials": 2, "max_step": 60, "seed": 3, "keep_returns": True}
TEAM = {"cw_num": 2, "ew_num": 1, "batch_size": 7}
regimes = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])


def small(kind=td.QLAgent, simulator=LAKE, **settings):
    """Return an agent with 90 episodes that keeps returns."""
    return kind(simulator, 0.3, 0.1, **(SETTINGS | settings))


def team(kind, pool=td.InProcess, **settings):
    """Return a distributed one, on a pool of its own."""
    return small(kind, workers=pool(), **(TEAM | settings))


KINDS = {
    **{kind.agent_name: functools.partial(small, kind) for kind in (*AGENTS, DynaQAgent)},
    **{
        f"{kind.agent_name}, {pool.__name__}": functools.partial(team, kind, pool)
        for kind in (td.DistributedQLAgent, FederatedQLAgent, FederatedSARSAAgent, DistributedDynaQAgent)
        for pool in (td.InProcess, td.Threads)
    },
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def run(agent):
    """Return a finished agent."""
    agent.learn_and_evaluate(progress=False)
    return agent


class Ledger(gym.Wrapper):
    """A wrapper that adds up the rewards of each episode."""

    def __init__(self, env):
        super().__init__(env)
        self.totals = []

    def reset(self, **arguments):
        self.totals.append(0.0)
        return self.env.reset(**arguments)

    def step(self, action):
        returned = self.env.step(action)
        self.totals[-1] += returned[1]
        return returned


@regimes
def test_returns_by_hand(compiled):
    """S beside G, no slips, greedy: left, down, right to the goal, whose step pays 1000; then once more up."""
    agent = td.QLAgent(corridor(1, transition_prob=NO_SLIP), 0.0, 0.5, compiled=compiled, keep_returns=True)
    agent.learn(2)
    assert agent.returns.tolist() == [-3 + 1000, -4 + 1000] and agent.returns.dtype == np.float64


@pytest.mark.parametrize("kind", [*AGENTS, DynaQAgent])
@pytest.mark.parametrize("simulator", [LAKE, Ring()], ids=["lake", "Ring"])
def test_they_are_the_rewards_that_a_stepped_env_gave(kind, simulator):
    ledger = Ledger(simulator)
    value = {"initial_value": 0.0} if kind is DynaQAgent else {}
    agent = run(small(kind, ledger, do_test=False, compiled=False, **value))
    assert agent.returns.tolist() == ledger.totals[-90:]


@regimes
@kinds
def test_keeping_them_changes_nothing_else(make, compiled):
    agent, without = run(make(compiled=compiled)), run(make(compiled=compiled, keep_returns=False))
    assert learned(agent)[:4] == learned(without)
    assert agent.returns.shape == (90,) and np.isfinite(agent.returns).all() and without.returns is None


PAIRS = [
    (td.DistributedQLAgent, td.QLAgent), (FederatedQLAgent, td.QLAgent), (FederatedSARSAAgent, td.SARSAAgent),
    (DistributedDynaQAgent, DynaQAgent),
]  # fmt: skip


@pytest.mark.parametrize("kind, single", PAIRS, ids=lambda kind: kind.__name__)
def test_one_worker_returns_what_one_core_does(kind, single):
    size = {"batch_size": 7} if single is DynaQAgent else {}
    assert np.array_equal(run(team(kind, cw_num=1)).returns, run(small(single, **size)).returns)


@kinds
@pytest.mark.parametrize("number", [1, 3])
def test_an_interrupt_leaves_one_per_episode_and_a_run_goes_on_to_the_same(monkeypatch, make, number):
    agent = make(do_test=False)
    with interrupted(monkeypatch, type(agent), "_commit" if hasattr(agent, "_commit") else "learn_on", number):
        run(agent)
    assert len(agent.returns) == agent.episode < 90
    assert learned(run(agent)) == learned(run(make(do_test=False)))


@kinds
def test_episodes_for_which_they_were_not_kept_are_nan(make):
    agent = make(do_test=False, keep_returns=False)
    agent.learn(30)
    agent.keep_returns = True
    assert np.isnan(agent.returns).all() and len(agent.returns) == 30
    agent.learn(30)
    assert np.isnan(agent.returns[:30]).all() and np.isfinite(agent.returns[30:]).all()
    copied = copy.copy(agent)
    agent.keep_returns = False
    agent.learn(10)
    assert agent.returns is None
    agent.keep_returns = True
    agent.learn(20)
    assert np.isnan(agent.returns[:70]).all() and np.isfinite(agent.returns[70:]).all()
    assert np.isfinite(copied.returns[30:]).all() and len(copied.returns) == 60


def test_an_earlier_save_has_none_and_later_ones_resume(tmp_path):
    before, path = small(keep_returns=False), tmp_path / "agent.npz"
    before.learn(20)
    before.save(path)
    agent = small().load(path)
    agent.learn(30)
    assert np.isnan(agent.returns[:20]).all() and np.isfinite(agent.returns[20:]).all()
    agent.save(path)
    assert np.array_equal(small().load(path).returns, agent.returns, equal_nan=True)
    assert small(keep_returns=False).load(path).returns is None


@pytest.mark.parametrize("returns", [np.zeros(31), np.zeros((3, 1)), np.full(3, np.nan), np.zeros(3, np.float32)])
def test_impossible_returns_in_a_save_are_refused(tmp_path, returns):
    agent, path = small(), tmp_path / "agent.npz"
    agent.learn(30)
    agent.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"returns": returns}))
    with pytest.raises(ValueError, match="returns"):
        small().load(path)


class Forgetful(td.QLAgent):
    """An agent that leaves returns out."""

    def learn_on(self, q_table, first, episodes, log=None, returns=None):
        return super().learn_on(q_table, first, episodes, log)


class OfForgetful(td.DistributedQLAgent):
    """A distributed agent with such workers."""

    single = Forgetful


@pytest.mark.parametrize("make", [functools.partial(small, Forgetful), functools.partial(team, OfForgetful)])
def test_a_learn_on_that_leaves_them_out_is_told_and_learns_nothing(make):
    agent = make()
    with pytest.raises(RuntimeError, match="learn_on must fill in the returns"):
        agent.learn(5)
    assert agent.episode == 0 and not agent.q_table.any()


class ByHand(td.QLAgent):
    """An agent that learns in its own way, of which nothing is kept."""

    def learn(self, episodes=None):
        self.steps += episodes
        self.episode += episodes


def test_a_custom_learn_has_nan():
    agent = run(small(ByHand, do_test=False))
    assert np.isnan(agent.returns).all() and len(agent.returns) == 90


def test_a_new_array_is_returned_each_time():
    agent = small()
    agent.learn(5)
    agent.returns[:] = 7.0
    assert (agent.returns < 0).all()


def test_a_version_shares_its_buffer_and_never_changes():
    versions = [Returns()]
    for n in range(50):
        versions.append(versions[-1].plus(np.full(n % 4, float(n))))
    for shorter, longer in itertools.pairwise(versions):
        assert np.array_equal(longer.latest[: shorter.kept], shorter.latest)
    assert len({id(version.buffer) for version in versions}) < 10
    assert versions[-1].plus(None).kept == 0
    assert joined([np.ones(2), None]) is None and joined([np.ones(2), np.zeros(1)]).tolist() == [1.0, 1.0, 0.0]


def test_largest_rewards_do_not_overflow():
    class Rich(Ring):
        def step(self, action):
            state, _, *rest = super().step(action)
            return state, 1e38, *rest

    agent = td.QLAgent(Rich(ends=False), 1.0, 0.1, max_step=100, keep_returns=True)
    agent.learn(2)
    assert agent.returns == pytest.approx([1e40, 1e40])
