"""Whether a submission uses its arguments, or variables of the notebook with the same names.

A run is repeated with other values in those variables. Its draws repeat, so that it is the same run, step by step,
unless something reads them.
"""

from __future__ import annotations

from collections.abc import Callable

from .findings import Finding
from .plays import Play
from .records import Problem
from .runs import Run

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


def in_proportion(finding: Finding, judged: list[str], lacking: list[str]) -> Finding:
    """The finding of the agents that were judged, with the share that they are of those and the lacking ones."""
    if not lacking:
        return finding
    whole, hint = f"No result of {_listed(lacking)}, whatever the arguments are.", "Run it with the smallest settings."
    if not judged:
        return finding._replace(share=0.0, seen=whole, hint=hint)
    seen = finding.seen if finding.share < 1 else f"{_listed(judged)} use{'s' * (len(judged) == 1)} the arguments."
    share = finding.share * len(judged) / len(judged + lacking)
    return finding._replace(share=share, seen=f"{seen[0].upper()}{seen[1:]} {whole}", hint=finding.hint or hint)


def _listed(names: list[str]) -> str:
    """Names as a sentence has them, in the middle."""
    names = [name[0].lower() + name[1:] if name.startswith("The ") else name for name in names]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
