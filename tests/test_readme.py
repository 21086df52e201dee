"""The README is true of what is committed."""

import json
import re
from pathlib import Path

import benchmark

from beyond.figures import pays
from figures import exact
from tabular import pool
from tabular.simulated_ray import simulated

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_costs_are_the_committed_measurement():
    lines = (ROOT / "tests" / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()
    figures = [json.loads(line) for line in lines]
    assert benchmark.in_readme(README, figures) == README
    median = {row["figure"]: row["median"] for row in figures[1:]}
    assert f"takes {median['Q-learning, 16x16']:.0f} million steps" in README
    assert benchmark.in_document(figures) == (ROOT / "tests" / "benchmark.md").read_text(encoding="utf-8")


def test_what_distributing_gains_is_what_the_data_say(data):
    assert pays.in_readme(README, data) == README


def test_the_values_of_both_routes_are_exact(data):
    caption = re.search(r"hallway \((\d+)\), .+ optimum is \((\d+)\)", README, re.DOTALL)
    values = exact.through_hallway(data).value, exact.best(data, exact.HALLWAY).value
    assert [int(value) for value in caption.groups()] == [round(value) for value in values]


def test_every_link_leads_somewhere_and_every_target_of_make_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", README)) <= targets


def test_the_example_runs(monkeypatch):
    monkeypatch.setattr(pool, "_shared", None)
    code = README.partition("```python\n")[2].partition("```")[0]
    with simulated(0):
        exec(compile(code.replace("30_000", "300"), "README", "exec"), {})
