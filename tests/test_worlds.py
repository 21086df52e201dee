"""Worlds that users bring: what an env may return, and what is refused in a sentence, the same for all agents."""

import fractions

import numpy as np
import pytest
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
    """An agent of 20 episodes, with a test of three after ten."""
    agent_class, more = kind
    if "cw_num" in more:
        more = more | {"workers": td.InProcess()}
    settings = {"learning_episodes": 20, "test_interval": 10, "trials": 3, "max_step": 30} | more | settings
    return agent_class(simulator, 0.3, 0.1, **settings)


def sentence(error) -> str:
    """What an error says, without the notes that say where it fell."""
    return str(error.value).splitlines()[0]


# What step and reset return ---------------------------------------------------------------


def returns(state=1, reward=-1.0, ended=False):
    """A fault: a step that gives this, and perhaps ends the episode."""
    return lambda env: (state, reward, ended, False, {})


STATE, REWARD = "state must be one of 0 to 4, got ", r"reward must be a number from -1e\+38 to 1e\+38, got "
STEP = r"step must return \(state, reward, terminated, truncated, info\), as gym's since 0.26, got "
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
    """A ring whose reset returns what it is told."""

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
        with pytest.raises(TypeError, match=r"simulator.reset must take seed=, as gym's since 0.26, got reset\(\)"):
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
