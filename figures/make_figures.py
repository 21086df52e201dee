"""The experiments, pictures and numbers of Report.md, and of a table in README.md.

python figures/make_figures.py              the assignment's experiments, then all pictures and the report
python figures/make_figures.py --all        those past the assignment, too
python figures/make_figures.py NAME ...     the named experiments, then all pictures and the report
python figures/make_figures.py --draw       no experiment: pictures and report from figures/data
python figures/make_figures.py --seeds-from 1000 [NAME ...]
    the experiments under other seeds, but those against the clock: do the claims hold? The answer is
    figures/claims_fresh.md; data, pictures and report stay as they are

Nothing is replaced until everything has been made, and every claim of the report holds (timings may differ).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm

if not __package__:  # run as a script: search the project's folder for modules, not the script's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import td_helpers as td
from figures import (
    break_even,
    curves,
    distributed,
    dyna,
    dyna_clock,
    dyna_large,
    dyna_workers,
    exact,
    federated,
    hallway,
    latency,
    lock_in,
    merging,
    noise,
    pays,
    relapses,
    report,
    round_cost,
    scaling,
    timing,
    value_functions,
)
from figures.experiments import other_seeds
from figures.rows import Data, read_rows, write_rows
from tabular.files import atomic_write

HERE = Path(__file__).resolve().parent
ASSIGNMENT = {  # name of the data file: experiment; those that measure time run last
    "exact": exact.run,
    "curves": curves.run,
    "hallway": hallway.run,
    "distributed": distributed.run,
    "value_functions": value_functions.run,
    "value_differences": value_functions.differences,
    "noise": noise.run,
    "relapses": relapses.run,
    "timing": timing.run,
}
BEYOND = {  # past the nine items
    "merging": merging.run,
    "lock_in": lock_in.run,
    "dyna": dyna.run,
    "dyna_workers": dyna_workers.run,
    "scaling": scaling.run,
    "dyna_large": dyna_large.run,
    "dyna_clock": dyna_clock.run,
    "federated": federated.run,
    "round_cost": round_cost.run,
    "latency": latency.run,
}
EXPERIMENTS = ASSIGNMENT | BEYOND
TIMED = {"timing", "federated", "round_cost", "dyna_large", "dyna_clock", "latency"}  # not run under other seeds
SEEDLESS = {"exact"}
PICTURES = {  # name of the PNG file: picture
    "curves_hallway": curves.curves_hallway,
    "curves_16x16": curves.curves_16x16,
    "late_values": curves.late_values,
    "values_hallway": value_functions.values_hallway,
    "routes": hallway.routes,
    "values_distributed": value_functions.values_distributed,
    "timing_runs": timing.timing_runs,
    "break_even": break_even.break_even,
    "federated_speed": federated.federated_speed,
    "lock_in": lock_in.routes_taken,
    "dyna_steps": dyna.steps_by_lake,
    "dyna_clock": dyna_clock.seconds_by_collectors,
    "dyna_workers": dyna_workers.steps_a_worker,
    "statistical_efficiency": scaling.statistical_efficiency,
}


class FalseClaims(Exception):
    """The report claims what the data do not show."""


def run_experiments(names: list[str], draft: Path) -> Data:
    """Run experiments one after the other; their rows go to the draft."""
    start = time.perf_counter()
    data = {}
    for name in names:
        path = draft / f"{name}.csv"
        write_rows(path, EXPERIMENTS[name], EXPERIMENTS[name]())
        data[name] = read_rows(path, EXPERIMENTS[name])
        print(f"{name}: {len(data[name])} rows after {time.perf_counter() - start:.0f} s", flush=True)
    return data


def make_report(data: Data, draft: Path, folder: Path) -> None:
    """Make all pictures and texts in the draft; raises FalseClaims unless all claims hold, timings apart."""
    for name, picture in tqdm(PICTURES.items(), desc="pictures"):
        td.save_figure(picture(data), draft / f"{name}.png")
    text, claims = report.render(data, folder)
    (draft / "Report.md").write_text(text, encoding="utf-8")
    readme = (folder.parent / "README.md").read_text(encoding="utf-8")
    (draft / "README.md").write_text(pays.in_readme(readme, data), encoding="utf-8")
    false = [claim for claim in claims if not claim.holds]
    for claim in false:
        if claim.is_timing:
            print(f"warning: {claim}", file=sys.stderr)
    if problems := [str(claim) for claim in false if not claim.is_timing]:
        raise FalseClaims("\n".join(problems))


def check_claims(data: Data, names: list[str], seeds_from: int, draft: Path, folder: Path) -> None:
    """Run experiments under other seeds and write what becomes of the claims; raises FalseClaims if one fails."""

    def concerned(data: Data) -> list[report.Claim]:
        """The claims that rest on these experiments, and not on time."""
        claims = report.render(data, folder)[1]
        return [c for c in claims if c.experiments & set(names) and not (c.is_timing or c.experiments & TIMED)]

    committed = concerned(data)
    rows = draft / "rows"
    rows.mkdir()
    with other_seeds(seeds_from):
        fresh = concerned(data | run_experiments(names, rows))
    shutil.rmtree(rows)
    text = f"""# The report's claims under other seeds

This is what `python figures/make_figures.py --seeds-from {seeds_from}` makes of these experiments, with every
seed raised by {seeds_from:,}: {", ".join(names)}.

Beside each claim stand the numbers that it compares, in the order in which it reads them. Claims about time are left
out, and those that rest on exact values alone.

{report.table_of_claims(committed, fresh, seeds_from)}
"""
    (draft / "claims_fresh.md").write_text(text, encoding="utf-8")
    if problems := [str(claim) for claim in fresh if not claim.holds]:
        raise FalseClaims("\n".join(problems))


def publish(draft: Path, folder: Path) -> None:
    """Put everything in the draft in its place."""
    places = {"Report.md": folder.parent, "README.md": folder.parent, ".csv": folder / "data"}
    for path in sorted(draft.iterdir()):
        with atomic_write(places.get(path.name, places.get(path.suffix, folder)) / path.name) as file:
            file.write(path.read_bytes())


def arguments_of(parser: argparse.ArgumentParser, arguments) -> tuple[list[str], int]:
    """The names of the experiments to run, and by how much to shift their seeds."""
    known = ", ".join(EXPERIMENTS)
    parser.add_argument("names", nargs="*", metavar="experiment", help=f"one of {known}; none: those of the assignment")
    parser.add_argument("--all", action="store_true", help="all experiments")
    parser.add_argument("--draw", action="store_true", help="run no experiment, draw from figures/data")
    parser.add_argument("--seeds-from", type=int, default=0, metavar="N", help="check the claims under other seeds")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(EXPERIMENTS)):
        parser.error(f"unknown experiment {unknown[0]}; known are {known}")
    if chosen.draw:
        return [], 0
    names = [name for name in EXPERIMENTS if name in chosen.names] or list(EXPERIMENTS if chosen.all else ASSIGNMENT)
    if chosen.seeds_from:
        names = [name for name in names if name not in TIMED | SEEDLESS]
    return names, chosen.seeds_from


def read_data(names: list[str], folder: Path, parser: argparse.ArgumentParser) -> Data:
    """The committed rows of these experiments."""
    try:
        return {name: read_rows(folder / "data" / f"{name}.csv", EXPERIMENTS[name]) for name in names}
    except ValueError as error:
        parser.exit(1, f"{error}\n")


def main(arguments=None, folder: Path = HERE) -> None:
    """Run experiments, draw, write the report; or run them under other seeds, and write what becomes of the claims."""
    import matplotlib

    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description="Run the report's experiments, draw its pictures, write the report.")
    names, seeds_from = arguments_of(parser, arguments)
    (folder / "data").mkdir(exist_ok=True)
    kept = read_data([name for name in EXPERIMENTS if seeds_from or name not in names], folder, parser)
    with tempfile.TemporaryDirectory(dir=folder, suffix=".tmp") as name:
        draft = Path(name)
        try:
            if seeds_from:
                check_claims(kept, names, seeds_from, draft, folder)
            else:
                make_report(kept | run_experiments(names, draft), draft, folder)
        except FalseClaims as error:
            unpublished = folder / "unpublished.tmp"  # experiments take minutes: keep their rows
            shutil.rmtree(unpublished, ignore_errors=True)
            shutil.copytree(draft, unpublished)
            parser.exit(1, f"{error}\nNothing was published; see figures/{unpublished.name}.\n")
        publish(draft, folder)


if __name__ == "__main__":
    main()
