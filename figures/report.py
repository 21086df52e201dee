"""Render a study's texts from their templates, whose sentences call the functions of its modules and state claims."""

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
from figures.summaries import FILTERS

TEMPLATES = {"report_template.md": "Report.md", "appendix_template.md": "appendix.md"}  # a study may lack the second
CONSTANTS = {"HALLWAY": HALLWAY, "LAKE": LAKE, "SINGLE": SINGLE, "BEST_RATE": BEST_RATE}


class Claim(NamedTuple):
    """A condition that a sentence of the report relies on, stated beside it in the template."""

    words: str
    holds: bool
    is_timing: bool  # may fail on another machine
    place: str  # the template's path and the line
    sizes: list  # of the effects that the condition bounds: a number each, or [mean, low, high]
    experiments: frozenset[str]  # those whose rows it reads

    def __str__(self):
        return f"{self.place}: the data do not show that {self.words}"


class Noted:
    """Data that record which experiments are read and which numbers are computed."""

    def __init__(self, data: Data):
        self.data = data
        self.clear_notes()

    def clear_notes(self) -> None:
        self.experiments, self.numbers = set(), []

    def __getitem__(self, name: str):
        self.experiments.add(name)
        return self.data[name]


class Bound:
    """A module as the template sees it: `data` is passed to the functions that take it."""

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


def plain(number):
    """Return a number, or an estimate with its interval, as JSON keeps it."""
    if isinstance(number, tuple):
        return [plain(one) for one in number]
    return number.item() if isinstance(number, np.generic) else number


def written(sizes: list) -> str:
    """Format numbers, and estimates with their intervals, for the table of claims."""
    return ", ".join(map(_written, sizes))


def _written(number) -> str:
    if isinstance(number, list):
        middle, *interval = number
        return f"{_written(middle)} [{written(interval)}]"
    if isinstance(number, bool):
        return "yes" if number else "no"
    if isinstance(number, int) or abs(number) >= 1_000:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def render(study: Study, data: Data) -> tuple[dict[str, str], list[Claim]]:
    """Render the study's texts; return them by file name, and the claims that they make.

    A template sees the modules of the study and of its base by their names, and as `settings` the settings of each
    experiment.
    """
    texts, claims = {}, []
    for template, name in TEMPLATES.items():
        if (study.folder / template).exists():
            texts[name], made = _render(study, data, template)
            claims += made
    return texts, claims


def _render(study: Study, data: Data, name: str) -> tuple[str, list[Claim]]:
    """Render one template; return the text and its claims."""
    path = study.folder / name
    template = path.read_text(encoding="utf-8")
    noted = Noted(data)
    claims = []

    def claim(words: str, holds, size=None, is_timing: bool = False) -> None:
        line = 1 + template[: template.index(f'"{words}"')].count("\n")
        place = f"{path.relative_to(study.root).as_posix()}, line {line}"
        sizes = [plain(one) for one in (noted.numbers if size is None else [size])]
        claims.append(Claim(words, bool(holds), is_timing, place, sizes, frozenset(noted.experiments)))

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,  # a claim on its own line leaves no empty line
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    names = {name: Bound(module, noted) for name, module in study.all_modules.items()} | CONSTANTS
    names["settings"] = {name: settings_of(run) for name, run in study.all_experiments.items()}
    noting = template.replace("{% do claim(", "{% do forget() %}{% do claim(")  # note what this claim alone reads
    text = environment.from_string(noting).render(**names, claim=claim, forget=noted.clear_notes)
    if untrue := [claim.words for claim in claims if claim.is_timing and not claim.holds]:  # on another machine
        text += f"\n*Where this text says otherwise: the times do not show that {'; nor that '.join(untrue)}.*\n"
    return text, claims
