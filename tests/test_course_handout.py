"""The hand-out: one source, from which the student's version and the solved one are made."""

import inspect
import re

import nbformat
import pytest
from faults import names_of, solution

from course import handout, marks
from tabular.simulated_ray import simulated

SIGNATURES = {
    "agent": "epsilon learning_rate learning_episodes map_size test_interval action_space beta do_test",
    "QLAgent": "epsilon learning_rate learning_episodes map_size test_interval action_space beta do_test",
    "SARSAagent": "epsilon learning_rate learning_episodes map_size test_interval action_space beta do_test",
    "QLAgent_server": (
        "epsilon learning_rate learning_episodes map_size test_interval batch_size action_space beta do_test"
    ),
    "distributed_QL_agent": (
        "epsilon learning_rate learning_episodes map_size cw_num ew_num test_interval batch_size action_space beta "
        "do_test"
    ),
}
METHODS = {
    "agent": ["explore_or_exploit_policy", "greedy_policy", "learn_and_evaluate", "evaluate", "learn"],
    "QLAgent_server": ["learn", "get_q_table", "add_result", "get_results", "ask_evaluation"],
    "distributed_QL_agent": ["learn_and_evaluate"],
}


@pytest.fixture(scope="module")
def students():
    return nbformat.read(handout.HANDOUT, 4)


def test_the_students_version_is_the_one_that_the_source_makes():
    made = handout.text_of(handout.converted(handout.blanked))
    assert handout.HANDOUT.read_text(encoding="utf-8") == made, "run make handout"


def test_the_students_version_has_blanks_and_neither_solutions_nor_outputs(students):
    code = "\n".join(cell.source for cell in students.cells if cell.cell_type == "code")
    assert code.count("raise NotImplementedError()") == code.count("# YOUR CODE HERE") >= 12
    assert "SOLUTION" not in code and "np.argmax" not in code
    assert all(not cell.outputs and cell.execution_count is None for cell in students.cells if "outputs" in cell)


def test_it_runs_from_the_top_to_the_first_blank(students):
    names, raised = {"__name__": "__main__"}, []
    with simulated(0):
        for cell in students.cells:
            if cell.cell_type == "code":
                try:
                    exec(cell.source.replace("%matplotlib inline", ""), names)
                except Exception as problem:
                    raised.append((type(problem), cell.source))
                    break
    assert raised[0][0] is NotImplementedError and "ql_agent = QLAgent(" in raised[0][1]


def test_names_and_arguments_are_those_of_the_assignment():
    names = names_of()
    for name, arguments in SIGNATURES.items():
        kind = getattr(names[name], "_kind", names[name])
        assert list(inspect.signature(kind).parameters) == arguments.split()
        assert set(METHODS.get(name, ())) <= set(dir(kind))
    worker = inspect.signature(names["collecting_worker"]._function)
    assert list(worker.parameters)[:5] == ["server", "simulator", "epsilon", "action_space", "batch_size"]
    assert {"simulator", "MAP", "map_size", "run_time"} <= set(names)


def test_nine_things_are_to_be_reported(students):
    text = "\n".join(cell.source for cell in students.cells if cell.cell_type == "markdown")
    assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == list("123456789")


def test_students_are_told_the_points_of_each_part(students):
    rows = re.findall(r"^\| ([^|]+) \| ([\d and]+) \|", students.cells[0].source, re.MULTILINE)
    told = [int(number) for _, numbers in rows for number in numbers.split(" and ")]
    assert told == list(marks.read_points().values())


def test_changed_points_are_written_into_the_hand_out_and_the_test_cells(tmp_path, monkeypatch, capsys):
    points = {item: 20 + i for i, item in enumerate(marks.read_points())} | {"traffic": 0}
    for name in ("SOURCE", "HANDOUT"):
        copy = tmp_path / f"{name}.ipynb"
        copy.write_text(getattr(handout, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(handout, name, copy)
    source = handout.SOURCE.read_text(encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(marks, "read_points", lambda: points)
        assert handout.main([]) == 0
    table = nbformat.read(handout.HANDOUT, 4).cells[0].source
    assert "| Q-learning, SARSA | 21 and 22 |" in table and "| traffic | 0 |" in table and "| file | 31 |" in table
    cells = [cell.metadata.get("nbgrader", {}) for cell in nbformat.read(handout.SOURCE, 4).cells]
    assert {cell.grade_id: cell.points for cell in cells if cell.get("grade")} == {
        f"points_{item}": number for item, number in points.items()
    }
    assert handout.main([]) == 0 and handout.SOURCE.read_text(encoding="utf-8") == source


def test_a_table_of_other_items_is_told():
    with pytest.raises(ValueError, match="must have points for 1 items"):
        handout.with_points(nbformat.read(handout.SOURCE, 4), {"sarsa": 3})


@pytest.mark.parametrize("code", [
    "### BEGIN SOLUTION\n1", "1\n### END SOLUTION", "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
    "### BEGIN SOLUTION\n### END SOLUTION\n### END SOLUTION",
])  # fmt: skip
def test_a_marker_without_its_partner_is_told(code):
    with pytest.raises(ValueError, match="has no partner"):
        handout.blanked(code)


def test_blanks_keep_what_stands_around_them():
    code = "def f():\n    a = 1\n    ### BEGIN SOLUTION\n    b = 2\n    ### END SOLUTION\n    return a"
    assert handout.blanked(code).split("\n")[2:4] == ["    # YOUR CODE HERE", "    raise NotImplementedError()"]
    assert handout.solved(code) == "def f():\n    a = 1\n    b = 2\n    return a"


def test_old_traps_are_gone():
    code = solution()
    assert ".copy()" in code["server"] and "max_steps" in code["workers"] and "reset(seed=" in code["workers"]
    assert "ray.get(server.add_result" in code["workers"]


def test_the_command_tells_how_it_is_used(capsys):
    assert handout.main(["--what"]) == 2 and "usage" in capsys.readouterr().err


@pytest.mark.long
def test_the_solved_notebook_runs_whole_over_ray(tmp_path, root):
    nbclient = pytest.importorskip("nbclient")
    notebook = handout.converted(handout.solved)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root)}}).execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells if "outputs" in cell for o in cell.outputs)
    assert "Distributed Q-learning (2, 4)" in printed and "the best policy is worth 960" in printed


@pytest.mark.long
def test_the_solution_gets_full_marks_by_the_command_of_teachers(capfd):
    assert handout.check_solution() == 0, capfd.readouterr()
