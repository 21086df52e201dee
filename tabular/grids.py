"""Maps of grid worlds as lists of strings: the assignment's, random ones, and the check that a list is a map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arguments import names_checked
from .checks import check_count, check_number, generator

MAPS = {
    "4x4": [
        "SFFF",
        "FHFH",
        "FFFF",
        "HFFG",
    ],
    "8x8": [
        "SFFFFFFF",
        "FFFFFFFF",
        "FFFHFFFF",
        "FFFFFHFF",
        "FFFHFFFF",
        "FHHFFFHF",
        "FHFFHFHF",
        "FFFHFFFG",
    ],
    "Dangerous Hallway": [
        "SFFFFFFF",
        "FFFFFFFF",
        "HFHHHFFF",
        "HFHHHFFF",
        "HFHHHFFF",
        "HFHHHFFF",
        "HFFFFFFF",
        "FGFFFFFF",
    ],
    "16x16": [
        "SFFFFFFFFHFFFFHF",
        "FFFFFFFFFFFFFHFF",
        "FFFHFFFFHFFFFFFF",
        "FFFFFFFFHFFFFFFF",
        "FFFFFFFFFFFFFFFF",
        "FFHHFFFFFFFHFFFH",
        "FFFFFFFFFFFFFFFF",
        "FFFFFHFFFFFFHFFF",
        "FFFFFHFFFFFFFFFH",
        "FFFFFFFHFFFFFFFF",
        "FFFFFFFFFFFFHFFF",
        "FFFFFFHFFFFFFFFF",
        "FFFFFFFFHFFFFFFF",
        "FFFFFFFFFHFFFFHF",
        "FFFFFFFFFFHFFFFF",
        "FFFHFFFFFFFFFFFG",
    ],
    "32x32": [
        "SFFFFFFFFFFFFFFFFFFFFFFFFFHFFFFF",
        "FFFFFFFFHFFFFFFFFFFFFFFFFFHFFFFF",
        "FFFHFFFFFFFFHFFHFFFFFFFFFFFFFFFF",
        "FFFFFFFFFFFFFFHFHHFHFHFFFFFHFFFH",
        "FFFFHFFFFFFFFFFFFFFFHFHFFFFFFFHF",
        "FFFFFHFFFFFFFFFFHFFFFFFFFFFHFFFF",
        "FFHHFFFFHFFFFFFFFFFFFFFFFFFFFFFF",
        "FFFHFFFFFFFFFFHFFFHFHFFFFFFFFHFF",
        "FFFFHFFFFFFHFFFFHFHFFFFFFFFFFFFH",
        "FFFFHHFHFFFFHFFFFFFFFFFFFFFFFFFF",
        "FHFFFFFFFFFFHFFFFFFFFFFFHHFFFHFH",
        "FFFHFFFHFFFFFFFFFFFFFFFFFFFFHFFF",
        "FFFHFHFFFFFFFFHFFFFFFFFFFFFHFFHF",
        "FFFFFFFFFFFFFFFFHFFFFFFFHFFFFFFF",
        "FFFFFFHFFFFFFFFHHFFFFFFFHFFFFFFF",
        "FFHFFFFFFFFFHFFFFFFFFFFHFFFFFFFF",
        "FFFHFFFFFFFFFHFFFFHFFFFFFHFFFFFF",
        "FFFFFFFFFFFFFFFFFFFFFFFFFFHFFFFF",
        "FFFFFFFFHFFFFFFFHFFFFFFFFFFFFFFH",
        "FFHFFFFFFFFFFFFFFFHFFFFFFFFFFFFF",
        "FFFFFFFHFFFFFFFFFFFFFFFFFFFFFFFF",
        "FFFFFFFFFFFFFFFHFFFFHFFFFFFFHFFF",
        "FFHFFFFHFFFFFFFFFHFFFFFFFFFFFHFH",
        "FFFFFFFFFFHFFFFHFFFFFFFFFFFFFFFF",
        "FFFFFFFFFFFFFFFFFHHFFHHHFFFHFFFF",
        "FFFFFFFFFFFFFFHFFFFHFFFFFFFHFFFF",
        "FFFFFFFHFFFFFFFFFFFFFFFFFFFFFFFF",
        "FFFFFHFFFFFFFFFFFFFFFFHFFHFFFFFF",
        "FFFFFFFHFFFFFFFFFHFFFFFFFFFFFFFF",
        "FFFFFFFFFFFFFFFFFFFFFFFFHFFFFFFF",
        "FFFFFFFFFFFFFFFFFFFFFFFFHFFFFFFF",
        "FFFFFFFFFFFFFFFHFFFFFFFFHFFFFFFG",
    ],
}


@names_checked
def generate_row(length: int, h_prob: float = 0.1, seed: int | np.random.Generator = 0) -> str:
    """Generate a row of `length` cells, each a hole with probability `h_prob`, else frozen.

    `seed` is an int or a numpy Generator. Raises TypeError or ValueError for bad arguments.
    """
    check_count("length", length, 0)
    check_number("h_prob", h_prob)
    return "".join(np.where(generator(seed).random(length) < h_prob, "H", "F"))


@names_checked
def generate_map(shape: tuple[int, int], h_prob: float = 0.1, seed: int | np.random.Generator = 0) -> list[str]:
    """Generate a map of `shape` (width, height), with S and G in opposite corners.

    The 2 x 2 cells at both corners are safe; each other cell is a hole with probability `h_prob`. A path to G is
    likely, not certain. Raises TypeError or ValueError for bad arguments or fewer than two cells.
    """
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (width, height), got {shape!r}")
    width, height = (check_count("shape", side, 1, 2**15) for side in shape)
    if width * height < 2:
        raise ValueError(f"shape must have room for S and G, that is at least two cells, got {shape!r}")
    rng = generator(seed)
    grid = np.array([list(generate_row(width, h_prob, rng)) for _ in range(height)])
    grid[:2, :2] = "F"
    grid[-2:, -2:] = "F"
    grid[0, 0] = "S"
    grid[-1, -1] = "G"
    return ["".join(row) for row in grid]


@names_checked
def generate_random_map(size: int = 8, p: float = 0.8, seed: int | np.random.Generator = 0) -> list[str]:
    """Generate a `size` x `size` map with a path from S to G, whose other cells are frozen with probability `p`.

    Raises ValueError if 1000 maps in a row have no path, and TypeError or ValueError for bad arguments.
    """
    check_count("size", size, 2, 2**15)
    check_number("p", p)
    rng = generator(seed)
    for _ in range(1000):
        grid = np.where(rng.random((size, size)) < p, "F", "H")
        grid[0, 0] = "S"
        grid[-1, -1] = "G"
        if _has_path(grid):
            return ["".join(row) for row in grid]
    raise ValueError(f"p must leave a path: {p!r} gave none in 1000 maps of {size} x {size}")


def parse_map(desc: Any) -> np.ndarray:
    """Return a map as an array of single bytes, shape (rows, columns); raise TypeError or ValueError if invalid."""
    if isinstance(desc, str) or not np.iterable(desc) or not all(map(np.iterable, desc)):
        named = f": a map of MAPS is map_name={desc!r}" if isinstance(desc, str) and desc in MAPS else ""
        raise TypeError(f"desc must be a list of strings, one per row, got {desc!r}{named}")
    rows = [[cell.decode() if isinstance(cell, bytes) else str(cell) for cell in row] for row in desc]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"desc must have rows of one length, 1 or more, got lengths {sorted(lengths)}")
    letters = {cell for row in rows for cell in row}
    if not letters <= set("SFHG"):
        raise ValueError(f"desc must consist of the letters S, F, H and G, got {sorted(letters - set('SFHG'))}")
    if missing := [letter for letter in "SG" if letter not in letters]:
        raise ValueError(f"desc must have at least one S and one G, got a map without {' and '.join(missing)}")
    return np.array(rows, dtype="S1")


def _has_path(grid: np.ndarray) -> bool:
    """Whether cells that are not holes connect the first cell to the last."""
    from scipy.ndimage import label  # imported here because nothing else needs it

    regions, _ = label(grid != "H")
    return bool(regions[0, 0] == regions[-1, -1])


def neighbours(shape: tuple[int, int]) -> np.ndarray:
    """The neighbours of each cell: left, below, right, above, shape (cells, 4); at a wall, the cell itself."""
    cells = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    padded = np.pad(cells, 1, mode="edge")
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    return np.stack([left, below, right, above], axis=-1).reshape(-1, 4)
