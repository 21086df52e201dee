"""Findings become marks: how many points each item has, and how many of them a submission gets."""

from __future__ import annotations

import collections
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from course.fence import Loaded
from course.findings import ITEMS, KEEP_NAMES, Finding

POINTS = Path(__file__).resolve().parent / "points.json"
MOST_POINTS = 10_000  # of an item
TITLES = {
    "policies": "policies", "q_learning": "Q-learning's update", "sarsa": "SARSA's update", "episodes": "episodes",
    "tests": "tests", "server": "server", "collectors": "collectors", "snapshots": "snapshots", "end": "the end",
    "traffic": "traffic", "arguments": "arguments", "loads": "the file",
}  # fmt: skip
OF_THE_ASSIGNMENT = ("agent", "sarsa", "server", "worker", "qlearning", "q_learning")  # within the names of its classes


class Mark(NamedTuple):
    """The points of one item."""

    item: str
    points: int  # all of them where it was not judged
    of: int
    judged: bool
    seen: str
    hint: str


class Sheet(NamedTuple):
    """The marks of one submission."""

    file: str
    marks: tuple[Mark, ...]

    @property
    def points(self) -> int:
        """The sum, in which what was not judged counts in full."""
        return sum(mark.points for mark in self.marks)

    @property
    def of(self) -> int:
        """The most that there is."""
        return sum(mark.of for mark in self.marks)

    @property
    def unanswered(self) -> list[str]:
        """The titles of items that end at a blank."""
        return [TITLES[mark.item] for mark in self.marks if mark.seen.startswith("Not answered:")]

    @property
    def unjudged(self) -> int:
        """How many points are still to be judged by hand."""
        return sum(mark.of for mark in self.marks if not mark.judged)


def short_names(files: Sequence[str]) -> list[str]:
    """The names of submissions without their folders, but for those that tell files of one name apart."""
    parts = [re.split(r"[/\\\\]", file) for file in files]
    lengths = [1] * len(files)
    while True:
        names = ["/".join(one[-length:]) for one, length in zip(parts, lengths, strict=True)]
        counts = collections.Counter(names)
        longer = [
            min(length + (counts[name] > 1), len(one)) for one, length, name in zip(parts, lengths, names, strict=True)
        ]
        if longer == lengths:
            return names
        lengths = longer


def read_points(path: Path = POINTS) -> dict[str, int]:
    """The points of each item, as a teacher has set them; ValueError, which names the file, where they are none."""
    try:
        points = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(points, dict):
        raise ValueError(f'{path} must hold an object, item by item, such as {{"policies": 10, ...}}')
    for item, number in points.items():
        if item not in ITEMS:
            close = difflib.get_close_matches(item, ITEMS, 1)
            raise ValueError(f"{path}: no item is called {item!r}" + (f"; is it {close[0]!r}?" if close else ""))
        if type(number) is not int or not 0 <= number <= MOST_POINTS:
            raise ValueError(f"{path}: {item} must be a whole number from 0 to {MOST_POINTS:,}, got {number!r}")
    if missing := [item for item in ITEMS if item not in points]:
        raise ValueError(f"{path} says nothing of {', '.join(missing)}: give 0 to what is not to count")
    if not any(points.values()):
        raise ValueError(f"{path} gives no points at all")
    return {item: points[item] for item in ITEMS}


def _without_twins(pairs: list[tuple]) -> dict:
    """A JSON object, of which nothing is said twice."""
    names = [name for name, _ in pairs]
    if twins := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twins[0]} stands there twice")
    return dict(pairs)


def sheet_of(file: str, loaded: Loaded, findings: Mapping[str, Finding], points: Mapping[str, int]) -> Sheet:
    """The marks of a submission, for the items that have points here."""
    of_file = loads(loaded)
    if of_file.share < 1:
        findings = {item: _seen_at_file(one, loaded) for item, one in findings.items()}
    findings = {**findings, "loads": of_file}
    return Sheet(file, tuple(_mark(findings[item], points[item]) for item in ITEMS if item in points))


def _seen_at_file(finding: Finding, loaded: Loaded) -> Finding:
    """A finding of what is missing, for a file that fails: what the file does is said once, at its own item."""
    if finding.hint == KEEP_NAMES and finding.seen.startswith("One of the two agents is missing."):
        return finding._replace(seen=finding.seen.replace("missing.", "missing (see the file).", 1), hint="")
    if not finding.seen.startswith("Not found:"):
        return finding
    seen = f"{finding.seen.rstrip('.')} (see the file)." if _of_assignment(loaded) else "Not found: see the file."
    return finding._replace(seen=seen, hint="")


def _of_assignment(loaded: Loaded) -> bool:
    """Whether any of the assignment's classes is defined."""
    return any(part in name.lower() for part in OF_THE_ASSIGNMENT for name in loaded.defined)


def _mark(finding: Finding, of: int) -> Mark:
    """A finding in whole points: rounded down, as only what is all right gets all."""
    share = min(max(float(finding.share), 0.0), 1.0) if finding.judged else 1.0
    hint = finding.hint if share < 1 else ""
    return Mark(finding.item, math.floor(share * of + 1e-9), of, bool(finding.judged), finding.seen, hint)


# What the file itself does ------------------------------------------------------------------------


def loads(loaded: Loaded) -> Finding:
    """What is found about the file itself: half of it is right where some of it fails."""
    share, seen, hint = _loads(loaded)
    return Finding("loads", share, True, seen, hint)


def _loads(loaded: Loaded) -> tuple[float, str, str]:
    if loaded.unreadable:
        return 0.0, f"It cannot be read: {loaded.unreadable}.", "Hand in the notebook, as Jupyter saves it."
    if not loaded.statements and not (loaded.broken or loaded.stopped):
        return 0.0, f"None of its {loaded.cells} code cells defines anything.", "Was this the right file?"
    said = _failures(loaded)
    hint = "Restart the kernel and run all cells, from the first to the last."
    if loaded.tried:
        said.append(f"It asks for the model answer ({', '.join(loaded.tried)}), which is not there.")
        return 0.0, " ".join(said), "Write the classes yourself, on the lakes that td_helpers offers."
    if not _of_assignment(loaded):
        said.append("None of the assignment's classes is defined.")
        return 0.0, " ".join(said), hint if len(said) > 1 else "Was this the right file?"
    if loaded.refused:
        said.append(f"It was refused to {', '.join(loaded.refused)}.")
    loops = _loops(loaded)
    if said or any(endless for _, _, endless in loaded.loops):
        return 0.5, " ".join(said + loops), hint
    lacking = "At {} it needs what the grader does not have ({})."
    absent = "".join(" " + lacking.format(place, error) for place, _, error in loaded.absent)
    cells = f"{loaded.executed} of its {loaded.cells} code cells"
    seen = f"What is defined in {cells} was executed without an error.{absent}"
    return 1.0, " ".join([seen, *loops]), ""


def _loops(loaded: Loaded, most: int = 3) -> list[str]:
    """A sentence for each loop that was not executed in a cell that was, the first ones, those without an end first."""
    loops = sorted(loaded.loops, key=lambda loop: not loop[2])[:most]
    ends = {False: "", True: ", since it never ends"}
    return [f"Code cell {cell}, line {line}, has a loop that was not executed{ends[bool(never)]}."
            for cell, line, never in loops]  # fmt: skip


def _failures(loaded: Loaded, most: int = 3) -> list[str]:
    """A sentence for each statement and cell that failed, the first ones."""
    said = [f"Code cell {cell} does not compile ({reason}): what it defines is missing, or older."
            for cell, reason in loaded.broken]  # fmt: skip
    said += [f"At {place}, `{line[:80]}`, {how}." for place, line, how in loaded.stopped]
    said += [f"{place[:1].upper()}{place[1:]}, `{line[:80]}`, raises {error}." for place, line, error in loaded.raised]
    more = len(said) - most
    return said if more <= 0 else [*said[:most], f"{more} more {'fail' if more > 1 else 'fails'}."]
