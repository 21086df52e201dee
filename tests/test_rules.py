"""Users' rules: any indexing that an array allows, changed code, and mistakes with clear errors."""

import contextlib
import os
import pickle
import subprocess
import sys
import traceback
import types

import gymnasium
import numba
import numpy as np
import pytest
from helpers import Ring

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent

PARAMETERS = td.QLAgent(Ring(), 0.3, 0.1, max_step=60, seed=7).parameters()
FOUR = (0, 1, 2, 3)
regimes = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])


def agent_of(update, simulator=None, policy=td.explore_or_exploit, **settings):
    """Return a single-core agent that learns by a user's rule."""
    kind = type("OwnAgent", (td.TDAgent,), {"kernel": td.Rule(update, policy)})
    return kind(simulator or td.FrozenLakeEnv(), 0.3, 0.1, **({"do_test": False, "max_step": 60, "seed": 3} | settings))


# Indexing ------------------------------------------------------------------------------------


def by_rows(q_table, state, action, reward, next_state, terminated, actions, parameters):
    target = reward if terminated else reward + parameters.beta * max(q_table[next_state])
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


def by_pairs(q_table, state, action, reward, next_state, terminated, actions, parameters):
    best = q_table[next_state, 0]
    for other in actions:
        if q_table[next_state, other] > best:
            best = q_table[next_state, other]
    target = reward if terminated else reward + parameters.beta * best
    q_table[state, action] += parameters.learning_rate * (target - q_table[state, action])


def by_assigned_pairs(q_table, state, action, reward, next_state, terminated, actions, parameters):
    target = reward if terminated else reward + parameters.beta * max(q_table[next_state])
    value = q_table[state][action]
    q_table[state, action] = value + parameters.learning_rate * (target - value)


def by_pairs_from_the_end(q_table, state, action, reward, next_state, terminated, actions, parameters):
    states, width = q_table.shape
    target = reward if terminated else reward + parameters.beta * max(q_table[next_state - len(q_table)])
    value = q_table[state - states, action - width]
    q_table[state - states, action - width] = value + parameters.learning_rate * (target - value)


@pytest.mark.parametrize("update", [by_rows, by_pairs, by_assigned_pairs, by_pairs_from_the_end])
def test_a_pair_is_read_and_written_in_any_spelling_with_the_same_bits(update):
    simulator, rule = td.FrozenLakeEnv().table.packed, td.Rule(update)
    tables = [np.zeros((17, 4)) for _ in range(3)]
    for learn, q_table in zip((td.q_learning, rule, rule.plain), tables, strict=True):
        learn(q_table, simulator, FOUR, PARAMETERS, 0, 100)
    assert tables[0].any() and tables[0].tobytes() == tables[1].tobytes() == tables[2].tobytes()


@pytest.mark.parametrize("update", [by_pairs, by_assigned_pairs, by_pairs_from_the_end])
def test_a_pair_is_written_in_any_spelling_where_an_env_is_stepped(update):
    agents = agent_of(by_rows, Ring()), agent_of(update, Ring())
    for agent in agents:
        agent.learn(50)
    assert agents[0].q_table.any() and np.array_equal(agents[0].q_table, agents[1].q_table)


def test_a_whole_row_is_assigned_as_on_an_array():
    def forget(q_table, state, action, reward, next_state, terminated, actions, parameters):
        q_table[state] = reward

    agent = agent_of(forget, td.FrozenLakeEnv(["SG"], transition_prob=(1, 0, 0, 0)), compiled=False)
    agent.learn(20)
    assert agent.q_table.tolist() == [[-1.0] * 4, [1000.0] * 4, [0.0] * 4]


USES = {
    "a slice": lambda q_table, state: q_table[state, :],
    "rows": lambda q_table, state: q_table[0:2],
    "a slice assigned": lambda q_table, state: q_table.__setitem__((state, slice(None)), 0.0),
    "three numbers": lambda q_table, state: q_table[state, 0, 0],
    "a float": lambda q_table, state: q_table[state + 0.5],
    "a longer row": lambda q_table, state: q_table.__setitem__(state, [0.0] * 5),
    "an attribute": lambda q_table, state: q_table.max(),
    "a copy": lambda q_table, state: q_table.copy(),
    "a loop": lambda q_table, state: list(q_table),
    "a search": lambda q_table, state: 0.0 in q_table,
    "numpy": lambda q_table, state: np.argmax(q_table),
    "a union": lambda q_table, state: q_table | {},
    "a state beyond the last": lambda q_table, state: q_table[5],
    "a state before the first": lambda q_table, state: q_table[-6, 0],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_a_stepped_table_cannot_do_is_refused_with_what_it_can(use):
    def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        use(q_table, state)

    agent = agent_of(update, Ring())
    with pytest.raises((TypeError, AttributeError, ValueError, IndexError)) as caught:
        agent.learn(1)
    message = "\n".join([str(caught.value), *caught.value.__notes__])
    assert "q_table[state], q_table[state][action] or q_table[state, action]" in message or "states 0 to 4" in message
    assert not agent.q_table.any()


# Changed code --------------------------------------------------------------------------------

CELLS = {
    "imports": "import types, numpy as np, td_helpers as td",
    "settings": "SCALE, WEIGHTS, PAIR = 1.0, np.ones(3), (1.0, np.ones(1))",
    "module": "own = types.ModuleType('own')\nown.scale = 1.0",
    "inner": "def inner():\n    return 1.0",
    "bonus": "def bonus(reward):\n    return reward * inner()",
    "rule": """
def outer():
    factor = 1.0
    def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        scaled = bonus(reward) * SCALE * WEIGHTS[1] * PAIR[0] * PAIR[1][0] * own.scale * factor
        q_table[state, action] += parameters.learning_rate * (scaled - q_table[state, action])
    def change():
        nonlocal factor
        factor = 2.0
    return update, change

update, change = outer()
class OwnAgent(td.TDAgent):
    kernel = td.Rule(update)
""",
}
CHANGES = (  # each doubles or halves what the rule learns
    "SCALE = 2.0",
    "WEIGHTS[1] = 2.0",
    "WEIGHTS = np.full(3, 4.0)",
    "PAIR[1][0] = 2.0",
    "PAIR = 0.5, PAIR[1]",
    "own.scale = 0.5",
    "change()",
    "inner.__code__ = (lambda: 2.0).__code__",
    "def inner():\n    return 1.0",
    "def bonus(reward):\n    return reward * inner() * 2.0",
    "bonus = abs",
)
DRY = ["SG"], (1.0, 0.0, 0.0, 0.0)


def notebook(**more) -> dict:
    """Run a notebook's cells; return its names."""
    names = {"__name__": "__main__"}
    for cell in (CELLS | more).values():
        exec(cell, names)
    return names


def on_the_shortest_lake(kind, **settings):
    """Return an agent with learning rate 1, whose values are the latest scaled rewards (1000 at the goal)."""
    lake = td.FrozenLakeEnv(DRY[0], transition_prob=DRY[1])
    return kind(lake, 0.3, 1.0, do_test=False, max_step=60, **settings)


def goal_value(agent) -> float:
    """Learn again from zeros; return the value of reaching the goal."""
    agent.q_table = np.zeros((3, 4))
    agent.learn(5)
    return float(agent.q_table.max())


def test_what_a_rule_reads_is_read_again_where_it_has_changed():
    names = notebook()
    agents = [on_the_shortest_lake(names["OwnAgent"], compiled=compiled) for compiled in (True, False)]
    value = 1000.0
    assert [goal_value(agent) for agent in agents] == [value] * 2
    for change in CHANGES:
        exec(change, names)
        compiled, stepped = map(goal_value, agents)
        assert compiled == stepped and stepped in (value / 2, value * 2), change
        value = stepped
    again = on_the_shortest_lake(type("Again", (td.TDAgent,), {"kernel": td.Rule(names["update"])}))
    assert goal_value(again) == value


@pytest.mark.parametrize("change, pool", [(CHANGES[0], td.InProcess), (CHANGES[9], td.Threads)])
def test_a_replaying_server_reads_again_what_has_changed(change, pool):
    names = notebook()
    team = type("Team", (td.DistributedQLAgent,), {"single": names["OwnAgent"]})
    agent = on_the_shortest_lake(team, cw_num=1, workers=pool())
    assert goal_value(agent) == 1000.0
    exec(change, names)
    assert goal_value(agent) == 2000.0


def test_what_a_rule_does_not_read_costs_no_compilation():
    names = notebook(other="learning_rate = epsilon = SCALE\ndef unrelated():\n    return 1.0")
    agent = on_the_shortest_lake(names["OwnAgent"])
    agent.learn(1)
    loop = agent.kernel.kernel
    exec("learning_rate = 0.5\nunrelated = actions = None\nSCALE = 1.0\nWEIGHTS[1] = 1.0\nPAIR = 1.0, PAIR[1]", names)
    agent.learn(1)
    assert agent.kernel.kernel is loop
    exec("SCALE = -1.0", names)
    assert agent.kernel.kernel is not loop


def test_over_ray_a_rule_is_what_it_is_now(workers):
    names = notebook()
    team = type("Team", (td.DistributedQLAgent,), {"single": names["OwnAgent"]})
    for compiled in (True, False):
        agent = on_the_shortest_lake(team, cw_num=1, compiled=compiled, workers=workers)
        assert goal_value(agent) == 1000.0
        exec("SCALE = 2.0", names)
        assert goal_value(agent) == 2000.0
        exec("def inner():\n    return 0.25", names)
        assert goal_value(agent) == 500.0
        exec("SCALE = 1.0\ndef inner():\n    return 1.0", names)


ELSEWHERE = """
import pickle, sys
worker = pickle.load(sys.stdin.buffer)()
import own_rules
worker.agent.learn(50)
print(own_rules.SCALE, worker.agent.q_table[1, 0])
"""


def test_a_rule_of_a_module_travels_as_it_stands_here_and_not_as_its_file_has_it(root, tmp_path, monkeypatch):
    code = "\n".join(cell for name, cell in CELLS.items() if name != "module").replace("own.scale * ", "")
    (tmp_path / "own_rules.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import own_rules

    own_rules.SCALE = 2.0
    agent = on_the_shortest_lake(type("Team", (td.DistributedQLAgent,), {"single": own_rules.OwnAgent}))
    made = {}
    monkeypatch.setattr(td.InProcess, "run", lambda self, makers: made.update(makers) or contextlib.nullcontext())
    agent.workers = td.InProcess()
    with agent._pool(do_test=False):
        pass
    path = os.pathsep.join([str(tmp_path), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=numba.cloudpickle.dumps(made["collector"]),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["1.0", "2000.0"]


# Mistakes ------------------------------------------------------------------------------------


def misspelt(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += reward + max(q_tabel[next_state])  # noqa: F821


def unknown_parameter(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += parameters.alpha * (reward - q_table[state][action])


def divides_by_zero(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += reward / (q_table[state][action] - q_table[state][action])


def unbound(q_table, state, action, reward, next_state, terminated, actions, parameters):
    if terminated:
        target = reward
    q_table[state][action] += target


def beyond_the_last(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state + 1000][action] += reward


def of_wrong_type(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += reward + "1"


def raises(q_table, state, action, reward, next_state, terminated, actions, parameters):
    raise LookupError("the boat has sunk")


def in_a_helper(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += helper(reward)


def helper(reward):
    return reward.value


MISTAKES = {
    misspelt: (NameError, "name 'q_tabel' is not defined"),
    unknown_parameter: (AttributeError, "has no attribute 'alpha'"),
    divides_by_zero: (ZeroDivisionError, "division by zero"),
    unbound: (UnboundLocalError, "target"),
    beyond_the_last: (IndexError, "states 0 to 16, got 1000"),
    of_wrong_type: (TypeError, "unsupported operand"),
    raises: (LookupError, "the boat has sunk"),
    in_a_helper: (AttributeError, "has no attribute 'value'"),
}
SETTINGS = {"dictionary": 1.0}


def reads_a_dictionary(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += SETTINGS["dictionary"] * reward


def takes_an_axis(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += reward + np.mean(q_table[next_state], axis=0)


def counts(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += reward + q_table[next_state].count(0.0)


def makes_a_class(q_table, state, action, reward, next_state, terminated, actions, parameters):
    class Reward(float): ...

    q_table[state][action] += reward


PLAIN_ALONE = {
    reads_a_dictionary: r"line \d+: q_table.*SETTINGS.* \(Untyped global name 'SETTINGS'",
    takes_an_axis: r"line \d+: .*axis=0\) \(it has no mean\(array\(float64, 1d, C\), axis=0\)\)",
    counts: r"line \d+: .*count.* \(Unknown attribute 'count' of type array",
    makes_a_class: "LOAD_BUILD_CLASS",
}


def shown(error) -> str:
    """Return an uncaught error as Python prints it, and check that IPython prints the same."""
    lines = "".join(traceback.format_exception(error.value)).splitlines()
    assert error.value._render_traceback_() == lines
    return "\n".join(lines)


def a_team(single, **settings):
    team = type("Team", (td.DistributedQLAgent,), {"single": type(single)})
    return team(single.simulator, 0.3, 0.1, do_test=False, max_step=60, cw_num=1, **settings)


WAYS = {
    "learn": lambda agent: agent.learn(20),
    "learn_and_evaluate": lambda agent: agent.learn_and_evaluate(progress=False),
    "in process": lambda agent: a_team(agent, workers=td.InProcess()).learn(20),
    "in threads": lambda agent: a_team(agent, workers=td.Threads()).learn(20),
    "in batches": lambda agent: list(a_team(agent, workers=td.InProcess()).learn_in_batches(20)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("update", MISTAKES, ids=lambda update: update.__name__)
def test_a_mistake_in_a_compiled_rule_is_pythons_own_with_the_rules_line(update, way):
    kind, message = MISTAKES[update]
    with pytest.raises(kind, match=message) as caught:
        way(agent_of(update))
    printed = shown(caught)
    assert len(printed.splitlines()) <= 15 and "numba" not in printed and "tabular" not in printed
    assert any("in episode 0, step 1" in note for note in caught.value.__notes__)
    assert f"in {update.__name__ if update is not in_a_helper else 'helper'}, line " in printed


@pytest.mark.parametrize("update", MISTAKES, ids=lambda update: update.__name__)
def test_a_mistake_in_a_stepped_rule_is_told_alike(update):
    kind, _ = MISTAKES[update]
    with pytest.raises(kind) as caught:
        agent_of(update, compiled=False).learn(1)
    assert len(shown(caught).splitlines()) <= 15 and "tabular" not in shown(caught)


@pytest.mark.parametrize(
    "update, way",
    [(update, WAYS["learn"]) for update in PLAIN_ALONE] + [(takes_an_axis, WAYS["in batches"])],
    ids=lambda value: value.__name__,
)
def test_what_numba_alone_cannot_do_is_said_in_a_sentence_with_the_way_out(update, way):
    with pytest.raises(TypeError, match=PLAIN_ALONE[update]) as caught:
        way(agent_of(update))
    message = str(caught.value)
    assert message.startswith(f"numba cannot compile {update.__name__}") and "compiled=False" in message
    assert len(message.splitlines()) == 1 and len(shown(caught).splitlines()) <= 15


def misspelt_where_it_ends(q_table, state, action, reward, next_state, terminated, actions, parameters):
    if terminated:
        q_table[state][action] = rewrad  # noqa: F821
    else:
        q_table[state][action] += reward


def test_a_mistake_that_a_first_episode_does_not_come_across_is_found_all_the_same():
    with pytest.raises(NameError, match="name 'rewrad' is not defined") as caught:
        agent_of(misspelt_where_it_ends, max_step=1).learn(1)
    assert "in misspelt_where_it_ends, line " in shown(caught) and "= rewrad" in shown(caught)


def test_a_rule_that_numba_alone_cannot_do_is_learned_by_stepping():
    for update in PLAIN_ALONE:
        agent = agent_of(update, compiled=False, initial_value=1.0)
        agent.learn(2)
        assert agent.q_table.any()


def test_a_rule_of_arrays_is_compiled_though_it_is_none_of_lists():
    def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        target = reward if terminated else reward + parameters.beta * q_table[next_state, :].max()
        q_table[state, action] += parameters.learning_rate * (target - q_table[state, action])

    agent, like = agent_of(update), agent_of(by_rows)
    for one in (agent, like):
        one.learn(50)
    assert agent.q_table.any() and np.array_equal(agent.q_table, like.q_table)


def acts_beyond_the_last(row, actions, epsilon, explore):
    return len(actions)


def acts_before_the_first(row, actions, epsilon, explore):
    return -1


def acts_on_halves(row, actions, epsilon, explore):
    return explore


def acts_by_thirds(row, actions, epsilon, explore):
    return int(explore * 3)


@pytest.mark.parametrize("single", [True, False], ids=["one core", "distributed"])
def test_random_ties_are_refused_for_a_rule_with_a_policy_of_its_own(single):
    make = agent_of
    if not single:
        worker = type("Worker", (td.QLAgent,), {"kernel": td.Rule(by_rows, acts_by_thirds)})
        kind = type("Team", (td.DistributedQLAgent,), {"single": worker})
        make = lambda *_, policy, **settings: kind(td.FrozenLakeEnv(), workers=td.InProcess(), **settings)
    with pytest.raises(ValueError, match="ties must be 'lowest' for a rule with a policy of its own, got 'random'"):
        make(by_rows, policy=acts_by_thirds, ties="random")
    agent = make(by_rows, policy=acts_by_thirds)
    agent.ties = "random"
    with pytest.raises(ValueError, match=r"by_rows.*acts_by_thirds"):
        agent.learn(1)
    assert agent.episode == 0


@pytest.mark.parametrize("pool", [td.InProcess(), td.Threads()], ids=["in process", "threads"])
def test_a_users_rule_breaks_ties_at_random_alike_on_one_core_and_on_workers(pool):
    worker = type("Worker", (td.QLAgent,), {"kernel": td.Rule(by_rows)})
    team = type("Team", (td.DistributedQLAgent,), {"single": worker})
    settings = {"max_step": 60, "seed": 3, "do_test": False, "ties": "random"}
    agents = [kind(td.FrozenLakeEnv(), 0.1, 0.1, **settings) for kind in (worker, worker, td.QLAgent)]
    agents.append(team(td.FrozenLakeEnv(), 0.1, 0.1, cw_num=1, workers=pool, **settings))
    agents[1].ties = "lowest"
    for agent in agents:
        agent.learn(200)
    random, lowest, built_in, distributed = (agent.q_table.tobytes() for agent in agents)
    assert random == built_in == distributed != lowest
    copied = pickle.loads(pickle.dumps(worker.kernel.with_ties("random")))
    assert copied.policy is worker.kernel.with_ties("random").policy


def test_a_rule_that_changes_nothing_is_not_told_that_there_are_no_rewards(recwarn):
    agent_of(forgets_to_write, max_step=2).learn(1100)
    (warning,) = recwarn.list
    assert "changed nothing" in str(warning.message)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
@pytest.mark.parametrize("policy", [acts_beyond_the_last, acts_before_the_first, acts_on_halves])
def test_what_is_no_action_is_refused(policy, compiled):
    with pytest.raises(ValueError, match=f"{policy.__name__} must return an action, 0 to 3, it returned "):
        agent_of(by_rows, policy=policy, compiled=compiled).learn(1)


def acts_wrongly_at_times(row, actions, epsilon, explore):
    return 9 if explore < 0.003 else int(explore * 4)


def strays_at_the_end(q_table, state, action, reward, next_state, terminated, actions, parameters):
    if reward > 0.0:
        q_table[state + 10, action] = reward
    q_table[state, action] += reward


def strays_in_its_row(q_table, state, action, reward, next_state, terminated, actions, parameters):
    if reward > 0.0:
        q_table[state][action + 4] = reward
    q_table[state, action] += reward


def raises_at_the_end(q_table, state, action, reward, next_state, terminated, actions, parameters):
    if reward > 0.0:
        raise LookupError("the boat has sunk")
    q_table[state, action] += reward


LATE = {
    "a state": (strays_at_the_end, td.explore_or_exploit, IndexError, "states 0 to 16|out of", "strays_at_the_end"),
    "a row": (strays_in_its_row, td.explore_or_exploit, IndexError, "states 0 to 16|out of", "strays_in_its_row"),
    "an error of its own": (raises_at_the_end, td.explore_or_exploit, LookupError, "has sunk", "at_the_end, line "),
    "an action": (by_rows, acts_wrongly_at_times, ValueError, "must return an action", "acts_wrongly_at_times"),
}


@regimes
@pytest.mark.parametrize("update, policy, kind, message, place", LATE.values(), ids=LATE)
def test_a_mistake_that_comes_late_is_told_and_changes_nothing(update, policy, kind, message, place, compiled):
    agent = agent_of(update, policy=policy, compiled=compiled)
    agent.epsilon = 1.0
    agent.learn(1)
    before = agent.q_table.copy()
    with pytest.raises(kind, match=message) as caught:
        agent.learn(5000)
    assert len(shown(caught).splitlines()) <= 15 and place in shown(caught)
    assert np.array_equal(agent.q_table, before) and agent.episode == 1


def test_over_ray_a_mistake_is_told_with_its_line(workers):
    for update, compiled in ((misspelt, True), (misspelt, False), (takes_an_axis, True)):
        kind = NameError if update is misspelt else TypeError
        with pytest.raises(kind, match="q_tabel" if update is misspelt else "numba cannot compile") as caught:
            a_team(agent_of(update), compiled=compiled, workers=workers).learn(20)
        assert len(shown(caught).splitlines()) <= 15 and f"{update.__name__}, line " in shown(caught)


PRINTED = """
import contextlib, io, subprocess, sys
from IPython.core.interactiveshell import InteractiveShell

rule, use = sys.stdin.read().split("# use")
shell, shown = InteractiveShell(), io.StringIO()
shell.run_cell(rule)
with contextlib.redirect_stdout(shown):
    shell.run_cell(use)
printed = subprocess.run([sys.executable, "-c", rule + use], capture_output=True, text=True).stderr
for text in (shown.getvalue(), printed):
    print(len(text.strip().splitlines()), "NameError: name 'q_tabel' is not defined" in text, "td_helpers" in text)
"""
MISSPELT = """
import td_helpers as td


def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
    target = reward
    if not terminated:
        target += parameters.beta * max(q_tabel[next_state])
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


# use
class Own(td.TDAgent):
    kernel = td.Rule(update)


agent = Own(td.FrozenLakeEnv())
agent.learn_and_evaluate()
agent.learn()
"""


def test_ipython_and_python_print_a_mistake_in_few_lines(root):
    done = subprocess.run(
        [sys.executable, "-c", PRINTED], input=MISSPELT, cwd=root, capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        count, is_pythons, shows_ours = line.split()
        assert 5 <= int(count) <= 15 and is_pythons == "True" and shows_ours == "False", done.stdout
    assert len(done.stdout.splitlines()) == 2


# Rules that learn nothing --------------------------------------------------------------------


def returns_its_value(q_table, state, action, reward, next_state, terminated, actions, parameters):
    return q_table[state][action] + parameters.learning_rate * (reward - q_table[state][action])


def changes_and_returns(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += reward
    return q_table[state][action]


def returns_at_times(q_table, state, action, reward, next_state, next_action, terminated, actions, parameters):
    q_table[state][action] += reward
    return reward if terminated else None


def forgets_to_write(q_table, state, action, reward, next_state, terminated, actions, parameters):
    value = q_table[state][action]
    value += parameters.learning_rate * (reward - value)


def writes_to_a_copy(q_table, state, action, reward, next_state, terminated, actions, parameters):
    row = list(q_table[state])
    row[action] += parameters.learning_rate * reward


def a_fleet(kind, **settings):
    return lambda agent: kind_of_team(kind, type(agent))(
        agent.simulator, 0.3, 0.1, do_test=False, max_step=60, cw_num=2, batch_size=5, workers=td.InProcess(),
        compiled=agent.compiled, **settings,
    ).learn(20)  # fmt: skip


def kind_of_team(kind, single):
    return type("Team", (kind,), {"single": single})


EVERYWHERE = {
    "single core": lambda agent: agent.learn(20),
    "replayed": a_fleet(td.DistributedQLAgent),
    "federated": a_fleet(FederatedQLAgent),
    "Dyna": a_fleet(DistributedDynaQAgent, initial_value=0.0),
}
everywhere = pytest.mark.parametrize("learn", EVERYWHERE.values(), ids=EVERYWHERE)


@regimes
@everywhere
@pytest.mark.parametrize("update", [returns_its_value, changes_and_returns], ids=lambda update: update.__name__)
def test_a_rule_that_returns_a_value_is_refused(update, learn, compiled):
    with pytest.raises(TypeError, match=f"{update.__name__} must change .* and return nothing, it returned") as caught:
        learn(agent_of(update, compiled=compiled))
    assert len(shown(caught).splitlines()) <= 15


@regimes
def test_a_rule_that_returns_a_value_at_times_is_refused(compiled):
    with pytest.raises(TypeError, match="and return nothing, it returned"):
        agent_of(returns_at_times, compiled=compiled, max_step=1000).learn(1)


@regimes
@everywhere
@pytest.mark.parametrize("update", [forgets_to_write, writes_to_a_copy], ids=lambda update: update.__name__)
def test_a_rule_that_changes_nothing_is_told_once(update, learn, compiled):
    agent = agent_of(update, compiled=compiled)
    with pytest.warns(UserWarning) as warned:
        learn(agent)
        learn(agent)
    assert [str(warning.message) for warning in warned] == [
        f"{update.__name__} changed nothing in the q_table in its first episode, although there were rewards"
    ]
    assert warned[0].filename == __file__


def test_over_ray_a_rule_that_changes_nothing_is_told_here(workers):
    for compiled in (True, False):
        team = kind_of_team(td.DistributedQLAgent, type(agent_of(forgets_to_write)))
        with pytest.warns(UserWarning, match="forgets_to_write changed nothing"):
            team(td.FrozenLakeEnv(), do_test=False, cw_num=1, compiled=compiled, workers=workers).learn(5)


def test_replaying_by_hand_tells_alike():
    task = np.array([0, -1], np.int32), np.array([-1.0, 0.0]), (0, 1), PARAMETERS
    with pytest.raises(TypeError, match="return nothing"):
        td.Rule(returns_its_value).replay(np.zeros((2, 2)), *task)
    with pytest.warns(UserWarning, match="changed nothing"):
        td.Rule(forgets_to_write).replay(np.zeros((2, 2)), *task)


def learns_late(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += parameters.learning_rate * (reward - q_table[state][action])


@regimes
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"simulator": gymnasium.make("FrozenLake-v1", is_slippery=False), "max_step": 3},
    ],
    ids=["no learning rate", "no rewards"],
)
def test_a_rule_that_has_nothing_to_change_is_no_mistake(settings, compiled):
    kind = type("OwnAgent", (td.TDAgent,), {"kernel": td.Rule(learns_late)})
    given = {"simulator": td.FrozenLakeEnv(), "learning_rate": 0.1, "do_test": False, "compiled": compiled} | settings
    agent = kind(**given)
    before = agent.q_table.copy()
    agent.learn(3)
    assert np.array_equal(agent.q_table, before)


# Rules within a class ------------------------------------------------------------------------


class WithUpdate(td.QLAgent):
    def update(self, q_table, state, action, reward, next_state, terminated, actions, parameters):
        q_table[state][action] = 0.0


class WithPolicy(td.SARSAAgent):
    def policy(self, row, actions, epsilon, explore):
        return 0


class TeamWithUpdate(td.DistributedQLAgent):
    update = WithUpdate.update


class TeamOfThose(td.DistributedQLAgent):
    single = WithUpdate


class PlanningWithPolicy(DynaQAgent):
    policy = WithPolicy.policy


LOOSE = {
    WithUpdate: r"WithUpdate.update would not be called: .* kernel = td.Rule\(update\)",
    WithPolicy: r"WithPolicy.policy would not be called: .* kernel = td.Rule\(update, policy\)",
    TeamWithUpdate: "TeamWithUpdate.update would not be called",
    TeamOfThose: "WithUpdate.update would not be called",
    PlanningWithPolicy: "PlanningWithPolicy.policy would not be called",
}


@pytest.mark.parametrize("kind", LOOSE, ids=lambda kind: kind.__name__)
def test_an_update_or_policy_that_is_a_method_is_refused_with_what_to_do(kind):
    with pytest.raises(TypeError, match=LOOSE[kind]):
        kind(td.FrozenLakeEnv())


def test_a_rules_own_functions_may_stand_in_the_class():
    class Inside(td.TDAgent):
        def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
            q_table[state][action] = reward

        kernel = td.Rule(update)

    agent = Inside(td.FrozenLakeEnv())
    agent.learn(2)
    assert agent.q_table.any()


def test_update_may_be_a_method_if_learn_is_overridden():
    class Own(td.TDAgent):
        def update(self):
            self.q_table[0, 0] += 1.0

        def learn(self, episodes=None):
            self.update()

    agent = Own(td.FrozenLakeEnv())
    agent.learn(1)
    assert agent.q_table[0, 0] == 1.0


# Forbidden in rules -------------------------------------------------------------------------


def assigns(q_table, state, action, reward, next_state, terminated, actions, parameters):
    parameters.epsilon = 0.0
    q_table[state][action] += reward


@pytest.mark.parametrize("compiled", [True, False])
def test_a_rule_that_assigns_a_parameter_is_refused_in_both_regimes(compiled):
    class Assigning(td.QLAgent):
        kernel = td.Rule(assigns)

    with pytest.raises((AttributeError, TypeError)) as caught:
        Assigning(td.FrozenLakeEnv(), compiled=compiled).learn(5)
    assert any("parameters.epsilon = 0.0" in note for note in [str(caught.value), *caught.value.__notes__])


SEEN = np.zeros((5, 2))


def counts(q_table, state, action, reward, next_state, terminated, actions, parameters):
    SEEN[state, action] += 1
    q_table[state][action] += reward


def test_a_rule_that_a_server_cannot_compile_is_told_so_where_collectors_step():
    class Counting(td.QLAgent):
        kernel = td.Rule(counts)

    class Team(td.DistributedQLAgent):
        single = Counting

    agent = Team(Ring(), workers=td.InProcess(), compiled=False)
    with pytest.raises(TypeError, match=r"numba cannot compile .*server replays with compiled code, even if"):
        agent.learn(5)


# Differences between lists and arrays ---------------------------------------------------------


def doubles_a_row(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += 0.1 * (reward + max(2 * q_table[next_state]) - q_table[state][action])


def adds_rows(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += 0.1 * (reward + max(q_table[next_state] + q_table[state]) - q_table[state][action])


def writes_to_a_slice(q_table, state, action, reward, next_state, terminated, actions, parameters):
    rest = q_table[state][1:]
    rest[0] += reward
    q_table[state][action] += reward


@pytest.mark.parametrize("update", [doubles_a_row, adds_rows, writes_to_a_slice])
@pytest.mark.parametrize("learn", [lambda agent: agent.learn(30), lambda agent: a_replaying(agent).learn(30)])
def test_a_rule_that_learns_another_thing_compiled_than_stepped_is_refused_compiled(update, learn):
    single = type("Own", (td.QLAgent,), {"kernel": td.Rule(update)})
    agent = single(td.FrozenLakeEnv(), 0.3, 0.1, initial_value=5.0, max_step=50)
    with pytest.raises(TypeError, match=r"learns one thing when rows of the q_table are lists \(stepped\)"):
        learn(agent)


def a_replaying(agent):
    team = type("Team", (td.DistributedQLAgent,), {"single": type(agent)})
    return team(td.FrozenLakeEnv(), 0.3, 0.1, initial_value=5.0, max_step=50, do_test=False, workers=td.InProcess())


def repeats_a_row(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state] *= 2


def test_a_row_that_grew_is_refused_where_it_grew():
    agent = type("Own", (td.QLAgent,), {"kernel": td.Rule(repeats_a_row)})(td.FrozenLakeEnv(), compiled=False)
    with pytest.raises(ValueError, match="a row of the q_table must have 4 values") as caught:
        agent.learn(1)
    assert any("repeats_a_row, line" in note for note in caught.value.__notes__)


# Mistakes that compiled code would miss -------------------------------------------------------


def divides_at_the_goal(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] += 0.1 / (reward - 1000.0)


@pytest.mark.parametrize("compiled, error", [(True, FloatingPointError), (False, ZeroDivisionError)])
def test_a_division_by_zero_after_the_first_episode_is_told(compiled, error):
    agent = type("Own", (td.QLAgent,), {"kernel": td.Rule(divides_at_the_goal)})(
        td.FrozenLakeEnv(["SHHH", "FFFG"]), 1.0, compiled=compiled, max_step=300, seed=1
    )
    agent.kernel.rehearse(agent.q_table, agent.simulator, agent.actions, agent.parameters(), 0)
    with pytest.raises(error):
        agent.learn(300)
    assert agent.episode == 0 and not agent.q_table.any()


def test_actions_that_are_not_the_tables_are_refused():
    table = td.FrozenLakeEnv().table.packed
    parameters = td.QLAgent(td.FrozenLakeEnv()).parameters()
    with pytest.raises(ValueError, match="actions must number 4, as in the simulator, got 6"):
        td.q_learning(np.zeros((17, 6)), table, tuple(range(6)), parameters, 0, 5)


# Changing objects that a rule reads -----------------------------------------------------------

RECORD = np.array([(1.0,)], [("scale", "f8")])[0]
OF_A_RULE = types.ModuleType("settings_of_a_rule")
OF_A_RULE.scale = 1.0


def reads_a_record(q_table, state, action, reward, next_state, terminated, actions, parameters):
    q_table[state][action] = RECORD["scale"] * reward


def reads_a_module_by_a_local_name(q_table, state, action, reward, next_state, terminated, actions, parameters):
    own = OF_A_RULE
    q_table[state][action] = own.scale * reward


@pytest.mark.parametrize("update, change", [
    (reads_a_record, lambda value: RECORD.__setitem__("scale", value)),
    (reads_a_module_by_a_local_name, lambda value: setattr(OF_A_RULE, "scale", value)),
])  # fmt: skip
def test_what_changes_in_place_is_read_again(update, change):
    change(1.0)
    agent = type("Own", (td.QLAgent,), {"kernel": td.Rule(update)})(td.FrozenLakeEnv(), seed=1)
    agent.learn(20)
    before = agent.q_table.copy()
    change(2.0)
    agent.learn(2000)
    assert agent.q_table.min() == 2 * before.min() == -2000.0


def test_a_module_of_settings_that_differs_elsewhere_is_told(tmp_path, monkeypatch):
    (tmp_path / "settings_in_a_file.py").write_text("scale = 1.0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    space = {"td": td, "__name__": "__main__"}
    code = (
        "import settings_in_a_file\n"
        "def update(q_table, state, action, reward, next_state, terminated, actions, parameters):\n"
        "    q_table[state][action] = settings_in_a_file.scale * reward\n"
        "rule = td.Rule(update)"
    )
    exec(code, space)
    alike = pickle.dumps(space["rule"])
    assert isinstance(pickle.loads(alike), td.Rule)
    space["settings_in_a_file"].scale = 3.0
    sent = pickle.dumps(space["rule"])
    space["settings_in_a_file"].scale = 1.0  # as in a process that imports the file
    with pytest.raises(RuntimeError, match=r"settings_in_a_file\.scale, which is 3.0 in the process that sent it"):
        pickle.loads(sent)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_policy_may_return_a_truth(compiled):
    def policy(row, actions, epsilon, explore):
        return row[1] > row[0]

    for simulator in (td.FrozenLakeEnv(), Ring()):
        agent = type("Own", (td.QLAgent,), {"kernel": td.Rule(td.q_learning_update, policy)})(
            simulator, compiled=compiled and simulator.observation_space.n == 17, max_step=20
        )
        agent.learn(3)
        assert agent.steps > 0
