"""A study: a folder of experiments with its report, found by importing the folder's modules.

A module is a question. It marks the generator that runs its experiment, whose rows go to data/<module>.csv, and the
functions that draw its pictures, which go to <function>.png:

    @experiment
    def run(seeds=100): ...

    @picture
    def routes(data): ...
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from figures.rows import Data, read_rows

DOOR = "make_figures"  # the module that is a command line


def experiment(run: Callable | None = None, *, timed: bool = False, seeds: bool = True):
    """Mark a generator of rows as its module's experiment; its default arguments are its settings.

    `timed` says that it measures time: it runs after the others, and its claims may differ from machine to machine.
    `seeds` is False where nothing is random.
    """

    def mark(run: Callable) -> Callable:
        run.timed, run.seeds = timed, seeds
        return run

    return mark(run) if run else mark


def picture(draw: Callable) -> Callable:
    """Mark a function of the data that returns a figure."""
    draw.is_picture = True
    return draw


@dataclass
class Study:
    """What a package of questions holds, by name; `base` is a study whose questions and data it uses as well."""

    folder: Path
    modules: dict[str, ModuleType]
    experiments: dict[str, Callable]
    pictures: dict[str, Callable]
    base: Study | None = None
    rewrite: Callable[[str, Data], str] | None = None  # makes the README's text anew, from the old one
    root: Path = field(init=False)

    def __post_init__(self):
        self.root = self.folder.parent if self.base is None else self.base.root

    @classmethod
    def of(cls, package: ModuleType, base: Study | None = None, rewrite: Callable | None = None) -> Study:
        """The study of a package; imports all of its modules."""
        names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.name != DOOR)
        modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
        own = [
            (name, function)
            for name, module in modules.items()
            for function in vars(module).values()
            if inspect.isfunction(function) and function.__module__ == module.__name__
        ]
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

    def read(self, leave_out=()) -> Data:
        """The committed rows of all experiments, its base's too, but for those left out.

        Raises ValueError as `read_rows` does.
        """
        kept = self.base.read() if self.base else {}
        names = [name for name in self.experiments if name not in leave_out]
        return kept | {name: read_rows(self.folder / "data" / f"{name}.csv", self.experiments[name]) for name in names}
