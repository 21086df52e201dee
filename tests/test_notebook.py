"""The committed notebook: its layout, that it was run cleanly from top to bottom, and that its prose keeps to it."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "distributed_td.ipynb"
HEADINGS = [  # in this order; others may stand between them
    "Distributed Q-learning and SARSA",
    "Recap of Q-learning and SARSA",
    "Set-up",
    "The frozen lake",
    "Maps",
    "Helper functions",
    "Simulator",
    "Non-distributed agents",
    "TD agent",
    "Q-learning agent",
    "SARSA agent",
    "The grid of the assignment",
    "What the two algorithms do in the hallway",
    "Distributed Q-learning",
    "Start Ray",
    "The flow",
    "Server",
    "Collector",
    "Evaluator",
    "Agent",
    "One collector equals one core",
    "Distributed runs",
    "Comparison of the approaches",
    "Federated learning: the collectors learn",
    "What was learned",
    "Shut down",
]
SHOWN = [  # the assignment's classes and updates, in the order of its cells
    "def step(self, action)",
    "def plot_result(",
    "def learn_and_evaluate(self",
    "class QLAgent(TDAgent)",
    "def q_learning_update(",
    "class SARSAAgent(TDAgent)",
    "def sarsa_update(",
    "class QLAgentServer(",
    "class CollectingWorker(",
    "class EvaluationWorker(",
    "def _batches(self",
]


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(cells, tag):
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def outputs_as_text(cells):
    """All that the cells printed or showed, pictures aside."""
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    return "\n".join(texts + [text for o in outputs for kind, text in o.get("data", {}).items() if "text/" in kind])


def assert_in_order(wanted, found):
    position = 0
    for item in wanted:
        assert item in found[position:], f"{item!r} is missing, or not behind what should come before it"
        position += found[position:].index(item) + 1


def test_blocks_stand_in_the_order_of_the_assignment(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert_in_order(HEADINGS, re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE))


def test_the_source_of_each_class_is_shown_in_the_order_of_the_assignment(code_cells):
    shown = outputs_as_text(code_cells)
    position = 0
    for line in SHOWN:
        position = shown.find(line, position)
        assert position >= 0, f"{line!r} is not shown, or not where it should be"


def test_shown_source_is_that_of_the_module(code_cells):
    module = re.sub(r"\s+", " ", (ROOT / "td_helpers.py").read_text())
    for cell in code_cells:
        if cell.source.startswith("show_source("):
            markdown = cell.outputs[0].data["text/markdown"].removeprefix("```python").removesuffix("```")
            for piece in markdown.split("\n\n\n"):
                assert re.sub(r"\s+", " ", piece).strip() in module, (
                    f"{cell.source} shows what the module had before; run make"
                )


def test_cells_were_run_once_from_top_to_bottom(code_cells):
    assert [cell.execution_count for cell in code_cells] == list(range(1, len(code_cells) + 1))


def test_no_cell_wrote_to_stderr_or_failed(code_cells):
    outputs = [output for cell in code_cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_no_class_is_defined_in_the_notebook(code_cells):
    source = "\n".join(cell.source for cell in code_cells).replace("%matplotlib inline", "")
    assert not [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def test_code_cells_are_short(code_cells):
    lengths = [len(cell.source.splitlines()) for cell in code_cells]
    assert max(lengths) <= 25
    assert sum(length > 15 for length in lengths) <= 2


def test_no_code_cell_ends_in_a_semicolon(code_cells):
    assert not [cell.source for cell in code_cells if cell.source.rstrip().endswith(";")]


def test_one_cell_holds_the_parameters_and_one_the_comparison(code_cells):
    assert len(tagged(code_cells, "parameters")) == 1
    (comparison,) = tagged(code_cells, "comparison")
    assert "nbval-ignore-output" in comparison.metadata.tags  # it prints times
    assert "with evaluation" in outputs_as_text([comparison])


def test_parameters_are_plain_assignments_of_constants(code_cells):
    (cell,) = tagged(code_cells, "parameters")
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_kernel_is_the_one_that_every_jupyter_has(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_file_is_small_and_without_widgets(notebook):
    assert "widgets" not in notebook.metadata
    assert "application/vnd.jupyter.widget" not in PATH.read_text(encoding="utf-8")
    assert PATH.stat().st_size < 2 * 2**20


def test_ray_is_shut_down_in_the_last_cell(notebook):
    assert "ray.shutdown()" in notebook.cells[-1].source


def test_every_number_in_the_prose_was_printed_or_is_set(notebook, code_cells):
    """Decimals and numbers with a thousands comma; those of a clock are not in the prose, since they change."""
    repeatable = [cell for cell in code_cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    sources = "\n".join(cell.source for cell in code_cells) + (ROOT / "td_helpers.py").read_text()
    known = (outputs_as_text(repeatable) + sources).replace("_", "").replace(",", "")
    number = r"-?\d+(?:,\d{3})*\.\d+|\d{1,3}(?:,\d{3})+"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for cited in re.findall(rf"(?<![\w.])(?:{number})(?![\w.]*\d)", cell.source):
                plain = cited.replace(",", "")
                assert re.search(rf"(?<![\d.-]){re.escape(plain)}(?!\d)", known), f"{cited} in: {cell.source[:80]}"
