"""Watching agents: a lake's pixels, rollouts, the greedy path, films, and their display in a notebook."""

import base64
import io
import re
import runpy
import sys
import types

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
from gym.envs.toy_text.cliffwalking import CliffWalkingEnv

import td_helpers as td


def colors(pixels, lake):
    """Return the colour in the middle of each cell, shape (rows, columns, 3)."""
    side = pixels.shape[0] // lake.nrow
    return pixels[side // 2 :: side, side // 2 :: side]


def test_pixels_show_the_map_and_the_agent():
    lake = td.FrozenLakeEnv(["SFH", "FFG"], render_mode="rgb_array")
    lake.reset(seed=0)
    before = lake.render()
    assert before.dtype == np.uint8 and before.shape == (96, 144, 3)
    assert len({tuple(color) for color in colors(before, lake).reshape(-1, 3)}) == 4  # agent, ice, hole, goal
    lake.s = 1
    moved = (colors(before, lake) != colors(lake.render(), lake)).any(axis=2)
    assert moved.tolist() == [[True, True, False], [False, False, False]]
    lake.s = lake.exit_state
    assert (colors(lake.render(), lake)[0, 0] != colors(before, lake)[0, 0]).any()  # the agent has left the ice


@pytest.mark.parametrize("shape", [(1, 2), (3, 40), (300, 7)], ids=str)
def test_pixels_have_even_sides_as_videos_want(shape):
    lake = td.FrozenLakeEnv(td.generate_map(shape, 0.1, 0), render_mode="rgb_array")
    assert not any(side % 2 for side in lake.render().shape[:2])


def test_gymnasiums_video_recorder_records_an_episode(tmp_path, monkeypatch):
    """The recorder's encoder, moviepy, is replaced by one that keeps the frames."""
    videos = []

    class Clip:
        def __init__(self, frames, fps):
            videos.append((np.array(frames), fps))

        def write_videofile(self, path, **_):
            pass

    clips = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    clips.ImageSequenceClip = Clip
    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, clips.__name__, clips)
    lake = td.FrozenLakeEnv(["SFG"], transition_prob=(1, 0, 0, 0), render_mode="rgb_array")
    env = gymnasium.wrappers.RecordVideo(lake, str(tmp_path / "videos"), lambda episode: True)
    assert td.rollout(env, lambda state: td.RIGHT).terminated
    env.close()
    ((pictures, fps),) = videos
    assert pictures.dtype == np.uint8 and len(pictures) == 4 and fps == 4  # S, F, G, and the exit


def test_a_rollout_is_one_seeded_episode():
    lake = td.FrozenLakeEnv(["SFG"], transition_prob=(1, 0, 0, 0))
    states, actions, rewards, terminated, truncated = td.rollout(lake, lambda state: td.RIGHT)
    assert states.tolist() == [0, 1, 2, 3] and actions.tolist() == [2, 2, 2] and rewards.tolist() == [-1, -1, 1000]
    assert terminated is True and truncated is False


def test_a_rollout_repeats_under_its_seed_alone(hallway):
    wander = lambda state: state % 4
    one, two, other = (td.rollout(hallway, wander, seed, 200).states.tolist() for seed in (1, 1, 2))
    assert one == two != other


def test_a_rollout_is_cut_by_its_limit_or_by_the_env(lake):
    stay = lambda state: td.LEFT
    cut = td.rollout(lake, stay, max_steps=5)
    assert (len(cut.actions), cut.terminated, cut.truncated) == (5, False, True)
    limited = gymnasium.make("CliffWalking-v1", max_episode_steps=3)
    cut = td.rollout(limited, lambda state: 3)
    assert (len(cut.actions), cut.terminated, cut.truncated) == (3, False, True)


def test_a_rollout_that_ends_at_the_limit_was_not_cut():
    lake = td.FrozenLakeEnv(["SG"], transition_prob=(1, 0, 0, 0))
    ended = td.rollout(lake, lambda state: td.RIGHT, max_steps=2)
    assert (ended.terminated, ended.truncated) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((1,), "policy"), ((len, -1), "seed"), ((len, 0, 0), "max_steps")],
)
def test_what_a_rollout_cannot_follow_is_refused(lake, arguments, name):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        td.rollout(lake, *arguments)


@pytest.mark.parametrize("lake", [td.MAPS["4x4"], "4x4", td.FrozenLakeEnv()], ids=["map", "name", "env"])
def test_an_image_takes_a_map_its_name_or_an_env(lake):
    figure = td.plot_image(td.value_iteration(td.FrozenLakeEnv().table), lake)
    (line,) = figure.axes[0].lines
    path = list(zip(line.get_ydata(), line.get_xdata(), strict=True))
    assert path[0] == (0, 0) and path[-1] == (3, 3) and len(path) == 7  # (row, column): six moves, no detour


def test_the_greedy_path_follows_the_likeliest_outcome_not_the_intended_one():
    q_table = np.zeros((5, 4))
    q_table[:, td.LEFT] = 1.0
    lake = td.FrozenLakeEnv(["SFFG"], transition_prob=(0.1, 0.1, 0.7, 0.1))  # left mostly slips to the right
    assert td.greedy_path(q_table, lake) == [0, 1, 2, 3]
    assert td.greedy_path(q_table, ["SFFG"]) == [0]  # the wall: a loop


def test_the_greedy_path_ends_before_a_loop_and_in_a_hole():
    q_table = np.zeros((5, 4))
    q_table[0, td.RIGHT] = q_table[1, td.LEFT] = 1.0
    assert td.greedy_path(q_table, ["SFFG"]) == [0, 1]
    q_table[0, td.RIGHT] = 1.0
    assert td.greedy_path(q_table, ["SHFG"]) == [0, 1]


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((5, 3)), "no table"])
def test_a_greedy_path_needs_a_table_of_the_lake(bad):
    with pytest.raises((TypeError, ValueError), match="q_table must"):
        td.greedy_path(bad, ["SFFG"])


def test_an_unknown_lake_is_refused():
    for bad in ("no such map", 7):
        with pytest.raises((TypeError, ValueError), match=r"map_name|desc|lake"):
            td.plot_image(np.zeros((17, 4)), bad)


@pytest.mark.parametrize("show", [td.plot_image, td.greedy_path, lambda lake, table: td.animate({}, table, [])])
def test_a_table_in_the_place_of_the_lake_is_told_its_own(lake, show):
    with pytest.raises(TypeError, match=r"lake must be a FrozenLakeEnv, .* after the q_table; got numbers"):
        show(lake, np.zeros((17, 4)))


def test_an_env_without_a_map_cannot_be_drawn(lake):
    for draw in (td.plot_image, td.greedy_path):
        with pytest.raises(TypeError, match="lake must be a FrozenLakeEnv, a name of MAPS or a map"):
            draw(np.zeros((48, 4)), CliffWalkingEnv())


def test_rows_and_columns_are_numbered_by_whole_numbers():
    figure = td.plot_image(np.zeros((13, 4)), ["SFFF", "FFFF", "FFFG"])
    ticks = np.concatenate([figure.axes[0].get_xticks(), figure.axes[0].get_yticks()])
    assert np.array_equal(ticks, ticks.round())


def frames(film):
    """Return the pictures of a film, as arrays of shape (height, width, 3)."""
    gif = PIL.Image.open(io.BytesIO(film.gif))
    return [np.array(frame.convert("RGB")) for frame in PIL.ImageSequence.Iterator(gif)]


def test_a_film_has_a_picture_for_each_table_and_the_same_bytes_every_time(hallway, tmp_path):
    exact = td.value_iteration(hallway.table)
    tables = {"Q-learning": [np.zeros_like(exact), exact], "SARSA": [np.zeros_like(exact), 0.5 * exact]}
    one, two = (td.animate(tables, "Dangerous Hallway", [0, 100]) for _ in range(2))
    first, last = frames(one)
    assert one.gif == two.gif and first.shape == last.shape and (first != last).any(axis=2).mean() > 0.1
    half = first.shape[1] // 2
    assert (last[:, :half] != last[:, half:]).any()
    one.save(tmp_path / "one.gif")
    assert (tmp_path / "one.gif").read_bytes() == one.gif


def test_a_shown_film_can_be_paused_and_dragged_and_needs_no_connection(hallway):
    exact = td.value_iteration(hallway.table)
    film = td.animate({"SARSA": [share * exact for share in (0.0, 0.5, 1.0)]}, hallway, [0, 100, 200])
    html = film._repr_html_()
    assert repr(film) == film.alt and f'alt="{film.alt}"' in html and "http" not in html and "<script" not in html
    assert "<button" in html and '<input type="range" hidden min="0" max="2" value="2"' in html
    assert "top: -200%" in html  # without scripts the last picture shows
    strip = PIL.Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1]))).convert("RGB")
    assert len(np.unique(np.array(strip).reshape(-1, 3), axis=0)) > 30
    pieces = np.array(strip).reshape(3, -1, strip.width, 3).astype(int)
    for piece, frame in zip(pieces, frames(film), strict=True):
        assert np.abs(piece - frame).mean() < 4  # but for the palette
    assert film._repr_html_() == html


def test_a_film_needs_a_table_for_each_number_of_episodes(lake):
    for tables, episodes in (({"a": [np.zeros((17, 4))]}, [1, 2]), ({"a": []}, [])):
        with pytest.raises(ValueError, match="and a picture for each"):
            td.animate(tables, lake, episodes)


def test_the_film_of_the_readme_is_what_its_file_makes(root):
    committed = root / "figures" / "learning.gif"
    assert committed.stat().st_size < 2**20
    film = runpy.run_path(str(root / "figures" / "learning.py"))["film"]
    assert film().gif == committed.read_bytes()


def shown(monkeypatch, figure, alt=None):
    """Return (data, metadata) of what `show` displays."""
    pictures = []
    monkeypatch.setattr("IPython.display.display", pictures.append)
    td.show(figure, alt)
    (picture,) = pictures
    return picture._repr_mimebundle_() if hasattr(picture, "_repr_mimebundle_") else picture._repr_png_()


def test_a_figure_is_shown_with_words_and_closed(monkeypatch):
    figure = td.plot_result([1.0, 2.0], 50, "SARSA", title="Curve")
    _, metadata = shown(monkeypatch, figure)
    assert "Curve. mean discounted return, greedy policy over learning episodes" in str(metadata)
    assert "at the end: SARSA 2" in str(metadata)
    assert not plt.get_fignums()
    _, metadata = shown(monkeypatch, td.plot_timing({"a": 1.0}), alt="what it shows")
    assert "what it shows" in str(metadata)
    figure, axes = plt.subplots()
    axes.set_title("no more than a title")
    assert "no more than a title" in str(shown(monkeypatch, figure))


def test_plots_say_in_words_what_they_show(lake):
    exact = td.value_iteration(lake.table)
    assert "path, 7 cells from (0, 0) to (3, 3)" in td.plot_image(exact, lake).get_label()
    assert td.plot_timing({"a": 2.0}, "Times").get_label() == "Times. a 2 s"
