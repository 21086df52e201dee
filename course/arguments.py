"""Whether a submission uses its arguments, or variables of the notebook with the same names.

A run is repeated with other values in those variables. Its draws repeat, so that it is the same run, step by step,
unless something reads them.
"""

from __future__ import annotations

from collections.abc import Callable

from .distributed import Problem
from .plays import Play
from .single import Run

DECOYS = {
    "epsilon": 0.71, "learning_rate": 0.41, "learning_episodes": 36, "map_size": 7, "test_interval": 3,
    "action_space": 3, "beta": 0.61, "do_test": False, "batch_size": 3, "cw_num": 2, "ew_num": 1,
}  # fmt: skip
HINT = "Where does the value come from if somebody else makes your class, with arguments of their own?"


def fingerprint(run: Run | Play) -> tuple:
    """What a run did: the same where nothing that it depends on is changed."""
    events = tuple(event[:7] for event in run.log.events)
    calls = tuple((call.method, call.caller, len(call.steps)) for call in getattr(run, "calls", ()))
    return events, calls, repr(run.returned), run.error, getattr(run, "stuck", "")


def read_globals(run: Callable[..., Run | Play]) -> list[str] | None:
    """The names of arguments that are read from the notebook instead; None where runs do not repeat.

    `run` makes a run with some values in the notebook's variables.
    """
    plain = fingerprint(run(globals_=()))
    if fingerprint(run(globals_=())) != plain:
        return None
    if fingerprint(run(globals_=tuple(DECOYS.items()))) == plain:
        return []
    return [name for name, value in DECOYS.items() if fingerprint(run(globals_=((name, value),))) != plain]


def problems_of(called: str, names: list[str]) -> list[Problem]:
    """That a class reads variables of the notebook."""
    if not names:
        return []
    several = "s" if len(names) > 1 else ""
    seen = f"{called} takes {', '.join(names)} from the notebook's variable{several} of the same name; expected the "
    return [Problem(f"{called} globals", f"{seen}argument{several}.", HINT, 0.5 if len(names) == 1 else 1.0)]


def no_result(called: list[str]) -> Problem:
    """That none of these comes to a result."""
    seen = f"{' and '.join(called)}: no result, whatever the arguments are."
    return Problem("no result", seen, "Run it with the smallest settings.")
