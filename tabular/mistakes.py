"""Short reports of mistakes in a rule: Python's own error and the rule's line, without the frames in between."""

from __future__ import annotations

import contextlib
import dis
import functools
import linecache
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from .sources import codes
from .stepping import USE_OF_ROWS

Error = TypeVar("Error", bound=Exception)

OURS = "tabular", "beyond", "td_helpers", "contextlib"  # modules whose frames do not help a user


def note_line(error: Exception, functions: Iterable[Callable]) -> None:
    """Add a note to an error with the innermost line of these functions in its traceback, which is cut to that line."""
    own = {code for function in functions for code in codes(function)}
    last = _last_frame(error, lambda code: code in own)
    if last is None:
        return
    if "unhashable type" in str(error):  # a dict's answer to q_table[state, :]
        error.add_note(USE_OF_ROWS)
    error.add_note(f"in {_place(last.tb_frame.f_code, last.tb_lineno)}")
    mistake(error).__traceback__ = types.TracebackType(None, last.tb_frame, last.tb_lasti, last.tb_lineno)


def note_compiled_line(error: Exception, functions: Iterable[Callable]) -> None:
    """Add a note with the line to an error from compiled code; numba gives it for a raise, but not for a bad index."""
    own = {(code.co_filename, code.co_name) for function in functions for code in codes(function)}
    last = _last_frame(error, lambda code: (code.co_filename, code.co_name) in own)
    names = " or ".join(function.__name__ for function in functions)
    place = _place(last.tb_frame.f_code, last.tb_lineno) if last else f"{names}: compiled=False shows the line"
    mistake(error).add_note(f"in {place}")


def _last_frame(error: Exception, is_own: Callable[[types.CodeType], bool]) -> types.TracebackType | None:
    """Return the innermost entry of a traceback whose code satisfies `is_own`, or None."""
    entry, last = error.__traceback__, None
    while entry is not None:
        last, entry = entry if is_own(entry.tb_frame.f_code) else last, entry.tb_next
    return last


def not_compiled(error: Exception, functions: Iterable[Callable], replays: bool) -> Exception:
    """Return the error to raise if numba cannot compile functions that plain Python can run.

    `replays` is whether the replay loop failed: no plain form of it can be used instead.
    """
    text = str(error)
    # numba nests problems; the innermost one comes last.
    problem = re.split(r"Failed in nopython mode pipeline \(step: .*\)", text)[-1]
    lines = [line.strip() for line in problem.splitlines() if line.strip()] or [text]
    what = re.sub(r"\W*Raised from .*", "", lines[0])
    if what.startswith("NameError: "):
        undefined = mistake(NameError(what.removeprefix("NameError: ")))
        undefined.add_note(f"in {_line_of(what, functions)}")
        return undefined
    if len(lines) > 1 and lines[1].startswith(">>>"):
        what = "it has no " + re.sub(r"Literal\[\w+\]\((.*?)\)", r"\1", lines[1][3:].strip())
    if "Cannot determine Numba type of <class 'function'>" in what:
        what += ": helper functions must be defined in the rule's own file or notebook"
    elif "Cannot determine Numba type of <class 'type'>" in what:
        what += ": settings must be numbers in the rule's own file or notebook"
    place = _line_in(problem, functions)
    way_out = "write it differently, or step the simulator with compiled=False"
    if replays:
        way_out = "write it differently: the server replays with compiled code, even if compiled=False"
    return mistake(TypeError(f"numba cannot compile {place} ({what}): {way_out}"))


def mistake(error: Error) -> Error:
    """Mark an error as a mistake in the rule, so that `in_few_lines` shortens its traceback; return it."""
    error.__dict__["in_rule"] = True
    return error


def _line_in(problem: str, functions: Iterable[Callable]) -> str:
    """Return the first line of these functions that numba's message mentions, else their names."""
    for file, line in re.findall(r'(?:File "|at |from )([^"\n]*?)"?(?:, line |\s\()(\d+)', problem):
        for function in functions:
            for code in codes(function):
                lines = [number for *_, number in code.co_lines() if number]
                if Path(file).name == Path(code.co_filename).name and min(lines) <= int(line) <= max(lines):
                    return _place(code, int(line))
    return " or ".join(function.__name__ for function in functions)


def _line_of(complaint: str, functions: Iterable[Callable]) -> str:
    """Return the first line of these functions that reads the undefined name; numba's message does not say which."""
    for function in functions:
        for code in codes(function):
            line = code.co_firstlineno
            for instruction in dis.get_instructions(code):
                positions: Any = instruction.positions
                line = positions.lineno or line
                if instruction.opname == "LOAD_GLOBAL" and f"'{instruction.argval}'" in complaint:
                    return _place(code, line)
    return " or ".join(function.__name__ for function in functions)


def _place(code: types.CodeType, line: int) -> str:
    """Describe a line of code: its function, number and text."""
    source = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_name}, line {line}" + (f": {source}" if source else "")


class in_few_lines(contextlib.ContextDecorator):
    """Shorten tracebacks: a Ctrl-C shows the caller's frames only, a mistake in a rule also the rule's line.

    The traceback is cut as the error leaves the block; Python then adds the caller's frames.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: object) -> Literal[False]:
        if isinstance(error, KeyboardInterrupt):
            error.__traceback__ = None
            error.__dict__["_render_traceback_"] = functools.partial(_lines, error)
        elif getattr(error, "in_rule", False):
            last = error.__traceback__
            while last.tb_next is not None:
                last = last.tb_next
            error.__traceback__ = None if _belongs_to(OURS, last.tb_frame) else last
            error.__dict__["_render_traceback_"] = functools.partial(_lines, error)  # IPython asks for this
        return False


def _lines(error: BaseException) -> list[str]:
    """Format an error as plain Python does, two lines per frame, and leave out IPython's own frames."""
    entry = error.__traceback__
    while entry is not None and _belongs_to(("IPython", "ipykernel"), entry.tb_frame):
        entry = entry.tb_next
    return "".join(traceback.format_exception(type(error), error, entry)).splitlines()


def warn_caller(message: str) -> None:
    """Issue a warning that points to the caller's line outside this project."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _belongs_to(OURS, frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _belongs_to(modules: tuple[str, ...], frame: types.FrameType) -> bool:
    """Whether a frame belongs to one of these modules or packages."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] in modules
