"""The lock file names every package that the project needs here, in the versions that requirements.txt asks for."""

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pinned(name: str) -> dict[str, str]:
    """The version of each package that a file pins, where its marker holds here."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    asked = [Requirement(line) for line in lines if re.match(r"\w", line)]
    found = {}
    for requirement in asked:
        if requirement.marker is None or requirement.marker.evaluate():
            (version,) = requirement.specifier
            assert version.operator == "==", requirement
            found[canonicalize_name(requirement.name)] = version.version
    return found


def test_the_lock_has_every_pin():
    lock = pinned("requirements.lock")
    assert {name: lock.get(name) for name in pinned("requirements.txt")} == pinned("requirements.txt")


def test_the_lock_has_all_that_the_packages_need_in_the_versions_that_are_installed():
    lock = pinned("requirements.lock")
    todo, seen = [(name, "") for name in pinned("requirements.txt")], set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        assert lock.get(name) == metadata.version(name), name
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), of) for of in ("", *needed.extras)]
    assert len(seen) > 100
