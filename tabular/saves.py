"""Saved agents, each an .npz file of arrays with a JSON header, and the checkpoints of a run."""

from __future__ import annotations

import contextlib
import json
import math
import time
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from .files import AnyPath, atomic_write, regular_file

FORMAT = 2  # of saves, in their header; raise it when older saves would be misread
EARLIER = {"format": 1, "in_flight": 2, "ties": "lowest", "prior": 0.0}  # of saves that lack these: no others existed
LONGEST_HEADER = 2**16  # characters
METHODS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED  # those that numpy uses; others unpack without a limit


class Save:
    """An open save of an agent: its `header`, and arrays, which are checked before they are read."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        if "header.npy" not in archive.namelist() and "settings_agent.npy" in archive.namelist():
            raise ValueError("it is from a version whose saves had no header, and cannot be read any more")
        self.header: dict[str, Any] = EARLIER | dict(json.loads(str(self._read("header", _check_text))))
        if self.header["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"its format is {self.header['format']}, and this version reads up to {FORMAT}")

    def __contains__(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return f"{name}.npy" in self._archive.namelist()

    def read(self, name: str, dtype: Any, shape: tuple, longest: int = 2**22) -> np.ndarray:
        """Read an array of this type and shape, in which None is any length up to `longest`.

        Raises ValueError if it is missing, of another type or shape, or not finite. Type and shape are checked before
        the array is read: a small file may unpack to more than memory holds.
        """

        def check(found: np.dtype, lengths: tuple) -> None:
            if found != dtype or not _fit(lengths, shape, longest):
                raise ValueError(f"{name} of {found}, shape {lengths}, is not what this agent has")

        array = self._read(name, check)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")
        return array

    def read_episodes(self, name: str, longest: int) -> np.ndarray:
        """Read episodes in increasing order; raise ValueError if they are anything else."""
        episodes = self.read(name, np.int64, (None,), longest)
        if (np.diff(episodes, prepend=0) <= 0).any():
            raise ValueError(f"{name} must be increasing episodes, got {episodes}")
        return episodes

    def _read(self, name: str, check: Callable[[np.dtype, tuple], None]) -> np.ndarray:
        """Read an array after `check` has accepted its dtype and shape."""
        try:
            entry = self._archive.getinfo(f"{name}.npy")
        except KeyError:
            raise ValueError(f"it has no {name}") from None
        if entry.compress_type not in METHODS:
            raise ValueError(f"{name} is compressed by a method that numpy does not use")
        with self._archive.open(entry) as file:
            if np.lib.format.read_magic(file) != (1, 0):  # a later version's header may have any length
                raise ValueError(f"{name} is not in the .npy version that agents are saved in")
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            check(dtype, shape)
            size = math.prod(shape) * dtype.itemsize
            if entry.file_size != file.tell() + size:
                raise ValueError(f"{name} is cut short")
            array = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
        return np.array(array, order="C")  # a writable copy, in the order that learning needs


@contextlib.contextmanager
def open_save(path: AnyPath) -> Iterator[Save]:
    """Open a saved agent; errors in opening it, or within the block, become a ValueError that names the path."""
    with open(regular_file("path", path), "rb") as file:
        try:
            yield Save(zipfile.ZipFile(file))
        except Warning:  # if the user turns warnings into errors
            raise
        except Exception as error:  # a damaged file can raise anything
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} is not a saved agent that this one can load: {reason}") from None


class Saveable:
    """Saves and loads what an agent has learned, which `_identity`, `_state` and `_restore` of a subclass describe."""

    def save(self, path: AnyPath) -> None:
        """Write all that resuming needs to one .npz file, atomically. Counters such as `cost` are not saved.

        Raises ValueError if a value is not finite, since the file could not be loaded.
        """
        state = self._state()
        for name, values in state.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite to be saved")
        with atomic_write(path) as file:
            np.savez_compressed(file, **state)

    def load(self, path: AnyPath) -> Self:
        """Load what an agent of the same class, simulator, seed, beta and ties saved; return self.

        All other settings stay as they are, so a run may continue for longer, or with another epsilon. If the file is
        no such save, nothing changes, and a ValueError names what differs or is missing.
        """
        self._before_change("what was learned")
        with open_save(path) as saved:
            for name, own in self._identity().items():
                if saved.header.get(name) != own:
                    raise ValueError(f"it has {name} {saved.header.get(name)}, this agent has {own}")
            loaded = object.__new__(type(self))
            vars(loaded).update(vars(self))
            loaded._restore(saved)
        self.__dict__ = loaded.__dict__  # in one step: an interrupt sees the old state or the new one
        return self

    def _before_change(self, name: str) -> None:
        """Raise RuntimeError if `name` may not change now."""
        raise NotImplementedError

    def _identity(self) -> dict[str, Any]:
        """Return the fields that a save must match to be loaded."""
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """Return all that resuming needs, as named arrays."""
        raise NotImplementedError

    def _restore(self, saved: Save) -> None:
        """Restore what `_state` returned; raise ValueError if the save is invalid."""
        raise NotImplementedError


class Checkpoints:
    """Calls `save(path)` every `seconds`, and when its block ends; a path of None saves nothing.

    A save that fails causes a warning, and is tried again when the next is due; it does not end the run or hide the
    run's error.
    """

    def __init__(self, save: Callable, path: AnyPath | None, seconds: float):
        self.save, self.path, self.seconds = save, path, seconds
        self._last = time.monotonic()

    def write_if_due(self) -> None:
        """Save unless the last save was less than `seconds` ago."""
        if self.path is not None and time.monotonic() - self._last >= self.seconds:
            self._write("the run continues, and tries again when the next is due")
            self._last = time.monotonic()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        if self.path is None:
            return
        try:
            self._write("what was learned is in the agent: save it elsewhere")
        except Warning as warning:  # if the user turns warnings into errors
            if error is None or kind is GeneratorExit:
                raise
            error.add_note(str(warning))

    def _write(self, what_now: str) -> None:
        try:
            self.save(self.path)
        except Exception as error:
            reason = str(error) or type(error).__name__
            warnings.warn(f"the checkpoint was not written ({reason}): {what_now}", stacklevel=5)


def _fit(lengths: tuple, shape: tuple, longest: int) -> bool:
    """Whether an array of these axis lengths fits a shape, in which None is any length up to `longest`."""
    return len(lengths) == len(shape) and all(
        0 <= length <= longest if expected is None else length == expected
        for length, expected in zip(lengths, shape, strict=True)
    )


def _check_text(dtype: np.dtype, shape: tuple) -> None:
    """Raise ValueError unless an array is a single string of at most `LONGEST_HEADER` characters."""
    if dtype.kind != "U" or shape != () or dtype.itemsize > 4 * LONGEST_HEADER:
        raise ValueError(f"header of {dtype}, shape {shape}, is not what a save has")
