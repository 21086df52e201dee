"""Plots: contents read back from the figure, and identical files every time."""

import re

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

import td_helpers as td


def lines(figure) -> dict:
    """Return the curves of a figure's first axes: (x, y) by label."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines}


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def letters(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def arrows(figure):
    """Return a figure's arrows as {(row, column): (right, down)}."""
    (quiver,) = [item for item in figure.axes[0].collections if type(item).__name__ == "Quiver"]
    return {(int(y), int(x)): (u, v) for x, y, u, v in zip(quiver.X, quiver.Y, quiver.U, quiver.V, strict=True)}


def test_one_curve_stands_over_the_episodes_of_its_tests():
    figure = td.plot_result([1.0, 2.0, 4.0], 50, "Q-learning")
    assert lines(figure) == {"Q-learning": ([50, 100, 150], [1.0, 2.0, 4.0])}
    assert legend(figure) == ["Q-learning"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel(), figure.axes[0].get_title()) == (
        "learning episodes", "mean discounted return, greedy policy", "Learning curve",
    )  # fmt: skip


def test_the_optimum_is_a_labelled_dashed_line():
    figure = td.plot_result([1.0, 2.0], 50, "SARSA", optimum=960.263)
    _, y = lines(figure)["exact optimum 960.3"]
    assert y == [960.263, 960.263] and legend(figure) == ["SARSA", "exact optimum 960.3"]
    assert figure.axes[0].lines[-1].is_dashed()


@pytest.mark.parametrize("wrap", [list, np.array], ids=["lists", "array"])
def test_several_curves_have_their_names_and_their_algorithms_colours(wrap):
    names = ["Q-learning 0.1", "SARSA 0.1", "Q-learning 0.3"]
    figure = td.plot_result(wrap([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 10, names, title="Both")
    assert legend(figure) == names and figure.axes[0].get_title() == "Both"
    assert lines(figure)["Q-learning 0.3"] == ([10, 20], [5.0, 6.0])
    first, sarsa, third = figure.axes[0].lines
    assert sarsa.get_color() == td.COLORS["SARSA"]
    hues = [rgb_to_hsv(to_rgb(line.get_color()))[0] for line in (first, third)]
    assert hues == pytest.approx([rgb_to_hsv(to_rgb(td.COLORS["Q-learning"]))[0]] * 2)
    assert first.get_color() != third.get_color() and first.get_linestyle() != third.get_linestyle()


def test_teams_are_told_apart_by_shade_in_curves_and_bars():
    teams = [f"Distributed ({cw_num},4)" for cw_num in (2, 4, 8)]
    curves = td.plot_result([[1.0, 2.0]] * 3, 10, teams).axes[0].lines
    bars = td.plot_timing(dict(zip(teams, (1.0, 2.0, 3.0), strict=True))).axes[0].patches
    shades = [to_rgb(line.get_color()) for line in curves]
    assert len(set(shades)) == 3 and sorted(shades, key=sum, reverse=True) == shades  # from light to dark
    assert np.allclose([bar.get_facecolor()[:3] for bar in reversed(bars)], shades)


def test_a_curve_of_several_runs_is_their_median_and_quartiles():
    runs = [[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [8.0, 5.0]]
    figure = td.plot_result([runs, [4.0, 4.0]], 10, ["SARSA", "Q-learning"])
    assert lines(figure) == {"SARSA": ([10, 20], [2.0, 5.0]), "Q-learning": ([10, 20], [4.0, 4.0])}
    (band,) = figure.axes[0].collections
    assert band.get_paths()[0].get_extents().extents.tolist() == [10.0, 1.0, 20.0, 5.0]


def test_returns_are_smoothed_over_a_window_that_the_label_tells():
    figure = td.plot_result(np.array([1.0, 3.0, 8.0, 4.0]), 1, "SARSA", window=2)
    (label, (x, y)), *others = lines(figure).items()
    assert (label, x, others) == ("SARSA, mean of 2 episodes", [2, 3, 4], []) and y == pytest.approx([2.0, 5.5, 6.0])
    assert figure.axes[0].get_ylabel() == "undiscounted return while learning"
    runs = [[0.0, 2.0, 4.0], [2.0, 4.0, 6.0], [10.0, 10.0, 10.0]]
    figure = td.plot_result([runs, [[1.0] * 5]], 1, ["SARSA", "Dyna-Q"], window=3)
    found = lines(figure)
    assert found["SARSA, mean of 3 episodes"] == ([3], pytest.approx([4.0]))
    assert found["Dyna-Q, mean of 3 episodes"] == ([3, 4, 5], pytest.approx([1.0] * 3))
    assert len(figure.axes[0].collections) == 1


def test_episodes_without_a_return_leave_a_gap():
    figure = td.plot_result([float("nan"), 1.0, 3.0, 5.0], 1, "SARSA", window=2)
    ((x, y),) = lines(figure).values()
    assert x == [2, 3, 4] and np.isnan(y[0]) and y[1:] == pytest.approx([2.0, 4.0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((None, 1, "SARSA", None, "", 10), "keep_returns"),
        (([1.0, 2.0], 1, "SARSA", None, "", 3), "window must be at most the 2 episodes of a curve, got 3"),
        (([1.0, 2.0], 10, "SARSA", None, "", 2), "test_interval must be 1 for returns"),
        (([1.0, 2.0], 1, "SARSA", None, "", 0), "window must be a whole number from 1"),
    ],
)
def test_returns_that_cannot_be_smoothed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        td.plot_result(*arguments)


def test_curves_may_have_different_lengths():
    figure = td.plot_result([[1.0], [2.0, 3.0, 4.0]], 10, ["a", "b"])
    assert lines(figure) == {"a": ([10], [1.0]), "b": ([10, 20, 30], [2.0, 3.0, 4.0])}


def test_a_label_of_two_algorithms_has_the_more_special_colour():
    assert td.color_of("Distributed Q-learning (4, 4)") == td.COLORS["Distributed"]
    assert td.color_of("random") is None


def test_a_lake_is_drawn_with_its_values_and_letters():
    desc, q_table = ["SFH", "FFG"], np.arange(28.0).reshape(7, 4)
    figure = td.plot_image(q_table, desc, title="Values")
    shown = figure.axes[0].images[0].get_array().filled(np.nan)
    assert np.array_equal(shown, [[3, 7, np.nan], [15, 19, 23]], equal_nan=True)  # holes have no colour
    assert sorted(letters(figure)) == ["G", "H", "S"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["row", "value: highest action value"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_title()) == ("column", "Values")


def test_colours_span_the_scale_that_is_asked_for_and_the_bar_says_what_lies_outside():
    q_table = np.full((5, 4), 900.0)
    q_table[3] = 1000.0
    for scale, limits, extend in [
        (None, (0.0, 1000.0), "neither"),
        ((850, 1000), (850.0, 1000.0), "neither"),
        ((950, 1000), (950.0, 1000.0), "min"),
        ((950, 990), (950.0, 990.0), "both"),
        ((0, 950), (0.0, 950.0), "max"),
    ]:
        image = td.plot_image(q_table, ["SF", "FG"], scale=scale).axes[0].images[0]
        assert image.get_clim() == limits and image.colorbar.extend == extend
    with pytest.raises(ValueError, match="scale must be \\(lowest, highest\\), got \\(1, 0\\)"):
        td.plot_image(q_table, ["SF", "FG"], scale=(1, 0))


def test_thousands_have_commas_on_axes():
    figure = td.plot_result([[-1000.0] * 100, [0.5] * 100], 1000, ["a", "b"])
    figure.canvas.draw()
    ticks = [tick.get_text() for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for tick in axis.get_ticklabels()]
    assert "100,000" in ticks and "\u22121,000" in ticks and not [tick for tick in ticks if re.search(r"\d{4}", tick)]


def test_arrows_point_where_the_greedy_action_goes():
    q_table = np.zeros((10, 4))
    for state, action in enumerate((td.LEFT, td.DOWN, td.RIGHT, td.UP)):
        q_table[state, action] = 1.0
    figure = td.plot_image(q_table, ["SFF", "FFF", "FHG"])
    assert arrows(figure) == {(0, 0): (-1, 0), (0, 1): (0, 1), (0, 2): (1, 0), (1, 0): (0, -1)}  # down is +1


@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (3, 7), (40, 2), (32, 32)], ids=str)
def test_any_rectangle_is_drawn(shape):
    desc = td.generate_map(shape, 0.2, 1)
    figure = td.plot_image(np.ones((shape[0] * shape[1] + 1, 4)), desc)
    assert figure.axes[0].images[0].get_array().shape == (shape[1], shape[0])
    assert len(letters(figure)) == sum(row.count(letter) for row in desc for letter in "SHG")
    assert len(arrows(figure)) == sum(row.count(letter) for row in desc for letter in "SF")


def test_the_largest_map_of_the_assignment_stays_readable():
    figure = td.plot_image(np.ones((1025, 4)), td.MAPS["32x32"])
    figure.canvas.draw()
    heights = [text.get_window_extent().height / figure.dpi * 72 for text in figure.axes[0].texts]
    cell = figure.axes[0].transData.transform([(0, 0), (1, 1)])
    assert min(heights) >= 4 and max(heights) <= 1.2 * abs(cell[1] - cell[0]).min() / figure.dpi * 72


def test_a_large_map_is_thinned_out_and_has_no_arrows():
    desc = ["S" + "F" * 1999] + ["F" * 2000] * 4 + ["F" * 1999 + "G"]
    figure = td.plot_image(np.ones((12_001, 4)), desc)
    assert figure.axes[0].images[0].get_array().shape == (3, 1000)
    assert not figure.axes[0].collections and not letters(figure)


def test_running_times_are_sorted_bars_of_medians_with_their_range():
    figure = td.plot_timing({"fast": 1.0, "slow": [4.0, 9.0, 5.0], "middle": [2.0]}, title="Times")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["slow", "middle", "fast"]
    assert [bar.get_width() for bar in axes.patches] == [5.0, 2.0, 1.0]
    assert [text.get_text() for text in axes.texts] == ["5 s", "2 s", "1 s"]
    assert axes.collections[0].get_segments()[0][:, 0].tolist() == [4.0, 9.0]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_title()) == ("log", "seconds (log scale)", "Times")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: td.plot_result([[1.0, 2.0], [2.0, 3.0]], 10, ["Q-learning", "SARSA"], 4.0),
        lambda: td.plot_image(np.random.default_rng(1).normal(size=(17, 4)), td.MAPS["4x4"]),
        lambda: td.plot_timing({"a": [1.0, 2.0], "b": 3.0}),
    ],
    ids=["result", "image", "timing"],
)
def test_a_figure_is_saved_as_the_same_bytes_every_time(draw, tmp_path):
    for name in ("one.png", "two.png"):
        td.save_figure(draw(), tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two and one.startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path, figure = tmp_path / "one.png", td.plot_timing({"a": 1.0})
    td.save_figure(figure, path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="no space left"):
        td.save_figure(figure, path)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["one.png"]


def test_sources_are_shown_as_they_stand_in_the_module():
    shown = td.show_source(td.q_learning, td.QLAgent, td.TDAgent.greedy_policy)
    assert "def q_learning_update(" in repr(shown) and "class QLAgent(TDAgent):" in repr(shown)
    assert "\ndef greedy_policy(self" in repr(shown)  # a method, as far left as a function
    assert "style=" in shown._repr_html_() and "<pre" in shown._repr_html_()


def test_a_table_is_html_in_a_notebook_and_aligned_text_elsewhere():
    rows = [
        {"agent": "Q-learning", "value": 960.2634, "steps": 1_234_567, "share": "5%", "ok": True},
        {"agent": "<b>", "value": np.float64(-1.0), "steps": np.int64(10), "share": "12%", "ok": np.bool_(False)},
    ]
    shown = td.show_table(iter(rows), caption="Two & two")
    assert repr(shown).splitlines() == [
        "Two & two",
        "agent        value      steps  share  ok",
        "Q-learning  960.26  1,234,567     5%  True",
        "<b>          -1.00         10    12%  False",
    ]
    html = shown._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html and "Two &amp; two" in html
    assert html.count("<tr>") == 3 and html.count("text-align: right") == 9 and "1,234,567" in html


@pytest.mark.parametrize("rows", [[], [{}], [{"a": 1}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 2}], ["a"]], ids=str)
def test_a_table_needs_rows_of_the_same_columns(rows):
    with pytest.raises(ValueError, match="rows must be one or more dicts with the same columns"):
        td.show_table(rows)
