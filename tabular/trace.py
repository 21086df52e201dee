"""Who waits for whom: the trace of a distributed run, which has the times of all its calls.

A traced run goes through `Traced`, a pool that passes each call on to another, with a number. On the other side `Timed`
stands in front of a worker, and notes when a call begins and ends. From other processes these times come back with the
answers. The run does not wait for every answer, so an answer also has the times of the calls among its arguments.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import platform
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .files import AnyPath, atomic_write
from .pool import Lost, Makers, Pool

RECENT = 4  # a worker's answer has the times of this many of its calls, since some answers never arrive

_runs = itertools.count()


class Span(NamedTuple):
    """A call of a distributed run. Times are in seconds since the run's processes were ready."""

    role: str  # "server", "collector" or "evaluator"
    i: int  # the number of the process among those of its role
    batch: int | None  # the number of the batch in the run; of a test, its episode; None for the server's first call
    sent: float
    began: float | None  # None if it is not known, because no answer has arrived
    ended: float | None  # None if no answer has arrived: the call was lost or failed, or the run stopped first
    waited_for: tuple[int, ...]  # the calls whose results it needed, as indices into the trace
    machine: str = ""  # the other machine that it ran on, whose clock is not this one's; "" for this one


Lane = tuple[str, int]  # a role and the number of one of its processes


# Recording ---------------------------------------------------------------------------------------


class Trace:
    """The record of a run: `calls` has the fields of a `Span` for each call, but with the clock's own times."""

    def __init__(self) -> None:
        self.calls: list[list] = []
        self.start = 0.0  # when the run's processes were ready

    def spans(self) -> list[Span]:
        """Return the calls so far, in the order of sending."""
        since = lambda moment: None if moment is None else moment - self.start
        return [
            Span(role, i, batch, sent - self.start, since(began), since(ended), waited_for, machine)
            for role, i, batch, sent, began, ended, waited_for, machine in self.calls
        ]


def machine_start() -> str:
    """Return an identifier of this machine's start: in all its processes `time.perf_counter` counts from there."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return platform.node()


def behind_time_of_day() -> float:
    """Return how many seconds `time.perf_counter` is behind the time of day."""
    return time.time() - time.perf_counter()


class Sent(tuple):
    """The number of a call that was sent, and a reference to its result."""

    __slots__ = ()


class Timed:
    """A worker in the process of the run: a call gets its fields in the trace first, and puts its times there."""

    def __init__(self, worker: Any):
        self._worker = worker

    def __getattr__(self, method: str) -> Callable:
        if method.startswith("_"):
            raise AttributeError(method)
        timed = vars(self)[method] = self._timed(getattr(self._worker, method))  # it is found at once from now on
        return timed

    def _timed(self, method: Callable) -> Callable:
        def timed(call: list, *arguments: Any) -> Any:
            call[4] = time.perf_counter()
            value = method(*arguments)
            call[5] = time.perf_counter()
            return value

        return timed


class TimedElsewhere(Timed):
    """A worker in another process: a call gets [the run, its number, the places of answers among its arguments] first.

    It returns an answer: [its result, the times of this process's last calls, those in each answer that it got]. Times
    are a list of [run, number, machine, began, ended]. All are lists, which Ray need not pickle. If the run is on
    another machine, whose clock counts from another start, these are times of day.
    """

    def __init__(self, worker: Any, start: str):
        super().__init__(worker)
        self._machine, self._behind = "", 0.0
        if machine_start() != start:
            self._machine, self._behind = platform.node() or "unknown", behind_time_of_day()
        self._recent: deque[list] = deque(maxlen=RECENT)

    def _timed(self, method: Callable) -> Callable:
        machine, behind, recent = self._machine, self._behind, self._recent

        def timed(note: list, *arguments: Any) -> list:
            run, number, places = note
            given, times = list(arguments), []
            for place in places:
                given[place], own, *_ = given[place]
                times.append(own)
            began = time.perf_counter() + behind
            value = method(*given)
            recent.append([run, number, machine, began, time.perf_counter() + behind])
            return [value, list(recent), *times]

        return timed


def _timed(maker: Callable[[], Any], start: str | None) -> Timed:
    """Make a worker whose calls are timed; `start` is that of the run's machine, or None in the run's own process."""
    return Timed(maker()) if start is None else TimedElsewhere(maker(), start)


class Traced(Pool):
    """Passes the calls of one run on to another pool, and keeps their trace."""

    def __init__(self, pool: Pool):
        self.pool = pool
        self.cw_num, self.ew_num, self.ahead, self.ships = pool.cw_num, pool.ew_num, pool.ahead, pool.ships
        self.elsewhere = pool.elsewhere
        self.trace, self._run = Trace(), next(_runs)

    @contextlib.contextmanager
    def run(self, makers: Makers) -> Iterator[Traced]:
        """Reserve the other pool for a run; the trace begins when it is ready."""
        start = machine_start() if self.elsewhere else None
        with self.pool.run({role: functools.partial(_timed, maker, start) for role, maker in makers.items()}):
            self._behind = behind_time_of_day()
            self.trace.start = time.perf_counter()
            yield self

    def submit(self, role: str, i: int, method: str, *arguments: Any) -> Sent:
        """Send a call, and note when."""
        given: list[Any] = []
        places: list[int] = []
        waited_for: tuple[int, ...] = ()
        for argument in arguments:
            if type(argument) is Sent:
                places.append(len(given))
                waited_for += argument[:1]
                argument = argument[1]
            given.append(argument)
        number = len(self.trace.calls)
        call = [role, i, self.subject, time.perf_counter(), None, None, waited_for, ""]
        self.trace.calls.append(call)
        if self.elsewhere:
            self.pool.note = [self._run, number, places]
            return Sent((number, self.pool.submit(role, i, method, *given)))
        return Sent((number, self.pool.submit(role, i, method, call, *given)))

    def result(self, reference: Sent, timeout: float | None = None) -> Any:
        """Wait for a call, note the times that its answer has, and return its result."""
        value = self.pool.result(reference[1], timeout)
        if not self.elsewhere:
            return value
        value, *answers = value
        for times in answers:
            for run, number, machine, began, ended in times:
                if run != self._run:  # of the run before, in a process that still plays the same role
                    continue
                call, ahead = self.trace.calls[number], self._behind if machine else 0.0
                if call[5] is None:
                    call[4], call[5], call[7] = began - ahead, ended - ahead, machine
        return value

    def replace(self, lost: Lost) -> int:
        """Replace a lost process of the other pool, and all others that are dead."""
        return self.pool.replace(lost)


# What a process does all the time ----------------------------------------------------------------


class Phase(NamedTuple):
    """A part of a process's time: `what` it does, and the process that it waits for, if any."""

    what: str
    start: float
    end: float
    whom: Lane | None = None


WORKS = "works"  # it does a call
WAITS = "waits"  # its next call needs the result of a call of `whom`, which has not ended
UNSENT = "no call"  # its next call could begin, but is not sent yet, or there is none
HANDED = "hand-over"  # all that the next call needs is there, but it has not begun: the pool's own time
LOST = "lost"  # a call was lost, or the run stopped before its answer arrived: what the process did is not known


def phases(spans: Sequence[Span]) -> dict[Lane, list[Phase]]:
    """Return all that each process does from 0 to the last event of a trace, without gaps, in order.

    Of the calls that a call waited for, the last to end is taken as the one that it waited for.
    """
    end = max((moment for span in spans for moment in span[3:6] if moment is not None), default=0.0)
    numbers: dict[Lane, list[int]] = {lane: [] for lane in lanes_of(spans)}
    for number, span in enumerate(spans):
        numbers[span.role, span.i].append(number)
    return {lane: _phases_of(_in_order(own, spans), spans, end) for lane, own in numbers.items()}


def lanes_of(spans: Sequence[Span]) -> list[Lane]:
    """Return the processes of a trace: the server, the collectors, the evaluators."""
    order = {"server": 0, "collector": 1, "evaluator": 2}
    return sorted({(span.role, span.i) for span in spans}, key=lambda lane: (order.get(lane[0], 3), lane))


def _in_order(numbers: list[int], spans: Sequence[Span]) -> list[int]:
    """Return a process's calls in the order of their beginnings, a lost one after those that were sent before it."""
    latest, begins = 0.0, {}
    for number in numbers:
        sent, began = spans[number][3:5]
        latest = max(latest, sent if began is None else began)
        begins[number] = latest if began is None else began
    return sorted(numbers, key=begins.__getitem__)


def _phases_of(numbers: list[int], spans: Sequence[Span], end: float) -> list[Phase]:
    """Return the phases of a process that did these calls, in this order."""
    found: list[Phase] = []
    now = 0.0

    def until(moment: float, what: str, whom: Lane | None = None) -> None:
        nonlocal now
        if moment > now:
            found.append(Phase(what, now, moment, whom))
            now = moment

    blocked = False  # by a call that never began, since what it needed was lost: no call after it began either
    for number in numbers:
        call = spans[number]
        needed = [spans[i] for i in call.waited_for]
        last = max(needed, key=lambda one: one.ended or 0.0, default=None)
        if last is not None and last.ended is not None:
            until(last.ended if call.began is None else min(last.ended, call.began), WAITS, (last.role, last.i))
        blocked = call.began is None and (blocked or any(one.ended is None for one in needed))
        if blocked:
            continue
        until(call.sent if call.began is None else min(call.sent, call.began), UNSENT)
        if call.began is not None:
            until(call.began, HANDED)
        if call.ended is not None:
            until(call.ended, WORKS)
        else:
            until(_known_again(number, spans, end), LOST)
    until(end, UNSENT)
    return found


def _known_again(number: int, spans: Sequence[Span], end: float) -> float:
    """Return until when it is not known what the process of a lost call did: its work was sent again, or it began more.

    After a loss the server begins anew, and all work but tests is sent again.
    """
    lost = spans[number]
    for span in spans[number + 1 :]:
        anew = span.batch is None and lost.role != "evaluator"
        if anew or (span.role, span.batch) == (lost.role, lost.batch):
            return span.sent
        if (span.role, span.i) == (lost.role, lost.i) and span.began is not None:
            return span.began
    return end


def shares(spans: Sequence[Span], start: float = 0.0, end: float | None = None) -> dict[Lane, dict[str, float]]:
    """Return what each process did between two moments, as shares of this time.

    The keys are "works", "waits for server 0" and alike, "no call", "hand-over" and "lost". Shares of 0 are left out;
    the others sum to 1. All but "lost" are explained by the trace.
    """
    found: dict[Lane, dict[str, float]] = {}
    for lane, parts in phases(spans).items():
        until = parts[-1].end if end is None and parts else end or 0.0
        took: dict[str, float] = {}
        for part in parts:
            seconds = min(part.end, until) - max(part.start, start)
            if seconds > 0:
                name = part.what if part.whom is None else f"{part.what} for {part.whom[0]} {part.whom[1]}"
                took[name] = took.get(name, 0.0) + seconds
        whole = sum(took.values())
        found[lane] = {name: seconds / whole for name, seconds in took.items()}
    return found


# Checks and the file -----------------------------------------------------------------------------


def check_spans(spans: Any) -> list[Span]:
    """Return the spans of a trace; raise TypeError unless it is one, ValueError if it is empty.

    Warns if some calls ran on other machines.
    """
    if not isinstance(spans, list | tuple) or not all(isinstance(span, Span) for span in spans):
        got = "None, of an agent without trace=True" if spans is None else repr(spans)[:80]
        raise TypeError(f"spans must be a list of td.Span, such as agent.trace after a run, got {got}")
    if not spans:
        raise ValueError("spans must have at least one td.Span, got none: agent.trace has them after a run")
    others = sorted({span.machine for span in spans} - {""})
    if others:
        warnings.warn(
            f"some processes ran on other machines ({', '.join(others)}), whose clocks agree with this one's only as "
            "well as the machines' times of day: their calls may seem to begin too early or too late",
            stacklevel=3,
        )
    return list(spans)


def save_trace(spans: Sequence[Span], path: AnyPath) -> None:
    """Write a trace, such as `agent.trace`, to a JSON file that https://ui.perfetto.dev and chrome://tracing open.

    Each process is a thread, and each call an interval, with an arrow to each call that waited for it. Lost calls,
    whose ends are not known, are instants beside it. The file is in Chrome's trace format, with times in microseconds.
    Raises TypeError or ValueError if `spans` is not a trace or is empty, and as `open` does if `path` cannot be
    written.
    """
    spans = check_spans(spans)
    names = names_of(spans)
    # Lost calls have threads of their own: Perfetto would lead the arrow of an interval away from an instant within it.
    first = {lane: 2 * row + 1 for row, lane in enumerate(names)}
    threads = [first[span.role, span.i] + (span.ended is None) for span in spans]
    titles = {first[lane] + lost: f"{name}, lost" if lost else name for lane, name in names.items() for lost in (0, 1)}
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "run"}}]
    for thread in sorted(set(threads)):
        at = {"ph": "M", "pid": 1, "tid": thread}
        events.append({**at, "name": "thread_name", "args": {"name": titles[thread]}})
        events.append({**at, "name": "thread_sort_index", "args": {"sort_index": thread}})
    for number in range(len(spans)):
        events += _events(number, spans, threads)
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode())


def names_of(spans: Sequence[Span]) -> dict[Lane, str]:
    """Return the name of each process, with its machine if that is another one."""
    machines: dict[Lane, set[str]] = {lane: set() for lane in lanes_of(spans)}
    for span in spans:
        if span.machine:
            machines[span.role, span.i].add(span.machine)
    clock = lambda others: f" (clock of {', '.join(sorted(others))})" if others else ""
    return {(role, i): f"{role} {i}{clock(others)}" for (role, i), others in machines.items()}


def _events(number: int, spans: Sequence[Span], threads: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield a call's events, and those of the arrows to it; `threads` has that of each call."""
    span, at = spans[number], {"pid": 1, "tid": threads[number]}
    about = "test" if span.role == "evaluator" else "batch"
    name = "begin" if span.batch is None else f"{about} {span.batch}"
    shown = {"number": number, "batch": span.batch, "sent": _microseconds(span.sent), "waited_for": span.waited_for}
    if span.began is None or span.ended is None:
        yield {"ph": "i", **at, "s": "t", "name": f"{name}, lost", "ts": _microseconds(span.sent), "args": shown}
        return
    began, took = _microseconds(span.began), round(_microseconds(span.ended) - _microseconds(span.began), 3)
    yield {"ph": "X", **at, "cat": span.role, "name": name, "ts": began, "dur": took, "args": shown}
    for other in span.waited_for:
        needed = spans[other]
        if needed.began is None or needed.ended is None:
            continue
        # An arrow belongs to the interval that its time is in, so it leaves just before the end.
        leaves = max(needed.began, needed.ended - 1e-6)
        # Perfetto takes numbers as ids, and of texts only hexadecimal numbers.
        arrow = {"pid": 1, "cat": "waited for", "name": "waited for", "id": other * len(spans) + number}
        yield {"ph": "s", **arrow, "tid": threads[other], "ts": _microseconds(leaves)}
        yield {"ph": "f", "bp": "e", **arrow, "tid": at["tid"], "ts": began}


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)
