"""Copies of agents share nothing that learning changes, and only one thread at a time can use an agent."""

import copy
import pickle
import threading

import numpy as np
import pytest
from helpers import Ring, learned

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent, FederatedSARSAAgent

LAKE = td.FrozenLakeEnv()
SETTINGS = {"learning_episodes": 120, "test_interval": 20, "trials": 3, "max_step": 60, "seed": 3}
TEAM = {"cw_num": 2, "ew_num": 1, "batch_size": 5}
KINDS = {
    "Q-learning": (td.QLAgent, {}),
    "SARSA": (td.SARSAAgent, {}),
    "returns kept": (td.QLAgent, {"keep_returns": True}),
    "stepped": (td.QLAgent, {"compiled": False}),
    "distributed": (td.DistributedQLAgent, TEAM),
    "federated": (FederatedQLAgent, TEAM),
    "federated SARSA": (FederatedSARSAAgent, TEAM),
    "Dyna-Q": (DynaQAgent, {}),
    "distributed Dyna-Q": (DistributedDynaQAgent, TEAM),
    "distributed Dyna-Q, returns kept": (DistributedDynaQAgent, TEAM | {"keep_returns": True}),
}
kinds = pytest.mark.parametrize("name", KINDS)


def agent_of(name, simulator=LAKE, **changes):
    """Return an untrained agent; its workers, if any, run in this process."""
    kind, settings = KINDS[name]
    pool = {"workers": td.InProcess()} if "cw_num" in settings else {}
    return kind(simulator, 0.3, 0.1, **(SETTINGS | settings | pool | changes))


def pickled(agent):
    """Return a copy made by pickle, with its own pool."""
    made = pickle.loads(pickle.dumps(agent))
    if hasattr(made, "workers"):
        assert made.workers is None
        made.workers = td.InProcess()
    return made


def whole_run(agent):
    """Run an agent to the end; return its learned state."""
    agent.learn_and_evaluate(progress=False)
    return learned(agent)


def arrays_in(value, seen=None) -> list[np.ndarray]:
    """Return all arrays reachable from a value, except those of simulators."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, td.gym.Env | type):
        return []
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return [value]
    parts = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif hasattr(value, "__dict__"):
        parts = list(vars(value).values())
    return [array for part in parts for array in arrays_in(part, seen)]


@kinds
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_an_agent_and_its_copy_go_their_own_ways_to_the_same_bits(name, copied):
    agent, expected = agent_of(name), whole_run(agent_of(name))
    agent.learn(40)
    rewards = dict(agent.rewards)
    made = copied(agent)
    assert learned(made) == learned(agent)
    whole = learned(agent)
    made.learn_and_evaluate(progress=False)
    assert learned(agent) == whole and agent.rewards == rewards
    after = learned(made)
    agent.learn_and_evaluate(progress=False)
    assert learned(made) == after == learned(agent)
    assert after[0] == expected[0]


@kinds
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_shares_no_array_but_the_lakes(name, copied):
    agent = agent_of(name)
    agent.learn_and_evaluate(progress=False)
    agent.learn(7)
    made, tables = copied(agent), arrays_in(agent._table)
    own = [array for array in arrays_in(vars(agent)) if not any(array is table for table in tables)]
    others = [array for array in arrays_in(vars(made)) if not any(array is table for table in tables)]
    assert len(own) == len(others) >= 1
    assert not any(np.shares_memory(one, other) for one in own for other in others)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_share_workers_and_a_compiled_lake(copied):
    agent = agent_of("distributed")
    made = copied(agent)
    assert made.workers is agent.workers
    assert all(one is other for one, other in zip(made._table, agent._table, strict=True))
    stepped = agent_of("stepped", Ring())
    assert copied(stepped).simulator is not stepped.simulator


@pytest.mark.parametrize("pool", [td.InProcess, td.Threads, lambda: td.Workers(2, 1)], ids=["here", "threads", "Ray"])
def test_a_pool_is_a_place_and_not_copied(pool):
    one = pool()
    assert copy.copy(one) is one is copy.deepcopy(one)
    assert pickle.loads(pickle.dumps(one)) is None


# Threads -------------------------------------------------------------------------------------


def in_another_thread(work):
    """Run `work` in a new thread; return the error that it raises, or None."""
    caught = []

    def call():
        try:
            work()
            caught.append(None)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return caught[0]


class Watched(Ring):
    """A ring that calls `watch` in each reset."""

    def __init__(self, watch=None):
        super().__init__()
        self.watch = watch

    def __deepcopy__(self, memo):
        return type(self)(self.watch)

    def reset(self, **arguments):
        if self.watch:
            self.watch()
        return super().reset(**arguments)


USES = {
    "learn": lambda agent: agent.learn(5),
    "evaluate": lambda agent: agent.evaluate(trials=2),
    "learn and evaluate": lambda agent: agent.learn_and_evaluate(progress=False),
}


@kinds
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_another_thread_is_refused_while_an_agent_learns(name, use):
    ring, caught, given = Watched(), [], {"initial_value": 0.0} if "Dyna" in name else {}
    agent = agent_of(name, ring, **given)
    ring.watch = lambda: caught or caught.append(in_another_thread(lambda: use(agent)))
    whole = whole_run(agent)
    assert isinstance(caught[0], RuntimeError) and "in use by another thread" in str(caught[0])
    assert whole == whole_run(agent_of(name, Ring(), **given))
    assert in_another_thread(lambda: agent.learn(5)) is None  # the agent is free again


@pytest.mark.parametrize("name", ["distributed", "federated", "Dyna-Q", "distributed Dyna-Q"])
def test_a_run_of_batches_is_not_learned_into(name):
    agent = agent_of(name)
    for _ in agent.learn_in_batches(20):
        with pytest.raises(RuntimeError, match="learning in batches, which must end first"):
            agent.learn(5)
        assert np.isfinite(agent.evaluate(trials=2))
    agent.learn(100)
    assert learned(agent)[0] == whole_run(agent_of(name))[0]


CHANGES = {
    "a setting": lambda agent: setattr(agent, "epsilon", 0.5),
    "a setting of the same value": lambda agent: setattr(agent, "learning_rate", agent.learning_rate),
    "the q_table": lambda agent: setattr(agent, "q_table", np.ones_like(agent.q_table)),
    "the episode": lambda agent: setattr(agent, "episode", 7),
    "a save": lambda agent: agent.load("there is none"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("name", ["distributed", "federated", "Dyna-Q", "distributed Dyna-Q"])
def test_a_run_of_batches_is_not_changed_from_within(name, change):
    agent, calm = agent_of(name), agent_of(name)
    for _ in agent.learn_in_batches(40):
        with pytest.raises(RuntimeError, match="may not be assigned while this agent learns in batches"):
            change(agent)
    calm.learn(40)
    assert learned(agent) == learned(calm)
    agent.epsilon = 0.5  # now this is allowed


@kinds
def test_another_thread_does_not_change_an_agent_that_learns(name):
    ring, caught, given = Watched(), [], {"initial_value": 0.0} if "Dyna" in name else {}
    agent = agent_of(name, ring, **given)
    ring.watch = lambda: caught or caught.append(in_another_thread(lambda: setattr(agent, "epsilon", 0.5)))
    assert whole_run(agent) == whole_run(agent_of(name, Ring(), **given))
    assert isinstance(caught[0], RuntimeError) and "may not be assigned while" in str(caught[0])


@kinds
def test_copies_learn_side_by_side(name):
    agent = agent_of(name)
    copies = [copy.copy(agent) for _ in range(4)]
    for made in copies:
        if hasattr(made, "workers"):
            made.workers = td.InProcess()
    threads = [threading.Thread(target=made.learn_and_evaluate, args=(False,)) for made in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = whole_run(agent_of(name))
    assert [learned(made) for made in copies] == [expected] * 4


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled])
def test_no_copy_writes_over_the_originals_checkpoint(tmp_path, make):
    agent = agent_of("distributed", checkpoint=tmp_path / "one.npz")
    agent.learn(20)
    before = (tmp_path / "one.npz").read_bytes()
    other = make(agent)
    other.workers = td.InProcess()
    other.learn(20)
    assert (tmp_path / "one.npz").read_bytes() == before
    agent.learn(20)
    assert (tmp_path / "one.npz").read_bytes() != before


def test_a_copy_made_while_an_agent_learns_is_free():
    agent = agent_of("distributed")
    for _ in agent.learn_in_batches(10):
        made = copy.copy(agent)
        made.workers = td.InProcess()
        assert in_another_thread(lambda made=made: made.learn(5)) is None


def test_an_agent_whose_simulator_cannot_be_copied_says_so():
    class Window(Ring):
        def __deepcopy__(self, memo):
            raise RuntimeError("a window")

    with pytest.raises(TypeError, match=r"this agent cannot be copied, since its simulator cannot \(a window\)"):
        copy.copy(td.QLAgent(Window()))
