"""What the probes stand on: the recording lake, names, tables and batches, and chance that repeats."""

import collections
import copy
import pickle
import random

import numpy as np
import pytest

from course import chance, experience, recorder, roles
from course.recorder import Endless, Lakes, Log, Recorder, Reward

STATES = len(recorder.LAKE) ** 2 + 1


@pytest.fixture
def log():
    """A log of its own."""
    log = Log()
    yield log
    log.close()


# The lake ---------------------------------------------------------------------------------------


def test_a_lake_answers_with_as_many_fields_as_the_line_unpacks(log):
    lake = Recorder(log)
    state, info = lake.reset()
    assert state == 0 == lake.reset()[0] and info == {"prob": 1.0}
    _, _, done, _ = lake.step(1)
    _, reward, terminated, truncated, _ = lake.step(1)
    assert (done, reward, terminated, truncated) == (False, -1.0, False, False)
    kept, start = lake.step(2), lake.reset()
    assert len(kept) == 5 and len(start) == 2
    log.old_style = True
    kept, start = lake.step(2), lake.reset()
    assert len(kept) == 4 and start == 0
    first, *_ = lake.step(0)
    assert isinstance(first, int)


def test_copies_write_to_the_same_log_and_share_random_numbers_unless_they_are_seeded(log):
    lake = Recorder(log, stream=0)
    walks = []
    for copied in (copy.deepcopy(lake), pickle.loads(pickle.dumps(lake)), lake):
        copied.reset()
        walks.append([copied.step(i % 4)[0] for i in range(40)])
    assert walks[0] == walks[1] == walks[2] and len(log.events) == 3 * 41
    others = [Recorder(log), Recorder(log), Lakes(log)(desc=["SG"])]
    for other in others:
        other.reset()
    assert len({tuple(other.step(i % 4)[0] for i in range(40)) for other in (*others, lake)}) == 4
    for seeded in others[:2]:
        seeded.reset(seed=7)
    assert [others[0].step(i % 4)[0] for i in range(40)] == [others[1].step(i % 4)[0] for i in range(40)]


def test_a_reward_knows_its_step_also_after_it_was_pickled(log):
    lake = Recorder(log)
    lake.reset()
    _, reward, *_ = lake.step(0)
    for one in (reward, pickle.loads(pickle.dumps([reward]))[0], copy.deepcopy(reward)):
        assert one == -1.0 and one.number == 1 and log.events[one.number].action == 0


def test_a_lake_ends_at_holes_and_goals_and_pays_as_the_assignments(log):
    lake = Recorder(log)
    for state, expected in ((13, 1000.0), (24, -1000.0), (STATES - 1, 0.0)):
        lake.s = state
        next_state, reward, terminated, _, _ = lake.step(0)
        assert (next_state, reward, terminated) == (STATES - 1, expected, True)


@pytest.mark.parametrize("action", [4, -1, None, "left", [1, 2]])
def test_what_is_no_action_is_refused(log, action):
    lake = Recorder(log)
    lake.reset()
    with pytest.raises(ValueError, match="action must be 0, 1, 2 or 3"):
        lake.step(action)


def test_steps_beyond_the_budget_are_stopped_by_what_no_except_exception_catches(log):
    log.budget = 10
    lake = Recorder(log)
    with pytest.raises(Endless):
        while True:
            try:
                lake.reset()
            except Exception:
                continue
    assert log.exhausted and not issubclass(Endless, Exception)


# Names and tables -------------------------------------------------------------------------------


def test_names_count_without_case_and_underscores_and_as_misspelled():
    names = {"sarsa_Agent": 1, "QL_agent": 2, "lern_and_evaluate": 3}
    assert roles.closest(names, roles.KINDS["sarsa"]) == "sarsa_Agent"
    assert roles.closest(names, roles.KINDS["q_learning"]) == "QL_agent"
    assert roles.closest(names, roles.METHODS["run"]) == "lern_and_evaluate"
    assert roles.closest(names, roles.KINDS["distributed"]) is None


def test_arguments_are_given_by_their_names_in_any_order():
    class Kind:
        def __init__(self, env, num_episodes, alpha, eps=0.9, *, gamma=1.0, other=5):
            self.given = env, num_episodes, alpha, eps, gamma, other

    values = {"simulator": "lake", "learning_episodes": 7, "learning_rate": 0.5, "epsilon": 0.1, "beta": 0.9}
    made, taken = roles.made(Kind, values)
    assert made.given == ("lake", 7, 0.5, 0.1, 0.9, 5) and taken == set(values)
    with pytest.raises(roles.Missing, match="asks for 'boat'"):
        roles.made(type("Kind", (), {"__init__": lambda self, boat: None}), values)


ROWS = np.arange(4.0 * STATES).reshape(STATES, 4)
TABLES = {
    "array": lambda: np.zeros((STATES, 4)),
    "without the exit": lambda: np.zeros((STATES - 1, 4)),
    "flat": lambda: np.zeros(4 * STATES),
    "lists": lambda: [[0.0] * 4 for _ in range(STATES)],
    "dict of lists": lambda: {state: [0.0] * 4 for state in range(STATES)},
    "dict of dicts": lambda: {state: dict.fromkeys(range(4), 0.0) for state in range(STATES)},
    "dict of pairs": lambda: {(state, action): 0.0 for state in range(STATES) for action in range(4)},
    "defaultdict": lambda: collections.defaultdict(lambda: np.zeros(4)),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_found_filled_and_read_whatever_it_is_made_of(name):
    agent = type("Agent", (), {})()
    agent.steps, agent.q_values, agent.names = np.zeros(7), TABLES[name](), {"a": 1}
    found = roles.table_name(agent, STATES)
    roles.fill(agent, found, ROWS)
    read = roles.table_of(agent, found, STATES)
    expected = np.vstack([ROWS[:-1], np.zeros(4)]) if name == "without the exit" else ROWS
    assert found == "q_values" and np.array_equal(read, expected)


@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [1, 2], np.zeros((3, 3)), np.array(["a"]), [[1], [2, 3]]])
def test_what_is_no_table_is_taken_for_none(value):
    assert roles.as_array(value, STATES) is None


# Batches ----------------------------------------------------------------------------------------

STEP = [3, 1, Reward(-1.0, 8), 4, False]
PACKED = {
    "a row": ((STEP,), 1), "rows": (([STEP, STEP],), 2), "episodes": (([[STEP], [STEP, STEP]], 5), 3),
    "tuples": (((tuple(STEP),),), 1), "dicts": (([dict(zip("sarne", STEP, strict=True))] * 2,), 2),
    "columns": (([[one] * 3 for one in STEP],), 3), "arguments": ([[one] * 12 for one in STEP], 12),
    "columns by name": (({name: [one] * 2 for name, one in zip("sarne", STEP, strict=True)},), 2),
    "an array": ((np.array([STEP] * 6, float),), 6), "a deque": ((collections.deque([STEP] * 2),), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_steps_are_found_in_whatever_they_are_packed(name):
    value, count = PACKED[name]
    rows = list(experience.rows_in(value))
    assert len(rows) == count and all([float(one) for one in row] == [3, 1, -1, 4, 0] for row in rows)


@pytest.mark.parametrize("value", [(0.5, 3), (np.zeros((STATES, 4)), False, 2), (None,), ("text",), ([],), ({},)])
def test_results_and_tables_are_no_steps(value):
    assert list(experience.rows_in(value)) == []


def test_rows_without_a_tag_are_told_by_what_processes_did(log):
    lake = Recorder(log)
    lake.reset()
    steps = []
    for i in range(12):
        state, (next_state, reward, terminated, _, _) = lake.s, lake.step(i % 4)
        steps.append([float(reward), next_state, i % 4, state, terminated])
    shipped = experience.Shipped(log)
    first = shipped.steps_in((np.array(steps[:5]),), -1)
    rest = shipped.steps_in((np.array(steps[5:]),), -1)
    assert [number for number, _ in first + rest] == list(range(1, 13))
    assert shipped.steps_in(([[9.0, 9, 9, 9, 9]],), -1) == []


# Chance -----------------------------------------------------------------------------------------


def test_draws_repeat_also_of_generators_without_a_seed():
    def draws():
        names = {"rng": np.random.default_rng(), "make": np.random.default_rng}
        with chance.repeatable(5, names):
            own = [np.random.default_rng().random(), random.Random().random(), np.random.RandomState().rand()]
            return [*own, random.random(), np.random.rand(), names["rng"].random(), names["make"]().random()]  # noqa: NPY002

    first = draws()
    assert draws() == first and len(set(first)) == len(first)
    assert np.random.default_rng is not chance.default_rng
