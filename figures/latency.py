"""What does a slow network cost, and what do more batches in flight win back?"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time

import numpy as np
from tqdm.auto import tqdm

import td_helpers as td
from figures.experiments import HALLWAY, lake_of, start_ray
from figures.rows import Data, settings_of, where
from figures.slow import Slow
from figures.summaries import markdown, median_range


class DelayedWorkers(td.Workers):
    """Workers on a slow network: what a process returns reaches the next one `delay` seconds later."""

    delay = 0.0

    def submit(self, role, i, method, *arguments):
        call = super().submit(role, i, method, *arguments)
        return call._replace(reference=self.relay.pass_on.remote(call.reference, self.delay))

    @functools.cached_property
    def relay(self):
        """The network: a process of its own, which every result passes through."""
        import ray

        return ray.remote(num_cpus=0, max_concurrency=100)(Relay).remote()


class Relay:
    """Holds back what passes through it, any number of things at a time."""

    async def pass_on(self, value, delay: float):
        await asyncio.sleep(delay)
        return value


def run(
    repetitions=5, delays=(0, 10, 25, 50), in_flight=(2, 3, 4), collectors=2, microseconds=200, batch_size=10,
    batches=60,
):  # fmt: skip
    """How long collectors that wait for their simulator take, by the network's delay in ms."""
    start_ray()
    with DelayedWorkers(collectors, 0) as workers:
        cases = list(itertools.product(range(-1, repetitions), delays, in_flight))
        for repetition, delay, count in tqdm(cases, desc="latency", unit="run"):
            workers.delay = delay / 1e3
            agent = td.DistributedQLAgent(
                Slow(lake_of(HALLWAY), microseconds / 1e6), 0.3, 0.1, batches * batch_size, cw_num=collectors, ew_num=0,
                batch_size=batch_size, in_flight=count, do_test=False, compiled=False, workers=workers,
                seed=repetition + 1,
            )  # fmt: skip
            start = time.perf_counter()
            agent.learn(batches * batch_size)
            seconds = time.perf_counter() - start
            if repetition >= 0:  # the first is for warming up
                yield {
                    "delay": delay,
                    "in_flight": count,
                    "lag": agent.lag,
                    "repetition": repetition,
                    "steps": agent.steps,
                    "seconds": seconds,
                }


# Numbers


def pace(data: Data, delay: int, in_flight: int):
    """Thousand steps a second, of each repetition."""
    rows = where(data["latency"], delay=delay, in_flight=in_flight)
    return rows["steps"] / rows["seconds"] / 1e3


def kept(data: Data, delay: int, in_flight: int) -> float:
    """The share that is left of the pace without delay and with two batches in flight, by medians."""
    return float(np.median(pace(data, delay, in_flight)) / np.median(pace(data, 0, 2)))


def table(data: Data) -> str:
    """Thousand steps a second by delay and batches in flight."""
    settings = settings_of(run)
    rows = [
        [f"{delay} ms", *(median_range(pace(data, delay, count)) for count in settings["in_flight"])]
        for delay in settings["delays"]
    ]
    batches = settings["collectors"] * settings["batch_size"]
    heads = [f"{count} in flight (lag {batches * (count - 1)})" for count in settings["in_flight"]]
    return markdown(["a result takes", *heads], rows)
