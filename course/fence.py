"""A fence around each submission: processes of its own, limits, an empty folder, and a look at how they end.

It is one against accidents: code that means harm needs a container or a virtual machine around the grader.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from course.errors import LOOPS
from course.findings import ITEMS, Finding

ROOT = Path(__file__).resolve().parent.parent
BOOT = "import sys; sys.path[:] = {path!r}; from course import inside; inside.main({judge!r}, {forks!r})"
JUDGE = "course.judge"  # the module whose `judge` looks at what a submission defines
KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "NUMBA_CACHE_DIR", "LD_LIBRARY_PATH")
OWN_FOLDER = ("HOME", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR", "IPYTHONDIR")  # variables that name one
CHANGING = re.compile(r" at 0x[0-9a-fA-F]+|[^\s'\"]*[/\\]submission-\w+[/\\]?")
LONGEST = 100_000  # bytes of a report
MOST_ENDINGS = 16  # of a submission's processes, after which the rest is not tried
MOST_LINES = 40  # of what was seen
LEAST_SHARE, MOST_WAITS = 0.02, 10  # of the time that it is waited for it must compute, and so often is it waited
HANGS = "it did not come to an end within {:g} s"
AFTER_A_HANG = (
    0.25  # of the time is left for each thing that follows, most of which is quick, or hangs for the same reason
)


class Limits(NamedTuple):
    """What a submission may use."""

    seconds: float = 20  # of computing, at each statement and each item
    megabytes: int = 2_000  # of memory, besides what the imports take
    megabytes_of_a_file: int = 20
    patience: float = 1  # a step that only waits is ended after so many times its seconds


class Loaded(NamedTuple):
    """What became of a submission when its defining statements were executed."""

    unreadable: str = ""  # why the file is no notebook
    cells: int = 0
    executed: int = 0  # cells of which something was executed
    statements: int = 0
    broken: tuple = ()  # cells that do not compile: (number, reason)
    raised: tuple = ()  # statements that raised: (place, line, error)
    absent: tuple = ()  # the same, of those that ask for something that the simulated Ray does not have
    stopped: tuple = ()  # statements at which the process ended: (place, line, how)
    tried: tuple = ()  # what was asked for of the model answer
    refused: tuple = ()  # what else was refused
    loops: tuple = ()  # that were not executed: (cell, line, whether it never ends)
    defined: tuple = ()  # names of what was defined


class Fence:
    """Judges submissions one after another, each in processes of its own; several fences may do so at once.

    A context manager. `forks=False` starts a whole process for each, as where the system cannot fork.
    """

    def __init__(self, limits: Limits | None = None, forks: bool | None = None):
        self.limits, self.forks = limits or Limits(), hasattr(os, "fork") if forks is None else forks
        self._host: subprocess.Popen | None = None
        self._closed = False
        self._lines: queue.Queue = queue.Queue()

    def __enter__(self) -> Fence:
        return self

    def __exit__(self, *_) -> None:
        self._closed = True
        self._end_host()

    def judge(self, path: Path, seed: int = 0, items: Sequence[str] = ITEMS) -> tuple[Loaded, dict[str, Finding]]:
        """What became of a submission, and a finding for each item that was asked for, but for "loads"."""
        left, findings = [item for item in ITEMS if item in items and item != "loads"], {}
        omitted, stopped, loaded, notes = [], [], None, {"tried": [], "refused": []}
        limits = self.limits
        for _ in range(MOST_ENDINGS):
            run = self._run(path, seed, left, omitted, limits)
            if run.hung:
                limits = self.limits._replace(seconds=AFTER_A_HANG * self.limits.seconds)
            for kind, told in notes.items():
                told += [one for one in run.notes[kind] if one not in told]
            findings |= run.findings
            left = [item for item in left if item not in findings]
            loaded = run.loaded or loaded
            if run.done:
                break
            if run.begun in ITEMS:  # the process ended within an item
                findings[run.begun] = Finding(run.begun, 0.0, True, f"While this was judged, {run.ending}.", _hint(run))
                left.remove(run.begun)
            elif run.begun in ("read", ""):
                loaded = Loaded(unreadable=f"while it was read, {run.ending}")
                break
            else:
                cell, line, text = json.loads(run.begun)
                omitted.append([cell, line])
                stopped.append((f"code cell {cell}, line {line}", text, run.ending))
        loaded = loaded or Loaded()
        loaded = loaded._replace(stopped=tuple(stopped), **{kind: tuple(told) for kind, told in notes.items()})
        return loaded, findings | {item: _unreached(item, loaded) for item in left}

    def _run(self, path: Path, seed: int, items: list[str], omitted: list, limits: Limits) -> _Run:
        """One process: what it reported until it ended, or was ended."""
        with tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True) as folder:
            key = secrets.token_hex(8)
            request = {
                "key": key, "path": os.path.abspath(path), "folder": folder, "seed": seed, "items": items,
                "omitted": omitted, "limits": limits._asdict(),
            }  # fmt: skip
            run = _Run()
            try:
                self._send(request)
                self._listen(run, key, limits)
            finally:
                if not run.gone:  # what is unclear, or hangs
                    self._end_process(run.process)
                    self._end_host()
            return run

    def _listen(self, run: _Run, key: str, limits: Limits) -> None:
        """Take reports until the process has ended, or has waited for too long."""
        interval = limits.seconds * limits.patience
        computed, waits = 0.0, 0
        while True:
            try:
                line = self._lines.get(timeout=interval)
            except queue.Empty:
                before, computed = computed, _seconds_computed(run.process or self._host.pid, computed + interval)
                waits += 1
                # On a busy machine it may just be slow: the system ends it once it has computed for long enough.
                if computed - before > LEAST_SHARE * interval and waits < MOST_WAITS:
                    continue
                run.ending, run.hung = HANGS.format(limits.seconds), True
                return
            if line is None:  # the host is gone, as it is at the end where it does not fork
                self._end_host()
                run.gone, run.ending = True, run.ending or "the process ended"
                return
            report = _parsed(line, key)
            run.take(report, limits)
            waits = 0
            if "ended" in report:
                run.gone = True
                return

    # The host: a process that has imported everything, and starts those of submissions

    def _send(self, request: dict) -> None:
        line = json.dumps(request).encode("ascii") + b"\n"
        if self._host is None or self._host.poll() is not None:
            self._start_host()
        try:
            self._host.stdin.write(line)
        except OSError:
            self._start_host()
            self._host.stdin.write(line)

    def _start_host(self) -> None:
        if self._closed:
            raise RuntimeError("the fence was closed while a submission was judged")
        self._end_host()
        path = [str(ROOT), *(entry for entry in sys.path if entry and entry != str(ROOT))]
        self._home = tempfile.TemporaryDirectory(prefix="grader-", ignore_cleanup_errors=True)
        self._host = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", BOOT.format(path=path, judge=JUDGE, forks=self.forks)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            cwd=self._home.name, env=environment(self._home.name), start_new_session=True,
        )  # fmt: skip
        self._lines = queue.Queue()
        threading.Thread(target=_read_lines, args=(self._host.stdout, self._lines), daemon=True).start()

    def _end_host(self) -> None:
        if self._host is None:
            return
        self._end_process(self._host.pid)
        self._host.kill()
        self._host.wait()
        self._host.stdin.close()
        self._host = None
        self._home.cleanup()

    @staticmethod
    def _end_process(number: int | None) -> None:
        """End a process and all of its group."""
        if number and hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(number, signal.SIGKILL)


class _Run:
    """What one process has reported."""

    def __init__(self):
        self.process: int | None = None
        self.begun, self.ending = "", ""
        self.done = self.gone = self.hung = False
        self.loaded: Loaded | None = None
        self.findings: dict[str, Finding] = {}
        self.notes: dict[str, list[str]] = {"tried": [], "refused": []}

    def take(self, report: dict, limits: Limits) -> None:
        """Take over what a report says."""
        self.process = report.get("process", self.process)
        self.begun = report.get("begins", self.begun)
        self.done = report.get("done", self.done)
        for kind, told in self.notes.items():
            told += [clean(one) for one in report.get(kind, ()) if clean(one) not in told]
        if "loaded" in report:
            fields = {name: _cleaned(value) for name, value in report["loaded"].items()}
            self.loaded = Loaded(**fields)
        if "unreadable" in report:
            self.loaded = Loaded(unreadable=clean(report["unreadable"]))
        if "finding" in report:
            item, share, judged, seen, hint = report["finding"]
            self.findings[item] = Finding(item, share, judged, _clean_lines(seen), clean(hint))
        if "failed" in report:
            self.ending = f"the process ended ({clean(report['failed'])})"
        if "ended" in report and not self.ending:
            self.hung = hasattr(signal, "SIGXCPU") and report["ended"] == -signal.SIGXCPU
            how = f"the process ended{_how(report['ended'])}"
            self.ending = HANGS.format(limits.seconds) if self.hung else how


def environment(home: str) -> dict[str, str]:
    """The environment variables of a submission: what programs need, and nothing of the user's."""
    own = dict.fromkeys(OWN_FOLDER, home)
    own |= {"MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    own |= {"OPENBLAS_NUM_THREADS": "1", "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}
    return {name: os.environ[name] for name in KEPT if name in os.environ} | own


def clean(text, most: int = 1000) -> str:
    """A text of a submission's making as one that can be shown: no control characters, and not too long.

    What is another one every time is left out of it: addresses in memory, and the name of its folder.
    """
    text = CHANGING.sub("", str(text)[: 2 * most])
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= most else text[:most] + "..."


def _clean_lines(text) -> str:
    """A text of a few lines, each of them clean."""
    return "\n".join(clean(line) for line in str(text).split("\n", MOST_LINES)[:MOST_LINES])


def _cleaned(value):
    """Numbers as they are, lists of texts as tuples of clean ones."""
    if isinstance(value, list):
        return tuple(_cleaned(one) for one in value)
    return value if isinstance(value, int) else clean(value)


def _how(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f" with status {code}"
    with contextlib.suppress(ValueError):
        return f" by {signal.Signals(-code).name}"
    return f" by signal {-code}"


def _hint(run: _Run) -> str:
    if "did not come" not in run.ending:
        return "Run this part by itself."
    return LOOPS if run.begun in ITEMS[:5] else "Does every loop end, also where an episode does not?"


def _unreached(item: str, loaded: Loaded) -> Finding:
    """The finding of an item that could not be come to."""
    if loaded.unreadable:
        return Finding(item, 0.0, True, "There is no code to judge.", "")
    seen = "This was not reached, as what came before it ended the process too often."
    return Finding(item, 0.0, True, seen, "See to what hangs or ends the process first.")


def _seconds_computed(process: int, stopped: float) -> float:
    """How long a process has computed; `stopped` where another one has stopped it, and 0 where it cannot be told."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return stopped if fields[0] == "T" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _parsed(line: bytes, key: str) -> dict:
    """A report; {} for what is none, such as what a submission wrote to the pipe."""
    with contextlib.suppress(ValueError, RecursionError):
        report = json.loads(line)
        if isinstance(report, dict) and report.get("key") == key:
            return report
    return {}


def _read_lines(pipe, lines: queue.Queue) -> None:
    """Put the reports of a pipe into a queue, and None at the end; what cannot be one, or is too long, is left out."""
    with pipe:
        rest, skipping = b"", False
        while True:
            try:
                data = pipe.read(65_536)
            except (OSError, ValueError):
                data = b""
            if not data:
                break
            *whole, rest = (rest + data).split(b"\n")
            if whole and skipping:
                whole, skipping = whole[1:], False
            for line in whole:
                if line.startswith(b'{"key"'):
                    lines.put(line)
            if len(rest) > LONGEST:
                rest, skipping = b"", True
    lines.put(None)
