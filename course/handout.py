"""The hand-out: the student's version of the source notebook, and whether the solved one gets full marks.

`python -m course.handout` writes course/handout.ipynb, and the points of points.json into it and the source; with
`--check` it then runs the solution through the grader.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat

from course import marks

FOLDER = Path(__file__).resolve().parent
SOURCE, HANDOUT = FOLDER / "source.ipynb", FOLDER / "handout.ipynb"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
ROW = re.compile(r"^(\| [^|]+ \| )(\d+(?: and \d+)*)( \|)", re.MULTILINE)  # of the table of points, part by part


def blanked(code: str) -> str:
    """The code of a cell with a blank in the place of each solution; ValueError where a marker has no partner."""
    lines, indent = [], None
    for number, line in enumerate(code.split("\n"), 1):
        marker = line.strip()
        if marker in (BEGIN, END) and (marker == BEGIN) != (indent is None):
            raise ValueError(f"line {number} of a cell: {marker!r} has no partner")
        if marker == BEGIN:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + "# YOUR CODE HERE", indent + "raise NotImplementedError()"]
        elif marker == END:
            indent = None
        elif indent is None:
            lines.append(line)
    if indent is not None:
        raise ValueError(f"the last {BEGIN!r} of a cell has no partner")
    return "\n".join(lines)


def solved(code: str) -> str:
    """The code of a cell with its solutions, without the markers."""
    return re.sub(rf"^ *(?:{BEGIN}|{END})\n?", "", code, flags=re.MULTILINE).rstrip("\n")


def with_points(notebook: nbformat.NotebookNode, points: Mapping[str, int]) -> nbformat.NotebookNode:
    """The notebook with these points in its first cell's table, which has the items in their order, and its test cells.

    Points that are there already are replaced; ValueError where the table has other items.
    """
    table, left = notebook.cells[0], list(points.values())
    if sum(row[2].count("and") + 1 for row in ROW.finditer(table.source)) != len(left):
        raise ValueError(f"the first cell's table must have points for {len(left)} items")
    number = lambda _: str(left.pop(0))
    table.source = ROW.sub(lambda row: row[1] + re.sub(r"\d+", number, row[2]) + row[3], table.source)
    for cell in notebook.cells:
        own = cell.metadata.get("nbgrader", {})
        if own.get("grade"):
            own["points"] = points[own["grade_id"].removeprefix("points_")]
    return notebook


def converted(convert: Callable[[str], str]) -> nbformat.NotebookNode:
    """The source notebook with its code cells converted, without outputs and without nbgrader's test cells."""
    notebook = nbformat.read(SOURCE, 4)
    notebook.cells = [cell for cell in notebook.cells if not cell.metadata.get("nbgrader", {}).get("grade")]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, cell.outputs, cell.execution_count = convert(cell.source), [], None
    return notebook


def text_of(notebook: nbformat.NotebookNode) -> str:
    """A notebook as the text of a file, the same every time."""
    return nbformat.writes(notebook) + "\n"


def main(arguments: list[str]) -> int:
    """Write the hand-out, and with `--check` grade the solution: 0 where it gets full marks."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m course.handout [--check]", file=sys.stderr)
        return 2
    SOURCE.write_text(text_of(with_points(nbformat.read(SOURCE, 4), marks.read_points())), encoding="utf-8")
    text = text_of(converted(blanked))
    HANDOUT.write_text(text, encoding="utf-8")
    print(f"{HANDOUT.name}: {text.count('# YOUR CODE HERE')} blanks")
    return check_solution() if arguments else 0


def check_solution() -> int:
    """Grade the solved notebook with the command that a teacher uses: 0 where it gets full marks."""
    with tempfile.TemporaryDirectory() as folder:
        solution, marks = Path(folder) / "solution.ipynb", Path(folder) / "marks.json"
        solution.write_text(text_of(converted(solved)), encoding="utf-8")
        command = [sys.executable, "-m", "course.grade", str(solution), "--json", str(marks)]
        status = subprocess.run(command, cwd=FOLDER.parent, check=False).returncode
        if status:
            return status
        (sheet,) = json.loads(marks.read_text(encoding="utf-8"))
    print(f"the solution: {sheet['points']} of {sheet['of']} points")
    return int(sheet["points"] != sheet["of"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
