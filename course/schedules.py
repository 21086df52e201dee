"""The smallest schedule under which a distributed agent fails, as a sequence of calls that can be played again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .plays import Play
from .records import Problem, Record

# From small to large, as fewer workers and episodes make a shorter story. In some a test is due within a batch.
NAMES = ("cw_num", "ew_num", "learning_episodes", "batch_size", "test_interval")
SIZES = tuple(
    dict(zip(NAMES, size, strict=True))
    for size in (
        (1, 1, 2, 1, 1),
        (1, 1, 6, 3, 2),
        (2, 1, 4, 1, 2),
        (2, 2, 8, 2, 2),
        (2, 2, 9, 2, 3),
        (1, 1, 12, 2, 1),
        (3, 2, 24, 2, 4),
    )
)
EACH = 4  # schedules of a size
LONGEST = 12  # calls in a story
MOST_EVENTS = 10_000  # of a run


def replay(names: dict[str, object], seed: int, size: int, schedule: int, **settings) -> Play:
    """Play a schedule again, as a sheet names it: the seed, the size and the schedule's number."""
    return Play(names, seed, schedule=schedule, **({"most_events": MOST_EVENTS} | SIZES[size] | settings))


def smallest(
    names: dict[str, object], seed: int, kind: str, problems: Callable[[Record], list[Problem]], **settings
) -> str:
    """The first, smallest schedule in which there is a problem of a kind, a call on each line; "" where none is found.

    `settings` are the same in all: those of the agent, or the method that is `failing`.
    """
    for size, sizes in enumerate(SIZES):
        for schedule in range(EACH):
            play = replay(names, seed, size, schedule, **settings)
            if not play.not_simulated and any(problem.kind == kind for problem in problems(Record(play))):
                of = ", ".join(f"{name}={value}" for name, value in (sizes | settings).items())
                where = f"seed {seed}, size {size}, schedule {schedule}"
                return "\n".join([f" The smallest run that shows it ({where}: {of}):", *told(play)])
    return ""


def told(play: Play) -> list[str]:
    """The calls to actors in the order in which they were done; the middle of long ones is left out."""
    lines: list[list] = []
    names = {actor.number: f"{actor.name} {actor.number}" for actor in play.actors} | {-1: "the agent"}
    for call in play.calls:
        steps = f"{len(call.steps)} steps" if call.steps else ""
        line = f"{names.get(call.caller, 'the agent')}: {call.method}({steps})"
        if lines and lines[-1][0] == line:
            lines[-1][1] += 1
        else:
            lines.append([line, 1])
    shown = [line if count == 1 else f"{line} {count} times" for line, count in lines]
    return shown if len(shown) <= LONGEST else list(_with_gap(shown))


def _with_gap(lines: list[str]) -> Iterator[str]:
    yield from lines[: LONGEST // 2]
    yield f"{len(lines) - LONGEST} more"
    yield from lines[-LONGEST // 2 :]
