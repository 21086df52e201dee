"""The picture of a trace: a lane for each process, in which one sees what it does, and for whom it waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .checks import check_number
from .trace import LOST, WAITS, WORKS, Lane, Phase, Span, check_spans, names_of, phases, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADES = {"server": "#444444", "collector": "#56B4E9", "evaluator": "#F0E442"}  # no algorithm has these
ARROWS, MISSING = "#8C510A", "#B00000"
MOST_LANES = 24
MOST_ARROWS = 160  # more could not be followed


def plot_timeline(
    spans: Sequence[Span], title: str = "Who waits for whom", seconds: tuple[float, float] | None = None
) -> Figure:
    """Plot the trace of a distributed run, such as `agent.trace`; return the figure.

    Each process has a lane. A tall bar is a call, in the colour of its role; a flat one in the colour of another role
    means that the process waits for that role; a gap, that it has no call, or is being handed one; hatching, that a
    call was lost. Arrows lead from the end of each call to the calls that waited for its result, unless there are more
    than 160. Beside each lane is what the process did, in per cent of the time. `seconds` is the part of the run to
    plot, (start, end); None plots all of it. At most 24 lanes are drawn.

    Raises TypeError or ValueError if `spans` is not a trace or is empty, or if `seconds` is no part of it. Warns if
    some processes ran on other machines.
    """
    import matplotlib.pyplot as plt

    spans = check_spans(spans)
    doing = phases(spans)
    start, end = _window(seconds, max((parts[-1].end for parts in doing.values() if parts), default=0.0))
    all_names = names_of(spans)
    lanes, left_out = list(all_names)[:MOST_LANES], max(0, len(all_names) - MOST_LANES)
    names = [all_names[lane] for lane in lanes]
    rows = {lane: row for row, lane in enumerate(lanes)}
    figure, axes = plt.subplots(figsize=(9, 1.7 + 0.32 * len(lanes)), layout="constrained")
    unit, factor = ("ms", 1e3) if end - start < 1 else ("s", 1.0)
    for lane, row in rows.items():
        _draw_lane(axes, row, lane[0], [part for part in doing[lane] if part.end > start and part.start < end], factor)
    _draw_arrows(axes, spans, rows, start, end, factor)
    took = shares(spans, start, end)
    summaries = [_summary(took[lane]) for lane in lanes]
    axes.set_yticks(range(len(lanes)), names)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(range(len(lanes)), summaries, fontsize="small")
    beside.tick_params(length=0)
    more = f" ({left_out} more processes are not drawn)" if left_out else ""
    axes.set(
        title=title + more, xlabel=f"{unit} since the processes were ready", xlim=(start * factor, end * factor),
        ylim=(len(lanes) - 0.5, -0.5),
    )  # fmt: skip
    _draw_legend(figure, {lane[0] for lane in lanes}, any(LOST in took[lane] for lane in lanes))
    said = "; ".join(f"{name} {summary}" for name, summary in zip(names, summaries, strict=True))
    figure.set_label(f"{title}{more}. A lane for each process, over {(end - start) * factor:.3g} {unit}: {said}")
    return figure


def _window(seconds: Any, last: float) -> tuple[float, float]:
    """Return the part of a trace to plot; raise TypeError or ValueError unless it is one."""
    if seconds is None:
        return 0.0, max(last, 1e-9)
    try:
        start, end = (check_number("seconds", moment, 0.0, float("inf")) for moment in seconds)
    except (TypeError, ValueError):
        raise TypeError(f"seconds must be (start, end), two numbers from 0, got {seconds!r}") from None
    if not start < min(end, last):
        raise ValueError(f"seconds must be (start, end) with start < end, start before {last:.3g}, got {seconds!r}")
    return start, min(end, last)


def _draw_lane(axes: Axes, row: int, role: str, parts: list[Phase], factor: float) -> None:
    """Draw what a process does: bars for calls, lines where it waits, hatching where a call was lost."""

    def bars(chosen: list[Phase], height: float, **style: Any) -> None:
        ranges = [(part.start * factor, (part.end - part.start) * factor) for part in chosen]
        if ranges:
            axes.broken_barh(ranges, (row - height / 2, height), **style)

    axes.axhline(row, color="#DDDDDD", linewidth=0.5, zorder=0)
    works = [part for part in parts if part.what == WORKS]
    bars(works, 0.7, color=_shade(role), linewidth=0.4)  # with an edge of the same colour, or a short one is not seen
    bars([part for part in parts if part.what == LOST], 0.7, facecolor="none", edgecolor=MISSING, hatch="////")
    for whom in {part.whom[0] for part in parts if part.whom is not None}:
        waits = [part for part in parts if part.what == WAITS and part.whom is not None and part.whom[0] == whom]
        bars(waits, 0.16, color=_shade(whom), linewidth=0)


def _shade(role: str) -> str:
    return SHADES.get(role, "#999999")


def _draw_arrows(axes: Axes, spans: list[Span], rows: dict[Lane, int], start: float, end: float, factor: float) -> None:
    """Draw an arrow from each call to those that waited for it, if there are few enough in this part of the trace."""
    arrows = []
    for span in spans:
        for needed in (spans[i] for i in span.waited_for):
            lanes = (needed.role, needed.i), (span.role, span.i)
            if needed.ended is None or span.began is None or not all(lane in rows for lane in lanes):
                continue
            if start <= needed.ended and span.began <= end:
                arrows.append(((needed.ended * factor, rows[lanes[0]]), (span.began * factor, rows[lanes[1]])))
    if len(arrows) <= MOST_ARROWS:
        for tail, head in arrows:
            style = {"arrowstyle": "-|>", "color": ARROWS, "linewidth": 0.7, "mutation_scale": 6, "shrinkA": 0}
            axes.annotate("", head, tail, annotation_clip=True, arrowprops=style | {"shrinkB": 0}, zorder=3)


def _summary(took: dict[str, float]) -> str:
    """Return the shares of a process's time in a few words, with processes of a role that it waits for taken together.

    What is less than a per cent is left out.
    """
    roles: dict[str, float] = {}
    for name, share in took.items():
        words = name.rpartition(" ")[0] if name.startswith(WAITS) else name
        roles[words] = roles.get(words, 0.0) + share
    shown = sorted(roles.items(), key=lambda item: (item[0] != WORKS, -item[1]))
    return ", ".join(f"{name} {share:.0%}" for name, share in shown if share >= 0.01)


def _draw_legend(figure: Figure, roles: set[str], lost: bool) -> None:
    """Draw a legend of the colours below the lanes."""
    from matplotlib.patches import Patch

    entries = [Patch(color=shade, label=role) for role, shade in SHADES.items() if role in roles]
    if lost:
        entries.append(Patch(facecolor="none", edgecolor=MISSING, hatch="////", label="lost"))
    figure.legend(
        handles=entries, title="a tall bar works, a flat one waits for", loc="outside lower center", ncols=4,
        fontsize="small", title_fontsize="small",
    )  # fmt: skip
