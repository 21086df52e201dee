"""Traces: the times of all calls of a distributed run, what processes wait for, the picture and the file."""

import copy
import functools
import itertools
import json
import pickle
import platform
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import orders
import pytest
from helpers import killing_before, learned
from orders import KINDS, WAYS, agent_on, calm, settings_of

import td_helpers as td
from beyond import DistributedDynaQAgent, FederatedQLAgent
from tabular import trace as tracing
from tabular.simulated_ray import simulated
from tabular.timeline import MISSING, SHADES
from tabular.trace import Phase, phases, shares

TICK = 1e-6  # by which a simulated Ray's clock advances at each reading


def traced(pool, kind=td.DistributedQLAgent, **settings):
    """Return an agent that has learned with a trace."""
    agent = agent_on(pool, kind, trace=True, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


def graph(spans) -> set:
    """Return each call of a trace with those that it waited for, in any order."""
    name = lambda span: (span.role, span.i, span.batch)
    return {(*name(span), frozenset(name(spans[i]) for i in span.waited_for)) for span in spans}


def agrees(spans) -> bool:
    """Whether each call of a trace began after it was sent, and after the calls that it waited for had ended."""
    known = [span for span in spans if span.ended is not None]
    return all(
        0 <= span.sent <= span.began <= span.ended and all(spans[i].ended <= span.began for i in span.waited_for)
        for span in known
    )


# Recording -----------------------------------------------------------------------------------


def test_a_trace_is_kept_if_it_is_asked_for():
    without = agent_on(td.InProcess(), td.DistributedQLAgent)
    without.learn(30)
    assert without.trace is None
    agent = agent_on(td.InProcess(), td.DistributedQLAgent, trace=True)
    assert agent.trace == []
    agent.learn(30)
    assert all(type(span) is td.Span for span in agent.trace) and len(agent.trace) == 1 + 2 * 6


@pytest.mark.parametrize("given", [1, "yes", None])
def test_only_true_and_false_ask_for_a_trace(given):
    with pytest.raises(TypeError, match="trace must be True or False, got"):
        agent_on(td.InProcess(), td.DistributedQLAgent, trace=given)


def test_each_call_has_its_times_and_what_it_waited_for(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", functools.partial(next, itertools.count(100.0)))
    agent = agent_on(td.InProcess(), td.DistributedQLAgent, trace=True, ew_num=1, batch_size=10, test_interval=20)
    agent.learning_episodes = 20
    agent.learn_and_evaluate(progress=False)
    # A worker reads the clock twice within each call, except the first.
    assert agent.trace == [
        ("server", 0, None, 1.0, 2.0, 3.0, (), ""),
        ("collector", 0, 0, 4.0, 5.0, 8.0, (), ""),
        ("server", 0, 0, 9.0, 10.0, 13.0, (1,), ""),
        ("collector", 1, 1, 14.0, 15.0, 18.0, (), ""),
        ("server", 0, 1, 19.0, 20.0, 23.0, (3,), ""),
        ("evaluator", 0, 20, 24.0, 25.0, 28.0, (), ""),
    ]
    assert agent.cost[:3] == (2.0, 2.0, 1.0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_all_pools_record_the_same_calls(kind):
    found = [graph(traced(pool, kind).trace) for pool in (td.InProcess(), td.Threads())]
    with simulated(3):
        found.append(graph(traced(td.Workers(2, 1), kind).trace))
    assert found[0] == found[1] == found[2]


def test_a_table_is_waited_for_two_batches_later_and_by_all_workers_of_a_round():
    spans = traced(td.InProcess(), do_test=False, in_flight=3).trace
    waited = {(span.role, span.batch): [spans[i].batch for i in span.waited_for] for span in spans}
    assert [waited["collector", batch] for batch in range(6)] == [[], [], [], [], [0], [1]]  # 2 * (3 - 1) later
    spans = traced(td.InProcess(), FederatedQLAgent, do_test=False).trace
    merged = [spans[i] for i in next(span for span in spans if span.role == "server" and span.batch == 1).waited_for]
    assert [(span.role, span.i, span.batch) for span in merged] == [("collector", 0, 1), ("collector", 1, 1)]
    assert {tuple(spans[i].role for i in span.waited_for) for span in merged} == {("server",)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_all_times_come_back_from_other_processes(kind):
    with simulated(4):
        agent = traced(td.Workers(2, 1), kind)
    assert all(span.ended is not None for span in agent.trace) and agrees(agent.trace)


class Slow(td.CollectingWorker):
    """A collector that takes 10 s, or 20 s if its number of episodes is odd."""

    def collect(self, snapshot, first, episodes):
        time.sleep(10 * (1 + episodes % 2))
        return super().collect(snapshot, first, episodes)


class Slower(td.QLAgentServer):
    """A server that takes 30 s a batch."""

    def learn(self, collected):
        time.sleep(30)
        return super().learn(collected)


class Unhurried(td.DistributedQLAgent):
    """Whose server is the bottleneck."""

    roles = {**td.DistributedQLAgent.roles, "server": Slower, "collector": Slow}


def test_calls_take_as_long_as_they_take():
    with simulated(5):
        spans = traced(td.Workers(2, 1), Unhurried, batch_size=8).trace  # 8 and 7 episodes until each test
    took = {role: [span.ended - span.began for span in spans if span.role == role] for role in ("server", "collector")}
    assert took["collector"] == pytest.approx([10.0, 20.0] * 4, abs=9 * TICK)
    assert took["server"] == pytest.approx([0.0] + [30.0] * 8, abs=9 * TICK)


def test_the_slowest_role_works_and_the_others_wait_for_it():
    with simulated(5):
        spans = traced(td.Workers(2, 1), Unhurried, batch_size=8).trace
    took = shares(spans)
    assert took["server", 0]["works"] > 0.9
    assert took["collector", 0]["waits for server 0"] > 0.3 > took["collector", 0]["works"]
    assert sum(took["collector", 1].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_times_of_calls_sum_to_the_cost(kind):
    with simulated(6):
        agent = traced(td.Workers(2, 1), kind)
    # A call has two readings of the clock more than what its worker counts; DynaWorker has another one in between.
    ticks = {"collector": 3 if kind is DistributedDynaQAgent else 2, "server": 2, "evaluator": 2}
    counted = {"collector": agent.cost.collect, "server": agent.cost.replay, "evaluator": agent.cost.evaluate}
    for role, cost in counted.items():
        calls = [span for span in agent.trace if span.role == role and span.batch is not None]
        assert sum(span.ended - span.began for span in calls) - cost == pytest.approx(ticks[role] * TICK * len(calls))


# Bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_a_trace_changes_no_bit(monkeypatch, tmp_path, name, way):
    monkeypatch.setattr(td, "LARGE", 0 if way == "tables as changes" else td.LARGE)
    settings = settings_of(KINDS[name], way)
    if way == "checkpoints":
        settings["checkpoint"] = tmp_path / "agent.npz"
    for pool in (td.InProcess(), td.Threads()):
        agent = agent_on(pool, KINDS[name], trace=True, **settings)
        WAYS[way][0](agent)
        assert learned(agent) == calm(KINDS[name], way)


@pytest.mark.parametrize("name", KINDS)
def test_a_trace_changes_no_bit_when_calls_are_lost(monkeypatch, name):
    for way in WAYS:
        calm(KINDS[name], way)
    monkeypatch.setitem(orders.SETTINGS, "trace", True)
    assert orders.failures(KINDS[name], range(700, 724), 0.06) == []


# Losses --------------------------------------------------------------------------------------


def lossy(seed, faults, kind=td.DistributedQLAgent, **settings):
    """Return a simulation and an agent that has learned in it."""
    with warnings.catch_warnings(), simulated(seed, faults) as simulation:
        warnings.simplefilter("ignore")
        agent = traced(td.Workers(2, 1), kind, **settings)
    return simulation, agent


@pytest.mark.parametrize("call", range(10, 30))
def test_a_lost_call_has_no_end_and_is_sent_again(call):
    simulation, agent = lossy(7, {call: "dies in"})
    assert learned(agent) == calm(td.DistributedQLAgent, "with tests")
    spans, ended = agent.trace, {(span.role, span.batch) for span in agent.trace if span.ended is not None}
    lost = [span for span in spans if span.ended is None]
    assert bool(lost) == (agent.restarts > 0) == bool(simulation.faults)
    assert {(span.role, span.batch) for span in lost} <= ended and agrees(spans)
    assert any(part.what == "lost" for parts in phases(spans).values() for part in parts) == bool(lost)


def test_only_the_process_that_died_is_shown_as_lost():
    _, agent = lossy(7, {20: "dies in"})
    first = next(span for span in agent.trace if span.ended is None)
    assert {lane for lane, parts in phases(agent.trace).items() if any(part.what == "lost" for part in parts)} == {
        (first.role, first.i)
    }


def test_whatever_happens_the_phases_of_a_process_follow_each_other():
    for seed, kind in itertools.product(range(12), KINDS.values()):
        try:
            _, agent = lossy(seed, 0.05, kind)
        except (RuntimeError, TimeoutError):
            continue
        spans = agent.trace
        last = max(moment for span in spans for moment in span[3:6] if moment is not None)
        assert agrees(spans)
        for lane, parts in phases(spans).items():
            ends = [0.0, *(part.end for part in parts)]
            assert ends == [*(part.start for part in parts), last] and ends == sorted(ends), (seed, kind, lane)
            took = [span.ended - span.began for span in spans if span[:2] == lane and span.ended is not None]
            works = sum(part.end - part.start for part in parts if part.what == "works")
            assert works == pytest.approx(sum(took)), (seed, kind, lane)


def test_a_call_that_fails_has_no_end():
    class Failing(td.FrozenLakeEnv):
        def step(self, action):
            raise LookupError("the ice is thin")

    agent = td.DistributedQLAgent(Failing(), workers=td.InProcess(), compiled=False, trace=True)
    with pytest.raises(LookupError):
        agent.learn(10)
    begin, failed = agent.trace
    assert begin.ended <= failed.sent <= failed.began and failed.ended is None
    assert [part.what for part in phases(agent.trace)["collector", 0]][-1] in ("hand-over", "lost")


def test_calls_that_a_stopped_run_does_not_wait_for_have_no_end():
    with simulated(8):
        agent = agent_on(td.Workers(2, 1), td.DistributedQLAgent, trace=True)
        for batch in agent.learn_in_batches(60):
            if batch.number == 2:
                break
    ended = {span.batch for span in agent.trace if span.role == "server" and span.ended is not None}
    assert ended == {None, 0, 1, 2} and {span.batch for span in agent.trace} > ended


# Several runs, copies and saves --------------------------------------------------------------


def test_a_run_replaces_the_trace_of_the_run_before():
    with simulated(9):
        agent = agent_on(td.Workers(2, 1), td.DistributedQLAgent, trace=True)
        agent.learn(30)
        first = agent.trace
        agent.learn(10)  # on the same processes, which still know times of the first run
    assert len(first) == 1 + 2 * 6 and len(agent.trace) == 1 + 2 * 2
    assert [span.batch for span in agent.trace] == [None, 0, 0, 1, 1] and agrees(agent.trace)
    assert all(span.ended is not None for span in agent.trace)


def test_a_trace_grows_while_batches_are_learned():
    agent = agent_on(td.InProcess(), td.DistributedQLAgent, trace=True)
    assert [len(agent.trace) for _ in agent.learn_in_batches(15)] == [3, 5, 7]


def test_a_copy_has_its_own_trace(tmp_path):
    agent = agent_on(td.InProcess(), td.DistributedQLAgent, trace=True)
    agent.learn(30)
    before = agent.trace
    for other in (copy.copy(agent), pickle.loads(pickle.dumps(agent))):
        assert other.trace == before
        other.workers = td.InProcess()
        other.learn(10)
        assert len(other.trace) < len(before) and agent.trace == before


def test_a_save_has_no_trace(tmp_path):
    traced(td.InProcess()).save(tmp_path / "agent.npz")
    agent_on(td.InProcess(), td.DistributedQLAgent).save(tmp_path / "empty.npz")
    names = [set(np.load(tmp_path / name)) for name in ("agent.npz", "empty.npz")]
    assert names[0] == names[1]
    fresh = agent_on(td.InProcess(), td.DistributedQLAgent, trace=True).load(tmp_path / "agent.npz")
    assert fresh.trace == [] and fresh.episode == 60


# What a process does ------------------------------------------------------------------------


def span(role, i, batch, *times, waited_for=(), machine=""):
    return td.Span(role, i, batch, *times, waited_for, machine)


HAND_MADE = [
    span("server", 0, None, 0.0, 1.0, 2.0),
    span("collector", 0, 0, 0.0, 2.0, 4.0),
    span("collector", 1, 1, 0.0, 3.0, 9.0),
    span("server", 0, 0, 0.0, 5.0, 6.0, waited_for=(1,)),
    span("server", 0, 1, 1.0, 9.5, 10.0, waited_for=(2,)),
    span("collector", 0, 2, 8.0, 8.5, 9.5, waited_for=(3,)),
]


def test_what_a_process_does_follows_from_the_calls():
    assert phases(HAND_MADE) == {
        ("server", 0): [
            Phase("hand-over", 0.0, 1.0),
            Phase("works", 1.0, 2.0),
            Phase("waits", 2.0, 4.0, ("collector", 0)),
            Phase("hand-over", 4.0, 5.0),
            Phase("works", 5.0, 6.0),
            Phase("waits", 6.0, 9.0, ("collector", 1)),
            Phase("hand-over", 9.0, 9.5),
            Phase("works", 9.5, 10.0),
        ],
        ("collector", 0): [
            Phase("hand-over", 0.0, 2.0),
            Phase("works", 2.0, 4.0),
            Phase("waits", 4.0, 6.0, ("server", 0)),
            Phase("no call", 6.0, 8.0),
            Phase("hand-over", 8.0, 8.5),
            Phase("works", 8.5, 9.5),
            Phase("no call", 9.5, 10.0),
        ],
        ("collector", 1): [Phase("hand-over", 0.0, 3.0), Phase("works", 3.0, 9.0), Phase("no call", 9.0, 10.0)],
    }


def test_shares_are_of_the_time_between_two_moments():
    assert shares(HAND_MADE)["collector", 1] == {"hand-over": 0.3, "works": 0.6, "no call": 0.1}
    found = shares(HAND_MADE, 4.0, 9.0)["server", 0]
    assert found == {"hand-over": 0.2, "works": 0.2, "waits for collector 1": 0.6}


def test_a_process_waits_for_the_last_of_several_calls():
    spans = [
        span("collector", 0, 0, 0.0, 0.0, 5.0),
        span("collector", 1, 0, 0.0, 0.0, 2.0),
        span("server", 0, 0, 0.0, 6.0, 7.0, waited_for=(0, 1)),
    ]
    assert phases(spans)["server", 0][0] == Phase("waits", 0.0, 5.0, ("collector", 0))


def test_a_lost_call_is_shown_until_its_work_is_sent_again():
    spans = [
        span("server", 0, None, 0.0, 0.0, 1.0),
        span("collector", 0, 0, 0.0, 1.0, 2.0),
        span("collector", 1, 1, 0.0, None, None),
        span("server", 0, 0, 0.0, 2.0, 3.0, waited_for=(1,)),
        span("server", 0, 1, 0.0, None, None, waited_for=(2,)),
        span("server", 0, 2, 0.0, None, None, waited_for=(1,)),  # after one that never began
        span("server", 0, None, 8.0, 8.0, 9.0),
        span("collector", 1, 1, 8.5, 9.0, 12.0),
        span("server", 0, 1, 8.5, 12.0, 13.0, waited_for=(7,)),
    ]
    found = phases(spans)
    assert found["collector", 1][0] == Phase("lost", 0.0, 8.0)
    assert Phase("no call", 3.0, 8.0) in found["server", 0]
    assert not any(part.what == "lost" for part in found["server", 0])


# The picture --------------------------------------------------------------------------------


def bars(axes, color) -> int:
    """Return the number of bars of a colour that are as wide as calls."""
    from matplotlib.colors import to_rgba

    found = [one for one in axes.collections if len(one.get_facecolor()) and tuple(one.get_facecolor()[0]) == color]
    assert to_rgba(color) == color
    return sum(np.ptp(path.vertices[:, 1]) > 0.5 for one in found for path in one.get_paths())


def test_the_picture_has_a_lane_for_each_process_and_an_arrow_for_each_wait():
    from matplotlib.colors import to_rgba

    figure = td.plot_timeline(HAND_MADE, title="By hand")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["server 0", "collector 0", "collector 1"]
    assert bars(axes, to_rgba(SHADES["collector"])) == bars(axes, to_rgba(SHADES["server"])) == 3
    ends = sorted((one.xyann, one.xy) for one in axes.texts)
    assert ends == [((4.0, 1), (5.0, 0)), ((6.0, 0), (8.5, 1)), ((9.0, 2), (9.5, 0))]
    assert axes.get_title() == "By hand" and axes.get_xlim() == (0.0, 10.0)


def test_shares_stand_beside_the_lanes_and_in_the_alternative_text():
    figure = td.plot_timeline(HAND_MADE)
    figure.canvas.draw()
    beside = [label.get_text() for child in figure.axes[0].child_axes for label in child.get_yticklabels()]
    assert beside[0] == "works 25%, waits for collector 50%, hand-over 25%"
    assert beside[2] == "works 60%, hand-over 30%, no call 10%"
    said = figure.get_label()
    assert said.startswith("Who waits for whom. A lane for each process, over 10 s: server 0 works 25%, ")
    assert all(text in said for text in beside)


def test_a_part_of_a_run_can_be_drawn():
    figure = td.plot_timeline(HAND_MADE, seconds=(4.0, 4.5))
    assert figure.axes[0].get_xlim() == (4000.0, 4500.0) and "over 500 ms" in figure.get_label()
    assert "server 0 hand-over 100%" in figure.get_label()


def test_a_lost_call_is_hatched():
    drawn = lambda spans: [one for one in td.plot_timeline(spans).axes[0].collections if one.get_hatch()]
    assert drawn(HAND_MADE) == []
    (hatched,) = drawn([*HAND_MADE, span("evaluator", 0, 20, 3.0, None, None)])
    assert len(hatched.get_paths()) == 1 and hatched.get_edgecolor()[0].tolist()[:3] == pytest.approx(
        plt.matplotlib.colors.to_rgb(MISSING)
    )


def test_a_thousand_workers_are_drawn_in_part():
    figure = td.plot_timeline(traced(td.InProcess(), FederatedQLAgent, cw_num=1000, batch_size=1, do_test=False).trace)
    assert len(figure.axes[0].get_yticks()) == 24 and "(977 more processes are not drawn)" in figure.get_label()


NO_TRACES = [
    (None, TypeError, "got None, of an agent without trace=True"),
    ("trace", TypeError, "spans must be a list of td.Span"),
    ([(1, 2)], TypeError, "spans must be a list of td.Span"),
    ([], ValueError, "at least one td.Span, got none"),
]


@pytest.mark.parametrize("given, error, message", NO_TRACES)
def test_what_is_no_trace_is_refused(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        td.plot_timeline(given)
    with pytest.raises(error, match=message):
        td.save_trace(given, tmp_path / "trace.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [5, (1,), (3, 2), (2, 2), (-1, 2), (10.0, 11.0), ("a", "b"), (0, float("nan"))])
def test_what_is_no_part_of_a_run_is_refused(given):
    with pytest.raises((TypeError, ValueError), match=r"seconds must be \(start, end\)"):
        td.plot_timeline(HAND_MADE, seconds=given)


# The file -----------------------------------------------------------------------------------


def written(spans, path) -> list[dict]:
    td.save_trace(spans, path)
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def test_the_file_has_a_named_thread_for_each_process_and_an_interval_for_each_call(tmp_path):
    events = written(HAND_MADE, tmp_path / "trace.json")
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    calls = [event for event in events if event["ph"] == "X"]
    assert [(names[one["tid"]], one["name"], one["ts"], one["dur"]) for one in calls] == [
        ("server 0", "begin", 1e6, 1e6),
        ("collector 0", "batch 0", 2e6, 2e6),
        ("collector 1", "batch 1", 3e6, 6e6),
        ("server 0", "batch 0", 5e6, 1e6),
        ("server 0", "batch 1", 9.5e6, 0.5e6),
        ("collector 0", "batch 2", 8.5e6, 1e6),
    ]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_arrow_in_the_file_leads_from_a_call_to_one_that_waited_for_it(tmp_path, kind):
    lost = 0
    for seed in range(8):
        _, agent = lossy(seed, {25: "dies in"}, kind)
        events = written(agent.trace, tmp_path / "trace.json")
        ended = {number for number, one in enumerate(agent.trace) if one.ended is not None}
        waits = [(i, number) for number in sorted(ended) for i in agent.trace[number].waited_for]
        assert sorted(arrows(events)) == sorted(waits)
        named = {event["args"]["number"]: event["name"] for event in events if event["ph"] == "i"}
        assert named.keys() == set(range(len(agent.trace))) - ended
        assert all(name.endswith(", lost") for name in named.values())
        lost += len(named)
    assert lost


def test_a_lost_call_takes_no_arrow_of_the_interval_in_which_it_was_sent(tmp_path):
    spans = [*HAND_MADE, span("server", 0, 2, 5.5, None, None, waited_for=(5,))]
    events = written(spans, tmp_path / "trace.json")
    assert sorted(arrows(events)) == [(1, 3), (2, 4), (3, 5)]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert [names[event["tid"]] for event in events if event["ph"] == "i"] == ["server 0, lost"]


def arrows(events) -> list[tuple[int, int]]:
    """Return the calls, from and to, that Perfetto links: an arrow is of its thread's last interval or instant."""
    newest, began, ends, found = {}, {}, {}, []
    for event in sorted((one for one in events if one["ph"] != "M"), key=lambda one: one["ts"]):
        thread = event["tid"]
        if event["ph"] in "Xi":
            assert ends.get(thread, 0.0) <= event["ts"] + 1e-6  # Perfetto drops an interval that overlaps another one
            ends[thread] = event["ts"] + event.get("dur", 0.0)
            newest[thread] = event["args"]["number"]
            continue
        assert type(event["id"]) is int  # of texts Perfetto only takes hexadecimal numbers
        if event["ph"] == "s":
            assert event["ts"] <= ends[thread] + 1e-6  # or chrome://tracing finds no interval
            assert began.setdefault(event["id"], newest[thread]) == newest[thread]
        else:
            assert event["ph"] == "f" and event["bp"] == "e"
            found.append((began.pop(event["id"]), newest[thread]))
    assert not began
    return found


# Clocks -------------------------------------------------------------------------------------


class Elsewhere(td.InProcess):
    """A pool whose calls run as if in other processes."""

    elsewhere = True

    def submit(self, role, i, method, *arguments):
        return super().submit(role, i, method, self.note, *arguments)


def far(monkeypatch):
    """Make all calls run as if on another machine, whose clock has its own start."""
    starts = itertools.chain(["a start"], itertools.repeat("another start"))
    monkeypatch.setattr(tracing, "machine_start", lambda: next(starts))
    monkeypatch.setattr(platform, "node", lambda: "far")
    monkeypatch.setattr(time, "perf_counter", functools.partial(next, itertools.count(100.0)))
    monkeypatch.setattr(time, "time", lambda: time.perf_counter() + 1000.0)


def test_the_times_of_another_machine_are_moved_by_its_time_of_day_and_said_to_be(monkeypatch, tmp_path):
    far(monkeypatch)
    spans = traced(Elsewhere()).trace
    assert {one.machine for one in spans} == {"far"} and agrees(spans)
    assert all(one.ended <= following.sent for one, following in itertools.pairwise(spans))
    with pytest.warns(UserWarning, match=r"other machines \(far\), whose clocks agree"):
        figure = td.plot_timeline(spans)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "server 0 (clock of far)"
    with pytest.warns(UserWarning, match=r"other machines \(far\)"):
        events = written(spans, tmp_path / "trace.json")
    assert "evaluator 0 (clock of far)" in {event["args"].get("name") for event in events if event["ph"] == "M"}


def test_a_call_that_runs_twice_has_the_times_of_the_first(monkeypatch):
    class Twice(Elsewhere):
        def submit(self, *call):
            answer = super().submit(*call)
            if call[0] == "evaluator":
                super().submit(*call)
            return answer

    monkeypatch.setattr(time, "perf_counter", functools.partial(next, itertools.count(100.0)))
    spans = traced(Twice()).trace
    assert all(one.began == one.sent + 1 for one in spans) and agrees(spans)


def test_calls_on_one_machine_cause_no_warning(tmp_path, recwarn):
    agent = traced(td.Threads())
    td.plot_timeline(agent.trace)
    td.save_trace(agent.trace, tmp_path / "trace.json")
    assert not recwarn.list and {one.machine for one in agent.trace} == {""}


# Over Ray -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_clocks_of_processes_agree(workers, kind):
    agent = traced(workers, kind)
    assert learned(agent) == calm(kind, "with tests")
    assert all(one.ended is not None for one in agent.trace) and agrees(agent.trace)
    assert graph(agent.trace) == graph(traced(td.InProcess(), kind).trace)
    assert all(sum(took.values()) == pytest.approx(1.0) for took in shares(agent.trace).values())
    assert sum(one.ended - one.began for one in agent.trace if one.role == "collector") >= agent.cost.collect


@pytest.mark.slow
def test_a_killed_process_and_its_recovery_are_in_the_trace(workers):
    agent = agent_on(workers, td.DistributedQLAgent, trace=True)
    with killing_before(workers, {9: [("collector", 1)]}):
        agent.learn_and_evaluate(progress=False)
    assert learned(agent) == calm(td.DistributedQLAgent, "with tests") and agent.restarts == 1
    assert [one for one in agent.trace if one.ended is None] and agrees(agent.trace)
    assert "lost" in shares(agent.trace)["collector", 1]
