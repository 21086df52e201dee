"""A run that loses processes, nodes or a keystroke ends with the bits that it would have had."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
import ray
from ray._private.state import actors

import td_helpers as td

ROOT = Path(__file__).resolve().parent.parent
LAKE = td.FrozenLakeEnv(map_name="16x16")
RUN = {"learning_episodes": 60_000, "test_interval": 1000, "cw_num": 3, "ew_num": 2, "batch_size": 100}


def learn(workers=None, lake=LAKE, **changes):
    agent = td.DistributedQLAgent(lake, workers=workers, **(RUN | changes))
    agent.learn_and_evaluate(progress=False)
    return agent


def same(agent, calm) -> bool:
    """Whether two agents hold the same bits."""
    return (
        np.array_equal(agent.q_table, calm.q_table)
        and agent.total_rewards == calm.total_rewards
        and (agent.episode, agent.steps) == (calm.episode, calm.steps)
    )


def alive() -> set:
    """The ids of the actors that live or are about to."""
    return {name for name, actor in actors().items() if actor["State"] != "DEAD"}


def kill(actor) -> bool:
    """SIGKILL the process of an actor; False where it has none at the moment."""
    found = actors(actor._actor_id.hex())
    if found["State"] != "ALIVE" or found["Pid"] == 0:
        return False
    os.kill(found["Pid"], signal.SIGKILL)
    return True


def learn_under_fire(workers, choose, episodes: list[int], kind=td.DistributedQLAgent):
    """Learn, killing `choose(workers)` at each of the episodes: (agent, kills)."""
    agent, kills = kind(LAKE, workers=workers, **RUN), []

    def shoot():
        for episode in episodes:
            while agent.episode < episode:
                time.sleep(0.002)
            kills.extend(kill(actor) for actor in choose(workers))

    shooter = threading.Thread(target=shoot, daemon=True)
    shooter.start()
    agent.learn_and_evaluate(progress=False)
    shooter.join()
    return agent, sum(kills)


@pytest.fixture(scope="module")
def calm(workers):
    return learn(workers)


TARGETS = {
    "collector": lambda workers: workers.collectors[1:2],
    "evaluator": lambda workers: workers.evaluators[:1],
    "server": lambda workers: [workers.server],
    "collector and server": lambda workers: [workers.collectors[0], workers.server],
    "two collectors": lambda workers: workers.collectors[:2],
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_same_process_killed_three_times_changes_no_bit(workers, calm, target):
    agent, kills = learn_under_fire(workers, TARGETS[target], [5000, 20_000, 40_000])
    assert kills >= 3
    assert agent.restarts >= 3
    assert same(agent, calm)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_random_kills_at_random_moments_change_no_bit(workers, calm, seed):
    rng = random.Random(seed)
    anyone = lambda workers: [rng.choice([workers.server, *workers.collectors[:3], *workers.evaluators])]
    agent, kills = learn_under_fire(workers, anyone, sorted(rng.randrange(1000, 55_000) for _ in range(3)))
    assert kills and agent.restarts >= 1
    assert same(agent, calm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [td.FederatedQLAgent, td.FederatedSARSAAgent])
@pytest.mark.parametrize("target", ["collector", "server", "collector and server"])
def test_kills_change_no_bit_of_a_federated_run(workers, kind, target):
    undisturbed = kind(LAKE, workers=workers, **RUN)
    undisturbed.learn_and_evaluate(progress=False)
    agent, kills = learn_under_fire(workers, TARGETS[target], [4000, 30_000], kind)
    assert kills >= 2 and agent.restarts >= 2
    assert same(agent, undisturbed)


def test_a_calm_run_counts_no_restarts(calm):
    assert calm.restarts == 0


def interrupt_at(monkeypatch, agent, episode: int) -> None:
    """Raise KeyboardInterrupt in the driver's ray.get, once, when the agent has come to an episode."""
    get = ray.get

    def interrupted(*args, **kwargs):
        if agent.episode >= episode:
            monkeypatch.setattr(ray, "get", get)
            raise KeyboardInterrupt
        return get(*args, **kwargs)

    monkeypatch.setattr(ray, "get", interrupted)


def test_an_interrupted_run_goes_on_to_the_bits_of_an_uninterrupted_one(workers, calm, monkeypatch):
    agent = td.DistributedQLAgent(LAKE, workers=workers, **RUN)
    for episode in (300, 25_000, 41_700):
        interrupt_at(monkeypatch, agent, episode)
        with pytest.raises(KeyboardInterrupt):
            agent.learn_and_evaluate(progress=False)
        assert episode <= agent.episode < 60_000
        assert agent.steps > 0 and agent.q_table.any() and agent.q_table.flags.writeable
    agent.learn_and_evaluate(progress=False)
    assert same(agent, calm)


def test_an_interrupted_run_saved_and_loaded_ends_with_the_same_bits(workers, calm, monkeypatch, tmp_path):
    agent = td.DistributedQLAgent(LAKE, workers=workers, **RUN)
    interrupt_at(monkeypatch, agent, 30_000)
    with pytest.raises(KeyboardInterrupt):
        agent.learn_and_evaluate(progress=False)
    agent.save(tmp_path / "agent.npz")
    other = td.DistributedQLAgent(LAKE, workers=workers, **RUN).load(tmp_path / "agent.npz")
    other.learn_and_evaluate(progress=False)
    assert same(other, calm)


def test_an_interrupt_leaves_no_actor_behind(workers, monkeypatch):
    before = alive()
    agent = td.DistributedQLAgent(LAKE, **(RUN | {"cw_num": 1, "ew_num": 1}))
    interrupt_at(monkeypatch, agent, 500)
    with pytest.raises(KeyboardInterrupt):
        agent.learn_and_evaluate(progress=False)
    deadline = time.monotonic() + 5
    while alive() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive() - before


INTERRUPTED = """
import signal, sys, threading, time
import td_helpers as td
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
kind, arguments, marks = getattr(td, sys.argv[1]), eval(sys.argv[2]), eval(sys.argv[3])
agent = kind(td.FrozenLakeEnv(map_name="16x16"), **arguments)

def tell():
    for mark in marks:
        while agent.episode < mark:
            time.sleep(0.001)
        print("now", flush=True)

threading.Thread(target=tell, daemon=True).start()
stopped = []
while len(agent.total_rewards) < agent.learning_episodes // agent.test_interval:
    try:
        agent.learn_and_evaluate(progress=False)
    except KeyboardInterrupt:
        stopped.append(agent.episode)
print((stopped, agent.q_table.tobytes().hex(), agent.episode, agent.steps, agent.total_rewards))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (td.DistributedQLAgent, RUN),
        (td.QLAgent, {"learning_episodes": 10_000, "test_interval": 500, "compiled": False}),
    ],
)
def test_the_stop_button_pressed_twice_changes_no_bit(workers, kind, arguments):
    """Jupyter interrupts all processes of the kernel's group, those of Ray included."""
    marks = [arguments["learning_episodes"] // 5, arguments["learning_episodes"] // 2]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, kind.__name__, repr(arguments), repr(marks)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"RAY_ADDRESS": ""}, start_new_session=True,
    )  # fmt: skip
    for _ in marks:
        assert "now\n" in iter(process.stdout.readline, "")  # Ray may have its own to say
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    stopped, *bits = eval(next(line for line in out.splitlines() if line.startswith("([")))
    undisturbed = kind(LAKE, **arguments, **({"workers": workers} if kind is td.DistributedQLAgent else {}))
    undisturbed.learn_and_evaluate(progress=False)
    assert len(stopped) == 2 and stopped[0] >= marks[0] and stopped[1] >= marks[1]
    assert bits == [undisturbed.q_table.tobytes().hex(), *helpers.learned(undisturbed)[1:]]


def test_agents_one_after_another_and_side_by_side_leave_no_actors_and_do_not_interfere(workers):
    before = alive()
    small = {"learning_episodes": 3000, "cw_num": 1, "ew_num": 1, "batch_size": 250}
    alone = learn(workers, **small)
    other = td.DistributedQLAgent(LAKE, **(RUN | small))
    thread = threading.Thread(target=other.learn_and_evaluate, args=(False,))
    thread.start()
    beside = learn(workers, **small)
    thread.join()
    assert same(beside, alone) and same(other, alone)
    time_left = time.monotonic() + 5
    while alive() - before and time.monotonic() < time_left:
        time.sleep(0.05)
    assert not alive() - before


def test_runs_that_share_workers_take_turns(workers):
    settings = RUN | {"learning_episodes": 3000, "batch_size": 20}
    alone = learn(workers, **settings)
    agents = [td.DistributedQLAgent(LAKE, workers=workers, **settings) for _ in range(3)]
    threads = [threading.Thread(target=agent.learn_and_evaluate, args=(False,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(agent, alone) for agent in agents)


@pytest.mark.parametrize("role", ["collectors", "evaluators"])
def test_a_process_that_is_gone_for_good_ends_the_run_with_what_was_learned(workers, monkeypatch, role):
    monkeypatch.setattr(td, "LOSSES", 1)
    small = RUN | {"learning_episodes": 3000, "cw_num": 1, "ew_num": 1}
    with td.Workers(1, 1) as own:
        agent = td.DistributedQLAgent(LAKE, workers=own, **small)
        agent.learn(2000)
        ray.kill(getattr(own, role)[0])
        with pytest.raises(RuntimeError, match="processes were lost 2 times in a row"):
            agent.learn_and_evaluate(progress=False)
    assert agent.episode >= 2000
    agent.workers = workers
    agent.learn_and_evaluate(progress=False)
    assert np.array_equal(agent.q_table, learn(workers, **small).q_table)


def test_processes_of_another_ray_are_forgotten(workers):
    with td.Workers(1, 0) as own:
        gone = own.server, *own.collectors
        own.session = "of a Ray that was shut down"
        own.start()
        assert not {own.server, *own.collectors} & set(gone)
        for actor in gone:
            ray.kill(actor)
        ray.kill(own.server)  # and what is gone does not keep the others from being stopped
    assert (own.server, own.collectors) == (None, [])


def test_agents_keep_nothing_in_rays_store(workers):
    lake = td.FrozenLakeEnv(td.generate_map((64, 64), 0.0, seed=1))  # a table of 128 kB
    agent = td.DistributedQLAgent(lake, workers=workers, **(RUN | {"learning_episodes": 40, "batch_size": 5}))
    agent.learn(40)
    assert all(table.flags.owndata and table.flags.writeable for table in (agent.q_table, *agent._recent))


@pytest.mark.slow
def test_memory_and_batches_in_flight_stay_flat_over_a_million_episodes(workers):
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    agent = td.DistributedQLAgent(LAKE, workers=workers, **(RUN | {"learning_episodes": 1_000_000, "batch_size": 1000}))
    agent.learn(200_000)
    before = resident()
    agent.learn_and_evaluate(progress=False)
    assert agent.episode == 1_000_000 and len(agent.total_rewards) == 801  # the test at 200,000 was due
    assert resident() - before < 50e6


def test_no_more_than_two_batches_a_collector_are_on_their_way(workers, monkeypatch):
    sent, waiting = [], []
    send = td.DistributedQLAgent._send
    monkeypatch.setattr(td.DistributedQLAgent, "_send", lambda agent, *args: sent.append(1) or send(agent, *args))
    agent = td.DistributedQLAgent(LAKE, workers=workers, **(RUN | {"learning_episodes": 3000}))
    batches = agent._batches

    def watched(*args):
        for _ in batches(*args):
            waiting.append(len(sent) - agent.batches)
            yield

    monkeypatch.setattr(agent, "_batches", watched)
    agent.learn_and_evaluate(progress=False)
    assert len(sent) == 30 and max(waiting) < 2 * RUN["cw_num"]


def run_python(code: str, **environment) -> subprocess.CompletedProcess:
    """Run code in a fresh process from another folder, with td_helpers importable by the driver only."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(code)
    environment = {key: value for key, value in (os.environ | environment).items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_told_at_once(address):
    ended = run_python("import td_helpers; td_helpers.start_ray()", RAY_ADDRESS=address)
    assert "ConnectionError: no Ray cluster answers at RAY_ADDRESS=" + address in ended.stderr
    assert "unset RAY_ADDRESS" in ended.stderr


def test_a_missing_ray_is_told_with_what_to_do():
    ended = run_python("import sys; sys.modules['ray'] = None; import td_helpers; td_helpers.start_ray()")
    assert "ImportError: ray is not installed: pip install -r requirements.txt" in ended.stderr


def test_a_home_that_cannot_be_written_to_is_told_with_what_to_do():
    ended = run_python("import td_helpers; td_helpers.start_ray()", HOME="/dev/null/nowhere", RAY_ADDRESS="")
    assert "ConnectionError: Ray did not start" in ended.stderr
    assert "it needs a writable HOME" in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root to mount a small /dev/shm")
def test_a_small_shared_memory_is_enough():
    """In a container /dev/shm is often 64 MB; here 16 are all there is."""
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import td_helpers as td
        agent = td.DistributedQLAgent(td.FrozenLakeEnv(), learning_episodes=300, cw_num=1, ew_num=1)
        print(len(agent.learn_and_evaluate(progress=False)[0]))
    """
    mount = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$0" -c "$1"'
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, textwrap.dedent(code)], cwd="/", timeout=200,
        env=os.environ | {"RAY_ADDRESS": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == "3\n", ended.stderr


def test_without_a_folder_to_keep_compiled_code_in_the_module_still_works():
    code = """
        from numba.core import caching
        caching.CacheImpl._locator_classes = []
        import td_helpers as td
        agent = td.QLAgent(td.FrozenLakeEnv(), do_test=False)
        agent.learn(10)
        print(agent.steps)
    """
    assert int(run_python(code).stdout) > 10


@pytest.mark.slow
def test_runs_leave_no_objects_behind(workers):
    held = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    learn(workers, learning_episodes=3000)
    before = len(held())
    for _ in range(3):
        learn(workers, learning_episodes=3000)
    assert len(held()) <= before


def test_actors_that_do_not_start_are_given_up(workers, monkeypatch):
    before = alive()
    spawn = td.Workers._spawn

    def impossible(role, **options):  # a resource that no node has: the actor waits for ever
        return ray.remote(role).options(num_cpus=0, resources={"unobtainium": 1}).remote()

    monkeypatch.setattr(td.Workers, "_spawn", staticmethod(impossible))
    monkeypatch.setattr(td, "READY_SECONDS", 1)
    with pytest.raises(TimeoutError, match="2 Ray actors did not start"):
        td.Workers(1, 0).start()
    monkeypatch.setattr(td.Workers, "_spawn", staticmethod(spawn))
    assert not alive() - before


CLUSTER = """
import json, os, threading, time
import ray
from ray.cluster_utils import Cluster

os.chdir("/")  # the nodes start from a folder without the module
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
os.environ["RAY_ADDRESS"] = cluster.address
import td_helpers as td

td.start_ray()
workers = td.Workers(6, 2).start()
from ray._private.state import actors

places = {actors(c._actor_id.hex())["Address"]["NodeID"] for c in workers.collectors}
run = dict(learning_episodes=40_000, test_interval=1000, cw_num=3, ew_num=2, batch_size=100, workers=workers)
lake = td.FrozenLakeEnv(map_name="16x16")

def learn(at=None):
    agent = td.DistributedQLAgent(lake, **run)
    if at is not None:
        def remove():
            while agent.episode < at:
                time.sleep(0.002)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        threading.Thread(target=remove, daemon=True).start()
    agent.learn_and_evaluate(progress=False)
    return agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps

whole, lost = learn(), learn(at=10_000)
workers.stop()
ray.shutdown()
cluster.shutdown()
print(json.dumps({"nodes": len(places), "whole": whole, "lost": lost}))
"""


@pytest.mark.slow
def test_three_nodes_and_the_loss_of_one_give_the_bits_of_one_node(workers):
    import json

    expected = learn(workers, learning_episodes=40_000)
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + CLUSTER],
        cwd="/", capture_output=True, text=True, timeout=560,
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    bits = [expected.q_table.tobytes().hex(), expected.total_rewards, expected.steps]
    assert found["nodes"] == 3
    assert found["whole"] == bits
    assert found["lost"] == bits
