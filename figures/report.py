"""Renders Report.md from report_template.md, whose sentences call the functions of the question modules."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import NamedTuple

import jinja2

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
    learner,
    lock_in,
    merging,
    round_cost,
    scaling,
    timing,
    value_functions,
)
from figures.experiments import BEST_RATE, HALLWAY, LAKE, SINGLE
from figures.rows import Data
from figures.summaries import FILTERS

HERE = Path(__file__).resolve().parent
QUESTIONS = {
    "exact": exact,
    "curves": curves,
    "hallway": hallway,
    "value_functions": value_functions,
    "distributed": distributed,
    "dyna": dyna,
    "dyna_clock": dyna_clock,
    "dyna_workers": dyna_workers,
    "lock_in": lock_in,
    "timing": timing,
    "learner": learner,
    "break_even": break_even,
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

    def __str__(self):
        return f"figures/report_template.md, line {self.line}: the data do not show that {self.words}"


class Bound:
    """A question's module as the template sees it: functions that take `data` are already given it."""

    def __init__(self, question, data: Data):
        self._question = question
        self._data = data

    def __getattr__(self, name):
        found = getattr(self._question, name)
        if callable(found) and "data" in inspect.signature(found).parameters:
            return functools.partial(found, self._data)
        return found


def render(data: Data, folder: Path = HERE) -> tuple[str, list[Claim]]:
    """The text of Report.md, and the claims that were checked on the way."""
    template = (folder / "report_template.md").read_text(encoding="utf-8")
    claims = []

    def claim(words: str, holds, is_timing: bool = False) -> None:
        line = 1 + template[: template.index(f'"{words}"')].count("\n")
        claims.append(Claim(words, bool(holds), is_timing, line))

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,  # a claim on a line of its own leaves none behind
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    bound = {name: Bound(question, data) for name, question in QUESTIONS.items()}
    text = environment.from_string(template).render(**bound, **CONSTANTS, claim=claim)
    return text, claims
