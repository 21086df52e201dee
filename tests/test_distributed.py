"""The distributed agent: equal to one core where it must be, the same every time, exact counts, faults, saving."""

import numpy as np
import pytest
from helpers import Ring, batches_of, dataflow, learned, recipe_of

import td_helpers as td

LAKE = td.FrozenLakeEnv()
SETTINGS = {"learning_episodes": 137, "test_interval": 20, "trials": 5, "max_step": 100, "seed": 5}


def single(simulator=LAKE, **settings):
    """A finished single-core agent."""
    agent = td.QLAgent(simulator, 0.3, 0.1, **(SETTINGS | settings))
    agent.learn_and_evaluate(progress=False)
    return agent


def distributed(workers, simulator=LAKE, cw_num=2, batch_size=10, **settings):
    """A distributed agent that has learned nothing yet."""
    return td.DistributedQLAgent(
        simulator, 0.3, 0.1, cw_num=cw_num, ew_num=2, batch_size=batch_size, workers=workers, **(SETTINGS | settings)
    )


def finished(*arguments, **settings):
    """A distributed agent that has learned all."""
    agent = distributed(*arguments, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


# Without Ray -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_one_collector_in_process_equals_single_core(batch_size):
    agent = single()
    q_table, steps = dataflow(agent, 1, batches_of(137, batch_size, 20))
    assert (q_table.tobytes(), steps) == (agent.q_table.tobytes(), agent.steps)


def test_experience_beyond_the_buffer_is_collected_in_pieces():
    """700 episodes of 500 steps each do not fit the 2**18 entries of a collector's buffer."""
    endless = td.FrozenLakeEnv(["SHG"], transition_prob=(0, 0, 0, 1.0))
    agent = td.QLAgent(endless, 0.0, 0.1, 700, do_test=False, max_step=500, beta=0.9)
    agent.q_table[0, 1:] = -50.0
    recipe, start = recipe_of(agent), agent.q_table.copy()
    pairs, rewards, _ = td.CollectingWorker().collect(recipe, (start, 0), 0, 700)
    agent.learn(700)
    server = td.QLAgentServer()
    server.begin((start, 0))
    q_table, steps, _ = server.learn(recipe, (pairs, rewards, 0.0))
    assert len(pairs) == len(rewards) == 700 * 501 > 2**18
    assert (q_table.tobytes(), steps) == (agent.q_table.tobytes(), agent.steps)


def test_experience_takes_at_most_sixteen_bytes_a_step():
    pairs, rewards, _ = td.CollectingWorker().collect(recipe_of(single()), (np.zeros((17, 4)), 0), 0, 50)
    steps = int((pairs >= 0).sum())
    assert pairs.nbytes + rewards.nbytes <= 16 * steps
    assert (pairs.dtype, rewards.dtype) == (np.int32, np.float32)


def test_rewards_that_float32_cannot_hold_are_shipped_whole():
    agent = td.QLAgent(Ring(), 0.3, 0.1, 20, do_test=False)
    _, rewards, _ = td.CollectingWorker().collect(recipe_of(agent), (agent.q_table, 0), 0, 20)
    assert rewards.dtype == np.float64


class Narrow(Ring):
    """A ring of 200 states that answers in numpy's narrow types."""

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
    settings = {"learning_episodes": 60, "max_step": 7}  # short enough that some episodes are cut
    agent = single(Narrow(state, reward), **settings)
    q_table, steps = dataflow(single(Narrow(state, reward), **settings), 1, batches_of(60, 20, 20))
    assert (q_table.tobytes(), steps) == (agent.q_table.tobytes(), agent.steps)
    assert agent.q_table[195:].any() and not agent.q_table[:195].any()


def test_collecting_and_evaluating_leave_their_arguments_alone():
    recipe, q_table = recipe_of(single()), np.zeros((17, 4))
    q_table.flags.writeable = False  # as those of Ray
    collector, evaluator = td.CollectingWorker(), td.EvaluationWorker()
    first = collector.collect(recipe, (q_table, 0), 20, 30)[:2]
    collector.collect(recipe, (np.ones((17, 4)), 0), 0, 10)
    again = collector.collect(recipe, (q_table, 0), 20, 30)[:2]
    assert [part.tobytes() for part in first] == [part.tobytes() for part in again] and not q_table.any()
    assert evaluator.evaluate(recipe, (q_table, 0), 3)[0] == evaluator.evaluate(recipe, (q_table, 0), 3)[0]


def test_an_evaluator_gives_the_single_core_result():
    agent = td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS)
    agent.learn(60)
    mean, _ = td.EvaluationWorker().evaluate(recipe_of(agent), (agent.q_table, 0), 3)
    assert mean == single().total_rewards[2]


# Over Ray --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_one_collector_equals_single_core(workers, batch_size):
    assert learned(finished(workers, cw_num=1, batch_size=batch_size)) == learned(single())


@pytest.mark.parametrize("simulator", [LAKE, Ring()], ids=["lake", "Ring"])
def test_one_collector_by_stepping_equals_single_core(workers, simulator):
    settings = {"learning_episodes": 45, "compiled": False}
    assert learned(finished(workers, simulator, cw_num=1, batch_size=8, **settings)) == (
        learned(single(simulator, **settings))
    )


def test_settings_that_change_between_runs_reach_the_workers(workers):
    agents = td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS), distributed(workers, cw_num=1)
    for agent in agents:
        for agent.epsilon, agent.learning_rate in ((0.9, 0.2), (0.5, 0.1), (0.1, 0.05)):
            agent.learn(30)
        agent.learn_and_evaluate(progress=False)
    assert learned(agents[0]) == learned(agents[1])


@pytest.mark.parametrize("cw_num, batch_size", [(2, 10), (3, 7), (4, 1), (4, 1000)])
def test_the_dataflow_over_ray_equals_the_one_in_process(workers, cw_num, batch_size):
    agent = finished(workers, cw_num=cw_num, batch_size=batch_size)
    q_table, steps = dataflow(agent, cw_num, batches_of(137, batch_size, 20))
    assert (agent.q_table.tobytes(), agent.steps) == (q_table.tobytes(), steps)


def test_the_same_run_twice_has_the_same_bits(workers):
    assert learned(finished(workers, cw_num=3)) == learned(finished(workers, cw_num=3))


def test_own_workers_give_the_bits_of_lent_ones(workers):
    assert learned(finished(None)) == learned(finished(workers))


def test_results_depend_on_the_number_of_collectors(workers):
    assert not np.array_equal(finished(workers, cw_num=1).q_table, finished(workers, cw_num=4).q_table)


def test_tests_measure_the_table_at_their_own_episode(workers):
    agent = finished(workers)
    worker, tables = td.EvaluationWorker(), []
    for test in range(1, 7):
        part, _ = dataflow(agent, 2, batches_of(20 * test, 10, 20))
        tables.append(worker.evaluate(recipe_of(agent), (part, 0), test)[0])
    assert agent.total_rewards == tables


@pytest.mark.parametrize("episodes, interval, batch_size, tests", [(137, 20, 33, 6), (60, 20, 7, 3), (19, 20, 4, 0)])
def test_exact_counts(workers, episodes, interval, batch_size, tests):
    settings = {"learning_episodes": episodes, "test_interval": interval, "max_step": 1}
    agent = finished(workers, cw_num=3, batch_size=batch_size, **settings)
    assert (agent.episode, agent.steps, len(agent.total_rewards)) == (episodes, episodes, tests)
    assert agent.batches == len(batches_of(episodes, batch_size, interval))


def test_without_tests_nothing_is_evaluated(workers, monkeypatch):
    def fail(*_):
        raise AssertionError("an evaluation")

    monkeypatch.setattr(td._Evaluations, "send", fail)
    agent = distributed(workers, do_test=False)
    assert agent.learn_and_evaluate(progress=False)[0] == []
    assert agent.episode == 137 and agent.seconds["evaluate"] == 0.0


@pytest.mark.parametrize("cuts", [[137], [20, 40, 77], [10] * 13 + [7]], ids=["whole", "three", "batches"])
def test_learning_in_parts_equals_learning_at_once(workers, cuts):
    agent = distributed(workers)
    for episodes in cuts:
        agent.learn(episodes)
    assert learned(agent)[:3] == learned(finished(workers))[:3]


@pytest.mark.parametrize("first", [13, 20, 137])
def test_learning_a_part_first_has_the_results_of_single_core(workers, first):
    agents = distributed(workers, cw_num=1), td.QLAgent(LAKE, 0.3, 0.1, **SETTINGS)
    for agent in agents:
        agent.learn(first)
        agent.learn_and_evaluate(progress=False)
    assert learned(agents[0]) == learned(agents[1])


def test_the_table_can_be_written_to_afterwards(workers):
    agent = finished(workers)
    agent.q_table[0, 0] = 7.0
    assert agent.q_table[0, 0] == 7.0


# Interrupts and saving -------------------------------------------------------------------


def interrupt_at_take(monkeypatch, agent, number):
    """Run the agent until Ctrl-C falls into its collecting of result `number`."""
    take, left = td._Evaluations.take, [number]

    def interrupted(evaluations):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        take(evaluations)

    with monkeypatch.context() as patch:
        patch.setattr(td._Evaluations, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            agent.learn_and_evaluate(progress=False)
    return agent


@pytest.mark.parametrize("number", [1, 3, 6])
def test_an_interrupted_run_goes_on_with_the_same_bits(workers, monkeypatch, number):
    agent = interrupt_at_take(monkeypatch, distributed(workers), number)
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(workers))


@pytest.mark.parametrize("lent", [True, False], ids=["lent workers", "own workers"])
def test_learning_after_an_interrupt_needs_no_evaluator(workers, monkeypatch, lent):
    agent = interrupt_at_take(monkeypatch, distributed(workers), 1)
    if not lent:
        agent.workers = None
    before = agent.episode
    agent.learn(10)
    assert agent.episode == before + 10


@pytest.mark.parametrize("number", [1, 4])
def test_a_saved_run_goes_on_with_the_same_bits(workers, monkeypatch, tmp_path, number):
    stopped = interrupt_at_take(monkeypatch, distributed(workers, cw_num=3), number)
    stopped.save(tmp_path / "agent.npz")
    resumed = distributed(workers, cw_num=3).load(tmp_path / "agent.npz")
    assert learned(resumed) == learned(stopped)
    resumed.learn_and_evaluate(progress=False)
    assert learned(resumed) == learned(finished(workers, cw_num=3))


@pytest.fixture
def saved(tmp_path):
    """The save of an agent that has learned nothing."""
    distributed(None).save(tmp_path / "agent.npz")
    return tmp_path / "agent.npz"


@pytest.mark.parametrize("field, value", [("cw_num", 3), ("batch_size", 11), ("seed", 6)])
def test_a_save_of_other_settings_is_refused(saved, field, value):
    agent = distributed(None, **{field: value})
    with pytest.raises(ValueError, match=f"has {field} "):
        agent.load(saved)
    assert learned(agent) == learned(distributed(None, **{field: value}))


def test_a_single_core_save_is_refused(tmp_path):
    single().save(tmp_path / "agent.npz")
    with pytest.raises(ValueError, match="not a saved agent: it has no"):
        distributed(None).load(tmp_path / "agent.npz")


@pytest.mark.parametrize("field", ["recent", "untested_q_tables", "untested"])
@pytest.mark.parametrize("change", ["missing", "longer"])
def test_a_save_with_a_wrong_field_is_refused_by_its_name(saved, field, change):
    with np.load(saved) as file:
        arrays = dict(file)
    wrong = arrays.pop(field)
    if change == "longer":
        arrays[field] = np.zeros((len(wrong) + 1, *wrong.shape[1:]), wrong.dtype)
    np.savez(saved, **arrays)
    agent = distributed(None)
    with pytest.raises(ValueError, match=field):
        agent.load(saved)
    assert learned(agent) == learned(distributed(None))


# Faults in workers -----------------------------------------------------------------------


def sink(env):
    raise LookupError("the boat has sunk")


class Sunk(Exception):
    """An error that pickle cannot make again: it needs two arguments."""

    def __init__(self, boat, depth):
        super().__init__(f"{boat} lies {depth} m deep")


def sink_deep(env):
    raise Sunk("Nora", 40)


FAULTS = {
    "raises": (sink, LookupError, "the boat has sunk"),
    "reward nan": (lambda env: (1, float("nan"), False, False, {}), ValueError, "reward must be finite, got nan"),
    "state beyond the last": (
        lambda env: (5, -1.0, False, False, {}),
        ValueError,
        "state must be one of 0 to 4, got 5",
    ),
    "unpicklable": (sink_deep, Exception, "Nora lies 40 m deep"),
}


@pytest.fixture
def by_value():
    """Lets workers, which know no test folder, unpickle what is defined here."""
    import sys

    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize("fault, error, message", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_collector_is_the_envs_own_with_its_place(workers, by_value, fault, error, message):
    agent = distributed(workers, Ring(at=(3, 7), fault=fault, ends=False), cw_num=1)
    with pytest.raises(error, match=message) as caught:
        agent.learn_and_evaluate(progress=False)
    shown = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "episode 3, step 7" in shown


def test_a_fault_in_an_evaluator_is_the_envs_own_with_its_place(workers, by_value):
    one_each = {"cw_num": 4, "batch_size": 1, "learning_episodes": 4, "test_interval": 4}  # collectors see one reset
    with pytest.raises(LookupError, match="trial 2, step 7"):
        finished(workers, Ring(at=(2, 7), fault=sink, ends=False), **one_each)


def test_workers_serve_on_after_a_fault(workers, by_value):
    with pytest.raises(LookupError):
        distributed(workers, Ring(at=(3, 7), fault=sink, ends=False)).learn_and_evaluate(progress=False)
    assert learned(finished(workers)) == learned(finished(workers))


def test_an_episode_that_never_ends_is_cut(workers):
    agent = finished(workers, Ring(ends=False), learning_episodes=10, test_interval=5, max_step=30)
    assert agent.steps == 10 * 30
