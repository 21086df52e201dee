"""Saved agents: one .npz file of arrays, with a header in JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np


def read_save(path) -> tuple[dict, dict[str, np.ndarray]]:
    """The header and the arrays of a saved agent; ValueError where the file is none."""
    content = io.BytesIO(Path(path).read_bytes())
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        return dict(json.loads(str(arrays.pop("header")))), arrays
    except Exception as error:  # numpy raises ten kinds where a byte is wrong
        raise ValueError(f"{path} is not a saved agent, or is cut short: {error}") from None


def check_saved(name: str, arrays: dict[str, np.ndarray], dtype, shape: tuple) -> np.ndarray:
    """An array of a save; ValueError unless it has the type and the shape (None: any length), and is finite."""
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        expected in (None, found) for expected, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits or not np.isfinite(array).all():
        raise ValueError(f"{name} of {array.dtype}, shape {array.shape}, is not what this agent has, or not finite")
    return array
