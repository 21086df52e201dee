"""Renders Report.md from report_template.md, whose sentences call the functions of the question modules."""

from __future__ import annotations

import functools
import inspect
from numbers import Number
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np

from figures import (
    break_even,
    curves,
    distributed,
    dyna,
    dyna_clock,
    dyna_large,
    dyna_workers,
    exact,
    federated,
    hallway,
    latency,
    learner,
    lock_in,
    merging,
    noise,
    relapses,
    round_cost,
    scaling,
    timing,
    value_functions,
)
from figures.experiments import BEST_RATE, HALLWAY, LAKE, SINGLE
from figures.rows import Data
from figures.summaries import FILTERS, markdown

HERE = Path(__file__).resolve().parent
QUESTIONS = {
    "exact": exact,
    "curves": curves,
    "hallway": hallway,
    "value_functions": value_functions,
    "noise": noise,
    "relapses": relapses,
    "distributed": distributed,
    "dyna": dyna,
    "dyna_clock": dyna_clock,
    "dyna_workers": dyna_workers,
    "lock_in": lock_in,
    "timing": timing,
    "learner": learner,
    "break_even": break_even,
    "latency": latency,
    "federated": federated,
    "merging": merging,
    "scaling": scaling,
    "round_cost": round_cost,
    "dyna_large": dyna_large,
}
CONSTANTS = {"HALLWAY": HALLWAY, "LAKE": LAKE, "SINGLE": SINGLE, "BEST_RATE": BEST_RATE}


class Claim(NamedTuple):
    """A statement that a sentence of the report relies on, asserted beside it in the template."""

    words: str
    holds: bool
    is_timing: bool  # may fail on another machine
    line: int  # of the template
    values: str  # the numbers that the condition compared
    experiments: frozenset[str]  # whose rows it read

    def __str__(self):
        return f"figures/report_template.md, line {self.line}: the data do not show that {self.words}"


class Noted:
    """Data that note which experiments are read, and which numbers came out."""

    def __init__(self, data: Data):
        self.data = data
        self.clear_notes()

    def clear_notes(self) -> None:
        self.experiments, self.numbers = set(), []

    def __getitem__(self, name: str):
        self.experiments.add(name)
        return self.data[name]


class Bound:
    """A question's module as the template sees it: functions that take `data` are already given it."""

    def __init__(self, question, data: Noted):
        self._question = question
        self._data = data

    def __getattr__(self, name):
        found = getattr(self._question, name)
        if not inspect.isfunction(found):
            return found

        @functools.wraps(found)
        def noting(*arguments, **named):
            if "data" in inspect.signature(found).parameters:
                arguments = self._data, *arguments
            result = found(*arguments, **named)
            if isinstance(result, Number) or (type(result) is tuple and all(isinstance(x, Number) for x in result)):
                self._data.numbers.append(result)
            return result

        return noting


def written(result) -> str:
    """A number, or an estimate with its interval, as a table of claims has it."""
    if isinstance(result, tuple):
        middle, low, high = map(written, result)
        return f"{middle} [{low}, {high}]"
    if isinstance(result, bool | np.bool):
        return "yes" if result else "no"
    if isinstance(result, int | np.integer) or abs(result) >= 1_000:
        return f"{result:,.0f}"
    return f"{result:.3g}"


def render(data: Data, folder: Path = HERE) -> tuple[str, list[Claim]]:
    """The text of Report.md, and the claims that were checked on the way."""
    template = (folder / "report_template.md").read_text(encoding="utf-8")
    noted = Noted(data)
    claims = []

    def claim(words: str, holds, is_timing: bool = False) -> None:
        line = 1 + template[: template.index(f'"{words}"')].count("\n")
        values = ", ".join(map(written, noted.numbers))
        claims.append(Claim(words, bool(holds), is_timing, line, values, frozenset(noted.experiments)))

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,  # a claim on a line of its own leaves none behind
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    bound = {name: Bound(question, noted) for name, question in QUESTIONS.items()}
    noting = template.replace("{% do claim(", "{% do forget() %}{% do claim(")  # a claim's notes are its own
    text = environment.from_string(noting).render(**bound, **CONSTANTS, claim=claim, forget=noted.clear_notes)
    return text, claims


def table_of_claims(committed: list[Claim], fresh: list[Claim], seeds_from: int) -> str:
    """Claims with the numbers that they compare, under both sets of seeds."""
    rows = [
        [one.words, one.values, other.values, "holds" if other.holds else "**fails**"]
        for one, other in zip(committed, fresh, strict=True)
    ]
    return markdown(["the data show that", "seeds from 0", f"seeds from {seeds_from:,}", "again"], rows)
