"""Users' envs: what step and reset may return, and what is refused, in one sentence and alike for all agents."""

import contextlib
import fractions
import functools
import pickle
import random
import threading
import warnings

import gym
import gymnasium
import numba
import numpy as np
import pytest
from gym.envs.toy_text.cliffwalking import CliffWalkingEnv
from helpers import Ring

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent, FederatedSARSAAgent

IN_PROCESS = {"cw_num": 2, "ew_num": 1, "batch_size": 5}
KINDS = {
    "Q-learning": (td.QLAgent, {}),
    "SARSA": (td.SARSAAgent, {}),
    "distributed": (td.DistributedQLAgent, IN_PROCESS),
    "federated": (FederatedQLAgent, IN_PROCESS),
    "federated SARSA": (FederatedSARSAAgent, IN_PROCESS),
    "Dyna-Q": (DynaQAgent, {"initial_value": 0.0}),
    "distributed Dyna-Q": (DistributedDynaQAgent, IN_PROCESS | {"initial_value": 0.0}),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
BOTH = {"Q-learning": KINDS["Q-learning"], "SARSA": KINDS["SARSA"]}
both = pytest.mark.parametrize("kind", BOTH.values(), ids=BOTH)


def agent_on(kind, simulator, **settings):
    """Return an agent with 20 episodes and a test of three trials every ten."""
    agent_class, more = kind
    if "cw_num" in more:
        more = more | {"workers": td.InProcess()}
    settings = {"learning_episodes": 20, "test_interval": 10, "trials": 3, "max_step": 30} | more | settings
    return agent_class(simulator, 0.3, 0.1, **settings)


def sentence(error) -> str:
    """Return an error's message, without the notes on where it occurred."""
    return str(error.value).splitlines()[0]


# Results of step and reset ----------------------------------------------------------------


def returns(state=1, reward=-1.0, ended=False):
    """Return a fault: a step with this result."""
    return lambda env: (state, reward, ended, False, {})


STATE, REWARD = "state must be from 0 to 4, got ", r"reward must be a number from -1e\+38 to 1e\+38, got "
STEP = r"step must return \(state, reward, terminated, truncated, info\), as in gym since 0.26, got "
WRONG = {
    "state beyond the last": (returns(5), STATE + "5"),
    "state beyond the last, at the end": (returns(5, ended=True), STATE + "5"),
    "state below 0": (returns(-1), STATE + "-1"),
    "state below 0, at the end": (returns(-1, ended=True), STATE + "-1"),
    "state that is whole but a float": (returns(1.0), STATE + "1.0"),
    "state None": (returns(None), STATE + "None"),
    "state of a string": (returns("1"), STATE + "'1'"),
    "state in an array of one": (returns(np.array([1])), STATE + r"array\(\[1\]\)"),
    "state in an array of two": (returns(np.zeros(2, int), ended=True), STATE + r"array\(\[0, 0\]\)"),
    "state masked": (returns(np.ma.masked), STATE + "masked"),
    "reward nan": (returns(reward=float("nan")), REWARD + "nan"),
    "reward infinite": (returns(reward=-np.inf), REWARD + "-inf"),
    "reward too large to add up": (returns(reward=1e308), REWARD + r"1e\+308"),
    "reward too large for a float": (returns(reward=10**400), REWARD + "1000"),
    "reward None": (returns(reward=None), REWARD + "None"),
    "reward of a string": (returns(reward="-1"), REWARD + "'-1'"),
    "reward complex": (returns(reward=1j), REWARD + "1j"),
    "reward masked": (returns(reward=np.ma.masked), REWARD + "masked"),
    "reward in an array of one": (returns(reward=np.array([1.0])), REWARD + r"array\(\[1\.\]\)"),
    "four values, as before gym 0.26": (lambda env: (1, -1.0, False, {}), STEP + r"\(1, -1.0, False, {}\)"),
    "six values": (lambda env: (1, -1.0, False, False, {}, 0), STEP),
    "nothing": (lambda env: None, STEP + "None"),
}
wrong = pytest.mark.parametrize("fault, message", WRONG.values(), ids=WRONG)


@kinds
@wrong
def test_what_a_step_may_not_return_is_refused_while_learning(kind, fault, message):
    agent = agent_on(kind, Ring(at=(3, 7), fault=fault, ends=False))
    with pytest.raises(ValueError, match="the simulator's " + message) as caught:
        agent.learn(20)
    assert "episode 3, step 7" in "".join(caught.value.__notes__) and len(str(caught.value)) < 200
    assert np.isfinite(agent.q_table).all()


@both
@wrong
def test_what_a_step_may_not_return_is_refused_in_tests(kind, fault, message):
    for policy in (None, lambda state: 1):
        agent = agent_on(kind, Ring(at=(2, 7), fault=fault, ends=False))
        with pytest.raises(ValueError, match="the simulator's " + message):
            agent.evaluate(policy, trials=5)


@wrong
def test_what_a_step_may_not_return_is_refused_by_rollout(fault, message):
    with pytest.raises(ValueError, match="the simulator's " + message):
        td.rollout(Ring(at=(0, 7), fault=fault, ends=False), lambda state: 1, max_steps=20)


STARTS = {
    "a state alone, as before gym 0.26": (0, r"reset must return \(state, info\), got 0"),
    "an array": (np.zeros(2, int), r"reset must return \(state, info\), got array"),
    "a state beyond the last": ((5, {}), STATE + "5"),
    "a state that is no number": ((None, {}), STATE + "None"),
}


class StartsAt(Ring):
    """A ring whose reset returns `start`."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.start


@kinds
@pytest.mark.parametrize("start, message", STARTS.values(), ids=STARTS)
def test_what_a_reset_may_not_return_is_refused(kind, start, message):
    agent = agent_on(kind, StartsAt(start))
    for work in (lambda: agent.learn(5), agent.evaluate, lambda: td.rollout(agent.simulator, lambda state: 1)):
        with pytest.raises(ValueError, match="the simulator's " + message):
            work()


class OldReset(Ring):
    """A ring whose reset takes no seed, as before gym 0.26."""

    def reset(self):
        return 0


def test_a_reset_that_takes_no_seed_is_refused_at_once():
    for use in (td.QLAgent, lambda env: td.rollout(env, lambda state: 1)):
        with pytest.raises(TypeError, match=r"simulator.reset must take seed=, as in gym since 0.26, got reset\(\)"):
            use(OldReset())


@pytest.mark.parametrize("number", [int, np.int8, np.uint64, np.array, bool, np.bool_], ids=lambda kind: kind.__name__)
@kinds
def test_states_of_any_whole_number_are_learned_alike(kind, number):
    class Same(Ring):
        def step(self, action):
            state, *rest = super().step(action)
            return number(state) if state < 2 else state, *rest

    agents = [agent_on(kind, ring) for ring in (Ring(), Same())]
    for agent in agents:
        agent.learn_and_evaluate(progress=False)
    assert agents[0].q_table.tobytes() == agents[1].q_table.tobytes()
    assert agents[0].total_rewards == agents[1].total_rewards


@pytest.mark.parametrize(
    "number", [int, np.float64, np.int8, np.array, fractions.Fraction, bool, np.bool_], ids=lambda kind: kind.__name__
)
@kinds
def test_rewards_of_any_real_number_are_learned_alike(kind, number):
    def paying(number):
        class Paying(Ring):
            def step(self, action):
                state, _, *rest = super().step(action)
                return state, number(state == 4), *rest

        return Paying()

    agents = [agent_on(kind, paying(kind_of_number)) for kind_of_number in (float, number)]
    for agent in agents:
        agent.learn_and_evaluate(progress=False)
    assert agents[0].q_table.tobytes() == agents[1].q_table.tobytes() and agents[0].q_table.any()
    assert agents[0].total_rewards == agents[1].total_rewards


@kinds
@pytest.mark.filterwarnings("error")
def test_the_largest_rewards_are_learned_without_overflow(kind):
    agent = agent_on(kind, Ring(at=(3, 7), fault=returns(reward=-1e38), ends=False))
    agent.learn_and_evaluate(progress=False)
    assert agent.q_table.min() < -1e36 and np.isfinite(agent.q_table).all() and np.isfinite(agent.total_rewards).all()


def test_over_ray_the_same_is_refused_with_the_same_sentence(workers):
    found = []
    for pool in (td.InProcess(), workers):
        with pytest.raises(ValueError) as caught:
            agent = agent_on(KINDS["distributed"], Ring(at=(3, 7), fault=returns(5, ended=True), ends=False), cw_num=1)
            agent.workers = pool
            agent.learn(20)
        found.append((sentence(caught), caught.value.__notes__))
    assert found[0] == found[1]


# Wrappers ------------------------------------------------------------------------------------


class OrderEnforcing(gymnasium.RewardWrapper):
    """A user's wrapper with the name of one that changes nothing."""

    def reward(self, reward):
        return reward - 100.0


class PricedTimeLimit(gym.wrappers.TimeLimit):
    """A subclass of TimeLimit that changes the reward."""

    def step(self, action):
        state, reward, *rest = super().step(action)
        return state, reward - 100.0, *rest


def priced(step):
    """Return a step that costs 100 more, with the name and attributes of the one it calls."""

    @functools.wraps(step)
    def priced_step(*arguments):
        state, reward, *rest = step(*arguments)
        return state, reward - 100.0, *rest

    return priced_step


def patched(env):
    env.step = priced(env.step)
    return env


class PricedLake(td.FrozenLakeEnv):
    step = priced(td.FrozenLakeEnv.step)


def cliff():
    return gymnasium.make("CliffWalking-v1")


PRICED = {
    "a namesake": lambda: OrderEnforcing(cliff()),
    "a namesake within": lambda: gymnasium.wrappers.TimeLimit(OrderEnforcing(cliff()), 1000),
    "a kind of TimeLimit": lambda: PricedTimeLimit(td.FrozenLakeEnv(), 1000),
    "a wrapper's step put upon it": lambda: patched(cliff()),
    "an inner wrapper's step put upon it": lambda: gym.wrappers.TimeLimit(
        patched(gym.wrappers.TimeLimit(td.FrozenLakeEnv(), 9)), 9
    ),
    "an env's step put upon it": lambda: gym.wrappers.TimeLimit(patched(td.FrozenLakeEnv()), 9),
    "a step that lends its names": PricedLake,
}


@pytest.mark.parametrize("make", PRICED.values(), ids=PRICED)
def test_what_is_put_around_a_step_is_learned(make):
    agent = td.QLAgent(make(), 0.0, 1.0, beta=0.0, max_step=1)
    agent.learn(1)
    assert not agent.compiled and agent.q_table[agent.q_table != 0.0].tolist() == [-101.0]
    with pytest.raises(ValueError, match="simulator must be"):
        td.QLAgent(make(), compiled=True)


@pytest.mark.parametrize("place", [gym.wrappers.TimeLimit, CliffWalkingEnv, td.FrozenLakeEnv])
@pytest.mark.parametrize("name", ["step", "reset"])
def test_a_class_that_is_patched_is_stepped(monkeypatch, place, name):
    env = CliffWalkingEnv() if place is CliffWalkingEnv else gym.wrappers.TimeLimit(td.FrozenLakeEnv(), 9)
    assert td.QLAgent(env).compiled
    method = getattr(place, name)
    monkeypatch.setattr(place, name, functools.wraps(method)(lambda *arguments, **more: method(*arguments, **more)))
    assert not td.QLAgent(env).compiled


def test_a_reset_put_upon_a_wrapper_is_called():
    env = gym.wrappers.TimeLimit(td.FrozenLakeEnv(), 9)
    env.reset = lambda *, seed=None, options=None: (env.unwrapped.reset(seed=seed), setattr(env.unwrapped, "s", 14))
    assert not td.QLAgent(env).compiled


def test_an_env_whose_copies_would_act_on_it_is_not_stepped_in_threads():
    settings = {"cw_num": 2, "do_test": False, "workers": td.Threads()}
    with pytest.raises(TypeError, match="step and reset are those of its class, because each thread"):
        td.DistributedQLAgent(gym.wrappers.TimeLimit(patched(td.FrozenLakeEnv()), 9), **settings)
    td.DistributedQLAgent(td.FrozenLakeEnv(), compiled=False, max_step=9, **settings).learn(4)


MADE = {
    "gym's lake": (lambda: gym.make("FrozenLake-v1"), 100),
    "gym's cliff": (lambda: gym.make("CliffWalking-v0"), None),
    "gymnasium's lake": (lambda: gymnasium.make("FrozenLake-v1", max_episode_steps=7), 7),
    "gymnasium's cliff": (cliff, None),
}


@pytest.mark.parametrize("make, limit", MADE.values(), ids=MADE)
def test_what_make_gives_is_compiled_stepped_evaluated_and_followed(make, limit):
    for compiled in (True, False):
        agent = td.QLAgent(make(), 0.3, 0.1, max_step=50, compiled=compiled)
        agent.learn(5)
        agent.evaluate(lambda state: 0, trials=2, max_steps=20)
        assert agent.compiled == compiled and 0 < agent.steps <= 5 * min(50, limit or 50)
        assert len(td.rollout(make(), agent.greedy_policy, max_steps=20).actions) > 0


def test_what_make_gives_is_stepped_also_within_a_wrapper_of_ones_own():
    env = HalfPrice(gym.make("CliffWalking-v0"))
    agent = td.QLAgent(env, 0.0, 1.0, beta=0.0, max_step=1)
    agent.learn(1)
    assert agent.q_table[36].tolist() == [-0.5, 0.0, 0.0, 0.0]


class HalfPrice(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2


def test_an_env_may_declare_its_step_and_travel():
    """The env is pickled by value, as from a notebook; the declaration still applies to its code."""
    env = pickle.loads(numba.cloudpickle.dumps(declared_lake()))
    assert td.QLAgent(env).compiled and type(env).__name__ == "Declared"


def declared_lake():
    class Declared(td.FrozenLakeEnv):
        @td.samples_table
        def step(self, action):
            return super().step(action)

    return Declared()


# Seeds ---------------------------------------------------------------------------------------


class OwnChance(Ring):
    """A ring that makes its generator once, and so ignores the seed of a reset."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng()

    def chance(self) -> float:
        return float(self.generator.random())

    def step(self, action):
        state, _, *rest = super().step(action)
        return state, -self.chance(), *rest


class PythonsChance(OwnChance):
    def chance(self):
        return random.random()


class NumpysChance(OwnChance):
    def chance(self):
        return np.random.random()  # noqa: NPY002


class Drifting(OwnChance):
    """A ring that behaves differently in each episode."""

    def chance(self):
        return float(self.resets)


UNSEEDED = [OwnChance, PythonsChance, NumpysChance, Drifting]


@kinds
@pytest.mark.parametrize("world", UNSEEDED)
def test_an_env_that_does_not_follow_its_seed_is_told_of_once(kind, world):
    env = world()
    with pytest.warns(UserWarning) as warned:
        agent = agent_on(kind, env)
        agent.learn(5)
        agent.learn_and_evaluate(progress=False)
        agent_on(kind, env).learn(5)
    assert [str(warning.message) for warning in warned] == [
        "the simulator does not follow reset(seed=): two episodes with the same seed differ, so results are "
        "not reproducible (draw from self.np_random, which super().reset(seed=seed) seeds)"
    ]
    assert warned[0].filename == __file__


@pytest.mark.filterwarnings("error")
@both
@pytest.mark.parametrize(
    "make",
    [
        Ring,
        lambda: HalfPrice(td.FrozenLakeEnv()),
        lambda: td.FrozenLakeEnv(),
        lambda: HalfPrice(gym.make("FrozenLake-v1")),
        lambda: gymnasium.make("Taxi-v4", fickle_passenger=True),
        lambda: Ring(at=(0, 3), fault=raise_own),
        lambda: Ring(at=(1, 0), fault=raise_own),
    ],
)
def test_an_env_that_follows_its_seed_or_breaks_is_not_told_of(kind, make):
    agent = agent_on(kind, make(), compiled=False)
    with contextlib.suppress(LookupError):
        agent.learn(3)


def raise_own(env):
    raise LookupError("the boat has sunk")


class Locked(OwnChance):
    """A ring that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.filterwarnings("error")
@both
def test_an_env_that_cannot_be_copied_is_taken_as_it_is(kind):
    env = Locked()
    agent_on(kind, env).learn(3)
    assert env.resets == 3


@kinds
def test_listening_to_an_env_disturbs_no_bit(kind):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    env = Ring()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent_on(kind, env).learn(5)
    assert (random.getstate(), repr(np.random.get_state())) == before  # noqa: NPY002
    assert env.resets == 5


@kinds
def test_an_env_that_raises_stop_iteration_ends_no_loop_of_the_callers(kind):
    class Exhausted(Ring):
        def step(self, action):
            return next(iter(()))

    agent = agent_on(kind, Exhausted())
    with pytest.raises(RuntimeError, match="the simulator or the rule raised StopIteration") as caught:
        for _ in iter(lambda: agent.learn(5), None):
            pass
    assert any("step 1" in note for note in caught.value.__notes__)


# Ends of episodes -----------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [True, np.True_, np.array(True), 1, np.int8(1)], ids=repr)
def test_an_end_may_be_any_truth(ends):
    class Ending(Ring):
        def step(self, action):
            state, reward, _, truncated, info = super().step(action)
            return state, reward, ends if self.s == 2 else False, truncated, info

    agent = agent_on(KINDS["Q-learning"], Ending())
    agent.learn(5)
    assert 10 <= agent.steps < 5 * 30 and not agent.q_table[3:].any()


@kinds
@pytest.mark.parametrize(
    "place, bad", [(2, {"a": 1}), (2, "no"), (2, float("nan")), (3, np.array([True, False])), (3, None)]
)
def test_what_is_no_truth_is_refused_in_a_sentence(kind, place, bad):
    def returned(env):
        step = [1, -1.0, False, False, {}]
        step[place] = bad
        return tuple(step)

    agent = agent_on(kind, Ring(at=(0, 2), fault=returned, ends=False))
    with pytest.raises(ValueError, match=f"simulator's {('terminated', 'truncated')[place - 2]} must be True or False"):
        agent.learn(5)


# Lakes changed after construction -------------------------------------------------------------


def test_a_lake_refuses_what_its_table_would_not_follow():
    lake = td.FrozenLakeEnv()
    with pytest.raises(AttributeError):
        lake.transition_prob = (1.0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="read-only"):
        lake.desc[0, 1] = b"H"
    assert pickle.loads(pickle.dumps(lake)).transition_prob == lake.transition_prob


# Envs that compare equal ----------------------------------------------------------------------


class Equal(Ring):
    """A ring that equals everything, has no hash, and draws from an unseeded source."""

    def __eq__(self, other):
        return True

    def step(self, action):
        return super().step(random.SystemRandom().randrange(2))


def test_each_env_is_warned_about_once_even_if_it_equals_others():
    for _ in range(2):
        agent = agent_on(KINDS["Q-learning"], Equal())
        with pytest.warns(UserWarning, match="does not follow reset"):
            agent.learn(5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            agent.learn(5)


@pytest.mark.parametrize("action", [-1, 2, None, 1.0, np.array([0])], ids=repr)
def test_a_policy_that_returns_no_action_is_refused_by_a_test_of_it(action):
    with pytest.raises(ValueError, match="policy must return an action, 0 to 1, it returned"):
        agent_on(KINDS["Q-learning"], Ring()).evaluate(lambda state: action, trials=2)
