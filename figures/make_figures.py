"""The command line of a study: run its experiments, draw its pictures, write its report. Here the assignment's.

python figures/make_figures.py              all experiments, then pictures and report
python figures/make_figures.py NAME ...     the named experiments, then pictures and report
python figures/make_figures.py --draw       no experiment: pictures and report from figures/data
python figures/make_figures.py --seeds-from 1000 [NAME ...]
    check the claims under other seeds, in all experiments but the timed ones; this writes
    figures/claims_fresh.md, keeps what earlier sittings found of other experiments, and leaves the rest as it is
python beyond/figures/make_figures.py --all ...   the same for this study first, then for the one that builds on it

Nothing is replaced until everything has been made and every claim of the report holds, apart from timings.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm

if not __package__:  # run as a script: import from the project's folder, not the script's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import figures
import td_helpers as td
from figures import fresh, report
from figures.rows import Data, read_rows, write_rows
from figures.study import Study, other_seeds
from tabular.files import atomic_write


class FalseClaims(Exception):
    """The data do not support a claim of the report."""


def run_experiments(study: Study, names: list[str], draft: Path) -> Data:
    """Run experiments one after the other; write their rows to the draft, and return them."""
    start = time.perf_counter()
    data = {}
    for name in names:
        path, run = draft / f"{name}.csv", study.experiments[name]
        write_rows(path, run, run())
        data[name] = read_rows(path, run)
        print(f"{name}: {len(data[name])} rows after {time.perf_counter() - start:.0f} s", flush=True)
    return data


def make_report(study: Study, data: Data, draft: Path) -> None:
    """Make all pictures and texts in the draft; raise FalseClaims unless all claims hold, apart from timings."""
    for name, picture in tqdm(study.pictures.items(), desc="pictures"):
        td.save_figure(picture(data), draft / f"{name}.png")
    texts, claims = report.render(study, data)
    if records := fresh.read(study):
        texts["claims_fresh.md"] = fresh.text(study, claims, records)
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")
    if study.rewrite:
        readme = (study.root / "README.md").read_text(encoding="utf-8")
        (draft / "README.md").write_text(study.rewrite(readme, data), encoding="utf-8")
    false = [claim for claim in claims if not claim.holds]
    for claim in false:
        if claim.is_timing:
            print(f"warning: {claim}", file=sys.stderr)
    if problems := [str(claim) for claim in false if not claim.is_timing]:
        raise FalseClaims("\n".join(problems))


def check_claims(study: Study, data: Data, names: list[str], seeds_from: int, draft: Path) -> None:
    """Run experiments under other seeds and list which claims hold; raise FalseClaims if one fails."""
    committed = report.render(study, data)[1]
    rows = draft / "rows"
    rows.mkdir()
    with other_seeds(seeds_from):
        again = report.render(study, data | run_experiments(study, names, rows))[1]
    records = fresh.sitting(study, names, committed, again, seeds_from)
    fresh.write(draft / fresh.KEPT, records)
    (draft / "claims_fresh.md").write_text(fresh.text(study, committed, records), encoding="utf-8")
    if problems := [str(claim) for claim in fresh.concerned(study, again, names) if not claim.holds]:
        raise FalseClaims("\n".join(problems))
    shutil.rmtree(rows)


def keep(draft: Path, study: Study) -> str:
    """Keep a draft that is not published, if it has rows, since experiments take minutes; return its place."""
    unpublished = study.folder / "unpublished.tmp"
    if any(draft.rglob("*.csv")):
        shutil.rmtree(unpublished, ignore_errors=True)
        shutil.copytree(draft, unpublished)
    return unpublished.relative_to(study.root).as_posix()


def publish(draft: Path, folder: Path, root: Path) -> None:
    """Move everything in the draft to its place in the study's `folder`, or in the project's `root`."""
    places = {"Report.md": folder.parent, "README.md": root, ".csv": folder / "data", ".jsonl": folder / "data"}
    for path in sorted(draft.iterdir()):
        with atomic_write(places.get(path.name, places.get(path.suffix, folder)) / path.name) as file:
            file.write(path.read_bytes())


def arguments_of(parser: argparse.ArgumentParser, study: Study, arguments) -> argparse.Namespace:
    """Parse the arguments; `names` are then those of the experiments to run."""
    known = ", ".join(study.experiments)
    parser.add_argument("names", nargs="*", metavar="experiment", help=f"one of {known}; none: all of them")
    parser.add_argument("--all", action="store_true", help="all experiments, first those of the study it builds on")
    parser.add_argument("--draw", action="store_true", help="run no experiment, draw from the committed data")
    parser.add_argument("--seeds-from", type=int, default=0, metavar="N", help="check the claims under other seeds")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(study.experiments)):
        parser.error(f"unknown experiment {unknown[0]}; known are {known}")
    if chosen.all and chosen.names:
        parser.error(f"--all runs all experiments: leave out {chosen.names[0]}")
    runs = {name: run for name, run in study.experiments.items() if name in chosen.names or not chosen.names}
    if chosen.draw:
        runs = {}
    elif chosen.seeds_from:
        runs = {name: run for name, run in runs.items() if name in study.fresh_experiments}
    chosen.names = list(runs)
    return chosen


def main(study: Study, arguments=None) -> None:
    """Run experiments, draw, write the report; or run them under other seeds, and list which claims hold."""
    import matplotlib

    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description="Run a report's experiments, draw its pictures, write the report.")
    chosen = arguments_of(parser, study, arguments)
    names, seeds_from = chosen.names, 0 if chosen.draw else chosen.seeds_from
    if chosen.all and study.base:
        main(study.base, ["--draw"] * chosen.draw + ["--seeds-from", str(seeds_from)])
    (study.folder / "data").mkdir(exist_ok=True)
    try:
        kept = study.read(leave_out=[] if seeds_from else names)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    with tempfile.TemporaryDirectory(dir=study.folder, suffix=".tmp") as name:
        draft = Path(name)
        try:
            if seeds_from:
                check_claims(study, kept, names, seeds_from, draft)
            else:
                make_report(study, kept | run_experiments(study, names, draft), draft)
        except BaseException as error:
            place = keep(draft, study)
            if isinstance(error, FalseClaims):
                parser.exit(1, f"{error}\nNothing was published; see {place}.\n")
            raise
        publish(draft, study.folder, study.root)


if __name__ == "__main__":
    main(Study.of(figures))
