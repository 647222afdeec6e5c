"""The few statistics that the suite needs.

Timings are summarised by their median and quartiles, because interference only ever makes them longer. Growth is the
slope of a straight line through logarithms. What counts as a difference between two runs is in `compare.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

import numpy as np


@dataclass(frozen=True)
class Spread:
    """median, and the quartiles around it; count: how many samples. mad: median absolute deviation."""

    median: float
    lower: float
    upper: float
    mad: float
    count: int

    def as_dict(self) -> dict[str, float | int]:
        """Ready for JSON."""
        return {
            "median": self.median,
            "lower_quartile": self.lower,
            "upper_quartile": self.upper,
            "mad": self.mad,
            "count": self.count,
        }

    @property
    def unstable(self) -> bool:
        """Whether the median itself is not known to a tenth: fewer than 3 samples, or a MAD above 10 % of it."""
        return self.count < 3 or self.mad > 0.1 * self.median


def spread(samples: Sequence[float]) -> Spread:
    """The spread of at least one sample."""
    values = np.asarray(samples, dtype=np.float64)
    lower, median, upper = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, lower, upper, float(np.median(np.abs(values - median))), len(samples))


@dataclass(frozen=True)
class Growth:
    """cost ~ size ** exponent, fitted over `sizes`."""

    exponent: float
    sizes: tuple[int, ...]


def growth(points: Sequence[tuple[int, float]]) -> Growth | None:
    """Least squares through (log size, log cost); None for fewer than two sizes or a cost of zero."""
    if len({size for size, _ in points}) < 2 or any(cost <= 0 for _, cost in points):
        return None
    line = linear_regression([math.log(size) for size, _ in points], [math.log(cost) for _, cost in points])
    return Growth(line.slope, tuple(sorted({size for size, _ in points})))


def ratio_interval(
    old: Sequence[float], new: Sequence[float], confidence: float, resamples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """(ratio of medians new / old, and a bootstrap interval of it).

    old, new: independent samples, here one figure per cycle. Resampling with replacement, percentile interval, seeded
    so that the verdict on two files is always the same. With few cycles the interval approaches smallest new / largest
    old to largest new / smallest old, which errs on the side of "no difference".
    """
    rng = np.random.default_rng(seed)
    medians = []
    for samples in (np.asarray(old), np.asarray(new)):
        picks = rng.integers(0, len(samples), size=(resamples, len(samples)))
        medians.append(np.median(samples[picks], axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians[1] / medians[0], (tail, 1 - tail))
    return float(np.median(new) / np.median(old)), float(low), float(high)
