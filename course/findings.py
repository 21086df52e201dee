"""What was found about one item of a submission, before it becomes points."""

from typing import NamedTuple

ITEMS = (
    "policies", "q_learning", "sarsa", "episodes", "tests", "server", "collectors", "snapshots", "end", "traffic",
    "arguments", "loads",
)  # fmt: skip


class Finding(NamedTuple):
    """How much of one item is right, and what was seen."""

    item: str  # one of ITEMS
    share: float  # of the item's points, from 0 to 1
    judged: bool  # False: it could not be told, which costs no points
    seen: str  # what the code did and what was expected, in one or two sentences
    hint: str  # one, which does not give the answer away; "" where all is right
