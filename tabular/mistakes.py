"""Mistakes in a rule, told in few lines: Python's own error, the rule's line, and not what lies between."""

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

OURS = "tabular", "beyond", "td_helpers", "contextlib"  # modules whose frames say nothing to a user


def tell_line(error: Exception, functions: Iterable[Callable]) -> None:
    """Note in an error where in these functions, or in what they call, it fell, and end its traceback there."""
    own = {code for function in functions for code in codes(function)}
    last = _last_frame(error, lambda code: code in own)
    if last is None:
        return
    if "unhashable type" in str(error):  # what a dict says of q_table[state, :]
        error.add_note(USE_OF_ROWS)
    error.add_note(f"in {_place(last.tb_frame.f_code, last.tb_lineno)}")
    mistake(error).__traceback__ = types.TracebackType(None, last.tb_frame, last.tb_lasti, last.tb_lineno)


def tell_compiled(error: Exception, functions: Iterable[Callable]) -> None:
    """The same of an error that compiled functions raised: numba tells the line of a raise, and not of an index."""
    own = {(code.co_filename, code.co_name) for function in functions for code in codes(function)}
    last = _last_frame(error, lambda code: (code.co_filename, code.co_name) in own)
    names = " or ".join(function.__name__ for function in functions)
    place = _place(last.tb_frame.f_code, last.tb_lineno) if last else f"{names}: compiled=False tells the line"
    mistake(error).add_note(f"in {place}")


def _last_frame(error: Exception, is_own: Callable[[types.CodeType], bool]) -> types.TracebackType | None:
    """The innermost entry of a traceback whose code is one of those."""
    entry, last = error.__traceback__, None
    while entry is not None:
        last, entry = entry if is_own(entry.tb_frame.f_code) else last, entry.tb_next
    return last


def not_compiled(error: Exception, functions: Iterable[Callable], replays: bool) -> Exception:
    """What to raise where numba cannot compile functions that plain Python runs, to learn by or to replay by."""
    text = str(error)
    # The innermost of nested problems is the last that a step of the compiler failed at.
    problem = re.split(r"Failed in nopython mode pipeline \(step: .*\)", text)[-1]
    lines = [line.strip() for line in problem.splitlines() if line.strip()] or [text]
    what = re.sub(r"\W*Raised from .*", "", lines[0])
    if what.startswith("NameError: "):
        told = mistake(NameError(what.removeprefix("NameError: ")))
        told.add_note(f"in {_line_of(what, functions)}")
        return told
    if len(lines) > 1 and lines[1].startswith(">>>"):
        what = "it has no " + re.sub(r"Literal\[\w+\]\((.*?)\)", r"\1", lines[1][3:].strip())
    if "Cannot determine Numba type of <class 'function'>" in what:
        what += ", since a helper must stand in the rule's own file or notebook"
    elif "Cannot determine Numba type of <class 'type'>" in what:
        what += ", since settings must be numbers in the rule's own file or notebook"
    place = _line_in(problem, functions)
    way_out = "write it in another way, or step the simulator with compiled=False"
    if replays:
        way_out = "write it in another way: a server replays compiled, also what was collected with compiled=False"
    return mistake(TypeError(f"numba cannot compile {place} ({what}): {way_out}"))


def mistake(error: Error) -> Error:
    """An error that is the rule's, to be shown in few lines."""
    error.__dict__["in_rule"] = True
    return error


def _line_in(problem: str, functions: Iterable[Callable]) -> str:
    """The first line of these functions that numba names."""
    for file, line in re.findall(r'(?:File "|at |from )([^"\n]*?)"?(?:, line |\s\()(\d+)', problem):
        for function in functions:
            for code in codes(function):
                lines = [number for *_, number in code.co_lines() if number]
                if Path(file).name == Path(code.co_filename).name and min(lines) <= int(line) <= max(lines):
                    return _place(code, int(line))
    return " or ".join(function.__name__ for function in functions)


def _line_of(complaint: str, functions: Iterable[Callable]) -> str:
    """The first line of these functions that has the name which is not defined: numba does not tell."""
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
    """A line of code as it is told."""
    source = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_name}, line {line}" + (f": {source}" if source else "")


class in_few_lines(contextlib.ContextDecorator):
    """Show the caller's frames alone of a Ctrl-C, and of an error in a rule the rule's own besides: not what led there.

    Python adds a frame to a traceback as an error leaves it, and none when it is raised again as it is.
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
            error.__traceback__ = None if _is_of(OURS, last.tb_frame) else last
            error.__dict__["_render_traceback_"] = functools.partial(_lines, error)  # IPython asks for this
        return False


def _lines(error: BaseException) -> list[str]:
    """An error as plain Python shows it, two lines a frame, and not ten: without IPython's own frames."""
    entry = error.__traceback__
    while entry is not None and _is_of(("IPython", "ipykernel"), entry.tb_frame):
        entry = entry.tb_next
    return "".join(traceback.format_exception(type(error), error, entry)).splitlines()


def warn_caller(message: str) -> None:
    """Warn, as of the line outside this project that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_of(OURS, frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_of(modules: tuple[str, ...], frame: types.FrameType) -> bool:
    """Whether a frame is of one of these modules, or packages."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] in modules
