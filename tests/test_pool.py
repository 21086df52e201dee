"""Pools: a run over Ray has the bits of one in this process; processes are shared, replaced and released.

Tests of pickling, the object store, memory and threads use the real Ray; the others use the simulated one.
"""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from helpers import Ring, eventually, interrupted, learned, processes_alive

import td_helpers as td
from beyond import DistributedDynaQAgent, FederatedQLAgent, FederatedSARSAAgent
from tabular import pool, simulation
from tabular.simulated_ray import simulated

LAKE = td.FrozenLakeEnv()
SETTINGS = {
    "learning_episodes": 137, "test_interval": 20, "trials": 5, "max_step": 100, "seed": 5, "cw_num": 3, "ew_num": 2,
    "batch_size": 5,
}  # fmt: skip
KINDS = {
    "distributed": (td.DistributedQLAgent, LAKE),
    "stepped": (td.DistributedQLAgent, Ring()),
    "federated": (FederatedQLAgent, LAKE),
    "federated SARSA": (FederatedSARSAAgent, LAKE),
    "Dyna-Q": (DistributedDynaQAgent, LAKE),
}
seeds = pytest.mark.parametrize("seed", range(5))
kinds = pytest.mark.parametrize("kind, simulator", KINDS.values(), ids=KINDS)


def agent_on(workers, kind=td.DistributedQLAgent, simulator=LAKE, **settings):
    """Return an untrained agent."""
    return kind(simulator, 0.3, 0.1, workers=workers, **(SETTINGS | settings))


def finished(*arguments, **settings):
    """Return an agent that has learned all its episodes."""
    agent = agent_on(*arguments, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


# In this process -------------------------------------------------------------------------


def test_in_one_process_ray_is_never_imported(root):
    script = f"""
import sys
import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
for kind in (td.DistributedQLAgent, FederatedQLAgent, FederatedSARSAAgent):
    agent = kind(td.FrozenLakeEnv(), workers=td.InProcess(), **{SETTINGS})
    agent.learn_and_evaluate(progress=False)
    print(len(agent.rewards), "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "6 False\n" * 3


@pytest.mark.parametrize("kind", [td.InProcess, lambda: td.Workers(2, 1)], ids=["InProcess", "Workers"])
def test_a_turn_is_given_back_whatever_ends_it(kind):
    one = kind()
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), one._turn():
            raise error
    with one._turn(), pytest.raises(RuntimeError, match="busy with another run of this thread"), one._turn():
        pass


# Leftovers of pools -----------------------------------------------------------------------


def test_a_pool_that_was_used_can_be_forgotten():
    pools = []
    for _ in range(100):
        agent = agent_on(td.InProcess(), learning_episodes=5, test_interval=5, trials=1)
        agent.learn_and_evaluate(progress=False)
        pools.append(weakref.ref(agent.workers))
    del agent
    gc.collect()
    assert [one() for one in pools] == [None] * 100


def test_a_pool_in_this_process_holds_no_players_between_runs():
    pool = td.InProcess()
    finished(pool)
    assert not pool._players and not pool._makers


def test_a_pool_that_has_become_too_small_is_refused_though_it_once_was_large_enough():
    pool = td.Workers(3, 2)
    agent = agent_on(pool)
    agent._check_settings()
    pool.cw_num = 2
    with pytest.raises(ValueError, match="workers must have at least 3 collectors and 2 evaluators, got 2 and 2"):
        agent.learn(10)


@pytest.mark.parametrize("workers", [[], {}, "processes", 4, td.InProcess], ids=repr)
def test_what_is_no_pool_is_refused_by_name(workers):
    with pytest.raises(TypeError, match="workers must be Workers, Threads, InProcess or None, got"):
        agent_on(workers)


@pytest.mark.parametrize("name", ["cw_num", "ew_num"])
@pytest.mark.parametrize("value", ["x", -1, 2.5, None], ids=repr)
def test_counts_of_workers_are_checked_whenever_they_are_assigned(name, value):
    pool = td.Workers(3, 2)
    with pytest.raises((TypeError, ValueError), match=f"{name} must be a whole number"):
        setattr(pool, name, value)
    assert (pool.cw_num, pool.ew_num) == (3, 2)


def test_the_class_of_processes_is_made_once_for_each_ray():
    assert pool._host() is pool._host()
    with simulated(0):
        of_simulation = pool._host()
        assert of_simulation is pool._host()
    assert of_simulation is not pool._host()


# Bits over Ray ---------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("settings", [{}, {"ties": "random", "keep_returns": True}], ids=["as ever", "ties, returns"])
def test_a_run_over_ray_has_the_bits_of_one_in_this_process(workers, kind, simulator, settings):
    over_ray, here = (finished(pool, kind, simulator, **settings) for pool in (workers, td.InProcess()))
    assert learned(over_ray) == learned(here)
    assert (over_ray.batches, over_ray.cost.bytes) == (here.batches, here.cost.bytes)
    assert over_ray.restarts == 0 and min(over_ray.cost) > 0


@seeds
@kinds
def test_a_run_interrupted_over_ray_and_saved_goes_on_in_this_process(monkeypatch, tmp_path, kind, simulator, seed):
    with simulated(seed):
        stopped = agent_on(td.Workers(3, 2), kind, simulator)
        with interrupted(monkeypatch, stopped.workers, "result", 14):
            stopped.learn_and_evaluate(progress=False)
        assert 0 < stopped.episode < 137 and len(stopped.rewards) < 6
        stopped.save(tmp_path / "agent.npz")
        resumed = agent_on(td.InProcess(), kind, simulator).load(tmp_path / "agent.npz")
        resumed.learn_and_evaluate(progress=False)
        stopped.learn_and_evaluate(progress=False)
    assert learned(resumed) == learned(stopped) == learned(finished(td.InProcess(), kind, simulator))


@seeds
def test_each_batch_over_ray_has_the_bits_of_one_in_this_process(seed):
    with simulated(seed):
        agents = agent_on(td.Workers(3, 2)), agent_on(td.InProcess())
        for batches in zip(*(agent.learn_in_batches(100) for agent in agents), strict=True):
            assert batches[0] == batches[1]
            assert learned(agents[0]) == learned(agents[1])


@seeds
def test_settings_that_change_between_runs_reach_the_processes(seed):
    with simulated(seed):
        agents = agent_on(td.Workers(3, 2)), agent_on(td.InProcess())
        for agent in agents:
            for agent.epsilon, agent.learning_rate in ((0.9, 0.2), (0.1, 0.05)):
                agent.learn(30)
            agent.learn_and_evaluate(progress=False)
    assert learned(agents[0]) == learned(agents[1])


def test_a_lake_too_large_to_be_sent_with_every_call_is_learned_alike(workers):
    lake = td.FrozenLakeEnv(td.generate_map((300, 300), 0.1, seed=1))
    settings = {"learning_episodes": 40, "test_interval": 20}
    assert learned(finished(workers, simulator=lake, **settings)) == (
        learned(finished(td.InProcess(), simulator=lake, **settings))
    )


def test_runs_that_share_workers_take_turns(workers):
    agents = [agent_on(workers, *KINDS[name]) for name in ("distributed", "federated", "stepped")]
    threads = [threading.Thread(target=agent.learn_and_evaluate, args=(False,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for agent in agents:
        assert learned(agent) == learned(finished(td.InProcess(), type(agent), agent.simulator))


# Processes -------------------------------------------------------------------------------


def simulated_alive(simulation) -> set:
    """Return the numbers of a simulated Ray's live processes, after giving killed ones time to die."""
    time.sleep(1.0)
    return {number for number, process in simulation.processes.items() if not process.dead}


@seeds
def test_runs_without_workers_of_their_own_share_processes_of_the_session(monkeypatch, seed):
    monkeypatch.setattr(pool, "_shared", None)
    settings = {"cw_num": 1, "ew_num": 1}
    with simulated(seed) as simulation:
        first = finished(None, **settings)
        shared = simulated_alive(simulation)
        assert len(shared) == 3
        assert learned(finished(None, **settings)) == learned(first) == learned(finished(td.InProcess(), **settings))
        assert simulated_alive(simulation) == shared
        finished(None, do_test=False, cw_num=2, ew_num=0)
        assert shared < simulated_alive(simulation) and len(simulated_alive(simulation)) == 4
        pool._shared.stop()
        assert not simulated_alive(simulation)


@seeds
def test_workers_end_with_their_block(seed):
    settings = {"cw_num": 1, "do_test": False}
    with simulated(seed) as simulation:
        with td.Workers(1, 0) as own:
            assert learned(finished(own, **settings)) == learned(finished(td.InProcess(), **settings))
            assert len(simulated_alive(simulation)) == 2
            assert own.start() is own and len(simulated_alive(simulation)) == 2
        assert not simulated_alive(simulation)


@seeds
def test_processes_of_a_ray_that_was_shut_down_are_forgotten(seed):
    with simulated(seed) as simulation:
        import ray

        with td.Workers(1, 0) as own:
            gone = simulated_alive(simulation)
            ray.shutdown()
            ray.init()
            again = finished(own, cw_num=1, do_test=False)
            started = simulated_alive(simulation)
            assert len(started) == len(gone) == 2 and not started & gone and again.restarts == 0
            ray.kill(own._processes["server", 0])  # a dead process must not prevent stopping the others
        assert not simulated_alive(simulation)


def test_workers_that_are_bound_anew_leave_no_processes(workers):
    """As when a cell is run again: the real Ray ends unreachable actors, the simulated one does not."""
    before = processes_alive()
    for _ in range(3):
        own = td.Workers(1, 0).start()
        finished(own, cw_num=1, do_test=False)
    assert eventually(lambda: len(processes_alive() - before) == 2)
    own.stop()


def test_processes_that_do_not_start_are_given_up(workers, monkeypatch):
    before = processes_alive()

    def impossible():  # a resource that no node has, so the actor never starts
        return pool._host().options(resources={"unobtainium": 1}).remote(str(pool.FOLDER))

    with monkeypatch.context() as patch, pytest.raises(TimeoutError, match="2 Ray actors did not start"):
        patch.setattr(pool, "_spawn", impossible)
        patch.setattr(pool, "READY_SECONDS", 0.5)
        td.Workers(1, 0).start()
    assert eventually(lambda: processes_alive() == before)


@seeds
@pytest.mark.parametrize("slot", [("server", 0), ("collector", 1), ("evaluator", 1)], ids=str)
def test_a_process_that_died_before_a_run_is_replaced(slot, seed):
    with simulated(seed):
        import ray

        with td.Workers(3, 2) as workers:
            ray.kill(workers._processes[slot])
            agent = finished(workers)
    assert learned(agent) == learned(finished(td.InProcess())) and agent.restarts == 1


def test_agents_keep_nothing_in_rays_store(workers):
    lake = td.FrozenLakeEnv(td.generate_map((64, 64), 0.0, seed=1))  # a table of 128 kB
    agent = agent_on(workers, simulator=lake)
    agent.learn(40)
    tables = agent.q_table, *agent._learned.recent
    assert len(tables) == 4 and all(table.flags.owndata and table.flags.writeable for table in tables)


def test_runs_leave_no_objects_behind(workers):
    import ray

    held = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    finished(workers)
    before = len(held())
    for _ in range(3):
        finished(workers)
    assert len(held()) <= before


def test_memory_stays_flat_over_many_episodes(workers):
    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    agent = agent_on(workers, learning_episodes=300_000, test_interval=1000, batch_size=1000)
    agent.learn(60_000)
    before = resident()
    agent.learn_and_evaluate(progress=False)
    assert agent.episode == 300_000 and len(agent.total_rewards) == 241  # the test at 60,000 was due
    assert resident() - before < 50e6


# Faults in workers -----------------------------------------------------------------------


def sink(env):
    raise LookupError("the boat has sunk")


class Sunk(Exception):
    """An error that pickle cannot restore, since it takes two arguments."""

    def __init__(self, boat, depth):
        super().__init__(f"{boat} lies {depth} m deep")


def sink_deep(env):
    raise Sunk("Nora", 40)


FAULTS = {
    "raises": (sink, LookupError, "the boat has sunk"),
    "reward nan": (lambda env: (1, np.nan, False, False, {}), ValueError, "reward must be a number from .*, got nan"),
    "state beyond the last": (
        lambda env: (5, -1.0, False, False, {}),
        ValueError,
        "state must be from 0 to 4, got 5",
    ),
    "unpicklable": (sink_deep, Exception, "Nora lies 40 m deep"),
}


@pytest.mark.parametrize("fault, error, message", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("kind", [td.DistributedQLAgent, FederatedQLAgent])
def test_a_fault_in_a_collector_is_the_envs_own_with_its_place(workers, by_value, kind, fault, error, message):
    agent = agent_on(workers, kind, Ring(at=(3, 7), fault=fault, ends=False), cw_num=1)
    with pytest.raises(error, match=message) as caught:
        agent.learn_and_evaluate(progress=False)
    shown = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "episode 3, step 7" in shown and agent.restarts == 0


def test_a_fault_in_an_evaluator_is_the_envs_own_with_its_place(workers, by_value):
    one_each = {"cw_num": 4, "batch_size": 1, "learning_episodes": 4, "test_interval": 4}  # one reset each
    with pytest.raises(LookupError, match="trial 2, step 7"):
        finished(workers, simulator=Ring(at=(2, 7), fault=sink, ends=False), **one_each)


@seeds
def test_workers_serve_on_after_a_fault(seed):
    with simulated(seed), td.Workers(3, 2) as workers:
        with pytest.raises(LookupError):
            finished(workers, simulator=Ring(at=(3, 7), fault=sink, ends=False))
        assert learned(finished(workers)) == learned(finished(td.InProcess()))


def end_process(env):
    """End the process that steps the env, as if its code had crashed."""
    simulation.running().me().die()
    time.sleep(0.0)


@seeds
def test_a_simulator_that_ends_its_process_is_given_up_and_the_workers_serve_on(seed):
    dying = Ring(at=(2, 3), fault=end_process, ends=False)
    message = r"collector \d died during collect.*: does the simulator end its process"
    with simulated(seed), td.Workers(3, 2) as workers:
        agent = agent_on(workers, simulator=dying, cw_num=2, do_test=False)
        with pytest.raises(RuntimeError, match=message):
            agent.learn(137)
        assert agent.restarts <= 2 * 6  # six times for each collector
        again = finished(workers)
    assert learned(again) == learned(finished(td.InProcess())) and again.restarts <= 2


# Errors and simulators that cannot be pickled -------------------------------------------------


def faults():
    """Return errors that a simulator raises, whose classes are pickled with it, by expected message."""

    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    class Locked(Exception):
        def __init__(self):
            super().__init__("the door is locked")
            self.lock = threading.Lock()

    return {"Odd: one and two": lambda: Odd("one", "two"), "Locked: the door is locked": Locked,
            "KeyboardInterrupt": KeyboardInterrupt}  # fmt: skip


@pytest.mark.parametrize("words", faults())
def test_an_error_that_cannot_travel_is_told_with_its_place(workers, words):
    make = faults()[words]

    def fault(env):
        raise make()

    settings = {"cw_num": 1, "batch_size": 5, "do_test": False, "max_step": 10, "workers": workers}
    agent = td.DistributedQLAgent(Ring(at=(3, 2), fault=fault, ends=False), **settings)
    with pytest.raises(RuntimeError, match=words) as caught:
        agent.learn(10)
    assert len(str(caught.value).splitlines()) == 1
    if words != "KeyboardInterrupt":
        assert "episode 3, step 2" in "\n".join(caught.value.__notes__)


def test_a_simulator_that_cannot_be_pickled_is_named(workers):
    ring = Ring()
    ring.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"simulator must be one that can be pickled.*use workers=td\.InProcess"):
        td.DistributedQLAgent(ring, cw_num=1, do_test=False, workers=workers).learn(5)
