"""What a grader may meet: a read-only folder, a read-only HOME, and `pip install .`."""

import os
import shutil
import sys

import nbformat
import pytest
import run_notebook


@pytest.fixture
def notebook(tmp_path):
    """A notebook of two cells in its own folder."""
    cells = [nbformat.v4.new_code_cell("1 / 1"), nbformat.v4.new_code_cell("print('twice as fast')")]
    cells[1].metadata.tags = ["comparison"]
    path = tmp_path / "folder" / "small.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def execute(notebook, capsys, monkeypatch, unwritable=()):
    """Run a notebook while some folders are not writable; return what is printed."""
    able = run_notebook.is_writable
    monkeypatch.setattr(run_notebook, "is_writable", lambda folder: folder not in unwritable and able(folder))
    monkeypatch.setattr(sys, "argv", ["run_notebook.py", str(notebook)])
    run_notebook.main()
    return capsys.readouterr().out


def test_a_notebook_is_run_in_place(notebook, capsys, monkeypatch):
    printed = execute(notebook, capsys, monkeypatch)
    assert "twice as fast" in printed and "make lab" in printed
    assert nbformat.read(notebook, 4).cells[0].execution_count == 1
    assert [path.name for path in notebook.parent.iterdir()] == ["small.ipynb"]


def test_in_a_folder_that_is_read_only_the_result_is_elsewhere_and_it_says_where(notebook, capsys, monkeypatch):
    before = notebook.read_bytes()
    printed = execute(notebook, capsys, monkeypatch, [notebook.parent])
    assert printed.startswith(f"{notebook.parent} is not writable") and "twice as fast" in printed
    result = printed.rpartition("open ")[2].strip()
    assert nbformat.read(result, 4).cells[0].execution_count == 1 and notebook.read_bytes() == before
    shutil.rmtree(os.path.dirname(result))


@pytest.mark.skipif(os.name != "posix", reason="HOME is used on POSIX only")
def test_a_home_that_is_read_only_is_replaced_and_told_at_the_start(notebook, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    printed = execute(notebook, capsys, monkeypatch)
    assert printed.startswith(f"HOME, {tmp_path / 'nowhere'}, is not writable") and "twice as fast" in printed
    shutil.rmtree(os.environ["HOME"])


def test_a_folder_is_writable_or_not(tmp_path):
    assert run_notebook.is_writable(tmp_path)
    assert not run_notebook.is_writable(tmp_path / "missing")


def test_what_is_installed_is_what_a_user_imports(root):
    configuration = pytest.importorskip("setuptools.config.pyprojecttoml")
    distribution = pytest.importorskip("setuptools").Distribution()
    configuration.apply_configuration(distribution, str(root / "pyproject.toml"), ignore_option_errors=False)
    assert (distribution.py_modules, distribution.packages) == (["td_helpers"], ["tabular", "beyond"])
    pinned = (root / "requirements.txt").read_text(encoding="utf-8")
    assert all(f"\n{name.rstrip('>=2')}==" in pinned for name in distribution.install_requires)
