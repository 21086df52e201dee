"""Drag and watch: the comparison that is learned, its picture, the newest request only, and the widget around them."""

import base64
import io
import threading

import nbformat
import numpy as np
import pytest
import run_notebook
from PIL import Image

import td_helpers as td
from tabular.comparison import FIRST_STEPS, Settings, compare, routes
from tabular.explore import MOST_CLICKABLE, WIDGET_VIEW, round_numbers, suggested, with_letter
from tabular.newest import Newest
from tabular.panels import GOAL, HOLE, ROUTES, UNTRIED, ZERO, cell_letters, description, frame_of, picture, scaled
from tabular.pixels import centre_and_edges, draw_arrows, draw_frames, draw_path, png, rgb, shaded, tiled, written

HALLWAY = Settings(tuple(td.MAPS["Dangerous Hallway"]), 0.3, 0.001, 0.03, 30_000, 1, 0)
LONG = Settings(tuple(td.MAPS["16x16"]), 0.3, 0.001, 0.03, 30_000, 1, 0)
SMALL = Settings(("SFF", "FHF", "FFG"), 0.2, 0.1, 0.1, 500, 1, 0)


def final(settings):
    *_, comparison = compare(settings)
    return comparison


# What is learned


@pytest.mark.parametrize(
    "settings", [HALLWAY._replace(episodes=2_500, slip=0.2), SMALL._replace(seed=7)], ids=["a", "b"]
)
def test_both_learn_what_agents_with_these_settings_learn(settings):
    comparison = final(settings)
    for kind, name in ((td.QLAgent, "Q-learning"), (td.SARSAAgent, "SARSA")):
        lake = td.FrozenLakeEnv(list(settings.rows), transition_prob=(1 - settings.slip, *[settings.slip / 3] * 3))
        agent = kind(lake, settings.epsilon, settings.learning_rate, seed=settings.seed)
        agent.learn(settings.episodes)
        result = comparison.results[name]
        assert np.array_equal(result.tables[0], agent.q_table)
        assert result.greedy == [td.policy_value(lake.table, agent.q_table)[0]]
        assert result.exploring == [td.policy_value(lake.table, agent.q_table, epsilon=settings.epsilon)[0]]
        assert comparison.best == td.value_iteration(lake.table)[0].max()
        soft = td.value_iteration(lake.table, epsilon=settings.epsilon)
        assert comparison.best_exploring == td.policy_value(lake.table, soft, epsilon=settings.epsilon)[0]
        assert result.paths == [[divmod(state, lake.ncol) for state in td.greedy_path(agent.q_table, lake)]]


def test_each_seed_is_a_run_of_its_own():
    both, second = final(SMALL._replace(seeds=2)), final(SMALL._replace(seed=1))
    for name, result in both.results.items():
        assert np.array_equal(result.tables[1], second.results[name].tables[0])
        assert (
            not np.array_equal(result.tables[0], result.tables[1]) and result.greedy[1:] == second.results[name].greedy
        )


@pytest.mark.parametrize("settings", [LONG, LONG._replace(seeds=4, learning_rate=0.1)], ids=["one seed", "seeds"])
def test_long_learning_shows_part_of_itself_first_and_always_the_same_part(settings):
    first, *_, last = compare(settings)
    again, *_ = compare(settings)
    assert not first.complete and last.complete and repr(first) == repr(again)
    for name, result in first.results.items():
        fewer = settings._replace(episodes=first.episodes, seeds=len(result.tables))
        assert np.array_equal(result.tables, final(fewer).results[name].tables)
        assert np.array_equal(result.tables[0], last.results[name].tables[0]) == (first.episodes == settings.episodes)


def test_the_hallway_is_complete_in_its_first_picture():
    (comparison,) = compare(HALLWAY)
    assert comparison.complete
    parameters = td.QLAgent(td.FrozenLakeEnv(map_name="Dangerous Hallway"))
    parameters.learn(30_000)
    assert 2 * parameters.steps < FIRST_STEPS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epsilon", 1.5, "epsilon must be a number from 0 to 1, got 1.5"),
        ("learning_rate", "fast", "learning_rate must be a number from 0 to 1, got 'fast'"),
        ("slip", 0.8, "slip must be a number from 0 to 0.75, got 0.8"),
        ("episodes", 0, "episodes must be a whole number from 1 to 1000000, got 0"),
        ("seeds", 101, "seeds must be a whole number from 1 to 100, got 101"),
        ("seed", -1, "seed must be a whole number"),
        ("lake", ["SFG", "F"], "rows of one length"),
        ("lake", ["S" + "F" * 63 + "G"], r"at most 64 rows and columns to be explored, got \(1, 65\)"),
        ("lake", "9x9", "map_name must be one of"),
        ("lake", td.FrozenLakeEnv(transition_prob=(0.5, 0.5, 0, 0)), "slip in all directions alike, or slip be given"),
    ],
)
def test_bad_arguments_are_refused(field, value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        td.explore(**{field: value})


# Routes


def test_paths_that_pass_all_holes_on_the_same_sides_are_one_route():
    letters = np.array([list(row) for row in ("SFFF", "FHFF", "FFFG")], "S1")
    above = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    also_above = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 3)]
    below = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]
    lost = [(0, 0), (0, 1)]
    found = routes([below, above, lost, also_above], letters)
    assert [(route.runs, route.arrives) for route in found] == [([1, 3], True), ([0], True), ([2], False)]


def test_paths_to_different_goals_are_different_routes():
    letters = np.array([list(row) for row in ("SFG", "FFF", "GFF")], "S1")
    assert len(routes([[(0, 0), (0, 1), (0, 2)], [(0, 0), (1, 0), (2, 0)]], letters)) == 2


def test_holes_that_touch_the_wall_divide_no_routes():
    letters = np.array([list(row) for row in ("SFH", "FFF", "HFG")], "S1")
    right, down = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)], [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)]
    assert [route.runs for route in routes([right, down], letters)] == [[0, 1]]


# Pixels


def test_a_cell_has_its_own_colour_within_and_four_at_its_edges():
    cells = np.arange(5 * 3, dtype=np.uint8).reshape(1, 1, 5, 3)
    pixels = tiled(cells, centre_and_edges(10, 0.2))
    assert pixels.shape == (10, 10, 3)
    for (y, x), part in {(5, 0): 0, (9, 5): 1, (5, 9): 2, (0, 5): 3, (5, 5): 4}.items():
        assert pixels[y, x].tolist() == cells[0, 0, part].tolist()


def test_the_scale_runs_from_dark_to_bright_as_in_figures_and_shows_the_danger_of_the_hallway():
    values = np.array([-5000.0, -1000.0, -100.0, 0.0, 500.0, 877.0, 960.0, 1000.0])
    shares = scaled(values)
    assert shares[[0, 1, 3, 7]].tolist() == [0.0, 0.0, ZERO, 1.0] and (np.diff(shares[1:]) > 0.02).all()
    brightness = shaded(shares[1:]) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness) > 5).all() and brightness[0] < 30 and brightness[-1] > 200
    drawn = td.plot_image(np.zeros((17, 4)), "4x4").axes[0].images[0].cmap(np.arange(256), bytes=True)
    assert np.array_equal(drawn[:, :3], shaded(np.arange(256) / 255))


def test_moving_into_a_hole_of_the_hallway_is_seen_in_the_picture():
    comparison = final(HALLWAY)
    pixels, frame = picture(comparison), frame_of(8, 8)
    left, middle = (np.array(centre(pixels, frame, 0, 3, 1, (0.25, x))) for x in (0.05, 0.25))
    assert left @ [1, 1, 1] < middle @ [1, 1, 1] - 100 and np.abs(left - rgb(HOLE)).max() > 50


@pytest.mark.parametrize("side", [20, 40])
@pytest.mark.parametrize("action", range(-1, 4))
def test_the_start_is_marked_by_the_same_letter_whatever_lies_below_it(side, action):
    """No arrow or path shines through, and a small letter is of two colours alone."""
    letters = np.array([list("SF"), list("FG")], "S1")
    marks = []
    for ground in ((250, 230, 30), (70, 0, 80)):
        pixels = np.full((2 * side, 2 * side, 3), ground, np.uint8)
        draw_path(pixels, (2, 2), [(0, 0), (0, 1)], 0.3, ROUTES[0])
        draw_arrows(pixels, np.array([[action, -1], [-1, -1]]))
        marks.append(written(pixels, cell_letters(letters, side))[: side // 3, : side // 4])
    assert np.array_equal(*marks) and {0x20, 0xFF} <= set(marks[0].ravel().tolist())
    assert side > 20 or set(marks[0].ravel().tolist()) == {0x20, 0xFF}


@pytest.mark.parametrize("side", [8, 20, 40])
def test_a_frame_is_a_line_along_all_sides_of_a_cell(side):
    pixels = np.zeros((2 * side, 2 * side, 3), np.uint8)
    draw_frames(pixels, np.array([[False, True], [False, False]]), "#FFFFFF")
    cell = pixels[:side, side:, 0]
    width = max(1, side // 16)
    assert (cell[:width] > 240).all() and (cell[:, -width:] > 240).all() and (cell[:, :width] > 240).all()
    assert not cell[width:-width, width:-width].any() and pixels[..., 0].sum() == cell.sum()


@pytest.mark.parametrize("action", range(4), ids=["left", "down", "right", "up"])
def test_an_arrow_is_heavier_at_its_tip(action):
    pixels = np.zeros((40, 40, 3), np.uint8)
    actions = np.full((2, 2), -1)
    actions[1, 0] = action
    draw_arrows(pixels, actions)
    y, x = np.nonzero(pixels[..., 0] > 200)
    assert y.min() >= 20 and x.max() < 20  # only in its own cell
    middle = np.array([x.mean() - 9.5, y.mean() - 29.5])
    assert np.argmax([-middle[0], middle[1], middle[0], -middle[1]]) == action


def test_a_path_is_a_line_from_centre_to_centre():
    pixels = np.zeros((30, 30, 3), np.uint8)
    draw_path(pixels, (3, 3), [(0, 0), (0, 1), (1, 1)], 0.2, "#FF0000")
    red = pixels[..., 0] > 128
    assert red[5, 5:15].all() and red[5:15, 15].all()
    assert not red[:, :4].any() and not red[17:].any() and not red[8:, :13].any() and not pixels[..., 1].any()


def test_pixels_become_the_same_png_every_time():
    pixels = picture(final(SMALL))
    assert png(pixels) == png(pixels.copy()) and np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


# The picture


def centre(pixels, frame, panel, row, col, at=(0.5, 0.5)):
    """The colour at a place within a cell, (0, 0) to (1, 1) from its top left corner."""
    y, x = frame.top + int((row + at[0]) * frame.side), frame.lefts[panel] + int((col + at[1]) * frame.side)
    return pixels[y, x].tolist()


def test_the_picture_shows_values_holes_goals_and_paths_of_both():
    comparison = final(HALLWAY)
    pixels, frame = picture(comparison), frame_of(8, 8)
    assert pixels.shape == (frame.height, frame.width, 3) and pixels.dtype == np.uint8
    for panel, result in enumerate(comparison.results.values()):
        values = result.tables[0][:-1].reshape(8, 8, 4)
        assert centre(pixels, frame, panel, 2, 0) == rgb(HOLE).tolist()
        assert centre(pixels, frame, panel, 7, 1, (0.1, 0.8)) == rgb(GOAL).tolist()
        assert centre(pixels, frame, panel, 7, 0) == rgb(UNTRIED).tolist()
        for row, col in ((2, 1), (6, 5)):
            at = {0: (0.5, 0.05), 1: (0.96, 0.25), 2: (0.5, 0.95), 3: (0.05, 0.25), None: (0.25, 0.25)}
            for action, place in at.items():
                value = values[row, col].max() if action is None else values[row, col, action]
                assert centre(pixels, frame, panel, row, col, place) == shaded(scaled(value)).tolist()
    in_hallway = [centre(pixels, frame, panel, 4, 1, (0.1, 0.5)) == rgb(ROUTES[0]).tolist() for panel in (0, 1)]
    on_bypass = [centre(pixels, frame, panel, 4, 6, (0.1, 0.5)) == rgb(ROUTES[0]).tolist() for panel in (0, 1)]
    assert in_hallway == [True, False] and on_bypass == [False, True]


@pytest.mark.parametrize(
    "rows", [["SG"], ["S", "F", "G"], ["SFFFFFFFFFFFFG"], *td.MAPS.values(), ["S" + "F" * 62 + "G"] * 64]
)
def test_any_map_is_drawn_within_900_pixels(rows):
    settings = Settings(tuple(rows), 0.3, 0.1, 0.03, 50, 2, 0).checked()
    pixels = picture(final(settings))
    assert pixels.shape[:2] == frame_of(len(rows), len(rows[0]))[:-3:-1] and pixels.shape[1] <= 700


def test_words_say_what_the_picture_says():
    words = description(final(HALLWAY)).splitlines()
    assert words[0] == ("A lake of 8 x 8 cells: epsilon 0.3, learning rate 0.001, slip 0.03, 30,000 episodes, seed 0")
    assert words[1].startswith("Q-learning: exact value, greedy: 807 (optimum 960); exact value, exploring: -271")
    assert words[2].endswith("; likeliest path: 18 steps to G")
    first, *_ = compare(LONG)
    assert f"so far {first.episodes:,} of 30,000 episodes" in description(first)
    first, second, *_ = compare(LONG._replace(seeds=5, learning_rate=0.1))
    assert f"so far {first.episodes:,} of 30,000 episodes of the first of 5 seeds" in description(first)
    assert f"so far {len(second.results['SARSA'].tables)} of 5 seeds" in description(second)


def test_seeds_are_counted_by_route():
    words = description(final(HALLWAY._replace(epsilon=0.2, learning_rate=0.003, seeds=20)))
    assert "18 of 20 seeds: 8 steps, value 807; 2 of 20 seeds: G not reached, value -242" in words.splitlines()[1]
    assert "2 of 20 seeds: 18 steps, value 959" in words.splitlines()[2]
    many = description(final(LONG._replace(learning_rate=0.3, episodes=3_000, seeds=30))).splitlines()
    assert any("other routes, one of them shown" in line for line in many)
    for line in many[1:]:
        assert sum(int(part.split()[0]) for part in line.split("; ")[2:]) == 30


# The newest request


def test_only_the_newest_request_is_worked_on():
    done, started, go_on = [], threading.Event(), threading.Event()

    def work(request):
        started.set()
        assert go_on.wait(60)
        done.append((request, newest.overtaken()))

    newest = Newest(work)
    newest.put(1)
    assert started.wait(60) and not newest.overtaken()
    for request in (2, 3, 4):
        newest.put(request)
    go_on.set()
    newest.settle()
    assert done == [(1, True), (4, False)]
    newest.put(5)  # a thread of its own again
    newest.settle()
    assert done[2:] == [(5, False)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_request_that_fails_stops_no_later_one():
    done = []
    newest = Newest(lambda request: done.append(1 / request))
    newest.put(0)
    newest.settle()
    newest.put(1)
    newest.settle()
    assert done == [1.0]


# The widget


@pytest.fixture
def explorer():
    return td.explore(list(SMALL.rows), 0.2, 0.1, 0.1, 500)


def shown(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer._image.value)))


@pytest.mark.parametrize(
    ("name", "value"), [("epsilon", 0.5), ("learning_rate", 0.01), ("slip", 0.0), ("episodes", 1000), ("seeds", 3)]
)
def test_a_moved_slider_shows_what_is_learned_anew(explorer, name, value):
    assert explorer.settings == SMALL and np.array_equal(shown(explorer), picture(final(SMALL)))
    explorer._controls[name].value = value
    explorer.settle()
    moved = SMALL._replace(**{name: value})
    assert explorer.settings == moved == explorer.comparison.settings
    assert np.array_equal(shown(explorer), picture(final(moved)))
    assert repr(explorer).splitlines()[0] in explorer._words.value


def test_a_drag_ends_at_its_last_position(explorer):
    for percent in range(0, 75):
        explorer._controls["slip"].value = percent / 100
    explorer.settle()
    assert np.array_equal(shown(explorer), picture(final(SMALL._replace(slip=0.74))))


def test_learning_stops_when_it_is_overtaken_but_not_before_its_first_picture(explorer, monkeypatch):
    pictures = []
    monkeypatch.setattr(explorer, "_show", pictures.append)
    monkeypatch.setattr(explorer._newest, "overtaken", lambda: True)
    explorer._learn(LONG)
    assert len(pictures) == 1 and not pictures[0].complete
    monkeypatch.setattr(explorer._newest, "overtaken", lambda: False)
    explorer._learn(LONG)
    assert pictures[-1].complete


def test_a_clicked_cell_gets_the_chosen_letter(explorer):
    def click(panel, row, col):
        explorer._stage.children[1 + panel].children[row * 3 + col].click()
        explorer.settle()
        return explorer.comparison.settings.rows

    assert click(0, 0, 1) == ("SHF", "FHF", "FFG") and click(1, 0, 1) == SMALL.rows  # a hole and ice again
    explorer._brush.value = "S"
    assert click(1, 2, 0) == ("FFF", "FHF", "SFG")
    explorer._brush.value = "H"
    assert click(0, 2, 2) == ("FFF", "FHF", "SFG")  # it was the only goal
    assert "the map must have at least one S and one G, got a map without G" in explorer._message.value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the map must have rows of the letters S, F, H and G, got none"),
        (" \n\t\n", "the map must have rows of the letters S, F, H and G, got none"),
        ("SFX\nFFG", "the map must consist of the letters S, F, H and G, got [&#x27;X&#x27;]"),
        ("SFF\nFG", "the map must have rows of one length, 1 or more, got lengths [2, 3]"),
        ("SFF\nFFF", "the map must have at least one S and one G, got a map without G"),
        ("FF\nFF", "the map must have at least one S and one G, got a map without S and G"),
        ("S" + 70 * "F" + "G", "the map must have at most 64 rows and columns, got 1 and 72"),
        (500 * (500 * "F" + "\n"), "the map must have at most 64 rows and columns, got 500 and 500"),
        ("\n".join(n * "F" for n in range(1, 60)), "the map must have rows of one length, 1 or more, got lengths [1, "),
        ("<b>", "the map must consist of the letters S, F, H and G, got [&#x27;&lt;&#x27;"),
    ],
)
def test_what_is_no_map_gets_a_line_and_the_last_picture_stays(explorer, text, problem):
    before = explorer._image.value
    explorer._map.value = text
    explorer.settle()
    assert problem in explorer._message.value and len(explorer._message.value) < 250
    assert explorer._image.value == before and explorer.comparison.settings == SMALL
    explorer._map.value = "SSH\nFFG"  # two starts are allowed
    explorer.settle()
    assert not explorer._message.value and explorer.comparison.settings.rows == ("SSH", "FFG")


def test_blanks_within_a_map_do_not_count(explorer):
    explorer._map.value = "\n s f  F\n\nF H g "
    explorer.settle()
    assert explorer.comparison.settings.rows == ("SFF", "FHG")


def test_episodes_follow_the_map_as_the_assignment_suggests_until_they_are_set():
    def choose(name):
        explorer._name.value = name
        explorer.settle()
        assert explorer.comparison.complete and explorer.comparison.settings.rows == tuple(td.MAPS[name])
        return explorer.comparison.settings.episodes

    assert suggested(HALLWAY.rows) == 30_000 and suggested(LONG.rows) == 100_000
    explorer = td.explore("4x4", learning_rate=0.1)
    assert [choose(name) for name in ("16x16", "Dangerous Hallway", "16x16")] == [100_000, 30_000, 100_000]
    explorer._stage.children[1].children[-2].click()  # a map of one's own, of the same size
    explorer.settle()
    assert explorer.comparison.settings.episodes == 100_000
    explorer._controls["episodes"].value = 1000
    assert [choose(name) for name in ("4x4", "16x16")] == [1000, 1000]
    explorer = td.explore("4x4", episodes=30_000)
    assert [choose(name) for name in ("16x16", "Dangerous Hallway")] == [30_000, 30_000]


def test_a_map_may_be_typed_or_chosen(explorer):
    explorer._map.value = "sff\nFFF\nFFG"
    explorer.settle()
    assert explorer.comparison.settings.rows == ("SFF", "FFF", "FFG") and explorer._name.value == "a map of your own"
    explorer._map.value = "SF\nFFG"
    assert "rows of one length" in explorer._message.value
    explorer._stage.children[1].children[0].click()  # whose picture is of another map
    explorer._map.value = "SFG"
    explorer.settle()
    assert not explorer._message.value and explorer.comparison.settings.rows == ("SFG",)
    assert [len(grid.children) for grid in explorer._stage.children[1:]] == [3, 3]
    explorer._name.value = "32x32"
    explorer.settle()
    assert explorer._map.value.split() == td.MAPS["32x32"] and MOST_CLICKABLE < 32 * 32
    assert len(explorer._stage.children) == 1


def test_a_notebook_keeps_a_picture_with_words_and_a_widget_of_which_nothing_is_compared(explorer, monkeypatch):
    import IPython.display

    outputs = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **how: outputs.append((data, how)))
    explorer._ipython_display_()
    (still, how), (live, _) = outputs
    assert still["text/plain"] == repr(explorer) == description(final(SMALL))
    assert how["metadata"]["image/png"]["alt"] == repr(explorer).replace("\n", ". ")
    assert base64.b64decode(still["image/png"]) == png(picture(final(SMALL)))
    assert list(live) == [WIDGET_VIEW]


@pytest.mark.slow
def test_a_notebook_that_was_run_keeps_the_pictures_alone(tmp_path, root):
    cells = [
        f"import sys\nsys.path.insert(0, {str(root)!r})\nimport td_helpers as td",
        "explorer = td.explore(episodes=500)\nexplorer",
        "explorer._controls['slip'].value = 0.2\nexplorer.settle()\nexplorer",
    ]
    path = tmp_path / "explore.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    notebook = run_notebook.run(path, path)
    for cell, slip in zip(notebook.cells[1:], (0.03, 0.2), strict=True):
        (output,) = cell.outputs
        expected = final(HALLWAY._replace(episodes=500, slip=slip))
        assert sorted(output.data) == ["image/png", "text/plain"] and output.data["text/plain"] == description(expected)
        assert base64.b64decode(output.data["image/png"]) == png(picture(expected))
        assert output.metadata["image/png"]["alt"].startswith("A lake of 8 x 8 cells: ")


def test_a_lake_is_explored_with_its_own_slip():
    assert td.explore(td.FrozenLakeEnv(transition_prob=(0.7, 0.1, 0.1, 0.1)), episodes=10).settings.slip == 0.3
    assert td.explore("4x4", episodes=10).settings.slip == 0.03


def test_sliders_offer_round_numbers_and_the_given_one():
    assert round_numbers(100, 100_000, 30_000) == [
        100, 200, 300, 500, 1000, 2000, 3000, 5000, 10_000, 20_000, 30_000, 50_000, 100_000,
    ]  # fmt: skip
    assert round_numbers(1, 5, 4) == [1, 2, 3, 4, 5] and round_numbers(0.001, 0.005, 0.02)[-1] == 0.02


def test_letters_are_put_and_moved():
    rows = ("SFH", "FFG")
    assert with_letter(rows, 0, 1, "G") == ["SGH", "FFF"] and with_letter(rows, 0, 2, "H") == ["SFF", "FFG"]
    assert with_letter(rows, 0, 2, "F") == ["SFF", "FFG"] and with_letter(rows, 1, 0, "H") == ["SFH", "HFG"]
