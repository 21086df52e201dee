"""Drawing by arrays: cells in colours, arrows, paths and text as RGB pixels, and their PNG bytes.

A grid of rows x cols cells, `side` pixels wide each, is an array (rows * side, cols * side, 3) of uint8. What repeats
from cell to cell is a mask of side x side numbers from 0 to 1, made once and blended into many cells.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Pillow and matplotlib are imported where they are used: workers never need them.

DIRECTIONS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # of the actions left, down, right, up: (x, y), y downwards
RED_GREEN_BLUE = 3
SMALLEST_SOFT = 11  # pixels; smaller text has hard edges


def rgb(color: str) -> np.ndarray:
    """Convert a colour such as #00FF80 to [red, green, blue], int32."""
    return np.array(list(bytes.fromhex(color[1:])), np.int32)


@functools.cache
def palette() -> np.ndarray:
    """The 256 colours of the project's figures and films, from dark to bright, uint8 (256, 3)."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.arange(256), bytes=True)[:, :RED_GREEN_BLUE]


def shaded(shares: np.ndarray) -> np.ndarray:
    """Colours for numbers from 0 (dark) to 1 (bright): uint8, one more axis than `shares`."""
    return palette()[(np.clip(shares, 0.0, 1.0) * 255).round().astype(int)]


def tiled(cells: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Paint a grid: pixel (y, x) of a cell has the colour cells[row, column, parts[y, x]]."""
    rows, cols = cells.shape[:2]
    side = len(parts)
    return cells[:, :, parts].transpose(0, 2, 1, 3, 4).reshape(rows * side, cols * side, RED_GREEN_BLUE)


@functools.cache
def centre_and_edges(side: int, edge: float) -> np.ndarray:
    """Divide a cell into edges left, below, right and above (0 to 3), `edge` of its side wide, and a centre (4)."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    distances = np.stack([x, 1 - y, 1 - x, y])
    return np.where(distances.min(axis=0) < edge, distances.argmin(axis=0), 4)


def strokes(side: int, lines: Sequence[tuple], width: float) -> np.ndarray:
    """Make a mask of straight lines (x0, y0, x1, y1), in units of the cell, with soft edges: int32 from 0 to 256."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    mask = np.zeros((side, side))
    for x0, y0, x1, y1 in lines:
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0.0, 1.0)
        away = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        mask = np.maximum(mask, np.clip((width / 2 - away) * side + 0.5, 0.0, 1.0))
    return (256 * mask).round().astype(np.int32)


def mixed(under: np.ndarray, over: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mix colours: all of `over` where the mask is 256, all of `under` where it is 0."""
    return under + ((over - under) * mask[..., None] >> 8)


def blend(pixels: np.ndarray, mask: np.ndarray, where: np.ndarray, color: np.ndarray) -> None:
    """Blend a colour, or a cell's pixels, into the cells `where`, bool (rows, cols), of a grid, as the mask says."""
    side, (rows, cols) = len(mask), where.shape
    blocks = pixels.reshape(rows, side, cols, side, RED_GREEN_BLUE)  # a view, if the pixels are contiguous
    row, col = np.nonzero(where)
    blocks[row, :, col] = mixed(blocks[row, :, col], color, mask)


@functools.cache
def _arrow(side: int, action: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask of an arrow in the direction of an action, and its pixels: white with a dark outline."""
    dx, dy = DIRECTIONS[action]
    tip = 0.5 + 0.26 * dx, 0.5 + 0.26 * dy
    back = 0.5 - 0.26 * dx, 0.5 - 0.26 * dy
    barbs = [(tip[0] - 0.2 * dx + turn * dy, tip[1] - 0.2 * dy + turn * dx) for turn in (-0.17, 0.17)]
    lines = [(*back, *tip), *((*barb, *tip) for barb in barbs)]
    dark, white = rgb("#202020"), rgb("#FFFFFF")
    return strokes(side, lines, 0.12 + 2 / side), mixed(dark, white, strokes(side, lines, 0.12))


def draw_arrows(pixels: np.ndarray, actions: np.ndarray) -> None:
    """Draw arrows in the cells of a grid whose action, (rows, cols), is not negative."""
    for action in range(4):
        mask, color = _arrow(len(pixels) // len(actions), action)
        blend(pixels, mask, actions == action, color)


@functools.cache
def _frame(side: int) -> np.ndarray:
    """The mask of a line around a cell, within it, one pixel wide in small cells."""
    width = max(1, side // 16) / side
    near, far = width / 2, 1 - width / 2
    return strokes(side, [(near, 0, near, 1), (far, 0, far, 1), (0, near, 1, near), (0, far, 1, far)], width)


def draw_frames(pixels: np.ndarray, where: np.ndarray, color: str) -> None:
    """Draw a line around each of the cells `where`, bool (rows, cols), of a grid."""
    blend(pixels, _frame(len(pixels) // len(where)), where, rgb(color))


@functools.cache
def _half_line(side: int, action: int, width: float) -> np.ndarray:
    """The mask of a line from a cell's centre to its edge in the direction of an action."""
    dx, dy = DIRECTIONS[action]
    return strokes(side, [(0.5, 0.5, 0.5 + 0.5 * dx, 0.5 + 0.5 * dy)], width)


def draw_path(
    pixels: np.ndarray, shape: tuple[int, int], path: Sequence[tuple[int, int]], width: float, color: str
) -> None:
    """Draw a line, `width` of a cell wide, through the centres of neighbouring cells (row, column) of a grid."""
    side = len(pixels) // shape[0]
    leaves = np.zeros((4, *shape), bool)  # towards which neighbour the line leaves a cell
    for here, there in itertools.pairwise(path):
        action = DIRECTIONS.index((there[1] - here[1], there[0] - here[0]))
        leaves[(action, *here)] = leaves[((action + 2) % 4, *there)] = True
    for action in range(4):
        blend(pixels, _half_line(side, action, width), leaves[action], rgb(color))


class Text(NamedTuple):
    """A line of text in a picture, by the left end of its middle line."""

    x: int
    y: int
    text: str
    color: str = "#202020"
    size: int = 12
    bold: bool = False
    anchor: str = "lm"  # Pillow's: left, middle
    plate: str = ""  # the colour of a box behind it, to be readable on any picture


@functools.cache
def _font(size: int, bold: bool) -> Any:
    """The font of matplotlib's figures, which comes with it."""
    import matplotlib
    from PIL import ImageFont

    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def written(pixels: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    """Return a copy of a picture with text in it."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for text in texts:
        font, place = _font(text.size, text.bold), (text.x, text.y)
        if text.plate:
            left, top, right, bottom = draw.textbbox(place, text.text, font, text.anchor)
            draw.rectangle((left - 1, top - 1, right, bottom), text.plate)
        # soft edges would smudge a letter that is a few pixels high
        draw.fontmode = "1" if text.size < SMALLEST_SOFT else "L"
        draw.text(place, text.text, text.color, font, text.anchor)
    return np.asarray(image)


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels as a PNG file, quickly rather than small."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()
