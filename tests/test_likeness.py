"""The simulated Ray behaves like the real one: callers see the same of each event in both.

Tests that need a cluster, or a network to cut, are among the long ones.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import eventually
from test_cluster import QUICK_TO_GIVE_UP, cluster  # noqa: F401  a fixture

from tabular.simulated_ray import simulated

pytestmark = pytest.mark.usefixtures("by_value")
ROOT = Path(__file__).resolve().parent.parent
IT = 4  # number of the call that an event hits, after two starts and two calls


class Box:
    """An actor that keeps what it was sent."""

    def __init__(self):
        self.held = []

    def add(self, value):
        self.held.append(value)
        return len(self.held)

    def pid(self):
        return os.getpid()

    def nap(self, seconds):
        time.sleep(seconds)
        return "woke"

    def arrays(self):
        return np.zeros(3), np.zeros((4, 4))

    def writeable(self, array):
        return bool(array.flags.writeable)


def outcome(ray, reference, timeout=20.0):
    """Return a call's result, or the name of its error."""
    try:
        return ray.get(reference, timeout=timeout)
    except ray.exceptions.RayError as error:
        return type(error).__name__


class Fragile(Box):
    """An actor whose process ends when it wakes, as if its code had crashed."""

    def nap(self, seconds):
        time.sleep(seconds)
        os._exit(1)


def scene(ray, kind: type, seconds: float, befall, timeout=20.0) -> dict:
    """Let one of two actors nap, have an event hit it, and return the outcomes of all calls.

    In the end the actor is killed in any case.
    """
    box, other = (ray.remote(num_cpus=0)(one).remote() for one in (kind, Box))
    pid, _ = ray.get([box.pid.remote(), other.pid.remote()])
    it = box.nap.remote(seconds)
    calls = {"it": it, "behind it": box.add.remote(1), "waits for it": other.add.remote(it)}
    calls["other"] = other.pid.remote()
    befall(ray, box, pid)
    seen = {name: outcome(ray, call, timeout) for name, call in calls.items()}
    seen["later"] = outcome(ray, box.add.remote(2), timeout)
    ray.kill(box)
    seen["is dead in the end"] = eventually(lambda: outcome(ray, box.add.remote(3), 100.0) == DIED)
    return seen | {"other": isinstance(seen["other"], int) or seen["other"]}


def nothing(ray, box, pid):
    """Do nothing."""


def send(signum):
    """Return an event: a signal to the process, once it is in the call."""

    def befall(ray, box, pid):
        time.sleep(0.3)
        os.kill(pid, signum)

    return befall


def killed(ray, box, pid):
    """Have Ray kill the actor, and check that its process ends."""
    time.sleep(0.3)
    ray.kill(box)
    assert ray.__version__ == "simulated" or eventually(lambda: not psutil.pid_exists(pid))


DIED, SILENCE = "ActorDiedError", "GetTimeoutError"
DEAD = [DIED, DIED, f"RayTaskError({DIED})", True, DIED, True]
EVENTS = {  # by name: (seconds of the call, simulated faults, event for the real process, expected outcomes)
    "calm": (0.1, {}, nothing, ["woke", 1, 1, True, 2, True]),
    "the process dies in the call": (60.0, {IT: "dies in"}, send(signal.SIGKILL), DEAD),
    "the process ends itself in the call": (0.1, {IT: "dies in"}, nothing, DEAD),
    "the actor is killed": (60.0, {}, killed, DEAD),
    "the call hangs": (0.1, {IT: "hangs"}, send(signal.SIGSTOP), [SILENCE] * 5 + [True]),
}  # fmt: skip


@pytest.mark.parametrize("event", EVENTS)
def test_callers_see_the_same_of_an_event(workers, event):
    import ray

    seconds, faults, befalls, seen = EVENTS[event]
    hit = []

    def befall(ray, box, pid):
        hit.append(pid)
        befalls(ray, box, pid)

    names = ["it", "behind it", "waits for it", "other", "later", "is dead in the end"]
    kind = Fragile if "ends itself" in event else Box
    hangs = "hangs" in event
    try:
        # The process must be stopped during the call, so it naps until a second after it is stopped.
        real = scene(ray, kind, 1.3 if hangs else seconds, befall, 0.3 if hangs else 20.0)
    finally:
        if hangs:
            os.kill(hit[0], signal.SIGKILL)
    with simulated(0, faults):
        import ray as simulation

        unreal = scene(simulation, Box, seconds, killed if befalls is killed else nothing, 1e3)
    assert real == unreal == dict(zip(names, seen, strict=True))


def test_a_call_that_takes_long_times_out_and_comes_to_its_end(workers):
    import ray

    for faults in (None, {1: "slow"}):
        if faults is None:
            box = ray.remote(num_cpus=0)(Box).remote()
            slow = box.nap.remote(1.0)
            seen = outcome(ray, slow, 0.2), outcome(ray, slow)
        else:
            with simulated(0, faults):
                import ray as simulation

                slow = simulation.remote(Box).remote().nap.remote(1.0)
                seen = outcome(simulation, slow, 5.0), outcome(simulation, slow, 1e3)
        assert seen == (SILENCE, "woke")


class DiesAtItsStart(Box):
    """An actor that dies before it takes a call."""

    def __init__(self):
        os._exit(1)


def test_a_process_that_dies_at_its_start_fails_all_calls(workers):
    import ray

    unborn = ray.remote(num_cpus=0)(DiesAtItsStart).remote()
    assert [outcome(ray, unborn.add.remote(1)) for _ in range(2)] == [DIED, DIED]
    with simulated(0, {0: "dies in"}):
        import ray as simulation

        unborn = simulation.remote(Box).remote()
        assert [outcome(simulation, unborn.add.remote(1), 1e3) for _ in range(2)] == [DIED, DIED]


def test_a_process_that_died_when_idle_fails_later_calls_and_those_that_wait_for_them(workers):
    import ray

    def seen(ray, end, timeout):
        box, other = (ray.remote(num_cpus=0)(Box).remote() for _ in range(2))
        pid = ray.get(box.pid.remote())
        end(pid)
        later = box.add.remote(1)
        return outcome(ray, later, timeout), outcome(ray, other.add.remote(later), timeout)

    expected = DIED, f"RayTaskError({DIED})"
    assert seen(ray, lambda pid: (os.kill(pid, signal.SIGKILL), time.sleep(0.3)), 20.0) == expected
    with simulated(0, {2: "dies after"}):
        import ray as simulation

        assert seen(simulation, lambda pid: None, 1e3) == expected


def test_the_same_arrays_are_read_only(workers):
    import ray

    def seen(ray):
        box = ray.remote(num_cpus=0)(Box).remote()
        whole, part = np.zeros((4, 4)), np.zeros((4, 4))[:, 1]
        sent = [ray.get(box.writeable.remote(array)) for array in (whole, part)]
        return sent, [array.flags.writeable for array in ray.get(box.arrays.remote())]

    with simulated(0):
        import ray as simulation

        unreal = seen(simulation)
    assert seen(ray) == unreal == ([False, True], [False, False])


# Long tests ----------------------------------------------------------------------------------

LOST = """
import json, logging, sys
import numpy as np
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"near": 1}})
node = cluster.add_node(num_cpus=1, resources={"far": 1})
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)

class Box:
    def large(self):
        return np.ones(10**6)

    def shape(self, array):
        return array.shape

far, near = (ray.remote(num_cpus=0, resources={place: 1})(Box).remote() for place in ("far", "near"))
reference = far.large.remote()
ray.wait([reference], fetch_local=False)
cluster.remove_node(node, allow_graceful=False)

def kinds(call):
    try:
        ray.get(call, timeout=100)
        return []
    except ray.exceptions.RayError as error:
        return [kind.__name__ for kind in type(error).__mro__]

print(json.dumps([kinds(reference), kinds(near.shape.remote(reference))]))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.long
def test_an_object_lost_with_its_node_fails_those_who_want_it():
    process = subprocess.run(
        [sys.executable, "-c", LOST], cwd="/", capture_output=True, text=True, timeout=300,
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    alone, waiting = json.loads(process.stdout.splitlines()[-1])
    assert "ObjectLostError" in alone and "ObjectLostError" in waiting
    with simulated(0, {2: "object lost"}):
        import ray as simulation

        box, other = (simulation.remote(Box).remote() for _ in range(2))
        reference = box.add.remote(1)
        time.sleep(1e3)
        assert outcome(simulation, reference) == "ObjectLostError"
        assert outcome(simulation, other.add.remote(reference), 1e3) == "RayTaskError(ObjectLostError)"


CUT = """
    import json, os, sys, time
    import ray
    import td_helpers as td

    td.start_ray()

    class Box:
        def __init__(self):
            self.held = []

        def add(self, value):
            self.held.append(value)
            return list(self.held)

        def nap(self, value, seconds):
            time.sleep(seconds)
            return self.add(value)

        def node(self):
            return ray.get_runtime_context().get_node_id()

    head = ray.get_runtime_context().get_node_id()
    while True:  # until it is on another machine
        box = ray.remote(num_cpus=0, memory=1, scheduling_strategy="SPREAD")(Box).remote()
        if ray.get(box.node.remote()) != head:
            break

    def outcome(call, timeout):
        try:
            return ray.get(call, timeout=timeout)
        except ray.exceptions.RayError as error:
            return type(error).__name__

    address = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}[ray.get(box.node.remote())]
    ray.get(box.add.remote("before"))
    begun = box.nap.remote("begun", 3.0)
    time.sleep(1.0)
    print("cut", address, flush=True)
    sys.stdin.readline()
    during = [box.add.remote(value) for value in ("one", "two")]
    seen = {"begun": outcome(begun, 90), "during": [outcome(call, 90) for call in during]}
    print(json.dumps(seen | {"later": outcome(box.add.remote("later"), 90)}), flush=True)
"""


PATIENT = {"RAY_health_check_failure_threshold": "30"}  # an unreachable node is declared dead after minutes
UNAVAILABLE = "ActorUnavailableError"
CUTS = {  # by name: (Ray's settings, seconds, outcomes of the calls, what the actor then holds)
    "short: calls and answers are late": (
        PATIENT, 5, [["before", "begun"], ["before", "begun", "one"], ["before", "begun", "one", "two"]],
        ["before", "begun", "one", "two", "later"],
    ),
    "long: an answer is lost, and calls do not run": (PATIENT, 25, [UNAVAILABLE] * 3, ["before", "begun", "later"]),
    "longer than Ray waits: the process is dead": (QUICK_TO_GIVE_UP, 25, [DIED] * 3, DIED),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("cluster", "seconds", "ends", "held"), CUTS.values(), ids=CUTS, indirect=["cluster"])
def test_a_process_that_is_cut_off(cluster, seconds, ends, held):  # noqa: F811
    machines, user = cluster
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(CUT)
    driver = machines.popen(
        0, [sys.executable, "-c", code], env=user, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = (line for line in iter(driver.stdout.readline, "") if line.startswith(("cut ", "{")))
        node = int(next(lines).rsplit(".", 1)[1]) - 1
        machines.order("cut", node)
        driver.stdin.write("\n")
        driver.stdin.flush()
        time.sleep(seconds)
        machines.order("reconnect", node)
        seen = json.loads(next(lines))
    finally:
        driver.kill()
        driver.wait()
    assert [seen["begun"], *seen["during"], seen["later"]] == [*ends, held]
