"""Pictures: plots take data and return the figure; they never train. And the source of code, for a notebook to show."""

from __future__ import annotations

import numpy as np

from .checks import check_count, written_whole

# matplotlib is imported where it is used: workers never need it.

COLORS = {"Q-learning": "#0072B2", "SARSA": "#D55E00", "Distributed": "#009E73", "Federated": "#CC79A7"}


def color_of(label: str) -> str | None:
    """The colour of an algorithm (Okabe and Ito's, told apart by all), by the last of its names in a label."""
    found = [name for name in COLORS if name.lower() in label.lower()]
    return COLORS[found[-1]] if found else None


def plot_result(total_rewards, test_interval: int, legend, optimum: float | None = None, title: str = "Learning curve"):
    """Learning curves over episodes: the figure.

    `total_rewards` is one curve (a number a test) with its name in `legend`, or a list of curves with a list of names.
    A dashed line marks the `optimum`. Raises ValueError where names are missing.
    """
    import matplotlib.pyplot as plt

    check_count("test_interval", test_interval)
    names = [legend] if isinstance(legend, str) else list(legend or ())
    curves = [total_rewards] if np.ndim(total_rewards[0] if len(total_rewards) else 0) == 0 else list(total_rewards)
    if len(names) != len(curves):
        raise ValueError(f"legend must have a name for each of {len(curves)} curves, got {names or legend!r}")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    drawn = {}  # how many curves have a colour: those of one algorithm differ by their dashes
    for name, curve in zip(names, curves, strict=True):
        color = color_of(name)
        dashes = ("-", "--", ":", "-.")[drawn.get(color, 0) % 4]
        drawn[color] = drawn.get(color, 0) + 1
        axes.plot(test_interval * np.arange(1, len(curve) + 1), curve, dashes, color=color, label=name, linewidth=1.5)
    if optimum is not None:
        axes.axhline(optimum, color="black", linestyle=(0, (6, 3)), linewidth=1, label=f"exact optimum {optimum:.1f}")
    axes.set(title=title, xlabel="learning episodes", ylabel="mean discounted return, greedy policy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # curves leave no room
    return figure


def plot_grid(values: np.ndarray, actions: np.ndarray, letters: np.ndarray, title: str):
    """A grid world as a heat map of `values`, with an arrow for each action of `actions`: the figure.

    All three have the shape (rows, columns). Actions are numbered left, down, right, up; -1 draws no arrow. Cells whose
    `letters` are not b"F" show them. Grids beyond 4096 cells are shown without arrows and letters, and thinned out to
    1000 cells a side.
    """
    import matplotlib.pyplot as plt

    rows, cols = letters.shape
    cell = min(0.45, 9 / max(rows, cols))
    figure, axes = plt.subplots(figsize=(max(4.0, cell * cols + 2), max(3.2, cell * rows + 1)), layout="constrained")
    thin = max(1, -(-max(rows, cols) // 1000))
    least = min(0.0, np.nanmin(values))  # 0 is in the scale, so that pictures of one lake can be compared
    image = axes.imshow(values[::thin, ::thin], vmin=least, extent=(-0.5, cols - 0.5, rows - 0.5, -0.5))
    figure.colorbar(image, ax=axes, label="value: highest action value", shrink=0.8)
    if letters.size <= 4096:
        _draw_arrows(axes, actions)
        _draw_letters(axes, letters, size=max(4.0, min(11.0, 40 * cell)))
    axes.set(title=title, xlabel="column", ylabel="row", facecolor="#333333")
    return figure


def _draw_arrows(axes, actions: np.ndarray) -> None:
    """An arrow in the middle of each cell that has an action."""
    directions = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
    row, col = np.nonzero(actions >= 0)
    dx, dy = directions[actions[row, col]].T
    axes.quiver(
        col,
        row,
        dx,
        dy,
        color="white",
        edgecolor="black",
        linewidth=0.4,
        pivot="mid",
        angles="xy",
        scale_units="xy",
        scale=1.5,
        units="x",
        width=0.09,
        headwidth=4,
        headlength=4,
        headaxislength=4,
    )


def _draw_letters(axes, letters: np.ndarray, size: float) -> None:
    """The letters of all cells that are not frozen."""
    import matplotlib.pyplot as plt

    styles = {"H": ("white", "#333333"), "G": ("black", "#F0E442"), "S": ("white", "none")}  # ink and ground
    for row, col in np.argwhere(letters != b"F"):
        letter = letters[row, col].decode()
        ink, ground = styles[letter]
        axes.add_patch(plt.Rectangle((col - 0.5, row - 0.5), 1, 1, facecolor=ground))
        if letter == "S":  # leaves room for its arrow
            axes.text(col - 0.32, row - 0.28, letter, color=ink, fontsize=size * 0.8, ha="center", va="center")
        else:
            axes.text(col, row, letter, color=ink, fontsize=size, ha="center", va="center")


def plot_timing(run_time: dict, title: str = "Running time"):
    """Running times as sorted bars on a log scale: the figure.

    `run_time` maps a name to seconds, or to a list of repetitions: then the bar is the median, the
    line the range. Raises ValueError where there is none, or one is not positive.
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
    colors = [color_of(name) or "#777777" for name in names]
    bars = axes.barh(names, medians, xerr=spread if spread.any() else None, color=colors)
    axes.bar_label(bars, [f"{m:.3g} s" for m in medians], padding=4, fontsize="small")
    axes.set(xscale="log", xlabel="seconds (log scale)", title=title)
    axes.set_xlim(right=medians.max() * 4)
    return figure


def save_figure(figure, path) -> None:
    """Write a figure as PNG, the same bytes every time: whole or not at all."""
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def show_source(*things):
    """The source of functions or classes, to be shown by a notebook."""
    import inspect

    from IPython.display import Markdown

    sources = (inspect.getsource(getattr(thing, "py_func", thing)).rstrip() for thing in things)
    return Markdown("```python\n" + "\n\n\n".join(sources) + "\n```")
