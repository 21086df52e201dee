"""A study is a folder of experiments with a report: declare, find and run its experiments, in parallel.

Each module is a question. It marks the generator of its experiment, whose rows go to data/<module>.csv, and the
functions that draw its pictures, which go to <function>.png:

    @experiment
    def run(seeds=100): ...

    @picture
    def routes(data): ...
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import importlib
import inspect
import itertools
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from tqdm.auto import tqdm

import td_helpers as td
from figures.rows import Data, read_rows

COMMAND_LINE = "make_figures"  # the module that is the command line


def experiment(run: Callable | None = None, *, timed: bool = False, seeds: bool = True):
    """Mark a generator of rows as its module's experiment; its default arguments are its settings.

    A `timed` one measures time: it runs after the others, and not under other seeds.
    `seeds` is False if nothing is random.
    """

    def mark(run: Callable) -> Callable:
        run.timed, run.seeds = timed, seeds
        return run

    return mark(run) if run else mark


def picture(draw: Callable) -> Callable:
    """Mark a function that takes the data and returns a figure."""
    draw.is_picture = True
    return draw


@dataclass
class Study:
    """A package's modules, experiments and pictures, by name; `base` is a study whose modules and data it shares."""

    folder: Path
    modules: dict[str, ModuleType]
    experiments: dict[str, Callable]
    pictures: dict[str, Callable]
    base: Study | None = None
    rewrite: Callable[[str, Data], str] | None = None  # returns the README's new text, given the old one
    root: Path = field(init=False)

    def __post_init__(self):
        self.root = self.folder.parent if self.base is None else self.base.root

    @classmethod
    def of(cls, package: ModuleType, base: Study | None = None, rewrite: Callable | None = None) -> Study:
        """Import all modules of a package and return its study."""
        names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.name != COMMAND_LINE)
        modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
        own = [
            (name, function)
            for name, module in modules.items()
            for function in vars(module).values()
            if inspect.isfunction(function) and function.__module__ == module.__name__
        ]
        _check_once(name for name, function in own if hasattr(function, "timed"))
        _check_once(function.__name__ for _, function in own if hasattr(function, "is_picture"))
        experiments = {name: function for name, function in own if hasattr(function, "timed")}
        experiments = dict(sorted(experiments.items(), key=lambda named: named[1].timed))
        pictures = {function.__name__: function for _, function in own if hasattr(function, "is_picture")}
        return cls(Path(package.__path__[0]), modules, experiments, pictures, base, rewrite)

    @property
    def all_modules(self) -> dict[str, ModuleType]:
        """Its own modules and those of its base."""
        return (self.base.all_modules if self.base else {}) | self.modules

    @property
    def all_experiments(self) -> dict[str, Callable]:
        """Its own experiments and those of its base."""
        return (self.base.all_experiments if self.base else {}) | self.experiments

    @property
    def fresh_experiments(self) -> dict[str, Callable]:
        """Its own experiments that other seeds change, but no clock."""
        return {name: run for name, run in self.experiments.items() if run.seeds and not run.timed}

    def read(self, leave_out=()) -> Data:
        """Read the committed rows of all experiments, including the base's, except those in `leave_out`.

        Raises ValueError as `read_rows` does.
        """
        kept = self.base.read() if self.base else {}
        names = [name for name in self.experiments if name not in leave_out]
        return kept | {name: read_rows(self.folder / "data" / f"{name}.csv", self.experiments[name]) for name in names}


def _check_once(names: Iterable[str]) -> None:
    """Raise ValueError where a module has two experiments, or two pictures have one name: one file would be lost."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is written by two experiments, or two pictures: a module has one experiment, and "
                         "each picture has a name of its own")


# Running

seeds_from = 0  # added to every case's seed; see `other_seeds`


def grid(**axes: Iterable) -> list[dict]:
    """Return all combinations of the axes' values as dicts; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def spread(run: Callable, cases: list[dict], **settings) -> Iterator[dict]:
    """Yield the rows of `run(**case, **settings)` for all cases, in order, each case on one core.

    A row begins with the fields of its case, unless `run` places some of them itself. Cases run in threads on this
    machine, since compiled learning releases the GIL, or over Ray if RAY_ADDRESS names a cluster. `run` gets seeds
    shifted by `seeds_from`, but the rows keep those of the cases, so that fresh rows compare with committed ones.
    """
    shifted = [case | settings | {"seed": case["seed"] + seeds_from} for case in cases]
    rows_of = _over_ray if os.environ.get("RAY_ADDRESS") else _in_threads
    with tqdm(total=len(cases), desc=run.__name__, unit="run") as bar:
        for case, rows in zip(cases, rows_of(run, shifted, bar), strict=True):
            for row in rows:
                yield row | case if case.keys() & row.keys() else case | row


@contextlib.contextmanager
def other_seeds(shift: int):
    """Shift the seeds of experiments that run inside the block."""
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
    """Yield the rows of each case, computed in one thread per core."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        futures = [pool.submit(run, **case) for case in cases]
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # runs that have begun still finish


def _over_ray(run: Callable, cases: list[dict], bar) -> Iterator[list[dict]]:
    """Yield the rows of each case, computed in one task per core of the cluster."""
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
