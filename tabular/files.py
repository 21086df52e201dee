"""Files that are written whole or not at all, and only in the place of regular files."""

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
    """Open a binary file to write to, which replaces the file at `path` when the block ends, unless by an error.

    A symbolic link stays, and the file that it leads to is replaced; mode and owner of an existing file are kept.
    Raises ValueError, before the block is entered, where `path` is a folder, a pipe or a device, and OSError where
    it cannot be written to.
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
    """ValueError, which names the argument, unless a file can be written at `path`: tried by making one beside it."""
    try:
        with _draft_beside(_writable_file(name, path), path) as draft:
            open(draft, "xb").close()
    except OSError as error:
        needed = f"{name} must be a file that can be written, in a folder that exists"
        raise ValueError(f"{needed}, got {os.fspath(path)!r}: {error.strerror}") from None


def regular_file(name: str, path: AnyPath) -> Path:
    """The file that a path leads to, by way of links, or would if there were one.

    Raises TypeError or ValueError, naming the argument, where it is no path of a regular file, and OSError where the
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
    except FileNotFoundError:  # also where a link leads nowhere yet
        return Path(os.path.realpath(path))
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise ValueError(f"{name} must be a regular file, or none yet, got {shown!r}, which is {kind}")
    return Path(os.path.realpath(path))


def _writable_file(name: str, path: AnyPath) -> Path:
    """A regular file that may be written to, or none yet: what is protected must not be replaced instead."""
    target = regular_file(name, path)
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(target, os.O_WRONLY))
    return target


@contextlib.contextmanager
def _draft_beside(target: Path, path: AnyPath) -> Iterator[Path]:
    """A name for a draft of a file, which is gone in the end; errors name the path that was given, not the draft's."""
    # Each draft has a name of its own, as two threads may write to one path; it is short, as names have a limit.
    draft = target.with_name(f"{target.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        yield draft
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(draft)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        with contextlib.suppress(OSError):  # its folder may be gone, too
            draft.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Open a new file that nobody else can read, until it gets the mode of the one that it replaces."""
    return os.open(path, flags, 0o600)


def _give(draft: Path, replaced: os.stat_result) -> None:
    """Give a draft the owner, where this user may, and the mode of the file that it replaces."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(draft, replaced.st_uid, replaced.st_gid)
    os.chmod(draft, stat.S_IMODE(replaced.st_mode))
