"""What a submission calls things: its classes, methods, arguments and tables, by the names of the assignment.

Names count without their case and underscores, and as misspelled; those of the project are known, too.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import types
from collections.abc import Iterator, Mapping

import numpy as np

from . import recorder
from .findings import KEEP_NAMES
from .recorder import Lakes, Recorder

KINDS = {
    "agent": ("agent", "tdagent", "baseagent"),
    "q_learning": ("qlagent", "qlearningagent", "qagent"),
    "sarsa": ("sarsaagent", "sarsa"),
    "server": ("qlagentserver", "qlserver", "qlearningserver"),
    "distributed": ("distributedqlagent", "distributedagent", "distributedqagent", "distributedqlearningagent"),
}
METHODS = {
    "run": ("learnandevaluate", "trainandevaluate", "learnandtest"),
    "evaluate": ("evaluate", "test", "evaluation"),
    "greedy": ("greedypolicy", "greedy", "greedyaction"),
    "act": ("exploreorexploitpolicy", "exploreorexploit", "takeaction", "epsilongreedypolicy", "epsilongreedy"),
}
# What the assignment's classes are given, by all the names under which that may be asked for.
ARGUMENTS = {
    "simulator": ("simulator", "env", "environment", "lake", "sim"),
    "epsilon": ("epsilon", "eps"),
    "learning_rate": ("learningrate", "alpha", "lr"),
    "learning_episodes": ("learningepisodes", "episodes", "numepisodes", "nepisodes"),
    "map_size": ("mapsize", "size"),
    "test_interval": ("testinterval", "interval"),
    "batch_size": ("batchsize", "batch"),
    "cw_num": ("cwnum", "numcollectors", "collectors", "ncollectors", "cw"),
    "ew_num": ("ewnum", "numevaluators", "evaluators", "nevaluators", "ew"),
    "action_space": ("actionspace", "numactions", "nactions", "actions"),
    "beta": ("beta", "gamma", "discount"),
    "do_test": ("dotest", "dotests"),
}
POSITIONAL = ("epsilon", "learning_rate", "learning_episodes", "map_size")


class Missing(Exception):
    """A submission has no such thing, or it cannot be made; the message and the hint say so to a student."""

    def __init__(self, message: str, hint: str = KEEP_NAMES):
        super().__init__(message)
        self.hint = hint


def plain(name: str) -> str:
    """A name without case and underscores."""
    return name.replace("_", "").lower()


def closest(name_of: Mapping[str, object], wanted: tuple[str, ...]) -> str | None:
    """The name that is one of the wanted ones, as they stand or misspelled; None where there is none."""
    by_plain = {plain(name): name for name in reversed(list(name_of))}
    for one in wanted:
        if one in by_plain:
            return by_plain[one]
    for one in wanted:
        near = difflib.get_close_matches(one, by_plain, n=1, cutoff=0.85)
        if near:
            return by_plain[near[0]]
    return None


def unwrapped(value):
    """A class or function out of Ray's wrapper, the real one or the simulated; others as they are."""
    for name in ("_kind", "_function"):
        inner = vars(value).get(name) if hasattr(value, "__dict__") and hasattr(value, "remote") else None
        if inner is not None:
            return inner
    data = vars(value).get("__ray_metadata__") if hasattr(value, "__dict__") else None
    return getattr(data.modified_class, "__ray_actor_class__", data.modified_class) if data is not None else value


def is_remote(value) -> bool:
    """Whether this is a class or a function that Ray has wrapped."""
    return not inspect.isclass(value) and hasattr(value, "remote") and unwrapped(value) is not value


def class_of(names: Mapping[str, object], kind: str):
    """(name, class) of a kind; Missing where there is none."""
    classes, of_others = {}, {alias for other, aliases in KINDS.items() if other != kind for alias in aliases}
    for name, value in names.items():
        bare = unwrapped(value)
        if inspect.isclass(bare) and not name.startswith("__") and plain(name) not in of_others:
            classes[name] = bare
    found = closest(classes, KINDS[kind])
    if found is None or (kind != "distributed" and "distributed" in plain(found)):
        raise Missing(f"there is no class {dict(zip(KINDS, CALLED, strict=True))[kind]}")
    return found, classes[found]


CALLED = ("agent", "QLAgent", "SARSAagent", "QLAgent_server", "distributed_QL_agent")


def method_of(thing, which: str):
    """A method by one of its names; None where there is none."""
    methods = {name: None for name in dir(thing) if not name.startswith("__")}
    found = closest(methods, METHODS[which])
    method = getattr(thing, found, None) if found else None
    return method if callable(method) else None


def made(kind: type, values: Mapping[str, object]):
    """(instance, names of the values that it took); Missing where it asks for what nobody has."""
    try:
        parameters = list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        parameters = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
    settings, positional, taken = {}, [], set()
    free = {one.kind for one in parameters} & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    known = {alias: name for name, aliases in ARGUMENTS.items() for alias in aliases}
    for one in parameters:
        if one.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        name = known.get(plain(one.name))
        if name is None and one.default is inspect.Parameter.empty:
            near = difflib.get_close_matches(plain(one.name), known, n=1, cutoff=0.8)
            name = known[near[0]] if near else None
            if name is None:
                raise Missing(f"{kind.__name__} asks for {one.name!r}, which is none of the assignment's arguments")
        if name not in values:
            continue
        taken.add(name)
        if one.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(values[name])
        else:
            settings[one.name] = values[name]
    if inspect.Parameter.VAR_POSITIONAL in free and not taken:
        positional, taken = [values[name] for name in POSITIONAL], set(POSITIONAL)
    if inspect.Parameter.VAR_KEYWORD in free:
        rest = {name: value for name, value in values.items() if name not in taken and name != "simulator"}
        settings |= rest
        taken |= set(rest)
    return kind(*positional, **settings), taken


# Tables ------------------------------------------------------------------------------------------


def as_array(value, states: int, actions: int = 4) -> np.ndarray | None:
    """A table of action values as an array of (states, actions), or None where it is none.

    It may be an array, lists, or dicts by state, or by state and action; what a dict does not have is 0. The row of
    the exit state may be left out.
    """
    if isinstance(value, np.ndarray):
        return _padded(value, states, actions) if value.dtype.kind in "fiu" else None
    if isinstance(value, (list, tuple)) and len(value) in (states, states - 1):
        with contextlib.suppress(TypeError, ValueError):
            rows = [list(row.values()) if isinstance(row, dict) else row for row in value]
            return _padded(np.array(rows, float), states, actions)
    if isinstance(value, dict) and value and len(value) <= states * actions:
        table = np.zeros((states, actions))
        with contextlib.suppress(TypeError, ValueError, IndexError):
            for key, row in value.items():
                if isinstance(row, dict):
                    for action, entry in row.items():
                        table[key, action] = entry
                elif isinstance(key, tuple) and len(key) != 2:
                    return None
                else:
                    table[key] = row  # of a state, or an entry of a state and an action
            return table
    return None


def _padded(table: np.ndarray, states: int, actions: int) -> np.ndarray | None:
    if table.shape == (states * actions,):
        table = table.reshape(states, actions)
    if table.shape == (states, actions):
        return table.astype(float)
    if table.shape == (states - 1, actions):
        return np.vstack([table, np.zeros((1, actions))])
    return None


def table_name(thing, states: int, actions: int = 4) -> str | None:
    """The attribute that holds an agent's table; None where none does."""
    held = {}
    for name, value in vars(thing).items():
        unset = isinstance(value, dict) and not value and plain(name).startswith("q")
        if unset or as_array(value, states, actions) is not None:
            held[name] = value
    return closest(held, ("qtable", "q", "qvalues", "table")) or next(iter(held), None)


def table_of(thing, name: str, states: int, actions: int = 4) -> np.ndarray | None:
    """A copy of an agent's table."""
    value = getattr(thing, name, None)
    if isinstance(value, dict) and not value:
        return np.zeros((states, actions))
    return as_array(value, states, actions)


def fill(thing, name: str, values: np.ndarray) -> None:
    """Put values into an agent's table, in place, whatever it is made of."""
    table = getattr(thing, name)
    if isinstance(table, np.ndarray):
        table[...] = values[: len(table)] if table.ndim == 2 else values.ravel()[: table.size]
        return
    for state, row in enumerate(values):
        if isinstance(table, dict) and any(isinstance(key, tuple) for key in table):
            table.update({(state, action): float(value) for action, value in enumerate(row)})
        elif isinstance(table, dict) and state not in table and getattr(table, "default_factory", None) is None:
            continue
        elif isinstance(table, dict) or state < len(table):
            kept = table[state]
            if not hasattr(kept, "__setitem__"):
                continue
            for action, value in enumerate(row):
                kept[action] = float(value)


# The namespace -----------------------------------------------------------------------------------


def is_simulator(value) -> bool:
    """Whether this looks like an environment."""
    return not inspect.isclass(value) and callable(getattr(value, "step", None)) and hasattr(value, "reset")


@contextlib.contextmanager
def lakes(names: dict[str, object], log) -> Iterator[Recorder]:
    """Put a recorder in the place of each simulator and class of lakes; yields the one called `simulator`.

    Its random numbers are under way already, as after training on one core, so that copies share them.
    """
    simulator = Recorder(log, stream=0)
    log.old_style = unpacking(names) == {4}
    modules = []
    for name, value in list(names.items()):
        if is_simulator(value):
            names[name] = simulator
        elif isinstance(value, Lakes) or (inspect.isclass(value) and plain(name).startswith("frozenlake")):
            names[name] = Lakes(log)
        elif isinstance(value, (types.ModuleType, types.SimpleNamespace)) and "FrozenLakeEnv" in vars(value):
            modules.append((value, value.FrozenLakeEnv))
            value.FrozenLakeEnv = Lakes(log)
    names["simulator"] = simulator
    names["MAP"], names["map_size"] = (list(recorder.LAKE), len(recorder.LAKE)), len(recorder.LAKE)
    try:
        yield simulator
    finally:
        for module, kind in modules:
            module.FrozenLakeEnv = kind
        log.close()


def unpacking(names: Mapping[str, object]) -> set[int]:
    """Into how many fields the submission unpacks what a step returns."""
    found = set()
    for code in codes_of(names):
        found |= recorder.unpacks(code) & {4, 5}
    return found


def codes_of(names: Mapping[str, object]) -> Iterator[types.CodeType]:
    """The code of the functions that a submission defines, and of its classes' methods."""
    for value in names.values():
        bare = unwrapped(value)
        things = vars(bare).values() if inspect.isclass(bare) else [bare]
        for thing in things:
            function = getattr(thing, "__func__", thing)
            if isinstance(function, types.FunctionType) and function.__globals__.get("__name__") == names["__name__"]:
                yield function.__code__
