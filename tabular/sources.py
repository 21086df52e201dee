"""The sources of a rule, its functions and what they read: to detect changes, to compile copies, and to pickle them.

numba reads a function's globals once, when it compiles, while plain Python reads them at each call. Compiled code is
therefore out of date when one of them has changed.
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

MISSING = object()  # the value of a name that is not in the globals, such as a builtin, and of an empty cell
PLAIN = bool | int | float | complex | str | bytes | None | np.generic  # equal if their reprs are


class Sources:
    """A snapshot of functions, of those in the same file or notebook that they call, and of the values they all read.

    Of other functions, and of lists, dicts and other objects, only the identity is kept: a change inside one of them
    goes unnoticed, unlike one in an array.
    """

    def __init__(self, *functions: Any):
        self.functions = _with_helpers(functions)
        self.code = [(function, function.__code__, function.__defaults__) for function in self.functions]
        self.names = [(*place, _value(*place)) for function in self.functions for place in _names(function)]
        self.cells = [(cell, _content(cell)) for function in self.functions for cell in function.__closure__ or ()]
        values = [value for *_, value in self.names + self.cells]
        self.arrays = [(array, array.tobytes()) for value in values for array in _arrays(value)]

    def changed(self) -> bool:
        """Whether anything has changed since the snapshot. Takes about 1 us; each use of compiled code calls this."""
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
        """Return the numbers, strings and the like that are read from other modules: (module, name, value)."""
        own = {id(function.__globals__) for function in self.functions}
        read = ((space.get("__name__"), name, value) for space, name, value in self.names if id(space) not in own)
        return tuple((module, name, value) for module, name, value in read if isinstance(value, PLAIN))

    def compiled(self, compile: Callable) -> dict[Any, Any]:
        """Return {function: its compiled copy}; copies call each other. numba would keep the originals for ever."""
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


_pickling = threading.RLock()  # cloudpickle has one list of modules for all threads


def pickled(functions: Iterable[Callable]) -> bytes:
    """Pickle functions by value with all that they read, even from a module: another process may have an older one."""
    with _pickling, contextlib.ExitStack() as stack:
        for name in {function.__module__ for function in functions} - cloudpickle.list_registry_pickle_by_value():
            if name in sys.modules and name != "__main__" and not name.startswith("tabular."):
                cloudpickle.register_pickle_by_value(sys.modules[name])
                stack.callback(cloudpickle.unregister_pickle_by_value, sys.modules[name])
        return cloudpickle.dumps(functions)


def codes(function: Callable) -> list[types.CodeType]:
    """Return the code objects of a function and of the functions defined inside it."""
    found = [function.__code__]
    for code in found:
        found += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def _with_helpers(functions: Iterable[Any]) -> list:
    """Return functions, and those in the same file or notebook that they call, directly or indirectly."""
    found = list(dict.fromkeys(functions))
    for function in found:
        values = [_value(*place) for place in _names(function)] + list(map(_content, function.__closure__ or ()))
        for value in values:
            own = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
            if own and value not in found:
                found.append(value)
    return found


def _names(function: Any) -> Iterator[tuple[dict, str]]:
    """Yield where a function, and those inside it, look up names: (globals, name), or (a module's dict, name).

    Read from the bytecode, one instruction after another. It follows globals, and attributes of a module that was
    just loaded from a global, a closure or a local variable (np.exp, np.linalg.norm, or m.exp after m = np). It does
    not follow attributes of classes and other objects, imports inside the function, getattr(), or branches.
    """
    for code in codes(function):
        module: Any = None  # the module that the last instruction loaded
        local: dict[str, Any] = {}  # modules held by local variables
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
    """Return the value of a name, or MISSING."""
    return space.get(name, MISSING)


def _content(cell: types.CellType) -> Any:
    """Return the content of a closure's cell, or MISSING."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same object, or equal numbers, strings, or tuples of these."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, PLAIN) and repr(one) == repr(other)


def _arrays(value: object) -> Iterator[np.ndarray | np.void]:
    """Yield the arrays and records in a value or in a tuple, which can change in place."""
    if isinstance(value, np.ndarray | np.void):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _arrays(item)


def _copy(function: Any, space: dict) -> types.FunctionType:
    """Copy a function, with `space` as its globals and empty cells as its closure."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(function.__code__, space, function.__name__, function.__defaults__, cells or None)
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    return copy
