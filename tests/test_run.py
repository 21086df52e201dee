"""Executing a plan: losses, hangs and unreachable processes change no bit, and a hopeless run ends.

The pool here runs calls immediately, as `InProcess` does, but loses the results named in `lost`.
"""

import functools
import itertools

import numpy as np
import pytest
from helpers import learned, same_as_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st

import td_helpers as td
from beyond import FederatedQLAgent
from tabular import run
from tabular.plan import Batch, Cost, plan
from tabular.pool import Call, Hung, Lost, Unreachable

LAKE = td.FrozenLakeEnv()
SETTINGS = {
    "learning_episodes": 137, "test_interval": 20, "trials": 5, "max_step": 100, "seed": 5, "cw_num": 2, "ew_num": 2,
    "batch_size": 10,
}  # fmt: skip


class Losing(td.InProcess):
    """A pool that loses the results in `lost`: {number: kind of loss}, numbered from 0 over the pool's life."""

    ahead = 2

    def __init__(self, lost=None):
        super().__init__()
        self.lost, self.results = lost or {}, itertools.count()
        self.replaced, self.begun, self.timeouts, self.sent = [], 0, [], []

    def submit(self, role, i, method, *arguments):
        calls = tuple(argument for argument in arguments if isinstance(argument, Call))
        values = [argument.reference if isinstance(argument, Call) else argument for argument in arguments]
        self.begun += method == "begin"
        self.sent.append((role, i, method))
        return Call(role, i, method, None, super().submit(role, i, method, *values), calls)

    def result(self, call, timeout=None):
        self.timeouts.append(timeout)
        if kind := self.lost.get(next(self.results)):
            at_fault = call.waits_for[0] if call.waits_for else call
            raise kind(at_fault, timeout) if kind is Hung else kind(at_fault)
        return call.reference

    def replace(self, lost):
        self.replaced.append((lost.call.role, lost.call.i))
        del self._players[lost.call.role]  # the server loses its table
        return 1


class Clock:
    """A fake clock that advances by sleeping, and by `step` seconds per reading."""

    def __init__(self, step=0.0):
        self.now, self.step, self.slept = 0.0, step, []

    def monotonic(self):
        self.now += self.step
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch):
    """A fake clock for runs, which advances only by sleeping."""
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    return clock


def agent_on(pool, kind=td.DistributedQLAgent, **changes):
    """Return an untrained agent on a pool."""
    return kind(LAKE, 0.3, 0.1, workers=pool, **(SETTINGS | changes))


def finished(pool, *arguments, **changes):
    """Return an agent that has learned all its episodes on a pool."""
    agent = agent_on(pool, *arguments, **changes)
    agent.learn_and_evaluate(progress=False)
    return agent


@functools.cache
def calm(kind=td.DistributedQLAgent):
    """Return the learned state of an undisturbed run."""
    agent = finished(td.InProcess(), kind)
    assert same_as_by_hand(agent)
    return learned(agent)


# The plan --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, sizes",
    [
        ((0, 100, 30, None), [30, 30, 30, 10]),
        ((0, 100, 30, 50), [30, 20, 30, 20]),
        ((13, 100, 30, 50), [30, 7, 30, 20]),
        ((50, 60, 30, 50), [10]),
        ((0, 30, 1000, 10), [10, 10, 10]),
        ((0, 30, 1000, None), [30]),
        ((7, 7, 5, 2), []),
    ],
    ids=str,
)
def test_a_plan_has_batches_of_the_size_asked_for_cut_at_test_points(arguments, sizes):
    ends = list(itertools.accumulate(sizes, initial=arguments[0]))
    expected = [Batch(i, first, last) for i, (first, last) in enumerate(itertools.pairwise(ends))]
    assert list(plan(*arguments)) == expected


def test_a_plan_is_made_batch_by_batch():
    assert next(plan(0, 2**40, 1, None)) == Batch(0, 0, 1)


def test_costs_add_up_part_by_part():
    assert Cost(1.0, 2.0, 3.0, 4).plus(Cost(10.0, 20.0, 30.0, 40)) == Cost(11.0, 22.0, 33.0, 44)


# Losses ----------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.sets(st.integers(0, 30), max_size=6), st.sampled_from([Lost, Hung]),
    st.sampled_from([td.DistributedQLAgent, FederatedQLAgent]),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.* has not answered")
def test_whatever_is_lost_once_changes_no_bit(lost, loss, kind):
    pool = Losing(dict.fromkeys((3 * number for number in lost), loss))
    agent = finished(pool, kind)
    assert learned(agent) == calm(kind)
    assert agent.restarts == len(pool.replaced)


def test_a_batch_that_was_lost_is_sent_again_from_the_table_before_it():
    pool = Losing({4: Lost})
    agent = finished(pool)
    assert pool.replaced == [("collector", 0)] and pool.begun == 2 and agent.restarts == 1


def test_a_test_that_was_lost_is_sent_again():
    pool = Losing()
    finished(pool)
    last_test = len(pool.timeouts) - 1
    pool = Losing({last_test: Lost})
    agent = finished(pool)
    assert pool.replaced == [("evaluator", 1)]
    assert learned(agent) == calm()
    assert sum(method == "evaluate" for _, _, method in pool.sent) == 6 + 1


def test_tests_take_turns_among_the_evaluators():
    pool = Losing()
    finished(pool)
    assert [i for role, i, _ in pool.sent if role == "evaluator"] == [0, 1, 0, 1, 0, 1]


def test_losses_with_progress_between_them_are_no_reason_to_give_up():
    agent = finished(Losing(dict.fromkeys(range(1, 200, 2), Lost)))
    assert learned(agent) == calm() and agent.restarts > 3 * run.LOSSES


@pytest.mark.parametrize("kind", [td.DistributedQLAgent, FederatedQLAgent])
def test_a_process_that_is_lost_for_ever_ends_the_run_with_what_was_learned(kind):
    agent = agent_on(Losing(dict.fromkeys(range(3, 100), Lost)), kind)
    with pytest.raises(RuntimeError, match=r"collector \d died during (collect|learn), for the 6th time in a row"):
        agent.learn_and_evaluate(progress=False)
    assert agent.episode > 0 and 6 <= agent.restarts <= 7
    agent.workers = td.InProcess()
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == calm(kind)


def test_an_evaluator_that_is_lost_for_ever_ends_the_run_with_what_was_learned():
    pool = Losing()
    pool.replace = lambda lost: 1
    agent = agent_on(pool)
    result = pool.result
    pool.result = lambda call, timeout: result(call) if call.role != "evaluator" else (_ for _ in ()).throw(Lost(call))
    with pytest.raises(RuntimeError, match=r"evaluator \d died during evaluate, for the 6th time in a row"):
        agent.learn_and_evaluate(progress=False)
    agent.workers = td.InProcess()
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == calm()


def test_a_process_that_hangs_is_told_of_with_what_it_was_doing():
    with pytest.warns(UserWarning, match="collector 0 has not answered collect in 180 s: it is replaced"):
        finished(Losing({0: Hung}))


@pytest.mark.filterwarnings("ignore:.* has not answered")
def test_a_process_that_hangs_for_ever_is_given_up_in_words_that_name_patience():
    agent = agent_on(Losing(dict.fromkeys(range(100), Hung)), patience=7)
    with pytest.raises(RuntimeError, match=r"collector 0 has not answered collect in 7 s, .* patience=7"):
        agent.learn_and_evaluate(progress=False)


def test_a_loss_of_before_the_last_replacement_is_not_counted(monkeypatch):
    pool = Losing({2: Lost, 3: Lost})
    pool.replace = lambda lost: 0
    agent = finished(pool)
    assert agent.restarts == 0 and learned(agent) == calm()


# Timeouts --------------------------------------------------------------------------------------


def test_an_unreachable_process_is_waited_for_and_not_replaced(clock):
    pool = Losing(dict.fromkeys(range(3, 23), Unreachable))
    agent = finished(pool, patience=45)
    assert learned(agent) == calm()
    assert not pool.replaced and agent.restarts == 0 and len(clock.slept) == 20


def test_a_process_that_stays_unreachable_ends_the_run_with_what_was_learned(clock):
    agent = agent_on(Losing(dict.fromkeys(range(3, 1000), Unreachable)), patience=45)
    with pytest.raises(RuntimeError, match=r"cannot be reached .* nothing was learned or tested for 46 s"):
        agent.learn_and_evaluate(progress=False)
    assert agent.episode > 0 and len(clock.slept) == 46
    agent.workers = td.InProcess()
    agent.learn_and_evaluate(progress=False)
    assert learned(agent) == calm()


def test_patience_starts_anew_with_every_success(clock):
    losses = {number for start in range(3, 200, 40) for number in range(start, start + 39)}
    assert learned(finished(Losing(dict.fromkeys(losses, Unreachable)), patience=45)) == calm()


def test_a_call_is_waited_for_as_long_as_patience_lasts(clock):
    pool = Losing()
    finished(pool, patience=45)
    assert set(pool.timeouts) == {45}


def test_a_call_is_waited_for_twice_as_long_as_the_longest_batch_so_far(clock):
    pool = Losing()
    result, slow = pool.result, iter([0, 0, 100])
    pool.result = lambda call, timeout: clock.sleep(next(slow, 0)) or result(call, timeout)
    finished(pool, patience=45)
    assert pool.timeouts[:3] == [45] * 3 and set(pool.timeouts[3:]) == {200}


@pytest.mark.filterwarnings("ignore:.* has not answered")
def test_the_time_for_which_a_process_hung_is_not_that_of_a_batch(clock):
    pool = Losing({2: Hung})
    result = pool.result

    def hung(call, timeout):
        if len(pool.timeouts) == 2:
            clock.sleep(timeout)
        return result(call, timeout)

    pool.result = hung
    finished(pool, patience=45)
    assert set(pool.timeouts) == {45}


# Calls in flight -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, most", [(td.DistributedQLAgent, 2 * 3), (FederatedQLAgent, 2)])
def test_two_batches_a_collector_are_on_their_way_and_no_more(kind, most):
    pool = Losing()
    agent = agent_on(pool, kind, cw_num=3, do_test=False, batch_size=2)
    learners = lambda: sum(role == "server" and method != "begin" for role, _, method in pool.sent)
    ahead = [learners() - agent.batches for _ in agent.learn_in_batches(120)]
    assert max(ahead) == most - 1  # one more has just arrived


def test_two_tests_an_evaluator_are_on_their_way_and_no_more():
    pool = Losing()
    agent = agent_on(pool, test_interval=1, ew_num=3, batch_size=1)
    waiting, keep = [], agent._keep_test

    def watched(*arguments):
        keep(*arguments)
        waiting.append(sum(method == "evaluate" for _, _, method in pool.sent) - len(agent.rewards))

    agent._keep_test = watched
    agent.learn_and_evaluate(progress=False)
    assert len(waiting) == 137 and max(waiting) == 2 * 3


def test_a_run_holds_the_turn_of_its_workers_until_it_ends():
    pool = td.InProcess()
    batches = agent_on(pool).learn_in_batches(40)
    next(batches)
    with pytest.raises(RuntimeError, match="busy with another run of this thread"):
        finished(pool)
    batches.close()
    assert learned(finished(pool)) == calm()


def test_an_abandoned_run_goes_on_to_the_same_bits():
    agent = agent_on(Losing())
    batches = agent.learn_in_batches(137)
    for _ in range(4):
        batch = next(batches)
    batches.close()
    assert agent.episode == batch.last == 40 and np.any(agent.q_table)
    agent.learn(97)
    assert learned(agent)[:3] == calm()[:3]


def test_batches_are_numbered_on_where_work_is_lost_and_sent_again():
    pool = Losing({2: Lost, 5: Lost})
    numbers = [batch.number for batch in agent_on(pool, do_test=False).learn_in_batches(137)]
    assert pool.begun == 3 and numbers == list(range(14))
