"""HTML that notebooks display: tables of numbers, and films that can be paused and dragged."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arguments import names_checked


class Table:
    """Rows for display: a table in JupyterLab and in exported HTML, aligned columns elsewhere."""

    def __init__(self, rows: Sequence[dict[str, Any]], caption: str = ""):
        self.columns, self.caption = list(rows[0]), caption
        self.cells = [[as_text(row[column]) for column in self.columns] for row in rows]
        self.numeric = [all(_is_number(row[column]) for row in rows) for column in self.columns]

    def _repr_html_(self) -> str:
        line = "border: 0; border-bottom: 1px solid #ccc; padding: 3px 10px"
        styles = [f"{line}; text-align: {'right' if numeric else 'left'}" for numeric in self.numeric]

        def row(kind: str, cells: Sequence[str]) -> str:
            filled = zip(styles, cells, strict=True)
            return "<tr>" + "".join(f'<{kind} style="{style}">{html.escape(cell)}</{kind}>' for style, cell in filled)

        caption = f'<caption style="text-align: left">{html.escape(self.caption)}</caption>' if self.caption else ""
        body = "\n".join(row("td", cells) for cells in self.cells)
        style = "border-collapse: collapse; margin: 4px 0; font-variant-numeric: tabular-nums; max-width: 100%"
        head = row("th", self.columns)
        return f'<table style="{style}">{caption}\n<thead>{head}</thead>\n<tbody>{body}</tbody></table>'

    def __repr__(self) -> str:
        lines = [self.columns, *self.cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(line, widths, self.numeric, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption] * bool(self.caption) + aligned)


@names_checked
def show_table(rows: Sequence[dict[str, Any]], caption: str = "") -> Table:
    """Return rows as a table to display: {column: value}, all with the same columns.

    Whole numbers have commas, other numbers two decimals; text and numbers in other formats are given as strings.
    Raises ValueError if there are no rows, or their columns differ.
    """
    rows = list(rows)
    if not rows or not all(isinstance(row, dict) and row and list(row) == list(rows[0]) for row in rows):
        raise ValueError(f"rows must be one or more dicts with the same columns, got {rows!r}")
    return Table(rows, caption)


def as_text(value: Any) -> str:
    """Write a number with commas, and with two decimals unless it is whole; other values as str does."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return str(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:,.2f}"


def _is_number(value: Any) -> bool:
    """Whether a value is written as a number, possibly with a unit after it."""
    return as_text(value).lstrip("-+")[:1].isdigit()


def player(gif: bytes, alt: str) -> str:
    """Return HTML that plays the frames of a GIF, with a pause button and a slider to drag; without scripts, the last.

    The frames are one tall image, of which a box shows a piece. A reader who asked for less motion gets it paused.
    """
    import base64

    from PIL import Image, ImageSequence

    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(io.BytesIO(gif)))]
    (width, height), last = frames[0].size, len(frames) - 1
    strip = Image.new("RGB", (width, height * len(frames)))
    for i, frame in enumerate(frames):
        strip.paste(frame, (0, i * height))
    file = io.BytesIO()
    strip.quantize(96, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    # Handlers stand in attributes, since JupyterLab shows saved outputs without running their <script> elements.
    find = "const f = this.closest('figure'), s = f.querySelector('input'), b = f.querySelector('button');"
    start = (
        f"{find} b.hidden = s.hidden = false; s.value = 0; s.oninput(); f.wait = 0;"
        " b.textContent = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'Play' : 'Pause';"
        " setInterval(() => { if (b.textContent == 'Play') return; if (+s.value == +s.max && f.wait++ < 10) return;"
        " f.wait = 0; s.value = (+s.value + 1) % (+s.max + 1); s.oninput(); }, 200)"
    )
    turn = "this.textContent = this.textContent == 'Play' ? 'Pause' : 'Play'"
    drag = "this.closest('figure').querySelector('img').style.top = -100 * this.value + '%'"
    stop = f"{find} b.textContent = 'Play'"
    return (
        f'<figure style="margin: 0; max-width: {width}px">'
        f'<div style="position: relative; overflow: hidden; aspect-ratio: {width} / {height}">'
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" onload="{start}"'
        f' style="position: absolute; left: 0; top: -{100 * last}%; width: 100%; max-width: none"></div>'
        f'<button type="button" hidden style="width: 5em" onclick="{turn}">Pause</button> '
        f'<input type="range" hidden min="0" max="{last}" value="{last}" aria-label="Picture of the film"'
        f' style="width: 60%; vertical-align: middle" oninput="{drag}" onpointerdown="{stop}" onkeydown="{stop}">'
        "</figure>"
    )
