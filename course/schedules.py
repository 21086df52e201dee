"""The smallest schedule under which a distributed agent fails, as a sequence of calls that can be played again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .distributed import Problem, Record
from .plays import Play

# From small to large: fewer workers and episodes make a shorter story.
SIZES = (
    {"cw_num": 1, "ew_num": 1, "learning_episodes": 2, "test_interval": 1, "batch_size": 1},
    {"cw_num": 2, "ew_num": 1, "learning_episodes": 4, "test_interval": 2, "batch_size": 1},
    {"cw_num": 2, "ew_num": 2, "learning_episodes": 8, "test_interval": 2, "batch_size": 2},
    {},
)
EACH = 4  # schedules of a size
LONGEST = 12  # calls in a story


def replay(names: dict[str, object], seed: int, size: int, schedule: int, **settings) -> Play:
    """Play a schedule again, as a sheet names it: the seed, the size and the schedule's number."""
    return Play(names, seed, schedule=schedule, **({"most_events": 10_000} | SIZES[size] | settings))


def smallest(
    names: dict[str, object], seed: int, kind: str, problems: Callable[[Record], list[Problem]], **settings
) -> str:
    """The story of the first, smallest schedule in which there is a problem of a kind; "" where none is found."""
    for size in range(len(SIZES)):
        for schedule in range(EACH):
            play = replay(names, seed, size, schedule, **settings)
            if any(problem.kind == kind for problem in problems(Record(play))):
                where = f"seed {seed}, size {size}, schedule {schedule}"
                return f" The smallest schedule that shows it ({where}): {'; '.join(told(play))}."
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
