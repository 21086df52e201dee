"""The report: what it shows is what the committed data say, and the data are those of the code's settings."""

import inspect
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "figures"))

import make_figures as figures  # noqa: E402

import td_helpers as td  # noqa: E402

SMALL = {"seeds": 2, "tests": 2, "episodes": {figures.HALLWAY: 200}, "rates": (0.1,), "epsilons": (0.3,)}


@pytest.fixture(scope="module")
def data():
    """The committed rows of all experiments."""
    return {n: figures.read_rows(ROOT / "figures" / "data" / f"{n}.csv", f) for n, f in figures.EXPERIMENTS.items()}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A copy of figures/ and the report to write to."""
    shutil.copytree(ROOT / "figures", tmp_path / "figures", ignore=shutil.ignore_patterns("*.tmp", "__pycache__"))
    shutil.copy(ROOT / "Report.md", tmp_path)
    monkeypatch.setattr(figures, "HERE", tmp_path / "figures")
    return tmp_path


# Pictures and data


def test_every_figure_is_committed_and_cited_once():
    report = (ROOT / "Report.md").read_text()
    cited = re.findall(r"!\[[^\]]+\]\(figures/(\w+)\.png\)", report)
    assert sorted(cited) == sorted(figures.FIGURES) == sorted(p.stem for p in (ROOT / "figures").glob("*.png"))
    assert len(cited) <= 10


def test_every_figure_has_a_caption_with_its_number():
    blocks = (ROOT / "Report.md").read_text().split("\n\n")
    captions = [after for block, after in itertools.pairwise(blocks) if block.startswith("![")]
    for number, caption in enumerate(captions, 1):
        assert caption.startswith(f"*Figure {number}. ")


def test_every_data_file_is_drawn(data):
    read = set()

    class Watched(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    import matplotlib.pyplot as plt

    for figure in figures.FIGURES.values():
        assert figure(Watched(data)).axes
        plt.close("all")
    assert {p.stem for p in (ROOT / "figures" / "data").glob("*.csv")} == set(figures.EXPERIMENTS) <= read


def test_no_file_is_larger_than_2_mb():
    assert all(p.stat().st_size < 2e6 for p in (ROOT / "figures").rglob("*") if p.is_file())


# Text


def test_tables_and_numbers_of_the_report_are_those_of_the_data(data):
    assert figures.report(data) == (ROOT / "Report.md").read_text()


def test_every_table_and_no_unknown_name_stands_in_the_template(data):
    names = re.findall(r"{(\w+)", (ROOT / "figures" / "report_template.md").read_text())
    assert set(figures.TABLES) <= set(names) <= set(figures.TABLES) | set(figures.numbers(data))


def test_what_the_words_say_holds_in_the_data_but_for_times(data):
    times = {"stepped, (2,4) is faster", "waiting, more collectors are faster", "the learner is idle most of the time",
             "two federated workers beat one core on the largest lake", "small lakes do not pay",
             "stepped tests of the single core's tables take longer"}  # fmt: skip
    assert [claim for claim, holds in figures.claims(data).items() if not holds and claim not in times] == []


def test_the_report_answers_nine_items_each_with_a_sentence_first():
    sections = re.split(r"\n## ", (ROOT / "Report.md").read_text())
    items = [s for s in sections if re.match(r"\d\. ", s)]
    assert [s[0] for s in items] == list("123456789")
    assert all(s.split("\n\n")[1].startswith("**") for s in items)


# Statistics


def test_bootstrap_interval_brackets_the_mean_and_narrows_with_more_seeds():
    sample = np.random.default_rng(1).normal(5.0, 2.0, 320)
    widths = []
    for count in (20, 80, 320):
        mean, low, high = figures.bootstrap(sample[:count])
        assert low < mean == sample[:count].mean() < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] == pytest.approx(2 * 1.96 * 2 / np.sqrt(320), rel=0.15)


def test_bootstrap_repeats_and_takes_columns_at_once():
    sample = np.random.default_rng(2).random((20, 3))
    together = np.array(figures.bootstrap(sample))
    assert np.array_equal(together, figures.bootstrap(sample))
    for k in range(3):
        assert together[:, k] == pytest.approx(figures.bootstrap(sample[:, k]))


def test_shares_of_routes_add_up(data):
    for group in figures.hallway_groups(data).values():
        assert sum(len(figures.where(group, route=route)) for route in figures.ROUTES) == len(group) == 20


def test_routes_are_read_from_the_way():
    lake = figures.lake_of(figures.HALLWAY)
    assert figures.route_of(lake, td.value_iteration(lake.table)) == "bypass"
    assert figures.route_of(lake, np.zeros(lake.table.shape)) == "neither"
    down_the_hallway = np.zeros(lake.table.shape)
    down_the_hallway[:, td.DOWN] = 1
    down_the_hallway[0] = np.eye(4)[td.RIGHT]
    assert figures.route_of(lake, down_the_hallway) == "hallway"


def test_same_seeds_on_both_sides_of_a_comparison(data):
    for name in ("curves", "hallway", "distributed"):
        groups = {}
        for row in data[name]:
            key = tuple(row.get(k) for k in ("map", "algorithm", "learning_rate", "epsilon", "start", "collectors"))
            groups.setdefault(key, set()).add(row["seed"])
        assert {tuple(sorted(seeds)) for seeds in groups.values()} == {tuple(range(20))}


# Experiments


def test_a_small_grid_run_twice_gives_the_same_bytes(workers, tmp_path):
    paths = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for path in paths:
        figures.write_rows(path, figures.curves, figures.curves(**SMALL))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(paths[0].read_text().splitlines()) == 2 + 2 * 2 * 2


def test_committed_curves_are_what_the_code_gives(data):
    setting = {"algorithm": "SARSA", "epsilon": 0.05, "seed": 3}
    fresh = figures.learning_curve(figures.HALLWAY, rate=0.001, episodes=30_000, tests=100, **setting)
    committed = figures.where(data["curves"], map=figures.HALLWAY, learning_rate=0.001, **setting)
    assert [f"{row['value']:.4g}" for row in fresh] == [f"{row['value']:.4g}" for row in committed]


def test_tables_computed_in_one_process_are_those_of_ray(workers):
    lake = figures.lake_of(figures.HALLWAY)
    settings = {"learning_rate": 0.1, "learning_episodes": 300, "do_test": False, "seed": 5}
    agent = td.DistributedQLAgent(lake, 0.3, cw_num=3, batch_size=20, workers=workers, **settings)
    agent.learn_and_evaluate(progress=False)
    alone = figures.learned_table(lake, 0.1, 0.3, 300, collectors=3, seed=5, batch_size=20)
    assert figures.checksum(alone) == figures.checksum(agent.q_table)


def test_slow_simulator_takes_the_time_it_states():
    lake = figures.Slow(figures.lake_of(figures.HALLWAY), 100e-6)
    lake.reset(seed=0)
    start = figures.time.perf_counter()
    for _ in range(500):
        lake.step(td.UP)
    assert figures.time.perf_counter() - start >= 0.9 * 500 * 100e-6


# Bad input


def test_unknown_experiment_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        figures.main(["curve"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "'curve'" in message or "experiment curve" in message
    assert all(name in message for name in figures.EXPERIMENTS)


def test_data_of_other_settings_are_refused_with_file_and_field(house, capsys):
    path = house / "figures" / "data" / "hallway.csv"
    first, rest = path.read_text().split("\n", 1)
    saved = json.loads(first.removeprefix("# "))
    path.write_text("# " + json.dumps(saved | {"seeds": 7}) + "\n" + rest)
    with pytest.raises(SystemExit):
        figures.main(["--draw"])
    message = capsys.readouterr().err
    assert "figures/data/hallway.csv has seeds = 7, the code has 20" in message


@pytest.mark.parametrize("spoil", ["cut", "no settings", "missing"])
def test_spoilt_data_are_refused_with_the_file(house, spoil):
    path = house / "figures" / "data" / "exact.csv"
    text = path.read_text()
    match spoil:
        case "cut":
            path.write_text(text[: text.rindex(",")])
        case "no settings":
            path.write_text(text.split("\n", 1)[1])
        case "missing":
            path.unlink()
    with pytest.raises(ValueError, match=r"figures/data/exact\.csv"):
        figures.read_rows(path, figures.exact)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_broken_off_leaves_every_file_as_it_was(house, monkeypatch, error):
    def broken(epsilons=(0.0, 0.05, 0.3)):
        yield {"map": "half a file"}
        raise error

    before = {p: p.read_bytes() for p in house.rglob("*") if p.is_file()}
    monkeypatch.setitem(figures.EXPERIMENTS, "exact", broken)
    with pytest.raises((OSError, KeyboardInterrupt)):
        figures.main(["exact"])
    assert {p: p.read_bytes() for p in house.rglob("*") if p.is_file()} == before
    assert [p for p in (house / "figures").iterdir() if p.suffix == ".tmp"] == []


def test_settings_are_the_default_arguments():
    for name, experiment in figures.EXPERIMENTS.items():
        assert all(p.default is not p.empty for p in inspect.signature(experiment).parameters.values()), name
