"""The simulated Ray: copies, orders and clocks as in Ray, one turn at a time, reproducible from a seed."""

import contextlib
import itertools
import sys
import threading
import time

import numpy as np
import pytest

import td_helpers as td
from tabular.simulated_ray import FATES, NotSimulated, Stuck, Watcher, simulated


@pytest.fixture
def ray():
    """A simulated Ray without faults."""
    with simulated(0):
        import ray

        yield ray


class Box:
    """An actor that keeps a list of what it was sent."""

    def __init__(self, *first):
        self.held = list(first)

    def add(self, *values):
        self.held += values
        return list(self.held)

    def flags(self, value):
        return value.flags.writeable

    def fail(self):
        raise LookupError("the boat has sunk")

    def nap(self, seconds, *_):
        time.sleep(seconds)
        return seconds

    def ask(self, other, value):
        import ray

        return ray.get(other.add.remote(value))


# Calls and objects ---------------------------------------------------------------------------


def test_calls_of_one_caller_run_in_the_order_in_which_they_were_sent(ray):
    box = ray.remote(Box).remote()
    answers = [box.add.remote(i) for i in range(20)]
    assert ray.get(answers[-1]) == list(range(20))


def test_a_call_waits_for_those_among_its_arguments_and_later_ones_do_not_overtake_it(ray):
    one, other = ray.remote(Box).remote(), ray.remote(Box).remote()
    slow = other.nap.remote(50.0)
    waits, later = one.add.remote(slow), one.add.remote("later")
    assert ray.wait([later], timeout=10.0)[0] == []
    assert ray.get([waits, later]) == [[50.0], [50.0, "later"]]


def test_calls_to_different_processes_end_in_orders_that_the_seed_decides():
    def order(seed):
        with simulated(seed):
            import ray

            boxes = [ray.remote(Box).remote() for _ in range(3)]
            waiting, ended = [box.add.remote(i) for i, box in enumerate(boxes)], []
            while waiting:
                done, waiting = ray.wait(waiting)
                ended.append(ray.get(done[0])[0])
            return tuple(ended)

    orders = [order(seed) for seed in range(60)]
    assert set(orders) == set(itertools.permutations(range(3)))
    assert orders == [order(seed) for seed in range(60)]


def test_arguments_and_results_are_copies_and_their_arrays_read_only(ray):
    box, sent = ray.remote(Box).remote(), [1, 2]
    held = box.add.remote(sent)
    sent.append(3)
    got = ray.get(held)
    assert got == [[1, 2]] and ray.get(held) is not got
    array = np.zeros(3)
    assert not ray.get(box.flags.remote(array)) and array.flags.writeable
    assert not ray.get(ray.put(array)).flags.writeable


def test_functions_classes_and_their_options_run_in_processes_of_their_own(ray):
    double = ray.remote(num_cpus=1)(lambda value: 2 * value)
    box = ray.remote(max_restarts=-1)(Box).options(name="box").remote(7)
    assert ray.get(double.remote(double.remote(21))) == 84
    assert ray.get(box.add.remote(double.remote(4))) == [7, 8]
    first, second = ray.remote(num_returns=2)(lambda: (1, 2)).remote()
    assert ray.get([second, first]) == [2, 1]


def test_a_class_keeps_the_globals_that_it_had_when_it_was_first_used(ray):
    space = {"factor": 2}
    exec("def scaled(value):\n    return factor * value", space)
    scaled = ray.remote(space["scaled"])
    assert ray.get(scaled.remote(1)) == 2
    space["factor"] = 3
    assert ray.get(scaled.remote(1)) == 2


def test_handles_and_references_within_other_objects_can_be_passed_on(ray):
    box, asking = ray.remote(Box).remote(), ray.remote(Box).remote()
    assert ray.get(asking.ask.remote(box, 5)) == [5]
    nested = ray.get(asking.add.remote([ray.put("inside")]))
    assert ray.get(nested[0][0]) == "inside"


def test_tasks_that_poll_give_way_to_each_other(ray):
    @ray.remote
    class Counter:
        def __init__(self):
            self.count = 0

        def next(self):
            self.count += 1
            return self.count

    @ray.remote
    def poll(counter, until):
        turns = 0
        while ray.get(counter.next.remote()) < until:
            turns += 1
        return turns

    counter = Counter.remote()
    assert min(ray.get([poll.remote(counter, 60) for _ in range(3)])) > 5


def test_an_error_comes_out_as_its_own_kind_and_as_rays(ray):
    box = ray.remote(Box).remote()
    with pytest.raises(LookupError, match="the boat has sunk") as caught:
        ray.get(box.fail.remote())
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    with pytest.raises(LookupError, match="the boat has sunk"):
        ray.get(box.add.remote(box.fail.remote()))
    assert ray.get(box.add.remote(1)) == [1]


def test_an_actor_that_fails_to_start_is_dead(ray):
    Failing = type("Failing", (Box,), {"__init__": lambda self: self.fail()})
    with pytest.raises(ray.exceptions.ActorDiedError, match="the boat has sunk"):
        ray.get(ray.remote(Failing).remote().add.remote(1))
    assert ray.get(ray.remote(Box).remote().add.remote(1)) == [1]


def test_a_killed_actor_is_dead(ray):
    box = ray.remote(Box).remote()
    busy = box.nap.remote(10.0)
    assert ray.wait([busy], timeout=5.0)[0] == []
    ray.kill(box)
    for call in (busy, box.add.remote(1)):
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(call)


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_actor_does_nothing_any_more(seed):
    with simulated(seed):
        import ray

        box, asking = ray.remote(Box).remote(), ray.remote(Box).remote()
        asks = [asking.ask.remote(box, i) for i in range(1000)]  # takes minutes of virtual time
        ray.kill(asking)
        time.sleep(1.0)
        held = ray.get(box.add.remote("killed"))
        time.sleep(1e3)
        assert ray.get(box.add.remote("later")) == [*held, "later"]
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(asks[-1])


# Time ----------------------------------------------------------------------------------------


def test_waiting_and_sleeping_pass_on_a_clock_of_their_own(ray):
    box, start = ray.remote(Box).remote(), time.monotonic()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(box.nap.remote(1e6), timeout=1e5)
    assert 1e5 <= time.monotonic() - start < 1.1e5
    time.sleep(1e5)
    assert time.time() > 2e5 and time.perf_counter() > 2e5


def test_the_clock_of_other_threads_and_of_afterwards_is_the_real_one():
    real = time.monotonic()
    with simulated(0):
        time.sleep(1e7)
        seen = []
        other = threading.Thread(target=lambda: seen.append(time.monotonic()))
        other.start()
        other.join()
    assert 0 <= seen[0] - real < 1e6 and 0 <= time.monotonic() - real < 1e6


def test_polling_the_clock_ends(ray):
    until = time.monotonic() + 0.01
    while time.monotonic() < until:
        pass


def test_where_nothing_can_happen_the_program_is_stuck_and_told():
    with pytest.raises(Stuck, match="nothing can happen any more"), simulated(0, {2: "hangs"}):
        import ray

        box = ray.remote(Box).remote()
        ray.get(box.add.remote(1))
        ray.get(box.add.remote(2))


def test_where_things_happen_for_ever_the_program_is_stuck_and_told():
    def poll():
        import ray

        while True:
            ray.wait([ray.put(1)])

    with pytest.raises(Stuck, match="too much has happened"), simulated(0, most_events=1000):
        import ray

        ray.get(ray.remote(poll).remote())


# Faults --------------------------------------------------------------------------------------

DIED, UNAVAILABLE, SILENCE, LOST = "ActorDiedError", "ActorUnavailableError", "GetTimeoutError", "ObjectLostError"
FATE = {  # by fate: the call's outcome within an hour, and what an actor that is sent "next" then holds
    "does not run": (UNAVAILABLE, ["before", "next"]),
    "answer lost": (UNAVAILABLE, ["before", "it", "next"]),
    "runs late": (UNAVAILABLE, ["before", "next", "it"]),
    "runs twice": (None, ["before", "it", "next", "it"]),
    "is swallowed": (SILENCE, ["before", "next"]),
    "slow": (None, ["before", "it", "next"]),
    "hangs": (SILENCE, SILENCE),
    "dies before": (DIED, DIED),
    "dies in": (DIED, DIED),
    "dies after": (None, DIED),
    "object lost": (LOST, ["before", "it", "next"]),
}


@pytest.mark.parametrize("fate", FATE)
def test_a_fate_is_what_it_says(fate):
    def outcome(reference):
        try:
            return ray.get(reference, timeout=3600.0)
        except ray.exceptions.RayError as error:
            return type(error).__name__

    with simulated(1, {2: fate}) as simulation:
        import ray

        box = ray.remote(Box).remote()
        before = box.add.remote("before")
        it = box.add.remote("it")
        following = box.add.remote("next")
        assert ray.get(before) == ["before"]
        time.sleep(3600.0)
        ended, held = outcome(it), outcome(box.add.remote())
        error, then = FATE[fate]
        assert ended == (error or ["before", "it"]) and held == then
        assert outcome(following)
    assert simulation.faults == {2: fate} and simulation.met == [f"call 2, Box 0.add('it'): {fate}"]


def test_every_fate_is_tested():
    assert {*FATE, "cut off"} == set(FATES)


def test_a_process_that_is_cut_off_comes_back_or_is_dead():
    ends = set()
    for seed in range(40):
        with simulated(seed, {2: "cut off"}):
            import ray

            box = ray.remote(Box).remote()
            ray.get(box.add.remote("before"))
            box.add.remote("it")
            time.sleep(3600.0)
            try:
                ends.add(tuple(ray.get(box.add.remote("next"))))
            except ray.exceptions.ActorDiedError:
                ends.add(DIED)
    assert ends == {("before", "next"), ("before", "it", "next"), DIED}


@pytest.mark.parametrize("fate", ["dies before", "dies in", "dies after", "hangs", "does not run", "is swallowed"])
def test_starting_a_process_may_fail(fate):
    with simulated(0, {0: fate}):
        import ray

        with pytest.raises(ray.exceptions.RayError):
            ray.get(ray.remote(Box).remote().add.remote(1), timeout=1e4)


def test_what_fates_a_share_of_calls_has_met_can_be_played_again():
    def play(faults):
        with simulated(3, faults) as simulation:
            import ray

            box = ray.remote(Box).remote()
            answers = [box.add.remote(i) for i in range(40)]
            done, _ = ray.wait(answers, num_returns=40, timeout=1e5)
            return simulation.faults, [*simulation.log], len(done)

    faults, *rest = play(0.1)
    assert len(faults) > 1 and play(faults) == (faults, *rest) == play(0.1)


# Entering and leaving ------------------------------------------------------------------------


def test_the_real_ray_is_back_afterwards_and_no_thread_is_left():
    import ray as real

    before = threading.active_count()
    with pytest.raises(ValueError), simulated(0):
        import ray

        ray.remote(Box).remote().nap.remote(1e9)
        for _ in range(3):
            ray.remote(Box).remote().add.remote(1)
        time.sleep(10.0)
        assert ray is not real and sys.modules["ray"] is ray
        raise ValueError
    assert sys.modules["ray"] is real and threading.active_count() == before


def test_processes_that_play_workers_leave_the_search_path_of_this_one_as_it_was():
    before = list(sys.path)
    with simulated(0), td.Workers(3, 2):
        pass
    assert sys.path == before


def test_a_task_that_catches_everything_is_ended_all_the_same():
    def stubborn():
        import ray

        while True:
            with contextlib.suppress(BaseException):
                ray.get(ray.put(1))

    with simulated(0):
        import ray

        ray.remote(stubborn).remote()
        time.sleep(1.0)


def test_a_session_ends_with_its_processes(ray):
    box = ray.remote(Box).remote()
    job = ray.get_runtime_context().get_job_id()
    assert ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()
    ray.init(num_cpus=4)
    assert ray.is_initialized() and ray.get_runtime_context().get_job_id() != job
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(box.add.remote(1))


def test_what_is_not_simulated_says_so(ray):
    async def wait(self):
        pass

    Waiting = type("Waiting", (), {"wait": wait})
    for attempt in (
        lambda: ray.util.ActorPool,
        lambda: ray.remote(max_concurrency=4)(Box),
        lambda: ray.remote(Waiting).remote(),
    ):
        with pytest.raises(NotSimulated, match="not simulated"):
            attempt()


def test_mistakes_are_told_as_ray_tells_them(ray):
    box = ray.remote(Box).remote()
    answer = box.add.remote(1)
    for attempt, error, message in (
        (lambda: ray.get(3), ValueError, "Invalid type of object refs, <class 'int'>"),
        (lambda: ray.get([answer, 3]), ValueError, "Invalid type of object refs"),
        (lambda: ray.wait([answer, answer]), ValueError, "unique"),
        (lambda: ray.wait(answer), TypeError, "expected a list"),
        (lambda: ray.wait([answer], num_returns=2), ValueError, "num_returns"),
        (lambda: ray.put(answer), TypeError, "not allowed"),
        (lambda: ray.kill(answer), ValueError, "only supported for actors"),
        (lambda: box.add(1), TypeError, "cannot be called directly"),
        (lambda: ray.remote(Box)(), TypeError, "cannot be instantiated directly"),
        (lambda: ray.remote(len)("abc"), TypeError, "cannot be called directly"),
        (lambda: ray.remote(1), TypeError, "keyword arguments"),
        (lambda: box.sink, AttributeError, "no attribute 'sink'"),
    ):
        with pytest.raises(error, match=message):
            attempt()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((-1,), ValueError, "seed must be a whole number from 0"),
        (("one",), TypeError, "seed must be a whole number"),
        ((0, 1.5), ValueError, "faults must be a number from 0 to 1"),
        ((0, {-1: "slow"}), ValueError, "number in faults"),
        ((0, {3: "sinks"}), ValueError, "faults must be among does not run, .*; got 'sinks' for call 3"),
        ((0, "slow"), TypeError, "faults"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message), simulated(*arguments):
        pass


def test_simulations_cannot_be_nested_or_used_from_other_threads(ray):
    with pytest.raises(RuntimeError, match="cannot be nested"), simulated(1):
        pass
    caught = []

    def put():
        try:
            ray.put(1)
        except RuntimeError as error:
            caught.append(str(error))

    other = threading.Thread(target=put)
    other.start()
    other.join()
    assert "for the thread that entered it" in caught[0]


# Who looks on -----------------------------------------------------------------------------------


def test_a_watcher_sees_calls_results_and_turns():
    seen = []

    class Onlooker(Watcher):
        def begins(self, process, call, arguments, settings):
            seen.append(("begins", process.number, call.method, arguments, settings))

        def ends(self, process, call, value):
            seen.append(("ends", process.number, call.method, value))

        def received(self, strand, value):
            seen.append(("received", strand.name, value))

        def resumed(self, strand):
            turns.append(strand.name)

    turns = []
    with simulated(3) as simulation:
        import ray

        simulation.watcher = Onlooker()
        box = ray.remote(Box).remote(1)
        ray.get(box.add.remote(2))
    assert seen == [
        ("begins", 0, "__init__", [1], {}), ("ends", 0, "__init__", None), ("begins", 0, "add", [2], {}),
        ("ends", 0, "add", [1, 2]), ("received", "driver", [1, 2]),
    ]  # fmt: skip
    assert {"Box 0", "driver"} == set(turns)


class Asker:
    """An actor that asks a box for flags."""

    def ask(self, box):
        import ray

        return ray.get(box.flags.remote("no array"))


def test_an_error_of_another_process_is_not_wrapped_twice_and_a_watcher_sees_both():
    seen = []

    class Onlooker(Watcher):
        def failed(self, process, call, problem):
            seen.append((process.name, type(problem).__name__))

    with simulated(3) as simulation:
        import ray

        simulation.watcher = Onlooker()
        asker, box = ray.remote(Asker).remote(), ray.remote(Box).remote()
        with pytest.raises(AttributeError) as caught:
            ray.get(asker.ask.remote(box))
    assert type(caught.value.cause) is AttributeError
    assert seen == [("Box 1", "AttributeError"), ("Asker 0", "RayTaskError(AttributeError)")]


def test_a_watcher_is_told_of_threads_that_are_not_simulated():
    told = []

    class Onlooker(Watcher):
        def refused_thread(self):
            told.append("refused")

    def put():
        with contextlib.suppress(RuntimeError):
            simulation.me()

    with simulated(3) as simulation:
        simulation.watcher = Onlooker()
        other = threading.Thread(target=put)
        other.start()
        other.join()
    assert told == ["refused"]
