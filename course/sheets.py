"""Sheets as text, CSV and JSON: the same marks, the same bytes every time."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Sequence

from course.findings import ITEMS
from course.marks import TITLES, Mark, Sheet, short_names

WIDTH = 100  # columns


def as_text(sheet: Sheet) -> str:
    """A sheet to be read in a terminal: item, points, what was seen, a hint."""
    lines = [sheet.file, "-" * min(WIDTH, max(len(sheet.file), 20)), *textwrap.wrap(total(sheet), WIDTH)]
    for mark in sheet.marks:
        score = f"{mark.points:>3} of {mark.of}" if mark.judged else f"  - of {mark.of}"
        head = f"{TITLES[mark.item]:<20} {score:<10} "
        indent = " " * len(head)
        first, *calls = mark.seen.split("\n")
        lines += textwrap.wrap(head + first, WIDTH, initial_indent="", subsequent_indent=indent)
        for call in calls:
            lines += textwrap.wrap(call, WIDTH, initial_indent=indent + "  ", subsequent_indent=indent + "    ")
        if mark.hint:
            lines += textwrap.wrap(f"Hint: {mark.hint}", WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines) + "\n"


def total(sheet: Sheet) -> str:
    """The sum in words, what of it is open, and what was not answered."""
    said = f"{sheet.points} of {sheet.of} points"
    open_ones = [TITLES[mark.item] for mark in sheet.marks if not mark.judged]
    if open_ones:
        said += f", {sheet.unjudged} of which were not judged and count in full ({', '.join(open_ones)}): mark these "
        said += "by hand"
    blank, items = sheet.unanswered, [mark for mark in sheet.marks if mark.item != "loads"]
    if blank:
        said += "; nothing is answered" if len(blank) == len(items) else f"; not answered: {', '.join(blank)}"
    return said


def as_json(sheets: Sequence[Sheet]) -> str:
    """All sheets as a JSON list, an entry for each submission."""
    return json.dumps([_entry(sheet) for sheet in sheets], ensure_ascii=False, indent=1) + "\n"


def _entry(sheet: Sheet) -> dict:
    """A sheet as JSON has it."""
    items = [mark._asdict() for mark in sheet.marks]
    return {"file": sheet.file, "points": sheet.points, "of": sheet.of, "items": items}


def as_csv(sheets: Sequence[Sheet]) -> str:
    """All sheets as a table: file, points, of, the points that were not judged, and those of each item."""
    items = [item for item in ITEMS if any(item == mark.item for mark in sheets[0].marks)] if sheets else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "points", "of", "not judged", *items])
    for name, sheet in zip(short_names([sheet.file for sheet in sheets]), sheets, strict=True):
        row = [_cell(name), sheet.points, sheet.of, sheet.unjudged]
        writer.writerow([*row, *(_points(mark) for mark in sheet.marks)])
    return text.getvalue()


def _points(mark: Mark) -> int | str:
    """Points as a table has them: nothing where there was no judgement."""
    return mark.points if mark.judged else ""


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
