"""Renders a study's Report.md from its report_template.md, whose sentences call the functions of its modules."""

from __future__ import annotations

import functools
import inspect
from numbers import Number
from types import ModuleType
from typing import NamedTuple

import jinja2
import numpy as np

from figures.assignment import BEST_RATE, HALLWAY, LAKE, SINGLE
from figures.rows import Data, settings_of
from figures.study import Study
from figures.summaries import FILTERS, markdown

CONSTANTS = {"HALLWAY": HALLWAY, "LAKE": LAKE, "SINGLE": SINGLE, "BEST_RATE": BEST_RATE}


class Claim(NamedTuple):
    """What a sentence of the report relies on, checked beside the sentence in the template."""

    words: str
    holds: bool
    is_timing: bool  # may fail on another machine
    place: str  # the template's path and the line
    values: str  # the numbers that the condition compared
    experiments: frozenset[str]  # whose rows it read

    def __str__(self):
        return f"{self.place}: the data do not show that {self.words}"


class Noted:
    """Data that record which experiments are read, and which numbers are computed."""

    def __init__(self, data: Data):
        self.data = data
        self.clear_notes()

    def clear_notes(self) -> None:
        self.experiments, self.numbers = set(), []

    def __getitem__(self, name: str):
        self.experiments.add(name)
        return self.data[name]


class Bound:
    """A module as the template sees it: functions that take `data` get it without being given it."""

    def __init__(self, module: ModuleType, data: Noted):
        self._module = module
        self._data = data

    def __getattr__(self, name):
        found = getattr(self._module, name)
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


def render(study: Study, data: Data) -> tuple[str, list[Claim]]:
    """Render the study's Report.md; return the text and the claims that it makes.

    The template sees the modules of the study and of its base by their names, and as `settings` the settings of each
    experiment.
    """
    path = study.folder / "report_template.md"
    template = path.read_text(encoding="utf-8")
    noted = Noted(data)
    claims = []

    def claim(words: str, holds, is_timing: bool = False) -> None:
        line = 1 + template[: template.index(f'"{words}"')].count("\n")
        place = f"{path.relative_to(study.root).as_posix()}, line {line}"
        values = ", ".join(map(written, noted.numbers))
        claims.append(Claim(words, bool(holds), is_timing, place, values, frozenset(noted.experiments)))

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,  # a claim on a line of its own leaves none behind
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    names = {name: Bound(module, noted) for name, module in study.all_modules.items()} | CONSTANTS
    names["settings"] = {name: settings_of(run) for name, run in study.all_experiments.items()}
    noting = template.replace("{% do claim(", "{% do forget() %}{% do claim(")  # a claim's notes are its own
    text = environment.from_string(noting).render(**names, claim=claim, forget=noted.clear_notes)
    return text, claims


def text_of_claims(door: str, names: list[str], committed: list[Claim], fresh: list[Claim], seeds_from: int) -> str:
    """Claims with the numbers that they compare, under both sets of seeds; `door` is what makes them."""
    rows = [
        [one.words, one.values, other.values, "holds" if other.holds else "**fails**"]
        for one, other in zip(committed, fresh, strict=True)
    ]
    table = markdown(["the data show that", "seeds from 0", f"seeds from {seeds_from:,}", "again"], rows)
    return f"""# The report's claims under other seeds

This is what `python {door} --seeds-from {seeds_from}` makes of these experiments, with every
seed raised by {seeds_from:,}: {", ".join(names)}.

Beside each claim stand the numbers that it compares, in the order in which it reads them. Claims about time are left
out, and those that rest on exact values alone.

{table}
"""
