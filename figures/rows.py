"""An experiment's rows: a csv file below a line with the settings that produced them."""

from __future__ import annotations

import inspect
import io
import json
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

Data = dict[str, pd.DataFrame]  # rows by the name of their experiment


def settings_of(experiment) -> dict:
    """An experiment's settings: its default arguments, as they come back from JSON."""
    defaults = {p.name: p.default for p in inspect.signature(experiment).parameters.values()}
    return json.loads(json.dumps(defaults))


def write_rows(path: Path, experiment, rows) -> None:
    """Write rows as csv below a line of settings; floats have six digits."""
    frame = pd.DataFrame(list(rows))
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write(f"# {json.dumps(settings_of(experiment))}\n")
        frame.to_csv(file, index=False, float_format="%.6g", na_rep="nan", lineterminator="\n")


def read_rows(path: Path, experiment) -> pd.DataFrame:
    """The rows of a file.

    Raises ValueError, naming the file, if it is missing or damaged; and if its settings are no longer the
    experiment's, naming the setting too.
    """
    folder = "/".join(experiment.__module__.split(".")[:-1])
    name = f"{folder}/data/{path.name}"
    again = f"run: python {folder}/make_figures.py {path.stem}"
    if not path.exists():
        raise ValueError(f"{name} is missing; {again}")
    first, _, table = path.read_text(encoding="utf-8").partition("\n")
    try:
        saved = json.loads(first.removeprefix("# "))
    except json.JSONDecodeError:
        raise ValueError(f"{name} has no settings in its first line; {again}") from None
    for field, value in settings_of(experiment).items():
        if field not in saved or saved[field] != value:
            made_with, has = (textwrap.shorten(str(one), 200) for one in (saved.get(field), value))
            raise ValueError(f"{name} has {field} = {made_with}, the code has {has}; {again}")
    if not table.endswith("\n"):
        raise ValueError(f"{name} is cut short in its last line; {again}")
    header, *lines = table.splitlines()
    for number, line in enumerate(lines, 3):
        if line.count(",") != header.count(","):
            raise ValueError(f"{name}, line {number}, has too few or too many fields; {again}")
    # A table's checksum may look like a number, and a route may be empty.
    rows = pd.read_csv(io.StringIO(table), dtype={"table": str}, keep_default_na=False, na_values=["nan"])
    return rows.copy()  # its hundreds of columns in one piece, from which rows are taken quickly


def where(rows: pd.DataFrame, *first, **fields) -> pd.DataFrame:
    """The rows whose first columns have the values `first`, and others those of `fields`."""
    fields = dict(zip(rows.columns, first, strict=False)) | fields
    have = [(rows[name] == value).to_numpy() for name, value in fields.items()]
    return rows[np.logical_and.reduce(have)]  # at once: rows of hundreds of columns take time to copy


def seeds(data: Data, name: str) -> int:
    """How many seeds an experiment has."""
    return data[name]["seed"].nunique()
