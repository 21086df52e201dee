"""Single-core agents: counts, learning in parts, seeds, convergence, foreign envs, interrupts, misbehaving envs."""

import contextlib

import gym
import gymnasium
import numpy as np
import pytest
from gym.envs.toy_text.cliffwalking import CliffWalkingEnv
from helpers import AGENTS, Ring, corridor, interrupted, learned

import td_helpers as td
from beyond import DynaQAgent, FederatedQLAgent

both = pytest.mark.parametrize("agent_class", AGENTS)
regimes = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])


def small(agent_class, simulator=None, **settings):
    """Return an agent with 57 episodes on the 4 x 4 lake, tested every ten."""
    defaults = {"learning_episodes": 57, "test_interval": 10, "trials": 4, "max_step": 60, "seed": 3}
    defaults |= {"epsilon": 0.3, "learning_rate": 0.1}
    return agent_class(simulator or td.FrozenLakeEnv(), **(defaults | settings))


def run(agent):
    agent.learn_and_evaluate(progress=False)
    return learned(agent)


@pytest.fixture
def no_evaluation(monkeypatch):
    """Make every evaluation fail."""

    def fail(*_):
        raise AssertionError("an evaluation")

    monkeypatch.setattr(td.TDAgent, "evaluate_on", fail)


@both
@regimes
@pytest.mark.parametrize("episodes, interval, tests", [(57, 10, 5), (60, 10, 6), (9, 10, 0), (7, 1, 7)])
def test_exactly_the_episodes_asked_for_and_a_result_for_each_finished_interval(
    agent_class, compiled, episodes, interval, tests
):
    agent = small(
        agent_class, corridor(1), learning_episodes=episodes, test_interval=interval, max_step=1, compiled=compiled
    )
    total_rewards, q_table = agent.learn_and_evaluate(progress=False)
    assert (agent.episode, agent.steps, len(total_rewards)) == (episodes, episodes, tests)  # an episode is one step
    assert q_table.shape == (3, 4) and q_table.dtype == np.float64 and np.array_equal(q_table, agent.q_table)


@both
def test_stepped_episodes_are_counted_by_the_env_too(agent_class):
    ring = Ring()
    agent = small(agent_class, ring)
    run(agent)
    assert ring.resets == 57 + 5 * 4 and agent.steps < ring.actions


@both
@regimes
def test_without_tests_nothing_is_evaluated(no_evaluation, agent_class, compiled):
    agent = small(agent_class, do_test=False, compiled=compiled)
    total_rewards, q_table = agent.learn_and_evaluate(progress=False)
    assert total_rewards == [] and agent.episode == 57 and q_table.any()


def test_as_many_trials_as_a_test_interval_has_episodes():
    ring = Ring()
    td.QLAgent(ring, 0.3, 0.1, 30, test_interval=15, max_step=20).learn_and_evaluate(progress=False)
    assert ring.resets == 30 + 2 * 15


@both
@regimes
@pytest.mark.parametrize("cuts", [[57], [1] * 57, [10, 20, 27], [0, 33, 0, 24], [56, 1]], ids=str)
def test_learning_in_any_cuts_equals_learning_at_once(agent_class, compiled, cuts):
    cut, whole = small(agent_class, compiled=compiled), small(agent_class, compiled=compiled)
    run(whole)
    for episodes in cuts:
        cut.learn(episodes)
    assert learned(cut)[:3] == learned(whole)[:3]


class Levers(gym.Env):
    """One state with five levers: lever 3 pays 1 and ends the episode, the others do nothing."""

    observation_space, action_space = gym.spaces.Discrete(1), gym.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, float(action == 3), action == 3, False, {}


@both
def test_where_nothing_pays_random_ties_try_every_action_and_the_lowest_stays(agent_class):
    lowest, random = (small(agent_class, Levers(), max_step=50, do_test=False, ties=t) for t in ("lowest", "random"))
    for agent in (lowest, random):
        agent.epsilon = 0.0
        agent.learn(1)
    assert (lowest.steps, random.q_table[0].argmax()) == (50, 3) and random.steps < 50 and not lowest.q_table.any()


@both
@regimes
def test_random_ties_change_what_is_learned_and_no_test(agent_class, compiled):
    lowest, random = (small(agent_class, compiled=compiled, ties=ties) for ties in ("lowest", "random"))
    assert run(lowest) != run(random)
    random.q_table = lowest.q_table
    assert random.evaluate(trials=50) == lowest.evaluate(trials=50)
    random.q_table = np.zeros_like(random.q_table)
    assert {random.greedy_policy(0) for _ in range(50)} == {0}
    random.epsilon = 0.0
    assert {random.explore_or_exploit_policy(0) for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.filterwarnings("ignore:after 1000 episodes no reward")
def test_the_eight_by_eight_lake_of_gymnasium_is_solved_with_random_ties_alone():
    lake = gymnasium.make("FrozenLake8x8-v1", is_slippery=False)
    for ties, value in (("lowest", 0.0), ("random", 1.0)):
        for seed in range(5):
            agent = td.QLAgent(lake, 0.1, 0.1, 3000, do_test=False, beta=1.0, seed=seed, ties=ties)
            agent.learn_and_evaluate(progress=False)
            assert agent.evaluate(trials=1) == value


UNREWARDED = r"after 1000 episodes no reward other than 0 was seen"


class Unpaid(Levers):
    """The same levers, none of which pays."""

    def step(self, action):
        return 0, 0.0, action == 3, False, {}


def double(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """A user's rule, which leaves zeros where there are no rewards."""
    q_table[state][action] += 2 * parameters.learning_rate * (reward - q_table[state][action])


class Doubling(td.TDAgent):
    kernel = td.Rule(double)


KINDS = {
    **{kind.agent_name: (kind, {}) for kind in AGENTS},
    "a user's rule": (Doubling, {}),
    "Dyna-Q": (DynaQAgent, {"initial_value": 0.0}),
    **{
        kind.agent_name: (kind, {"workers": td.InProcess(), "cw_num": 2, "batch_size": 30})
        for kind in (td.DistributedQLAgent, FederatedQLAgent)
    },
}


@pytest.mark.parametrize("ties", ["lowest", "random"])
@pytest.mark.parametrize("kind, settings", KINDS.values(), ids=KINDS)
def test_a_run_that_sees_no_reward_is_told_once_with_the_ways_out(kind, settings, ties, recwarn):
    agent = small(kind, Unpaid(), epsilon=0.5, learning_episodes=2500, max_step=2, do_test=False, ties=ties, **settings)
    agent.learn(990)
    assert not recwarn.list
    agent.learn_and_evaluate(progress=False)
    (warning,) = recwarn.list
    text = str(warning.message)
    assert UNREWARDED in text and "initial_value=" in text and ("ties='random'" in text) == (ties == "lowest")
    assert warning.filename == __file__


def test_a_run_that_has_seen_a_reward_or_starts_elsewhere_or_does_not_learn_is_told_nothing(recwarn):
    for env, settings in (
        (Levers(), {"epsilon": 0.5}),
        (Unpaid(), {"initial_value": 1.0}),
        (Unpaid(), {"initial_value": -1.0}),
        (Levers(), {"learning_rate": 0.0}),
    ):
        small(td.QLAgent, env, learning_episodes=1100, max_step=3, do_test=False, **settings).learn(1100)
    assert not recwarn.list


@both
def test_learning_a_part_first_changes_no_result(agent_class):
    part, whole = small(agent_class), small(agent_class)
    part.learn(7)
    assert run(part) == run(whole)


def test_learn_takes_a_test_interval_by_default():
    agent = small(td.QLAgent)
    agent.learn()
    assert agent.episode == 10 and agent.total_rewards == []


@both
@regimes
def test_a_seed_repeats_and_another_differs(agent_class, compiled):
    first = run(small(agent_class, compiled=compiled))
    assert run(small(agent_class, compiled=compiled)) == first
    assert run(small(agent_class, compiled=compiled, seed=4)) != first


@both
def test_a_stepped_env_without_p_repeats(agent_class):
    assert run(small(agent_class, Ring())) == run(small(agent_class, Ring()))


@regimes
def test_the_same_question_gets_the_same_answer(compiled):
    agent = small(td.QLAgent, compiled=compiled)
    agent.learn(10)
    before = learned(agent)
    assert agent.evaluate(trials=20) == agent.evaluate(trials=20)
    assert learned(agent) == before


def test_evaluating_a_policy_of_ones_own():
    agent = small(td.QLAgent, corridor(2, transition_prob=(1.0, 0.0, 0.0, 0.0)), beta=0.9)
    assert agent.evaluate(lambda state: td.RIGHT, trials=3) == pytest.approx(-1 - 0.9 + 0.81 * 1000)
    assert agent.evaluate(trials=3, max_steps=4) == pytest.approx(-1 - 0.9 - 0.81 - 0.729)  # into the wall


@regimes
def test_evaluation_heeds_a_time_limit(compiled):
    agent = small(td.QLAgent, gym.wrappers.TimeLimit(td.FrozenLakeEnv(), 7), beta=1.0, compiled=compiled)
    agent.q_table[:, td.UP] = 1.0
    assert agent.evaluate(trials=1, max_steps=20) == -7


@regimes
@pytest.mark.parametrize("inner, outer", [(3, 7), (7, 3)])
def test_the_shorter_of_two_time_limits_cuts(compiled, inner, outer):
    simulator = gym.wrappers.TimeLimit(gym.wrappers.TimeLimit(corridor(9), inner), outer)
    agent = small(td.QLAgent, simulator, compiled=compiled)
    agent.learn(10)
    assert agent.steps == 10 * 3


@regimes
def test_a_time_limit_holds_when_max_step_is_raised_later(compiled):
    agent = small(td.QLAgent, gym.wrappers.TimeLimit(corridor(9), 3), max_step=2, compiled=compiled)
    agent.max_step = 50
    agent.learn(10)
    assert agent.steps == 10 * 3


def test_a_time_limit_of_nothing_is_one_step_in_both_regimes():
    for compiled in (True, False):
        agent = small(td.QLAgent, gym.wrappers.TimeLimit(corridor(9), 0), compiled=compiled)
        agent.learn(10)
        assert agent.steps == 10


def test_a_test_measures_the_table_at_its_own_episode():
    agent, until_20 = small(td.QLAgent), small(td.QLAgent)
    run(agent)
    until_20.learn(20)
    assert agent.total_rewards[1] == until_20.evaluate(trials=4, max_steps=60)


def test_policies_read_the_table():
    agent = small(td.QLAgent)
    agent.q_table[2] = 1.0, 4.0, 4.0, 3.0
    assert agent.greedy_policy(2) == 1
    chosen = [agent.explore_or_exploit_policy(2) for _ in range(4000)]
    for action, share in enumerate((0.075, 0.775, 0.075, 0.075)):
        assert abs(chosen.count(action) / 4000 - share) < 5 * np.sqrt(share * (1 - share) / 4000)


def test_tests_are_known_by_their_episodes():
    agent = small(td.QLAgent)
    agent.learn(25)
    run(agent)
    assert sorted(agent.rewards) == [30, 40, 50]


@both
def test_values_start_where_they_are_told_to(agent_class):
    assert small(agent_class, initial_value=-7).q_table.tolist() == [[-7.0] * 4] * 17


def test_the_base_class_has_no_rule_to_learn_by():
    with pytest.raises(NotImplementedError, match="use QLAgent or SARSAAgent"):
        td.TDAgent(td.FrozenLakeEnv()).learn(1)


def test_stepped_and_compiled_learning_reach_the_same_value():
    values = []
    for compiled in (True, False):
        lake = corridor(3)
        agent = td.QLAgent(lake, 0.2, 0.2, 1500, do_test=False, compiled=compiled)
        agent.learn_and_evaluate(progress=False)
        values.append(td.policy_value(lake.table, agent.q_table)[0])
    assert values == pytest.approx([td.value_iteration(lake.table)[0].max()] * 2, abs=1.0)


# Learned values --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("desc", [td.MAPS["4x4"], ["SFFF", "FFHF", "FFFG"]], ids=["4x4", "3x4"])
@pytest.mark.parametrize("agent_class, epsilon", [(td.QLAgent, 0.1), (td.SARSAAgent, 0.05)])
def test_learning_comes_close_to_the_optimum(agent_class, epsilon, desc, seed):
    lake = td.FrozenLakeEnv(desc)
    learning_rate, episodes = (0.02, 50_000) if len(desc) == 4 else (0.05, 20_000)
    agent = agent_class(lake, epsilon, learning_rate, episodes, do_test=False, seed=seed)
    agent.learn_and_evaluate(progress=False)
    optimum = td.value_iteration(lake.table)[0].max()
    assert optimum - 10 < td.policy_value(lake.table, agent.q_table)[0] <= optimum + 1e-6


@both
def test_learned_values_come_close_to_those_of_the_policy_followed(agent_class):
    lake, epsilon = td.FrozenLakeEnv(["SFF", "FHF", "FFG"]), 0.3
    agent = agent_class(lake, epsilon, 0.005, 200_000, do_test=False)
    agent.learn_and_evaluate(progress=False)
    exact = td.value_iteration(lake.table, epsilon=epsilon if agent_class is td.SARSAAgent else 0.0)
    assert agent.q_table[0].max() == pytest.approx(exact[0].max(), abs=15)


CLIFFS = {"gym": CliffWalkingEnv, "gymnasium": lambda: gymnasium.make("CliffWalking-v1")}


@pytest.mark.parametrize("cliff", CLIFFS.values(), ids=CLIFFS)
@pytest.mark.parametrize("seed", range(3))
def test_on_the_cliff_q_learning_takes_the_edge_and_sarsa_the_safe_way(cliff, seed):
    table = td.TransitionTable.from_env(cliff().unwrapped)
    offline, online = {}, {}
    for agent_class in AGENTS:
        agent = agent_class(cliff(), 0.1, 0.5, 2000, beta=1.0, do_test=False, seed=seed)
        agent.learn_and_evaluate(progress=False)
        offline[agent_class] = agent.evaluate(trials=1)
        online[agent_class] = td.policy_value(table, agent.q_table, 1.0, 0.1)[36]
    assert offline[td.QLAgent] == -13 > offline[td.SARSAAgent] >= -19
    assert online[td.QLAgent] < -40 < -30 < online[td.SARSAAgent]


def test_a_ring_without_p_is_learned_by_stepping():
    agent = td.QLAgent(Ring(), 0.2, 0.3, 300, do_test=False, beta=1.0)
    agent.learn_and_evaluate(progress=False)
    assert [agent.greedy_policy(state) for state in range(5)] == [1] * 5
    assert agent.q_table[0, 1] == pytest.approx(5 * -1.125, abs=0.5)  # five steps of -1 to -1.25


# Overriding learn ----------------------------------------------------------------------------


class ByHand(td.TDAgent):
    """A user's Q-learning, as a plain loop."""

    def learn(self, episodes=None):
        env, actions = self.simulator, self.simulator.action_space.n
        for _ in range(self.test_interval if episodes is None else episodes):
            rng = np.random.default_rng((self.seed, self.episode))
            (state, _), terminated = env.reset(seed=self.episode), False
            while not terminated:
                action = rng.integers(actions) if rng.random() < self.epsilon else self.greedy_policy(state)
                next_state, reward, terminated, _, _ = env.step(action)
                target = reward if terminated else reward + self.beta * self.q_table[next_state].max()
                self.q_table[state, action] += self.learning_rate * (target - self.q_table[state, action])
                state = next_state
                self.steps += 1
            self.episode += 1


class OnACopy(ByHand):
    """The same, with all results assigned at the end."""

    def learn(self, episodes=None):
        worker = ByHand(self.simulator, self.epsilon, self.learning_rate, seed=self.seed)
        worker.q_table, worker.episode, worker.steps = self.q_table, self.episode, self.steps
        worker.learn(episodes)
        self.q_table, self.steps, self.episode = worker.q_table, worker.steps, worker.episode


@pytest.mark.parametrize("kind", [ByHand, OnACopy])
def test_a_learn_of_ones_own_learns_tests_saves_and_goes_on(kind, tmp_path):
    alone, cut = (small(kind, corridor(3)) for _ in range(2))
    total_rewards, q_table = alone.learn_and_evaluate(progress=False)
    assert (alone.episode, len(total_rewards)) == (57, 5) and alone.steps >= 57 * 4 and q_table.any()
    cut.learn(23)
    cut.save(tmp_path / "cut.npz")
    again = small(kind, corridor(3)).load(tmp_path / "cut.npz")
    assert again.episode == 23 and learned(again) == learned(cut)
    again.learn(34)
    assert learned(again)[:3] == learned(alone)[:3]


@both
def test_an_evaluate_of_ones_own_is_what_counts(agent_class):
    class Counting(agent_class):
        def evaluate(self, policy=None, trials=100, max_steps=1000):
            return trials + max_steps / 1000

    agent = small(Counting)
    agent.learn_and_evaluate(progress=False)
    assert agent.rewards == dict.fromkeys([10, 20, 30, 40, 50], 4.06)


@pytest.mark.parametrize("returned", [None, "much", float("nan"), [1.0]])
def test_an_evaluate_that_returns_no_number_is_refused(returned):
    class Forgetful(td.QLAgent):
        def evaluate(self, policy=None, trials=100, max_steps=1000):
            return returned

    with pytest.raises((TypeError, ValueError), match="what evaluate returns must be a number"):
        small(Forgetful).learn_and_evaluate(progress=False)


class Idle(td.QLAgent):
    def learn(self, episodes=None):
        pass


class Backwards(td.QLAgent):
    def learn(self, episodes=None):
        super().learn(episodes)
        self.episode = 0


@pytest.mark.parametrize("kind", [Idle, Backwards])
@pytest.mark.parametrize("do_test", [True, False])
def test_a_learn_that_learns_no_episode_ends_with_an_error(kind, do_test):
    with pytest.raises(
        RuntimeError, match=f"{kind.__name__}.learn must add to self.episode what it learned, got 0 after 0"
    ):
        small(kind, do_test=do_test).learn_and_evaluate(progress=False)


@pytest.mark.parametrize("name", ["episode", "steps"])
@pytest.mark.parametrize("value, error", [(-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)])
def test_what_was_learned_is_a_whole_number(name, value, error):
    agent = small(td.QLAgent)
    with pytest.raises(error, match=f"{name} must be a whole number from 0"):
        setattr(agent, name, value)
    assert (agent.episode, agent.steps) == (0, 0)


@both
@regimes
def test_an_assigned_episode_has_the_draws_of_its_number(agent_class, compiled):
    one, other = (small(agent_class, compiled=compiled) for _ in range(2))
    one.learn(5)
    one.q_table = np.zeros((17, 4))
    other.episode = 5
    for agent in (one, other):
        agent.learn(5)
    assert np.array_equal(one.q_table, other.q_table) and other.episode == 10


def test_steps_that_were_counted_cannot_be_assigned_and_counting_cannot_be_overridden():
    with pytest.raises(AttributeError, match="steps"):
        DynaQAgent(td.FrozenLakeEnv()).steps = 5
    with pytest.raises(TypeError, match="IdlePlanner must not override learn"):
        type("IdlePlanner", (DynaQAgent,), {"learn": Idle.learn})(td.FrozenLakeEnv())


# The progress bar --------------------------------------------------------------------------


@pytest.fixture
def bars(monkeypatch):
    """The progress bars created while a test runs, with their settings and updates."""
    made = []

    class Bar(contextlib.nullcontext):
        def __init__(self, **settings):
            super().__init__(self)
            self.settings, self.n, self.updates = settings, settings["initial"], []
            made.append(self)

        def update(self, n):
            self.n += n
            self.updates.append(n)

    monkeypatch.setattr(td, "tqdm", Bar)
    return made


def test_the_progress_bar_follows_the_episodes(bars):
    agent = small(td.QLAgent)
    agent.learn(13)
    agent.learn_and_evaluate()
    (bar,) = bars
    assert (bar.settings["initial"], bar.settings["total"], bar.settings["disable"]) == (13, 57, False)
    assert bar.updates == [7, 10, 10, 10, 7]


def test_no_progress_bar_where_none_is_wanted(bars):
    small(td.QLAgent).learn_and_evaluate(progress=False)
    assert bars[0].settings["disable"] is True


# Interrupts ------------------------------------------------------------------------------


class CtrlC(td.FrozenLakeEnv):
    """A lake stepped in Python, since it overrides `step`; it raises one KeyboardInterrupt, in step number `at`."""

    at = -1

    def __deepcopy__(self, memo):
        raise TypeError("it has no copies")

    def step(self, action):
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt
        return super().step(action)


@both
@pytest.mark.parametrize("at", [1, 2, 60, 61, 500, 1000])
def test_an_interrupt_in_a_step_loses_no_bit(agent_class, at):
    simulator = CtrlC()
    agent = small(agent_class, simulator)
    simulator.at = at
    with pytest.raises(KeyboardInterrupt):
        agent.learn_and_evaluate(progress=False)
    assert agent.episode < 57
    assert run(agent) == run(small(agent_class, CtrlC()))


@both
def test_an_interrupted_learn_leaves_the_agent_as_it_was(agent_class):
    simulator = CtrlC()
    agent = small(agent_class, simulator)
    agent.learn(5)
    before, simulator.at = learned(agent), 30
    with pytest.raises(KeyboardInterrupt):
        agent.learn(20)
    assert learned(agent) == before


@both
def test_an_interrupt_of_compiled_code_leaves_the_agent_as_it_was(agent_class, monkeypatch):
    agent = small(agent_class)
    agent.learn(5)
    before, learn_on = learned(agent), agent.learn_on

    def learn_and_interrupt(*arguments):  # Python raises it after the compiled loop returns
        learn_on(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(agent, "learn_on", learn_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(5)
    assert learned(agent) == before


@pytest.mark.parametrize("test", [1, 3, 5])
def test_an_interrupted_test_is_made_up_for(monkeypatch, test):
    agent = small(td.QLAgent)
    with interrupted(monkeypatch, agent, "evaluate_on", test):
        agent.learn_and_evaluate(progress=False)
    assert agent.episode == 10 * test and len(agent.total_rewards) == test - 1
    assert run(agent) == run(small(td.QLAgent))


def test_a_finished_run_is_not_run_again(no_evaluation):
    agent = small(td.QLAgent, do_test=False)
    first = run(agent)
    assert run(agent) == first


# Misbehaving envs ------------------------------------------------------------------------


def raise_own(env):
    raise LookupError("the boat has sunk")


def returns(state=1, reward=-1.0):
    """Return a fault: a step with this result."""
    return lambda env: (state, reward, False, False, {})


FAULTS = {
    "raises": (raise_own, LookupError, "the boat has sunk"),
    "reward nan": (returns(reward=float("nan")), ValueError, "reward must be a number"),
    "state beyond the last": (returns(5), ValueError, "state must be from 0 to 4, got 5"),
}
faults = pytest.mark.parametrize("fault, error, message", FAULTS.values(), ids=FAULTS)


@both
@faults
def test_a_faulty_step_is_reported_with_its_place_and_costs_nothing(agent_class, fault, error, message):
    agent = small(agent_class, Ring(at=(3, 7), fault=fault, ends=False))
    agent.learn(2)
    before = learned(agent)
    with pytest.raises(error, match=message) as caught:
        agent.learn(5)
    assert [note for note in caught.value.__notes__ if "episode 3, step 7" in note]
    assert learned(agent) == before


@both
def test_a_faulty_reset_is_reported_with_its_place(agent_class):
    with pytest.raises(LookupError, match="episode 3, step 0"):
        small(agent_class, Ring(at=(3, 0), fault=raise_own, ends=False)).learn(5)


@both
def test_a_fault_in_a_test_is_reported_with_its_place(agent_class):
    with pytest.raises(LookupError, match="trial 2, step 7"):
        small(agent_class, Ring(at=(10 + 2, 7), fault=raise_own, ends=False)).learn_and_evaluate(progress=False)


@both
def test_a_fault_in_a_compiled_agents_own_policy_is_its_own_error(agent_class):
    with pytest.raises(LookupError, match="the boat has sunk"):
        small(agent_class).evaluate(raise_own)


@both
@regimes
def test_an_episode_that_never_ends_is_cut_and_bootstrapped(agent_class, compiled):
    """The agent always hits the wall: q tends to -1 / (1 - 0.9) = -10; if a cut terminated, q would be -1."""
    walls = td.FrozenLakeEnv(["SHG"], transition_prob=(0, 0, 0, 1.0))  # action LEFT goes up
    agent = small(agent_class, walls, max_step=50, beta=0.9, compiled=compiled)
    agent.epsilon = 0.0
    agent.q_table[:] = -50.0
    agent.q_table[0, 0] = 0.0
    agent.learn(20)
    assert agent.steps == 1000 and agent.q_table[0, 0] == pytest.approx(-10, abs=0.01)
