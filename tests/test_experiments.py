"""Experiments are spread over cores, or over a cluster, and have the same rows in the same order."""

import threading
import time

import pytest

from figures.study import grid, other_seeds, spread
from tabular.simulated_ray import simulated


def squares(seed, count):
    """Some rows of a case; the earlier ones take longer."""
    time.sleep(0.01 / (1 + seed % 1000))
    return [{"square": (seed + i) ** 2} for i in range(count)]


CASES = grid(seed=range(6), count=(1, 3))
ROWS = [case | row for case in CASES for row in squares(**case)]


def test_rows_are_in_the_order_of_their_cases(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert list(spread(squares, CASES)) == ROWS


def test_a_cluster_gives_the_same_rows(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "a cluster")
    for seed in range(5):
        with simulated(seed):
            assert list(spread(squares, CASES)) == ROWS


@pytest.mark.parametrize("address", ["", "a cluster"])
def test_other_seeds_are_learned_with_and_rows_have_those_of_the_cases(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with simulated(0), other_seeds(1000):
        rows = list(spread(squares, CASES))
    assert [row["seed"] for row in rows] == [row["seed"] for row in ROWS]
    assert rows[0]["square"] == 1000**2


def test_a_case_that_fails_ends_the_experiment_and_its_threads(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = []

    def sink(seed, count):
        if seed == 2:
            raise LookupError("the boat has sunk")
        done.append(seed)
        return squares(seed, count)

    before = threading.active_count()
    with pytest.raises(LookupError, match="sunk"):
        list(spread(sink, CASES))
    assert threading.active_count() <= before + 1  # and tqdm's
    assert len(done) < len(CASES)


def test_a_grid_has_all_combinations_with_the_last_axis_fastest():
    assert CASES[:3] == [{"seed": 0, "count": 1}, {"seed": 0, "count": 3}, {"seed": 1, "count": 1}]
    assert len(CASES) == 12


def test_settings_go_to_every_case_and_not_into_its_rows():
    rows = list(spread(squares, grid(seed=range(2)), count=2))
    assert rows == [{"seed": seed, "square": square} for seed, square in ((0, 0), (0, 1), (1, 1), (1, 4))]


def test_a_row_that_places_a_field_of_its_case_keeps_its_own_order():
    def placed(seed, side):
        return [{"side": side, "sum": seed + side}]

    with other_seeds(100):
        (row,) = spread(placed, [{"seed": 1, "side": 2}])
    assert list(row.items()) == [("side", 2), ("sum", 103), ("seed", 1)]
