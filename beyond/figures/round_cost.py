"""What does a round of federated learning cost, and so what would many cores gain? Its parts, one by one."""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

import td_helpers as td
from beyond.federated import FederatedServer, FederatedWorker
from beyond.figures import dyna_large, federated, scaling
from beyond.figures.until import random_lake
from figures.assignment import SINGLE
from figures.rows import Data, where
from figures.study import experiment, start_ray
from figures.summaries import markdown

LEARNED = {64: 25_000_000, 128: 220_000_000}  # side of a lake: steps when a round is measured, half of what is needed
PROCESSES = 2  # that the calls of all workers are sent to


@experiment(timed=True)
def run(
    counts=(2, 16, 64, 256), batch_sizes=(100, 400, 1_600), learned=LEARNED, map_seed=301, rate=0.01, repetitions=5
):
    """Learning, merging and Ray's two hops, in the middle of learning; the machine should be otherwise idle."""
    start_ray()
    settings = {"epsilon": 0.05, "learning_rate": rate, "do_test": False}
    cases = list(itertools.product(learned, batch_sizes, counts))
    with td.Workers(PROCESSES, 0) as workers, tqdm(total=len(cases), desc="round_cost", unit="part") as bar:
        for side in learned:
            agent = td.QLAgent(random_lake(side, map_seed), **settings)
            alone = []
            while agent.steps < learned[side]:
                before, start = agent.steps, time.perf_counter()
                agent.learn(10_000)
                alone.append((time.perf_counter() - start) / (agent.steps - before))
            for batch_size, count in itertools.product(batch_sizes, counts):
                parts = [round_parts(agent, count, batch_size) for _ in range(repetitions)]
                shipped = parts[0]["report_bytes"]
                yield {
                    "side": side,
                    "workers": count,
                    "batch_size": batch_size,
                    "alone_seconds_a_step": np.median(alone[-20:]),
                    **{name: np.median([part[name] for part in parts]) for name in parts[0]},
                    **ray_seconds(workers, count, agent.q_table.nbytes, shipped, repetitions),
                }
                bar.update()


def round_parts(agent, count: int, batch_size: int) -> dict:
    """A round of `count` workers, learned one after the other from an agent's table, and merged."""
    snapshot = td.Snapshot(agent.q_table, agent.steps)
    worker, server = FederatedWorker(agent), FederatedServer(agent)
    server.begin(snapshot)
    firsts = [agent.episode + i * batch_size for i in range(count)]
    reports = [worker.learn(snapshot, first, batch_size) for first in firsts]
    start = time.perf_counter()
    server.merge(agent.learning_rate, *reports)
    steps = [report.steps for report in reports]
    return {
        "merge_seconds": time.perf_counter() - start,
        "learn_seconds": np.mean([report.seconds for report in reports]),
        "steps": np.mean(steps),
        "skew": np.max(steps) / np.mean(steps),
        "report_bytes": sum(report.nbytes for report in reports) / count,
    }


class Sender:
    """A worker that learns nothing, and sends as many bytes as if it had."""

    def send(self, table, size: int) -> np.ndarray:
        return np.zeros(size, np.int8)


class Receiver:
    """A server that merges nothing, and sends as many bytes as if it had."""

    def receive(self, size: int, *reports) -> np.ndarray:
        return np.zeros(size, np.int8)


def ray_seconds(workers, count: int, table_bytes: int, report_bytes: float, repetitions: int) -> dict:
    """Time an empty round, and the driver's share of it, which more machines would not reduce."""
    with workers.run({"server": Receiver, "collector": Sender}) as pool:
        table, seconds = pool.submit("server", 0, "receive", table_bytes), []
        for _ in range(repetitions + 1):  # the first to warm up
            start = time.perf_counter(), time.process_time()
            reports = [pool.submit("collector", i % PROCESSES, "send", table, int(report_bytes)) for i in range(count)]
            table = pool.submit("server", 0, "receive", table_bytes, *reports)
            pool.result(table)
            seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    ray, driver = np.median(seconds[1:], axis=0)
    return {"ray_seconds": ray, "driver_seconds": driver}


# Numbers


class Product(NamedTuple):
    """A computed speed-up: measured steps, and a round put together from measured parts."""

    speed_up: tuple  # (lowest, highest): with Ray's cost as measured on two cores, and with the driver's share alone
    learning_ms: float  # the parts of a round
    merging_ms: float
    ray_ms: tuple


def product(data: Data, side: int, workers: int, batch_size: int) -> Product:
    """Measured steps times modelled speed, with a core for each worker.

    A round lasts as long as its slowest worker learns, the server merges, and Ray carries calls and tables.
    """
    runs = scaling.runs(data, "Q-learning", side, workers, batch_size)
    alone = scaling.runs(data, "Q-learning", side, SINGLE)["sustained"].loc[runs.index].mean()
    steps = runs["sustained"].mean(skipna=False)  # nan unless all stay
    rounds = runs["first_rounds"].mean() * steps / runs["first"].mean()
    part = where(data["round_cost"], side, workers, batch_size).iloc[0]
    learning = part["skew"] * learning_seconds(data, side, workers, steps / rounds / workers)
    ray = part[["ray_seconds", "driver_seconds"]].to_numpy(float)
    speed_up = alone * part["alone_seconds_a_step"] / (rounds * (learning + part["merge_seconds"] + ray))
    return Product(tuple(speed_up), 1e3 * learning, 1e3 * part["merge_seconds"], tuple(1e3 * ray))


def learning_seconds(data: Data, side: int, workers: int, steps: float) -> float:
    """How long a worker learns in a round of `steps` steps, by a line through the measured rounds."""
    measured = where(data["round_cost"], side, workers)
    slope, fixed = np.polyfit(measured["steps"], measured["learn_seconds"], 1)
    return fixed + slope * steps


def two_workers(data: Data, side: int = 128) -> float:
    """The hardware efficiency of two workers by the model; the experiment `federated` measured it."""
    rounds = federated.needed(data, side, 2, "episode") / federated.SIDES[side]
    steps = federated.needed(data, side, 2, "steps") / rounds / 2
    part = where(data["round_cost"], side, 2).iloc[-1]
    seconds = learning_seconds(data, side, 2, steps) + part["merge_seconds"] + part["ray_seconds"]
    return part["alone_seconds_a_step"] * steps / seconds


def skew(data: Data, side: int, workers: int, batch_size: int) -> float:
    """By how much the slowest worker of a round takes more steps than the mean one."""
    return float(where(data["round_cost"], side, workers, batch_size)["skew"].iloc[0])


def best(data: Data, side: int, workers: int) -> tuple[int, Product]:
    """The (length of a round, product) with the highest speed-up."""
    sizes = map(int, data["round_cost"]["batch_size"].unique())
    found = [(size, product(data, side, workers, size)) for size in sizes]
    return max(found, key=lambda one: np.nan_to_num(one[1].speed_up[0]))


def modelled(data: Data) -> list[tuple[int, int]]:
    """The (side, workers) that a product is computed for: more than four workers, where all runs stay."""
    pairs = itertools.product(scaling.LOOKS, scaling.COUNTS)
    return [(side, count) for side, count in pairs if count > 4 and best(data, side, count)[1].speed_up[0] > 0]


def table(data: Data) -> str:
    """The efficiencies by lake and workers, and their products with the modelled speed."""
    rows = []
    for side, count in itertools.product(scaling.LOOKS, scaling.COUNTS):
        cells = [scaling.cell(data, algorithm, side, count) for algorithm in scaling.FEDERATED]
        computed = [""] * 3
        if (side, count) in modelled(data):
            size, one = best(data, side, count)
            there = scaling.cell(data, "Q-learning", side, count, size)
            computed = [f"{size:,}", there, "{:.2g} to {:.2g}".format(*one.speed_up)]
        rows.append([f"{side} x {side}, {count}", *cells, *computed])
    return markdown(["lake, workers", *scaling.FEDERATED, "best round", "there", "speed-up"], rows)


def table_of_parts(data: Data) -> str:
    """The parts of a round of the length with the highest speed-up."""
    rows = []
    for side, count in modelled(data):
        size, one = best(data, side, count)
        parts = f"{one.learning_ms:.1f}", f"{one.merging_ms:.1f}", f"{one.ray_ms[1]:.0f} to {one.ray_ms[0]:.0f}"
        rows.append([f"{side} x {side}, {count}", f"{size:,}", *parts])
    return markdown(["lake, workers", "episodes a worker", "learning, ms", "merging, ms", "Ray, ms"], rows)


def dyna_break_even(data: Data, workers: int = 1024) -> float:
    """How many µs a simulator's step must take for `workers` workers of Dyna-Q to beat one: computed."""
    alone, many = dyna_large.row(data, 1), dyna_large.row(data, workers)
    call = where(data["round_cost"], workers=64)["ray_seconds"].median() / 64
    more = many["planning_seconds"] + many["rounds"] * workers * call - alone["planning_seconds"]
    return 1e6 * more / (alone["steps"] - many["steps"] / workers)
