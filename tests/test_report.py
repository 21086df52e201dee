"""The report: what it shows is what the committed data say, and the data are those of the code's settings."""

import argparse
import contextlib
import inspect
import itertools
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import figures
import td_helpers as td
from figures import (
    curves,
    distributed,
    exact,
    experiments,
    federated,
    hallway,
    make_figures,
    merging,
    noise,
    relapses,
    report,
    scaling,
    timing,
    value_functions,
)
from figures.experiments import HALLWAY, SINGLE
from figures.rows import read_rows, where, write_rows
from figures.slow import Slow
from figures.summaries import between, bootstrap, coverage
from tabular.simulated_ray import simulated

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"seeds": 2, "tests": 2, "episodes": {HALLWAY: 200}, "rates": (0.1,), "epsilons": (0.3,)}


class Watched(dict):
    """Data that note which files are read."""

    def __init__(self, data):
        super().__init__(data)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


@pytest.fixture(scope="module")
def rendered(data):
    """The report of the committed data, its claims, and the data files that it has read."""
    watched = Watched(data)
    return *report.render(watched), watched.read


@pytest.fixture
def folder(tmp_path):
    """A copy of figures/ beside the report to write to."""
    ignored = shutil.ignore_patterns("*.tmp", "__pycache__")
    for name in ("Report.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    return shutil.copytree(ROOT / "figures", tmp_path / "figures", ignore=ignored)


def contents(folder: Path) -> dict:
    """All files of the project's copy."""
    return {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}


# Pictures and data


def test_every_figure_is_committed_and_cited_once():
    text = (ROOT / "Report.md").read_text(encoding="utf-8")
    picture = r"!\[[^\]]+\]\(figures/(\w+)\.png\)"
    cited = re.findall(picture, text)
    assert sorted(cited) == sorted(make_figures.PICTURES) == sorted(p.stem for p in (ROOT / "figures").glob("*.png"))


def body_of(text: str) -> str:
    """The report without its appendix."""
    body, heading, _ = text.partition("\n## Appendix")
    assert heading
    return body


def words_of(text: str) -> int:
    """The words of a text without its tables, pictures and captions."""
    return sum(len(line.split()) for line in text.splitlines() if not re.match(r"\||!\[|\*[^*]+\*$", line))


def test_the_report_is_read_in_a_quarter_of_an_hour():
    body = body_of((ROOT / "Report.md").read_text(encoding="utf-8"))
    assert words_of(body) <= 2_800
    assert body.count("\n![") <= 9


def test_no_cell_of_a_table_breaks_over_lines_at_900_pixels():
    text = (ROOT / "Report.md").read_text(encoding="utf-8")
    for table in (block for block in text.split("\n\n") if block.startswith("| ")):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        widest = [max(map(len, column)) for column in zip(*rows, strict=True)]
        pixels = sum(8 * width + 27 for width in widest)  # of GitHub's letters and cells
        assert pixels <= 900, table.splitlines()[0]


def test_every_figure_has_a_caption_with_its_number():
    blocks = (ROOT / "Report.md").read_text(encoding="utf-8").split("\n\n")
    captions = [after for block, after in itertools.pairwise(blocks) if block.startswith("![")]
    for number, caption in enumerate(captions, 1):
        assert caption.startswith(f"*Figure {number}. ")


def test_without_names_the_experiments_of_the_assignment_are_run():
    for arguments, names in ([], make_figures.ASSIGNMENT), (["--all"], make_figures.EXPERIMENTS):
        assert make_figures.arguments_of(argparse.ArgumentParser(), arguments) == (list(names), 0)


SPREAD = [name for name, run in make_figures.EXPERIMENTS.items() if "spread" in run.__code__.co_names]


@pytest.mark.parametrize("name", SPREAD)
def test_the_tasks_of_an_experiment_can_be_sent_to_other_processes(monkeypatch, name):
    import ray
    from ray import cloudpickle

    sent = []
    run = make_figures.EXPERIMENTS[name]
    monkeypatch.setitem(run.__globals__, "spread", lambda task, cases, name: sent.append((task, cases)) or [])
    cloudpickle.register_pickle_by_value(figures)
    try:
        with contextlib.suppress(KeyError):  # some look at their rows, of which there are none
            list(run())
        task, cases = sent[0]
        assert isinstance(ray.remote(num_cpus=1)(task), ray.remote_function.RemoteFunction)
        assert len(cloudpickle.dumps(task)) > 0
        assert cases and all(inspect.signature(task).bind(**case) for case in cases)
    finally:
        cloudpickle.unregister_pickle_by_value(figures)


def test_every_data_file_is_drawn_or_tabulated(data, rendered):
    import matplotlib.pyplot as plt

    watched = Watched(data)
    for picture in make_figures.PICTURES.values():
        assert picture(watched).axes
        plt.close("all")
    read = watched.read | rendered[2]
    assert {p.stem for p in (ROOT / "figures" / "data").glob("*.csv")} == set(make_figures.EXPERIMENTS) <= read


def test_no_file_is_larger_than_2_mb():
    assert all(p.stat().st_size < 2e6 for p in (ROOT / "figures").rglob("*") if p.is_file())


# Text


def test_tables_and_numbers_of_the_report_are_those_of_the_data(rendered):
    assert rendered[0] == (ROOT / "Report.md").read_text(encoding="utf-8")


def test_a_name_that_no_question_has_is_an_error(data, folder):
    (folder / "report_template.md").write_text("{{ curves.lates() }}", encoding="utf-8")
    with pytest.raises(report.jinja2.UndefinedError, match="lates"):
        report.render(data, folder)


def test_every_function_of_a_question_is_used():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "figures").glob("*.py")]
    text = "\n".join([*sources, (ROOT / "figures" / "report_template.md").read_text(encoding="utf-8")])
    used = set(re.findall(r"(?<!def )\b\w+", text))
    for name, question in report.QUESTIONS.items():
        for function in vars(question).values():
            if inspect.isfunction(function) and function.__module__ == question.__name__:
                assert function.__name__ in used, f"{name}.{function.__name__}"


def test_what_the_words_say_holds_in_the_data_but_for_times(rendered):
    claims = rendered[1]
    lines = (ROOT / "figures" / "report_template.md").read_text(encoding="utf-8").splitlines()
    assert all(claim.words in lines[claim.line - 1] and f"line {claim.line}" in str(claim) for claim in claims)
    assert len({claim.words for claim in claims}) == len(claims) > 25
    assert [str(claim) for claim in claims if not claim.holds and not claim.is_timing] == []


def test_claims_fail_where_data_say_something_else(data, tmp_path):
    curve = data["curves"].copy()
    curve.loc[curve["seed"] < 7, [name for name in curve if name.startswith("value_")]] = 500.0
    changed = data | {"hallway": data["hallway"].assign(route="bypass"), "curves": curve}
    expected = {
        "from zeros Q-learning is not on the bypass after 3,000,000 episodes": False,
        "with epsilon 0.05 both algorithms are in the hallway in all seeds": False,
        "all but at most 1 run in 200 pass the threshold, over all settings": False,
        "adding up diverges at 0.1": True,
    }
    # These alone, with the names that they use: the whole report takes seconds.
    template = (ROOT / "figures" / "report_template.md").read_text(encoding="utf-8")
    parts = re.findall(r"{% set .*? %}\n|{% do claim\(.*? %}\n", template, re.DOTALL)
    kept = [part for part in parts if part.startswith("{% set") or any(f'"{words}"' in part for words in expected)]
    (tmp_path / "report_template.md").write_text("".join(kept), encoding="utf-8")
    text, claims = report.render(changed, tmp_path)
    assert {claim.words: claim.holds for claim in claims} == expected and text == ""


def test_the_report_answers_nine_items_each_in_its_heading():
    headings = re.findall(r"^## (\d)\. (.+)", (ROOT / "Report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [number for number, _ in headings] == list("123456789")
    assert all(len(answer.split()) >= 8 for _, answer in headings)


def test_claims_held_under_other_seeds_and_their_table_is_of_these_data(rendered):
    table = (ROOT / "figures" / "claims_fresh.md").read_text(encoding="utf-8")
    experiments = set(re.search(r"seed raised by 1,000: (.+)\.", table)[1].split(", "))
    assert {"curves", "hallway", "distributed", "noise", "relapses"} <= experiments
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in table.splitlines()[10:]}
    for claim in rendered[1]:
        if claim.experiments & experiments and not (claim.is_timing or claim.experiments & make_figures.TIMED):
            assert rows.pop(claim.words).startswith(f"| {claim.words} | {claim.values} | ")
    assert rows == {}
    assert "fails" not in table


# Statistics


def test_bootstrap_interval_brackets_the_mean_and_narrows_with_more_seeds():
    sample = np.random.default_rng(1).normal(5.0, 2.0, 320)
    widths = []
    for count in (20, 80, 320):
        mean, low, high = bootstrap(sample[:count])
        assert low < mean == sample[:count].mean() < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] == pytest.approx(2 * 1.96 * 2 / np.sqrt(320), rel=0.15)


def test_bootstrap_repeats_and_takes_columns_at_once():
    sample = np.random.default_rng(2).random((20, 3))
    together = np.array(bootstrap(sample))
    assert np.array_equal(together, bootstrap(sample))
    for k in range(3):
        assert together[:, k] == pytest.approx(bootstrap(sample[:, k]))


def test_coverage_is_nominal_for_a_normal_sample_and_falls_short_with_a_tail():
    rng = np.random.default_rng(4)
    assert coverage(rng.normal(size=100)) == pytest.approx(0.94, abs=0.02)
    assert coverage(np.append(rng.normal(size=98), [60.0, 60.0])) < 0.9


def test_shares_of_routes_add_up(data):
    for setting, group in hallway.groups(data):
        assert sum(hallway.seeds_on(data, route, *setting) for route in hallway.ROUTES) == len(group)
        assert len(group) == (hallway.long_seeds() if setting[-1] > 300_000 else 200)
        assert sum(hallway.route_share(data, *setting).values()) == pytest.approx(1)


def test_routes_are_read_from_the_path():
    lake = experiments.lake_of(HALLWAY)
    assert experiments.route_of(lake, td.value_iteration(lake.table)) == "bypass"
    assert experiments.route_of(lake, np.zeros(lake.table.shape)) == "neither"
    down_the_hallway = np.zeros(lake.table.shape)
    down_the_hallway[:, td.DOWN] = 1
    down_the_hallway[0] = np.eye(4)[td.RIGHT]
    assert experiments.route_of(lake, down_the_hallway) == "hallway"


def test_who_is_on_the_bypass_before_the_hallway_is_read_from_the_routes_at_the_tests():
    setting = {"map": HALLWAY, "algorithm": "SARSA", "learning_rate": 0.1, "epsilon": 0.3}
    routes = ["nnbh", "nhnb", "nnnn", "bbbb", "hhhh"]
    data = {"curves": pd.DataFrame([setting | {"routes": one} for one in routes])}
    assert curves.bypass_first(data, *setting.values()) == 2


def test_the_mean_value_after_an_episode_is_that_of_its_test(data):
    setting = HALLWAY, "SARSA", 0.1, 0.3
    assert curves.mean_after(data, 600, *setting) == curves.curve(data, *setting)[:, 1].mean()  # a test every 300


def test_a_target_is_lost_again_by_those_who_reached_it_and_end_below():
    high, low = federated.optimum(16), federated.optimum(16) - 2 * federated.SHORTFALL
    runs = [[low] * 3 + [high] * 5, [high] * 7 + [low], [low] * 8]
    rows = [
        {"side": 16, "workers": 2, "seed": seed, "value": value, "seconds": i, "steps": i, "episode": i}
        for seed, values in enumerate(runs)
        for i, value in enumerate(values)
    ]
    assert federated.arrived({"federated": pd.DataFrame(rows)}, 16, 2) == 2
    assert federated.lost_again({"federated": pd.DataFrame(rows)}, 16, 2) == 1


def test_only_what_stands_between_the_marks_is_replaced():
    text = "a <!-- one -->\nold\n<!-- end --> b <!-- two -->\nkept\n<!-- end -->"
    assert between(text, "one", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no place for 'three'"):
        between(text, "three", "new")


@pytest.mark.parametrize(
    ("name", "count"), [("curves", 100), ("distributed", 200), ("noise", 200), ("relapses", 100)]
)
def test_same_seeds_on_both_sides_of_a_comparison(data, name, count):
    keys = ["map", "algorithm", "learning_rate", "epsilon", "start", "targets", "collectors", "batch_size"]
    groups = data[name].groupby([key for key in keys if key in data[name]])
    assert {tuple(sorted(seeds.unique())) for _, seeds in groups["seed"]} == {tuple(range(count))}


# Experiments


def test_a_small_grid_gives_the_same_bytes_whatever_ends_first(monkeypatch, tmp_path):
    paths = [tmp_path / f"{i}.csv" for i in range(4)]
    write_rows(paths[0], curves.run, curves.run(**SMALL))
    monkeypatch.setenv("RAY_ADDRESS", "of a cluster")
    for seed, path in enumerate(paths[1:]):
        with simulated(seed):
            write_rows(path, curves.run, curves.run(**SMALL))
    assert len({path.read_bytes() for path in paths}) == 1
    assert len(paths[0].read_text(encoding="utf-8").splitlines()) == 2 + 3 * 2  # Expected SARSA is the third


ONE = {"rate": 0.1, "epsilon": 0.3, "seed": 3, "episodes": 30_000}
TESTED = {"tests": 100, "sampled_every": 5}
NOISY = {"rates": experiments.RATES, "epsilon": 0.05, "seed": 3, "episodes": 30_000, "tests": 20}
MERGED = ONE | {"algorithm": "SARSA", "batch_size": 10}
SCALED = {
    "rate": 0.01, "epsilon": 0.05, "holes": 0.08, "algorithm": "SARSA", "side": 64, "workers": 16, "batch_size": 100,
    "variant": "default", "map_seed": 302, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "run", "case"),
    [
        ("curves", curves.learning_curve, ONE | {"map_name": HALLWAY, "algorithm": "SARSA"} | TESTED),
        ("curves", curves.learning_curve, ONE | {"map_name": HALLWAY, "algorithm": "Expected SARSA"} | TESTED),
        ("hallway", hallway.hallway_run, ONE | {"algorithm": "Q-learning", "start": "zeros"}),
        ("distributed", distributed.distributed_run, ONE | {"map_name": HALLWAY, "teams": distributed.TEAMS}),
        ("noise", noise.noise_run, NOISY | {"start": "zeros", "targets": "expected"}),
        ("noise", noise.noise_run, NOISY | {"start": "locked", "targets": "sampled"}),
        ("relapses", relapses.relapses_run, ONE | {"map_name": HALLWAY, "watched": 2_000, "every": 10}),
        ("merging", merging.merging_run, MERGED | {"rule": merging.OURS, "workers": 16}),
        ("merging", merging.merging_run, MERGED | {"rule": merging.IMPORTANCE, "workers": 4}),
        ("merging", merging.merging_run, MERGED | {"rule": merging.ADDING_UP, "workers": 4, "rate": 0.001}),
        ("scaling", scaling.scaling_run, SCALED),
    ],
)
def test_committed_rows_are_what_the_code_gives(data, tmp_path, name, run, case):
    path = tmp_path / f"{name}.csv"
    write_rows(path, make_figures.EXPERIMENTS[name], run(**case))
    fresh = read_rows(path, make_figures.EXPERIMENTS[name]).astype(data[name].dtypes)
    fresh = fresh.copy()  # in one piece, or pandas warns
    assert (fresh.merge(data[name], how="left", indicator=True)["_merge"] == "both").all()


def test_committed_tables_are_what_the_code_gives(data):
    lake = experiments.lake_of(HALLWAY)
    fresh = experiments.learned_table(lake, 0.1, 0.3, 30_000, collectors=8, seed=0)
    committed = value_functions.table_of(data, "distributed", map=HALLWAY, collectors=8)
    assert committed == pytest.approx(fresh, rel=1e-5)


@pytest.mark.parametrize("count", [SINGLE, 2])
def test_committed_runs_against_the_clock_learn_what_the_code_learns(data, count):
    timed, workers = timing.SUITE["compiled"][0], td.Workers(2, 2)
    shared = {"workers": workers, "evaluators": 2, "epsilon": 0.3, "rates": experiments.BEST_RATE}
    lake = federated.lake_of(16, 0.08, map_seed=1)
    with simulated(0):
        fresh = timing.timed_run("compiled", timed, count, evaluated=False, seed=3, **shared)
        record = federated.timed_rounds(lake, count, 24, 600, rate=0.01, epsilon=0.05, seed=3, workers=workers)
    committed = where(
        data["timing"], simulator="compiled", episodes=30_000, collectors=count, seed=3, evaluated=0
    ).iloc[0]
    assert (fresh["steps"], fresh["table"]) == (committed["steps"], committed["table"])
    assert fresh["replay_seconds"] > 0 or count == SINGLE

    committed = where(data["federated"], side=16, workers=count, seed=3)
    assert [steps for _, steps, _ in record] == committed["steps"].tolist()
    values = federated.start_values(lake, [q_table for _, _, q_table in record])
    assert [f"{value:.6g}" for value in values] == [f"{value:.6g}" for value in committed["value"]]
    seconds = [moment for moment, _, _ in record]
    assert seconds == sorted(seconds)


def test_tables_computed_in_one_process_are_those_of_ray(workers):
    lake = experiments.lake_of(HALLWAY)
    settings = {"learning_rate": 0.1, "learning_episodes": 300, "do_test": False, "seed": 5}
    agent = td.DistributedQLAgent(lake, 0.3, cw_num=3, batch_size=20, workers=workers, **settings)
    agent.learn_and_evaluate(progress=False)
    alone = experiments.learned_table(lake, 0.1, 0.3, 300, collectors=3, seed=5, batch_size=20)
    assert experiments.checksum(alone) == experiments.checksum(agent.q_table)


def test_slow_simulator_takes_the_time_it_states():
    lake = Slow(experiments.lake_of(HALLWAY), 100e-6)
    lake.reset(seed=0)
    start = time.perf_counter()
    for _ in range(500):
        lake.step(td.UP)
    assert time.perf_counter() - start >= 0.9 * 500 * 100e-6


def test_settings_are_the_default_arguments():
    for name, experiment in make_figures.EXPERIMENTS.items():
        assert all(p.default is not p.empty for p in inspect.signature(experiment).parameters.values()), name


# Publishing


@pytest.fixture
def short_report(folder, monkeypatch):
    """A report of one sentence without pictures, so that publishing it takes no time."""
    monkeypatch.setattr(make_figures, "PICTURES", {})
    (folder / "report_template.md").write_text(
        "The optimum is {{ exact.best(HALLWAY).value | number(1) }}.\n", encoding="utf-8"
    )
    return folder


def test_a_named_experiment_is_run_and_published_with_the_report(short_report):
    committed = (short_report / "data" / "exact.csv").read_bytes()
    (short_report / "data" / "exact.csv").unlink()
    make_figures.main(["exact"], short_report)
    assert (short_report / "data" / "exact.csv").read_bytes() == committed
    assert (short_report.parent / "Report.md").read_text(encoding="utf-8") == "The optimum is 960.3.\n"


def test_a_false_claim_publishes_nothing_but_keeps_the_draft(short_report, capsys):
    with open(short_report / "report_template.md", "a", encoding="utf-8") as file:
        file.write('{% do claim("it is low", exact.best(HALLWAY).value < 100) %}\n')
    before = contents(short_report)
    with pytest.raises(SystemExit) as stopped:
        make_figures.main(["exact"], short_report)
    assert stopped.value.code == 1
    assert "report_template.md, line 2: the data do not show that it is low" in capsys.readouterr().err
    after = contents(short_report)
    draft = {path for path in after if path.parent.name == "unpublished.tmp"}
    assert {path.name for path in draft} == {"exact.csv", "Report.md", "README.md"}
    assert {path: text for path, text in after.items() if path not in draft} == before


def test_a_false_claim_about_times_is_a_warning(short_report, capsys):
    with open(short_report / "report_template.md", "a", encoding="utf-8") as file:
        file.write('{% do claim("it is fast", false, is_timing=True) %}\n')
    make_figures.main(["--draw"], short_report)
    assert "warning: figures/report_template.md, line 2" in capsys.readouterr().err
    assert (short_report.parent / "Report.md").read_text(encoding="utf-8") == "The optimum is 960.3.\n"


def few_curves(seeds=2, tests=2, episodes={HALLWAY: 4_000}, rates=(0.1,), epsilons=(0.3,)):  # noqa: B006
    """Curves of a second."""
    yield from curves.run(seeds, tests, episodes, rates, epsilons)


@pytest.fixture
def few_seeds(short_report, monkeypatch):
    """A report with one claim, about the curves of two seeds."""
    monkeypatch.setattr(make_figures, "EXPERIMENTS", {"exact": exact.run, "curves": few_curves})
    with simulated(0):
        write_rows(short_report / "data" / "curves.csv", few_curves, few_curves())
        with open(short_report / "report_template.md", "a", encoding="utf-8") as file:
            file.write('{% do claim("two seeds make two curves", curves.seeds() == 2) %}\n')
            file.write('{% do claim("the best way is the bypass", exact.best(HALLWAY).route == "bypass") %}\n')
        yield short_report


def test_other_seeds_write_a_table_of_claims_and_nothing_else(few_seeds, monkeypatch):
    seen = []
    monkeypatch.setattr(curves, "seeds", lambda data: seen.append(data["curves"]) or data["curves"]["seed"].nunique())
    before = contents(few_seeds)
    make_figures.main(["--seeds-from", "1000", "curves"], few_seeds)
    after = contents(few_seeds)
    table = after.pop(few_seeds / "claims_fresh.md").decode()
    before.pop(few_seeds / "claims_fresh.md", None)
    assert after == before
    assert "| two seeds make two curves | 2 | 2 | holds |" in table
    assert "bypass" not in table  # exact values have no seeds
    committed, fresh = seen
    assert committed["seed"].tolist() == fresh["seed"].tolist()
    assert not committed.equals(fresh)


def test_a_claim_that_fails_under_other_seeds_is_told_and_not_published(few_seeds, capsys):
    committed = read_rows(few_seeds / "data" / "curves.csv", few_curves)
    with open(few_seeds / "report_template.md", "a", encoding="utf-8") as file:
        file.write('{% do claim("the curve is that one", curves.mean_late(*SETTING) == VALUE) %}\n')
    value = curves.mean_late({"curves": committed}, HALLWAY, "SARSA", 0.1, 0.3)
    template = (few_seeds / "report_template.md").read_text(encoding="utf-8")
    template = template.replace("*SETTING", 'HALLWAY, "SARSA", 0.1, 0.3').replace("VALUE", repr(float(value)))
    (few_seeds / "report_template.md").write_text(template, encoding="utf-8")
    with pytest.raises(SystemExit):
        make_figures.main(["--seeds-from", "1000", "curves"], few_seeds)
    assert "line 4: the data do not show that the curve is that one" in capsys.readouterr().err
    assert "the curve is that one" in (few_seeds / "unpublished.tmp" / "claims_fresh.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_broken_off_leaves_every_file_as_it_was(folder, monkeypatch, error):
    def broken(epsilons=(0.0, 0.05, 0.3)):
        yield {"map": "half a file"}
        raise error

    before = contents(folder)
    monkeypatch.setitem(make_figures.EXPERIMENTS, "exact", broken)
    with pytest.raises((OSError, KeyboardInterrupt)):
        make_figures.main(["exact"], folder)
    assert contents(folder) == before
    assert [path for path in folder.iterdir() if path.suffix == ".tmp"] == []


def test_a_picture_that_fails_leaves_every_file_as_it_was(short_report, monkeypatch):
    before = contents(short_report)
    monkeypatch.setattr(make_figures, "PICTURES", {"routes": hallway.routes, "broken": lambda data: data["broken"]})
    with pytest.raises(KeyError, match="broken"):
        make_figures.main(["exact"], short_report)
    assert contents(short_report) == before


# Bad input


def test_unknown_experiment_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        make_figures.main(["curve"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "experiment curve" in message
    assert all(name in message for name in make_figures.EXPERIMENTS)


def test_data_of_other_settings_are_refused_with_file_and_field(folder, capsys):
    path = folder / "data" / "hallway.csv"
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)
    saved = json.loads(first.removeprefix("# "))
    path.write_text("# " + json.dumps(saved | {"seeds": 7}) + "\n" + rest, encoding="utf-8")
    with pytest.raises(SystemExit):
        make_figures.main(["--draw"], folder)
    message = capsys.readouterr().err
    assert "figures/data/hallway.csv has seeds = 7, the code has 200" in message


@pytest.mark.parametrize("damage", ["cut", "cut within a number", "a field less", "no settings", "no rows", "missing"])
def test_damaged_data_are_refused_with_the_file(folder, damage):
    path = folder / "data" / "exact.csv"
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
