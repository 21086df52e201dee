"""Points within a notebook, for nbgrader: an autograded cell ends in the points that an item gets.

    from course.nbgrader import points
    points("q_learning")

What was run so far in the notebook is graded as `python -m course.grade` would grade it: in a process of its own, with
the same limits and marks. The cell's points in nbgrader must be those of points.json. nbgrader takes a number at the
end of a cell for partial credit if it is a plain one, gives 0 where anything is written to stderr, and ends a cell
after 30 s; so this returns an int, writes to stdout alone, and allows an item 8 s of computing.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

from course import marks
from course.fence import Fence, Limits

LIMITS = Limits(seconds=8, patience=2.5)


def points(item: str, seed: int = 0) -> int:
    """The points of one item, for the code that this notebook has run so far; what was seen is printed.

    `item` is one of points.json's. Raises ValueError for another one, and RuntimeError outside of a notebook.
    """
    of = marks.read_points()
    if item not in of:
        raise ValueError(f"item must be one of {', '.join(of)}, got {item!r}")
    with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notebook.ipynb"
        path.write_text(json.dumps(_notebook(_cells())), encoding="utf-8")
        with Fence(LIMITS) as fence:
            loaded, findings = fence.judge(path, seed, (item,))
    (mark,) = marks.sheet_of(str(path), loaded, findings, {item: of[item]}).marks
    print(f"{mark.seen} {mark.hint}".strip())
    return int(mark.points)


def _cells() -> list[str]:
    """The sources of the cells that were run, in their order."""
    try:
        return list(get_ipython().user_ns["In"])[1:]
    except NameError:
        raise RuntimeError("course.nbgrader.points is for cells of a notebook; elsewhere, use course.grade") from None


def _notebook(cells: list[str]) -> dict:
    """A notebook of these cells."""
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [_cell(source) for source in cells]}


def _cell(source: str) -> dict:
    """A code cell that was not run."""
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
