"""What course/README.md says of grading by outcomes is what the data say, and the data can be had again."""

import re
from pathlib import Path

import pytest

from course import marks, outcomes
from course.findings import ITEMS

README = outcomes.README.read_text(encoding="utf-8")


def test_the_sentences_are_those_of_the_data():
    values = outcomes.read_values()
    assert outcomes.in_readme(README, values) == README
    assert {len(runs) for runs in values.values()} == {outcomes.SEEDS}
    assert set(values) == {(rule, rate) for rule in outcomes.RULES for rate in outcomes.RATES}


def test_the_sentences_change_with_the_data():
    values = {(rule, rate): [900.0] * outcomes.SEEDS for rule in outcomes.RULES for rate in outcomes.RATES}
    assert "10 of 10 faulty rules pass" in outcomes.text(values).replace("\n", " ")
    assert outcomes.in_readme(README, values) != README
    with pytest.raises(ValueError, match="marks"):
        outcomes.in_readme("", values)


def test_rows_can_be_had_again():
    values = outcomes.read_values()
    for rule in ("Q-learning", "SARSA", "explores at the first step only"):
        for rate in outcomes.RATES:
            assert outcomes.outcome(rule, rate, 1)["value"] == values[rule, rate][1]


def test_every_link_leads_somewhere_and_every_item_is_named():
    folder = outcomes.README.parent
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (folder / link).exists(), link
    makefile = (folder.parent / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert f"sum to {sum(marks.read_points().values())}" in README
    assert all(marks.TITLES[item].split("'")[0] in README for item in ITEMS)
    assert len(README.splitlines()) < 120


def test_the_picture_is_there():
    assert Path(outcomes.PICTURE).stat().st_size > 10_000
