"""The claims under other seeds: what each sitting found, kept in data/claims_fresh.jsonl, and the table of all."""

from __future__ import annotations

import json
from pathlib import Path

from figures.report import Claim, written
from figures.study import Study
from figures.summaries import markdown

KEPT = "claims_fresh.jsonl"  # a line for each claim: its sizes under both sets of seeds, and whether it held again


def concerned(study: Study, claims: list[Claim], names: list[str]) -> list[Claim]:
    """Return the claims that rest on these experiments, on no other that new seeds would change, and on no clock."""
    rerun = set(study.fresh_experiments)
    timed = {name for name, run in study.all_experiments.items() if run.timed}
    untimed = [claim for claim in claims if not (claim.is_timing or claim.experiments & timed)]
    return [claim for claim in untimed if claim.experiments & rerun and claim.experiments & rerun <= set(names)]


def read(study: Study) -> list[dict]:
    """Read what earlier sittings found, a record for each claim."""
    path = study.folder / "data" / KEPT
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def sitting(study: Study, names: list[str], committed: list[Claim], fresh: list[Claim], seeds_from: int) -> list[dict]:
    """Return the records of all sittings after one that ran these experiments; those of other seeds are dropped.

    `committed` and `fresh` are all claims of the study under the committed data and under the fresh rows.
    """
    records = {one["claim"]: one for one in read(study) if one["seeds_from"] == seeds_from}
    pairs = zip(concerned(study, committed, names), concerned(study, fresh, names), strict=True)
    for one, other in pairs:
        sizes = {"committed": one.sizes, "fresh": other.sizes}
        records[one.words] = {"claim": one.words, "seeds_from": seeds_from} | sizes | {"holds": other.holds}
    return [records[claim.words] for claim in committed if claim.words in records]


def write(path: Path, records: list[dict]) -> None:
    """Write records, a line each."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def text(study: Study, claims: list[Claim], records: list[dict]) -> str:
    """Return the text of claims_fresh.md: each claim and its effect under both sets of seeds."""
    found = {record["claim"]: record for record in records}
    rows = [_row(claim, found.get(claim.words)) for claim in concerned(study, claims, list(study.fresh_experiments))]
    seeds_from = records[0]["seeds_from"] if records else 1_000  # those of `make fresh`
    head = ["the data show that", "size of the effect, seeds from 0", f"seeds from {seeds_from:,}", "times", "again"]
    script = f"{study.folder.relative_to(study.root).as_posix()}/make_figures.py"
    return f"""# The report's claims under other seeds

`python {script} --seeds-from {seeds_from}` runs the experiments again with every seed raised by {seeds_from:,}.
Given some of their names, it renews the claims that rest on those alone, so all can be run in several sittings.

Beside each claim stands the size of the effect that it bounds, with a 95% interval where there is one, or else the
numbers that it compares; then how many times as large each is under the other seeds. Claims about time are left out,
and those that rest on exact values alone.

{markdown(head, rows)}
"""


def _row(claim: Claim, record: dict | None) -> list[str]:
    """Return a claim's row; what was found beside other committed numbers than today's says nothing of these."""
    sizes = written(claim.sizes)
    if record is None or written(record["committed"]) != sizes:
        return [claim.words, sizes, "", "", "not run again"]
    times = [_times(one, other) for one, other in zip(claim.sizes, record["fresh"], strict=True)]
    verdict = "holds" if record["holds"] else "**fails**"
    return [claim.words, sizes, written(record["fresh"]), ", ".join(filter(None, times)), verdict]


def _times(one, other) -> str:
    """Return how many times as large the second size is, as text; empty if that has no meaning."""
    before, after = (size[0] if isinstance(size, list) else size for size in (one, other))
    return f"{after / before:.2f}" if before * after > 0 and not isinstance(before, bool) else ""
