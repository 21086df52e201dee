"""Run a notebook in place, top to bottom, so that its outputs can be committed and compared.

`python tests/run_notebook.py distributed_td.ipynb` executes it in its own folder, without timings, widgets or stderr,
and prints the output of the cell tagged `comparison` and the path of the result. If the folder is not writable, the
result goes to a temporary one, and likewise HOME's files; both are announced before anything runs.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

# Encrypt what goes between this process and the kernel, where the kernel can; else it warns of eavesdroppers on stderr.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})


def run(path: Path, result: Path) -> nbformat.NotebookNode:
    """Execute the notebook and write it to `result`, whole or not at all."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        config=ENCRYPTED,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    ).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.outputs:
                if "(raylet)" in output.get("text", ""):  # what Ray says among what the cell printed
                    lines = output["text"].splitlines(keepends=True)
                    output["text"] = "".join(line for line in lines if "(raylet)" not in line)
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
    draft = result.with_name(result.name + ".tmp")
    nbformat.write(notebook, draft)
    if result.exists():
        shutil.copymode(result, draft)
    os.replace(draft, result)
    return notebook


def _is_passing(output) -> bool:
    """Whether an output is transient: a progress bar, stderr, or nothing but what Ray said."""
    widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return widget or output.get("name") == "stderr" or not output.get("text", "something").strip()


def is_writable(folder: Path) -> bool:
    """Whether files can be created in a folder, by trying: permissions do not show a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def main() -> None:
    path = result = Path(sys.argv[1]).resolve()
    if not is_writable(path.parent):
        result = Path(tempfile.mkdtemp(prefix="notebook-")) / path.name
        print(f"{path.parent} is not writable: the result will be {result}")
    home = Path(os.environ.get("HOME") or os.path.expanduser("~"))
    if os.name == "posix" and not is_writable(home):
        os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")
        print(f"HOME, {home}, is not writable: using {os.environ['HOME']} instead")
    print(f"Running {path.name}; this takes about a minute.", flush=True)
    start = time.perf_counter()
    notebook = run(path, result)
    for cell in notebook.cells:
        if "comparison" in cell.metadata.get("tags", []):
            shown = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
            print(*shown, sep="\n\n")
    print(f"{path.name} ran in {time.perf_counter() - start:.0f} s.")
    print("To read it: make lab; the report: Report.md" if result == path else f"To read it, open {result}")


if __name__ == "__main__":
    main()
