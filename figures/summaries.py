"""Means, their intervals, and how numbers are written in the report."""

from __future__ import annotations

import functools

import numpy as np


def bootstrap(values, resamples: int = 10_000, seed: int = 0) -> tuple:
    """(mean, low, high): the mean over the first axis, the seeds, and its 95% percentile bootstrap interval."""
    values = np.asarray(values, float)
    low, high = np.percentile(resampling(len(values), resamples, seed) @ values, [2.5, 97.5], axis=0)
    return values.mean(axis=0), low, high


def coverage(values, samples: int = 400, resamples: int = 400) -> float:
    """How often the interval of as many values, drawn from these, contains the mean of these."""
    values = np.asarray(values, float)
    drawn = np.random.default_rng(1).choice(values, (len(values), samples))
    _, low, high = bootstrap(drawn, resamples)
    return float(np.mean((low <= values.mean()) & (values.mean() <= high)))


@functools.cache
def resampling(count: int, resamples: int, seed: int) -> np.ndarray:
    """The weight of each of `count` values in each resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), resamples) / count


def unseen(seeds: int) -> float:
    """The largest share of all seeds that could show something that none of these does (95%, one-sided)."""
    return 1 - 0.05 ** (1 / seeds)


def number(value, decimals: int = 0) -> str:
    """12345.6 is written 12,346."""
    return f"{value:,.{decimals}f}"


def percent(share, decimals: int = 0) -> str:
    return f"{share:.{decimals}%}"


def mean(values, decimals: int = 0) -> str:
    """The mean over seeds."""
    return number(np.mean(values), decimals)


def median(values) -> float:
    return float(np.median(values))


def interval(estimate, spec: str = ".1f") -> str:
    """(mean, low, high) is written: mean [low, high]."""
    middle, low, high = (format(x, spec) for x in estimate)
    return f"{middle} [{low}, {high}]"


def ci(values, decimals: int = 1, sign: str = "") -> str:
    """The mean over seeds with its 95% bootstrap interval; sign="+" is for differences."""
    return interval(bootstrap(values), f"{sign}.{decimals}f")


def median_range(values, spec: str = ".3g") -> str:
    """The median with the range: median (lowest to highest)."""
    return "{} ({} to {})".format(*(format(one(values), spec) for one in (np.median, np.min, np.max)))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column is aligned to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(text: str, mark: str, body: str) -> str:
    """A text with `body` between the comment that names the mark and the next one that says end."""
    before, comment, rest = text.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"the text has no place for {mark!r}, between <!-- {mark} --> and <!-- end -->")
    return f"{before}{comment}{body}\n{end}{after}"


FILTERS = {f.__name__: f for f in (number, percent, mean, median, median_range, interval, unseen)}
