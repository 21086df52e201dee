"""Spreads an experiment's cases over cores, or over a cluster, and shifts their seeds where others are wanted."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from tqdm.auto import tqdm

import td_helpers as td

seeds_from = 0  # added to every case's seed: see `other_seeds`


def grid(**axes: Iterable) -> list[dict]:
    """All combinations of the values on the axes, as dicts; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def spread(run: Callable, cases: list[dict], **settings) -> Iterator[dict]:
    """Yield the rows of `run(**case, **settings)` for all cases, in their order, each case on a core of its own.

    A row begins with the fields of its case, unless `run` places some of them itself. Cases run in threads on this
    machine, where compiled learning runs side by side, or over Ray where RAY_ADDRESS names a cluster. Seeds are shifted
    by `seeds_from`; rows have those of the cases, so that fresh ones read like committed ones.
    """
    shifted = [case | settings | {"seed": case["seed"] + seeds_from} for case in cases]
    rows_of = _over_ray if os.environ.get("RAY_ADDRESS") else _in_threads
    with tqdm(total=len(cases), desc=run.__name__, unit="run") as bar:
        for case, rows in zip(cases, rows_of(run, shifted, bar), strict=True):
            for row in rows:
                yield row | case if case.keys() & row.keys() else case | row


@contextlib.contextmanager
def other_seeds(shift: int):
    """Experiments that run within see other seeds."""
    global seeds_from
    before, seeds_from = seeds_from, shift
    try:
        yield
    finally:
        seeds_from = before


def start_ray() -> None:
    """Start Ray, or join a cluster; the experiments' functions and classes are sent to its processes by value."""
    import ray

    td.start_ray()
    for package in {"figures", "beyond.figures"} & sys.modules.keys():
        ray.cloudpickle.register_pickle_by_value(sys.modules[package])


def _in_threads(run: Callable, cases: list[dict], bar) -> Iterator[list[dict]]:
    """The rows of each case, computed in as many threads as there are cores."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        futures = [pool.submit(run, **case) for case in cases]
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # what has begun comes to its end


def _over_ray(run: Callable, cases: list[dict], bar) -> Iterator[list[dict]]:
    """The rows of each case, computed in as many tasks at once as the cluster has cores."""
    import ray

    start_ray()
    task = ray.remote(num_cpus=1)(run)
    references = [task.remote(**case) for case in cases]
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=min(8, len(waiting)), timeout=1)
        bar.update(len(done))
    for reference in references:
        yield ray.get(reference)
