"""The notebooks' exercises: each "Try this" and "Go further" is tried here and shows what its answer says."""

import ast
import itertools
import re

import nbformat
import numpy as np
import pytest
from gym.envs.toy_text.cliffwalking import CliffWalkingEnv
from jupyter_client.manager import start_new_kernel

import td_helpers as td
from beyond import DynaQAgent
from tabular.simulated_ray import simulated

MARKS = r"^> \*\*(?:Try this|Go further): "
SLIPPERY, DRY = (0.9, 0.04, 0.03, 0.03), (1, 0, 0, 0)


@pytest.fixture(scope="module")
def cells(root):
    return nbformat.read(root / "distributed_td.ipynb", 4).cells


def exercises_of(cells) -> list[str]:
    """Return the text of each exercise, from its title on."""
    return [part for cell in cells for part in re.split(MARKS, cell.source, flags=re.MULTILINE)[1:]]


@pytest.fixture(scope="module")
def exercises(cells, root):
    """Those of both notebooks."""
    return exercises_of([*cells, *nbformat.read(root / "beyond" / "federated_and_dyna.ipynb", 4).cells])


def define(source: str, names: dict) -> None:
    """Execute the functions and classes that are defined in a cell, and nothing else of it."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    exec(compile(tree, "cell", "exec"), names)


@pytest.fixture(scope="module")
def lesson(cells):
    """Functions and classes defined in cells, solutions and exercises, by name."""
    names = {"td": td, "np": np, "seed": 0, "sources": [cell.source for cell in cells]}
    for cell in cells:
        if cell.cell_type == "code" and re.match("def (plain_|update|expected_)", cell.source):
            define(cell.source, names)
        for code in re.findall(r"^> ```python\n(.*?)^> ```", cell.source, re.MULTILINE | re.DOTALL):
            exec(re.sub("^> ?", "", code, flags=re.MULTILINE).partition("\nagent = ")[0], names)
    return names


@pytest.fixture(scope="module")
def large():
    return td.FrozenLakeEnv(map_name="16x16")


def value(q_table, lake) -> float:
    """Return the exact value of the greedy policy at the start."""
    return td.policy_value(lake.table, q_table)[0]


def passes(q_table, lake) -> str:
    """Return the greedy path's route through Dangerous Hallway."""
    path = td.greedy_path(q_table, lake)
    assert path[-1] == 57
    return "hallway" if 33 in path else "bypass"


def test_there_are_eight_to_ten_exercises_and_each_has_a_question_and_a_folded_answer(cells, exercises):
    assert 8 <= len(exercises_of(cells)) <= 10
    assert "\n".join(cell.source for cell in cells).count("\n> **Try this: ") >= 4  # for everybody
    for exercise in exercises:
        question, folded, answer = exercise.partition("<details><summary>")
        assert "?" in question and folded and len(answer) > 100 and "> </details>" in answer, exercise[:40]
    assert len(exercises) == sum(name.startswith("test_try_") for name in globals())


def test_try_a_lake_of_your_own():
    lake = td.FrozenLakeEnv(["SHG", "FHF", "FHF", "FFF"])  # the only path leads away from the goal at first
    q_table = td.value_iteration(lake.table)
    assert td.greedy_path(q_table, lake) == [0, 3, 6, 9, 10, 11, 8, 5, 2]
    (line,) = td.plot_image(q_table, lake).axes[0].lines
    assert len(line.get_xdata()) == 9


@pytest.mark.parametrize(("slips", "best", "way"), [(SLIPPERY, 938, "bypass"), (DRY, 984, "hallway")])
def test_try_other_ice(slips, best, way):
    lake = td.FrozenLakeEnv(map_name="Dangerous Hallway", transition_prob=slips)
    q_table = td.value_iteration(lake.table)
    assert value(q_table, lake) == pytest.approx(best, abs=0.5) and passes(q_table, lake) == way


def test_try_to_hope_for_the_best(hallway, lesson):
    plain = lesson["plain_q_learning"]
    hopeful = dict(lesson)
    source = "np.zeros((env.observation_space.n, 4))", "np.full((env.observation_space.n, 4), 1000.0)"
    code = next(cell for cell in lesson["sources"] if "def plain_q_learning" in cell).replace(*source)
    define(code, hopeful)
    assert passes(plain(hallway, 0.05, 0.01, 5_000), hallway) == "hallway"
    assert passes(hopeful["plain_q_learning"](hallway, 0.05, 0.01, 5_000), hallway) == "bypass"
    for seed in range(5):  # the module's agents, with other seeds
        agents = [
            td.QLAgent(hallway, 0.05, 0.01, do_test=False, seed=seed, initial_value=start) for start in (1000.0, 0.0)
        ]
        for agent in agents:
            agent.learn(30_000)
        assert value(agents[0].q_table, hallway) > 950 and value(agents[1].q_table, hallway) < 808


def test_try_ice_that_does_not_slip():
    lake = td.FrozenLakeEnv(map_name="16x16", transition_prob=DRY)
    promises = []
    for seed in range(5):
        agent = td.QLAgent(lake, 0.3, 1.0, 2_000, do_test=False, seed=seed)
        agent.learn_and_evaluate(progress=False)
        assert value(agent.q_table, lake) == pytest.approx(940.86, abs=0.005)
        slipping = td.QLAgent(td.FrozenLakeEnv(map_name="16x16"), 0.3, 1.0, 2_000, do_test=False, seed=seed)
        slipping.learn_and_evaluate(progress=False)
        assert value(slipping.q_table, slipping.simulator) < 900
        promises.append(slipping.q_table[0].max())
    assert sum(promise == pytest.approx(940.86, abs=0.005) for promise in promises) >= 3
    assert td.value_iteration(slipping.simulator.table)[0].max() == pytest.approx(936.33, abs=0.005)


def test_try_double_q_learning(hallway, lesson):
    promises, values = [], []
    for seed in range(4):
        single, double = (
            lesson[name](hallway, 0.3, 0.1, 3_000, seed=seed) for name in ("plain_q_learning", "plain_double_q")
        )
        assert double[0].max() < 960.26
        promises.append(single[0].max())
        values.append((value(double, hallway), value(single, hallway)))
    assert sum(promise > 960.26 for promise in promises) >= 3
    assert values[0] == pytest.approx((631, 945), abs=0.5)


def test_try_another_world():
    for seed in range(5):
        env, lengths = CliffWalkingEnv(), []
        for kind in (td.QLAgent, td.SARSAAgent):
            agent = kind(env, 0.1, 0.5, 500, beta=1.0, do_test=False, seed=seed)
            agent.learn_and_evaluate(progress=False)
            lengths.append(len(td.rollout(env, agent.greedy_policy).actions))
        assert lengths[0] == 13 and 15 <= lengths[1] <= 17


def test_try_an_epsilon_that_decays(large):
    means = []
    for decays in (False, True):
        late = []
        for seed in range(10):
            agent = td.SARSAAgent(large, 0.3, 0.1, do_test=False, seed=seed)
            for i in range(100):
                agent.epsilon = 0.3 * (1 - i / 100) if decays else 0.3
                agent.learn(1_000)
                if i >= 90:
                    late.append(value(agent.q_table, large))
        means.append(np.mean(late))
    assert means[1] > means[0] + 100


def test_try_to_stop_inside(exercises, root):
    """A kernel, as JupyterLab's, runs the exercise's code, and its debugger is told what a student types."""
    (exercise,) = [text for text in exercises if text.startswith("stop inside")]
    code = re.sub("^> ?", "", re.search(r"```python\n(.*?)> ```", exercise, re.DOTALL)[1], flags=re.MULTILINE)
    typed = iter(["p first, snapshot.steps", "c"] * 5)
    asked, printed = [], []

    def answer(message):
        asked.append(message["content"]["prompt"])
        client.input(next(typed))

    def keep(message):
        printed.append(message["content"].get("text", ""))
        assert message["header"]["msg_type"] != "error", message["content"]

    manager, client = start_new_kernel(cwd=str(root))
    try:
        set_up = 'import td_helpers as td; hallway = td.FrozenLakeEnv(map_name="Dangerous Hallway")\n'
        client.execute_interactive(set_up + code, stdin_hook=answer, output_hook=keep, timeout=120)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert next(typed, None) is None and all("db>" in prompt.lower() for prompt in asked)
    seen = [(int(first), int(steps)) for first, steps in re.findall(r"^\((\d+), (\d+)\)$", "".join(printed), re.M)]
    assert [first for first, _ in seen] == [0, 10, 20, 30, 40]
    steps = [steps for _, steps in seen]
    assert steps[:2] == [0, 0] and 0 < steps[2] < steps[3] < steps[4]


def test_try_frozen_copies(hallway, lesson):
    frozen = dict(lesson)
    cell = next(source for source in lesson["sources"] if "def collect(own" in source)
    define(cell.replace("            update(own, steps[-1], learning_rate)\n", ""), frozen)
    define(next(source for source in lesson["sources"] if "def plain_team" in source), frozen)  # on the new `collect`
    found = {}
    for seed, n in itertools.product(range(3), (1, 4)):
        for name, names in (("learning", lesson), ("frozen", frozen)):
            names["seed"] = seed
            served, own, found[seed, n, name] = names["plain_team"](hallway, n, batches=60, episodes=50)
            assert np.array_equal(served, own) == (n == 1 and name == "learning")
    assert all(found[seed, n, "frozen"] > 1.3 * found[seed, n, "learning"] for seed in range(3) for n in (1, 4))
    assert (found[0, 1, "frozen"], found[0, 4, "frozen"]) == (137_766, 216_321)
    assert (found[0, 1, "learning"], found[0, 4, "learning"]) == (58_190, 107_477)


def test_try_how_old_a_table_may_be(large):
    settings = {"cw_num": 8, "ew_num": 0, "do_test": False, "workers": td.InProcess()}
    for seed in range(3):
        steps = []
        for batch_size in (10, 1000):
            agent = td.DistributedQLAgent(large, 0.3, 0.001, 100_000, batch_size=batch_size, seed=seed, **settings)
            agent.learn_and_evaluate(progress=False)
            steps.append(agent.steps)
        assert 6.1e6 < steps[0] < 6.3e6 and steps[1] >= 8e6


def test_try_optimism_or_planning(hallway):
    settings = {"epsilon": 0.3, "learning_rate": 0.001, "do_test": False}
    ways = {DynaQAgent: [], td.QLAgent: []}
    for (kind, found), seed in itertools.product(ways.items(), range(10)):
        agent = kind(hallway, seed=seed, initial_value=0.0 if kind is DynaQAgent else 1000.0, **settings)
        agent.learn(2_000)
        path = td.greedy_path(agent.q_table, hallway)  # Q-learning's may not lead to the goal yet
        found.append(path[-1] == 57 and 33 not in path)
    assert sum(ways[DynaQAgent]) >= 8 and sum(ways[td.QLAgent]) == 0


# The worked example: Expected SARSA


def test_expected_sarsa_takes_at_most_twelve_lines(cells):
    (code,) = [cell.source for cell in cells if "td.Rule(" in cell.source and cell.cell_type == "code"]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 12


def test_expected_sarsa_is_less_noisy_than_sarsa(hallway, lesson):
    exact = td.value_iteration(hallway.table, epsilon=0.3)
    for seed in range(5):
        errors = []
        for kind in (td.SARSAAgent, lesson["ExpectedSARSAAgent"]):
            agent = kind(hallway, 0.3, 0.1, 30_000, do_test=False, seed=seed)
            agent.learn_and_evaluate(progress=False)
            errors.append(np.abs(agent.q_table - exact)[:2].mean())
        assert errors[1] < errors[0] / 2


def test_expected_sarsa_is_the_same_compiled_stepped_distributed_and_saved(hallway, lesson, tmp_path):
    kind = lesson["ExpectedSARSAAgent"]
    team = type("Team", (td.DistributedQLAgent,), {"single": kind})
    settings = {"learning_episodes": 300, "do_test": False, "seed": 3}
    alone = kind(hallway, 0.3, 0.1, **settings)
    alone.learn(300)
    for pool in (td.InProcess(), td.Workers(1, 0)):
        agent = team(hallway, 0.3, 0.1, cw_num=1, batch_size=70, workers=pool, **settings)
        with simulated(0):
            agent.learn(300)
        assert np.array_equal(agent.q_table, alone.q_table)
    halves = [kind(hallway, 0.3, 0.1, **settings) for _ in range(2)]
    halves[0].learn(120)
    halves[0].save(tmp_path / "half.npz")
    halves[1].load(tmp_path / "half.npz").learn(180)
    assert np.array_equal(halves[1].q_table, alone.q_table)
    # compiled and in plain Python, on one table and the same draws
    tables = [np.zeros(hallway.table.shape[:2]) for _ in range(2)]
    for learn, q_table in zip((kind.kernel, kind.kernel.plain), tables, strict=True):
        learn(q_table, hallway.table.packed, alone.actions, alone.parameters(), 0, 20)
    assert np.array_equal(*tables) and tables[0].any()
    stepped = kind(hallway, 0.3, 0.1, compiled=False, **settings)
    stepped.learn(300)
    assert np.isfinite(stepped.q_table).all() and stepped.steps >= 300


def test_a_rule_of_the_wrong_signature_is_refused_with_the_right_one():
    with pytest.raises(TypeError, match="must take \\(q_table, state, action, reward, next_state, terminated"):
        td.Rule(lambda q_table, state, action: None)


@pytest.mark.parametrize(
    ("settings", "slip", "melted", "routes"),
    [
        ((0.3, 0.001), 0.03, 0, {td.QLAgent: "hallway", td.SARSAAgent: "bypass"}),
        ((0.05, 0.001), 0.03, 0, {td.QLAgent: "hallway", td.SARSAAgent: "hallway"}),
        ((0.3, 0.1), 0.03, 0, {td.QLAgent: "bypass"}),
        ((0.3, 0.001), 0.0, 0, {td.QLAgent: "hallway", td.SARSAAgent: "hallway"}),
        ((0.3, 0.001), 0.03, 2, {td.SARSAAgent: "hallway"}),
    ],
)
def test_moving_the_sliders_shows_what_the_answers_say(settings, slip, melted, routes):
    rows = [("F" if 2 <= i < 2 + melted else row[0]) + row[1:] for i, row in enumerate(td.MAPS["Dangerous Hallway"])]
    lake = td.FrozenLakeEnv(rows, transition_prob=(1 - slip, slip / 3, slip / 3, slip / 3))
    assert passes(td.value_iteration(lake.table), lake) == ("bypass" if slip else "hallway")
    for (kind, expected), seed in itertools.product(routes.items(), range(5)):
        agent = kind(lake, *settings, 30_000, do_test=False, seed=seed)
        agent.learn_and_evaluate(progress=False)
        assert passes(agent.q_table, lake) == expected
