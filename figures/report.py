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
from figures.summaries import FILTERS, markdown

TEMPLATES = {"report_template.md": "Report.md", "appendix_template.md": "appendix.md"}  # a study may lack the second
CONSTANTS = {"HALLWAY": HALLWAY, "LAKE": LAKE, "SINGLE": SINGLE, "BEST_RATE": BEST_RATE}


class Claim(NamedTuple):
    """A condition that a sentence of the report relies on, stated beside it in the template."""

    words: str
    holds: bool
    is_timing: bool  # may fail on another machine
    place: str  # the template's path and the line
    size: float | tuple | None  # of the effect, which the condition bounds: a number, or (mean, low, high)
    numbers: str  # those that the condition compares
    experiments: frozenset[str]  # those whose rows it reads

    def __str__(self):
        return f"{self.place}: the data do not show that {self.words}"

    @property
    def values(self) -> str:
        """The size of the effect, or else the numbers that the condition compares, as text."""
        return self.numbers if self.size is None else written(self.size)


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


def written(result) -> str:
    """Format a number, or an estimate with its interval, for the table of claims."""
    if isinstance(result, tuple):
        middle, low, high = map(written, result)
        return f"{middle} [{low}, {high}]"
    if isinstance(result, bool | np.bool):
        return "yes" if result else "no"
    if isinstance(result, int | np.integer) or abs(result) >= 1_000:
        return f"{result:,.0f}"
    return f"{result:.3g}"


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
        numbers = ", ".join(map(written, noted.numbers))
        claims.append(Claim(words, bool(holds), is_timing, place, size, numbers, frozenset(noted.experiments)))

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


def text_of_claims(
    script: str, names: list[str], left_out: list[str], committed: list[Claim], fresh: list[Claim], seeds_from: int
) -> str:
    """Return the text of claims_fresh.md: each claim and its effect under both sets of seeds; `script` makes it."""
    rows = [
        [one.words, one.values, other.values, times(one, other), "holds" if other.holds else "**fails**"]
        for one, other in zip(committed, fresh, strict=True)
    ]
    head = ["the data show that", "size of the effect, seeds from 0", f"seeds from {seeds_from:,}", "times", "again"]
    table = markdown(head, rows)
    left = f"\nNot run again: {', '.join(left_out)}." if left_out else ""
    return f"""# The report's claims under other seeds

This is what `python {script} --seeds-from {seeds_from}` makes of these experiments, with every
seed raised by {seeds_from:,}: {", ".join(names)}.{left}

Beside each claim stands the size of the effect that it bounds, with a 95% interval where there is one, and how many
times as large it is under the other seeds; or else the numbers that it compares, in the order in which it reads them.
Claims about time are left out, and those that rest on exact values alone.

{table}
"""


def times(one: Claim, other: Claim) -> str:
    """Return how many times as large the second claim's effect is, as text; empty if that has no meaning."""
    if one.size is None or other.size is None:
        return ""
    before, after = (size[0] if isinstance(size, tuple) else size for size in (one.size, other.size))
    return f"{after / before:.2f}" if before * after > 0 else ""
