"""The process that a submission is judged in: its limits, what it is refused, and what it reports.

A process that has imported everything waits for requests and forks for each; where there is no fork (Windows) it
serves one request and ends. A request is a line of JSON, made by `Fence`; a report is a line of JSON, too:

    {"key": ..., "begins": "q_learning"}              what is done from now on: "read", a statement, or an item
    {"key": ..., "loaded": {...}}                     what was executed and what it raised, the fields of `Loaded`
    {"key": ..., "unreadable": "..."}                 or why there is nothing to load
    {"key": ..., "finding": [...]}                    of an item
    {"key": ..., "tried": [...], "refused": [...]}    what was asked for and not given
    {"key": ..., "done": true}                        all that was asked for was reported

A report has the request's key, so that what a submission writes to the same pipe is taken for none.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import td_helpers as td
from course import offered, submission
from course.errors import described
from course.fence import OWN_FOLDER
from course.findings import ITEMS, Finding
from course.submission import Unreadable
from tabular.simulated_ray import NotSimulated, simulated

try:
    import resource
except ImportError:  # Windows
    resource = None

MEGABYTE = 1 << 20
PRELOADED = (
    "gym.utils.seeding",
    "matplotlib.pyplot",
    "ray.cloudpickle",
    "ray.exceptions",
    "scipy.stats",
    "tqdm",
)  # once, for all
CALLS = {  # audit events that are refused, and what they would do
    "start a process": (
        "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "pty.spawn",
        "subprocess.Popen", "webbrowser.open",
    ),
    "send a signal": ("os.kill", "os.killpg", "signal.pthread_kill"),
    "use the network": (
        "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
        "socket.sendto", "socket.sendmsg", "urllib.Request", "ftplib.connect", "smtplib.connect", "imaplib.open",
        "poplib.connect", "http.client.connect",
    ),
}  # fmt: skip
FILES = {  # audit events that change a file, and which of their arguments are paths
    "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,), "os.setxattr": (0,),
    "os.removexattr": (0,), "os.chflags": (0,), "shutil.rmtree": (0,), "sqlite3.connect": (0,),
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOST_FILES = 200  # that are opened to be written to


class Refused(PermissionError):
    """A submission asked for what it may not have."""


# Limits -------------------------------------------------------------------------------------------


def limit(limits: dict) -> None:
    """Set limits on memory, the size of files and their number, for good; time is limited step by step."""
    if resource is None:
        return
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, limits["megabytes_of_a_file"] * MEGABYTE)
    _lower(resource.RLIMIT_NOFILE, 256)
    with contextlib.suppress(OSError, ValueError):  # macOS knows no limit on memory: see _watch_memory
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + limits["megabytes"] * MEGABYTE)
    if sys.platform == "darwin":
        _watch_memory(limits["megabytes"])


def _lower(which: int, value: int) -> None:
    """Set a limit, unless there is a lower one."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _watch_memory(megabytes: int) -> None:
    """End the process once it has taken so much."""
    most, idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + megabytes * MEGABYTE, threading.Event()

    def watch():
        while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most:
            idle.wait(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def allow_seconds(seconds: float) -> None:
    """Give the process so many more seconds of computing, after which the system ends it."""
    if resource is not None:
        used, hard = time.process_time(), resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def leave_network() -> None:
    """Take the process out of the network, where the system lets it: on Linux, as root or with user namespaces."""
    if sys.platform != "linux":
        return
    import ctypes

    new_user, new_net = 0x10000000, 0x40000000
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None or unshare(new_net) == 0:
        return
    user, group = os.getuid(), os.getgid()
    if unshare(new_user | new_net) == 0:
        with contextlib.suppress(OSError):  # files of its own need a user of its own
            for name, line in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
                Path(f"/proc/self/{name}").write_text(line, encoding="ascii")


def refuse(folder: str, refused: list[str]) -> None:
    """Refuse, from now on, to start processes, send signals, use the network and change files outside of a folder.

    Code that asks for these gets Refused, and `refused` what it asked for. Nothing can undo this.
    """
    reasons = {event: what for what, events in CALLS.items() for event in events}
    folder, opened, real = os.path.realpath(folder) + os.sep, [0], os.path.realpath
    link, decode, join, devnull, sep = os.readlink, os.fsdecode, os.path.join, os.devnull, os.sep
    frame, at_work = sys._getframe, (f"{os.sep}numba{os.sep}", "<frozen importlib")

    def tell(what: str):
        caller = frame(2)
        while caller is not None and not any(part in caller.f_code.co_filename for part in at_work):
            caller = caller.f_back
        # A library that is imported, or that keeps what it compiled, does so on its own account.
        if caller is None and what not in refused and len(refused) < 20:
            refused.append(what)
        raise Refused(f"a submission may not {what}")

    def outside(path, beside=-1) -> bool:
        if path is None or isinstance(path, int):
            return False  # an open file
        path = decode(path)
        if isinstance(beside, int) and beside >= 0 and not path.startswith("/"):
            try:
                path = join(link(f"/proc/self/fd/{beside}"), path)
            except OSError:
                return True
        return path != devnull and not (real(path) + sep).startswith(folder)

    def look(event, arguments):
        what = reasons.get(event)
        if what is not None:
            tell(what)
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, int) else not set(str(mode)) <= set("rbtU")
            if writes and not isinstance(path, int):
                opened[0] += 1
                if outside(path):
                    tell("write outside of its folder")
                if opened[0] > MOST_FILES:
                    tell(f"write more than {MOST_FILES} files")
        elif event in FILES:
            beside = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree") else -1
            if any(outside(arguments[place], beside) for place in FILES[event]):
                tell("change files outside of its folder")

    sys.addaudithook(look)


def hide_streams() -> None:
    """Have input end at once, and what is printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number, name, mode in (0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"):
        os.dup2(nowhere, number)
        stream = os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# A request ----------------------------------------------------------------------------------------


class Reports:
    """Writes reports; it holds all that it needs, as a submission may replace what others find by name."""

    def __init__(self, number: int, key: str):
        self._number, self._key = number, key
        self._encode, self._write = json.JSONEncoder(ensure_ascii=True, default=str).encode, os.write

    def send(self, **fields) -> None:
        """Write a report, on a line of its own whatever stands before it."""
        line = b"\n" + self._encode({"key": self._key} | fields).encode("ascii") + b"\n"
        while line:
            line = line[self._write(self._number, line) :]


def serve(judge: Callable, request: dict, reports: Reports) -> None:
    """Load a submission and judge items of it."""
    limits, tried, refused = request["limits"], [], []
    os.chdir(request["folder"])
    os.environ.update(dict.fromkeys(OWN_FOLDER, request["folder"]))
    tempfile.tempdir = None
    sys.path[:] = [entry for entry in sys.path if entry]
    hide_streams()
    leave_network()
    limit(limits)
    offered.restrict(tried)
    refuse(request["folder"], refused)

    def begins(what: str) -> None:
        allow_seconds(limits["seconds"])
        reports.send(begins=what)

    begins("read")
    try:
        cells = submission.code_cells(Path(request["path"]))
    except (Unreadable, OSError, MemoryError) as error:
        reason = str(error) if isinstance(error, Unreadable) else described(error)
        reports.send(unreadable=reason, done=True)
        return
    names = _load(cells, request, begins, reports)
    reports.send(tried=tried, refused=refused)
    items = [item for item in ITEMS if item in request["items"]]
    _judge(judge, names, items, request["seed"], begins, reports)
    reports.send(tried=tried, refused=refused, done=True)


def _load(cells: list[str], request: dict, begins, reports: Reports) -> dict:
    """Execute what defines, without the statements that the request leaves out: the namespace."""
    main = sys.modules["__main__"] = type(sys)("__main__")
    statements, broken = submission.read(cells)
    omitted = {tuple(place) for place in request["omitted"]}
    statements = [one for one in statements if (one.cell, one.node.lineno) not in omitted]
    raised, absent = [], []
    with simulated(request["seed"]):
        executed = submission.execute(statements, cells, vars(main))
        for statement in statements:
            begins(json.dumps([statement.cell, statement.node.lineno, statement.line]))
            outcome = next(executed)
            if outcome.error:
                told = raised if outcome.simulated else absent
                told.append([statement.place, statement.line, outcome.error])
    defined = [name for name, value in vars(main).items() if getattr(value, "__module__", None) == "__main__"]
    reports.send(
        loaded={
            "cells": len(cells),
            "executed": len({one.cell for one in statements}),
            "statements": len(statements),
            "broken": [list(one) for one in broken],
            "raised": raised,
            "absent": absent,
            "loops": [list(one) for one in submission.loops_left_out(cells, statements)],
            "defined": [str(name)[:80] for name in defined],
        }
    )
    return vars(main)


def _judge(judge: Callable, names: dict, items: list[str], seed: int, begins, reports: Reports) -> None:
    """Report a finding for each item, as soon as it is known."""
    left = [item for item in items if item != "loads"]
    findings = judge(names, seed, tuple(left))
    while left:
        begins(left[0])
        try:
            finding = next(findings)
        except NotSimulated as error:
            finding = Finding(left[0], 0.0, False, f"The grader cannot run this: {error}.", "")
            findings = judge(names, seed, tuple(left[1:]))
        except (MemoryError, RecursionError, Refused, SystemExit, KeyboardInterrupt) as error:
            told = f"This could not be judged to its end: {described(error)}."
            finding = Finding(left[0], 0.0, True, told, "Run this part by itself.")
            findings = judge(names, seed, tuple(left[1:]))
        except BaseException as error:
            told = f"The grader itself failed at this item ({described(error)}): mark it by hand."
            finding = Finding(left[0], 0.0, False, told, "")
            findings = judge(names, seed, tuple(left[1:]))
        reports.send(finding=list(finding))
        left.remove(finding.item) if finding.item in left else left.pop(0)


# The process --------------------------------------------------------------------------------------


def main(judge_module: str, forks: bool) -> None:
    """Serve requests, a line each, until there are no more."""
    judge = importlib.import_module(judge_module).judge
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    pipe = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing but reports is written to the pipe
    sys.dont_write_bytecode = True
    table = td.FrozenLakeEnv().table
    td.policy_value(table, td.value_iteration(table))  # compiled once, for all
    gc.freeze()
    commands = io.FileIO(0, closefd=False)  # without a buffer, which a fork would copy
    while line := _line(commands):
        request = json.loads(line)
        if not forks:
            _guarded(judge, request, pipe)
            return
        child = os.fork()
        if child == 0:
            os.setsid()
            _guarded(judge, request, pipe)
            os._exit(0)
        Reports(pipe, request["key"]).send(process=child)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            os.killpg(child, 9)  # what it may have left behind
        Reports(pipe, request["key"]).send(ended=os.waitstatus_to_exitcode(status))


def _line(commands: io.FileIO) -> bytes:
    """The next line; nothing more is read."""
    line = b""
    while not line.endswith(b"\n") and (byte := commands.read(1)):
        line += byte
    return line


def _guarded(judge: Callable, request: dict, pipe: int) -> None:
    """Serve a request; whatever happens the process goes no further."""
    try:
        serve(judge, request, Reports(pipe, request["key"]))
    except BaseException as error:
        with contextlib.suppress(BaseException):
            Reports(pipe, request["key"]).send(failed=described(error))
