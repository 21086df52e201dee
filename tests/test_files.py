"""Files that the project writes: whole or not at all, in the place of files alone, and as their owner has them."""

import errno
import os
import shutil
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

import td_helpers as td
from figures import make_figures

LAKE = td.FrozenLakeEnv()
GIF = td.Film(b"GIF89a of a lake", "a lake")


def agent(**settings) -> td.DistributedQLAgent:
    """A small agent that needs no Ray."""
    defaults = {"learning_episodes": 20, "test_interval": 10, "trials": 2, "cw_num": 2, "ew_num": 1, "batch_size": 5}
    return td.DistributedQLAgent(LAKE, 0.3, 0.1, workers=td.InProcess(), **(defaults | settings))


def run_with_checkpoint(path):
    """Learn, with a checkpoint at the path."""
    agent(checkpoint=path).learn_and_evaluate(progress=False)


def publish(path: Path):
    """Publish a picture of the report that is to lie at the path."""
    draft = path.parent / "draft"
    draft.mkdir()
    try:
        (draft / path.name).write_bytes(b"a picture")
        make_figures.publish(draft, path.parent)
    finally:
        shutil.rmtree(draft)


DOORS = {
    "save": lambda path: agent().save(path),
    "checkpoint": run_with_checkpoint,
    "figure": lambda path: td.save_figure(td.plot_timing({"a": 1.0}), path),
    "film": GIF.save,
    "report": publish,
}
doors = pytest.mark.parametrize("write", DOORS.values(), ids=DOORS)


@pytest.fixture
def path(tmp_path):
    """Where to write."""
    return tmp_path / "written"


def written(path) -> bool:
    """Whether a file was written whole, and no draft lies beside it."""
    return path.stat().st_size > 0 and not [name for name in os.listdir(path.parent) if name.endswith(".tmp")]


# What is replaced -----------------------------------------------------------------------------


def listen(path):
    """Leave the socket of a server."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def link_to_a_pipe(path):
    """Leave a link that leads to a pipe."""
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def device(path):
    """Leave a device of the kind that swallows what is written to it."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs root to make a device")


THINGS = {  # what stands at the path, and its name
    "folder": (Path.mkdir, "a folder"),
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (listen, "a socket"),
    "link to a pipe": (link_to_a_pipe, "a pipe"),
    "link to a folder": (lambda path: path.symlink_to(path.parent), "a folder"),
    "device": (device, "a device"),
}


@doors
@pytest.mark.parametrize("make, kind", THINGS.values(), ids=THINGS)
def test_what_is_no_file_is_refused_with_what_it_is_and_stays(path, write, make, kind):
    make(path)
    before = os.lstat(path), sorted(os.listdir(path.parent))
    with pytest.raises(ValueError, match=f"must be a regular file, or none yet, got .*written', which is {kind}"):
        write(path)
    assert os.lstat(path).st_mode == before[0].st_mode and os.lstat(path).st_ino == before[0].st_ino
    assert sorted(os.listdir(path.parent)) == before[1]


def test_what_is_no_file_is_refused_before_the_work(path, monkeypatch):
    path.mkdir()
    figure = td.plot_timing({"a": 1.0})
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: pytest.fail("was drawn"))
    with pytest.raises(ValueError, match="which is a folder"):
        td.save_figure(figure, path)


NAMELESS = ["", ".", "..", "agents/", "agents/."]


@pytest.mark.parametrize("given", NAMELESS, ids=repr)
def test_a_path_without_a_files_name_is_refused(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path must be the path of a file, got"):
        GIF.save(given)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("given", [None, 3, b"agent", ["agent"]], ids=repr)
def test_what_is_no_path_is_refused(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match="path must be the path of a file, got"):
        GIF.save(given)
    assert os.listdir(tmp_path) == []


# As its owner has it --------------------------------------------------------------------------


@doors
def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path, write):
    real = tmp_path / "kept" / "real"
    real.parent.mkdir()
    real.write_bytes(b"")
    path = tmp_path / "written"
    path.symlink_to("link")
    (tmp_path / "link").symlink_to(os.path.join("kept", "real"))
    write(path)
    assert path.is_symlink() and (tmp_path / "link").is_symlink()
    assert written(real) and not real.is_symlink()


def test_a_link_that_leads_nowhere_yet_leads_to_the_file_in_the_end(path):
    path.symlink_to("real")
    GIF.save(path)
    assert path.is_symlink() and path.with_name("real").read_bytes() == GIF.gif


@doors
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755], ids=oct)
def test_a_file_keeps_its_mode(path, write, mode):
    path.write_bytes(b"")
    path.chmod(mode)
    write(path)
    assert written(path) and stat.S_IMODE(path.stat().st_mode) == mode


@doors
def test_a_new_file_has_the_mode_that_the_user_gives_new_files(path, write):
    before = os.umask(0o027)
    try:
        write(path)
    finally:
        os.umask(before)
    assert written(path) and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nobody_else_reads_a_private_file_while_it_is_written(path, monkeypatch):
    path.write_bytes(b"")
    path.chmod(0o600)
    seen = []

    def look(file, **_):
        seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))

    monkeypatch.setattr(np, "savez_compressed", look)
    agent().save(path)
    assert seen == [0o600]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to give files away")
def test_a_file_that_root_replaces_stays_its_owners(path):
    path.write_bytes(b"")
    os.chown(path, 65534, 65534)
    GIF.save(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


@pytest.mark.parametrize("letters", ["x" * 250, "ü" * 120], ids=["long", "two bytes a letter"])
def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path, letters):
    GIF.save(tmp_path / letters)
    assert (tmp_path / letters).read_bytes() == GIF.gif


# What cannot be written -----------------------------------------------------------------------


def test_a_missing_folder_is_told_by_the_path_that_was_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/written'$"):
        GIF.save(tmp_path / "none" / "written")


def test_a_full_disk_is_told_by_the_path_that_was_given_and_leaves_the_old_file(path, monkeypatch):
    path.write_bytes(b"old")

    def full(file, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*written'"):
        agent().save(path)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["written"]
