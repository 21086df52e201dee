"""Fixtures of all tests: the module on the path, no windows, and one Ray a session."""

import dataclasses
import shutil
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
matplotlib.use("Agg")

import td_helpers as td  # noqa: E402


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def workers():
    """Four collectors, two evaluators and a server on a private Ray, for the whole session."""
    td.start_ray()
    import helpers
    import ray

    ray.cloudpickle.register_pickle_by_value(helpers)  # workers know no test folder
    with td.Workers(4, 2) as workers:
        yield workers
    ray.shutdown()


@pytest.fixture
def by_value(request):
    """Lets workers, which know no test folder, unpickle what the test's module defines."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture
def lake():
    """The 4 x 4 lake."""
    return td.FrozenLakeEnv()


@pytest.fixture(scope="session")
def hallway():
    """The Dangerous Hallway."""
    return td.FrozenLakeEnv(map_name="Dangerous Hallway")


@pytest.fixture(scope="session")
def studies():
    """The assignment's experiments and report, and those past it, by their folders."""
    import beyond.figures
    import figures
    from beyond.figures import pays
    from figures.study import Study

    assignment = Study.of(figures)
    return {"figures": assignment, "beyond/figures": Study.of(beyond.figures, assignment, pays.in_readme)}


@pytest.fixture(params=["figures", "beyond/figures"])
def study(request, studies):
    """Each of the studies."""
    return studies[request.param]


@pytest.fixture
def copies(tmp_path, studies):
    """The studies in a copy of their folders, to write to."""
    ignored = shutil.ignore_patterns("*.tmp", "__pycache__")
    for folder in studies:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
        shutil.copy(studies[folder].folder.parent / "Report.md", (tmp_path / folder).parent)
    shutil.copy(ROOT / "README.md", tmp_path)
    assignment = dataclasses.replace(studies["figures"], folder=tmp_path / "figures")
    wing = dataclasses.replace(studies["beyond/figures"], folder=tmp_path / "beyond" / "figures", base=assignment)
    return {"figures": assignment, "beyond/figures": wing}


@pytest.fixture
def copy(copies):
    """The assignment's study in a copy of its folder."""
    return copies["figures"]


@pytest.fixture(scope="session")
def data(studies):
    """The committed rows of all experiments."""
    return studies["beyond/figures"].read()


@pytest.fixture(autouse=True)
def no_open_figures():
    """Close what a test has drawn."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
