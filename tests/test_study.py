"""Studies: experiments and pictures are found, run and published atomically, and bad input is refused."""

import ast
import contextlib
import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import beyond.figures
import figures
from figures import curves, exact, fresh, hallway, make_figures, report, study
from figures.assignment import HALLWAY
from figures.rows import read_rows, settings_of, write_rows
from figures.study import Study, experiment
from tabular.simulated_ray import simulated

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"figures": figures, "beyond/figures": beyond.figures}


def contents(study) -> dict:
    """Return all files of a copied project, by path."""
    return {path: path.read_bytes() for path in study.root.rglob("*") if path.is_file()}


def committed_report(study) -> str:
    """Return the study's committed report."""
    return (study.folder.parent / "Report.md").read_text(encoding="utf-8")


def sources(folder: Path) -> dict[Path, ast.Module]:
    """Return the parsed modules of a folder, by path."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}


def imported(module: ast.Module) -> set[str]:
    """Return the dotted names of all modules that a module imports."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# Imports


def test_the_assignment_imports_nothing_beyond_it():
    for folder in (ROOT, ROOT / "figures", ROOT / "tabular"):  # td_helpers.py is in ROOT
        for path, module in sources(folder).items():
            imports = {name for name in imported(module) if name.partition(".")[0] in ("beyond", "course")}
            assert not imports, path.name


def test_the_agents_past_the_assignment_come_without_their_experiments():
    code = "import sys, beyond; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {name.partition(".")[0] for name in modules.split()}
    assert "beyond.federated" in modules.split()
    assert not {"figures", "matplotlib", "pandas"} & tops and "beyond.figures" not in modules.split()


WEATHER = """
from figures.study import experiment, picture
from sky_of_tests.waiting import run as other


@experiment
def run(seeds=2):
    for seed in range(seeds):
        yield {"seed": seed, "rain": seed / 2}


@picture
def clouds(data):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot(data["weather"]["rain"])
    return figure


def wettest(data):
    return data["weather"]["rain"].max()
"""
WAITING = """
from figures.study import experiment


@experiment(timed=True)
def run(seeds=3):
    yield {"seed": 0}
"""


def test_a_new_file_is_a_new_experiment_with_its_pictures_data_and_numbers(tmp_path, monkeypatch):
    folder = tmp_path / "sky_of_tests"
    (folder / "data").mkdir(parents=True)
    command_line = "raise AssertionError('the command line is not a question')"
    files = {"__init__.py": "", "make_figures.py": command_line, "waiting.py": WAITING, "weather.py": WEATHER}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "report_template.md").write_text("It rains {{ weather.wettest() }}.\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import sky_of_tests

    study = Study.of(sky_of_tests)
    assert list(study.experiments) == ["weather", "waiting"]  # timed experiments run last
    assert [settings_of(run) for run in study.experiments.values()] == [{"seeds": 2}, {"seeds": 3}]
    make_figures.main(study, [])
    made = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.suffix in (".csv", ".png", ".md")
    }
    assert made == {
        "Report.md",
        "sky_of_tests/report_template.md",
        "sky_of_tests/clouds.png",
        "sky_of_tests/data/waiting.csv",
        "sky_of_tests/data/weather.csv",
    }
    assert committed_report(study) == "It rains 0.5.\n"
    for name in [name for name in sys.modules if name.startswith("sky_of_tests")]:
        del sys.modules[name]


# Experiments


SPREAD = [
    (folder, name)
    for folder, package in PACKAGES.items()
    for name, run in Study.of(package).experiments.items()
    if "spread" in run.__code__.co_names
]


@pytest.mark.parametrize(("folder", "name"), SPREAD)
def test_the_tasks_of_an_experiment_can_be_sent_to_other_processes(monkeypatch, studies, folder, name):
    import ray
    from ray import cloudpickle

    sent = []
    run = studies[folder].experiments[name]
    noted = lambda task, cases, **settings: sent.append((task, [case | settings for case in cases])) or []
    monkeypatch.setitem(run.__globals__, "spread", noted)
    package = PACKAGES[folder]
    cloudpickle.register_pickle_by_value(package)
    try:
        with contextlib.suppress(KeyError):  # some look up their rows, which are missing
            list(run())
        task, cases = sent[0]
        assert isinstance(ray.remote(num_cpus=1)(task), ray.remote_function.RemoteFunction)
        assert len(cloudpickle.dumps(task)) > 0
        assert cases and all(inspect.signature(task).bind(**case) for case in cases)
    finally:
        cloudpickle.unregister_pickle_by_value(package)


# Publishing


@pytest.fixture
def short(copy):
    """A study whose report is one sentence without pictures, so that it is quick to publish."""
    (copy.folder / "report_template.md").write_text(
        "The optimum is {{ exact.best(HALLWAY).value | number(1) }}.\n", encoding="utf-8"
    )
    (copy.folder / "appendix_template.md").unlink()
    return dataclasses.replace(copy, pictures={})


def text_of(study) -> str:
    """Return a study's template."""
    return (study.folder / "report_template.md").read_text(encoding="utf-8")


def add(study, text: str) -> None:
    """Append text to a study's template."""
    (study.folder / "report_template.md").write_text(text_of(study) + text, encoding="utf-8")


def test_a_named_experiment_is_run_and_published_with_the_report(short):
    path = short.folder / "data" / "exact.csv"
    committed = path.read_bytes()
    path.unlink()
    make_figures.main(short, ["exact"])
    assert path.read_bytes() == committed
    assert committed_report(short) == "The optimum is 960.3.\n"


def test_beyond_writes_its_own_report_and_readme_table_and_leaves_the_assignment_alone(copies):
    beyond_study = dataclasses.replace(copies["beyond/figures"], pictures={})
    (beyond_study.folder / "report_template.md").write_text("{{ timing.cores() }} cores\n", encoding="utf-8")
    readme = beyond_study.root / "README.md"
    committed = readme.read_text(encoding="utf-8")
    readme.write_text(committed.replace("| pace |", "| speed |"), encoding="utf-8")
    before = contents(beyond_study)
    make_figures.main(beyond_study, ["--draw"])
    after = contents(beyond_study)
    changed = {path.relative_to(beyond_study.root).as_posix() for path in after if before.get(path) != after[path]}
    assert changed == {"README.md", "beyond/Report.md", "beyond/figures/claims_fresh.md"}
    assert before.keys() == after.keys()
    assert readme.read_text(encoding="utf-8") == committed and committed_report(beyond_study) == "2 cores\n"


def test_an_appendix_is_published_beside_the_data_and_its_claims_are_checked(short, capsys):
    (short.folder / "appendix_template.md").write_text("Its route: {{ exact.best(HALLWAY).route }}\n", encoding="utf-8")
    make_figures.main(short, ["--draw"])
    assert (short.folder / "appendix.md").read_text(encoding="utf-8") == "Its route: bypass\n"
    (short.folder / "appendix_template.md").write_text('{% do claim("it is odd", false) %}\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        make_figures.main(short, ["--draw"])
    assert "figures/appendix_template.md, line 1: the data do not show that it is odd" in capsys.readouterr().err


def test_all_makes_the_study_it_builds_on_first(copies, capsys):
    base = dataclasses.replace(copies["figures"], pictures={})
    further = dataclasses.replace(copies["beyond/figures"], pictures={}, base=base, rewrite=None)
    for one in (base, further):
        (one.folder / "report_template.md").write_text("{{ timing.cores() }} cores\n", encoding="utf-8")
        (one.folder / "appendix_template.md").unlink(missing_ok=True)
    make_figures.main(further, ["--all", "--draw"])
    assert committed_report(base) == committed_report(further) == "2 cores\n"
    with pytest.raises(SystemExit):
        make_figures.main(further, ["--all", "lock_in"])
    assert "--all runs all experiments: leave out lock_in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("committed", "again", "sizes", "times"),
    [
        ([[4.0, 3.0, 5.0]], [[6.0, 1, 2]], "4 [3, 5] | 6 [1, 2]", "1.50"),
        ([[4.0, 3.0, 5.0]], [[-6.0, 1, 2]], "4 [3, 5] | -6 [1, 2]", ""),  # another sign
        ([2, 1_500], [1, 3_000], "2, 1,500 | 1, 3,000", "0.50, 2.00"),
        ([0, True], [2, True], "0, yes | 2, yes", ""),
    ],
)
def test_sizes_of_effects_are_compared_by_their_ratio(few_seeds, committed, again, sizes, times):
    claim = lambda sizes: report.Claim("it is so", True, False, "", sizes, frozenset({"curves"}))
    records = fresh.sitting(few_seeds, ["curves"], [claim(committed)], [claim(again)], 1000)
    assert f"| it is so | {sizes} | {times} | holds |" in fresh.text(few_seeds, [claim(committed)], records)
    assert "|  |  | not run again |" in fresh.text(few_seeds, [claim(committed)], [])


def test_a_false_claim_publishes_nothing_but_keeps_the_draft(short, capsys):
    add(short, '{% do claim("it is low", exact.best(HALLWAY).value < 100) %}\n')
    before = contents(short)
    with pytest.raises(SystemExit) as stopped:
        make_figures.main(short, ["exact"])
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "figures/report_template.md, line 2: the data do not show that it is low" in message
    assert "see figures/unpublished.tmp" in message
    after = contents(short)
    draft = {path for path in after if path.parent.name == "unpublished.tmp"}
    assert {path.name for path in draft} == {"exact.csv", "Report.md", "claims_fresh.md"}
    assert {path: text for path, text in after.items() if path not in draft} == before


def test_a_false_claim_about_times_is_a_warning_and_the_report_says_so(short, capsys):
    add(short, '{% do claim("it is fast", false, is_timing=True) %}\n')
    make_figures.main(short, ["--draw"])
    assert "warning: figures/report_template.md, line 2" in capsys.readouterr().err
    said = "*Where this text says otherwise: the times do not show that it is fast.*\n"
    assert committed_report(short) == f"The optimum is 960.3.\n\n{said}"


def few_curves(seeds=2, tests=2, episodes={HALLWAY: 4_000}, rates=(0.1,), epsilons=(0.3,)):  # noqa: B006
    """Yield curves that take a second."""
    yield from curves.run(seeds, tests, episodes, rates, epsilons)


@pytest.fixture
def few_seeds(short):
    """A study whose report has two claims, one of them about the curves of two seeds."""
    experiment(few_curves)
    with simulated(0):
        write_rows(short.folder / "data" / "curves.csv", few_curves, few_curves())
        counted = 'rows.seeds("curves")'
        add(short, f'{{% do claim("two seeds make two curves", {counted} == 2, size={counted}) %}}\n')
        add(short, '{% do claim("the best way is the bypass", exact.best(HALLWAY).route == "bypass") %}\n')
        yield dataclasses.replace(short, experiments={"exact": exact.run, "curves": few_curves})


def test_other_seeds_write_a_table_of_claims_and_nothing_else(few_seeds, monkeypatch):
    seen = []
    counted = lambda data, name: seen.append(data[name]) or data[name]["seed"].nunique()
    monkeypatch.setattr(few_seeds.modules["rows"], "seeds", counted)
    before = contents(few_seeds)
    make_figures.main(few_seeds, ["--seeds-from", "1000", "curves"])
    after = contents(few_seeds)
    table = after.pop(few_seeds.folder / "claims_fresh.md").decode()
    kept = few_seeds.folder / "data" / fresh.KEPT
    assert after.pop(kept) != before.pop(kept)
    before.pop(few_seeds.folder / "claims_fresh.md")
    assert after == before
    assert "| two seeds make two curves | 2 | 2 | 1.00 | holds |" in table
    assert "python figures/make_figures.py --seeds-from 1000" in table
    assert "bypass" not in table  # exact values have no seeds
    committed, _, again, _ = seen  # each claim reads them twice: for its condition and its size
    assert committed["seed"].tolist() == again["seed"].tolist()
    assert not committed.equals(again)


@experiment
def few_routes(seeds=2):
    """Yield rows at once."""
    for seed in range(seeds):
        yield {"seed": seed}


def test_sittings_add_up_to_one_table(few_seeds):
    read = lambda *names: "".join(f'rows.seeds("{name}") + ' for name in names) + "0"
    for words, names in {"one": ["curves"], "other": ["hallway"], "both": ["curves", "hallway"]}.items():
        add(few_seeds, f'{{% do claim("the {words}", {read(*names)} > 0, size={read(*names)}) %}}\n')
    runs = few_seeds.experiments | {"hallway": few_routes}
    both = dataclasses.replace(few_seeds, experiments=runs)
    path = both.folder / "data" / "hallway.csv"
    write_rows(path, few_routes, few_routes())

    def rows(*names) -> list[bool]:
        """Run a sitting; whether each claim has been run again then."""
        make_figures.main(both, ["--seeds-from", "1000", *names])
        table = (both.folder / "claims_fresh.md").read_text(encoding="utf-8")
        return ["| holds |" in re.search(rf"\| the {words} \|.+", table)[0] for words in ("one", "other", "both")]

    assert rows("curves") == [True, False, False]
    assert rows("hallway") == [True, True, False]  # no sitting has run both
    assert rows() == [True, True, True]
    write_rows(path, few_routes, [*few_routes(), {"seed": 7}])
    assert rows("curves") == [True, False, False]  # what was found beside other rows says nothing of these


def test_a_claim_that_fails_under_other_seeds_is_told_and_not_published(few_seeds, capsys):
    committed = read_rows(few_seeds.folder / "data" / "curves.csv", few_curves)
    value = float(curves.last({"curves": committed}, HALLWAY, "SARSA", 0.1, 0.3).mean())
    last = 'curves.last(HALLWAY, "SARSA", 0.1, 0.3).mean()'
    add(few_seeds, f'{{% do claim("the curve is that one", {last} == {value!r}) %}}\n')
    with pytest.raises(SystemExit):
        make_figures.main(few_seeds, ["--seeds-from", "1000", "curves"])
    assert "line 4: the data do not show that the curve is that one" in capsys.readouterr().err
    unpublished = few_seeds.folder / "unpublished.tmp" / "claims_fresh.md"
    assert "the curve is that one" in unpublished.read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_broken_off_leaves_every_file_as_it_was(copy, error):
    @experiment
    def broken(epsilons=(0.0, 0.05, 0.3)):
        yield {"map": "half a file"}
        raise error

    before = contents(copy)
    with pytest.raises((OSError, KeyboardInterrupt)):
        make_figures.main(dataclasses.replace(copy, experiments=copy.experiments | {"exact": broken}), ["exact"])
    assert contents(copy) == before
    assert [path for path in copy.folder.iterdir() if path.suffix == ".tmp"] == []


def test_a_picture_that_fails_leaves_every_file_as_it_was(short):
    before = contents(short)
    pictures = {"two_routes": hallway.two_routes, "broken": lambda data: data["broken"]}
    with pytest.raises(KeyError, match="broken"):
        make_figures.main(dataclasses.replace(short, pictures=pictures), ["exact"])
    after = contents(short)
    assert after.pop(short.folder / "unpublished.tmp" / "exact.csv")  # no experiment is run in vain
    assert {path: text for path, text in after.items() if path.parent.name != "unpublished.tmp"} == before


# Bad input


def test_unknown_experiment_lists_the_known_ones(study, capsys):
    with pytest.raises(SystemExit) as stopped:
        make_figures.main(study, ["curve"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "experiment curve" in message
    assert all(name in message for name in study.experiments)


@pytest.mark.parametrize(("folder", "name"), [("figures", "hallway"), ("beyond/figures", "merging")])
def test_data_of_other_settings_are_refused_with_file_and_field(copies, capsys, folder, name):
    path = copies[folder].folder / "data" / f"{name}.csv"
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)
    saved = json.loads(first.removeprefix("# "))
    path.write_text("# " + json.dumps(saved | {"seeds": 7}) + "\n" + rest, encoding="utf-8")
    with pytest.raises(SystemExit):
        make_figures.main(copies["beyond/figures"], ["--draw"])
    message = capsys.readouterr().err
    assert f"{folder}/data/{name}.csv has seeds = 7, but the code has {saved['seeds']}" in message
    assert f"run: python {folder}/make_figures.py {name}" in message


@pytest.mark.parametrize("damage", ["cut", "cut within a number", "a field less", "no settings", "no rows", "missing"])
def test_damaged_data_are_refused_with_the_file(copy, damage):
    path = copy.folder / "data" / "exact.csv"
    text = path.read_text(encoding="utf-8")
    damaged = {
        "cut": text[: text.rindex(",")],
        "cut within a number": text[:-2],
        "a field less": text.replace(",31\n", "\n", 1),
        "no settings": text.split("\n", 1)[1],
        "no rows": text.split("\n", 1)[0],
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(damaged[damage], encoding="utf-8")
    with pytest.raises(ValueError, match=r"figures/data/exact\.csv.*; run: python figures/make_figures\.py exact"):
        read_rows(path, exact.run)


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [{"table": "8426e352", "route": "", "value": np.nan, "largest": np.inf, "seed": 1, "epsilon": 0.3}]
    write_rows(tmp_path / "exact.csv", exact.run, rows)
    found = read_rows(tmp_path / "exact.csv", exact.run).iloc[0]
    assert (found["table"], found["route"], found["largest"], found["epsilon"]) == ("8426e352", "", np.inf, 0.3)
    assert np.isnan(found["value"])


def test_numbers_are_read_to_the_last_bit(tmp_path):
    values = np.random.default_rng(3).normal(size=5_000) * 10.0 ** np.arange(-5, 5).repeat(500)
    write_rows(tmp_path / "exact.csv", exact.run, [{"value": value} for value in values])
    found = read_rows(tmp_path / "exact.csv", exact.run)["value"]
    assert found.tolist() == [float(f"{value:.6g}") for value in values]


ABOVE = {  # what each may not import: a lower floor knows nothing of a higher one
    "tabular": {"td_helpers", "figures", "beyond", "course", "tests"},
    "td_helpers.py": {"figures", "beyond", "course", "tests"},
    "figures": {"beyond", "course", "tests"},
    "beyond": {"figures", "course", "tests"},
    "beyond/figures": {"course", "tests"},
}


@pytest.mark.parametrize("place", ABOVE)
def test_imports_run_downwards(place):
    path = ROOT / place
    modules = [path] if path.is_file() else sorted(path.glob("*.py"))
    assert modules
    for module in modules:
        names = imported(ast.parse(module.read_text(encoding="utf-8")))
        assert not {name.partition(".")[0] for name in names} & ABOVE[place], module.name


def test_a_name_that_would_be_written_twice_is_refused():
    study._check_once(["curves", "hallway"])
    with pytest.raises(ValueError, match="curves is written by two experiments, or two pictures"):
        study._check_once(["curves", "hallway", "curves"])
