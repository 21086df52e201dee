"""Experiments are spread over cores, or over a cluster, and have the same rows in the same order."""

import threading
import time

import pytest

from figures.experiments import other_seeds, spread
from tabular.simulated_ray import simulated


def squares(seed, count):
    """Some rows of a case; the earlier ones take longer."""
    time.sleep(0.01 / (1 + seed % 1000))
    return [{"seed": seed, "square": (seed + i) ** 2} for i in range(count)]


CASES = [{"seed": seed, "count": count} for seed in range(6) for count in (1, 3)]
ROWS = [row for case in CASES for row in squares(**case)]


def test_rows_are_in_the_order_of_their_cases(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert list(spread(squares, CASES, "squares")) == ROWS


def test_a_cluster_gives_the_same_rows(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "a cluster")
    for seed in range(5):
        with simulated(seed):
            assert list(spread(squares, CASES, "squares")) == ROWS


@pytest.mark.parametrize("address", ["", "a cluster"])
def test_other_seeds_are_learned_with_and_rows_have_those_of_the_cases(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with simulated(0), other_seeds(1000):
        rows = list(spread(squares, CASES, "squares"))
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
        list(spread(sink, CASES, "sinking"))
    assert threading.active_count() <= before + 1  # and tqdm's
    assert len(done) < len(CASES)
