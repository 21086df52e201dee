"""The reports agree with the committed data, and the data with the code's settings."""

import inspect
import itertools
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import td_helpers as td
from beyond.figures import federated, merging, scaling, until
from figures import (
    assignment,
    curves,
    distributed,
    fresh,
    hallway,
    noise,
    outcomes,
    race,
    relapses,
    report,
    timing,
    tuning,
    value_functions,
)
from figures.assignment import HALLWAY, SINGLE
from figures.rows import read_rows, settings_of, where, write_rows
from figures.slow import Slow, Together
from figures.summaries import between, bootstrap, coverage
from tabular.simulated_ray import simulated

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("figures", "beyond/figures")  # the studies' folders
SMALL = {"seeds": 2, "tests": 2, "episodes": {HALLWAY: 200}, "rates": (0.1,), "epsilons": (0.3,)}


class Watched(dict):
    """Data that record which files are read."""

    def __init__(self, data):
        super().__init__(data)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


@pytest.fixture(scope="module")
def rendered(studies, data):
    """The reports rendered from the committed data, by folder: (texts by file name, claims, data files read)."""
    found = {}
    for folder, study in studies.items():
        watched = Watched(data)
        found[folder] = *report.render(study, watched), watched.read
    return found


def committed_report(study) -> str:
    """Return the study's committed report."""
    return (study.folder.parent / "Report.md").read_text(encoding="utf-8")


def committed_texts(study) -> dict[Path, str]:
    """Return the study's committed report, and its appendix if that is a file of its own, by path."""
    paths = (study.folder.parent / "Report.md", study.folder / "appendix.md")
    return {path: path.read_text(encoding="utf-8") for path in paths if path.exists()}


# Pictures and data


def test_every_figure_is_committed_and_cited_once(study):
    cited = re.findall(r"!\[[^\]]+\]\((?:figures/)?(\w+)\.png\)", "".join(committed_texts(study).values()))
    assert sorted(cited) == sorted(study.pictures) == sorted(path.stem for path in study.folder.glob("*.png"))


def body_of(text: str) -> str:
    """Return the report without its appendix, if it has one."""
    return text.partition("\n## Appendix")[0]


def words_of(text: str) -> int:
    """Count the words of a text without its tables, pictures and captions."""
    return sum(len(line.split()) for line in text.splitlines() if not re.match(r"\||!\[|\*[^*].*\*$", line))


@pytest.mark.parametrize(
    ("folder", "words", "pictures", "tables"), [("figures", 1_800, 6, 5), ("beyond/figures", 850, 2, 9)]
)
def test_a_report_is_read_in_a_quarter_of_an_hour(studies, folder, words, pictures, tables):
    body = body_of(committed_report(studies[folder]))
    assert words_of(body) <= words
    assert body.count("\n![") <= pictures
    assert body.count("\n| ---") <= tables


NUMBER = r"(?<![\w(.])[+-]?\d[\d,]*(?:\.\d+)?%?"
NAMES = r"\[[^\]]*\]|\(\d, 4\)|\d+x\d+|(?:[Ii]tems?|[Ff]igure|[Tt]able) \d(?: (?:to|and) \d)?|^\d+\. "


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a report outside tables, captions and headings, without names that have digits."""
    lines = [line for line in text.splitlines() if line and not re.match(r"\||!\[|\*[^*].*\*$|#", line)]
    plain = [re.sub(NAMES, "", line.replace("**", "")) for line in lines]
    return [sentence for line in plain for sentence in re.split(r"(?<=[.:])\s+", line)]


def test_a_sentence_of_the_report_has_at_most_two_numbers():
    sentences = sentences_of((ROOT / "Report.md").read_text(encoding="utf-8"))
    assert len(sentences) > 80
    crowded = [sentence for sentence in sentences if len(re.findall(NUMBER, sentence)) > 2]
    assert crowded == []


def test_every_link_of_a_report_leads_somewhere(study):
    for path, text in committed_texts(study).items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            target, _, heading = link.partition("#")
            assert link.startswith("https://") or (path.parent / target).exists(), link
            if heading:
                headings = re.findall(r"^#+ (.+)", (path.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in [name.lower().replace(" ", "-") for name in headings], link


def test_no_cell_of_a_table_breaks_over_lines_at_900_pixels(study):
    for text in committed_texts(study).values():
        for table in (block for block in text.split("\n\n") if block.startswith("| ")):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
            widest = [max(map(len, column)) for column in zip(*rows, strict=True)]
            pixels = sum(8 * width + 27 for width in widest)  # GitHub's character width and cell padding
            assert pixels <= 900, table.splitlines()[0]


def test_every_figure_has_a_caption_with_its_number(study):
    for text in committed_texts(study).values():
        blocks = text.split("\n\n")
        captions = [after for block, after in itertools.pairwise(blocks) if block.startswith("![")]
        for number, caption in enumerate(captions, 1):
            assert caption.startswith(f"*Figure {number}. ")


def test_every_data_file_is_drawn_or_tabulated(study, data, rendered):
    import matplotlib.pyplot as plt

    watched = Watched(data)
    for picture in study.pictures.values():
        assert picture(watched).axes
        plt.close("all")
    read = watched.read | rendered[study.folder.relative_to(ROOT).as_posix()][2]
    assert {path.stem for path in (study.folder / "data").glob("*.csv")} == set(study.experiments) <= read


def test_no_file_is_larger_than_2_mb(study):
    assert all(path.stat().st_size < 2e6 for path in study.folder.rglob("*") if path.is_file())


# Text


@pytest.mark.parametrize("folder", FOLDERS)
def test_tables_and_numbers_of_the_report_are_those_of_the_data(studies, rendered, folder):
    committed = committed_texts(studies[folder])
    assert rendered[folder][0] == {path.name: text for path, text in committed.items()}


def test_a_name_that_no_question_has_is_an_error(data, copy):
    (copy.folder / "report_template.md").write_text("{{ curves.lates() }}", encoding="utf-8")
    with pytest.raises(report.jinja2.UndefinedError, match="lates"):
        report.render(copy, data)


def test_every_function_of_a_question_is_used(studies):
    texts = [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    texts += [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (ROOT / folder).glob("*_template.md")]
    used = set(re.findall(r"(?<!def )\b\w+", "\n".join(texts)))
    for name, module in studies["beyond/figures"].all_modules.items():
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                drawn = hasattr(function, "is_picture")
                assert drawn or function.__name__ in used, f"{name}.{function.__name__}"


@pytest.mark.parametrize(("folder", "least"), [("figures", 45), ("beyond/figures", 20)])
def test_what_the_words_say_holds_in_the_data_but_for_times(rendered, folder, least):
    claims = rendered[folder][1]
    for claim in claims:
        path, _, line = claim.place.partition(", line ")
        assert path in [f"{folder}/{name}" for name in report.TEMPLATES]
        assert claim.words in (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert len({claim.words for claim in claims}) == len(claims) > least
    assert [str(claim) for claim in claims if not claim.holds and not claim.is_timing] == []


def test_claims_fail_where_data_say_something_else(data, copies):
    curve = data["curves"].copy()
    curve.loc[curve["seed"] < 7, [name for name in curve if name.startswith("value_")]] = 500.0
    changed = data | {"hallway": data["hallway"].assign(route="bypass"), "curves": curve}
    expected = {
        "from zeros no seed of Q-learning is on the bypass after 3,000,000 episodes": False,
        "at the low rate with low epsilon SARSA takes the hallway in all seeds": False,
        "all but at most 1 run in 200 pass the threshold, over all settings": False,
    }
    merged = data["merging"]
    changed["merging"] = merged.assign(largest=merged["largest"].clip(upper=1_000.0))
    assert claims_of(copies["figures"], changed, expected) == expected
    others = {"adding up diverges at 0.1": False, "all federated runs reach the target": True}
    assert claims_of(copies["beyond/figures"], changed, others) == others


def claims_of(study, data, words) -> dict[str, bool]:
    """Return whether each claim with these words holds; rendering claims alone is faster than a whole report."""
    template = (study.folder / "report_template.md").read_text(encoding="utf-8")
    parts = re.findall(r"{% set .*? %}\n|{% do claim\(.*? %}\n", template, re.DOTALL)
    kept = [part for part in parts if part.startswith("{% set") or any(f'"{one}"' in part for one in words)]
    (study.folder / "report_template.md").write_text("".join(kept), encoding="utf-8")
    (study.folder / "appendix_template.md").unlink(missing_ok=True)
    texts, claims = report.render(study, data)
    assert texts == {"Report.md": ""}
    return {claim.words: claim.holds for claim in claims}


def test_the_report_answers_nine_items_each_under_its_heading():
    text = (ROOT / "Report.md").read_text(encoding="utf-8")
    _, *items = re.split(r"^## Item ", text, flags=re.MULTILINE)
    assert [item[:3] for item in items] == [f"{number}: " for number in range(1, 10)]
    assert all("\n**Answer.** " in item and "\n**Caveat.** " in item for item in items)
    assert all("\n**Cause.** " in item for item in items[1:])  # curves need none
    summary = re.search(r"## Summary\n\n(.+?)\n\n", text, re.DOTALL)[1].splitlines()
    assert [line.partition(". ")[0] for line in summary] == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_claim_held_under_other_seeds_and_their_table_is_of_these_data(studies, rendered, folder):
    study, claims = studies[folder], rendered[folder][1]
    table = (study.folder / "claims_fresh.md").read_text(encoding="utf-8")
    assert table == fresh.text(study, claims, fresh.read(study))
    assert len(re.findall(r"\| holds \|$", table, re.MULTILINE)) == len(fresh.read(study)) > 20
    assert "**fails**" not in table and "not run again" not in table


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
        assert len(group) == (settings_of(hallway.run)["long_seeds"] if setting[-1] > 300_000 else 200)
        assert sum(hallway.route_share(data, *setting).values()) == pytest.approx(1)


def test_routes_are_read_from_the_path():
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    assert assignment.route_of(lake, td.value_iteration(lake.table)) == "bypass"
    assert assignment.route_of(lake, np.zeros(lake.table.shape)) == "neither"
    down_the_hallway = np.zeros(lake.table.shape)
    down_the_hallway[:, td.DOWN] = 1
    down_the_hallway[0] = np.eye(4)[td.RIGHT]
    assert assignment.route_of(lake, down_the_hallway) == "hallway"


def test_the_bypass_before_the_hallway_is_read_from_the_routes():
    setting = {"map": HALLWAY, "algorithm": "SARSA", "learning_rate": 0.1, "epsilon": 0.3}
    routes = ["nnbh", "nhnb", "nnnn", "bbbb", "hhhh"]
    data = {"curves": pd.DataFrame([setting | {"routes": one} for one in routes])}
    assert curves.bypass_first(data, *setting.values()) == 2


def test_last_values_are_those_of_the_last_tests_and_the_rise_is_over_those_before():
    setting = {"map": HALLWAY, "algorithm": "SARSA", "learning_rate": 0.1, "epsilon": 0.3}
    values = {f"value_{test}": 1.0 * test for test in range(1, 101)}
    data = {"curves": pd.DataFrame([setting | values, setting | dict.fromkeys(values, 5.0)])}
    assert curves.last(data, *setting.values()).tolist() == [95.5, 5.0]
    assert [curves.rise(data, *setting.values(), over=over)[0] for over in (10, 40)] == pytest.approx([5.0, 20.0])
    assert curves.last_table(data, *setting.values()) == 52.5


def test_ends_of_episodes_are_counted_without_a_change_to_what_is_learned():
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    alone = td.QLAgent(lake, 0.3, 0.001, do_test=False, seed=4)
    counting = outcomes.CountingAgent(lake, 0.3, 0.001, do_test=False, seed=4)
    for agent in (alone, counting):
        agent.learn(2_000)
    assert np.array_equal(alone.q_table[:-1], counting.q_table[:-1]) and alone.steps == counting.steps
    goals, holes = counting.q_table[-1, :2]
    assert holes > 0 and goals + holes <= 2_000


def test_a_policy_is_good_from_the_first_of_three_good_looks():
    good, bad = 901.0, 899.0
    assert tuning.first_good([1, 2, 3, 4, 5, 6], [good, good, bad, good, good, good]) == 4
    assert np.isnan(tuning.first_good([1, 2, 3], [good, good, bad]))


def test_speed_ups_of_timed_runs_multiply(data):
    plain, tested = (timing.speed_up(data, "stepped", "16x16", 2, evaluated) for evaluated in (False, True))
    one, two = (timing.cost_of_tests(data, "stepped", "16x16", count) for count in (SINGLE, 2))
    assert plain * one / two == pytest.approx(tested)


def test_a_price_explains_the_time_of_the_runs_that_it_comes_from(data):
    for count in (SINGLE, 2, 8):
        price = timing.price(data, "stepped", "16x16", count, 100)
        rows = timing.runs(data, "stepped", "16x16", count)
        modelled = price.step * rows["steps"] + price.batch * rows["episodes"] / 100 * (count != SINGLE)
        assert 0.999 * rows["seconds"].min() <= modelled.median() <= 1.001 * rows["seconds"].max()


def test_lakes_stepped_together_learn_the_optimum_and_wait_once_a_round():
    settings = {"epsilon": 0.3, "learning_rate": 0.1, "test_interval": 500, "max_step": 1_000, "do_test": True}
    together = Together("4x4", 8, 0.0, learning_episodes=2_000, seed=1, **settings)
    rounds = []
    together.delay.of_a_step = lambda: rounds.append(1)
    total_rewards, q_table = together.learn_and_evaluate()
    lake = td.FrozenLakeEnv()
    assert len(total_rewards) == 4
    assert td.policy_value(lake.table, q_table)[0] > td.value_iteration(lake.table)[0].max() - 30
    tested = Together("4x4", 8, 0.0, learning_episodes=2_000, seed=1, **settings | {"do_test": False})
    plain = []
    tested.delay.of_a_step = lambda: plain.append(1)
    tested.learn_and_evaluate()
    assert tested.steps / 8 <= len(plain) < tested.steps / 6  # at the end of an interval some lakes are idle
    assert len(rounds) > len(plain)


def test_lost_again_counts_seeds_that_hold_the_target_and_end_below_it():
    high, low = federated.best_on(16), federated.best_on(16) - 2 * until.LARGE_WITHIN
    runs = [[low] * 3 + [high] * 5, [high] * 7 + [low], [low] * 8]
    rows = [
        {"side": 16, "workers": 2, "seed": seed, "value": value, "seconds": i, "steps": i, "episode": i}
        for seed, values in enumerate(runs)
        for i, value in enumerate(values)
    ]
    assert federated.arrived({"federated": pd.DataFrame(rows)}, 16, 2) == 2
    assert federated.lost_again({"federated": pd.DataFrame(rows)}, 16, 2) == 1


def test_rows_are_chosen_by_their_first_columns_and_by_name():
    rows = pd.DataFrame({"map": ["a", "a", "b"], "seed": [1, 2, 1], "value": [3, 4, 5]})
    chosen = where(rows, "a"), where(rows, "a", 2), where(rows, "a", value=3), where(rows, seed=1)
    assert [one["value"].tolist() for one in chosen] == [[3, 4], [4], [3], [3, 5]]


def test_only_what_stands_between_the_marks_is_replaced():
    text = "a <!-- one -->\nold\n<!-- end --> b <!-- two -->\nkept\n<!-- end -->"
    assert between(text, "one", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no place for 'three'"):
        between(text, "three", "new")


SEEDS = {
    "curves": 100, "distributed": 100, "noise": 200, "relapses": 100, "outcomes": 100, "longer": 100, "race": 100,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), SEEDS.items())
def test_same_seeds_on_both_sides_of_a_comparison(data, name, count):
    keys = ["map", "algorithm", "learning_rate", "epsilon", "start", "targets", "collectors", "batch_size", "in_flight"]
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
    assert len(paths[0].read_text(encoding="utf-8").splitlines()) == 2 + 3 * 2  # Expected SARSA is third


MAP = {"map": HALLWAY, "seed": 3, "episodes": assignment.EPISODES}
ONE = {"learning_rate": 0.1, "epsilon": 0.3, "seed": 3}
TESTED = MAP | ONE | {"tests": 100, "sampled_every": 5}
TEAMS = MAP | {"teams": distributed.TEAMS, "rates": assignment.BEST_RATE, "epsilon": 0.3}
TUNED = {"collectors": 2, "batch_size": 100, "rate": 0.2, "seed": assignment.OTHER_SEED + 3, "epsilon": 0.3,
         "episodes": 10_000, "every": 100}  # fmt: skip
RACED = {"collectors": 8, "batch_size": 100, "rate": 0.1, "seed": 3, "epsilon": 0.3, "episodes": 6_000, "every": 100}
NOISY = {"rates": assignment.RATES, "epsilon": 0.05, "seed": 3, "episodes": 30_000, "tests": 20}
MERGED = ONE | {"algorithm": "SARSA", "episodes": 30_000, "batch_size": 10}
SCALED = {
    "rate": 0.01, "epsilon": 0.05, "holes": 0.08, "algorithm": "SARSA", "side": 64, "workers": 16, "batch_size": 100,
    "variant": "default", "map_seed": 302, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "run", "case"),
    [
        ("curves", curves.learning_curve, TESTED | {"algorithm": "SARSA"}),
        ("curves", curves.learning_curve, TESTED | {"algorithm": "Expected SARSA"}),
        ("hallway", hallway.hallway_run, ONE | {"algorithm": "Q-learning", "start": "zeros", "episodes": 30_000}),
        ("distributed", distributed.distributed_run, TEAMS),
        ("noise", noise.noise_run, NOISY | {"start": "zeros", "targets": "expected"}),
        ("noise", noise.noise_run, NOISY | {"start": "locked", "targets": "sampled"}),
        ("outcomes", outcomes.outcomes_run, MAP | {"rate": 0.001, "epsilon": 0.05, "tests": 100}),
        ("tuning", tuning.tuning_run, TUNED),
        ("race", race.race_run, RACED),
        ("relapses", relapses.relapses_run, MAP | {"rate": 0.1, "epsilon": 0.3, "watched": 2_000, "every": 10}),
        ("merging", merging.merging_run, MERGED | {"rule": merging.OURS, "workers": 16}),
        ("merging", merging.merging_run, MERGED | {"rule": merging.IMPORTANCE, "workers": 4}),
        ("merging", merging.merging_run, MERGED | {"rule": merging.ADDING_UP, "workers": 4, "learning_rate": 0.001}),
        ("scaling", scaling.scaling_run, SCALED),
    ],
)
def test_committed_rows_are_what_the_code_gives(studies, data, tmp_path, name, run, case):
    path, origin = tmp_path / f"{name}.csv", studies["beyond/figures"].all_experiments[name]
    write_rows(path, origin, [{k: v for k, v in case.items() if k in data[name]} | row for row in run(**case)])
    fresh = read_rows(path, origin)
    fresh = fresh.astype(data[name].dtypes[fresh.columns]).copy()  # one contiguous block, or pandas warns
    assert (fresh.merge(data[name], how="left", indicator=True)["_merge"] == "both").all()


def test_committed_tables_are_what_the_code_gives(data):
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    fresh = assignment.learned_table(lake, 0.1, 0.3, 30_000, collectors=8, seed=0)
    committed = value_functions.table_of(data, "distributed", map=HALLWAY, collectors=8)
    assert committed == pytest.approx(fresh, rel=1e-5)


@pytest.mark.parametrize("count", [SINGLE, 2])
def test_committed_runs_against_the_clock_learn_what_the_code_learns(data, count):
    timed, workers = timing.SUITE["compiled"][0], td.Workers(2, 2)
    shared = {"workers": workers, "evaluators": 2, "together": 8, "epsilon": 0.3}
    lake = until.random_lake(16, seed=1)
    with simulated(0):
        fresh = timing.timed_run("compiled", timed, "Q-learning", count, evaluated=False, seed=0, **shared)
        moments = federated.timed_rounds(lake, count, 24, 600, rate=0.01, epsilon=0.05, seed=3, workers=workers)
    committed = where(
        data["timing"], "compiled", episodes=30_000, learner="Q-learning", collectors=count, seed=0, evaluated=0
    ).iloc[0]
    assert (fresh["steps"], fresh["table"]) == (committed["steps"], committed["table"])
    assert fresh["replay_seconds"] > 0 or count == SINGLE

    committed = where(data["federated"], side=16, workers=count, seed=3)
    assert [moment["steps"] for moment in moments] == committed["steps"].tolist()
    values = map(until.exact_value(lake), moments)
    assert [f"{value:.6g}" for value in values] == [f"{value:.6g}" for value in committed["value"]]
    seconds = [moment["seconds"] for moment in moments]
    assert seconds == sorted(seconds)


def test_tables_computed_in_one_process_are_those_of_ray(workers):
    lake = td.FrozenLakeEnv(map_name=HALLWAY)
    settings = {"learning_rate": 0.1, "learning_episodes": 300, "do_test": False, "seed": 5}
    agent = td.DistributedQLAgent(lake, 0.3, cw_num=3, batch_size=20, workers=workers, **settings)
    agent.learn_and_evaluate(progress=False)
    alone = assignment.learned_table(lake, 0.1, 0.3, 300, collectors=3, seed=5, batch_size=20)
    assert assignment.checksum(alone) == assignment.checksum(agent.q_table)


def test_slow_simulator_takes_the_time_it_states():
    lake = Slow(td.FrozenLakeEnv(map_name=HALLWAY), 100e-6)
    lake.reset(seed=0)
    start = time.perf_counter()
    for _ in range(500):
        lake.step(td.UP)
    assert time.perf_counter() - start >= 0.9 * 500 * 100e-6


def test_settings_are_the_default_arguments(studies):
    for name, run in studies["beyond/figures"].all_experiments.items():
        assert all(p.default is not p.empty for p in inspect.signature(run).parameters.values()), name
