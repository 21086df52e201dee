"""The distributed agent in one process: equal to one core when it must be, exact counts and costs, no garbage."""

import numpy as np
import pytest
from helpers import Fan, Ring, batches_of, interrupted, learned, same_as_by_hand

import td_helpers as td
from tabular.kernels import Experience

LAKE = td.FrozenLakeEnv()
SETTINGS = {"learning_episodes": 137, "test_interval": 20, "trials": 5, "max_step": 100, "seed": 5}


def single(simulator=LAKE, **settings):
    """Return a finished single-core agent."""
    agent = td.QLAgent(simulator, 0.3, 0.1, **(SETTINGS | settings))
    agent.learn_and_evaluate(progress=False)
    return agent


def distributed(simulator=LAKE, cw_num=2, batch_size=10, kind=td.DistributedQLAgent, **settings):
    """Return an untrained distributed agent."""
    arguments = {"cw_num": cw_num, "ew_num": 2, "batch_size": batch_size, "workers": td.InProcess()}
    return kind(simulator, 0.3, 0.1, **(arguments | SETTINGS | settings))


def finished(*arguments, **settings):
    """Return a distributed agent that has learned all its episodes."""
    agent = distributed(*arguments, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


cut_batches = pytest.mark.filterwarnings("ignore:a batch of .* is truncated")


# Bits ------------------------------------------------------------------------------------


@cut_batches
@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_one_collector_equals_single_core(batch_size):
    assert learned(finished(cw_num=1, batch_size=batch_size)) == learned(single())


@pytest.mark.parametrize("simulator", [LAKE, Ring()], ids=["lake", "Ring"])
def test_one_collector_by_stepping_equals_single_core(simulator):
    settings = {"learning_episodes": 45, "compiled": False}
    assert learned(finished(simulator, cw_num=1, batch_size=8, **settings)) == learned(single(simulator, **settings))


@cut_batches
@pytest.mark.parametrize("do_test", [True, False], ids=["tests", "no tests"])
@pytest.mark.parametrize("cw_num, batch_size", [(1, 9), (2, 10), (3, 7), (4, 1), (4, 1000), (200, 1)])
def test_a_run_equals_the_dataflow_by_hand(cw_num, batch_size, do_test):
    assert same_as_by_hand(finished(cw_num=cw_num, batch_size=batch_size, do_test=do_test))


@pytest.mark.parametrize("cw_num, in_flight", [(1, 3), (2, 3), (3, 5), (2, 40)])
def test_more_batches_in_flight_are_collected_on_older_tables(cw_num, in_flight):
    agent = finished(cw_num=cw_num, in_flight=in_flight)
    assert agent.lag == cw_num * (in_flight - 1)
    assert same_as_by_hand(agent)


def test_more_batches_in_flight_go_on_after_an_interrupt_and_a_save_with_the_same_bits(monkeypatch, tmp_path):
    agent = distributed(in_flight=3)
    with interrupted(monkeypatch, td.QLAgentServer, "learn", 9):
        agent.learn_and_evaluate(progress=False)
    agent.save(tmp_path / "half.npz")
    agent = distributed(in_flight=3).load(tmp_path / "half.npz")
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(in_flight=3)) != learned(finished())
    with pytest.warns(UserWarning, match="saved with in_flight=3, this agent has 2"):
        distributed().load(tmp_path / "half.npz")


@pytest.mark.parametrize("in_flight", [1, 0, 2.5, "many"])
def test_a_bad_number_of_batches_in_flight_is_refused(in_flight):
    with pytest.raises((TypeError, ValueError), match="in_flight must be"):
        distributed(in_flight=in_flight)


def test_the_same_run_twice_has_the_same_bits():
    assert learned(finished(cw_num=3)) == learned(finished(cw_num=3))


def test_results_depend_on_the_number_of_collectors():
    assert not np.array_equal(finished(cw_num=1).q_table, finished(cw_num=4).q_table)


def test_settings_that_change_between_runs_reach_the_workers():
    agents = td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS), distributed(cw_num=1)
    for agent in agents:
        for agent.epsilon, agent.learning_rate in ((0.9, 0.2), (0.5, 0.1), (0.1, 0.05)):
            agent.learn(30)
        agent.beta, agent.max_step, agent.trials = 0.9, 50, 7
        agent.learn_and_evaluate(progress=False)
    assert learned(agents[0]) == learned(agents[1])


@pytest.mark.parametrize("cuts", [[137], [20, 40, 77], [10] * 13 + [7], [0, 20, 0, 117]], ids=str)
def test_learning_in_parts_equals_learning_at_once(cuts):
    agent = distributed()
    for episodes in cuts:
        agent.learn(episodes)
    assert learned(agent)[:3] == learned(finished())[:3]


@pytest.mark.parametrize("first", [13, 20, 137])
def test_learning_a_part_first_has_the_results_of_single_core(first):
    agents = distributed(cw_num=1), td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS)
    for agent in agents:
        agent.learn(first)
        agent.learn_and_evaluate(progress=False)
    assert learned(agents[0]) == learned(agents[1])


@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_run_interrupted_in_a_test_goes_on_with_the_same_bits(monkeypatch, number):
    agent = distributed()
    with interrupted(monkeypatch, td.EvaluationWorker, "evaluate", number):
        agent.learn_and_evaluate(progress=False)
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished())


@pytest.mark.parametrize("role, method", [(td.CollectingWorker, "collect"), (td.QLAgentServer, "learn")])
@pytest.mark.parametrize("number", [1, 2, 9, 14])
def test_a_run_interrupted_in_a_batch_goes_on_with_the_same_bits(monkeypatch, role, method, number):
    agent = distributed()
    with interrupted(monkeypatch, role, method, number):
        agent.learn_and_evaluate(progress=False)
    assert agent.episode < 137 and agent.q_table.flags.writeable
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished())


def test_an_assigned_q_table_is_where_learning_starts():
    agents = distributed(cw_num=1), td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS)
    for agent in agents:
        agent.learn(20)
        agent.q_table = np.linspace(-1, 1, 68).reshape(17, 4)
        agent.learn(20)
    assert learned(agents[0]) == learned(agents[1])


def test_values_start_where_they_are_told_to():
    assert learned(finished(cw_num=1, initial_value=50)) == learned(single(initial_value=50))


# Batches ---------------------------------------------------------------------------------


@cut_batches
@pytest.mark.parametrize("episodes, interval, batch_size, tests", [(137, 20, 33, 6), (60, 20, 7, 3), (19, 20, 4, 0)])
def test_exactly_the_episodes_asked_for_and_a_result_for_each_finished_interval(episodes, interval, batch_size, tests):
    settings = {"learning_episodes": episodes, "test_interval": interval, "max_step": 1}
    agent = finished(cw_num=3, batch_size=batch_size, **settings)
    assert (agent.episode, agent.steps, len(agent.total_rewards)) == (episodes, episodes, tests)
    assert agent.batches == len(batches_of(episodes, batch_size, interval))


def test_batches_are_not_cut_where_nothing_is_tested(recwarn):
    agent = finished(batch_size=50, do_test=False)
    assert agent.batches == 3 and not recwarn.list
    agent = distributed(batch_size=50, do_test=False)
    assert [batch.last - batch.first for batch in agent.learn_in_batches(137)] == [50, 50, 37]


def test_a_result_without_tests_does_not_depend_on_the_test_interval():
    runs = [finished(batch_size=50, do_test=False, test_interval=interval) for interval in (20, 30)]
    assert learned(runs[0]) == learned(runs[1])


def test_batches_that_tests_cut_are_told_of_once():
    with pytest.warns(UserWarning, match="a batch of 50 episodes is truncated to 20, as a test follows every") as seen:
        agent = finished(batch_size=50)
        agent.learn(20)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert agent.batches == 7 + 2  # 137 to 140, to 157


@cut_batches
def test_learning_in_batches_shows_each_batch_as_it_is_learned():
    agent, whole = distributed(batch_size=30), distributed(batch_size=30)
    seen = []
    for batch in agent.learn_in_batches(137):
        assert (agent.episode, agent.batches) == (batch.last, len(seen) + 1)
        seen.append((batch.number, batch.first, batch.last, agent.steps, agent.q_table.tobytes()))
        whole.learn(batch.last - batch.first)
        assert learned(agent)[:3] == learned(whole)[:3]
    assert [entry[0] for entry in seen] == list(range(len(seen))) and seen[-1][2] == 137


def test_learning_in_batches_takes_a_test_interval_by_default():
    agent = distributed()
    assert [batch[1:] for batch in agent.learn_in_batches()] == [(0, 10), (10, 20)]


# Tests -----------------------------------------------------------------------------------


def test_without_tests_nothing_is_evaluated(monkeypatch):
    def fail(*_):
        raise AssertionError("an evaluation")

    monkeypatch.setattr(td.EvaluationWorker, "evaluate", fail)
    agent = distributed(do_test=False, ew_num=0)
    assert agent.learn_and_evaluate(progress=False)[0] == []
    assert agent.episode == 137 and agent.cost.evaluate == 0.0


def test_tests_that_learning_went_past_are_not_made_up_for():
    agent = distributed()
    agent.learn(50)
    agent.learn_and_evaluate(progress=False)
    assert sorted(agent.rewards) == [60, 80, 100, 120]


def test_an_evaluator_gives_the_single_core_result():
    agent = td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS)
    agent.learn(60)
    assert td.EvaluationWorker(agent).evaluate(agent.q_table, 60)[0] == single().total_rewards[2]


# Costs -----------------------------------------------------------------------------------


def test_what_is_shipped_is_counted_to_the_byte_over_all_runs():
    agent = distributed()
    agent.learn(50)
    agent.learn_and_evaluate(progress=False)
    assert agent.cost.bytes == 8 * (agent.steps + 137)  # 4 for the pair, 4 for the reward, and an entry per episode


class TimedCollector(td.CollectingWorker):
    """A collector that reports 3 s per batch."""

    def collect(self, *arguments):
        return super().collect(*arguments)._replace(seconds=3.0)


class TimedEvaluator(td.EvaluationWorker):
    """An evaluator that reports 5 s per test."""

    def evaluate(self, *arguments):
        return super().evaluate(*arguments)[0], 5.0


class Timed(td.DistributedQLAgent):
    """A distributed agent with these two roles."""

    roles = td.DistributedQLAgent.roles | {"collector": TimedCollector, "evaluator": TimedEvaluator}


def test_the_seconds_of_all_batches_and_tests_are_added_up():
    agent = distributed(kind=Timed)
    agent.learn(20)
    assert agent.cost.collect == 3.0 * 2 and agent.cost.evaluate == 0.0
    agent.learn_and_evaluate(progress=False)
    assert agent.cost.collect == 3.0 * agent.batches and agent.cost.evaluate == 5.0 * len(agent.rewards) == 30.0


def test_collecting_replaying_and_evaluating_are_timed(monkeypatch):
    worker = td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS)
    server, snapshot = td.QLAgentServer(worker), td.Snapshot(worker.q_table, 0)
    server.begin(snapshot)
    monkeypatch.setattr(td.time, "perf_counter", iter(range(100)).__next__)  # each reading is a second later
    collected = td.CollectingWorker(worker).collect(snapshot, 0, 10)
    assert collected.seconds == 1
    assert server.learn(collected).cost[:3] == (1, 1, 0)
    assert td.EvaluationWorker(worker).evaluate(worker.q_table, 20)[1] == 1


# Roles -----------------------------------------------------------------------------------


def test_experience_beyond_the_buffer_is_collected_in_pieces():
    """700 episodes of 500 steps each do not fit the 2**18 entries of a collector's buffer."""
    endless = td.FrozenLakeEnv(["SHG"], transition_prob=(0, 0, 0, 1.0))
    agent = td.QLAgent(endless, 0.0, 0.1, 700, do_test=False, max_step=500, beta=0.9)
    agent.q_table[0, 1:] = -50.0
    start = td.Snapshot(agent.q_table.copy(), 0)
    collected = td.CollectingWorker(agent).collect(start, 0, 700)
    server = td.QLAgentServer(agent)
    server.begin(start)
    q_table, steps, *_ = server.learn(collected)
    agent.learn(700)
    assert len(collected.pairs) == len(collected.rewards) == 700 * 501 > 2**18
    assert (q_table.tobytes(), steps) == (agent.q_table.tobytes(), agent.steps)


def test_experience_takes_at_most_sixteen_bytes_a_step():
    pairs, rewards, *_ = td.CollectingWorker(single()).collect(td.Snapshot(np.zeros((17, 4)), 0), 0, 50)
    steps = int((pairs >= 0).sum())
    assert pairs.nbytes + rewards.nbytes <= 16 * steps
    assert (pairs.dtype, rewards.dtype) == (np.int32, np.float32)


def test_rewards_that_float32_cannot_hold_are_shipped_whole():
    agent = td.QLAgent(Ring(), 0.3, 0.1, 20, do_test=False)
    assert td.CollectingWorker(agent).collect(td.Snapshot(agent.q_table, 0), 0, 20).rewards.dtype == np.float64


class Narrow(Ring):
    """A ring of 200 states that returns numpy's narrow types."""

    def __init__(self, state, reward):
        super().__init__()
        self.observation_space, self.types = td.gym.spaces.Discrete(200), (state, reward)

    def reset(self, **arguments):
        return self.types[0](195 + super().reset(**arguments)[0]), {}

    def step(self, action):
        state, reward, *rest = super().step(action)
        return self.types[0](195 + state), self.types[1](reward), *rest


@pytest.mark.parametrize("reward", [np.float16, np.float32, float])
@pytest.mark.parametrize("state", [np.uint8, np.uint64, int])
def test_numpys_narrow_types_are_learned_as_pythons(state, reward):
    settings = {"learning_episodes": 60, "max_step": 7, "do_test": False}  # short enough that some episodes are cut
    agent = single(Narrow(state, reward), **settings)
    assert learned(finished(Narrow(state, reward), cw_num=1, **settings)) == learned(agent)
    assert agent.q_table[195:].any() and not agent.q_table[:195].any()


def test_collecting_and_evaluating_leave_their_arguments_alone():
    q_table = np.zeros((17, 4))
    q_table.flags.writeable = False  # as Ray's arrays are
    collector, evaluator = td.CollectingWorker(single()), td.EvaluationWorker(single())
    first = collector.collect(td.Snapshot(q_table, 0), 20, 30)[:2]
    collector.collect(td.Snapshot(np.ones((17, 4)), 0), 0, 10)
    again = collector.collect(td.Snapshot(q_table, 0), 20, 30)[:2]
    assert [part.tobytes() for part in first] == [part.tobytes() for part in again] and not q_table.any()
    assert evaluator.evaluate(q_table, 60)[0] == evaluator.evaluate(q_table, 60)[0]


def test_a_server_leaves_the_snapshots_that_it_gave_alone():
    worker = single()
    server, start = td.QLAgentServer(worker), td.Snapshot(np.zeros((17, 4)), 0)
    server.begin(start)
    collected = td.CollectingWorker(worker).collect(start, 0, 30)
    first = server.learn(collected)
    before = first.q_table.tobytes()
    server.learn(collected)
    assert first.q_table.tobytes() == before and not start.q_table.any()


def test_the_table_can_be_written_to_afterwards():
    agent = finished()
    agent.q_table[0, 0] = 7.0
    assert agent.q_table[0, 0] == 7.0


# Misuse is refused -----------------------------------------------------------------------


class DistributedSARSA(td.DistributedQLAgent):
    """The class that a student would write."""

    single = td.SARSAAgent


class WithKernel(td.DistributedQLAgent):
    """An agent with its own kernel, which its workers would not use."""

    kernel = td.sarsa


class WithFunction(td.DistributedQLAgent):
    """An agent whose kernel is a function instead of a Rule."""

    kernel = staticmethod(td.q_learning_update)


class WithoutRule(td.DistributedQLAgent):
    """An agent whose workers have no rule."""

    single = td.TDAgent


@pytest.mark.parametrize(
    "kind, message",
    [
        (DistributedSARSA, "SARSAAgent cannot be replayed by a server: .* beyond.FederatedSARSAAgent"),
        (WithKernel, "WithKernel.kernel must not be set, .* set `single` instead"),
        (WithFunction, "kernel must be a Rule"),
        (WithoutRule, "TDAgent cannot be replayed by a server"),
    ],
)
def test_a_rule_that_cannot_be_replayed_is_refused_before_anything_is_learned(kind, message):
    ring = Ring()
    with pytest.raises(TypeError, match=message):
        kind(ring, workers=td.InProcess())
    assert ring.resets == 0


class Forgetful(td.QLAgent):
    """An agent that logs only some episodes."""

    def learn_on(self, q_table, first, episodes, log=None, returns=None):
        return super().learn_on(q_table, first, episodes, log if first % 2 else None)


class DistributedForgetful(td.DistributedQLAgent):
    """A distributed agent with such workers."""

    single = Forgetful


def test_steps_that_were_not_recorded_are_noticed_before_they_are_learned_from():
    agent = distributed(kind=DistributedForgetful, batch_size=1)
    with pytest.raises(RuntimeError, match=r"the rule recorded -?\d+ of \d+ steps: nothing to replay"):
        agent.learn(50)
    assert agent.episode == 0 and not agent.q_table.any()


PARAMETERS = single().parameters()
BEYOND = {
    "a pair beyond the last": [68, -1],
    "a state to bootstrap from beyond the last": [0, -2 - 17],
    "no end of an episode": [0, 1],
    "far below 0": [0, -(2**31)],
}


@pytest.mark.parametrize("pairs", BEYOND.values(), ids=BEYOND)
def test_experience_of_another_table_is_refused_before_anything_is_learned(pairs):
    q_table = np.zeros((17, 4))
    with pytest.raises(ValueError, match="pairs must"):
        td.q_learning.replay(q_table, np.array([0, -1, *pairs], np.int32), np.ones(4), (0, 1, 2, 3), PARAMETERS)
    assert not q_table.any()


def test_fewer_rewards_than_pairs_are_refused():
    with pytest.raises(ValueError, match="rewards must be 3 floats"):
        td.q_learning.replay(np.zeros((17, 4)), np.array([0, 1, -1], np.int32), np.ones(2), (0, 1, 2, 3), PARAMETERS)


def test_an_empty_experience_teaches_nothing():
    log = Experience.empty(10)
    assert td.q_learning.replay(np.zeros((17, 4)), *log.recorded(), (0, 1, 2, 3), PARAMETERS) == 0


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
def test_many_actions_are_learned_by_replaying_as_on_one_core(compiled):
    settings = {"learning_episodes": 2000, "do_test": False, "compiled": compiled}
    agent = finished(Fan(1500), cw_num=1, batch_size=500, **settings)
    assert agent.compiled == compiled
    assert learned(agent) == learned(single(Fan(1500), **settings))


# Faults ----------------------------------------------------------------------------------


def sink(env):
    raise LookupError("the boat has sunk")


def test_a_fault_in_a_collector_leaves_what_was_learned_before():
    agent = distributed(Ring(at=(33, 7), fault=sink, ends=False), do_test=False)
    with pytest.raises(LookupError, match="the boat has sunk"):
        agent.learn(50)
    assert agent.episode == 30
    agent.learn(20)
    assert learned(agent)[:3] == learned(finished(Ring(ends=False), learning_episodes=50, do_test=False))[:3]


def test_an_episode_that_never_ends_is_cut():
    agent = finished(Ring(ends=False), learning_episodes=10, test_interval=5, max_step=30, batch_size=5)
    assert agent.steps == 10 * 30
