"""The command, the fence and the probes together, on whole submissions."""

import json
import os
import re

import nbformat
import pytest

from course import grade, handout, marks
from course.findings import ITEMS

DISTRIBUTED = ("server", "collectors", "snapshots", "end", "traffic")


def entries(folder, capfd, *options: str) -> dict[str, dict]:
    """What the command says of the notebooks in a folder: the points by item, by name."""
    assert grade.main([str(folder), "--json", str(folder / "marks.json"), "--jobs", "1", *options]) == 0
    assert capfd.readouterr().err == ""
    found = json.loads((folder / "marks.json").read_text(encoding="utf-8"))
    return {os.path.basename(entry["file"]): {item["item"]: item for item in entry["items"]} for entry in found}


def write(path, convert, old: str = "", new: str = "") -> None:
    """The source notebook, converted, with some lines replaced."""
    notebook = handout.converted(convert)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert old in text
    for cell in notebook.cells:
        if cell.cell_type == "code" and old:
            cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, path)


def test_the_solution_gets_all_and_the_blank_hand_out_nothing_but_that_it_loads(tmp_path, capfd):
    write(tmp_path / "solution.ipynb", handout.solved)
    write(tmp_path / "blank.ipynb", handout.blanked)
    found = entries(tmp_path, capfd)
    assert {item: mark["points"] for item, mark in found["solution.ipynb"].items()} == marks.read_points()
    assert [item for item, mark in found["blank.ipynb"].items() if mark["points"]] == ["loads"]
    assert all(mark["judged"] and mark["seen"] for one in found.values() for mark in one.values())
    for item, mark in found["blank.ipynb"].items():
        assert item == "loads" or re.fullmatch(
            r"Not answered: learn_and_evaluate raises .*, line \d+\)\.", mark["seen"]
        )


def test_an_error_in_a_process_is_shown_with_its_line_in_the_students_cell(tmp_path, capfd):
    line = "            self.episode += 1"
    write(tmp_path / "raises.ipynb", handout.solved, f"{line}\n", f"{line} / 0\n")
    seen = entries(tmp_path, capfd, "--only", "server")["raises.ipynb"]["server"]["seen"]
    assert re.search(r"ZeroDivisionError: division by zero, in learn \(code cell \d+, line \d+: `self.episode", seen)


def test_what_the_simulated_ray_cannot_run_is_not_judged_and_one_core_is(tmp_path, capfd):
    write(tmp_path / "async.ipynb", handout.solved, "    def get_q_table(self)", "    async def get_q_table(self)")
    found = entries(tmp_path, capfd)["async.ipynb"]
    assert {item for item in ITEMS if not found[item]["judged"]} == set(DISTRIBUTED)
    assert all(mark["points"] == mark["of"] for mark in found.values())


@pytest.mark.long
def test_a_loop_without_an_end_costs_the_items_that_meet_it(tmp_path, capfd):
    line = "                next_action = self.explore_or_exploit_policy(next_state)\n"
    write(tmp_path / "hangs.ipynb", handout.solved, line, "                while True: pass\n")
    found = entries(tmp_path, capfd, "--seconds", "8")["hangs.ipynb"]
    hangs = {item for item, mark in found.items() if "did not come to an end" in mark["seen"]}
    assert hangs == {"policies", "sarsa", "episodes", "tests", "arguments"}
    assert all(mark["points"] == (0 if item in hangs else mark["of"]) for item, mark in found.items())
