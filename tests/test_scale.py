"""Experiments with many workers: rules of merging, steps to a target, and what a round costs."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import td_helpers as td
from beyond.federated import Report
from beyond.figures import dyna_large, merging, round_cost, scaling, until, variants
from beyond.figures.until import EACH_OF_THREE, MEAN_OF_FIVE, clocked, rough_value, until_good
from figures.assignment import HALLWAY, SINGLE
from tabular.plan import Batch

LAKE = td.FrozenLakeEnv(map_name=HALLWAY)


def combined(kind, values, *reports, rate=0.5):
    """The old values after a server of a kind has combined reports (pairs, values, visits) into them."""
    values = np.array(values, float)
    server = kind(td.QLAgent(td.FrozenLakeEnv(), learning_rate=rate))
    whole = [
        Report(pairs if pairs is None else np.array(pairs, np.int32), np.array(local, float), np.array(visits), 0, 0.0)
        for pairs, local, visits in reports
    ]
    server.combine(values, 0.1, whole)
    return values.tolist()


def test_plain_averaging_counts_those_who_stayed_away_with_the_old_value():
    assert combined(variants.Averaging, [8, 0], ([0], [4], [3]), (None, [8, 6], [0, 1])) == [6, 3]


def test_importance_averaging_weights_a_value_by_one_over_what_was_kept():
    # three visits at 1/2 keep 1/8, one keeps 1/2: weights of 8 and 2
    assert combined(variants.ImportanceAveraging, [0], ([0], [10], [3]), ([0], [5], [1])) == [9]


def test_importance_averaging_does_not_overflow_after_very_many_visits():
    assert combined(variants.ImportanceAveraging, [0], ([0], [10], [50_000]), ([0], [5], [40_000])) == [10]


def test_adding_up_adds_the_differences():
    assert combined(variants.AddingUp, [1], ([0], [3], [1]), ([0], [0], [1])) == [2]


@pytest.mark.parametrize("rule", merging.RULES)
def test_rules_are_compared_at_the_same_local_rate(rule):
    case = {"algorithm": "SARSA", "workers": 4, "learning_rate": 0.1, "epsilon": 0.3, "seed": 1, "episodes": 400}
    row = merging.merging_run(rule=rule, batch_size=10, **case)[0]
    assert row["local_rate"] == 0.2


@pytest.mark.parametrize("algorithm, workers, variant", [
    ("Q-learning", SINGLE, "default"),
    ("SARSA", 4, "default"),
    *(("Q-learning", 4, variant) for variant in variants.VARIANTS),
])
def test_steps_to_the_target_are_counted(monkeypatch, algorithm, workers, variant):
    monkeypatch.setattr(scaling, "LOOKS", {8: 2_000})
    monkeypatch.setattr(scaling, "MOST", {8: 2_000_000})
    setting = algorithm, 8, workers, 5, variant, 1, 0, 0.1, 0.05, 0.08
    row = scaling.scaling_run(*setting)[0]
    assert 0 < row["first"] <= row["sustained"] < 2_000_000
    monkeypatch.setattr(scaling, "MOST", {8: 2_000})
    row = scaling.scaling_run(*setting)[0]
    assert np.isnan(row["sustained"])


def test_the_local_rate_is_that_of_the_experiment_and_capped():
    assert scaling.local_rate(2) == pytest.approx(1 - 0.99**3)
    assert (scaling.local_rate(16), scaling.local_rate(64)) == (0.2, 0.6)


def test_unequal_epsilons_go_from_a_fifth_to_four_times():
    agent = variants.Epsilons(LAKE, 0.1, cw_num=3, ew_num=0, do_test=False, workers=td.InProcess())
    told = []
    pool = SimpleNamespace(submit=lambda role, i, method, *arguments: told.append((role, arguments[-1])))
    agent._submit(pool, Batch(0, 0, 300), None)
    assert told[:3] == [("collector", pytest.approx(epsilon)) for epsilon in (0.02, 0.02 * 20**0.5, 0.4)]


def test_growing_rounds_grow_from_a_quarter_to_four_times():
    agent = variants.Growing(
        LAKE, 0.3, 0.1, 10**9, cw_num=2, ew_num=0, batch_size=20, do_test=False, workers=td.InProcess()
    )
    sizes = [batch.last - batch.first for batch, _ in zip(agent.learn_in_batches(10**9), range(70), strict=False)]
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (10, 160)


def test_asynchronous_reports_of_a_lone_worker_are_what_one_core_learns():
    settings = {"epsilon": 0.3, "learning_rate": 0.01, "do_test": False}
    alone = td.QLAgent(LAKE, **settings)
    worker = variants.Asynchronous(LAKE, cw_num=1, ew_num=0, workers=td.InProcess(), **settings)
    alone.learn(300)
    worker.learn(300)
    np.testing.assert_allclose(worker.q_table, alone.q_table, rtol=0, atol=1e-9)


def test_a_large_lake_is_learned_to_the_target():
    rows = [dyna_large.large_run(8, workers, 2, 0, 3, 0.05, 1_000, 200_000)[0] for workers in (1, 16)]
    assert all(0 < row["steps"] < 200_000 and row["bytes"] > 0 for row in rows)
    assert np.isnan(dyna_large.large_run(8, 1, 2, 0, 3, 0.05, 1_000, 10)[0]["steps"])


def test_parts_of_a_round_add_up():
    agent = td.QLAgent(LAKE, do_test=False)
    agent.learn(500)
    part = round_cost.round_parts(agent, 3, 10)
    assert part["skew"] >= 1 and part["steps"] >= 10 and part["report_bytes"] <= 12 * agent.q_table.size


def round_costs(merge: float, ray: float):
    """What a round costs where both grow in proportion to the workers, by a worker; learning takes 1 ms."""
    rows = [
        {"side": 64, "workers": count, "batch_size": size, "alone_seconds_a_step": 1e-6, "learn_seconds": 1e-3,
         "skew": 1.0, "steps": 1_000 * size, "merge_seconds": merge * count, "ray_seconds": ray * count,
         "driver_seconds": ray * count / 2}
        for count, size in itertools.product((2, 16, 64, 256), (100, 400))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def scaling_rows():
    """Sixteen workers and sixty-four that need as many steps as one core: a million, in ten rounds."""
    rows = [
        {"algorithm": "Q-learning", "side": 64, "workers": count, "batch_size": 100, "variant": "default",
         "map_seed": lake, "seed": 0, "first": 5e5, "sustained": 1e6, "first_rounds": 5}
        for count, lake in itertools.product((SINGLE, 16, 64), (1, 2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_product_is_steps_times_speed():
    data = {"round_cost": round_costs(1e-4, 1e-3), "scaling": scaling_rows()}
    found = round_cost.product(data, 64, 64, 100)
    # a second alone; ten rounds of 1 ms of learning, 6.4 of merging and 64 or 32 of Ray
    assert found.speed_up == pytest.approx((1 / 0.714, 1 / 0.394))


def held(values, rule, **settings):
    """The steps at which values, one after every hundred steps, first reach 10, and at which they are held there."""
    moments = [{"steps": 100 * i, "value": value} for i, value in enumerate(values, 1)]
    found = until_good(moments, lambda moment: moment["value"], 10, rule, **settings)
    return tuple(moment.get("steps") for moment in found)


def test_a_value_is_held_from_the_first_of_three_looks_in_a_row():
    assert held([9, 10, 11, 9, 10, 10, 12, 9], EACH_OF_THREE) == (200, 500)
    assert held([9, 10, 11, 9, 10, 10], EACH_OF_THREE) == (200, None)
    assert held([1, 2, 3], EACH_OF_THREE) == (None, None)


def test_a_mean_of_five_looks_is_held_in_the_middle_of_them():
    assert held([0, 20, 0, 0, 20, 10, 9, 11, 0], MEAN_OF_FIVE) == (200, 400)
    assert held([20, 20, 20, 20], MEAN_OF_FIVE) == (100, None)


def test_looks_are_taken_when_they_are_due():
    asked = []
    moments = [{"steps": steps} for steps in range(1, 100)]
    asks = lambda moment: asked.append(moment["steps"]) or 0.0
    until_good(moments, asks, 10, EACH_OF_THREE, next_look=lambda _, steps: 2 * steps, first_look=3, limit=40)
    assert asked == [3, 6, 12, 24, 48]  # one look beyond the limit
    asked.clear()
    until_good(moments, asks, 10, EACH_OF_THREE, next_look=lambda due, _: due + 40, first_look=10)
    assert asked == [10, 50, 90]


def test_a_learner_that_diverges_is_not_watched_further():
    assert held([10, np.nan, 10, 10, 10], EACH_OF_THREE) == (100, None)


def test_the_clock_stands_while_a_policy_is_judged(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(until.time, "perf_counter", lambda: now[0])

    def learning():
        for steps in (1, 2, 3):
            now[0] += 10.0
            yield None, steps

    seconds = []
    for moment in clocked(learning()):
        seconds.append(moment["seconds"])
        now[0] += 1_000.0  # judging
    assert seconds == [10.0, 20.0, 30.0]


def test_a_hopeless_policy_is_judged_by_its_trials_and_a_good_one_exactly():
    agent = td.QLAgent(LAKE, do_test=False)
    judge = rough_value(agent, target=800, trials=2, hopeless=100)
    assert judge({}) == agent.evaluate(trials=2) < 0
    agent.q_table = td.value_iteration(agent.simulator.table)
    assert judge({}) == pytest.approx(960.26, abs=0.01)
