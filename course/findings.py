"""What was found about one item of a submission, before it becomes points."""

from __future__ import annotations

from typing import NamedTuple

from .errors import stopped

ITEMS = (
    "policies", "q_learning", "sarsa", "episodes", "tests", "server", "collectors", "snapshots", "end", "traffic",
    "arguments", "loads",
)  # fmt: skip
KEEP_NAMES = "Keep the names of the assignment."  # the hint where something is not there


class Finding(NamedTuple):
    """How much of one item is right, and what was seen."""

    item: str  # one of ITEMS
    share: float  # of the item's points, from 0 to 1
    judged: bool  # False: it could not be told, which costs no points
    seen: str  # what the code did and what was expected, in one or two sentences
    hint: str  # one, which does not give the answer away; "" where all is right


def failed(item: str, error: str, share: float = 0.0) -> Finding:
    """A finding of an item of which a run ended with an error."""
    seen, hint = stopped(error)
    return Finding(item, share, True, seen[0].upper() + seen[1:], hint)
