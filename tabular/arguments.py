"""What a class tells of its arguments: its signature, a line for each in its docstring, the right word for a wrong one.

Wrong words are answered where they are keywords, where they are assigned, and where they are names in a module.

A class's docstring ends in sections, `Arguments:` and `Attributes:`, with indented lines "name: what it is". A class
that passes arguments on to its bases has their lines, too, so that each is written once.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from .checks import setting_names

P = ParamSpec("P")
T = TypeVar("T")

SHORTEST_MISSPELLED = 6  # letters; shorter names resemble too many others

# What arguments are called here, and what others call them. The first of several that a word may mean is preferred.
WORDS = {
    "simulator": "env environment gym_env sim world",
    "epsilon": "eps exploration exploration_rate",
    "learning_rate": "alpha lr eta rate step_size",
    "beta": "gamma discount discount_factor discount_rate",
    "learning_episodes": "episodes num_episodes n_episodes max_episodes total_episodes num_of_episodes train_episodes",
    "test_interval": "learning_num eval_interval test_every eval_every test_freq eval_freq",
    "trials": "num_trials n_trials test_trials eval_episodes n_eval_episodes episodes",
    "do_test": "test evaluate do_eval",
    "max_step": "max_episode_steps step_limit num_steps n_steps horizon time_limit",
    "seed": "random_state random_seed rng",
    "ties": "tie_break tie_breaking tiebreak random_ties break_ties",
    "keep_returns": "returns record_returns log_returns",
    "continuing": "continuous infinite endless",
    "initial_value": "initial_q q_init init_value optimistic",
    "cw_num": "num_collectors n_collectors collectors num_cw num_workers n_workers",
    "ew_num": "num_evaluators n_evaluators evaluators num_ew",
    "batch_size": "batch batch_episodes",
    "workers": "pool executor",
    "patience": "timeout",
    "checkpoint_seconds": "checkpoint_interval",
    "transition_prob": "is_slippery slippery slip slip_prob success_rate probabilities",
    "map_name": "name map_size size",
    "desc": "map grid layout maze",
    "render_mode": "render mode",
    # Of functions and methods
    "lake": "env environment simulator map map_name desc grid",
    "q_table": "q q_values action_values",
    "episodes": "learning_episodes num_episodes n_episodes max_episodes",
    "max_steps": "max_episode_steps step_limit num_steps n_steps horizon time_limit",
    "progress": "verbose progress_bar show_progress tqdm",
    "rows": "data table records",
    "seconds": "interval pause duration",
    "tolerance": "tol theta",
    "legend": "label labels names",
    "total_rewards": "rewards curves",
    "env": "environment simulator lake",
    "path": "file filename",
    "h_prob": "hole_prob",
}


def _plain(name: str) -> str:
    """Return a name without capitals, underscores and the s of a plural, which are often mistaken."""
    return name.lower().replace("_", "").rstrip("s")


OURS: dict[str, list[str]] = {}
for _ours, _words in WORDS.items():
    for _theirs in _words.split():
        OURS.setdefault(_plain(_theirs), []).append(_ours)


def names_checked(call: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function, or the constructor of a class: TypeError says what an unknown keyword is called here."""
    accepted = inspect.signature(call).parameters.keys()

    @functools.wraps(call)
    def checked(*arguments: P.args, **settings: P.kwargs) -> T:
        __tracebackhide__ = True  # IPython and pytest then leave this frame out
        if settings and not settings.keys() <= accepted:
            name = next(name for name in settings if name not in accepted)
            called: Any = type(arguments[0]) if call.__name__ == "__init__" else call
            names = [known for known in inspect.signature(called).parameters if known != "self"]
            alike = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.75)
            ours = next(iter([*_meant(name, names), *alike]), None)
            hint = f"its arguments are {', '.join(names)}" if ours is None else _naming(name, ours, called)
            problem = f"got an unexpected keyword argument {name!r}"
            raise TypeError(f"{called.__qualname__.split('>.')[-1]}() {problem}: {hint}")
        return call(*arguments, **settings)

    return checked


def _meant(name: str, ours: Iterable[str]) -> list[str]:
    """Return those of our names that others call so, and those that are nearly the same."""
    called = [known for known in OURS.get(_plain(name), []) if known in ours]
    same = [known for known in ours if _plain(known) == _plain(name)]
    return called + sorted(same, key=lambda known: abs(len(known) - len(name)))  # of seed and seeds, Seed is the first


def _naming(name: str, ours: str, called: Any) -> str:
    """Say what a class or a function calls what was given a wrong name, and what it is."""
    sections = _sections(inspect.getdoc(called))
    line = sections["Arguments"].get(ours) or sections["Attributes"].get(ours, "")
    return f"{name} is called {ours} here" + (f" ({' '.join(line.split())})" if line else "")


def refuse_misnamed(instance: Any, name: str) -> None:
    """Raise AttributeError if a new attribute has a name that reads like a setting, and would be silently ignored.

    It is called by `__setattr__`. What methods of the instance's own classes assign is allowed.
    """
    kind: Any = type(instance)
    problem = None if name.startswith("_") else _misnamed(kind, name)
    if problem is not None:
        assigning = sys._getframe(2).f_code.co_qualname
        if not any(assigning.startswith(f"{base.__qualname__}.") for base in kind.__mro__):
            raise AttributeError(f"{kind.__name__} has no attribute {name!r}: {problem}")


@functools.lru_cache(maxsize=1024)
def _misnamed(kind: type, name: str) -> str | None:
    """Say what a class calls what an attribute's name reads like; None if it reads like nothing."""
    arguments = inspect.signature(kind).parameters
    if name in arguments:
        return "it is an argument of the constructor, and cannot be changed later"
    assignable = [known for known, value in inspect.getmembers(kind) if isinstance(value, property) and value.fset]
    names = [*arguments, *assignable]
    ours = [*_meant(name, names), *(known for known in names if _misspelled(name, known))]
    return _naming(name, ours[0], kind) if ours else None


def _misspelled(name: str, ours: str) -> bool:
    """Whether a name is another one with a few wrong letters; one with more words, as epsilon_0, is not."""
    words, others = (re.findall(r"[a-z]+|[0-9]+", each.lower()) for each in (name, ours))
    alike = difflib.SequenceMatcher(None, name.lower(), ours).ratio() >= 0.8
    return alike and len(words) == len(others) and min(len(name), len(ours)) >= SHORTEST_MISSPELLED


def no_such_name(module: str, name: str, public: Iterable[str]) -> str:
    """Return the message for a name that a module does not have, with the public names that it may mean."""
    by_plain = {_plain(known): known for known in public}
    near = [_plain(name)] if _plain(name) in by_plain else difflib.get_close_matches(_plain(name), by_plain)
    hint = f": did you mean {' or '.join(by_plain[one] for one in near)}?" if near else ""
    return f"module {module!r} has no attribute {name!r}{hint}"


def describe(kind: type) -> None:
    """Complete the signature and docstring of a class with the arguments and attributes of its bases."""
    parameters = _parameters(kind)
    kind.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    if vars(kind).get("__doc__") is None:
        return
    arguments: dict[str, str] = {}
    attributes: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        sections = _sections(base.__doc__)
        arguments |= sections["Arguments"]
        attributes |= sections["Attributes"]
    taken = {parameter.name: arguments.get(parameter.name, "") for parameter in parameters}
    kind.__doc__ = "\n\n".join([_prose(kind.__doc__), _section("Arguments", taken), _section("Attributes", attributes)])


def _parameters(kind: type) -> list[inspect.Parameter]:
    """Return the parameters of a class's constructor, with those that it passes on to its bases by * or **."""
    by_position: dict[str, inspect.Parameter] = {}
    by_name: list[inspect.Parameter] = []  # of base classes first
    passes_positions = True
    for base in kind.__mro__[:-1]:
        if "__init__" not in vars(base):
            continue
        _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        named = [p.replace(annotation=p.empty) for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if passes_positions:
            taken = {parameter.name for parameter in by_name}
            free = [p.kind is not p.KEYWORD_ONLY and p.name not in taken for p in named]
            by_position = {p.name: p for p in named[: [*free, False].index(False)]}
        by_name = named + by_name
        passes_positions = passes_positions and not by_position and inspect.Parameter.VAR_POSITIONAL in kinds
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    found = {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in by_name if p.name not in by_position}
    return [*by_position.values(), *found.values()]


def _prose(docstring: str | None) -> str:
    """Return a docstring without its sections."""
    return re.split(r"^(?:Arguments|Attributes):\n", inspect.cleandoc(docstring or ""), flags=re.M)[0].strip()


def _sections(docstring: str | None) -> dict[str, dict[str, str]]:
    """Return the lines of a docstring's sections, by title and name."""
    found: dict[str, dict[str, str]] = {"Arguments": {}, "Attributes": {}}
    _, *parts = re.split(r"^(Arguments|Attributes):\n", inspect.cleandoc(docstring or ""), flags=re.M)
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        found[title] = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", body, flags=re.M))
    return found


def _section(title: str, lines: dict[str, str]) -> str:
    """Return a section of a docstring."""
    return "\n    ".join([f"{title}:", *(f"{name}: {line}" for name, line in lines.items())])


def summary(instance: Any, *shown: str) -> dict[str, Any]:
    """Return the settings `shown`, and those whose value is not the constructor's default, by name."""
    parameters = inspect.signature(type(instance)).parameters
    found = {}
    for name in setting_names(type(instance)):
        value, default = getattr(instance, name), getattr(parameters.get(name), "default", None)
        if name in shown or default not in (None, value):
            found[name] = value
    return found
