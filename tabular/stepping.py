"""What stepping in plain Python runs on: the rows of a table as lists."""

from __future__ import annotations

import numpy as np


class Rows(dict):
    """The rows of a table as Python lists, made when first touched: a stepped loop runs on plain numbers."""

    def __init__(self, table: np.ndarray):
        self.table = table

    def __missing__(self, state):
        if not hasattr(state, "__index__") or not 0 <= state < len(self.table):
            raise ValueError(f"the simulator's state must be one of 0 to {len(self.table) - 1}, got {state!r}")
        row = self[state] = self.table[state].tolist()
        return row

    def write_back(self):
        """Store the rows in the table."""
        for state, row in self.items():
            self.table[state] = row
