"""Atomic writing of files, which never replaces anything but a regular file."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

AnyPath = str | os.PathLike[str]

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}  # and devices


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a binary file for writing; it replaces the file at `path` when the block ends without an error.

    A symbolic link stays, and its target is replaced; an existing file's mode and owner are kept. Before the block is
    entered, raises ValueError if `path` is a folder, a pipe or a device, and OSError if it cannot be written.
    """
    target = _writable_file("path", path)
    replaced = target.stat() if target.exists() else None
    with _draft_beside(target, path) as draft:
        with open(draft, "xb", opener=_private if replaced else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replaced:
            _give(draft, replaced)
        os.replace(draft, target)


def check_writable(name: str, path: AnyPath) -> None:
    """Raise ValueError, naming the argument, unless a file can be written at `path`; try by making one beside it."""
    try:
        with _draft_beside(_writable_file(name, path), path) as draft:
            open(draft, "xb").close()
    except OSError as error:
        needed = f"{name} must be a file that can be written, in a folder that exists"
        raise ValueError(f"{needed}, got {os.fspath(path)!r}: {error.strerror}") from None


def regular_file(name: str, path: AnyPath) -> Path:
    """Return the path with links resolved; the file need not exist yet.

    Raises TypeError or ValueError, naming the argument, if it is not the path of a regular file, and OSError if the
    system refuses it.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"{name} must be the path of a file, got {path!r}")
    shown = os.fspath(path)
    if os.path.basename(shown) in ("", os.curdir, os.pardir):
        raise ValueError(f"{name} must be the path of a file, got {shown!r}")
    if "\0" in shown:
        raise ValueError(f"{name} must have no zero byte, got {shown!r}")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:  # also for a link without a target
        return Path(os.path.realpath(path))
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise ValueError(f"{name} must be a regular file, or none yet, got {shown!r}, which is {kind}")
    return Path(os.path.realpath(path))


def _writable_file(name: str, path: AnyPath) -> Path:
    """Return the path of a regular file; raise OSError if it is write-protected, which replacing would ignore."""
    target = regular_file(name, path)
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(target, os.O_WRONLY))
    return target


@contextlib.contextmanager
def _draft_beside(target: Path, path: AnyPath) -> Iterator[Path]:
    """Yield a path for a draft, which is deleted if it remains; errors name the path given, not the draft's."""
    # The name is unique, since two threads may write to one path, and short, since names have a limit.
    draft = target.with_name(f"{target.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        yield draft
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(draft)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, too
            draft.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Create a file that no other user can read, until it gets the mode of the file that it replaces."""
    return os.open(path, flags, 0o600)


def _give(draft: Path, replaced: os.stat_result) -> None:
    """Give a draft the mode of the file that it replaces and, if this user may, its owner."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(draft, replaced.st_uid, replaced.st_gid)
    os.chmod(draft, stat.S_IMODE(replaced.st_mode))
