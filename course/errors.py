"""Errors of submitted code, as a student reads them: what was raised, and in which line of which cell."""

from __future__ import annotations

import re
import traceback

CELL = re.compile(r"<(code cell \d+)>")  # the file that a cell's code is said to be from
OURS = ("site-packages", "/course/", "/tabular/")  # within the paths of files that no student wrote
BLANK = "raises NotImplementedError"
ENDLESS = "it took more steps than it can need, and was stopped"
LOOPS = "When does your loop over the episodes stop, and when the one over steps?"


def in_words(problem: BaseException) -> str:
    """An error in a line; for a blank that was left empty, the function that it is in."""
    problem = getattr(problem, "cause", None) or problem  # of what Ray wraps
    frames = [one for one in traceback.extract_tb(problem.__traceback__) if not _is_ours(one.filename)]
    own = [one for one in frames if CELL.fullmatch(one.filename)] or frames
    name, place = (own[-1].name, _place(own[-1])) if own else ("", "")
    if isinstance(problem, NotImplementedError):
        return f"{name or 'it'} {BLANK}{f' ({place})' if place else ''}"
    line = f": `{own[-1].line[:80]}`" if place and own[-1].line else ""
    return described(problem) + (f", in {name}" if name else "") + (f" ({place}{line})" if place else "")


def _is_ours(path: str) -> bool:
    return any(part in path.replace("\\", "/") for part in OURS)


def _place(frame: traceback.FrameSummary) -> str:
    """The cell and the line; "" where it is in none."""
    cell = CELL.fullmatch(frame.filename)
    return f"{cell[1]}, line {frame.lineno}" if cell else ""


def described(error: BaseException) -> str:
    """An error's type, and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except BaseException:  # a message of the submission's own making
        lines = []
    name = type(error).__name__
    return f"{name}: {lines[0][:200]}" if lines else name


def is_blank(error: str) -> bool:
    """Whether an error in words is that of a blank that was left empty."""
    return BLANK in error


def stopped(error: str, when: str = "") -> tuple[str, str]:
    """(what was seen, a hint) of a run that ended with an error, given in words."""
    if is_blank(error):
        return f"not answered: {error}.", ""
    if error == ENDLESS:
        return f"{error}{when}.", LOOPS
    return f"it stopped{when} with an error: {error}.", "Run your own cells, first to last, also with other settings."
