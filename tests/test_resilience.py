"""A run that loses processes, nodes or its driver, or is interrupted, ends with the same bits.

Losses, hangs and delays are played on the simulated Ray, where they are cheap; test_orders.py plays them at random.
On the real Ray, processes are killed once.
"""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import orders
import pytest
from helpers import Ring, before_each_call, eventually, interrupted, killing_before, learned
from orders import KINDS, calm

import td_helpers as td
from beyond import FederatedQLAgent
from tabular.simulated_ray import simulated

ROOT = Path(__file__).resolve().parent.parent
LAKE = td.FrozenLakeEnv(map_name="16x16")
RUN = {"learning_episodes": 30_000, "test_interval": 1000, "cw_num": 3, "ew_num": 2, "batch_size": 100}
SERVER, COLLECTORS = ("server", 0), [("collector", i) for i in range(3)]
EVALUATORS = [("evaluator", i) for i in range(2)]
seeds = pytest.mark.parametrize("seed", range(5))


def agent_on(workers, kind=td.DistributedQLAgent, **changes):
    """Return an untrained agent."""
    return kind(LAKE, workers=workers, **(RUN | changes))


@functools.cache
def undisturbed() -> tuple:
    """The learned state of an undisturbed run in this process."""
    agent = agent_on(td.InProcess())
    agent.learn_and_evaluate(progress=False)
    return learned(agent)


# Lost processes --------------------------------------------------------------------------


def kill_at(agent, workers, episode: int, slots, hit: list) -> None:
    """Kill the processes in these slots once an episode is learned."""
    from ray._private.state import actors

    while agent.episode < episode:
        time.sleep(0.001)
    for slot in slots:
        hit.append(actors(workers._processes[slot]._actor_id.hex())["Pid"])
        os.kill(hit[-1], signal.SIGKILL)


@pytest.mark.slow
def test_processes_killed_at_once_change_no_bit(workers):
    agent, hit = agent_on(workers), []
    slots = [SERVER, COLLECTORS[1], EVALUATORS[0]]
    shooter = threading.Thread(target=kill_at, args=(agent, workers, 10_000, slots, hit), daemon=True)
    shooter.start()
    agent.learn_and_evaluate(progress=False)
    shooter.join()
    assert len(hit) == agent.restarts == 3
    assert learned(agent) == undisturbed()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_kills_at_random_moments_change_no_bit_and_each_is_counted_once(kind, seed):
    rng, slots = random.Random(seed), [SERVER, *COLLECTORS, *EVALUATORS]
    moments = {number: rng.sample(slots, rng.choice([1, 2, 6])) for number in rng.sample(range(1, 20), 2)}
    agent, calm_one = (orders.agent_on(pool, kind, cw_num=3, ew_num=2) for pool in (td.Workers(3, 2), td.InProcess()))
    calm_one.learn_and_evaluate(progress=False)
    with simulated(seed), killing_before(agent.workers, moments) as hit:
        agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(calm_one)
    assert agent.restarts == len(hit) > 0


# Hanging processes -----------------------------------------------------------------------


@seeds
@pytest.mark.parametrize("slot", [SERVER, COLLECTORS[1], EVALUATORS[0]], ids=str)
def test_a_process_that_stops_answering_is_told_of_and_replaced_without_a_changed_bit(seed, slot):
    agent = orders.agent_on(td.Workers(2, 1), td.DistributedQLAgent)
    faults, earlier = {}, iter(range(2))
    role, i = slot
    with simulated(seed, faults) as simulation:

        def hang(number, sent_to):
            if sent_to == slot and next(earlier, None) is None and not faults:
                faults[simulation.calls] = "hangs"

        warned = pytest.warns(UserWarning, match=rf"{role} {i} has not answered \w+\(.*\) in \d+ s: it is replaced")
        with before_each_call(agent.workers, hang), warned:
            agent.learn_and_evaluate(progress=False)
        time.sleep(1.0)
        alive = sum(not process.dead for process in simulation.processes.values())
    assert agent.restarts == 1 and alive == 4
    assert learned(agent) == calm(td.DistributedQLAgent, "with tests")


class HangsAt(Ring):
    """A ring whose reset never returns in one episode, in any process."""

    def __init__(self, episode: int):
        super().__init__()
        self.seed = td.QLAgent(Ring()).parameters().key ^ (episode << 20)

    def reset(self, *, seed=None, options=None):
        while seed == self.seed:
            time.sleep(60)
        return super().reset(seed=seed)


@seeds
@pytest.mark.filterwarnings("ignore:collector . has not answered")
def test_a_simulator_that_never_returns_is_given_up_with_what_was_learned(seed):
    settings = {"learning_episodes": 100, "do_test": False, "cw_num": 1, "batch_size": 10, "patience": 5}
    with simulated(seed):
        workers = td.Workers(2, 1)
        agent = td.DistributedQLAgent(HangsAt(35), workers=workers, **settings)
        hangs = r"collector 0 has not answered collect\(30, 10\) in 5 s, for the 6th time in a row.* patience=5"
        with pytest.raises(RuntimeError, match=hangs):
            agent.learn_and_evaluate(progress=False)
        again = orders.agent_on(workers, td.DistributedQLAgent)  # the workers remain usable
        again.learn_and_evaluate(progress=False)
    assert agent.episode == 30 and agent.q_table.any()
    alone = td.QLAgent(Ring(), do_test=False)
    alone.learn(30)
    assert learned(agent) == learned(alone)
    assert learned(again) == calm(td.DistributedQLAgent, "with tests") and again.restarts == 0


# Interrupts ------------------------------------------------------------------------------


@seeds
def test_a_run_interrupted_again_and_again_goes_on_to_the_bits_of_an_uninterrupted_one(seed, monkeypatch):
    with simulated(seed):
        agent = orders.agent_on(td.Workers(2, 1), td.DistributedQLAgent)
        for result in (3, 5, 4):
            episode = agent.episode
            with interrupted(monkeypatch, agent.workers, "result", result):
                agent.learn_and_evaluate(progress=False)
            assert episode < agent.episode < 60
            assert agent.steps > 0 and agent.q_table.any() and agent.q_table.flags.writeable
        agent.learn_and_evaluate(progress=False)
    assert learned(agent) == calm(td.DistributedQLAgent, "with tests")


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
    "kind, arguments",
    [
        (td.DistributedQLAgent, RUN | {"learning_episodes": 40_000, "cw_num": 2, "ew_num": 1}),
        (td.QLAgent, {"learning_episodes": 800, "test_interval": 100, "trials": 20, "compiled": False}),
    ],
    ids=["over Ray", "stepped"],
)
def test_the_stop_button_pressed_twice_changes_no_bit(kind, arguments):
    """Jupyter interrupts all processes of the kernel's group, including Ray's."""
    marks = [arguments["learning_episodes"] // 5, arguments["learning_episodes"] // 2]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, kind.__name__, repr(arguments), repr(marks)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"RAY_ADDRESS": ""}, start_new_session=True,
    )  # fmt: skip
    for _ in marks:
        assert "now\n" in iter(process.stdout.readline, "")  # skip Ray's own output
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    stopped, *bits = eval(next(line for line in out.splitlines() if line.startswith("([")))
    here = {"workers": td.InProcess()} if kind is td.DistributedQLAgent else {}
    undisturbed = kind(LAKE, **arguments, **here)
    undisturbed.learn_and_evaluate(progress=False)
    assert len(stopped) == 2 and stopped[0] >= marks[0] and stopped[1] >= marks[1]
    assert bits == [undisturbed.q_table.tobytes().hex(), *learned(undisturbed)[1:]]


# Checkpoints -----------------------------------------------------------------------------

SMALL = {
    "learning_episodes": 137, "test_interval": 20, "trials": 5, "cw_num": 2, "ew_num": 1, "batch_size": 10,
}  # fmt: skip


def small(path=None, seconds=0.0, **changes):
    """Return a distributed agent in one process, with a checkpoint."""
    return td.DistributedQLAgent(
        LAKE, workers=td.InProcess(), checkpoint=path, checkpoint_seconds=seconds, **(SMALL | changes)
    )


def test_a_checkpoint_has_what_was_learned_by_then_and_goes_on_to_the_same_bits(tmp_path):
    path = tmp_path / "agent.npz"
    agent, whole = small(path), small()
    whole.learn_and_evaluate(progress=False)
    for batch in agent.learn_in_batches(100):
        resumed = small().load(path)
        assert learned(resumed) == learned(agent) and resumed.episode == batch.last
    agent = small(path)
    agent.learn_and_evaluate(progress=False)
    assert learned(small().load(path)) == learned(agent) == learned(whole)
    assert os.listdir(tmp_path) == ["agent.npz"]


def test_checkpoints_are_written_every_so_many_seconds_and_at_the_end(tmp_path, monkeypatch):
    seconds = iter(range(1000))  # each reading is a second later
    monkeypatch.setattr("tabular.saves.time", types.SimpleNamespace(monotonic=seconds.__next__))
    saved = []
    monkeypatch.setattr(td.DistributedQLAgent, "save", lambda agent, path: saved.append((agent.episode, path)))
    agent = small("agent", seconds=5, do_test=False)
    agent.learn(137)
    assert saved == [(50, "agent"), (100, "agent"), (137, "agent")]


def test_an_interrupted_run_is_saved(tmp_path, monkeypatch):
    path = tmp_path / "agent.npz"
    agent, whole = small(path, seconds=3600), small()
    with interrupted(monkeypatch, td.EvaluationWorker, "evaluate", 3):
        agent.learn_and_evaluate(progress=False)
    resumed = small().load(path)
    assert resumed.episode == agent.episode > 0
    for one in (resumed, whole):
        one.learn_and_evaluate(progress=False)
    assert learned(resumed) == learned(whole)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_run_over_ray_is_saved_while_it_learns(kind, tmp_path):
    path = tmp_path / "agent.npz"
    with simulated(0):
        agent = orders.agent_on(td.Workers(2, 1), kind, checkpoint=path, checkpoint_seconds=0)
        for _ in agent.learn_in_batches(60):
            assert learned(orders.agent_on(None, kind).load(path)) == learned(agent)


DRIVER = """
import sys
import td_helpers as td
agent = td.DistributedQLAgent(
    td.FrozenLakeEnv(map_name="16x16"), workers=td.InProcess(), checkpoint=sys.argv[1], checkpoint_seconds=0, **{RUN}
)
print("now", flush=True)
agent.learn_and_evaluate(progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 0.7])
def test_a_driver_killed_at_any_moment_leaves_a_checkpoint_from_which_the_same_bits_are_learned(tmp_path, seconds):
    path = tmp_path / "agent.npz"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.replace("{RUN}", repr(RUN)), str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert driver.stdout.readline() == b"now\n"
    if seconds:
        assert eventually(path.exists)
        time.sleep(seconds)
    driver.kill()
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    agent = agent_on(td.InProcess())
    if path.exists():
        agent.load(path)
    assert path.exists() or not seconds
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == undisturbed()


# Ray's requirements ----------------------------------------------------------------------


def run_python(code: str, **environment) -> subprocess.CompletedProcess:
    """Run code in a fresh process from another folder, where only the driver can import td_helpers."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(code)
    environment = {key: value for key, value in (os.environ | environment).items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("call", ["start_ray()", "Workers().start()", "DistributedQLAgent(td.FrozenLakeEnv()).learn()"])
def test_a_missing_ray_is_told_with_what_runs_without_it(call):
    ended = run_python(f"import sys; sys.modules['ray'] = None; import td_helpers as td; td.{call}")
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("ImportError: ray is not installed: pip install -r requirements.txt. Without it")
    assert "workers=td.InProcess() or td.Threads()" in error and "single-core agents" in error


def test_a_home_that_cannot_be_written_to_is_told_with_what_to_do():
    settings = {"RAY_ADDRESS": "", "RAY_NAMESPACE": "mine", "RAY_worker_niceness": "3", "RAY_USE_TLS": "1"}
    ended = run_python("import td_helpers; td_helpers.start_ray()", HOME="/dev/null/nowhere", **settings)
    assert "ConnectionError: Ray did not start" in ended.stderr
    assert "it needs a writable HOME" in ended.stderr
    assert ended.stderr.endswith("Ray's settings in the environment: RAY_NAMESPACE, RAY_worker_niceness\n")


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
@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root to mount a small /dev/shm")
def test_a_small_shared_memory_is_enough():
    """Containers often limit /dev/shm to 64 MB; here it has 16."""
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


CLUSTER = """
import json, os, threading, time
import ray
from ray.cluster_utils import Cluster

os.chdir("/")  # the nodes start from a folder without the module
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
os.environ["RAY_ADDRESS"] = cluster.address
import td_helpers as td
from beyond import FederatedQLAgent

td.start_ray()
workers = td.Workers(6, 2).start()
from ray._private.state import actors

processes = workers._processes.values()
places = {actors(process._actor_id.hex())["Address"]["NodeID"] for process in processes}
run = dict(learning_episodes=20_000, test_interval=1000, cw_num=3, ew_num=2, batch_size=100, workers=workers)
lake = td.FrozenLakeEnv(map_name="16x16")

def learn(kind, at=None):
    agent = kind(lake, **run)
    if at is not None:
        def remove():
            while agent.episode < at:
                time.sleep(0.002)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        threading.Thread(target=remove, daemon=True).start()
    agent.learn_and_evaluate(progress=False)
    return agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps

found = {
    "nodes": len(places), "whole": learn(td.DistributedQLAgent), "federated": learn(FederatedQLAgent),
    "lost": learn(td.DistributedQLAgent, at=5000),
}
workers.stop()
ray.shutdown()
cluster.shutdown()
print(json.dumps(found))
"""


@pytest.mark.long
def test_three_nodes_and_the_loss_of_one_give_the_bits_of_one_process(tmp_path):
    """The nodes have only the packages; all modules of the project are sent with the job."""
    expected = {}
    for name, kind in (("whole", td.DistributedQLAgent), ("federated", FederatedQLAgent)):
        agent = agent_on(td.InProcess(), kind, learning_episodes=20_000)
        agent.learn_and_evaluate(progress=False)
        expected[name] = [agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps]
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + CLUSTER],
        cwd="/", capture_output=True, text=True, timeout=560,
        # HOME has no token: this cluster requires none, and would refuse calls of a driver that sends one.
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
        | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    assert found == {"nodes": 3, "lost": expected["whole"]} | expected
