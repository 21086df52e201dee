"""Saved agents: one .npz file of arrays, with a header in JSON; and the checkpoints of a run."""

from __future__ import annotations

import contextlib
import json
import math
import time
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .files import AnyPath, regular_file

FORMAT = 2  # of saves, in their header: to be raised where a save of before would be misread
EARLIER = {"format": 1, "in_flight": 2}  # what earlier saves do not say, since nothing else could be had
LONGEST_HEADER = 2**16  # letters
METHODS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED  # what numpy compresses by; others unpack without any limit


class Save:
    """A saved agent, open: its `header`, and arrays that are read if they are what is expected."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        if "header.npy" not in archive.namelist() and "settings_agent.npy" in archive.namelist():
            raise ValueError("it is of a version before saves had a header, which cannot be read any more")
        self.header: dict[str, Any] = EARLIER | dict(json.loads(str(self._read("header", _check_text))))
        if self.header["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"its format is {self.header['format']}, and this version reads up to {FORMAT}")

    def read(self, name: str, dtype: Any, shape: tuple, longest: int = 2**22) -> np.ndarray:
        """An array; ValueError unless it has the type and the shape (None: any length up to `longest`), and is finite.

        What does not fit is refused before it is read: a small file may unpack to more than the memory holds.
        """

        def check(found: np.dtype, lengths: tuple) -> None:
            if found != dtype or not _fit(lengths, shape, longest):
                raise ValueError(f"{name} of {found}, shape {lengths}, is not what this agent has")

        array = self._read(name, check)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")
        return array

    def read_episodes(self, name: str, longest: int) -> np.ndarray:
        """Episodes, each after the one before; ValueError where they are none."""
        episodes = self.read(name, np.int64, (None,), longest)
        if (np.diff(episodes, prepend=0) <= 0).any():
            raise ValueError(f"{name} must be at ever later episodes, got {episodes}")
        return episodes

    def _read(self, name: str, check: Callable[[np.dtype, tuple], None]) -> np.ndarray:
        """An array, once `check` has had its dtype and shape."""
        try:
            entry = self._archive.getinfo(f"{name}.npy")
        except KeyError:
            raise ValueError(f"it has no {name}") from None
        if entry.compress_type not in METHODS:
            raise ValueError(f"{name} is compressed in a way that numpy does not")
        with self._archive.open(entry) as file:
            if np.lib.format.read_magic(file) != (1, 0):  # in a later one its header may have any length
                raise ValueError(f"{name} is not of the version of .npy that agents are saved in")
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            check(dtype, shape)
            size = math.prod(shape) * dtype.itemsize
            if entry.file_size != file.tell() + size:
                raise ValueError(f"{name} is cut short")
            array = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
        return np.array(array, order="C")  # whose memory is its own, and in the order that is learned on


@contextlib.contextmanager
def open_save(path: AnyPath) -> Iterator[Save]:
    """A saved agent's file, open; ValueError, which names the path, where it is none, also while it is read."""
    with open(regular_file("path", path), "rb") as file:
        try:
            yield Save(zipfile.ZipFile(file))
        except Warning:  # where the user has them raised
            raise
        except Exception as error:  # zipfile and numpy raise ten kinds where a byte is wrong
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} is not a saved agent that this one can load: {reason}") from None


class Checkpoints:
    """Saves a run every so many seconds, and when its block ends, by `save(path)`; a path of None saves nothing.

    A save that fails is told, and tried again when the next is due: the run goes on, and an error of its own stays.
    """

    def __init__(self, save: Callable, path: AnyPath | None, seconds: float):
        self.save, self.path, self.seconds = save, path, seconds
        self._last = time.monotonic()

    def write_if_due(self) -> None:
        """Save unless the last time was less than so many seconds ago."""
        if self.path is not None and time.monotonic() - self._last >= self.seconds:
            self._write("the run goes on, and it is tried again when the next is due")
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
        except Warning as warning:  # where the user has them raised
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
    """Whether the lengths of an array's axes are those of a shape, in which None is any length up to `longest`."""
    return len(lengths) == len(shape) and all(
        0 <= length <= longest if expected is None else length == expected
        for length, expected in zip(lengths, shape, strict=True)
    )


def _check_text(dtype: np.dtype, shape: tuple) -> None:
    """ValueError unless an array is one text of at most `LONGEST_HEADER` letters."""
    if dtype.kind != "U" or shape != () or dtype.itemsize > 4 * LONGEST_HEADER:
        raise ValueError(f"header of {dtype}, shape {shape}, is not what a save has")
