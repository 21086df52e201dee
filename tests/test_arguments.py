"""Bad input is refused before any work, with an error that names the argument, what is allowed and what was given."""

import gym
import numpy as np
import pytest
from helpers import Ring

import td_helpers as td
from beyond import FederatedQLAgent

NAN = float("nan")


class Continuous(Ring):
    """An env with continuous observations."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 1, (2,))


class FromOne(Ring):
    """An env whose actions start at 1."""

    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Discrete(2, start=1)


def agent(**settings):
    return lambda env: td.SARSAAgent(**({"simulator": env} | settings))


def distributed(**settings):
    return lambda env: td.DistributedQLAgent(env, **settings)


def federated(**settings):
    return lambda env: FederatedQLAgent(env, **settings)


def ready(call):
    """Return a function that makes an agent for an env, and passes it to `call`."""
    return lambda env: call(td.QLAgent(env))


def lake(*arguments, **settings):
    return lambda env: td.FrozenLakeEnv(*arguments, **settings)


TABLE = td.FrozenLakeEnv().table
ZEROS = np.zeros((17, 4))
WHOLE, NUMBER = "whole number", "number from 0 to 1"

# (call, error, the argument, what is allowed, what was given)
REFUSED = [
    (agent(epsilon=1.5), ValueError, "epsilon", NUMBER, "1.5"),
    (agent(epsilon=-0.1), ValueError, "epsilon", NUMBER, "-0.1"),
    (agent(epsilon=NAN), ValueError, "epsilon", NUMBER, "nan"),
    (agent(epsilon="0.3"), TypeError, "epsilon", NUMBER, "'0.3'"),
    (agent(epsilon=None), TypeError, "epsilon", NUMBER, "None"),
    (agent(epsilon=True), TypeError, "epsilon", NUMBER, "True"),
    (agent(epsilon=0.3j), TypeError, "epsilon", NUMBER, "0.3j"),
    (agent(epsilon=np.array([0.3])), TypeError, "epsilon", NUMBER, "array([0.3])"),
    (agent(epsilon=np.complex128(0.5 + 3j)), TypeError, "epsilon", NUMBER, "(0.5+3j)"),
    (agent(learning_rate=2), ValueError, "learning_rate", NUMBER, "2"),
    (agent(learning_rate=-1e-9), ValueError, "learning_rate", NUMBER, "-1e-09"),
    (agent(learning_rate=float("inf")), ValueError, "learning_rate", NUMBER, "inf"),
    (agent(beta=1.0001), ValueError, "beta", NUMBER, "1.0001"),
    (agent(beta=NAN), ValueError, "beta", NUMBER, "nan"),
    (agent(beta=[0.9]), TypeError, "beta", NUMBER, "[0.9]"),
    (agent(learning_episodes=0), ValueError, "learning_episodes", WHOLE, "0"),
    (agent(learning_episodes=-3), ValueError, "learning_episodes", WHOLE, "-3"),
    (agent(learning_episodes=10.5), TypeError, "learning_episodes", WHOLE, "10.5"),
    (agent(learning_episodes=1e4), TypeError, "learning_episodes", WHOLE, "10000.0"),
    (agent(learning_episodes=np.array(5.5)), TypeError, "learning_episodes", WHOLE, "array(5.5)"),
    (agent(learning_episodes="100"), TypeError, "learning_episodes", WHOLE, "'100'"),
    (agent(learning_episodes=2**41), ValueError, "learning_episodes", WHOLE, str(2**41)),
    (agent(test_interval=0), ValueError, "test_interval", WHOLE, "0"),
    (agent(test_interval=0.5), TypeError, "test_interval", WHOLE, "0.5"),
    (agent(learning_episodes=2**30, test_interval=1), ValueError, "test_interval", "fewer than", "1"),
    (agent(trials=0), ValueError, "trials", WHOLE, "0"),
    (agent(trials=-1), ValueError, "trials", WHOLE, "-1"),
    (agent(trials=2.0), TypeError, "trials", WHOLE, "2.0"),
    (agent(trials=2**21), ValueError, "trials", WHOLE, str(2**21)),
    (agent(max_step=0), ValueError, "max_step", WHOLE, "0"),
    (agent(max_step=2**20), ValueError, "max_step", WHOLE, str(2**20)),
    (agent(max_step=None), TypeError, "max_step", WHOLE, "None"),
    (agent(seed=-1), ValueError, "seed", WHOLE, "-1"),
    (agent(seed=2**63), ValueError, "seed", WHOLE, str(2**63)),
    (agent(seed=None), TypeError, "seed", WHOLE, "None"),
    (agent(seed=0.0), TypeError, "seed", WHOLE, "0.0"),
    (agent(do_test=1), TypeError, "do_test", "True or False", "1"),
    (agent(do_test=None), TypeError, "do_test", "True or False", "None"),
    (agent(ties="highest"), ValueError, "ties", "'lowest' or 'random'", "'highest'"),
    (agent(ties=None), TypeError, "ties", "'lowest' or 'random'", "None"),
    (distributed(ties=1), TypeError, "ties", "'lowest' or 'random'", "1"),
    (agent(initial_value=NAN), ValueError, "initial_value", "number", "nan"),
    (agent(initial_value="0"), TypeError, "initial_value", "number", "'0'"),
    (agent(compiled="yes"), TypeError, "compiled", "True or False", "'yes'"),
    (agent(compiled=True), ValueError, "simulator", "known to sample from a transition table", "Ring"),
    (agent(simulator=None), TypeError, "simulator", "env", "None"),
    (agent(simulator="4x4"), TypeError, "simulator", "env", "'4x4'"),
    (agent(simulator=TABLE), TypeError, "simulator", "env", "TransitionTable"),
    (agent(simulator=Continuous()), ValueError, "simulator", "Discrete observation_space", "Box"),
    (agent(simulator=FromOne()), ValueError, "simulator", "Discrete action_space that starts at 0", "start=1"),
    (agent(wooden=True), TypeError, "wooden", "unexpected keyword", "wooden"),
    (distributed(cw_num=0), ValueError, "cw_num", WHOLE, "0"),
    (distributed(cw_num=-2), ValueError, "cw_num", WHOLE, "-2"),
    (distributed(cw_num=1.5), TypeError, "cw_num", WHOLE, "1.5"),
    (distributed(ew_num=0), ValueError, "ew_num", "1 or more if do_test is True", "0"),
    (distributed(ew_num="4"), TypeError, "ew_num", WHOLE, "'4'"),
    (distributed(ew_num=-1, do_test=False), ValueError, "ew_num", WHOLE, "-1"),
    (distributed(batch_size=0), ValueError, "batch_size", WHOLE, "0"),
    (distributed(batch_size=99.9), TypeError, "batch_size", WHOLE, "99.9"),
    (distributed(workers=4), TypeError, "workers", "Workers, Threads, InProcess or None", "4"),
    (distributed(workers=td.Workers(2, 4)), ValueError, "workers", "4 collectors and 4 evaluators", "2 and 4"),
    (distributed(workers=td.Workers(4, 1)), ValueError, "workers", "4 collectors and 4 evaluators", "4 and 1"),
    (distributed(patience=0), ValueError, "patience", "number", "0"),
    (distributed(patience=None), TypeError, "patience", "number", "None"),
    (distributed(checkpoint_seconds=-1), ValueError, "checkpoint_seconds", "number", "-1"),
    (distributed(checkpoint="no/such/folder/agent"), ValueError, "checkpoint", "folder that exists", "no/such/folder"),
    (federated(cap=-0.1), ValueError, "cap", NUMBER, "-0.1"),
    (federated(cap=1.5), ValueError, "cap", NUMBER, "1.5"),
    (federated(cap=NAN), ValueError, "cap", NUMBER, "nan"),
    (federated(cap="much"), TypeError, "cap", NUMBER, "'much'"),
    (distributed(epsilon=7), ValueError, "epsilon", NUMBER, "7"),
    (lambda env: td.Workers(0, 1), ValueError, "cw_num", WHOLE, "0"),
    (lambda env: td.Workers(1, -1), ValueError, "ew_num", WHOLE, "-1"),
    (lambda env: td.start_ray(0), ValueError, "num_cpus", WHOLE, "0"),
    (lambda env: td.start_ray(1.5), TypeError, "num_cpus", WHOLE, "1.5"),
    (ready(lambda a: a.learn(-1)), ValueError, "episodes", WHOLE, "-1"),
    (ready(lambda a: a.learn(0.5)), TypeError, "episodes", WHOLE, "0.5"),
    (ready(lambda a: a.evaluate(trials=0)), ValueError, "trials", WHOLE, "0"),
    (ready(lambda a: a.evaluate(max_steps=0)), ValueError, "max_steps", WHOLE, "0"),
    (ready(lambda a: a.evaluate(max_steps="9")), TypeError, "max_steps", WHOLE, "'9'"),
    (ready(lambda a: a.evaluate(policy=3)), TypeError, "policy", "function of a state", "3"),
    (ready(lambda a: a.evaluate(policy=[0, 1])), TypeError, "policy", "function of a state", "[0, 1]"),
    (ready(lambda a: a.learn_and_evaluate(progress="no")), TypeError, "progress", "True or False", "'no'"),
    (lake(["SF", "G"]), ValueError, "desc", "rows of one length", "[1, 2]"),
    (lake([]), ValueError, "desc", "rows of one length", "[]"),
    (lake([""]), ValueError, "desc", "rows of one length", "[0]"),
    (lake(["SX", "FG"]), ValueError, "desc", "letters S, F, H and G", "'X'"),
    (lake(["sF", "FG"]), ValueError, "desc", "letters S, F, H and G", "'s'"),
    (lake(["FF", "FG"]), ValueError, "desc", "at least one S and one G", "without S"),
    (lake(["SF", "FH"]), ValueError, "desc", "at least one S and one G", "without G"),
    (lake(["FF"]), ValueError, "desc", "at least one S and one G", "without S and G"),
    (lake("SFFG"), TypeError, "desc", "list of strings", "'SFFG'"),
    (lake(5), TypeError, "desc", "list of strings", "5"),
    (lake([1, 2]), TypeError, "desc", "list of strings", "[1, 2]"),
    (lake(map_name="5x5"), ValueError, "map_name", "16x16", "'5x5'"),
    (lake(map_name=["4x4"]), (TypeError, ValueError), "map_name", "16x16", "['4x4']"),
    (lake(render_mode="text"), ValueError, "render_mode", "'human', 'ansi' or 'rgb_array'", "'text'"),
    (lake(transition_prob=(0.5, 0.5, 0.5, 0.5)), ValueError, "transition_prob", "sum to 1", "sum 2"),
    (lake(transition_prob=(0.9, 0.1)), ValueError, "transition_prob", "4 probabilities", "(0.9, 0.1)"),
    (lake(transition_prob=(1.5, -0.5, 0, 0)), ValueError, "transition_prob", NUMBER, "1.5"),
    (lake(transition_prob=(NAN, 1, 0, 0)), ValueError, "transition_prob", NUMBER, "nan"),
    (lake(transition_prob=("1", 0, 0, 0)), TypeError, "transition_prob", NUMBER, "'1'"),
    (lake(transition_prob=0.97), TypeError, "transition_prob", "4 probabilities", "0.97"),
    (lake(transition_prob=None), TypeError, "transition_prob", "4 probabilities", "None"),
    (lambda env: td.FrozenLakeEnv().step(4), ValueError, "action", "0, 1, 2 or 3", "4"),
    (lambda env: td.FrozenLakeEnv().step(-1), ValueError, "action", "0, 1, 2 or 3", "-1"),
    (lambda env: td.FrozenLakeEnv().step(0.5), ValueError, "action", "0, 1, 2 or 3", "0.5"),
    (lambda env: td.FrozenLakeEnv().step("UP"), ValueError, "action", "0, 1, 2 or 3", "'UP'"),
    (lambda env: td.FrozenLakeEnv().step([1]), ValueError, "action", "0, 1, 2 or 3", "[1]"),
    (lambda env: td.generate_row(-1), ValueError, "length", WHOLE, "-1"),
    (lambda env: td.generate_row(2.5), TypeError, "length", WHOLE, "2.5"),
    (lambda env: td.generate_row(5, 1.1), ValueError, "h_prob", NUMBER, "1.1"),
    (lambda env: td.generate_row(5, seed=-1), ValueError, "seed", WHOLE, "-1"),
    (lambda env: td.generate_row(5, seed="x"), TypeError, "seed", WHOLE, "'x'"),
    (lambda env: td.generate_map(4), TypeError, "shape", "pair (width, height)", "4"),
    (lambda env: td.generate_map((4, 4, 4)), TypeError, "shape", "pair (width, height)", "(4, 4, 4)"),
    (lambda env: td.generate_map((0, 4)), ValueError, "shape", WHOLE, "0"),
    (lambda env: td.generate_map((4.0, 4)), TypeError, "shape", WHOLE, "4.0"),
    (lambda env: td.generate_map((1, 1)), ValueError, "shape", "at least two cells", "(1, 1)"),
    (lambda env: td.generate_map((4, 4), NAN), ValueError, "h_prob", NUMBER, "nan"),
    (lambda env: td.generate_map((4, 4), seed=1.5), TypeError, "seed", WHOLE, "1.5"),
    (lambda env: td.generate_random_map(1), ValueError, "size", WHOLE, "1"),
    (lambda env: td.generate_random_map(4.5), TypeError, "size", WHOLE, "4.5"),
    (lambda env: td.generate_random_map(4, -0.5), ValueError, "p", NUMBER, "-0.5"),
    (lambda env: td.generate_random_map(6, 0.0), ValueError, "p", "leave a path", "0.0"),
    (lambda env: td.generate_random_map(4, seed=-1), ValueError, "seed", WHOLE, "-1"),
    (lambda env: td.value_iteration(td.FrozenLakeEnv()), TypeError, "table", "TransitionTable", "FrozenLakeEnv"),
    (lambda env: td.value_iteration(TABLE, beta=1.1), ValueError, "beta", NUMBER, "1.1"),
    (lambda env: td.value_iteration(TABLE, epsilon=-1), ValueError, "epsilon", NUMBER, "-1"),
    (lambda env: td.value_iteration(TABLE, tolerance=-1), ValueError, "tolerance", "number from 0", "-1"),
    (lambda env: td.value_iteration(TABLE, tolerance=NAN), ValueError, "tolerance", "number from 0", "nan"),
    (lambda env: td.policy_value(None, ZEROS), TypeError, "table", "TransitionTable", "NoneType"),
    (lambda env: td.policy_value(TABLE, ZEROS[:16]), ValueError, "q_table", "(17, 4)", "(16, 4)"),
    (lambda env: td.policy_value(TABLE, ZEROS * NAN), ValueError, "q_table", "finite", "nan"),
    (lambda env: td.policy_value(TABLE, ZEROS, beta=-1), ValueError, "beta", NUMBER, "-1"),
    (lambda env: td.plot_image(ZEROS[:16], td.MAPS["4x4"]), ValueError, "q_table", "(17, 4)", "(16, 4)"),
    (lambda env: td.plot_image(ZEROS.T, td.MAPS["4x4"]), ValueError, "q_table", "(17, 4)", "(4, 17)"),
    (lambda env: td.plot_image(ZEROS, ["SF", "G"]), ValueError, "desc", "rows of one length", "[1, 2]"),
    (lambda env: td.plot_result([1, 2], 0, "a"), ValueError, "test_interval", WHOLE, "0"),
    (lambda env: td.plot_result([[1], [2]], 5, ["a"]), ValueError, "legend", "each of 2 curves", "['a']"),
    (lambda env: td.plot_result([[1], [2]], 5, "a"), ValueError, "legend", "each of 2 curves", "['a']"),
    (lambda env: td.plot_result([1, 2], 5, None), (TypeError, ValueError), "legend", "each of 1 curves", "None"),
    (lambda env: td.plot_timing({}), ValueError, "run_time", "positive seconds", "{}"),
    (lambda env: td.plot_timing({"a": 0.0}), ValueError, "run_time", "positive seconds", "0.0"),
    (lambda env: td.plot_timing({"a": []}), ValueError, "run_time", "positive seconds", "[]"),
    (lambda env: td.plot_timing({"a": NAN}), ValueError, "run_time", "positive seconds", "nan"),
    (lambda env: td.plot_timing([1.0]), (TypeError, ValueError), "run_time", "positive seconds", "[1.0]"),
]


def name(case) -> str:
    return f"{case[2]}={case[4]}"


@pytest.mark.parametrize("call, error, argument, allowed, given", REFUSED, ids=map(name, REFUSED))
def test_bad_input_is_refused_before_any_work(call, error, argument, allowed, given):
    env = Ring()
    with pytest.raises(error) as caught:
        call(env)
    message = str(caught.value)
    assert [part for part in (argument, allowed, given) if part not in message] == [], message
    assert env.resets == env.actions == 0


# (the agent's class, the setting assigned between two calls, the value, the error, what is allowed)
ASSIGNED = [
    (td.QLAgent, "epsilon", 7, ValueError, NUMBER),
    (td.QLAgent, "epsilon", "0.1", TypeError, NUMBER),
    (td.QLAgent, "learning_rate", NAN, ValueError, NUMBER),
    (td.QLAgent, "beta", 2, ValueError, NUMBER),
    (td.QLAgent, "learning_episodes", 0, ValueError, WHOLE),
    (td.QLAgent, "test_interval", 0, ValueError, WHOLE),
    (td.QLAgent, "trials", 2.5, TypeError, WHOLE),
    (td.QLAgent, "max_step", 2**20, ValueError, WHOLE),
    (td.QLAgent, "seed", -1, ValueError, WHOLE),
    (td.QLAgent, "do_test", "no", TypeError, "True or False"),
    (td.QLAgent, "ties", "any", ValueError, "'lowest' or 'random'"),
    (td.QLAgent, "q_table", np.zeros((4, 2)), ValueError, "(5, 2)"),
    (td.QLAgent, "q_table", np.zeros((5, 3)), ValueError, "(5, 2)"),
    (td.QLAgent, "q_table", np.zeros(10), ValueError, "(5, 2)"),
    (td.QLAgent, "q_table", np.full((5, 2), NAN), ValueError, "finite"),
    (td.QLAgent, "q_table", np.zeros((5, 2), complex), TypeError, "real numbers"),
    (td.QLAgent, "q_table", [["0"] * 2] * 5, TypeError, "real numbers"),
    (td.DistributedQLAgent, "cw_num", 0, ValueError, WHOLE),
    (td.DistributedQLAgent, "ew_num", -1, ValueError, WHOLE),
    (td.DistributedQLAgent, "batch_size", 0, ValueError, WHOLE),
    (td.DistributedQLAgent, "patience", -3, ValueError, "number"),
    (td.DistributedQLAgent, "checkpoint_seconds", NAN, ValueError, "number"),
    (FederatedQLAgent, "cap", 2, ValueError, NUMBER),
]


@pytest.mark.parametrize("kind, setting, value, error, allowed", ASSIGNED, ids=lambda part: str(part)[:20])
def test_a_setting_is_checked_when_it_is_assigned(kind, setting, value, error, allowed):
    agent = kind(Ring(), do_test=False)
    before = getattr(agent, setting)
    with pytest.raises(error) as caught:
        setattr(agent, setting, value)
    assert setting in str(caught.value) and allowed in str(caught.value)
    assert getattr(agent, setting) is before


def test_whole_numbers_assigned_as_a_q_table_do_not_cut_off_what_is_learned():
    agent = td.QLAgent(td.FrozenLakeEnv(["SG"]), 0.0, 0.25, max_step=1, beta=0.0)
    agent.q_table = np.zeros((3, 4), int)
    agent.learn(1)
    assert agent.q_table[0, 0] == -0.25


def test_an_assigned_q_table_is_a_copy():
    agent, mine = td.QLAgent(Ring()), np.zeros((5, 2))
    agent.q_table = mine
    mine[0, 0] = 7.0
    assert agent.q_table[0, 0] == 0.0


CONTRADICTIONS = {
    "tests without evaluators": ("ew_num", 0, "ew_num must be 1 or more if do_test is True, got 0"),
    "more collectors than lent": ("cw_num", 5, "workers must have at least 5 collectors and 4 evaluators, got 4 and 4"),
    "more evaluators than lent": ("ew_num", 6, "workers must have at least 4 collectors and 6 evaluators, got 4 and 4"),
    "workers of another kind": ("workers", 3, "workers must be Workers, Threads, InProcess or None, got 3"),
    "a checkpoint in no folder": ("checkpoint", "no/such/folder/agent", "checkpoint must be a file that can be"),
    "more tests than there are draws": ("learning_episodes", 2**40, "test_interval must leave fewer than"),
}


@pytest.mark.parametrize("name, value, message", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused_before_any_work(name, value, message):
    agent = td.DistributedQLAgent(Ring(), workers=td.Workers(4, 4))
    setattr(agent, name, value)
    for call in (agent.learn_and_evaluate, agent.learn):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    assert agent.simulator.resets == agent.episode == 0


@pytest.mark.parametrize(
    "call",
    [lambda a: a.learn(-1), lambda a: a.evaluate(trials=0), lambda a: a.learn_and_evaluate(progress=2)],
    ids=["learn", "evaluate", "learn_and_evaluate"],
)
def test_a_refused_call_leaves_the_agent_as_it_was(call):
    agent = td.QLAgent(Ring(), 0.3, 0.1, 50)
    agent.learn(5)
    before = agent.q_table.tobytes(), agent.episode, agent.steps
    with pytest.raises((ValueError, TypeError)):
        call(agent)
    assert (agent.q_table.tobytes(), agent.episode, agent.steps) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": 0, "learning_rate": 1, "beta": 0},
        {"epsilon": np.float32(0.5), "seed": np.int64(3), "learning_episodes": np.int16(20)},
        {"seed": 2**63 - 1, "max_step": 1, "trials": 1, "test_interval": 1},
        {"do_test": np.True_, "compiled": np.False_},
    ],
    ids=["limits", "numpy numbers", "extremes", "numpy flags"],
)
def test_what_is_allowed_is_accepted(settings):
    agent = td.QLAgent(td.FrozenLakeEnv(), **({"learning_episodes": 20} | settings))
    agent.learn_and_evaluate(progress=False)
    assert agent.episode == 20


LETTERS = np.array([["S", "F"], ["F", "G"]])


@pytest.mark.parametrize("desc", [("SF", "FG"), LETTERS.tolist(), LETTERS, LETTERS.astype("S1")])
def test_a_map_may_be_any_sequence_of_rows(desc):
    assert td.FrozenLakeEnv(desc).desc.tolist() == [[b"S", b"F"], [b"F", b"G"]]


# Settings and methods that would be ignored -----------------------------------------------


@pytest.mark.parametrize("base, name", [
    (td.QLAgent, "learning_rate"), (td.SARSAAgent, "epsilon"), (td.DistributedQLAgent, "batch_size"),
    (FederatedQLAgent, "cap"), (FederatedQLAgent, "seed"),
])  # fmt: skip
def test_a_setting_in_a_class_body_is_refused_when_the_class_is_made(base, name):
    with pytest.raises(TypeError, match=f"Mine.{name} must not be set in the class.*argument"):
        type("Mine", (base,), {name: 0.5})


def test_a_setting_in_a_class_body_that_computes_is_left_alone():
    class Decaying(td.QLAgent):
        @property
        def epsilon(self):
            return 0.5 if self.episode < 10 else 0.1

        @epsilon.setter
        def epsilon(self, value):
            pass

    agent = Decaying(td.FrozenLakeEnv())
    agent.learn(10)
    assert agent.epsilon == 0.1


@pytest.mark.parametrize("kind, names", [
    (td.QLAgent, ["greedy_policy", "explore_or_exploit_policy", "update", "policy"]),
    (td.DistributedQLAgent, ["learn", "evaluate", "parameters", "learn_on", "evaluate_on", "greedy_policy", "update"]),
    (FederatedQLAgent, ["learn", "evaluate", "policy"]),
])  # fmt: skip
def test_a_method_put_on_an_agent_that_no_run_would_call_is_refused(kind, names):
    settings = {} if kind is td.QLAgent else {"workers": td.InProcess(), "do_test": False}
    for name in names:
        agent = kind(td.FrozenLakeEnv(), **settings)
        setattr(agent, name, lambda *arguments: 0)
        with pytest.raises(TypeError, match=f"must not override {name}|{name} would not be called"):
            agent.learn_and_evaluate(progress=False)
        assert agent.episode == 0


def test_workers_whose_settings_would_follow_an_episode_that_they_do_not_know_are_refused():
    class Decaying(td.QLAgent):
        def parameters(self, max_step=None):
            return super().parameters(max_step)._replace(epsilon=1 / (1 + self.episode))

    class Team(td.DistributedQLAgent):
        single = Decaying

    with pytest.raises(TypeError, match="Decaying must not override parameters, since workers do not know"):
        Team(td.FrozenLakeEnv(), workers=td.InProcess())


def test_a_class_of_workers_agents_that_asks_for_more_is_refused_at_construction():
    class Flavoured(td.QLAgent):
        def __init__(self, simulator, flavour, **settings):
            super().__init__(simulator, **settings)

    class Team(td.DistributedQLAgent):
        single = Flavoured

    with pytest.raises(TypeError, match=r"Flavoured must accept a simulator and the settings of TDAgent.*flavour"):
        Team(td.FrozenLakeEnv(), workers=td.InProcess())
