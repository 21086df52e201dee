"""Means, their intervals, and the report's number formats."""

from __future__ import annotations

import functools

import numpy as np
from scipy import stats


def bootstrap(values, resamples: int = 10_000, seed: int = 0) -> tuple:
    """Return (mean, low, high): the mean over the first axis, the seeds, with its 95% percentile bootstrap interval."""
    values = np.asarray(values, float)
    low, high = np.percentile(resampling(len(values), resamples, seed) @ values, [2.5, 97.5], axis=0)
    return values.mean(axis=0), low, high


def coverage(values, samples: int = 400, resamples: int = 400) -> float:
    """Return how often the interval of a resample of these values contains their mean."""
    values = np.asarray(values, float)
    drawn = np.random.default_rng(1).choice(values, (len(values), samples))
    _, low, high = bootstrap(drawn, resamples)
    return float(np.mean((low <= values.mean()) & (values.mean() <= high)))


@functools.cache
def resampling(count: int, resamples: int, seed: int) -> np.ndarray:
    """Return the weight of each of `count` values in each resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), resamples) / count


def unseen(seeds: int) -> float:
    """Return the largest share of all seeds that may show what none of `seeds` seeds does (95%, one-sided)."""
    return 1 - 0.05 ** (1 / seeds)


def number(value, decimals: int = 0) -> str:
    """Format a number with thousands separators: 12345.6 as 12,346."""
    return f"{value:,.{decimals}f}"


def percent(share, decimals: int = 0) -> str:
    return f"{share:.{decimals}%}"


def mean(values, decimals: int = 0) -> str:
    """Format the mean over seeds."""
    return number(np.mean(values), decimals)


def median(values) -> float:
    return float(np.median(values))


def interval(estimate, spec: str = ".1f") -> str:
    """Format (mean, low, high) as: mean [low, high]."""
    middle, low, high = (format(x, spec) for x in estimate)
    return f"{middle} [{low}, {high}]"


def ci(values, decimals: int = 1, sign: str = "") -> str:
    """Format the mean over seeds with its 95% bootstrap interval; use sign="+" for differences."""
    return interval(bootstrap(values), f"{sign}.{decimals}f")


def median_range(values, spec: str = ".3g") -> str:
    """Format the median with the range: median (lowest to highest)."""
    return "{} ({} to {})".format(*(format(one(values), spec) for one in (np.median, np.min, np.max)))


def geometric_mean(values) -> float:
    """Return the geometric mean: that of ratios is the ratio of the means."""
    return float(np.exp(np.mean(np.log(values))))


def mean_ratio(ratios) -> tuple:
    """Return (mean, low, high): the geometric mean of paired ratios with its 95% t interval, on their logarithms."""
    logs = np.log(ratios)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return tuple(map(float, np.exp(logs.mean() + np.array([0.0, -half, half]))))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(text: str, mark: str, body: str) -> str:
    """Return `text` with `body` between the comment that names `mark` and the next end comment."""
    before, comment, rest = text.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"the text has no place for {mark!r}, between <!-- {mark} --> and <!-- end -->")
    return f"{before}{comment}{body}\n{end}{after}"


FILTERS = {f.__name__: f for f in (number, percent, mean, median, median_range, interval, unseen)}
