"""Plots, which take data and return a figure, and two other displays for notebooks: films and source code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .arguments import names_checked
from .checks import check_count
from .displays import player
from .files import AnyPath, atomic_write

# matplotlib is imported where it is used: workers never need it.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

COLORS = {  # from the palette of Okabe and Ito
    "Q-learning": "#0072B2", "SARSA": "#D55E00", "Distributed": "#009E73", "Federated": "#CC79A7", "Dyna-Q": "#E69F00",
}  # fmt: skip
CELLS = {b"S": "#F0E442", b"F": "#DCEBF5", b"H": "#333333", b"G": "#009E73"}  # for a grid drawn without values
AGENT = "#D55E00"
_DIRECTIONS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (np.nan, np.nan)])  # the last is for -1, no action
_ARROWS: dict[str, Any] = {
    "color": "white", "edgecolor": "black", "linewidth": 0.4, "pivot": "mid", "angles": "xy", "scale_units": "xy",
    "scale": 1.5, "units": "x", "width": 0.09, "headwidth": 4, "headlength": 4, "headaxislength": 4, "zorder": 2.5,
}  # fmt: skip


def color_of(label: str) -> str | None:
    """Return the colour of the algorithm named in a label, None if none is; of several, the last in `COLORS` counts."""
    found = [name for name in COLORS if name.lower() in label.lower()]
    return COLORS[found[-1]] if found else None


def shades(names: list[str]) -> list:
    """Return a colour for each name: its algorithm's, in shades from light to dark if several names share it."""
    from matplotlib.colors import to_rgb

    colors = [color_of(name) for name in names]
    found: list[Any] = []
    for i, color in enumerate(colors):
        alike = [k for k, other in enumerate(colors) if other == color]
        if color is None or len(alike) == 1:
            found.append(color)
            continue
        position = alike.index(i) / (len(alike) - 1)  # 0 is the lightest, 1 the darkest
        target, share = (1.0, 0.5 - position) if position < 0.5 else (0.0, 0.8 * (position - 0.5))
        found.append(tuple(part + share * (target - part) for part in to_rgb(color)))
    return found


@names_checked
def plot_result(
    total_rewards: Sequence, test_interval: int, legend: str | Sequence[str], optimum: float | None = None,
    title: str = "Learning curve", window: int | None = None,
) -> Figure:  # fmt: skip
    """Plot learning curves over episodes; return the figure.

    `total_rewards` is one curve (a number per test) with its name in `legend`, or a list of curves with a list of
    names. A curve may itself be a list of runs, shown as their median with a band from the lower to the upper quartile.
    A dashed line marks the `optimum`. Raises ValueError unless each curve has a name.

    `plot_result(agent.returns, 1, "SARSA", window=100)` plots the returns while learning of an agent with
    `keep_returns=True`, each point the mean of the last `window` episodes. Curves must have at least as many.
    """
    import matplotlib.pyplot as plt

    check_count("test_interval", test_interval)
    if total_rewards is None:
        raise ValueError("total_rewards must be curves, got None: are they returns of an agent without keep_returns?")
    if window is not None and check_count("window", window) and test_interval != 1:
        raise ValueError(f"test_interval must be 1 for returns, which are smoothed by a window, got {test_interval}")
    names = [legend] if isinstance(legend, str) else list(legend or ())
    curves = [total_rewards] if np.ndim(total_rewards[0] if len(total_rewards) else 0) == 0 else list(total_rewards)
    if len(names) != len(curves):
        raise ValueError(f"legend must have a name for each of {len(curves)} curves, got {names or legend!r}")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colors = shades(names)
    for i, (name, curve, color) in enumerate(zip(names, curves, colors, strict=True)):
        dashes = ("-", "--", ":", "-.")[[color_of(other) for other in names[:i]].count(color_of(name)) % 4]
        runs, first = np.atleast_2d(np.asarray(curve, float)), 1
        if window is not None:
            runs, first, name = _running_means(runs, window), window, f"{name}, mean of {window} episodes"
        episodes = test_interval * np.arange(first, first + runs.shape[1])
        axes.plot(episodes, np.median(runs, axis=0), dashes, color=color, label=name, linewidth=1.5)
        if len(runs) > 1:
            low, high = np.quantile(runs, (0.25, 0.75), axis=0)
            axes.fill_between(episodes, low, high, color=axes.lines[-1].get_color(), alpha=0.18, linewidth=0)
    if optimum is not None:
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"exact optimum {optimum:.1f}")
    shown = "mean discounted return, greedy policy" if window is None else "undiscounted return while learning"
    axes.set(title=title, xlabel="learning episodes", ylabel=shown)
    with_commas(axes.xaxis, axes.yaxis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # below, where no curve is
    drawn = [(line.get_label(), np.asarray(line.get_ydata())) for line in axes.lines[: len(names)]]
    ends = ", ".join(f"{label} {values[-1]:.0f}" for label, values in drawn if len(values))
    figure.set_label(f"{title}. {axes.get_ylabel()} over {axes.get_xlabel()}; at the end: {ends}")
    return figure


def with_commas(*axes: Axis) -> None:
    """Label the ticks of axes with commas between thousands."""
    for axis in axes:
        axis.set_major_formatter(lambda x, _: (f"{x:,.0f}" if x == round(x) else f"{x:g}").replace("-", "\u2212"))


def _running_means(runs: np.ndarray, window: int) -> np.ndarray:
    """Return the means of each `window` values in a row of each run; raise ValueError if a run is shorter."""
    if runs.shape[1] < window:
        raise ValueError(f"window must be at most the {runs.shape[1]} episodes of a curve, got {window}")
    return np.array([np.convolve(run, np.full(window, 1 / window), "valid") for run in runs])


def plot_grid(
    values: np.ndarray, actions: np.ndarray, letters: np.ndarray, title: str, path: Sequence[tuple[int, int]] = (),
    scale: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Plot a grid world as a heat map of `values` with an arrow for each action; return the figure.

    `values`, `actions` and `letters` have shape (rows, columns). Actions are numbered left, down, right, up; -1 has no
    arrow. Letters other than b"F" are shown. `path` is drawn as a line through cells (row, column). The colours span
    `scale`, (lowest, highest); None: from 0, or the lowest value if it is negative, to the highest, so that pictures of
    one lake are comparable. Grids of more than 4096 cells are shown without arrows and letters, at no more than 1000
    cells per side.
    """
    import matplotlib.pyplot as plt

    if scale is not None and not scale[0] < scale[1]:
        raise ValueError(f"scale must be (lowest, highest), got {scale!r}")
    rows, cols = letters.shape
    cell = min(0.45, 9 / max(rows, cols))
    figure, axes = plt.subplots(figsize=(max(4.0, cell * cols + 2), max(3.2, cell * rows + 1)), layout="constrained")
    least, most = scale or (min(0.0, np.nanmin(values)), None)
    image = draw_grid(axes, values, actions, letters, path, cell, vmin=least, vmax=most)
    beyond = {(True, False): "min", (False, True): "max", (True, True): "both"}
    outside = bool(np.nanmin(values) < least), most is not None and bool(np.nanmax(values) > most)
    bar = figure.colorbar(
        image, ax=axes, label="value: highest action value", shrink=0.8, extend=beyond.get(outside, "neither")
    )
    with_commas(bar.ax.yaxis)
    axes.set(title=title, xlabel="column", ylabel="row")
    axes.locator_params(integer=True)
    span = f"{np.nanmin(values):.0f} to {np.nanmax(values):.0f}"
    route = f", and the likeliest path, {len(path)} cells from {path[0]} to {path[-1]}" if len(path) else ""
    figure.set_label(f"{title}. A grid of {rows} x {cols} cells with values from {span}, the actions as arrows{route}")
    return figure


def draw_grid(
    axes: Axes, values: np.ndarray, actions: np.ndarray, letters: np.ndarray, path: Sequence[tuple[int, int]],
    cell: float, **scale: Any,
) -> AxesImage:  # fmt: skip
    """Draw a grid world on axes as `plot_grid` does, with cells `cell` inches wide; return the image.

    `scale` (vmin, vmax) is passed to imshow.
    """
    rows, cols = letters.shape
    thin = max(1, -(-max(rows, cols) // 1000))
    image = axes.imshow(values[::thin, ::thin], extent=(-0.5, cols - 0.5, rows - 0.5, -0.5), **scale)
    _draw_path(axes, path, cell)
    if letters.size <= 4096:
        _draw_arrows(axes, actions)
        _draw_letters(axes, letters, size=max(4.0, min(11.0, 40 * cell)))
    axes.set(facecolor="#333333")
    return image


def _draw_path(axes: Axes, path: Sequence[tuple[int, int]], cell: float) -> Line2D:
    """Draw a line through the centres of cells `cell` inches wide, below the arrows."""
    rows, cols = np.array(path, float).reshape(-1, 2).T
    return axes.plot(cols, rows, color=AGENT, linewidth=14 * cell, alpha=0.85, solid_joinstyle="round", zorder=1.5)[0]


def _draw_arrows(axes: Axes, actions: np.ndarray) -> None:
    """Draw an arrow in each cell that has an action."""
    row, col = np.nonzero(actions >= 0)
    dx, dy = _DIRECTIONS[actions[row, col]].T
    axes.quiver(col, row, dx, dy, **_ARROWS)


def _draw_letters(axes: Axes, letters: np.ndarray, size: float) -> None:
    """Draw the letters of all cells except frozen ones."""
    import matplotlib.patheffects as effects
    import matplotlib.pyplot as plt

    outline = [effects.withStroke(linewidth=2, foreground="black")]
    styles = {"H": ("white", "#333333"), "G": ("black", "#F0E442"), "S": ("white", "none")}  # (ink, background)
    for row, col in np.argwhere(letters != b"F"):
        letter = letters[row, col].decode()
        ink, ground = styles[letter]
        axes.add_patch(plt.Rectangle((col - 0.5, row - 0.5), 1, 1, facecolor=ground, zorder=2))
        if letter == "S":  # in a corner beside its arrow, and outlined to be readable on any value
            corner: dict[str, Any] = {"path_effects": outline, "fontweight": "bold"}
            axes.text(col - 0.3, row - 0.26, letter, color=ink, fontsize=size * 0.8, ha="center", va="center", **corner)
        else:
            axes.text(col, row, letter, color=ink, fontsize=size, ha="center", va="center")


def grid_pixels(letters: np.ndarray, at: tuple[int, int] | None) -> np.ndarray:
    """Draw a grid world as an image, uint8 (height, width, 3), with the agent `at` (row, column), or without it.

    A cell has 2 to 48 pixels per side, an even number because video codecs need one.
    """
    side = max(2, min(48, 768 // max(letters.shape) // 2 * 2))
    cells = np.zeros((*letters.shape, 3), np.uint8)
    for letter, color in CELLS.items():
        cells[letters == letter] = _rgb(color)
    pixels = cells.repeat(side, axis=0).repeat(side, axis=1)
    if side >= 8:
        pixels[::side] = pixels[:, ::side] = 255  # lines between cells
    if at is not None:
        y, x = np.ogrid[:side, :side]
        corner = pixels[at[0] * side :, at[1] * side :][:side, :side]
        corner[np.hypot(y - side / 2 + 0.5, x - side / 2 + 0.5) <= 0.36 * side] = _rgb(AGENT)
    return pixels


def _rgb(color: str) -> list[int]:
    """Convert a colour such as #00FF80 to [red, green, blue]."""
    return list(bytes.fromhex(color[1:]))


class Picture(NamedTuple):
    """One picture of a film: values, actions and path as in `plot_grid`, and a line of text to show below."""

    values: np.ndarray
    actions: np.ndarray
    path: list
    text: str


def film(letters: np.ndarray, panels: dict[str, list[Picture]], titles: list[str], seconds: float = 0.2) -> bytes:
    """Make an animated GIF of q_tables on a grid world, side by side; the same arguments give the same bytes.

    `panels` maps the name of a panel to its pictures, one for each of `titles`. Each picture is shown for `seconds`,
    the last one for two seconds more. Raises ValueError if the numbers of pictures differ.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    if not titles or any(len(pictures) != len(titles) for pictures in panels.values()):
        counts = {name: len(pictures) for name, pictures in panels.items()}
        raise ValueError(f"film needs one or more titles, {len(titles)} given, and a picture for each, got {counts}")
    scale = max(np.nanmax(picture.values) for pictures in panels.values() for picture in pictures)
    side = 3.0 / max(letters.shape)  # inches per cell
    size = (len(panels) * (side * letters.shape[1] + 0.3), side * letters.shape[0] + 0.9)
    figure, grid = plt.subplots(1, len(panels), figsize=size, dpi=100, squeeze=False)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.5 / size[1], top=1 - 0.6 / size[1], wspace=0.06)
    drawn = []
    for axes, (name, pictures) in zip(grid[0], panels.items(), strict=True):
        image = axes.imshow(pictures[0].values, vmin=0.0, vmax=max(scale, 1.0))
        row, col = np.nonzero(np.isin(letters, [b"S", b"F"]))
        arrows = axes.quiver(col, row, 0 * col, 0 * row, **_ARROWS)
        _draw_letters(axes, letters, size=max(4.0, min(11.0, 30 * side)))
        axes.set(xticks=[], yticks=[], facecolor="#333333")
        axes.set_title(name, fontsize=11, color=color_of(name) or "black", pad=4)
        drawn.append((image, arrows, _draw_path(axes, (), 0.8 * side), axes.set_xlabel("", fontsize=10), pictures))
    headline = figure.suptitle("", fontsize=11, y=1 - 0.08 / size[1])
    canvas: Any = figure.canvas  # an Agg canvas, which has pixels
    frames = []
    for i, title in enumerate(titles):
        headline.set_text(title)
        for image, arrows, line, label, pictures in drawn:
            image.set_data(pictures[i].values)
            arrows.set_UVC(*_DIRECTIONS[pictures[i].actions[np.isin(letters, [b"S", b"F"])]].T)
            rows, cols = np.array(pictures[i].path, float).reshape(-1, 2).T
            line.set_data(cols, rows)
            label.set_text(pictures[i].text)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    plt.close(figure)
    palette = frames[-1].quantize(96)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * seconds) + 2000]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


@names_checked
def plot_timing(run_time: dict, title: str = "Running time") -> Figure:
    """Plot running times as sorted bars on a log scale; return the figure.

    `run_time` maps a name to seconds, or to a list of repetitions, shown as a bar for the median and a line for the
    range. Raises TypeError unless it is a dict, and ValueError if it is empty or a time is not positive.
    """
    import matplotlib.pyplot as plt

    if not isinstance(run_time, dict):
        raise TypeError(f"run_time must map names to positive seconds, got {run_time!r}")
    times = {name: np.atleast_1d(np.asarray(seconds, float)) for name, seconds in run_time.items()}
    if not times or any(t.size == 0 or not (t > 0).all() for t in times.values()):
        raise ValueError(f"run_time must map names to positive seconds, got {run_time!r}")
    names = sorted(times, key=lambda name: -np.median(times[name]))
    medians = np.array([np.median(times[name]) for name in names])
    lows = np.array([times[name].min() for name in names])
    highs = np.array([times[name].max() for name in names])
    spread = np.array([medians - lows, highs - medians])
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(names)), layout="constrained")
    shade_of = dict(zip(run_time, shades(list(run_time)), strict=True))  # shaded in the order given, not sorted
    colors = [shade_of[name] or "#777777" for name in names]
    bars = axes.barh(names, medians, xerr=spread if spread.any() else None, color=colors)
    axes.bar_label(bars, [f"{m:.3g} s" for m in medians], padding=4, fontsize="small")
    axes.set(xscale="log", xlabel="seconds (log scale)", title=title)
    axes.set_xlim(right=medians.max() * 4)
    figure.set_label(f"{title}. {', '.join(f'{name} {m:.3g} s' for name, m in zip(names, medians, strict=True))}")
    return figure


@names_checked
def save_figure(figure: Figure, path: AnyPath) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


class Film:
    """An animated GIF with alternative text; in a notebook it can be paused and dragged."""

    def __init__(self, gif: bytes, alt: str):
        self.gif, self.alt = gif, alt

    def save(self, path: AnyPath) -> None:
        """Write the GIF, atomically."""
        with atomic_write(path) as file:
            file.write(self.gif)

    def _repr_html_(self) -> str:
        return player(self.gif, self.alt)

    def __repr__(self) -> str:
        return self.alt


@names_checked
def show(figure: Figure, alt: str | None = None) -> None:
    """Show a figure in a notebook, as a compact PNG, and close it; `alt` is its alternative text (None: its label)."""
    import matplotlib.pyplot as plt
    from IPython.display import Image, display
    from PIL import Image as Pillow

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=144)
    plt.close(figure)
    picture = Pillow.open(file).convert("RGB").quantize(200, Pillow.Quantize.MAXCOVERAGE, dither=Pillow.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    width, height = (round(side / 1.6) for side in picture.size)  # more pixels than points, for high-density screens
    alt = alt or str(figure.get_label()) or ". ".join(axes.get_title() for axes in figure.axes)
    display(Image(small.getvalue(), format="png", width=width, height=height, alt=alt))


class Listing:
    """Source code for display: highlighted in JupyterLab and in exported HTML, plain elsewhere."""

    def __init__(self, code: str):
        self.code = code

    def _repr_html_(self) -> str:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer

        box = "background: #f7f7f7; color: #1f1f1f; padding: 2px 10px; overflow-x: auto"
        pre = "white-space: pre; font: 13px/135% monospace; margin: 6px 0; background: none"
        return highlight(self.code, PythonLexer(), HtmlFormatter(noclasses=True, cssstyles=box, prestyles=pre))

    def __repr__(self) -> str:
        return self.code


def show_source(*things: Any) -> Listing:
    """Return the source of functions, methods or classes as a listing, without indentation."""
    import inspect
    import textwrap

    sources = (inspect.getsource(_plain(thing)) for thing in things)
    return Listing("\n\n\n".join(textwrap.dedent(source).rstrip() for source in sources))


def _plain(thing: Any) -> Any:
    """Return the object whose source to show: a rule's update, a compiled function's plain form."""
    thing = getattr(thing, "update", thing)
    return getattr(thing, "py_func", thing)
