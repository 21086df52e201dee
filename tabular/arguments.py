"""What a class tells of its arguments: its signature, a line for each in its docstring, the right word for a wrong one.

A class's docstring ends in sections, `Arguments:` and `Attributes:`, with indented lines "name: what it is". A class
that passes arguments on to its bases has their lines, too, so that each is written once.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ParamSpec

from .checks import setting_names

P = ParamSpec("P")

# What arguments are called here, and what others call them.
WORDS = {
    "simulator": "env environment gym_env sim world",
    "epsilon": "eps exploration exploration_rate",
    "learning_rate": "alpha lr eta rate step_size stepsize",
    "beta": "gamma discount discount_factor discount_rate",
    "learning_episodes": "episodes num_episodes n_episodes max_episodes total_episodes num_of_episodes train_episodes",
    "test_interval": "eval_interval test_every eval_every test_freq eval_freq",
    "trials": "num_trials n_trials test_trials eval_episodes n_eval_episodes",
    "do_test": "test evaluate do_eval",
    "max_step": "max_steps max_episode_steps step_limit num_steps n_steps horizon time_limit",
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
    "transition_prob": "is_slippery slippery slip slip_prob success_rate transitionprob transition_probs probabilities",
    "map_name": "name map_size size",
    "desc": "map grid layout maze",
    "render_mode": "render mode",
}
OURS = {theirs: ours for ours, words in WORDS.items() for theirs in words.split()}


def names_checked(constructor: Callable[P, None]) -> Callable[P, None]:
    """Decorate the constructor of a class: an unknown keyword raises TypeError, which says what it is called here."""
    accepted = inspect.signature(constructor).parameters

    @functools.wraps(constructor)
    def checked(*arguments: P.args, **settings: P.kwargs) -> None:
        for name in settings:
            if name not in accepted:
                kind = type(arguments[0])
                problem = f"{kind.__name__}() got an unexpected keyword argument {name!r}"
                raise TypeError(f"{problem}: {_hint(name, kind)}")
        constructor(*arguments, **settings)

    return checked


def _hint(name: str, kind: type) -> str:
    """Say what a class calls an argument that it was given by a wrong name."""
    arguments = inspect.signature(kind).parameters
    alike = difflib.get_close_matches(name.lower(), arguments, n=1, cutoff=0.75)
    ours = next((word for word in (OURS.get(name.lower()), *alike) if word in arguments), None)
    if ours is None:
        return f"its arguments are {', '.join(arguments)}"
    line = _sections(inspect.getdoc(kind))["Arguments"].get(ours, "")
    return f"{name} is called {ours} here" + (f" ({' '.join(line.split())})" if line else "")


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
