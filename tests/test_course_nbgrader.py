"""The source notebook is an nbgrader assignment, whose cells give the points that the command gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course import fence, handout, marks, nbgrader

ROOT = Path(__file__).resolve().parent.parent
LACKING = "nbgrader is not installed, so it was not tried: pip install -r course/requirements-nbgrader.txt, and again"


def test_each_item_has_a_test_cell_with_its_points():
    cells = nbformat.read(handout.SOURCE, 4).cells
    graded = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade")]
    found = {cell.source.partition('points("')[2].partition('"')[0]: cell.metadata.nbgrader.points for cell in graded}
    assert found == marks.read_points() and len(graded) == len(found)
    assert not any(cell.metadata.nbgrader.solution for cell in graded)


def test_what_students_get_has_none_of_these():
    for notebook in (handout.converted(handout.blanked), nbformat.read(handout.HANDOUT, 4)):
        assert not any("course" in cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_in_a_notebook_points_are_those_of_what_was_run(monkeypatch, capsys):
    monkeypatch.setattr(fence, "JUDGE", "stub_judge")
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    shell = type(
        "Shell", (), {"user_ns": {"In": ["", "class QLAgent:\n    pass", "def judged(item):\n    return item"]}}
    )
    monkeypatch.setattr(nbgrader, "get_ipython", lambda: shell, raising=False)
    assert nbgrader.points("sarsa") == 12 and type(nbgrader.points("sarsa")) is int
    told = capsys.readouterr()
    assert told.out == "sarsa\nsarsa\n" and told.err == ""


def test_outside_of_a_notebook_and_for_other_items_it_says_what_is_wrong():
    with pytest.raises(RuntimeError, match=r"course\.grade"):
        nbgrader.points("sarsa")
    with pytest.raises(ValueError, match="item must be one of policies"):
        nbgrader.points("sarsaa")


@pytest.mark.long
def test_nbgrader_generates_the_assignment_and_grades_it(tmp_path):
    """The solution gets all points, the blank assignment those that the command gives it."""
    api = pytest.importorskip("nbgrader.api", reason=LACKING)
    for folder in ("source/td", "submitted/ann/td", "submitted/bob/td"):
        (tmp_path / folder).mkdir(parents=True)
    source = handout.SOURCE.read_text(encoding="utf-8")
    (tmp_path / "source" / "td" / "td.ipynb").write_text(source, encoding="utf-8")
    (tmp_path / "submitted" / "ann" / "td" / "td.ipynb").write_text(source, encoding="utf-8")
    config = 'c = get_config()\nc.CourseDirectory.course_id = "td"\nc.ExecutePreprocessor.timeout = 120\n'
    (tmp_path / "nbgrader_config.py").write_text(config, encoding="utf-8")

    def run(*arguments):
        programs = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # nbgrader starts alembic
        where = os.environ | {"PYTHONPATH": str(ROOT), "PATH": programs}
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, env=where)
        assert done.returncode == 0, done.stderr[-3000:]

    run("nbgrader", "generate_assignment", "td")
    blank = (tmp_path / "release" / "td" / "td.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in blank and "course.nbgrader" not in blank and "raise NotImplementedError" in blank
    (tmp_path / "submitted" / "bob" / "td" / "td.ipynb").write_text(blank, encoding="utf-8")
    run("nbgrader", "autograde", "td")
    with api.Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as gradebook:
        scores = {
            submission.student.id: {grade.cell.name: grade.auto_score for grade in submission.notebooks[0].grades}
            for submission in gradebook.assignment_submissions("td")
        }
    assert scores["ann"] == {f"points_{item}": of for item, of in marks.read_points().items()}
    run("course.grade", "release", "--json", "marks.json")
    (sheet,) = json.loads((tmp_path / "marks.json").read_text(encoding="utf-8"))
    assert scores["bob"] == {f"points_{item['item']}": item["points"] for item in sheet["items"]}
