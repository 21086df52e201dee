"""The warning to a run that has seen no reward other than 0, so that nothing leads its agent anywhere."""

from __future__ import annotations

from .mistakes import warn_caller

# Episodes to wait. On gymnasium's FrozenLake8x8 without slips, 80 of 100 seeds have reached the goal by then if ties
# are random, and none if they are not; a run of the default length has most of its episodes left.
LONG = 1000


def warn_of_no_reward(ties: str) -> None:
    """Warn that all action values are still 0, and say what makes an agent explore more."""
    stuck = "a greedy action is then always the lowest, often into the same wall; set ties='random', or give"
    explore = stuck if ties == "lowest" else "give"
    warn_caller(
        f"after {LONG} episodes no reward other than 0 was seen, and all action values are still 0: {explore} "
        "initial_value= a number that is higher than a typical return, so that untried actions are tried first"
    )
