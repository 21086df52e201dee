"""Sheets as web pages: one for each submission, and one for the teacher. They need nothing else, and print well."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from html import escape

from course.marks import TITLES, Mark, Sheet, short_names
from course.sheets import total

DASH = "\N{EN DASH}"  # of what was not judged
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: #1a1a1a;
  background: #fff; max-width: 1180px; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0 .9rem; max-width: 52rem; }
a { color: #0b5394; }
.sum { font-size: 1.15rem; }
.note { color: #555; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem; border-bottom: 1px solid #ddd; }
thead th { font-size: .85rem; font-weight: 600; color: #444; border-bottom: 2px solid #999; vertical-align: bottom; }
td.points { white-space: nowrap; text-align: right; font-weight: 600; }
td.item { white-space: nowrap; font-weight: 600; }
.seen { overflow-wrap: anywhere; white-space: pre-line; }
.hint { color: #444; margin-top: .25rem; }
.hint b { font-weight: 600; }
.bar { width: 4.5rem; height: .55rem; background: #e6e6e6; margin-top: .5rem; }
.bar i { display: block; height: 100%; background: #0072b2; }
.wide { overflow-x: auto; }
.matrix { font-size: .86rem; }
.matrix th, .matrix td { padding: .3rem .35rem; vertical-align: middle; }
.matrix thead th { vertical-align: bottom; }
.matrix td.cell, .matrix thead th:nth-child(2) { text-align: right; }
.matrix thead th.cell { text-align: center; min-width: 2.4rem; }
.matrix thead th:nth-child(2) { text-align: right; }
.matrix thead th.cell { height: 8.5rem; white-space: nowrap; padding: 0; }
.matrix thead th.cell div { writing-mode: vertical-rl; transform: rotate(180deg); margin: 0 auto; }
.matrix tbody th { font-weight: 400; overflow-wrap: anywhere; min-width: 9rem; }
.matrix tfoot td, .matrix tfoot th { border-top: 2px solid #999; border-bottom: 0; }
.matrix td.sum { font-size: inherit; font-weight: 600; text-align: right; white-space: nowrap; }
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { margin: 0; padding: 0; max-width: none; font-size: 9pt; }
  th, td { padding: .25rem .4rem; }
  .matrix { font-size: 8pt; }
  a { color: inherit; text-decoration: none; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
  tfoot { display: table-row-group; }
  .wide { overflow: visible; }
  .back { display: none; }
}
"""


def site(sheets: Sequence[Sheet]) -> dict[str, str]:
    """All pages by the names of their files: index.html, and one for each sheet."""
    sheets = [
        sheet._replace(file=name)
        for sheet, name in zip(sheets, short_names([sheet.file for sheet in sheets]), strict=True)
    ]
    names = page_names([sheet.file for sheet in sheets])
    pages = {name: student_page(sheet) for name, sheet in zip(names, sheets, strict=True)}
    return {"index.html": teacher_page(sheets, names), **pages}


def page_names(files: Sequence[str]) -> list[str]:
    """A file name for each page, made of the submission's name; no two are the same, nor index.html."""
    taken, names = {"index"}, []
    for file in files:
        stem = re.sub(r"\.ipynb$", "", file)
        plain = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[-80:].strip("-") or "submission"
        name, count = plain, 1
        while name.lower() in taken:
            count += 1
            name = f"{plain}-{count}"
        taken.add(name.lower())
        names.append(f"{name}.html")
    return names


def _page(title: str, body: str) -> str:
    """A whole page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


# A student's page ---------------------------------------------------------------------------------


def student_page(sheet: Sheet) -> str:
    """A sheet as a page."""
    rows = "".join(map(_row, sheet.marks))
    return _page(
        f"{sheet.file}: {sheet.points} of {sheet.of}",
        f"<h1>{escape(sheet.file)}</h1>\n"
        f'<p class="sum"><strong>{sheet.points}</strong> of {sheet.of} points</p>\n{_open(sheet)}'
        "<table>\n<thead><tr><th>item</th><th>points</th><th>what was seen</th></tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table>\n"
        '<p class="note">What the code does was judged, on its own classes and functions; the report is not part of '
        "this sheet.</p>\n",
    )


def _open(sheet: Sheet) -> str:
    """What is still to be judged, and what was not answered, if anything."""
    return f'<p class="note">{escape(total(sheet))}.</p>\n' if sheet.unjudged or sheet.unanswered else ""


def _row(mark: Mark) -> str:
    """An item of a sheet."""
    share = 0 if not mark.of else 100 * mark.points / mark.of
    bar = f'<div class="bar"><i style="width:{share:.0f}%"></i></div>' if mark.judged else ""
    score = f"{mark.points} of {mark.of}" if mark.judged else f"{DASH} of {mark.of}"
    hint = f'<div class="hint"><b>Hint:</b> {escape(mark.hint)}</div>' if mark.hint else ""
    return (
        f'<tr><td class="item">{escape(TITLES[mark.item])}{bar}</td><td class="points">{score}</td>'
        f'<td><div class="seen">{escape(mark.seen)}</div>{hint}</td></tr>\n'
    )


# The teacher's page -------------------------------------------------------------------------------


def teacher_page(sheets: Sequence[Sheet], names: Sequence[str]) -> str:
    """All submissions in a matrix, and below each column the share of its points that the class has."""
    items = [mark.item for mark in sheets[0].marks] if sheets else []
    head = "".join(f'<th class="cell"><div>{escape(TITLES[item])}</div></th>' for item in items)
    links = [
        f'<a href="{escape(name)}">{escape(sheet.file.removesuffix(".ipynb"))}</a>'
        for name, sheet in zip(names, sheets, strict=True)
    ]
    rows = "".join(_matrix_row(sheet, link) for sheet, link in zip(sheets, links, strict=True))
    count = "one submission" if len(sheets) == 1 else f"{len(sheets)} submissions"
    return _page(
        f"Marks of {count}",
        f"<h1>Marks of {count}</h1>\n{_summary(sheets)}"
        '<div class="wide"><table class="matrix">\n'
        f"<thead><tr><th>submission</th><th>points</th>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n"
        f"<tfoot>{_matrix_foot(sheets)}</tfoot>\n</table></div>\n"
        f'<p class="note">A cell has the points of an item, darker where more are missing. {DASH}: not judged, '
        "which counts in full in the sum. The last row is the share of points that the class has.</p>\n"
        f"{_losses(sheets, links)}",
    )


def _summary(sheets: Sequence[Sheet]) -> str:
    """The range of the sums, and who needs a look."""
    if not sheets:
        return ""
    sums, by_hand = [sheet.points for sheet in sheets], sum(sheet.unjudged > 0 for sheet in sheets)
    middle = f"{statistics.median(sums):g}"
    text = f"Of {sheets[0].of} points: {min(sums)} to {max(sums)}, median {middle}."
    if by_hand:
        text += f" {by_hand} {'has' if by_hand == 1 else 'have'} items that were not judged: mark these by hand."
    return f'<p class="sum">{text}</p>\n'


def _matrix_row(sheet: Sheet, link: str) -> str:
    """A submission in the matrix."""
    cells = "".join(_cell(mark) for mark in sheet.marks)
    return f'<tr><th scope="row">{link}</th><td class="sum">{sheet.points}</td>{cells}</tr>\n'


def _cell(mark: Mark) -> str:
    """An item's points, on orange that is the deeper the more are missing."""
    if not mark.judged:
        return f'<td class="cell" title="{escape(mark.seen)}">{DASH}</td>'
    return f'<td class="cell" style="{_shade(mark.points, mark.of)}" title="{escape(mark.seen)}">{mark.points}</td>'


def _shade(points: float, of: float) -> str:
    """The colour of a cell."""
    missing = 1 - points / of if of else 0
    return f"background:rgba(230,145,56,{0.75 * missing:.2f})" if missing > 0 else ""


def _matrix_foot(sheets: Sequence[Sheet]) -> str:
    """The share of the points that the class has, by item."""
    cells = []
    for marks in zip(*(sheet.marks for sheet in sheets), strict=True):
        judged = [mark for mark in marks if mark.judged and mark.of]
        share = sum(mark.points for mark in judged) / sum(mark.of for mark in judged) if judged else None
        text, shade = (DASH, "") if share is None else (f"{100 * share:.0f}%", _shade(share, 1))
        cells.append(f'<td class="cell" style="{shade}">{text}</td>')
    return f'<tr><th scope="row">the class</th><td></td>{"".join(cells)}</tr>'


def _losses(sheets: Sequence[Sheet], links: Sequence[str]) -> str:
    """Item by item, who lost points, and the first of what was seen."""
    sections = []
    for column, marks in enumerate(zip(*(sheet.marks for sheet in sheets), strict=True)):
        losers = [i for i, mark in enumerate(marks) if mark.judged and mark.points < mark.of]
        if not losers:
            continue
        rows = "".join(
            f'<tr><td class="points">{marks[i].points} of {marks[i].of}</td>'
            f"<td>{links[i]}</td>"
            f'<td class="seen">{escape(marks[i].seen)}</td></tr>\n'
            for i in losers
        )
        title = TITLES[sheets[0].marks[column].item]
        sections.append(
            f"<h2>{escape(title[:1].upper() + title[1:])}: {len(losers)} of {len(sheets)} lost points</h2>\n"
            f"<table>\n<tbody>\n{rows}</tbody>\n</table>\n"
        )
    return "".join(sections)
