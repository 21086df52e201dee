"""Run a notebook in place, top to bottom, so that its outputs can be committed and compared.

`python tests/run_notebook.py distributed_td.ipynb` executes it in its own folder, keeps no timings,
widgets or stderr, and prints the output of the cell tagged `comparison` and what to open.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(path: Path) -> nbformat.NotebookNode:
    """Execute the notebook and write it back, whole or not at all."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    ).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
    draft = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, draft)
    os.replace(draft, path)
    return notebook


def _is_passing(output) -> bool:
    """Whether an output is of the run rather than of the result: a progress bar, or stderr."""
    widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return widget or output.get("name") == "stderr"


def main() -> None:
    path = Path(sys.argv[1]).resolve()
    print(f"Running {path.name}; this takes one to two minutes.", flush=True)
    start = time.perf_counter()
    notebook = run(path)
    for cell in notebook.cells:
        if "comparison" in cell.metadata.get("tags", []):
            print(*(output.get("text", "") for output in cell.outputs), sep="\n")
    print(f"{path.name} ran in {time.perf_counter() - start:.0f} s. To read it: make lab; the report: Report.md")


if __name__ == "__main__":
    main()
