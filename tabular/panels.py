"""The picture of a comparison: a panel for each learner, with its numbers and routes, and the scale of colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .comparison import Comparison, Result, Route, routes
from .pixels import Text, centre_and_edges, draw_arrows, draw_frames, draw_path, rgb, shaded, tiled, written
from .plots import AGENT, COLORS

PANEL, MARGIN, GAP, TOP, LINE = 320, 10, 20, 50, 18  # pixels
FRAME_LINES = 8  # below the panels: two of values, three of routes, three of the legend
LARGEST_CELL, SMALLEST_WITH_ARROWS = 48, 14  # pixels per side
EDGE = 0.17  # of a cell's side
HOLE, GOAL, UNTRIED = "#333333", "#F0E442", "#D0D0D0"
FRAMES = {HOLE: "#808080", GOAL: "#202020"}  # around these cells, whose colours are near the ends of the scale
ROUTES = (AGENT, "#F7B6D2", "#000000")  # which the scale does not have
ZERO = 0.4  # the place of 0 on the scale of colours, which has more of them for gains than for losses
TICKS = (-1000, -100, 0, 500, 900, 1000)


class Frame(NamedTuple):
    """Where things are in the picture of a lake, in pixels."""

    side: int  # of a cell
    lefts: tuple[int, int]  # of the panels
    top: int  # of the panels
    bottom: int
    width: int  # of the picture
    height: int


def frame_of(rows: int, cols: int) -> Frame:
    """Lay out the picture of a lake with so many rows and columns."""
    side = min(LARGEST_CELL, PANEL // max(rows, cols))
    panel = max(PANEL, cols * side)
    bottom = TOP + rows * side
    width, height = 2 * (MARGIN + panel) + GAP, bottom + LINE * FRAME_LINES + MARGIN
    return Frame(side, (MARGIN, MARGIN + panel + GAP), TOP, bottom, width, height)


def picture(comparison: Comparison) -> np.ndarray:
    """Draw a comparison; return the pixels, uint8 (height, width, 3)."""
    letters = comparison.settings.lake().desc
    frame = frame_of(*letters.shape)
    pixels = np.full((frame.height, frame.width, 3), 255, np.uint8)
    texts = [Text(MARGIN, 14, _settings_line(comparison))]
    if not comparison.complete:
        texts.append(Text(frame.width - MARGIN, 36, _progress_line(comparison), "#B2182B", bold=True, anchor="rm"))
    for left, (name, result) in zip(frame.lefts, comparison.results.items(), strict=True):
        panel = _panel(result, letters, frame.side)
        pixels[frame.top : frame.bottom, left : left + panel.shape[1]] = panel
        texts.append(Text(left, 36, name, COLORS[name], size=14, bold=True))
        below = frame.bottom + LINE // 2 + 4
        for i, line in enumerate(_value_lines(result, comparison)):
            texts.append(Text(left, below + i * LINE, line))
        for i, (color, line) in enumerate(_route_lines(result, letters)):
            y = below + (i + 2) * LINE
            pixels[y - 3 : y + 3, left : left + 18] = rgb(color)
            texts.append(Text(left + 24, y, line))
    texts += _legend(pixels, frame.bottom + 5 * LINE + 8, several=comparison.settings.seeds > 1)
    return written(pixels, texts)


def description(comparison: Comparison) -> str:
    """Describe what the picture shows, for readers and programs that cannot see it."""
    letters = comparison.settings.lake().desc
    size = f"A lake of {letters.shape[0]} x {letters.shape[1]} cells"
    lines = [f"{size}: {_settings_line(comparison)}"]
    if not comparison.complete:
        lines.append(_progress_line(comparison))
    for name, result in comparison.results.items():
        found = *_value_lines(result, comparison), *(line for _, line in _route_lines(result, letters))
        lines.append(f"{name}: {'; '.join(found)}")
    return "\n".join(lines)


def scaled(values: np.ndarray) -> np.ndarray:
    """Place values on the scale of colours, from 0 (-1000 or less) over `ZERO` to 1 (1000).

    The scale is the same for all pictures. It is widest near 1000, where a few steps or some risk of a hole count, and
    below 0, where a hole begins to be felt.
    """
    gain = 1.0 - (1.0 - ZERO) * np.sqrt(np.clip(1000.0 - values, 0.0, 1000.0) / 1000.0)
    loss = ZERO - ZERO * np.sqrt(np.clip(-values, 0.0, 1000.0) / 1000.0)
    return np.where(values >= 0.0, gain, loss)


def _panel(result: Result, letters: np.ndarray, side: int) -> np.ndarray:
    """Draw the first seed's values and arrows, and the routes of all seeds."""
    table = result.tables[0][:-1].reshape(*letters.shape, 4)  # without the exit state
    walkable = np.isin(letters, [b"S", b"F"])
    tried = table.any(axis=2) & walkable
    cells = shaded(scaled(np.concatenate([table, table.max(axis=2, keepdims=True)], axis=2)))
    for color, where in ((UNTRIED, walkable & ~tried), (HOLE, letters == b"H"), (GOAL, letters == b"G")):
        cells[where] = rgb(color)
    pixels = np.ascontiguousarray(tiled(cells, centre_and_edges(side, EDGE)))
    for i, route in enumerate(routes(result.paths, letters)[: len(ROUTES)]):
        width = max(0.3 - 0.06 * i, (4 - i) / side)  # a route of more seeds is wider, and lies below
        draw_path(pixels, letters.shape, result.paths[route.runs[0]], width, ROUTES[i])
    draw_frames(pixels, letters == b"H", FRAMES[HOLE])
    draw_frames(pixels, letters == b"G", FRAMES[GOAL])
    if side < SMALLEST_WITH_ARROWS:
        return pixels
    draw_arrows(pixels, np.where(tried, table.argmax(axis=2), -1))
    return written(pixels, cell_letters(letters, side))


def cell_letters(letters: np.ndarray, side: int) -> list[Text]:
    """The letters S, in a corner beside the arrow, and G."""
    size = max(10, side * 3 // 8)
    starts = [
        Text(col * side + 1, row * side + 1, "S", "#FFFFFF", size, bold=True, anchor="lt", plate="#202020")
        for row, col in np.argwhere(letters == b"S").tolist()
    ]
    goals = [
        Text(col * side + side // 2, row * side + side // 2, "G", "#202020", size, bold=True, anchor="mm", plate=GOAL)
        for row, col in np.argwhere(letters == b"G").tolist()
    ]
    return starts + goals


def _legend(pixels: np.ndarray, top: int, several: bool) -> list[Text]:
    """Draw the scale of colours, three lines high, and what else has a colour; return the texts."""
    width, y = 2 * PANEL // 2, top + LINE
    bar = np.arange(width) / (width - 1)
    pixels[y : y + 12, MARGIN : MARGIN + width] = shaded(bar)
    which = ", for the first seed" if several else ""
    meaning = f"A cell's colour: its highest action value; at each edge: the value of moving there{which}"
    texts = [Text(MARGIN, top + 8, meaning)]
    for value in TICKS:
        x = MARGIN + round(float(scaled(np.array(value))) * (width - 1))
        pixels[y + 12 : y + 15, x] = 0
        anchor = {TICKS[0]: "lm", TICKS[-1]: "rm"}.get(value, "mm")
        texts.append(Text(x, y + 22, f"{value:,}", size=11, anchor=anchor))
    x = MARGIN + PANEL + GAP
    for color, name, advance in ((HOLE, "hole", 65), (GOAL, "goal", 65), (UNTRIED, "never tried", 100)):
        pixels[y : y + 12, x : x + 18] = rgb(FRAMES.get(color, color))
        pixels[y + 1 : y + 11, x + 1 : x + 17] = rgb(color)
        texts.append(Text(x + 24, y + 6, name))
        x += advance
    return texts


# The lines of text -----------------------------------------------------------------------------


def _settings_line(comparison: Comparison) -> str:
    """The settings in words."""
    given = comparison.settings
    last = given.seed + given.seeds - 1
    seeds = f"seed {given.seed}" if given.seeds == 1 else f"seeds {given.seed} to {last}"
    rates = f"epsilon {given.epsilon:g}, learning rate {given.learning_rate:g}, slip {given.slip:g}"
    return f"{rates}, {given.episodes:,} episodes, {seeds}"


def _progress_line(comparison: Comparison) -> str:
    """How much of the learning an incomplete comparison shows."""
    given, seeds = comparison.settings, len(comparison.results["SARSA"].tables)
    if comparison.episodes < given.episodes:
        first = "" if given.seeds == 1 else f" of the first of {given.seeds} seeds"
        return f"so far {comparison.episodes:,} of {given.episodes:,} episodes{first}"
    return f"so far {seeds} of {given.seeds} seeds"


def _value_lines(result: Result, comparison: Comparison) -> list[str]:
    """The exact values beside the exact optima."""
    mean = "mean " if len(result.greedy) > 1 else ""
    pairs = ("greedy", result.greedy, comparison.best), ("exploring", result.exploring, comparison.best_exploring)
    return [f"exact value, {how}: {mean}{np.mean(values):.0f} (optimum {best:.0f})" for how, values, best in pairs]


def _route_lines(result: Result, letters: np.ndarray) -> list[tuple[str, str]]:
    """A colour and a line for each route; if there are too many, the last line sums up the rest."""
    found, seeds = routes(result.paths, letters), len(result.paths)
    shown = len(found) if len(found) <= len(ROUTES) else len(ROUTES) - 1
    lines = [(color, _route_line(route, result)) for color, route in zip(ROUTES, found[:shown], strict=False)]
    if rest := found[shown:]:
        runs = sum(len(route.runs) for route in rest)
        lines.append((ROUTES[-1], f"{runs} of {seeds} seeds: {len(rest)} other routes, one of them shown"))
    return lines


def _route_line(route: Route, result: Result) -> str:
    """Say how long a route is and what it is worth, and how many of several seeds take it."""
    steps = sorted(len(result.paths[run]) - 1 for run in route.runs)
    length = f"{steps[0]} steps" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]} steps"
    seeds = len(result.paths)
    if seeds == 1:
        return f"likeliest path: {f'{length} to G' if route.arrives else 'does not reach G'}"
    value = np.mean([result.greedy[run] for run in route.runs])
    return f"{len(route.runs)} of {seeds} seeds: {length if route.arrives else 'G not reached'}, value {value:.0f}"
