"""Drag and watch: Q-learning and SARSA learned anew whenever a slider moves or a cell of the map is clicked."""

from __future__ import annotations

import base64
import functools
import html
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from .arguments import names_checked
from .comparison import MOST_CELLS, MOST_SLIP, Comparison, Settings, compare
from .grids import MAPS
from .lake import as_lake
from .newest import Newest
from .panels import Frame, description, frame_of, picture
from .pixels import png
from .stopping import stopped_when

# ipywidgets and IPython are imported where they are used: nothing else here needs them.

MOST_CLICKABLE = 256  # cells; each is a button of its own
LARGEST_SMALL = 64  # cells; on larger maps more episodes are suggested
OWN_MAP = "a map of your own"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
STYLE = """<style>
.td-explore-cell:hover { outline: 2px solid #202020; box-shadow: none; }
.td-explore textarea { font-family: monospace; white-space: pre; overflow: auto; }
.td-explore-problem { color: #B2182B; line-height: 1.4; margin: 0 !important; }
.td-explore-words { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.jp-OutputArea-child:has(+ .jp-OutputArea-child .td-explore) { display: none; }
</style>"""  # the last line hides the static picture, which is shown before the widget, as long as the widget lives


@names_checked
def explore(
    lake: Any = "Dangerous Hallway", epsilon: float = 0.3, learning_rate: float = 0.001, slip: float | None = None,
    episodes: int | None = None, seeds: int = 1, seed: int = 0,
) -> Explorer:  # fmt: skip
    """Show Q-learning and SARSA side by side in a notebook, with sliders and a map to edit; return the display.

    Both learn from zeros whenever a setting changes, and are measured by exact values. The same settings give the same
    picture. Raises TypeError or ValueError for bad arguments.

    Arguments:
        lake: a FrozenLakeEnv, a name of `MAPS` or a map, of at most 64 x 64 cells
        epsilon: the probability of exploring, which is a random action
        learning_rate: how far an update moves a value towards its target, from 0 to 1
        slip: the probability that a move goes in one of the three other directions; None: the lake's own
        episodes: how many episodes each learns; None: 30,000, or 100,000 on maps of more than 64 cells, also after a
            change of map
        seeds: how many times each learns, with the seeds `seed`, `seed` + 1, ...
        seed: the first seed
    """
    lake = as_lake(lake)
    right, *others = lake.transition_prob
    if slip is None and not np.allclose(others, others[0]):
        raise ValueError(f"lake must slip in all directions alike, or slip be given, got {lake.transition_prob}")
    slip = round(1.0 - right, 12) if slip is None else slip
    rows = tuple(b"".join(row).decode() for row in lake.desc)
    count = suggested(rows) if episodes is None else episodes
    settings = Settings(rows, epsilon, learning_rate, slip, count, seeds, seed).checked()
    return Explorer(settings, follow_map=episodes is None)


def suggested(rows: tuple[str, ...]) -> int:
    """Suggest how many episodes to learn on a map, as the assignment does for the hallway and for 16x16."""
    return 30_000 if len(rows) * len(rows[0]) <= LARGEST_SMALL else 100_000


class Explorer:
    """What `explore` shows. Attributes: `comparison`, the latest, and `widget`, an ipywidgets box."""

    def __init__(self, settings: Settings, follow_map: bool = False):
        self._suggested = settings.episodes if follow_map else None  # followed until another number is chosen
        *_, self.comparison = compare(settings)
        self._newest = Newest(self._learn)
        self._first = settings
        self._build()
        self._show(self.comparison)

    def __repr__(self) -> str:
        return description(self.comparison)

    def _ipython_display_(self) -> None:
        """Show a picture, which a saved notebook keeps, and after it the widget, which hides the picture."""
        from IPython.display import display

        words = repr(self)
        still = {"image/png": base64.b64encode(self._image.value).decode(), "text/plain": words}
        display(still, raw=True, metadata={"image/png": {"alt": words.replace("\n", ". ")}})
        display({WIDGET_VIEW: self.widget._repr_mimebundle_()[WIDGET_VIEW]}, raw=True)

    @property
    def settings(self) -> Settings:
        """The settings as the controls stand, unchecked."""
        numbers = {name: control.value for name, control in self._controls.items()}
        return self._first._replace(rows=rows_of(self._map.value), **numbers)

    def settle(self) -> None:
        """Wait until the picture shows the settings."""
        self._newest.settle()

    # Widgets ----------------------------------------------------------------------------

    def _build(self) -> None:
        """Make the widget: controls, and below them the picture under a grid of transparent buttons."""
        import ipywidgets as widgets

        self._controls = _controls(self._first)
        self._map = widgets.Textarea("\n".join(self._first.rows), layout={"width": "auto", "height": "200px"})
        self._map.tooltip = "the map, row by row: S start, F ice, H hole, G goal"
        self._name = widgets.Dropdown(options=[*MAPS, OWN_MAP], layout={"width": "auto"})
        letters = [("hole", "H"), ("ice", "F"), ("start", "S"), ("goal", "G")]
        self._brush = widgets.ToggleButtons(options=letters, style={"button_width": "60px"})
        self._message, self._words = widgets.HTML(), widgets.HTML()
        self._image = widgets.Image(format="png", layout={"margin": "0", "max_width": "none", "grid_area": "1 / 1"})
        self._stage = widgets.GridBox([self._image], layout={"overflow": "auto"})
        self._shape = (0, 0)  # of the map that the buttons are for
        brush = widgets.HBox([widgets.Label("A click makes", layout={"width": "90px"}), self._brush])
        sliders = widgets.VBox([*self._controls.values(), brush, self._message], layout={"width": "490px"})
        map_box = widgets.VBox([self._name, self._map], layout={"flex": "1 1 170px", "max_width": "290px"})
        controls = widgets.HBox([sliders, map_box], layout={"flex_flow": "row wrap"})
        self.widget = widgets.VBox([widgets.HTML(STYLE), controls, self._stage, self._words])
        self.widget.add_class("td-explore")
        self._name_map()
        self._name.observe(self._choose_map, "value")
        for control in (*self._controls.values(), self._map):
            control.observe(self._move, "value")

    def _move(self, _: Any) -> None:
        """A control was moved: ask for its picture, or say what is wrong with the map."""
        self._name_map()
        try:
            check_size(self.settings.rows)
            settings = self.settings.checked()
        except (TypeError, ValueError) as error:
            problem = textwrap.shorten(str(error).replace("desc", "the map", 1), 120)
            self._message.value = f'<p class="td-explore-problem" role="alert">{html.escape(problem)}</p>'
            return
        self._message.value = ""
        if settings.episodes == self._suggested != suggested(settings.rows):
            self._suggested = suggested(settings.rows)
            self._controls["episodes"].value = self._suggested  # which calls this method again
            return
        self._newest.put(settings)

    def _name_map(self) -> None:
        """Show the name of the map, if it has one."""
        self._name.value = next((name for name in MAPS if self.settings.rows == tuple(MAPS[name])), OWN_MAP)

    def _choose_map(self, change: Any) -> None:
        """Take over the map that was chosen by its name."""
        if change.new != OWN_MAP:
            self._map.value = "\n".join(MAPS[change.new])

    def _click(self, row: int, col: int, _: Any) -> None:
        """Put the chosen letter into a cell; a hole that is clicked again becomes ice, S and G move."""
        rows = self.settings.rows
        if [*map(len, rows)] != self._shape[0] * [self._shape[1]]:
            return  # the text has become another map, whose picture is yet to come
        self._map.value = "\n".join(with_letter(rows, row, col, self._brush.value))

    # Learning and drawing, in the thread of `Newest` -----------------------------------------------

    def _learn(self, settings: Settings) -> None:
        """Learn and show pictures until the last, or until a newer request has come after the first."""
        shown = False
        with stopped_when(lambda: shown and self._newest.overtaken()):
            for comparison in compare(settings):
                self._show(comparison)
                shown = True

    def _show(self, comparison: Comparison) -> None:
        """Show a comparison."""
        pixels = picture(comparison)
        shape = comparison.settings.lake().desc.shape
        if shape != self._shape:
            self._lay_buttons(*shape)
        self._image.value = png(pixels)
        self.comparison = comparison
        self._words.value = f'<p class="td-explore-words">{html.escape(repr(self))}</p>'

    def _lay_buttons(self, rows: int, cols: int) -> None:
        """Size the stage for a map, and lay a button over each cell of both panels."""
        frame = frame_of(rows, cols)
        self._image.layout.width, self._image.layout.height = f"{frame.width}px", f"{frame.height}px"
        old = self._stage.children[1:]
        lefts = frame.lefts if rows * cols <= MOST_CLICKABLE else ()
        self._stage.children = (self._image, *(_buttons(rows, cols, frame, left, self._click) for left in lefts))
        self._shape = rows, cols
        for grid in old:
            for button in grid.children:
                button.close()
            grid.close()


def _buttons(rows: int, cols: int, frame: Frame, left: int, click: Callable) -> Any:
    """Make a grid of transparent buttons that lies over a panel; each calls `click(row, column, button)`."""
    import ipywidgets as widgets

    flat = widgets.Layout(width="auto", height="auto", min_width="0", padding="0", margin="0", border="none")
    clear = widgets.ButtonStyle(button_color="transparent")
    buttons = []
    for row, col in np.ndindex(rows, cols):  # not reached by the tabulator: whoever uses no mouse edits the text
        button = widgets.Button(layout=flat, style=clear, tooltip=f"row {row}, column {col}", tabbable=False)
        button.add_class("td-explore-cell")
        button.on_click(functools.partial(click, row, col))
        buttons.append(button)
    place = {
        "grid_area": "1 / 1", "margin": f"{frame.top}px 0 0 {left}px", "overflow": "visible",
        "width": f"{cols * frame.side}px", "grid_template_columns": f"repeat({cols}, {frame.side}px)",
        "grid_template_rows": f"repeat({rows}, {frame.side}px)",
    }  # fmt: skip
    return widgets.GridBox(buttons, layout=place)


def _controls(given: Settings) -> dict[str, Any]:
    """Make a slider for each number of the settings."""
    import ipywidgets as widgets

    plain = {"style": {"description_width": "90px"}, "layout": {"width": "480px"}}

    def linear(name: str, most: float) -> Any:
        value = getattr(given, name)
        return widgets.FloatSlider(value, min=0.0, max=most, step=0.01, description=name, **plain)

    def stepped(name: str, low: float, high: float) -> Any:
        value = getattr(given, name)
        options = [(f"{step:,}", step) for step in round_numbers(low, high, value)]
        return widgets.SelectionSlider(options=options, value=value, description=name.replace("_", " "), **plain)

    return {
        "epsilon": linear("epsilon", 1.0),
        "learning_rate": stepped("learning_rate", 0.0001, 1.0),
        "slip": linear("slip", MOST_SLIP),
        "episodes": stepped("episodes", 100, 100_000),
        "seeds": stepped("seeds", 1, 50),
    }


def rows_of(text: str) -> tuple[str, ...]:
    """Read the rows of a map, one a line, in small or capital letters; blanks and empty lines do not count."""
    return tuple(row for line in text.upper().splitlines() if (row := "".join(line.split())))


def check_size(rows: tuple[str, ...]) -> None:
    """Raise ValueError unless a map, which may still be ragged, has one or more rows and is not too large."""
    if not rows:
        raise ValueError("the map must have rows of the letters S, F, H and G, got none")
    if max(len(rows), longest := max(map(len, rows))) > MOST_CELLS:
        raise ValueError(f"the map must have at most {MOST_CELLS} rows and columns, got {len(rows)} and {longest}")


def round_numbers(low: float, high: float, given: float) -> list[float]:
    """List 1, 2, 3 and 5 times the powers of ten from low to high, and a given number among them."""
    found = {given}
    for power in range(-4, 6):
        for digit in (1, 2, 3, 5):
            number = digit * 10**power if power >= 0 else digit / 10**-power
            if low <= number <= high:
                found.add(number)
    return sorted(found)


def with_letter(rows: tuple[str, ...], row: int, col: int, letter: str) -> list[str]:
    """Return a map with a letter in a cell: S and G leave their old cells, and H on a hole makes it ice."""
    if letter == "H" and rows[row][col] == "H":
        letter = "F"
    changed = [line.replace(letter, "F") if letter in "SG" else line for line in rows]
    changed[row] = changed[row][:col] + letter + changed[row][col + 1 :]
    return changed
