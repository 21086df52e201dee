"""What a rule is made of: its functions and what they read, whether it has changed, copies to compile, and to ship.

numba reads a function's globals when it compiles; plain Python reads them at each call. So whoever keeps compiled code
must know what went into it.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numba import cloudpickle

MISSING = object()  # stands for a name that is not there (a builtin, as seen in globals), and for an empty cell
PLAIN = bool | int | float | complex | str | bytes | None | np.generic  # equal where they print alike


class Sources:
    """Functions, those that they call of their own file or notebook, and all that these read, as it stands now."""

    def __init__(self, *functions: Any):
        self.functions = _with_helpers(functions)
        self.code = [(function, function.__code__, function.__defaults__) for function in self.functions]
        self.names = [(*place, _value(*place)) for function in self.functions for place in _names(function)]
        self.cells = [(cell, _content(cell)) for function in self.functions for cell in function.__closure__ or ()]
        values = [value for *_, value in self.names + self.cells]
        self.arrays = [(array, array.tobytes()) for value in values for array in _arrays(value)]

    def changed(self) -> bool:
        """Whether any of it is another now; takes some 1 us, as it is asked before each use of what was compiled."""
        for function, code, defaults in self.code:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return True
        for space, name, value in self.names:
            now = space.get(name, MISSING)
            if now is not value and not _same(now, value):
                return True
        for cell, value in self.cells:
            now = _content(cell)
            if now is not value and not _same(now, value):
                return True
        return any(array.tobytes() != content for array, content in self.arrays)

    def of_modules(self) -> tuple[tuple[Any, str, object], ...]:
        """The numbers, words and the like that are read from modules: (module, name, value)."""
        own = {id(function.__globals__) for function in self.functions}
        read = ((space.get("__name__"), name, value) for space, name, value in self.names if id(space) not in own)
        return tuple((module, name, value) for module, name, value in read if isinstance(value, PLAIN))

    def compiled(self, compile: Callable) -> dict[Any, Any]:
        """What `compile` makes of each function, as they call each other: of copies, since numba forgets none."""
        spaces = {id(function.__globals__): {"__name__": function.__module__} for function in self.functions}
        copies = {function: _copy(function, spaces[id(function.__globals__)]) for function in self.functions}
        compiled = {function: compile(copy) for function, copy in copies.items()}
        replaced = lambda value: compiled.get(value, value) if isinstance(value, types.FunctionType) else value
        for space, name, value in self.names:
            if id(space) in spaces and value is not MISSING:
                spaces[id(space)][name] = replaced(value)
        for function, copy in copies.items():
            for cell, own in zip(function.__closure__ or (), copy.__closure__ or (), strict=True):
                if _content(cell) is not MISSING:
                    own.cell_contents = replaced(cell.cell_contents)
        return compiled


_pickling = threading.RLock()  # cloudpickle's list of modules is one for all threads


def pickled(functions: Iterable[Callable]) -> bytes:
    """Functions with all that they read, also those of a module, which another process may have in another state."""
    with _pickling, contextlib.ExitStack() as stack:
        for name in {function.__module__ for function in functions} - cloudpickle.list_registry_pickle_by_value():
            if name in sys.modules and name != "__main__" and not name.startswith("tabular."):
                cloudpickle.register_pickle_by_value(sys.modules[name])
                stack.callback(cloudpickle.unregister_pickle_by_value, sys.modules[name])
        return cloudpickle.dumps(functions)


def codes(function: Callable) -> list[types.CodeType]:
    """The code of a function, and of those within it."""
    found = [function.__code__]
    for code in found:
        found += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def _with_helpers(functions: Iterable[Any]) -> list:
    """Functions, and those of their own file or notebook that they call, directly or by way of others."""
    found = list(dict.fromkeys(functions))
    for function in found:
        values = [_value(*place) for place in _names(function)] + list(map(_content, function.__closure__ or ()))
        for value in values:
            own = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
            if own and value not in found:
                found.append(value)
    return found


def _names(function: Any) -> Iterator[tuple[dict, str]]:
    """Where a function, and those within it, look up names: (globals, name), and (a module's, name) for np.exp."""
    for code in codes(function):
        module: Any = None  # that was just loaded
        local: dict[str, Any] = {}  # modules with a local name
        for instruction in dis.get_instructions(code):
            name, found = instruction.argval, None
            if instruction.opname == "LOAD_GLOBAL":
                yield function.__globals__, name
                found = _value(function.__globals__, name)
            elif instruction.opname == "LOAD_DEREF" and name in function.__code__.co_freevars:
                found = _content(function.__closure__[function.__code__.co_freevars.index(name)])
            elif instruction.opname == "STORE_FAST":
                local[name] = module
            elif instruction.opname.startswith("LOAD_FAST"):
                found = local.get(name[-1] if isinstance(name, tuple) else name)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and module is not None:
                yield vars(module), name
                found = _value(vars(module), name)
            module = found if inspect.ismodule(found) else None


def _value(space: dict, name: str) -> Any:
    """What a name stands for."""
    return space.get(name, MISSING)


def _content(cell: types.CellType) -> Any:
    """What a closure's cell holds."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one, or numbers, words, or tuples of such that are alike."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, PLAIN) and repr(one) == repr(other)


def _arrays(value: object) -> Iterator[np.ndarray | np.void]:
    """The arrays in a value: an array, a record, or a tuple that may hold some. They may change in place."""
    if isinstance(value, np.ndarray | np.void):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _arrays(item)


def _copy(function: Any, space: dict) -> types.FunctionType:
    """A copy of a function, with globals and cells of its own."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(function.__code__, space, function.__name__, function.__defaults__, cells or None)
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    return copy
