"""What a subclass of an agent may not do, because no run would follow it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from .checks import setting_names


def refuse_overrides(kind: type, base: type, names: tuple[str, ...], instead: str, own: Container[str] = ()) -> None:
    """Raise TypeError if a class overrides a method that runs do not call: the override would silently do nothing.

    `own` has an instance's attributes, which may override a method, too.
    """
    for name in names:
        if name in own or getattr(kind, name) is not getattr(base, name):
            raise TypeError(f"{kind.__name__} must not override {name}, since {instead}")


def refuse_settings(kind: type) -> None:
    """Raise TypeError if a class body sets a setting, which the constructor would overwrite."""
    for name in dict.fromkeys(name for base in kind.__bases__ for name in setting_names(base)):
        if name in vars(kind) and not hasattr(vars(kind)[name], "__set__"):
            raise TypeError(
                f"{kind.__name__}.{name} must not be set in the class, since the constructor sets it: pass it as an "
                "argument, or override __init__(self, *arguments, **settings)"
            )


def refuse_rule_methods(kind: Any, own: dict | None = None) -> None:
    """Raise TypeError if an agent class, or `own` attributes, have an update or a policy that no run would call."""
    for name in ("update", "policy"):
        method = (own or {}).get(name, getattr(kind, name, None))
        if callable(method) and method is not getattr(kind.kernel, name, None):
            raise TypeError(
                f"{kind.__name__}.{name} would not be called: agents learn by a rule made of plain functions, so take "
                f"it out of the class and set kernel = td.Rule({'update' if name == 'update' else 'update, policy'})"
            )
