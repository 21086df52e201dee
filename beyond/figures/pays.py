"""Where does distributing pay? The answer in one table, for README.md."""

from __future__ import annotations

import textwrap

from beyond.figures import dyna_clock, dyna_large, federated, round_cost
from beyond.figures.until import LARGE_WITHIN, WITHIN
from figures import break_even, exact, timing
from figures.assignment import HALLWAY, LAKE, SINGLE
from figures.rows import Data, settings_of
from figures.summaries import between, interval, markdown, median_range

MARK = "scale"  # marks the table's place in README.md


def table(data: Data) -> str:
    """A table of speed-ups over one core: measured, or computed where the machine has too few cores."""
    side = max(federated.SIDES)
    batch = {name: timing.CASES[name, LAKE]["batch_size"] for name in ("compiled", "stepped")}
    alone, planner = ("Q-learning", SINGLE), ("Dyna-Q", SINGLE)
    small = f"batches of {dyna_clock.BATCH_SIZES['Q-learning']}"
    measured = [
        [f"16x16, compiled, 8 collectors, batches of {batch['compiled']}", "pace",
         interval(timing.gain(data, "compiled", LAKE, 8), ".2f")],
        [f"16x16, stepped in Python, 2 collectors, batches of {batch['stepped']}", "pace",
         interval(timing.gain(data, "stepped", LAKE, 2), ".2f")],
        [f"16x16, stepped in Python, 2 collectors, {small}", "policy",
         median_range(dyna_clock.speed_ups(data, "stepped", alone, ("Q-learning", 2)))],
        [f"{HALLWAY}, steps wait 200 µs, 8 collectors", "pace",
         interval(timing.gain(data, "waits", HALLWAY, 8), ".2f")],
        [f"16x16, steps wait 200 µs, 8 collectors, {small}", "policy",
         median_range(dyna_clock.speed_ups(data, "waiting", alone, ("Q-learning", 8)))],
        ["the same with Dyna-Q, against Dyna-Q on one core", "policy",
         median_range(dyna_clock.speed_ups(data, "waiting", planner, ("Dyna-Q", 8)))],
        [f"{side} x {side}, picked among six, compiled, 2 federated workers at a higher rate", "policy",
         interval(federated.speed_up(data, side, 2).speed_up, ".2f")],
    ]  # fmt: skip
    rows = [[what, f"{timing.cores(data)}", goal, result] for what, goal, result in measured]
    for count in (count for modelled_side, count in round_cost.modelled(data) if modelled_side == side):
        low, high = round_cost.best(data, side, count)[1].speed_up
        what = f"three other lakes of {side} x {side}, {count} workers, *computed*"
        rows.append([what, f"{count}", "policy", f"{low:.2g} to {high:.2g}"])
    return markdown(["what", "cores", "compared", "times one core"], rows)


def text(data: Data) -> str:
    """Return the notes below the table: what counts as near the optimum, and where distributing begins to pay."""
    largest, side = max(federated.SIDES), dyna_large.LARGEST
    even, fewer = federated.even_side(data), dyna_large.fewer(data, 1024)
    microseconds = round_cost.dyna_break_even(data, 1024), *(break_even.measured(data, count) for count in (2, 8))
    clocked = settings_of(dyna_clock.run)
    sentences = (
        f"Near means within {WITHIN} of {exact.best(data, LAKE).value:.0f} on 16x16 (learning rate "
        f"{clocked['rate']:g}, epsilon {clocked['epsilon']:g}, initial value {clocked['initial_value']:.0f}), and "
        f"within {LARGE_WITHIN} of {federated.best_on(largest):.0f} on the {largest} x {largest} lake.",
        f"Two federated workers begin to pay at about {even:.0f} x {even:.0f}.",
        f"If steps wait, with batches of 10, two collectors outpace one core from about {microseconds[1]:.0f} µs per "
        f"step, eight from about {microseconds[2]:.0f}.",
        f"On a {side} x {side} lake (one seed), each of 1,024 Dyna-Q workers needs {fewer:.0f} times fewer steps than "
        f"one alone, and all together {1024 / fewer:.0f} times as many; computed for one core per worker, that pays "
        f"if a step takes more than {microseconds[0]:.0f} µs.",
    )
    return textwrap.fill(" ".join(sentences), 120)


def in_readme(readme: str, data: Data) -> str:
    """Return the README's text with its table updated from these data."""
    return between(readme, MARK, f"{table(data)}\n\n{text(data)}")
