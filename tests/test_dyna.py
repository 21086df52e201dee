"""Dyna-Q: exact counts, plans that solve the counted model, and agents that share both."""

import itertools
import random

import gym
import gym.envs.toy_text
import gymnasium
import gymnasium.envs.toy_text
import numpy as np
import pytest
from helpers import NO_SLIP, Ring, batches_of, corridor, interrupted, killing_before, learned

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, dyna, planning
from beyond.figures.worlds import dyna_maze
from tabular.simulated_ray import simulated

HALLWAY = td.FrozenLakeEnv(map_name="Dangerous Hallway")
LAKE = td.FrozenLakeEnv(map_name="16x16")
NOTHING = np.zeros(0, np.int32)
END = 3  # the end of an episode, in a model of three states


def rows_of(*rows) -> np.ndarray:
    """Return counts as an array, from rows (pair, next_state, count, reward_sum)."""
    return np.array(list(rows), planning.ROW)


def random_counts(states: int, actions: int, rows: int, seed: int = 0) -> np.ndarray:
    """Return counts of a random model with integer rewards."""
    rng = np.random.default_rng(seed)
    keys = rng.choice(states * actions * (states + 1), rows, replace=False)
    count, reward = rng.integers(1, 20, rows), -rng.integers(1, 5, rows)
    return rows_of(*zip(keys // (states + 1), keys % (states + 1), count, count * reward, strict=True))


def planner_of(states: int, actions: int, value: float) -> planning.Planner:
    """Return a planner without a model, in which all pairs have the same value."""
    values = np.append(np.full(states, value), 0.0)
    return planning.Planner.of(np.full((states, actions), value), values, NOTHING)


def planned(counts: np.ndarray, states: int, actions: int, value=0.0, tolerance=1e-9, steps=10**6, prior=0.0):
    """Plan from counts; return (model, planner)."""
    model, planner = planning.Model.empty(states, actions).with_room(len(counts)), planner_of(states, actions, value)
    planning.learn_counts(model, planner, counts, 0.9, tolerance, steps, prior, value, np.zeros(1, np.bool_))
    return model, planner


def pair(agent_class=DynaQAgent, simulator=LAKE, **settings):
    """Return an agent; a distributed one needs no Ray."""
    settings = {"learning_episodes": 300, "test_interval": 100, "trials": 5} | settings
    if agent_class is DistributedDynaQAgent:
        settings = {"ew_num": 1, "workers": td.InProcess()} | settings
    return agent_class(simulator, **settings)


def everything(agent) -> tuple:
    """Return an agent's learned state including counts, for comparison bit for bit."""
    planner = agent._learned.planner
    return *learned(agent), agent.counts.tobytes(), planner.values.tobytes(), planner.waiting().tobytes()


def run(agent) -> tuple:
    agent.learn_and_evaluate(progress=False)
    return everything(agent)


# Counts -----------------------------------------------------------------------------------


def test_experience_is_counted_by_hand():
    # State 0 leads to 1 (-1), 1 to 1 (-1), 1 to the end (5); then 0 to 2 (-2), where the episode is cut.
    pairs, rewards = np.array([0, 2, 3, -1, 0, -4], np.int32), np.array([-1.0, -1.0, 5.0, 0.0, -2.0, 0.0])
    model = planning.Model.empty(3, 2)
    for _ in range(2):
        planning.count_steps(model, pairs, rewards, 2)
    assert model.counts().tolist() == [(0, 1, 2, -2.0), (2, 1, 2, -2.0), (3, END, 2, 10.0), (0, 2, 2, -4.0)]
    assert model.visits.tolist() == [4, 0, 2, 2, 0, 0]


def test_a_cut_is_no_end():
    agent = pair(simulator=Ring(ends=False), max_step=7, initial_value=0.0, do_test=False)
    agent.learn(20)
    assert agent.steps == 140 == agent.counts["count"].sum()
    assert (agent.counts["next_state"] < 5).all()


def test_counts_add_up_whatever_the_order_and_the_shares():
    counts = random_counts(6, 3, 60)
    whole, planner = planned(counts, 6, 3)
    halves = counts.copy(), counts.copy()
    halves[0]["count"], halves[0]["reward_sum"] = 1, -3.0
    halves[1]["count"], halves[1]["reward_sum"] = counts["count"] - 1, counts["reward_sum"] + 3.0
    model = planning.Model.of(np.random.default_rng(1).permutation(np.concatenate(halves)), 6, 3)
    assert sorted(model.counts().tolist()) == sorted(whole.counts().tolist())
    assert np.array_equal(model.visits, whole.visits)
    again = planner_of(6, 3, 0.0)
    planning.plan_anew(model, again, 0.9, 1e-9, 0.0, 0.0)
    planning.sweep(model, again, 0.9, 1e-9, 0.0, 10**6)
    np.testing.assert_allclose(again.q_table, planner.q_table, atol=1e-6)


def test_more_outcomes_than_expected_are_all_kept():
    states = 3000
    counts = rows_of(*((1, next_state, 2, -2.0) for next_state in range(states + 1)))
    model, planner = planned(counts, states, 2)
    assert np.array_equal(model.counts(), counts)
    assert model.visits[1] == 2 * (states + 1) and planner.q_table[0, 1] == -1.0


def test_forgetting_leaves_an_empty_model():
    model = planning.Model.of(random_counts(5, 2, 30), 5, 2).forgotten()
    assert len(model.counts()) == 0 and not model.visits.any()
    assert (model.outcomes == -1).all() and (model.sources == -1).all()


# Plans ------------------------------------------------------------------------------------


def test_a_backup_by_hand():
    # Pair 0 was tried four times: three times to state 1, once to the end, and was paid -3 + 7.
    _, planner = planned(rows_of((0, 1, 3, -3.0), (0, END, 1, 7.0)), 3, 2, value=20.0, steps=0)
    assert planner.q_table.tolist() == [[1.0 + 0.9 * 0.75 * 20.0, 20.0], [20.0, 20.0], [20.0, 20.0]]


def test_a_backup_with_a_prior_by_hand():
    # As above, with half an imaginary outcome worth 20: (-3 + 7 + 0.9 * 3 * 20 + 0.5 * 20) / 4.5. Untried pairs stay.
    _, planner = planned(rows_of((0, 1, 3, -3.0), (0, END, 1, 7.0)), 3, 2, value=20.0, steps=0, prior=0.5)
    assert planner.q_table.tolist() == [[68.0 / 4.5, 20.0], [20.0, 20.0], [20.0, 20.0]]


def test_what_is_found_at_the_end_travels_back_at_once():
    chain = rows_of((0, 1, 1, -1.0), (1, 2, 1, -1.0), (2, END, 1, 10.0))
    _, planner = planned(chain, 3, 1, steps=0)
    assert planner.q_table[:, 0] == pytest.approx([-1 + 0.9 * (-1 + 0.9 * 10), -1 + 0.9 * 10, 10])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prior", [0.0, 0.01, 3.0])
def test_a_plan_solves_the_model(prior, seed):
    """With a prior: the model in which each pair also ended `prior` times, with a reward of 50."""
    states, actions = 12, 3
    counts = random_counts(states, actions, 250, seed)
    model, planner = planned(counts, states, actions, value=50.0, tolerance=1e-10, prior=prior)
    assert (model.visits > 0).all() and len(planner.waiting()) == 0
    P = {state: {action: [] for action in range(actions)} for state in range(states)}
    mean_rewards, weights = np.bincount(counts["pair"], counts["reward_sum"]) / model.visits, model.visits + prior
    for number, next_state, count, _ in counts.tolist():
        outcome = (count / weights[number], next_state % states, mean_rewards[number], next_state == states)
        P[number // actions][number % actions].append(outcome)
    for number, weight in enumerate(weights):
        P[number // actions][number % actions].append((prior / weight, 0, 50.0, True))
    optimal = td.value_iteration(td.TransitionTable.from_lists(P, np.eye(states)[0]), beta=0.9)
    np.testing.assert_allclose(planner.q_table, optimal, atol=1e-7)


def test_what_is_left_to_plan_waits_for_the_next_time():
    counts = random_counts(40, 2, 900)
    _, at_once = planned(counts, 40, 2, value=30.0)
    model, planner = planned(counts, 40, 2, value=30.0, steps=0)
    assert len(planner.waiting()) > 0
    resumed = planning.Planner.of(planner.q_table, planner.values, planner.waiting())
    for _ in range(10_000):
        planning.sweep(model, resumed, 0.9, 1e-9, 0.0, 3)
    assert len(resumed.waiting()) == 0
    np.testing.assert_allclose(resumed.q_table, at_once.q_table, atol=1e-6)


def test_compiled_kernels_equal_their_plain_python(monkeypatch):
    agent = pair(simulator=HALLWAY, do_test=False)
    collected = td.CollectingWorker(agent).collect(td.Snapshot(agent.q_table, 0), 0, 3)

    def results():
        worker = planning.Model.empty(65, 4).with_room(5000)
        planning.count_steps(worker, collected.pairs, collected.rewards.astype(float), 4)
        counts = worker.counts()
        planning.forget(worker)
        model, planner, switch = planning.Model.of(counts, 65, 4), planner_of(65, 4, 1000.0), np.zeros(1, np.bool_)
        for steps in (0, 1, 3):
            model = model.with_room(len(counts))
            planning.learn_counts(model, planner, counts, 0.999, 0.1, steps, 0.3, 1000.0, switch)
        planning.record_counts(model, counts, switch)
        planning.plan_anew(model, planner, 0.99, 0.1, 0.3, 1000.0)
        parts = [*worker[1:], *model[1:], model.counts(), *planner, switch]
        return [np.array(part).tobytes() for part in parts]

    compiled = results()
    for name, function in vars(planning).items():
        if hasattr(function, "py_func"):
            monkeypatch.setattr(planning, name, function.py_func)
    assert results() == compiled


# Agents -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("Dangerous Hallway", 50_000), ("16x16", 200_000), ("32x32", 1_500_000)])
def test_it_finds_the_optimum(name, steps):
    lake = td.FrozenLakeEnv(map_name=name)
    agent = DynaQAgent(lake, do_test=False)
    while agent.steps < steps:
        agent.learn(100)
    best = td.value_iteration(lake.table)[0].max()
    assert td.policy_value(lake.table, agent.q_table)[0] == pytest.approx(best, abs=5)


@pytest.mark.parametrize("cw_num", [1, 2, 4, 8])
def test_with_the_settings_of_the_assignment_it_leaves_the_hallway(cw_num):
    for seed in range(5):
        agent = pair(
            DistributedDynaQAgent, HALLWAY, epsilon=0.3, learning_rate=0.001, seed=seed, cw_num=cw_num, do_test=False
        )
        agent.learn(2000)
        assert td.policy_value(HALLWAY.table, agent.q_table)[0] > 950  # the best route through the hallway: 807


@pytest.mark.parametrize(
    ("make", "episodes"),
    [
        (gym.envs.toy_text.TaxiEnv, 1500), (gym.envs.toy_text.CliffWalkingEnv, 300),
        (gymnasium.envs.toy_text.FrozenLakeEnv, 1500), (gymnasium.envs.toy_text.CliffWalkingEnv, 300),
    ],
)  # fmt: skip
def test_envs_of_gym(make, episodes):
    agent = DynaQAgent(make(), do_test=False)
    agent.learn(episodes)
    table = td.TransitionTable.from_env(agent.simulator.unwrapped)
    start = table.start > 0
    best = td.value_iteration(table).max(axis=1)[start].mean()
    assert agent.compiled
    assert td.policy_value(table, agent.q_table)[start].mean() == pytest.approx(best, abs=0.05 * max(1, abs(best)))


SETTINGS = {
    "tested": {},
    "batches cut by tests": {"batch_size": 7, "test_interval": 20},
    "no tests": {"batch_size": 70, "do_test": False},
    "little planning": {"planning_steps": 1, "tolerance": 1e-6},
    "a prior": {"prior": 0.1, "batch_size": 1},
    "as the assignment has it": {"epsilon": 0.3, "learning_rate": 0.001, "initial_value": 0.0},
    "random ties": {"ties": "random", "initial_value": 0.0, "epsilon": 0.0},
    "stepped": {"compiled": False, "learning_episodes": 30, "test_interval": 10},
    "without P": {"simulator": Ring(), "initial_value": 0.0, "learning_episodes": 30, "test_interval": 10},
}
settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@settings
def test_one_worker_equals_the_single_core(settings):
    assert run(pair(DistributedDynaQAgent, cw_num=1, **settings)) == run(pair(**settings))


@pytest.mark.filterwarnings("ignore:a batch of")
@settings
def test_runs_repeat_bit_for_bit(settings):
    first, second = (run(pair(DistributedDynaQAgent, cw_num=3, **settings)) for _ in range(2))
    assert first == second


def test_stepping_its_own_lake_it_learns_what_it_learns_compiled():
    lake = corridor(6, transition_prob=NO_SLIP)
    shared = {"epsilon": 0.0, "learning_episodes": 30, "test_interval": 10}
    assert run(pair(simulator=lake, **shared)) == run(pair(simulator=lake, compiled=False, **shared))


@pytest.mark.filterwarnings("ignore:a batch of")
@pytest.mark.parametrize(("cw_num", "in_flight"), [(2, 2), (5, 2), (40, 2), (1, 3), (2, 3), (5, 4)])
def test_rounds_are_what_the_roles_do_in_turn(cw_num, in_flight):
    agent = pair(DistributedDynaQAgent, HALLWAY, cw_num=cw_num, batch_size=3, in_flight=in_flight)
    worker = pair(simulator=HALLWAY)
    collector, server, fresh = dyna.DynaWorker(worker), dyna.DynaServer(worker), agent._snapshots()[-1]
    server.begin(fresh)
    snapshots = [fresh] * (in_flight - 1)  # collectors act on the oldest
    for first, episodes in batches_of(300, 3 * cw_num, 100):
        cuts = [first + episodes * i // cw_num for i in range(cw_num + 1)]
        shares = [(start, end - start) for start, end in itertools.pairwise(cuts) if end > start]
        reports = [collector.collect(snapshots[0], *share) for share in shares]
        snapshot = server.learn(agent._planning(), *reports)
        snapshots = [*snapshots[1:], snapshot]
    agent.learn_and_evaluate(progress=False)
    assert (agent.q_table.tobytes(), agent.steps) == (snapshot.q_table.tobytes(), snapshot.steps)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}, {"compiled": False, "learning_episodes": 30}])
def test_without_planning_it_is_q_learning_that_counts(settings):
    shared = {"initial_value": 50.0, "test_interval": 10, "trials": 2}
    ours = pair(simulator=HALLWAY, planning_steps=0, **(shared | settings))
    settings = {name: value for name, value in settings.items() if name != "batch_size"}
    theirs = td.QLAgent(HALLWAY, 0.05, 0.1, **({"learning_episodes": 300} | shared | settings))
    for agent in (ours, theirs):
        agent.learn_and_evaluate(progress=False)
    assert learned(ours) == learned(theirs)
    assert ours.counts["count"].sum() == ours.steps


def test_a_prior_and_planning_may_change_on_the_way():
    changed, whole = pair(simulator=HALLWAY, planning_steps=0, do_test=False), pair(simulator=HALLWAY, do_test=False)
    changed.learn(100)
    changed.planning_steps, changed.prior = 10**6, 0.2
    changed.learn(10)
    model = planning.Model.of(changed.counts, 65, 4)
    planner = planner_of(65, 4, 1000.0)
    planning.plan_anew(model, planner, whole.beta, 1e-9, 0.2, 1000.0)
    planning.sweep(model, planner, whole.beta, 1e-9, 0.2, 10**7)
    np.testing.assert_allclose(changed.q_table, planner.q_table, atol=1.0)


def test_a_prior_tries_a_pair_again_that_failed_once():
    """Two arms: one pays 1, the other 100 once in four tries, and nothing when it is first tried."""

    class Arms(Ring):
        def step(self, action):
            pays = 1.0 if action == 0 else 100.0 * (self.np_random.random() < 0.25)
            return 0, pays, True, False, {}

    def pulls(prior, seed):
        agent = DynaQAgent(Arms(), 0.0, batch_size=1, initial_value=100.0, prior=prior, do_test=False, seed=seed)
        agent.learn(200)
        counts = agent.counts
        return counts["count"][counts["pair"] == 1].sum()

    failed = [seed for seed in range(10) if pulls(0.0, seed) == 1]
    assert failed
    assert all(pulls(0.5, seed) > 100 for seed in failed)


def test_rewards_that_vary_are_summed():
    agent = pair(DistributedDynaQAgent, Ring(), cw_num=3, initial_value=0.0, learning_episodes=90, do_test=False)
    agent.learn_and_evaluate(progress=False)
    ahead = agent.counts[agent.counts["pair"] % 2 == 1]
    means = ahead["reward_sum"] / ahead["count"]
    assert ((means > -1.25) & (means < -1.0)).all() and len(np.unique(means)) == 5
    assert agent.q_table.argmax(axis=1).all()


def test_values_start_at_the_highest_reward_or_at_what_is_given():
    assert (DynaQAgent(HALLWAY).q_table == 1000.0).all()
    assert (DynaQAgent(HALLWAY, compiled=False).q_table == 1000.0).all()
    assert (DynaQAgent(HALLWAY, initial_value=7).q_table == 7.0).all()
    assert DynaQAgent(HALLWAY).tolerance == pytest.approx(0.1)
    with pytest.raises(ValueError, match="initial_value must be given"):
        DynaQAgent(Ring())


@pytest.mark.parametrize(
    ("name", "value"),
    [("planning_steps", -1), ("planning_steps", 2.5), ("tolerance", 0.0), ("tolerance", float("nan")),
     ("batch_size", 0), ("initial_value", float("inf")), ("epsilon", 2), ("prior", -0.1), ("prior", "1"),
     ("prior", float("nan")), ("prior", 1e7)],
)  # fmt: skip
@pytest.mark.parametrize("agent_class", [DynaQAgent, DistributedDynaQAgent])
def test_bad_settings_are_refused(agent_class, name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        pair(agent_class, HALLWAY, **{name: value})


def test_workers_without_a_plan_are_refused():
    with pytest.raises(ValueError, match=r"planning_steps must be 1 or more, got 0: workers' own tables are lost"):
        pair(DistributedDynaQAgent, HALLWAY, planning_steps=0)


def test_the_largest_prior_and_value_do_not_overflow():
    agent = pair(simulator=HALLWAY, prior=1e6, initial_value=-1e300, do_test=False)
    agent.learn(3)
    assert np.isfinite(agent.q_table).all()


def test_an_assigned_table_and_another_beta_are_planned_with():
    agent = pair(simulator=HALLWAY, do_test=False, epsilon=0.3)
    agent.learn(1000)
    agent.beta = 0.9
    agent.learn(1000)
    fresh = pair(simulator=HALLWAY, do_test=False, beta=0.9)
    fresh.q_table = np.full((65, 4), 1000.0)
    model, planner = fresh._learned.model.of(agent.counts, 65, 4), fresh._learned.planner
    planning.plan_anew(model, planner, 0.9, 1e-9, 0.0, 0.0)
    planning.sweep(model, planner, 0.9, 1e-9, 0.0, 10**7)
    np.testing.assert_allclose(agent.q_table, planner.q_table, atol=1.0)
    agent.q_table = np.full((65, 4), -5000.0)
    agent.learn(20)
    assert (agent.q_table[-1] == -5000.0).all()  # no one acts in the exit state
    assert agent.q_table[0].max() > -1000.0


def test_a_table_taken_from_an_agent_does_not_change_when_it_goes_on():
    agent = pair(simulator=HALLWAY, do_test=False)
    agent.learn(20)
    q_table = agent.q_table
    bits = q_table.tobytes()
    agent.learn(20)
    assert q_table.tobytes() == bits != agent.q_table.tobytes()


# Interrupts, saves and kills -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent_class", "flying"),
    [(DynaQAgent, {}), (DistributedDynaQAgent, {"in_flight": 2}), (DistributedDynaQAgent, {"in_flight": 4})],
)
@pytest.mark.parametrize("planning", [{"planning_steps": 1}, {"planning_steps": 50}, {"prior": 0.5}])
def test_interrupted_saved_and_loaded_it_goes_on_to_the_same_bits(monkeypatch, tmp_path, agent_class, flying, planning):
    settings = {"simulator": HALLWAY, "tolerance": 1e-5, **planning, **flying}
    stopped, other, path = pair(agent_class, **settings), pair(agent_class, **settings), tmp_path / "agent.npz"
    with interrupted(monkeypatch, td.CollectingWorker, "collect", 12):
        stopped.learn_and_evaluate(progress=False)
    assert 0 < stopped.episode < 300 and stopped.counts["count"].sum() == stopped.steps
    stopped.save(path)
    whole = run(pair(agent_class, **settings))
    assert run(stopped) == whole
    assert run(other.load(path)) == whole


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({}, "it has prior 0.2, this agent has 0.0"),
        ({"prior": 0.2, "initial_value": 7}, "it has initial_value 1000.0, this agent has 7.0"),
    ],
)
def test_a_save_with_another_prior_is_refused(tmp_path, own, message):
    saved, path = pair(simulator=HALLWAY, prior=0.2), tmp_path / "agent.npz"
    saved.learn(20)
    saved.save(path)
    with pytest.raises(ValueError, match=message):
        pair(simulator=HALLWAY, **own).load(path)


@pytest.mark.parametrize("change", [{"beta": 0.9}, {"prior": 0.5}, {"planning_steps": 0}])
def test_a_setting_changed_before_a_save_is_planned_with_after_the_load(tmp_path, change):
    saved, path = pair(simulator=HALLWAY, prior=0.2, do_test=False), tmp_path / "agent.npz"
    saved.learn(50)
    for name, value in change.items():
        setattr(saved, name, value)
    saved.save(path)
    loaded = pair(simulator=HALLWAY, **({"prior": 0.2, "do_test": False} | change)).load(path)
    for agent in (saved, loaded):
        agent.learn(20)
    assert everything(saved) == everything(loaded)


def test_an_interrupt_within_a_load_leaves_the_agent_as_it_was(monkeypatch, tmp_path):
    saved, other, path = pair(simulator=HALLWAY), pair(simulator=HALLWAY), tmp_path / "agent.npz"
    saved.learn(50)
    saved.save(path)
    other.learn(20)
    before = everything(other)
    with interrupted(monkeypatch, dyna.Model, "of", 1):  # after the table is committed, before the counts are
        other.load(path)
    assert everything(other) == before
    other.learn(30)
    assert other.episode == 50 and other.counts["count"].sum() == other.steps


def test_an_interrupt_between_the_counts_and_the_table_does_not_part_them(monkeypatch):
    agent = pair(simulator=HALLWAY)
    learn_counts = dyna.learn_counts

    def then_interrupt(*arguments):
        learn_counts(*arguments)
        if agent.episode == 50:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dyna, "learn_counts", then_interrupt)
        agent.learn_and_evaluate(progress=False)
    assert agent.episode == 50 and agent.counts["count"].sum() == agent.steps
    assert run(agent) == run(pair(simulator=HALLWAY))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counts_count", lambda array: array + 1),
        ("counts_pair", lambda array: array * 1000),
        ("counts_next_state", lambda array: array - 70),
        ("counts_reward_sum", lambda array: array[:-1]),
        ("counts_reward_sum", lambda array: array[:1]),
        ("waiting", lambda array: np.array([3, 3], np.int32)),
        ("waiting", lambda array: np.array([65], np.int32)),
        ("values", lambda array: array[1:]),
        ("values", lambda array: array[::-1]),
    ],
)
def test_a_save_that_cannot_be_is_refused(tmp_path, name, change):
    agent, path = pair(simulator=HALLWAY, do_test=False), tmp_path / "agent.npz"
    agent.learn(20)
    agent.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {name: change(arrays[name])}))
    other = pair(simulator=HALLWAY, do_test=False)
    before = everything(other)
    with pytest.raises(ValueError, match="is not a saved agent that this one can load: .*" + name[:6]):
        other.load(path)
    assert everything(other) == before


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("in_flight", [2, 3])
def test_over_ray_it_learns_the_same_bits_whatever_is_killed(in_flight, seed):
    settings = {"cw_num": 3, "ew_num": 1, "learning_episodes": 300, "test_interval": 60, "in_flight": in_flight}
    calm = run(pair(DistributedDynaQAgent, **settings))
    agent, rng = pair(DistributedDynaQAgent, workers=td.Workers(3, 1), **settings), random.Random(seed)
    moments = {rng.randrange(2, 15): [("server", 0)], rng.randrange(15, 30): [("collector", 1), ("server", 0)]}
    with simulated(seed), killing_before(agent.workers, moments) as hit:
        bits = run(agent)
    assert bits == calm and agent.restarts == len(hit) >= 2


# The book's example ---------------------------------------------------------------------------


def tabular_dyna_q(planning_steps: int, episodes: int, seed: int) -> list[int]:
    """Return the steps of each episode by the book's algorithm (page 164), with random replay and tie-breaking."""
    rng, maze, steps = random.Random(seed), dyna_maze(), []
    q_table, model = np.zeros((54, 4)).tolist(), {}

    def learn(state, action, next_state, reward, terminated):
        target = reward + (0.0 if terminated else 0.95 * max(q_table[next_state]))
        q_table[state][action] += 0.1 * (target - q_table[state][action])

    for _ in range(episodes):
        state, terminated, t = maze.reset()[0], False, 0
        while not terminated:
            best = [action for action in range(4) if q_table[state][action] == max(q_table[state])]
            action = rng.randrange(4) if rng.random() < 0.1 else rng.choice(best)
            next_state, reward, terminated, _, _ = maze.step(action)
            learn(state, action, next_state, reward, terminated)
            model[state, action] = state, action, next_state, reward, terminated
            if planning_steps:
                for outcome in rng.choices(list(model.values()), k=planning_steps):
                    learn(*outcome)
            state, t = next_state, t + 1
        steps.append(t)
    return steps


def test_the_dyna_maze_of_the_book():
    """Figure 8.2: a short path takes about 25 episodes without planning, 5 with 5 planning steps, and 3 with 50."""
    book = {n: np.mean([tabular_dyna_q(n, 30, seed) for seed in range(8)], axis=0) for n in (0, 5, 50)}
    assert book[0][1:10].min() > 100 and book[0][25:].mean() < 40
    assert book[5][1] > 60 and book[5][5:].mean() < 25
    assert book[50][2:].mean() < 21

    runs = []
    for seed in range(8):
        agent = DynaQAgent(dyna_maze(), 0.1, 0.1, beta=0.95, batch_size=1, planning_steps=5, seed=seed, do_test=False)
        ends = []
        for _ in agent.learn_in_batches(30):
            ends.append(agent.steps)
        runs.append(np.diff(ends, prepend=0))
    ours = np.mean(runs, axis=0)
    assert ours[2:].mean() < 20  # as early as the book's with ten times the planning
    assert td.policy_value(dyna_maze().table, agent.q_table, 0.95)[18] == pytest.approx(0.95**13)
