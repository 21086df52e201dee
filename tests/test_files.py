"""Files are written atomically, replace only regular files, and keep their owner and mode."""

import ast
import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import benchmark
import numpy as np
import pytest
from helpers import Ring, learned

import td_helpers as td
from figures import make_figures

ROOT = Path(__file__).resolve().parent.parent
LAKE = td.FrozenLakeEnv()
GIF = td.Film(b"GIF89a of a lake", "a lake")


def agent(simulator=LAKE, **settings) -> td.DistributedQLAgent:
    """Return a small agent that needs no Ray."""
    defaults = {"learning_episodes": 20, "test_interval": 10, "trials": 2, "cw_num": 2, "ew_num": 1, "batch_size": 5}
    return td.DistributedQLAgent(simulator, 0.3, 0.1, workers=td.InProcess(), **(defaults | settings))


def run_with_checkpoint(path):
    """Run an agent with a checkpoint at the path."""
    agent(checkpoint=path).learn_and_evaluate(progress=False)


def publish(path: Path):
    """Publish a picture of the report at the path."""
    draft = path.parent / "draft"
    draft.mkdir()
    try:
        (draft / path.name).write_bytes(b"a picture")
        make_figures.publish(draft, path.parent, path.parent)
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
    """The path to write to."""
    return tmp_path / "written"


def written(path) -> bool:
    """Whether a file was written and no draft is left beside it."""
    return path.stat().st_size > 0 and not [name for name in os.listdir(path.parent) if name.endswith(".tmp")]


# Only regular files are replaced --------------------------------------------------------------


def listen(path):
    """Create a server's socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def link_to_a_pipe(path):
    """Create a link to a pipe."""
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def device(path):
    """Create a device like /dev/null."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs root to make a device")


THINGS = {  # what is at the path, and its name
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


# Modes, owners and links ----------------------------------------------------------------------


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


def test_the_benchmarks_files_keep_links_and_modes(tmp_path, monkeypatch):
    root, machine = tmp_path / "root", {"machine": "this one"}
    (root / "tests").mkdir(parents=True)
    links = [root / "README.md", root / "tests" / "benchmark.jsonl", root / "tests" / "benchmark.md"]
    for link in links:
        real = tmp_path / link.name
        real.write_text(json.dumps(machine) + "\n", encoding="utf-8")
        real.chmod(0o640)
        link.symlink_to(real)
    monkeypatch.setattr(benchmark, "ROOT", root)
    monkeypatch.setattr(benchmark, "FIGURES", [machine])
    monkeypatch.setattr(benchmark, "in_readme", lambda text, rows: "µs")
    monkeypatch.setattr(benchmark, "in_document", lambda rows: "µs")
    benchmark.write()
    assert all(link.is_symlink() and stat.S_IMODE(link.stat().st_mode) == 0o640 for link in links)
    assert [link.read_text(encoding="utf-8") for link in links] == ["µs", json.dumps(machine) + "\n", "µs"]


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


# Failures -------------------------------------------------------------------------------------


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


@pytest.fixture
def shared():
    """A folder that other users can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


@contextlib.contextmanager
def permissions_count():
    """Switch from root, who bypasses permissions, to another user for the test."""
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has other permissions")
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_folder_that_this_user_may_not_write_to_is_told(shared):
    shared.chmod(0o555)
    with permissions_count(), pytest.raises(PermissionError, match=r"Permission denied: .*written'"):
        GIF.save(shared / "written")
    assert os.listdir(shared) == []


def test_a_protected_file_is_not_replaced_though_its_folder_lets_it(shared):
    path = shared / "written"
    path.write_bytes(b"old")
    path.chmod(0o444)
    shared.chmod(0o777)
    with permissions_count(), pytest.raises(PermissionError, match=r"Permission denied: .*written'"):
        GIF.save(path)
    assert path.read_bytes() == b"old" and os.listdir(shared) == ["written"]


# Checkpoints ----------------------------------------------------------------------------------

UNFIT = {  # a checkpoint's path, given a folder, and the error
    "a folder": (lambda folder: folder, "checkpoint must be a regular file"),
    "a pipe": (lambda folder: os.mkfifo(folder / "pipe") or folder / "pipe", "checkpoint must be a regular file"),
    "no name": (lambda folder: "", "checkpoint must be the path of a file, got ''"),
    "a name of 300 letters": (lambda folder: folder / ("x" * 300), "File name too long"),
    "a folder that is missing": (lambda folder: folder / "none" / "agent", "No such file or directory"),
    "a folder that is a file": (lambda folder: Path(__file__) / "agent", "Not a directory"),
    "a loop of links": (lambda folder: (folder / "loop").symlink_to("loop") or folder / "loop", "symbolic links"),
    "no path": (lambda folder: 3, "checkpoint must be the path of a file, got 3"),
    "a zero byte": (lambda folder: "agent\0", "checkpoint must have no zero byte"),
}


@pytest.mark.parametrize("make, message", UNFIT.values(), ids=UNFIT)
def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_work(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises((ValueError, TypeError), match=f"checkpoint.*{message}|^{message}"):
        agent(checkpoint=path)
    later = agent(Ring())
    later.checkpoint = path
    for call in (later.learn, later.learn_and_evaluate):
        with pytest.raises((ValueError, TypeError), match=f"checkpoint.*{message}|^{message}"):
            call()
    assert later.simulator.resets == later.episode == 0
    assert not list(tmp_path.glob("*.tmp"))


def test_a_checkpoint_that_this_user_may_not_write_is_refused_before_the_work(shared):
    shared.chmod(0o555)
    with permissions_count(), pytest.raises(ValueError, match=r"checkpoint must be a file .*: Permission denied"):
        agent(checkpoint=shared / "agent")


@pytest.mark.parametrize("before", [None, b"of another run"], ids=["a new file", "an old file"])
def test_trying_where_a_checkpoint_is_to_be_leaves_what_is_there(path, before):
    if before is not None:
        path.write_bytes(before)
    agent(checkpoint=path)
    assert [entry.read_bytes() for entry in path.parent.iterdir()] == ([] if before is None else [before])


def whole_run() -> tuple:
    """The learned state of an undisturbed run."""
    whole = agent()
    whole.learn_and_evaluate(progress=False)
    return learned(whole)


def test_a_checkpoint_that_fails_is_told_and_tried_again_while_the_run_goes_on(path, monkeypatch):
    saver, save, episodes = agent(checkpoint=path, checkpoint_seconds=0), td.DistributedQLAgent.save, []

    def full_for_a_moment(self, path):
        if self.episode == 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, path)
        episodes.append(agent().load(path).episode)

    monkeypatch.setattr(td.DistributedQLAgent, "save", full_for_a_moment)
    with pytest.warns(UserWarning, match="checkpoint was not written .*No space left.*: the run continues") as warned:
        saver.learn_and_evaluate(progress=False)
    assert len(warned) == 1 and episodes == [5, 15, 20, 20]
    assert learned(saver) == learned(agent().load(path)) == whole_run()


def test_checkpoints_that_fail_all_the_time_are_told_once(tmp_path):
    path = tmp_path / "folder" / "agent"
    path.parent.mkdir()
    saver = agent(checkpoint=path, checkpoint_seconds=0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        for _ in saver.learn_in_batches(20):
            shutil.rmtree(path.parent, ignore_errors=True)
    assert [str(entry.message).partition("): ")[2][:12] for entry in warned] == ["the run cont", "what was lea"]
    assert str(path) in str(warned[0].message) and learned(saver)[0] == whole_run()[0]


class Fails(Ring):
    """A ring that raises an error in the first step of its 61st episode."""

    def __init__(self, error):
        super().__init__(at=(60, 1), fault=self.fail)
        self.error = error

    def fail(self, _):
        raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError("of the simulator"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_the_run_is_not_hidden_by_one_of_its_checkpoint(tmp_path, error):
    path = tmp_path / "folder" / "agent"
    path.parent.mkdir()
    saver = agent(Fails(error), checkpoint=path, compiled=False, do_test=False, batch_size=1)
    path.parent.rmdir()
    saver._check_settings = lambda: None  # the folder existed when checked
    warned = pytest.warns(UserWarning, match="No such file.*: what was learned is in the agent")
    with warned, pytest.raises(type(error)):
        saver.learn(100)
    assert 0 < saver.episode <= 60


def test_where_warnings_are_errors_the_runs_own_error_has_a_note_of_the_checkpoint(tmp_path):
    path = tmp_path / "folder" / "agent"
    path.parent.mkdir()
    saver = agent(Fails(ZeroDivisionError()), checkpoint=path, compiled=False, do_test=False, batch_size=1)
    path.parent.rmdir()
    saver._check_settings = lambda: None
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError) as raised:
        warnings.simplefilter("error")
        saver.learn(100)
    assert "the checkpoint was not written" in raised.value.__notes__[-1]


# Encodings ------------------------------------------------------------------------------------

SOURCES = [
    path
    for folder in (ROOT, *(ROOT / name for name in ("tabular", "beyond", "beyond/figures", "figures", "tests")))
    for path in sorted(folder.glob("*.py"))
]


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes a file as text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if name in ("read_text", "write_text", "TextIOWrapper"):
        return True
    if name not in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"):
        return False
    is_method = name == "open" and isinstance(call.func, ast.Attribute)
    if is_method and (ast.unparse(call.func) == "os.open" or not all(map(_is_constant, call.args[:1]))):
        return False  # os.open, archives, or pictures
    named = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    place = 0 if is_method or "Temporary" in name else 1
    mode = [*named, *call.args[place : place + 1], ast.Constant("w+b" if "Temporary" in name else "r")][0]
    return not (_is_constant(mode) and "b" in mode.value)


def _is_constant(node) -> bool:
    return isinstance(node, ast.Constant)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_in_an_encoding_that_is_named(source):
    calls = [node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    unnamed = [
        f"line {call.lineno}: {ast.unparse(call)}"
        for call in calls
        if opens_text(call) and "encoding" not in [keyword.arg for keyword in call.keywords]
    ]
    assert not unnamed


IN_ASCII = """
import codecs, locale, sys
from pathlib import Path
assert codecs.lookup(locale.getpreferredencoding(False)).name == "ascii"
from beyond.figures import dyna
from figures.rows import read_rows, write_rows

committed = Path(dyna.__file__).parent / "data" / "dyna.csv"
rows = read_rows(committed, dyna.run)
assert rows["learner"].str.contains("\\u03bb").any()
path = Path(sys.argv[1])
write_rows(path, dyna.run, rows.to_dict("records"))
assert path.read_bytes() == committed.read_bytes()
"""


def test_rows_are_read_and_written_in_a_locale_of_ascii(tmp_path):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", IN_ASCII, str(tmp_path / "rows.csv")], cwd=ROOT, env=os.environ | environment,
        capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-2000:]
