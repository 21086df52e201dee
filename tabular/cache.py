"""numba's cache of compiled code on disk, made safe: a damaged file costs one compilation instead of the run."""

from __future__ import annotations

import contextlib
import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

_warned_of: set[str] = set()  # folders that a warning has named


class KernelCache(FunctionCache):
    """numba's cache of a function. What cannot be read is compiled again; what cannot be written stays in memory.

    Either causes one warning per folder. `options` are the compiler's: code compiled with other options is not loaded,
    though numba would load it. Raises RuntimeError if no folder for the cache can be written to.
    """

    def __init__(self, function: Callable, options: dict):
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        # The name differs from that of numba's own files, which have no checksum and do not depend on the options.
        version = f"{zlib.crc32(repr(sorted(options.items())).encode()):08x}"
        self._cache_file = CheckedFile(self.cache_path, f"{self._impl.filename_base}.{version}", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function for these types, or None if it has to be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged file can raise anything
            self._warn(error)
            with contextlib.suppress(OSError):
                self.flush()  # an index that cannot be read cannot be added to, either
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store a compiled function, or warn if that fails."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if self.cache_path not in _warned_of:
            _warned_of.add(self.cache_path)
            problem = f"numba's cache in {self.cache_path} is damaged, or cannot be written to"
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"{problem} ({reason}): functions are compiled again as needed", stacklevel=2)


class CheckedFile(IndexDataCacheFile):
    """The files of a function's cache, each with a checksum at its end.

    A flipped bit in machine code would end the process, or change what it computes.
    """

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + _checksum(content.getvalue()))

    def _load_index(self) -> Any:
        _check(self._index_path)
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        _check(self._data_path(name))
        return super()._load_data(name)


def _checksum(content: bytes) -> bytes:
    """Return four bytes to append to a pickle; unpickling ignores what follows it."""
    return zlib.crc32(content).to_bytes(4, "little")


def _check(path: str) -> None:
    """Raise ValueError unless a file ends with the checksum of its content; ignore a missing file."""
    with contextlib.suppress(FileNotFoundError):
        content = Path(path).read_bytes()
        if content[-4:] != _checksum(content[:-4]):
            raise ValueError(f"{Path(path).name} is damaged")
