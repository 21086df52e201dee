"""The experiments, pictures and numbers of Report.md.

python figures/make_figures.py              all experiments, then all pictures and the report
python figures/make_figures.py NAME ...     the named experiments, then all pictures and the report
python figures/make_figures.py --draw       no experiment: pictures and report from figures/data

Nothing is replaced until everything has been made, and every claim of the report holds (timings may differ).
"""

from __future__ import annotations

import argparse
import os
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
    lock_in,
    merging,
    report,
    round_cost,
    scaling,
    timing,
    value_functions,
)
from figures.rows import Data, read_rows, write_rows

HERE = Path(__file__).resolve().parent
EXPERIMENTS = {  # name of the data file: experiment; those that measure time run last
    "exact": exact.run,
    "curves": curves.run,
    "hallway": hallway.run,
    "distributed": distributed.run,
    "value_functions": value_functions.run,
    "merging": merging.run,
    "lock_in": lock_in.run,
    "dyna": dyna.run,
    "dyna_workers": dyna_workers.run,
    "scaling": scaling.run,
    "dyna_clock": dyna_clock.run,
    "timing": timing.run,
    "federated": federated.run,
    "round_cost": round_cost.run,
    "dyna_large": dyna_large.run,
}
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
    """Make all pictures and the report in the draft; raises FalseClaims unless all claims hold, timings apart."""
    for name, picture in tqdm(PICTURES.items(), desc="pictures"):
        td.save_figure(picture(data), draft / f"{name}.png")
    text, claims = report.render(data, folder)
    (draft / "Report.md").write_text(text, encoding="utf-8")
    false = [claim for claim in claims if not claim.holds]
    for claim in false:
        if claim.is_timing:
            print(f"warning: {claim}", file=sys.stderr)
    if problems := [str(claim) for claim in false if not claim.is_timing]:
        raise FalseClaims("\n".join(problems))


def publish(draft: Path, folder: Path) -> None:
    """Move everything in the draft to its place."""
    places = {".csv": folder / "data", ".png": folder, ".md": folder.parent}
    for path in sorted(draft.iterdir()):
        os.replace(path, places[path.suffix] / path.name)


def arguments_of(parser: argparse.ArgumentParser, arguments) -> list[str]:
    """The names of the experiments to run."""
    known = ", ".join(EXPERIMENTS)
    parser.add_argument("names", nargs="*", metavar="experiment", help=f"one of {known}; none: all")
    parser.add_argument("--draw", action="store_true", help="run no experiment, draw from figures/data")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(EXPERIMENTS)):
        parser.error(f"unknown experiment {unknown[0]}; known are {known}")
    if chosen.draw:
        return []
    return [name for name in EXPERIMENTS if name in chosen.names] or list(EXPERIMENTS)


def main(arguments=None, folder: Path = HERE) -> None:
    """Run experiments, draw, write the report."""
    import matplotlib

    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description="Run the report's experiments, draw its pictures, write the report.")
    names = arguments_of(parser, arguments)
    (folder / "data").mkdir(exist_ok=True)
    try:
        kept = {
            name: read_rows(folder / "data" / f"{name}.csv", experiment)
            for name, experiment in EXPERIMENTS.items()
            if name not in names
        }
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    with tempfile.TemporaryDirectory(dir=folder, suffix=".tmp") as name:
        draft = Path(name)
        data = kept | run_experiments(names, draft)
        try:
            make_report(data, draft, folder)
        except FalseClaims as error:
            unpublished = folder / "unpublished.tmp"  # experiments take minutes: keep their rows
            shutil.rmtree(unpublished, ignore_errors=True)
            shutil.copytree(draft, unpublished)
            parser.exit(1, f"{error}\nNothing was published; see figures/{unpublished.name}.\n")
        publish(draft, folder)


if __name__ == "__main__":
    main()
