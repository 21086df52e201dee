"""Tasks without an end: cut episodes go on where they stopped, whatever comes between them."""

import copy
import functools
import pickle

import gym
import numpy as np
import pytest
from helpers import AGENTS, NO_SLIP, Ring, corridor, interrupted, learned
from hypothesis import given
from hypothesis import strategies as st
from test_properties import few, lakes

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent
from tabular.continuing import to_save
from tabular.tables import PackedTable

LAKE = td.FrozenLakeEnv()
STILL = td.FrozenLakeEnv(map_name="8x8", transition_prob=NO_SLIP)
KINDS = (*AGENTS, DynaQAgent)
kinds = pytest.mark.parametrize("kind", KINDS)
regimes = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])


def small(kind=td.QLAgent, simulator=LAKE, **settings):
    """Return an agent whose 200 episodes of at most 7 steps go on."""
    defaults = {"learning_episodes": 200, "test_interval": 50, "trials": 2, "max_step": 7, "seed": 3}
    value = {"initial_value": 0.0} if issubclass(kind, DynaQAgent) else {}
    return kind(simulator, 0.3, 0.1, **(defaults | value | {"continuing": True, "keep_returns": True} | settings))


def run(agent):
    """Return the learned state of a finished agent, and where it stands."""
    agent.learn_and_evaluate(progress=False)
    return *learned(agent), to_save(agent._learned.place)


class Counting(gym.Wrapper):
    """A wrapper that counts resets, and the ends that need one."""

    def __init__(self, env):
        super().__init__(env)
        self.resets = self.ends = 0

    def reset(self, **arguments):
        self.resets += 1
        return self.env.reset(**arguments)

    def step(self, action):
        returned = self.env.step(action)
        self.ends += returned[2] or returned[3]
        return returned


# Where episodes start ------------------------------------------------------------------------


@regimes
@pytest.mark.parametrize("kind", AGENTS)
def test_a_walk_in_pieces_by_hand(kind, compiled):
    """Seven steps to the right and one on the goal, three at a time; then it starts anew."""
    agent = kind(corridor(7, transition_prob=NO_SLIP), 0.0, 0.5, max_step=3, continuing=True, keep_returns=True)
    agent.q_table[:, td.RIGHT] = 1.0
    agent.learn(4)
    assert agent.returns.tolist() == [-3, -3, -1 + 1000, -3] and agent.steps == 11
    assert agent._learned.place[:2].tolist() == [3, 3]


@kinds
@pytest.mark.parametrize("limit", [None, 25, 7, 3])
def test_compiled_and_stepped_alike_they_go_on_up_to_the_envs_own_limit(kind, limit):
    simulator = STILL if limit is None else gym.wrappers.TimeLimit(STILL, limit)
    one, other = (run(small(kind, simulator, compiled=compiled)) for compiled in (True, False))
    assert one == other
    if limit is not None and limit <= 7:  # every cut is the limit's: as if nothing went on
        assert one[:-1] == learned_without(kind, simulator)


def learned_without(kind, simulator):
    agent = small(kind, simulator, continuing=False)
    agent.learn_and_evaluate(progress=False)
    return learned(agent)


@kinds
@pytest.mark.parametrize("simulator", [Ring(), Ring(ends=False), LAKE], ids=["Ring", "endless Ring", "lake"])
@pytest.mark.parametrize("limit", [None, 17])
def test_an_env_is_reset_at_the_first_step_and_after_its_own_ends_alone(kind, simulator, limit):
    env = Counting(simulator if limit is None else gym.wrappers.TimeLimit(simulator, limit))
    agent = small(kind, env, compiled=False, do_test=False)
    agent.learn(80)
    agent.learn(120)
    assert env.resets in (env.ends, env.ends + 1) and (env.ends > 0) == (
        limit is not None or getattr(simulator, "ends", True)
    )


@regimes
def test_without_a_limit_a_walk_is_never_cut_for_good(compiled):
    endless = td.FrozenLakeEnv(["SHG"], transition_prob=(0, 0, 0, 1.0))
    agent = td.QLAgent(endless, 0.0, 0.1, max_step=2**19 if compiled else 7, continuing=True, compiled=compiled)
    agent.q_table[0, 1:] = -1e9
    agent.learn(5)
    assert agent._learned.place[:2].tolist() == [0, agent.steps] and agent.steps == 5 * agent.max_step


def test_dyna_q_plans_every_ten_steps():
    agent = small(DynaQAgent, Ring(ends=False), max_step=10, batch_size=1)
    steps = [agent.steps for _ in agent.learn_in_batches(20)]
    assert steps == list(range(10, 201, 10))


def one_step(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Q-learning, as a user's rule, which is tried on copies first."""
    target = reward if terminated else reward + parameters.beta * max(q_table[next_state])
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


@regimes
def test_the_trial_of_a_users_rule_moves_nothing(compiled):
    own = type("Own", (td.QLAgent,), {"kernel": td.Rule(one_step)})
    assert run(small(own, compiled=compiled)) == run(small(td.QLAgent, compiled=compiled))


@few
@given(lakes(), st.sampled_from(AGENTS), st.integers(1, 9), st.integers(0, 2**60))
def test_compiled_learning_equals_plain(lake, kind, max_step, seed):
    agent = small(kind, lake, max_step=max_step, seed=seed)
    results = []
    for learn in (agent.kernel, agent.kernel.plain):
        table = lake.table.packed._replace(place=np.array([-1, 0, 12]))
        q_table, returns = np.zeros(lake.table.shape), np.zeros(60)
        steps = learn(q_table, table, agent.actions, agent.parameters(), 0, 60, None, returns)
        results.append((steps, q_table.tobytes(), returns.tobytes(), table.place.tolist()))
    assert results[0] == results[1]


# What comes between two episodes ---------------------------------------------------------------


@few
@given(lakes(), st.sampled_from(KINDS), st.integers(1, 9), st.data())
def test_results_never_depend_on_cuts_copies_and_saves(tmp_path_factory, lake, kind, max_step, data):
    make = functools.partial(small, kind, lake, max_step=max_step, do_test=False, learning_episodes=60)
    make = functools.partial(make, batch_size=1) if kind is DynaQAgent else make
    path, agent = tmp_path_factory.getbasetemp() / "continuing.npz", make()
    while agent.episode < 60:
        agent.learn(data.draw(st.integers(0, 60 - agent.episode)))
        way = data.draw(st.sampled_from(["as it is", "copied", "pickled", "saved"]))
        if way == "saved":
            agent.save(path)
            agent = make().load(path)
        elif way != "as it is":
            agent = copy.copy(agent) if way == "copied" else pickle.loads(pickle.dumps(agent))
    assert run(agent) == run(make())


@kinds
@pytest.mark.parametrize("copied", [copy.copy, lambda agent: pickle.loads(pickle.dumps(agent))])
def test_a_copy_of_a_stepped_one_goes_on_in_its_own_env(kind, copied, recwarn):
    agent, expected = small(kind, compiled=False), run(small(kind, compiled=False))
    agent.learn(30)
    other = copied(agent)
    assert run(other) == expected == run(agent) and not recwarn.list


@kinds
@regimes
def test_parts_of_a_call_change_nothing(monkeypatch, kind, compiled):
    expected = run(small(kind, compiled=compiled))
    monkeypatch.setattr("tabular.episodes.in_parts", lambda episodes, max_step: ((done, 1) for done in range(episodes)))
    assert run(small(kind, compiled=compiled)) == expected


@kinds
@regimes
def test_tests_are_no_part_of_the_walk(kind, compiled, recwarn):
    agent, tested = (small(kind, compiled=compiled, do_test=do_test) for do_test in (False, True))
    for _ in range(4):
        agent.learn(50)
        agent.evaluate(lambda state: 0, trials=1)
    run(tested)
    assert (agent.q_table.tobytes(), agent.steps) == (tested.q_table.tobytes(), tested.steps) and not recwarn.list


class Uncopyable(Ring):
    def __deepcopy__(self, memo):
        raise TypeError("this env holds a lock")


LEFT = "the simulator was left in the midst of an episode: it is reset"


def test_an_env_that_cannot_be_copied_starts_anew_after_a_test():
    agent = small(simulator=Uncopyable(ends=False))
    agent.learn(10)
    agent.evaluate(trials=1)
    with pytest.warns(UserWarning, match=LEFT):
        agent.learn(1)
    assert agent._learned.place[1] == 7
    agent.learn(1)
    assert agent._learned.place[1] == 14


@kinds
def test_an_interrupted_compiled_run_goes_on_to_the_same_bits(monkeypatch, kind):
    agent = small(kind)
    with interrupted(monkeypatch, td.QLAgent if kind is DynaQAgent else kind, "parameters", 3):
        agent.learn_and_evaluate(progress=False)
    assert run(agent) == run(small(kind))


@kinds
def test_an_interrupted_stepped_run_is_told_that_it_starts_anew_once(monkeypatch, kind, recwarn):
    env = Ring(ends=False)
    agent = small(kind, env, compiled=False, do_test=False)
    agent.learn(20)
    monkeypatch.setattr(env, "at", (0, 200))
    monkeypatch.setattr(env, "fault", lambda env: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        agent.learn(20)
    episode = agent.episode
    assert agent._learned.place[1] == 7 * episode
    with pytest.warns(UserWarning, match=LEFT):
        agent.learn(1)
    assert agent._learned.place[1] == 7 and agent.episode == episode + 1
    agent.learn(1)
    assert agent._learned.place[1] == 14 and len(recwarn.list) == 0


def test_settings_between_calls_count_and_a_walk_that_does_not_go_on_ends(recwarn):
    agent = small(simulator=Ring(ends=False), do_test=False)
    agent.learn(3)
    agent.max_step = 11
    agent.learn(1)
    assert agent._learned.place[1] == 32
    agent.continuing = False
    agent.learn(1)
    assert agent._learned.place is None
    agent.continuing = True
    agent.learn(1)
    assert agent._learned.place[1] == 11 and not recwarn.list


# Saves -----------------------------------------------------------------------------------------


@kinds
def test_a_stepped_env_is_reset_after_a_load_and_it_is_told(tmp_path, kind):
    agent, path = small(kind, compiled=False), tmp_path / "agent.npz"
    agent.learn(100)
    while agent._learned.place[0] < 0:
        agent.learn(1)
    agent.save(path)
    with pytest.warns(UserWarning, match="it was saved in the midst of an episode: the simulator is reset") as warned:
        agent.load(path)
    assert warned[0].filename == __file__
    agent.learn(1)
    assert agent._learned.place[1] <= 7
    compiled = small(kind, compiled=True).load(path)  # its table needs no reset
    assert compiled._learned.place[0] >= 0


def test_a_save_of_one_kind_is_loaded_by_the_other(tmp_path, recwarn):
    going_on, path = small(), tmp_path / "agent.npz"
    going_on.learn(30)
    going_on.save(path)
    other = small(continuing=False).load(path)
    assert other._learned.place is None
    other.save(path)
    assert small().load(path)._learned.place is None and not recwarn.list


@pytest.mark.parametrize("place", [5, [1], [17, 3], [-1, 3], [2, -1], [0.5, 1], ["a", 1], [None, None], [2, 2**70]])
def test_a_save_with_an_impossible_place_is_refused(tmp_path, place):
    agent, path = small(), tmp_path / "agent.npz"
    agent.learn(30)
    header = agent._header
    agent._header = lambda: header() | {"place": place}
    agent.save(path)
    with pytest.raises(ValueError, match="place must be"):
        small().load(path)


# Refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [td.DistributedQLAgent, FederatedQLAgent, DistributedDynaQAgent])
def test_distributed_agents_refuse_it_with_the_reason(kind):
    with pytest.raises(ValueError, match="continuing must be False for a distributed agent, got True: batches are"):
        kind(LAKE, workers=td.InProcess(), do_test=False, continuing=True)
    agent = kind(LAKE, workers=td.InProcess(), do_test=False)
    agent.continuing = True
    with pytest.raises(ValueError, match="continuing must be False"):
        agent.learn(1)
    assert agent.episode == 0


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_only_true_or_false_is_accepted(value):
    with pytest.raises(TypeError, match="continuing must be True or False"):
        td.QLAgent(LAKE, continuing=value)


def test_a_table_with_a_place_shares_all_else_with_its_copies():
    table = LAKE.table.packed
    assert copy.deepcopy(table) is table
    placed = table._replace(place=np.array([3, 1, 9]))
    copied = copy.deepcopy(placed)
    assert copied.place is not placed.place and copied.place.tolist() == [3, 1, 9]
    assert all(a is b for a, b in zip(copied[:-1], placed[:-1], strict=True)) and isinstance(copied, PackedTable)
