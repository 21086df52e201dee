"""Runs in threads: the same bits, errors and interrupts as in other pools, and no thread left behind."""

import contextlib
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import Ring, interrupted, learned, same_as_by_hand
from orders import KINDS, WAYS, agent_on, calm, settings_of

import td_helpers as td
from beyond import FederatedQLAgent
from tabular.stopping import stop_if_ended
from tabular.threads import Team

LAKE = td.FrozenLakeEnv()
SMALL = {"learning_episodes": 137, "test_interval": 20, "trials": 5, "max_step": 100, "seed": 5, "batch_size": 5}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Check that no thread of a run outlives a test."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("td worker")] == []


def small(kind=td.DistributedQLAgent, simulator=LAKE, workers=None, **settings):
    """Return an agent with few episodes."""
    workers = workers or td.Threads()
    return kind(simulator, 0.3, 0.1, workers=workers, **({"cw_num": 3, "ew_num": 2} | SMALL | settings))


def finished(*arguments, **settings):
    """Return an agent that has learned all its episodes."""
    agent = small(*arguments, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


# Bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_a_run_in_threads_has_the_bits_of_one_after_another(monkeypatch, tmp_path, name, way):
    monkeypatch.setattr(td, "LARGE", 0 if way == "tables as changes" else td.LARGE)
    settings = settings_of(KINDS[name], way)
    if way == "checkpoints":
        settings["checkpoint"] = tmp_path / "agent.npz"
    for _ in range(3):
        agent = agent_on(td.Threads(), KINDS[name], **settings)
        WAYS[way][0](agent)
        assert learned(agent) == calm(KINDS[name], way) and agent.restarts == 0


@pytest.mark.parametrize("compiled", [None, False], ids=["compiled", "stepped"])
def test_one_collector_in_threads_is_one_core(compiled):
    settings = {name: value for name, value in SMALL.items() if name != "batch_size"} | {"compiled": compiled}
    alone = td.QLAgent(LAKE, 0.3, 0.1, **settings)
    alone.learn_and_evaluate(progress=False)
    assert learned(finished(cw_num=1, compiled=compiled)) == learned(alone)


@pytest.mark.parametrize("cw_num, in_flight", [(1, 2), (1, 4), (2, 3), (4, 2), (3, 5)])
def test_no_log_is_written_over_before_it_is_replayed(cw_num, in_flight):
    for _ in range(5):
        assert same_as_by_hand(finished(cw_num=cw_num, in_flight=in_flight, batch_size=3))


def test_experience_beyond_a_log_is_learned_alike():
    endless = td.FrozenLakeEnv(["SHG"], transition_prob=(0, 0, 0, 1.0))
    settings = {"learning_episodes": 1400, "do_test": False, "max_step": 500, "batch_size": 700, "cw_num": 2}
    over = [finished(simulator=endless, workers=pool, **settings) for pool in (td.Threads(), td.InProcess())]
    assert learned(over[0]) == learned(over[1])


def test_ray_is_not_imported(root):
    script = f"""
import sys
import td_helpers as td
agent = td.DistributedQLAgent(td.FrozenLakeEnv(), workers=td.Threads(), **{SMALL})
agent.learn_and_evaluate(progress=False)
print(len(agent.rewards), "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "6 False\n"


def test_runs_at_once_have_the_bits_of_runs_alone():
    shared = td.Threads()
    agents = [small(workers=pool, kind=kind) for pool in (shared, shared, td.Threads()) for kind in KINDS.values()]
    running = [threading.Thread(target=agent.learn_and_evaluate, args=(False,)) for agent in agents]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    alone = {kind: learned(finished(kind, workers=td.InProcess())) for kind in KINDS.values()}
    assert [learned(agent) for agent in agents] == [alone[type(agent)] for agent in agents]


def test_experience_that_does_not_travel_is_not_packed():
    shipped, kept = finished(workers=td.InProcess()), finished()
    entries = shipped.steps + 137
    assert (shipped.cost.bytes, kept.cost.bytes) == (8 * entries, 12 * entries)


# Simulators ----------------------------------------------------------------------------------


class Uncopied(Ring):
    """A ring that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_a_simulator_that_cannot_be_copied_is_refused_before_any_work():
    agent = small(simulator=Uncopied())
    with pytest.raises(TypeError, match=r"simulator must be one that copy\.deepcopy can copy.*use workers="):
        agent.learn_and_evaluate(progress=False)
    assert agent.episode == 0
    agent.workers = td.InProcess()
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(simulator=Ring(), workers=td.InProcess()))


def test_each_worker_steps_a_simulator_of_its_own():
    ring = Ring()
    agent = finished(simulator=ring)
    assert ring.resets == ring.actions == 0 and agent.steps > 0


def test_a_lake_is_copied_without_its_table():
    lake = td.FrozenLakeEnv(map_name="16x16")
    table = lake.table
    agent = finished(simulator=lake)
    assert lake.table is table and agent.episode == 137


def sink(env):
    raise LookupError("the boat has sunk")


@pytest.mark.parametrize("kind", [td.DistributedQLAgent, FederatedQLAgent])
def test_a_fault_of_a_simulator_is_its_own_with_its_place(kind):
    agent = small(kind, Ring(at=(3, 7), fault=sink, ends=False), cw_num=1)
    with pytest.raises(LookupError, match="the boat has sunk") as caught:
        agent.learn_and_evaluate(progress=False)
    assert "episode 3, step 7" in "\n".join(caught.value.__notes__)


def test_patience_has_no_effect_in_threads():
    class Slow(Ring):
        def reset(self, **arguments):
            time.sleep(0.002)
            return super().reset(**arguments)

    settings = {"learning_episodes": 20, "patience": 0.001}
    assert finished(simulator=Slow(), **settings).restarts == 0


# Interrupts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", [LAKE, Ring()], ids=["compiled", "stepped"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_interrupted_run_goes_on_to_the_same_bits(monkeypatch, kind, simulator):
    given = {} if simulator is LAKE or "Dyna" not in kind.agent_name else {"initial_value": 0.0}
    agent = small(kind, simulator, **given)
    for number in (2, 5, 1, 9):
        with interrupted(monkeypatch, agent.workers, "result", number):
            agent.learn_and_evaluate(progress=False)
        assert agent.episode < 137 and agent.q_table.flags.writeable
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(kind, simulator, workers=td.InProcess(), **given))


def test_a_run_that_is_left_half_way_ends_its_threads():
    agent = small()
    for _ in agent.learn_in_batches(100):
        break
    assert agent.episode == 5


def test_a_stepped_run_is_stopped_within_its_batch(monkeypatch):
    class Endless(Ring):
        steps = 0

        def step(self, action):
            Endless.steps += 1
            return super().step(action)

    agent = small(simulator=Endless(ends=False), max_step=10**6, cw_num=2, do_test=False)
    with interrupted(monkeypatch, agent.workers, "result", 1):  # the result of a batch that would take a minute
        agent.learn(10)
    steps = Endless.steps
    assert agent.episode == 0 and steps < 10**6
    time.sleep(0.05)
    assert Endless.steps == steps


STOPPED = """
import os, signal, sys, threading, time
import td_helpers as td
signal.signal(signal.SIGINT, signal.default_int_handler)
agent = td.DistributedQLAgent(
    td.FrozenLakeEnv(map_name="16x16"), workers=td.Threads(), learning_episodes=200_000, test_interval=1000,
    batch_size=1000, cw_num=2, ew_num=2,
)

def press():
    while agent.episode < 20_000:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=press, daemon=True).start()
try:
    agent.learn_and_evaluate(progress=False)
except KeyboardInterrupt:
    print(agent.episode, sum(thread.name.startswith("td worker") for thread in threading.enumerate()))
agent.learn_and_evaluate(progress=False)
print(agent.q_table.tobytes().hex())
"""


def test_the_stop_button_ends_a_run_whose_bits_stay_the_same(root):
    done = subprocess.run([sys.executable, "-c", STOPPED], cwd=root, capture_output=True, text=True, check=True)
    stopped, bits = done.stdout.splitlines()
    episode, threads = map(int, stopped.split())
    assert 20_000 <= episode < 200_000 and threads == 0
    undisturbed = td.DistributedQLAgent(
        td.FrozenLakeEnv(map_name="16x16"), workers=td.InProcess(), learning_episodes=200_000, test_interval=1000,
        batch_size=1000, cw_num=2, ew_num=2,
    )  # fmt: skip
    undisturbed.learn_and_evaluate(progress=False)
    assert bits == undisturbed.q_table.tobytes().hex()


# The pool ------------------------------------------------------------------------------------


class Player:
    """A worker of any role that keeps what it was sent."""

    def __init__(self):
        self.sent = []

    def add(self, *values):
        self.sent.append(values)
        return len(self.sent)

    def fail(self):
        raise LookupError("the boat has sunk")

    def spin(self):
        with contextlib.suppress(Exception):
            while True:
                stop_if_ended()


@pytest.fixture
def pool():
    """A pool within a run."""
    with td.Threads().run({"server": Player, "collector": Player, "evaluator": Player}) as pool:
        yield pool


def test_a_worker_does_its_calls_one_at_a_time_in_the_order_in_which_they_were_sent(pool):
    calls = [pool.submit("server", 0, "add", i) for i in range(200)]
    assert [pool.result(call) for call in calls] == list(range(1, 201))


def test_a_call_has_the_results_of_those_among_its_arguments(pool):
    first = pool.submit("collector", 0, "add", "first")
    second = pool.submit("collector", 1, "add", first, first)
    third = pool.submit("server", 0, "add", second, 7)
    assert pool.result(third) == 1
    desks = pool._team.desks
    assert desks["collector", 1].worker.sent == [(1, 1)] and desks["server", 0].worker.sent == [(1, 7)]


def test_a_call_that_follows_a_failed_one_has_failed_and_others_go_on(pool):
    failed = pool.submit("collector", 0, "fail")
    follows = pool.submit("server", 0, "add", failed)
    for call in (follows, failed, follows):
        with pytest.raises(LookupError, match="sunk"):
            pool.result(call)
    assert pool.result(pool.submit("server", 0, "add", 1)) == 1


def test_a_call_that_computes_for_ever_ends_with_its_run():
    with td.Threads().run({"server": Player}) as pool:
        pool.submit("server", 0, "spin")
        time.sleep(0.01)


class Locking(Ring):
    """A simulator whose steps take a lock shared by all copies, and catch every exception."""

    lock = threading.Lock()

    def step(self, action):
        try:
            with self.lock:
                time.sleep(0.0005)
                return super().step(action)
        except BaseException:
            return super().step(action)


def test_an_interrupt_falls_between_steps_and_leaves_no_lock_taken(monkeypatch):
    agent = small(simulator=Locking(), do_test=False)
    for number in (1, 2, 3):
        with interrupted(monkeypatch, agent.workers, "result", number):
            agent.learn(137)
        assert not Locking.lock.locked()
    agent.learn(137 - agent.episode)
    assert learned(agent) == learned(finished(simulator=Ring(), workers=td.InProcess(), do_test=False))


COMPILING = """
import os, signal, sys, threading, time
import td_helpers as td
from tabular import kernels
signal.signal(signal.SIGINT, signal.default_int_handler)

def make_rule():
    def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        q_table[state][action] += parameters.learning_rate * (reward - q_table[state][action])
    return td.Rule(update)

def agent_of(kind, **settings):
    single = type("Own", (td.QLAgent,), {"kernel": make_rule()})
    if kind is td.QLAgent:
        return single(td.FrozenLakeEnv(), seed=3)
    team = type("Team", (kind,), {"single": single})
    return team(td.FrozenLakeEnv(), seed=3, do_test=False, cw_num=3, batch_size=5, **settings)

pressed = threading.Event()
inner = kernels._undisturbed
def press_and_compile(call, *arguments, **named):
    if not pressed.is_set():
        pressed.set()
        os.kill(os.getpid(), signal.SIGINT)
    return inner(call, *arguments, **named)
kernels._undisturbed = press_and_compile
for kind, settings in [(td.QLAgent, {})] * 2 + [(td.DistributedQLAgent, {"workers": td.Threads()})] * 3:
    agent = agent_of(kind, **settings)
    pressed.clear()
    try:
        agent.learn(40)
        print("not interrupted")
    except KeyboardInterrupt:
        print(agent.episode < 40, sum(thread.name.startswith("td worker") for thread in threading.enumerate()))
    agent.learn(40 - agent.episode)
    calm = agent_of(kind, **({"workers": td.InProcess()} if settings else {}))
    calm.learn(40)
    print((agent.q_table == calm.q_table).all())
"""


def test_ctrl_c_while_numba_compiles_waits_and_harms_nothing(root):
    command = [sys.executable, "-c", COMPILING]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["True 0", "True"] * 5 and done.stderr == ""


# Simulators whose copies share state -----------------------------------------------------


class OfPython(Ring):
    """A ring that draws from Python's global generator, which its reset seeds."""

    def reset(self, *, seed=None, options=None):
        random.seed(seed)
        return super().reset(seed=seed)

    def step(self, action):
        return super().step(action if random.random() < 0.7 else 1 - action)


class OfNumpy(Ring):
    """A ring that draws from numpy's global generator, which its reset seeds."""

    def reset(self, *, seed=None, options=None):
        np.random.seed(seed % 2**32)  # noqa: NPY002
        return super().reset(seed=seed)

    def step(self, action):
        return super().step(action if np.random.random() < 0.7 else 1 - action)  # noqa: NPY002


class OfItsClass(Ring):
    """A ring that keeps its state in its class."""

    place = [0]

    def reset(self, *, seed=None, options=None):
        self.place[0] = 0
        return super().reset(seed=seed)[0], {}

    def step(self, action):
        self.place[0] = (self.place[0] + (1 if action else -1)) % 5
        return self.place[0], -1.0, self.place[0] == 3, False, {}


class OfClosures(Ring):
    """A ring whose moves are closures over the original, which copies share."""

    def __init__(self):
        super().__init__()
        self.at, self.moves = 0, {0: lambda: self.go(-1), 1: lambda: self.go(1)}

    def go(self, by):
        self.at = (self.at + by) % 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return 0, {}

    def step(self, action):
        self.moves[action]()
        return self.at, -1.0, self.at == 3, False, {}


@pytest.mark.parametrize("kind", [OfPython, OfNumpy, OfItsClass, OfClosures])
@pytest.mark.parametrize("agent", KINDS)
def test_a_simulator_whose_copies_share_something_is_refused_before_any_work(kind, agent):
    given = {"initial_value": 0.0} if "Dyna" in agent else {}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with pytest.raises(TypeError, match=r"copies share nothing that a step changes.*InProcess.*Workers"):
        KINDS[agent](kind(), workers=td.Threads(), **given)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1][1]).all()  # noqa: NPY002


def test_an_unseeded_simulator_is_not_refused():
    class Unseeded(Ring):
        def step(self, action):
            return super().step(random.SystemRandom().randrange(2))

    with pytest.warns(UserWarning, match="does not follow reset"):
        finished(simulator=Unseeded(), compiled=False)


# Threads that cannot start ---------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()], ids=type)
@pytest.mark.parametrize("number", [1, 3])
def test_what_stops_the_start_of_a_thread_comes_out_and_the_run_goes_on_later(monkeypatch, error, number):
    start, started = threading.Thread.start, []

    def failing(thread):
        started.append(thread)
        if len(started) == number:
            raise error
        start(thread)

    agent = small()
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", failing)
        context.setattr(Team, "_work", lambda team: team.ended.wait())  # no thread is idle, so each call starts one
        with pytest.raises(type(error)) as caught:
            agent.learn_and_evaluate(progress=False)
    assert caught.value is error
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(workers=td.InProcess()))
