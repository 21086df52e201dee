"""The grader: `python -m course.grade submissions/*.ipynb` prints a sheet for each submission.

What a submission does is judged, not what it happens to learn; course/README.md tells how.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from course import marks, pages, sheets
from course.fence import Fence, Limits, clean
from course.findings import ITEMS
from course.marks import Sheet
from tabular.files import atomic_write, check_writable


class Parser(argparse.ArgumentParser):
    """One that tells in a line what is wrong with a command."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="python -m course.grade", description=__doc__.partition("\n")[0])
    add = made.add_argument
    add("submissions", nargs="+", type=Path, metavar="FILE", help="notebooks, or folders of them")
    add("--csv", type=Path, metavar="FILE", help="write a table: a row for each submission")
    add("--json", type=Path, metavar="FILE", help="write everything that the sheets say")
    add("--html", type=Path, metavar="DIR", help="write a page for each submission, and index.html for the teacher")
    add("--points", type=Path, metavar="FILE", default=marks.POINTS, help="points of the items, if not points.json's")
    add("--only", action="append", choices=ITEMS, metavar="ITEM", help=f"judge this alone: {', '.join(ITEMS)}")
    add("--seed", type=int, default=0, help="of all that is drawn (0)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="submissions judged at once (the number of cores)")
    add("--seconds", type=float, default=Limits().seconds, help="of computing, for an item (%(default)g)")
    add("--quiet", action="store_true", help="show no progress bar")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade what the command line names: 0, or 2 where the command itself is wrong."""
    made = parser()
    options = made.parse_args(arguments)
    try:
        points = checked(options)
        paths = notebooks(options.submissions)
    except ValueError as error:
        made.error(str(error))
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # names of files in a terminal that cannot show them
    graded: list[Sheet] = []
    try:
        print_sheets(paths, points, options, graded)
    except KeyboardInterrupt:
        tell_end("interrupted", graded, paths, write_or_end(graded, options, made))
        return 130
    except BrokenPipeError:  # whoever reads the sheets has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        write_or_end(graded, options, made)
        return 1
    except BaseException:
        tell_end("ended", graded, paths, write_or_end(graded, options, made))
        raise
    write_or_end(graded, options, made)
    return 0


def print_sheets(paths: Sequence[Path], points: dict[str, int], options: argparse.Namespace, graded: list) -> None:
    """Print each sheet, and a line on all; `graded` gets each as it is judged."""
    slowest, limits = 0.0, Limits(seconds=options.seconds)
    bar = tqdm(total=len(paths), unit="submission", disable=options.quiet or None)
    graded_ones = grade(paths, points, options.seed, options.jobs, limits, bar.update)
    with bar, contextlib.closing(graded_ones) as sheets_of_all:
        for sheet, took in sheets_of_all:
            graded.append(sheet)
            slowest = max(slowest, took)
            tqdm.write(("\n" if len(graded) > 1 else "") + sheets.as_text(sheet), file=sys.stdout, end="")
    if len(graded) > 1:
        print("\n" + summary(graded, slowest, options.html and options.html / "index.html"))


def tell_end(how: str, graded: Sequence[Sheet], paths: Sequence[Path], written: bool) -> None:
    """Say how far the command came, and whether the marks until then are in the files."""
    files = ", which are in the files that you asked for" if written else ""
    print(f"{how} after {len(graded)} of {len(paths)} submissions{files}", file=sys.stderr)


def write_or_end(graded: Sequence[Sheet], options: argparse.Namespace, made: Parser) -> bool:
    """Whether files were asked for and written, for which something must be judged; end with status 2 on an error."""
    asked = bool(options.csv or options.json or options.html)
    try:
        if asked and graded:
            write(graded, options)
    except OSError as error:
        made.error(f"{error.filename} could not be written: {error.strerror}")
    return asked and bool(graded)


def summary(graded: Sequence[Sheet], slowest: float, page: Path | None) -> str:
    """All sheets in a line; in a terminal also how long the slowest took, and where to look."""
    said = [f"median {statistics.median(sheet.points for sheet in graded):g}"]
    if by_hand := sum(sheet.unjudged > 0 for sheet in graded):
        said.append(f"{by_hand} not judged in part")
    where = ""
    if sys.stdout.isatty():
        said.append(f"slowest {slowest:.1f} s")
        where = f": {page}" if page else ""
    return f"{len(graded)} graded: {', '.join(said)}{where}"


def checked(options: argparse.Namespace) -> dict[str, int]:
    """The points of the items to judge; ValueError where an option cannot be used."""
    points = marks.read_points(options.points)
    if (total := sum(points.values())) != 100:
        print(f"{options.points}: the points sum to {total:,}, not 100", file=sys.stderr)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed must be from 0 to 2**63 - 1, got {options.seed}")
    if options.jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, got {options.jobs}")
    if not 0.1 <= options.seconds <= 3600:
        raise ValueError(f"--seconds must be from 0.1 to 3600, got {options.seconds:g}")
    for name in ("csv", "json"):
        if getattr(options, name) is not None:
            check_writable(f"--{name}", getattr(options, name))
    if options.html is not None:
        try:
            options.html.mkdir(parents=True, exist_ok=True)
            check_writable("--html", options.html / "index.html")
        except OSError as error:
            raise ValueError(f"--html must be a folder, got {options.html}: {error.strerror}") from None
    return {item: points[item] for item in ITEMS if item in (options.only or ITEMS)}


def notebooks(paths: Sequence[Path]) -> list[Path]:
    """The files to grade: named ones and those in folders, if they are called .ipynb; of others stderr tells.

    Raises ValueError where one is not there, or no regular file, or none is left.
    """
    found, left_out = [], []
    for path in paths:
        try:
            if path.is_dir():
                inside = sorted(path.rglob("*.ipynb"))
                inside = [one for one in inside if one.is_file() and ".ipynb_checkpoints" not in one.parts]
                if not inside:
                    raise ValueError(f"{path} holds no notebooks")
                found += inside
            elif path.is_file():
                (found if path.suffix == ".ipynb" else left_out).append(path)
            else:
                raise ValueError(f"{path} {'is not a regular file' if path.exists() else 'is not there'}")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError(f"{left_out[0]} is not called .ipynb, as notebooks are")
    for path in left_out:
        print(f"{shown(path)} is left out: it is not called .ipynb", file=sys.stderr)
    return list(dict.fromkeys(found))


def grade(
    paths: Sequence[Path],
    points: dict[str, int],
    seed: int = 0,
    jobs: int = 1,
    limits: Limits | None = None,
    done: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Sheet, float]]:
    """Judge submissions, `jobs` at once, and yield their sheets in the order of `paths`, with the seconds they took.

    `points` has the items to judge; `done` is called whenever a submission is judged.
    """
    fences = queue.SimpleQueue()
    pool = ThreadPoolExecutor(jobs)
    with contextlib.ExitStack() as stack:
        for _ in range(min(jobs, len(paths))):
            fences.put(stack.enter_context(Fence(limits)))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)

        def one(path: Path) -> tuple[Sheet, float]:
            fence, start = fences.get(), time.perf_counter()
            try:
                loaded, findings = fence.judge(path, seed, tuple(points))
            finally:
                fences.put(fence)
            done()
            return marks.sheet_of(shown(path), loaded, findings, points), time.perf_counter() - start

        yield from pool.map(one, paths)


def shown(path: Path) -> str:
    """A path as it is shown, whatever bytes its name has."""
    return clean(os.fsencode(path).decode("utf-8", "replace"), 1000)


def write(graded: Sequence[Sheet], options: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    for path, form in (options.csv, sheets.as_csv), (options.json, sheets.as_json):
        if path is not None:
            with atomic_write(path) as file:
                file.write(form(graded).encode("utf-8"))
    if options.html is not None:
        for name, page in pages.site(graded).items():
            with atomic_write(options.html / name) as file:
                file.write(page.encode("utf-8"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended so, it leaves no process either
    sys.exit(main())
