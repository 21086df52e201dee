"""A lake that records: every reset and step of a submission, and the table that it held at that moment.

Copies of a recorder, also pickled ones, write to the same log. It answers with the four fields of the old gym or the
five of today's, whichever the line that calls it unpacks.
"""

from __future__ import annotations

import dis
import functools
import itertools
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# No end lies nearer to the start than six steps. At a discount of 0.999 every way into a hole is worth -1000, so that
# most ends are goals, by which the results of tests differ.
LAKE = ("SFFFF", "FFFFF", "FFFGF", "FFFFF", "FGFFH")
SLIP = 0.5  # how often a move goes anywhere: greedy policies of random tables, too, reach an end
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
_logs: dict[int, Log] = {}
_keys = itertools.count()


class Endless(BaseException):
    """A submission took more steps than it can need; no `except Exception` of its own stops this."""


class Reward(float):
    """A reward that knows which step of the log it was paid for, also after it was pickled."""

    def __new__(cls, value: float, number: int):
        self = super().__new__(cls, value)
        self.number = number
        return self

    def __reduce__(self):
        return Reward, (float(self), self.number)


class Event(NamedTuple):
    """A reset (action None) or a step."""

    simulator: int
    process: int  # -1 for the program itself
    state: int
    action: int | None
    reward: float
    next_state: int
    done: bool
    table: np.ndarray | None  # as it was when the step was asked for


class Log:
    """What happened, in order; `budget` steps may be taken, of one episode `longest`."""

    def __init__(self, budget: int = 200_000, longest: int = 20_000):
        self.budget, self.longest = budget, longest
        self.events: list[Event] = []
        self.exhausted = False
        self.endless_after: int | None = None  # so many ends, after which every other episode has none
        self.begun = 0  # episodes since then
        self.table_of: Callable[[], np.ndarray | None] = lambda: None
        self.process: Callable[[], int] = lambda: -1
        self.on_reset: Callable[[], None] = lambda: None
        self.before_step: Callable[[], None] = lambda: None
        self.old_style = False  # where the calling line does not tell
        self.ends = 0
        self.drawn: dict[int, list[tuple]] = {}  # by process: where in its stream each episode's lake began
        self.streams, self.simulators = itertools.count(1), itertools.count()
        self.key = next(_keys)
        _logs[self.key] = self

    def close(self) -> None:
        """Forget the log, where copies find it."""
        _logs.pop(self.key, None)

    def next_is_endless(self) -> bool:
        """Whether the episode that begins now has no end."""
        if self.endless_after is None or self.ends < self.endless_after:
            return False
        self.begun += 1
        return self.begun % 2 == 1

    def add(self, *event) -> None:
        """Add an event; Endless beyond the budget."""
        self.events.append(Event(*event))
        if len(self.events) > self.budget:
            self.exhausted = True
            raise Endless


class Discrete:
    """A space of `n` numbers, drawn evenly."""

    def __init__(self, n: int, draw: Callable[[], float] | None = None):
        self.n, self.shape, self._draw = n, (), draw

    def sample(self) -> int:
        """One of them."""
        return int(self.n * self._draw())

    def contains(self, value) -> bool:
        """Whether it is one of them."""
        return 0 <= value < self.n

    __contains__ = contains

    def seed(self, seed=None) -> list:
        """Start anew: it draws from the lake's numbers, which are seeded already."""
        return [seed]


class Recorder:
    """The lake: as td_helpers' FrozenLakeEnv, but slippery, and it writes to a log.

    `stream` names its random numbers; None: those of its own, from its first use on. A copy goes on with the same.
    """

    metadata, reward_range, render_mode, spec = {}, (-1000, 1000), None, None

    def __init__(self, log: Log, desc=LAKE, stream: int | None = None, drawn: int = 0):
        self.log, self.lines = log, tuple(desc)
        self.number = next(log.simulators)
        self.stream, self.drawn = stream, drawn
        self.nrow, self.ncol = len(self.lines), len(self.lines[0])
        self.nS, self.nA = self.nrow * self.ncol, 4
        self.exit_state = self.nS
        self.s, self.lastaction, self.length, self.reseeded = 0, None, 0, False
        self.endless = False
        self.observation_space = Discrete(self.nS + 1, self._uniform)
        self.action_space = Discrete(4, self._uniform)

    def __reduce__(self):
        return _restored, (self.log.key, self.lines, self.stream, self.drawn, self.s)

    @property
    def desc(self) -> np.ndarray:
        """The map as letters."""
        return np.array([list(line) for line in self.lines], dtype="S1")

    @property
    def unwrapped(self) -> Recorder:
        """Itself."""
        return self

    @property
    def np_random(self) -> np.random.Generator:
        """Random numbers of the lake's stream."""
        return np.random.Generator(np.random.MT19937(int(2**62 * self._uniform())))

    @property
    def P(self) -> dict:
        """The transitions, as gym's toy texts list them."""
        return {state: {action: self._outcomes(state, action) for action in range(4)} for state in range(self.nS + 1)}

    def _outcomes(self, state: int, action: int) -> list[tuple]:
        letter = self._letter(state)
        if letter in "HGX":
            return [(1.0, self.nS, {"H": -1000, "G": 1000, "X": 0}[letter], True)]
        chances = [SLIP / 4 + (1 - SLIP) * (direction == action) for direction in range(4)]
        return [(p, self._moved(state, direction), -1, False) for direction, p in enumerate(chances)]

    def seed(self, seed=None) -> list:
        """Other random numbers, as the old gym had it."""
        self.stream = next(self.log.streams) + 1_000_000 if seed is None else 10**12 + int(seed)
        self.drawn, self.reseeded = 0, True
        return [seed]

    def reset(self, *, seed=None, options=None, **_):
        """Back to S."""
        if seed is not None:
            self.seed(seed)
        self.log.on_reset()
        self.log.drawn.setdefault(self.log.process(), []).append((self.stream, self.drawn))
        self.s, self.lastaction, self.length = 0, None, 0
        self.log.add(self.number, self.log.process(), 0, None, 0.0, 0, False, self.log.table_of())
        as_pair = _takes_pair(sys._getframe(1))
        if as_pair is None:
            as_pair = not self.log.old_style
        return (self.s, {"prob": 1.0}) if as_pair else self.s

    def step(self, action):
        """Act once; ValueError for what is no action."""
        fields = _fields(sys._getframe(1)) or (4 if self.log.old_style else 5)
        try:
            action = int(action)
        except (TypeError, ValueError):
            action = -1
        if not 0 <= action < 4:
            raise ValueError(f"action must be 0, 1, 2 or 3, got {action!r}")
        self.log.before_step()
        state, reward, done = self.s, -1.0, False
        letter = self._letter(state)
        if self.length == 0:
            self.endless = self.log.next_is_endless()
        if letter in "HGX" and self.endless:
            next_state = 0
        elif letter in "HGX":
            next_state, reward, done = self.nS, {"H": -1000.0, "G": 1000.0, "X": 0.0}[letter], True
            self.log.ends += letter != "X"
        else:
            slip = self._uniform()
            direction = int(slip / SLIP * 4) if slip < SLIP else action
            next_state = self._moved(state, direction)
        reward = Reward(reward, len(self.log.events))
        self.s, self.lastaction = next_state, action
        self.log.add(
            self.number, self.log.process(), state, action, reward, next_state, done, self.log.table_of()
        )  # fmt: skip
        self.length += 1
        if self.length > self.log.longest:
            self.log.exhausted = True
            raise Endless
        info = {"prob": 1.0}
        return (next_state, reward, done, info) if fields == 4 else (next_state, reward, done, False, info)

    def render(self, *_, **__) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def _letter(self, state: int) -> str:
        return "X" if state == self.nS else self.lines[state // self.ncol][state % self.ncol]

    def _moved(self, state: int, direction: int) -> int:
        row, column = divmod(state, self.ncol)
        down, right = MOVES[direction]
        row, column = min(max(row + down, 0), self.nrow - 1), min(max(column + right, 0), self.ncol - 1)
        return row * self.ncol + column

    def _uniform(self) -> float:
        """The next of the stream's numbers, from 0 to below 1 (splitmix64)."""
        if self.stream is None:
            self.stream = next(self.log.streams) + 1_000_000
        self.drawn += 1
        mask = 2**64 - 1
        mixed = (self.stream * 0xD1342543DE82EF95 + self.drawn * 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & mask
        return ((mixed ^ mixed >> 31) >> 11) / 2**53


def _restored(key: int, lines: tuple, stream: int | None, drawn: int, state: int) -> Recorder:
    """A copy of a recorder, which writes to the same log."""
    recorder = Recorder(_logs[key], lines, stream, drawn)
    recorder.s = state
    return recorder


class Lakes:
    """What a submission finds in the place of a class of lakes: it makes recorders, each with numbers of its own."""

    def __init__(self, log: Log, desc=LAKE):
        self.log, self.lines = log, tuple(desc)
        self.__name__ = "FrozenLakeEnv"

    def __call__(self, desc=None, *_, **__) -> Recorder:
        return Recorder(self.log, self.lines)

    def __reduce__(self):
        return _lakes, (self.log.key, self.lines)


def _lakes(key: int, lines: tuple) -> Lakes:
    return Lakes(_logs[key], lines)


# What the calling line unpacks -------------------------------------------------------------------


def _fields(frame) -> int | None:
    """How many fields the line that called `step` unpacks; None where it keeps the tuple."""
    following = _following(frame.f_code, frame.f_lasti)
    return following[0][1] if following and following[0][0] == "UNPACK_SEQUENCE" else None


def _takes_pair(frame) -> bool | None:
    """Whether the line that called `reset` takes a pair apart; None where it keeps what it got."""
    following = _following(frame.f_code, frame.f_lasti)
    if following and following[0][0] in ("UNPACK_SEQUENCE", "UNPACK_EX"):
        return True
    subscribed = len(following) > 1 and following[1][0] in ("BINARY_SUBSCR", "BINARY_OP")
    return True if subscribed and following[0][0].startswith("LOAD_") and following[0][1] == 0 else None


@functools.lru_cache(maxsize=10_000)
def _following(code, offset: int) -> tuple[tuple[str, object], ...]:
    """The two instructions after one, with their arguments."""
    later = (one for one in dis.get_instructions(code) if one.offset > offset and one.opname != "CACHE")
    pairs = ((one.opname, one.arg if one.opname.startswith("UNPACK") else one.argval) for one in later)
    return tuple(itertools.islice(pairs, 2))


def unpacks(code) -> set[int]:
    """Into how many fields a function, and those within it, unpack what `step` returns."""
    found, pending = set(), False
    for one in dis.get_instructions(code):
        if one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            pending = one.argval == "step"
        elif one.opname == "UNPACK_SEQUENCE" and pending:
            found.add(one.arg)
            pending = False
        elif one.opname.startswith("STORE_"):
            pending = False
        elif hasattr(one.argval, "co_code"):
            found |= unpacks(one.argval)
    return found
