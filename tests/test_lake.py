"""The lake: dynamics, maps, rendering, and the table that follows from it."""

import copy
import pickle
import re
import subprocess
import sys
import zlib

import gym
import gymnasium
import numpy as np
import pytest
from helpers import NO_SLIP, frequencies, table_frequencies

import td_helpers as td
from tabular.kernels import sample_start

RECTANGLES = [["SG"], ["S", "F", "G"], ["SFHFG", "FFFFF"], ["HSH", "FFF", "SFF", "FHG", "GFF"]]
SLIPS = [(0.97, 0.01, 0.01, 0.01), (0.1, 0.2, 0.3, 0.4), (0.0, 0.5, 0.5, 0.0), NO_SLIP]


def by_definition(desc, transition_prob, state, action) -> dict:
    """Return a step's outcomes, from the rules of the lake."""
    nrow, ncol = len(desc), len(desc[0])
    letter = "X" if state == nrow * ncol else desc[state // ncol][state % ncol]
    if letter in "HGX":
        return {(nrow * ncol, {"H": -1000.0, "G": 1000.0, "X": 0.0}[letter], True): 1.0}
    moves = []
    for k, probability in enumerate(transition_prob):
        down, right = {0: (0, -1), 1: (1, 0), 2: (0, 1), 3: (-1, 0)}[(action + k) % 4]
        row = min(max(state // ncol + down, 0), nrow - 1)
        col = min(max(state % ncol + right, 0), ncol - 1)
        moves.append((probability, row * ncol + col, -1.0, False))
    return frequencies(moves)


@pytest.mark.parametrize("desc", [*RECTANGLES, *td.MAPS.values()], ids=lambda desc: f"{len(desc)}x{len(desc[0])}")
@pytest.mark.parametrize("slips", SLIPS, ids=str)
def test_table_and_p_follow_the_definition(desc, slips):
    lake = td.FrozenLakeEnv(desc, transition_prob=slips)
    for state in range(lake.exit_state + 1):
        for action in range(4):
            expected = pytest.approx(by_definition(desc, slips, state, action))
            assert table_frequencies(lake.table, state, action) == expected
            assert frequencies(lake.P[state][action]) == expected


def test_p_lists_the_directions_from_the_intended_one_on():
    lake = td.FrozenLakeEnv(["FFF", "FSF", "FFG"], transition_prob=(0.1, 0.2, 0.3, 0.4))
    assert lake.P[4][td.UP] == [
        (0.1, 1, -1.0, False),
        (0.2, 3, -1.0, False),
        (0.3, 7, -1.0, False),
        (0.4, 5, -1.0, False),
    ]


EDITS = {
    "a state": lambda P: P.update({0: {}}),
    "a state's entry": lambda P: P.__setitem__(0, {}),
    "a state dropped": lambda P: P.pop(0),
    "states merged": lambda P: P.__ior__({0: {}}),
    "an action": lambda P: P[0].__setitem__(1, []),
    "an action dropped": lambda P: P[0].clear(),
    "an outcome": lambda P: P[0][1].__setitem__(0, (1.0, 5, 0.0, False)),
    "one outcome more": lambda P: P[0][1].append((0.0, 5, 0.0, False)),
    "outcomes in place": lambda P: P[0][1].__iadd__([(0.0, 5, 0.0, False)]),
    "outcomes repeated": lambda P: P[0][1].__imul__(2),
    "outcomes turned round": lambda P: P[0][1].reverse(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_p_refuses_edits_that_no_step_would_follow(lake, edit):
    before = {state: {action: list(pair) for action, pair in row.items()} for state, row in lake.P.items()}
    with pytest.raises(TypeError, match="P is read-only, because step would ignore an edit: override step"):
        edit(lake.P)
    assert before == lake.P


@pytest.mark.parametrize("slips", SLIPS, ids=str)
def test_steps_fall_as_often_as_p_says(slips):
    lake = td.FrozenLakeEnv(["FFF", "FSF", "FFG"], transition_prob=slips)
    lake.reset(seed=1)
    n = 20_000
    for action in range(4):
        seen = np.zeros(10)
        for _ in range(n):
            lake.s = 4
            seen[lake.step(action)[0]] += 1
        for probability, next_state, _, _ in lake.P[4][action]:
            assert abs(seen[next_state] / n - probability) <= 5 * np.sqrt(probability * (1 - probability) / n)


def test_start_is_even_over_the_starting_cells():
    lake = td.FrozenLakeEnv(["SFS", "FSG"])
    n = 6000
    drawn = [lake.reset(seed=0)[0]] + [lake.reset()[0] for _ in range(n - 1)]
    compiled = [sample_start(lake.table.packed, int((i + 0.5) / n * 2**32)) for i in range(n)]
    assert lake.initial_state_distrib.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3, 0, 0])
    for state in (0, 2, 4):
        assert abs(drawn.count(state) / n - 1 / 3) < 5 * np.sqrt(2 / 9 / n)
        assert abs(compiled.count(state) / n - 1 / 3) <= 1 / n


@pytest.mark.parametrize("cell, reward", [(0, -1000.0), (2, 1000.0)])
def test_standing_on_a_hole_or_the_goal_any_action_leaves_for_the_exit(cell, reward):
    lake = td.FrozenLakeEnv(["HSG"])
    for action in range(4):
        lake.reset(seed=0)
        lake.s = cell
        assert lake.step(action)[:4] == (3, reward, True, False)
        assert lake.step(action)[:4] == (3, 0.0, True, False)


def test_a_seed_repeats_a_walk():
    def walk(lake, seed):
        lake.reset(seed=seed)
        return [lake.step(td.RIGHT)[0] for _ in range(200)]

    lake = td.FrozenLakeEnv(["SFFF", "FFFF", "FFFG"], transition_prob=(0.4, 0.3, 0.2, 0.1))
    first = walk(lake, 5)
    assert (
        walk(lake, 5)
        == first
        == walk(td.FrozenLakeEnv(["SFFF", "FFFF", "FFFG"], transition_prob=(0.4, 0.3, 0.2, 0.1)), 5)
    )
    assert walk(lake, 6) != first


def test_a_refused_action_changes_nothing():
    lake, calm = (td.FrozenLakeEnv(["SFFF", "FFFF", "FFFG"], transition_prob=(0.4, 0.3, 0.2, 0.1)) for _ in range(2))
    walks = []
    for env, interfere in ((lake, True), (calm, False)):
        env.reset(seed=0)
        walk = []
        for _ in range(30):
            if interfere:
                with pytest.raises(ValueError, match="action must be 0, 1, 2 or 3, got 4"):
                    env.step(4)
            walk.append(env.step(td.RIGHT)[0])
        walks.append(walk)
    assert walks[0] == walks[1]


def test_likely_slips_compare_with_gymnasium():
    theirs = gymnasium.make("FrozenLake-v1", desc=td.MAPS["8x8"], is_slippery=True).unwrapped
    ours = td.FrozenLakeEnv(map_name="8x8", transition_prob=(1 / 3, 1 / 3, 0.0, 1 / 3))
    for state in np.flatnonzero(np.isin(ours.desc.ravel(), [b"S", b"F"])):
        for action in range(4):
            there = frequencies((p, following) for p, following, _, _ in theirs.P[state][action])
            here = frequencies((p, following) for p, following, _, _ in ours.P[state][action])
            assert here == pytest.approx(there)


@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_passes_gyms_own_check(monkeypatch, mode):
    monkeypatch.setattr(np, "bool8", np.bool_, raising=False)  # gym 0.26 needs it, numpy 2 lacks it
    from gym.utils.env_checker import check_env

    check_env(td.FrozenLakeEnv(render_mode=mode))


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_passes_gymnasiums_check(mode):
    from gymnasium.utils.env_checker import check_env

    check_env(td.FrozenLakeEnv(render_mode=mode))


WITHOUT = """
import sys

sys.modules.update(dict.fromkeys({missing!r}))  # None: their import fails
import pickle

import numpy as np
import td_helpers as td

lake = td.FrozenLakeEnv(transition_prob=(0.7, 0.1, 0.1, 0.1))
lakes = lake, pickle.loads(pickle.dumps(lake))
agents = [td.QLAgent(env, 0.3, 0.1, 20, test_interval=10, compiled=False) for env in lakes]
for agent in agents:
    agent.learn_and_evaluate(progress=False)
print(td.gym.__name__, isinstance(td.gym.wrappers.TimeLimit(lake, 5).action_space, td.gym.spaces.Discrete))
print(*(np.sum(agent.q_table).hex() for agent in agents), td.rollout(lake, agents[0].greedy_policy).rewards.sum())
"""


@pytest.mark.slow
def test_gym_alone_or_gymnasium_alone_will_do():
    """With either the same is learned, bit for bit."""
    printed = {}
    for missing in [(), ("gym",), ("gymnasium",)]:
        run = [sys.executable, "-c", WITHOUT.format(missing=missing)]
        printed[missing] = subprocess.run(run, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    first, learned = printed[()].splitlines()
    assert first == "gym True" and learned.split()[0] == learned.split()[1]
    assert printed["gymnasium",] == printed[()] and printed["gym",] == printed[()].replace("gym ", "gymnasium ")


@pytest.mark.parametrize("package", [gym, gymnasium], ids=lambda package: package.__name__)
def test_a_lake_is_an_env_of_each_package(package):
    lake = td.FrozenLakeEnv()
    for env in (lake, pickle.loads(pickle.dumps(lake)), copy.deepcopy(lake)):
        assert isinstance(env, package.Env) and isinstance(package.wrappers.TimeLimit(env, 5), package.Env)
        for space, n in ((env.observation_space, 17), (env.action_space, 4)):
            assert isinstance(space, package.spaces.Discrete)
            assert space == package.spaces.Discrete(n) == space != package.spaces.Discrete(n + 1)
            assert space.sample() in space


def test_a_lake_remembers_its_seed_as_gymnasium_asks():
    lake = td.FrozenLakeEnv(transition_prob=(0.1, 0.3, 0.3, 0.3))
    walks = []
    for ask in (False, True):
        lake.reset(seed=11)
        assert not ask or lake.np_random_seed == 11
        walks.append([lake.step(td.RIGHT)[0] for _ in range(20)])
    assert walks[0] == walks[1]


def test_rendering_as_text_marks_the_agent_and_names_the_action():
    lake = td.FrozenLakeEnv(["SF", "FG"], transition_prob=NO_SLIP, render_mode="ansi")
    lake.reset(seed=0)
    assert lake.render() == "\n\x1b[41mS\x1b[0mF\nFG\n"
    lake.step(td.RIGHT)
    assert lake.render() == "  (Right)\nS\x1b[41mF\x1b[0m\nFG\n"
    lake.step(td.DOWN)
    lake.step(td.DOWN)
    assert lake.render() == "exit\n  (Down)\nSF\nFG\n"


def test_human_rendering_prints_every_step(capsys):
    lake = td.FrozenLakeEnv(["SG"], transition_prob=NO_SLIP, render_mode="human")
    lake.reset(seed=0)
    lake.step(td.RIGHT)
    assert re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out) == "\nSG\n\n  (Right)\nSG\n\n"


CHECKSUMS = {
    "4x4": 457792867, "8x8": 555944351, "Dangerous Hallway": 4082868546, "16x16": 3708478496, "32x32": 4114113745,
}  # fmt: skip


def test_maps_are_the_assignments_letter_for_letter():
    assert {name: zlib.crc32("\n".join(desc).encode()) for name, desc in td.MAPS.items()} == CHECKSUMS


@pytest.mark.parametrize(
    "generate",
    [
        lambda seed: td.generate_row(40, 0.4, seed),
        lambda seed: td.generate_map((9, 7), 0.4, seed),
        lambda seed: td.generate_random_map(9, 0.7, seed),
    ],
    ids=["row", "map", "random_map"],
)
def test_generators_repeat_by_seed_and_leave_the_global_one_alone(generate):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert generate(3) == generate(3) != generate(4)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_rows_have_holes_at_the_rate_asked_for():
    assert td.generate_row(5, 0.0) == "FFFFF" and td.generate_row(5, 1.0) == "HHHHH" and td.generate_row(0) == ""
    assert abs(td.generate_row(10_000, 0.3, 1).count("H") / 10_000 - 0.3) < 5 * np.sqrt(0.21 / 10_000)


def test_generated_map_is_safe_in_its_corners():
    assert td.generate_map((5, 4), 1.0) == ["SFHHH", "FFHHH", "HHHFF", "HHHFG"]


@pytest.mark.parametrize("shape, desc", [((1, 3), ["S", "F", "G"]), ((2, 1), ["SG"]), ((4, 1), ["SFFG"])])
def test_generated_map_may_be_a_strip(shape, desc):
    assert td.generate_map(shape, 1.0) == desc


def test_random_maps_have_a_path():
    for seed in range(30):
        values = td.value_iteration(
            td.FrozenLakeEnv(td.generate_random_map(6, 0.6, seed), transition_prob=NO_SLIP).table
        )
        assert values[0].max() > 900, seed


def test_a_map_of_40_000_cells_is_generated():
    """A recursive search for a path would overflow the stack."""
    desc = td.generate_random_map(200, 0.9, 1)
    assert len(desc) == 200 and {len(row) for row in desc} == {200} and desc[0][0] + desc[-1][-1] == "SG"


def test_an_impossible_map_ends_with_an_error():
    with pytest.raises(ValueError, match=r"p must leave a path: 0.0 gave none"):
        td.generate_random_map(5, 0.0)


def test_a_lake_survives_pickling_without_its_table():
    lake = td.FrozenLakeEnv(td.generate_map((80, 80)))
    lake.table, lake.P  # noqa: B018
    unpickled = pickle.loads(pickle.dumps(lake))
    assert len(pickle.dumps(lake)) < 10_000
    assert all(np.array_equal(a, b) for a, b in zip(unpickled.table.packed, lake.table.packed, strict=True))
