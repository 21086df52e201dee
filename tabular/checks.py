"""Checks of arguments, settings that are checked when assigned, and generators from seeds."""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np

T = TypeVar("T")


def check_count(name: str, value: Any, low: int = 1, high: int = 2**40) -> int:
    """Return the value as an int; raise TypeError unless it is a whole number, ValueError outside low..high."""
    expected = f"{name} must be a whole number from {low} to {high}, got {value!r}"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(expected)
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(expected) from None
    if not low <= count <= high:
        raise ValueError(expected)
    return count


def check_number(name: str, value: Any, low: float = 0.0, high: float = 1.0) -> float:
    """Return the value as a float; raise TypeError unless it is a real number, ValueError outside low..high."""
    number: Any = value  # the type numbers.Real has no <=
    expected = f"{name} must be a number from {low:g} to {high:g}, got {value!r}"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(expected)
    if not low <= number <= high:  # nan fails this, too
        raise ValueError(expected)
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """Return the value as a bool; raise TypeError unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_probabilities(name: str, values: Any, count: int) -> tuple[float, ...]:
    """Return the values as floats; raise unless they are `count` probabilities that sum to 1."""
    if not np.iterable(values):
        raise TypeError(f"{name} must be {count} probabilities that sum to 1, got {values!r}")
    values = tuple(check_number(name, value) for value in values)
    if len(values) != count or not math.isclose(sum(values), 1.0, abs_tol=1e-9):
        raise ValueError(f"{name} must be {count} probabilities that sum to 1, got {values} (sum {sum(values):g})")
    return values


def check_q_table(name: str, q_table: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return a copy of a table, from any array or lists, in the form that learning needs: float64 in C order.

    Raises ValueError unless it has the shape (states, actions) and its entries are finite and not masked, TypeError
    unless they are real numbers.
    """
    try:
        given = np.ma.array(q_table)  # an array, a DataFrame or lists, even lists of masked rows
    except ValueError as error:
        raise ValueError(f"{name} must have shape {shape} (states, actions), got rows of different lengths") from error
    if given.shape != shape:
        raise ValueError(f"{name} must have shape {shape} (states, actions), got {given.shape}")
    if given.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got {given.dtype}")
    if np.ma.is_masked(given):
        raise ValueError(f"{name} must be finite, got masked entries")
    with np.errstate(over="ignore"):  # a longer float may overflow, and is refused below
        table = np.array(np.ma.getdata(given), np.float64, order="C", subok=False)
    if not np.isfinite(table).all():
        raise ValueError(f"{name} must be finite, got nan or inf")
    return table


class Setting(Generic[T]):
    """An attribute that is checked whenever it is assigned: `check(name, value)` returns the value to store.

    If the instance has a method `_before_change(name)`, it is called before the value is stored, and may raise.
    """

    def __init__(self, check: Callable[[str, Any], T]):
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else vars(instance)[self.name]

    def __set__(self, instance: Any, value: Any) -> None:
        value = self.check(self.name, value)
        if hasattr(instance, "_before_change"):
            instance._before_change(self.name)
        vars(instance)[self.name] = value


def as_given(name: str, value: Any) -> Any:
    """Return the value unchecked: the check of a setting that is checked with others when it is used."""
    return value


def setting_names(kind: type) -> list[str]:
    """Return the names of all settings of a class, those of its base classes first."""
    return list(dict.fromkeys(
        name for base in reversed(kind.__mro__) for name, value in vars(base).items() if isinstance(value, Setting)
    ))  # fmt: skip


def settings_of(instance: object) -> dict[str, Any]:
    """Return a dict of all settings of an instance, by name."""
    return {name: getattr(instance, name) for name in setting_names(type(instance))}


def one_of(*allowed: str) -> Callable[[str, Any], str]:
    """Return the check of a setting that must be one of these strings."""

    def check(name: str, value: Any) -> str:
        expected = f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}"
        if not isinstance(value, str):
            raise TypeError(expected)
        if value not in allowed:
            raise ValueError(expected)
        return str(value)

    return check


def count_between(low: int, high: int) -> Callable[[str, Any], int]:
    """Return the check of a setting that must be a whole number from `low` to `high`."""
    return functools.partial(check_count, low=low, high=high)


def generator(seed: Any) -> np.random.Generator:
    """Return the random generator for a seed; a generator is returned as it is."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(check_count("seed", seed, 0, 2**63 - 1))
