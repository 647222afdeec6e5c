"""The best split of one node, from its histogram: the same on every machine.

A side with sums G and H gives the step w = -G / (H + lambda), within the node's bounds, and the score
-(2 G w + (H + lambda) w^2): Chen and Guestrin, XGBoost (KDD 2016), section 2.2. The gain of a split is what the scores
of its sides exceed the node's by. Sums are integers until here. Each is then turned into float64, and only additions,
multiplications and divisions follow, which IEEE 754 rounds in one way.

Candidates are tried in a fixed order: columns by position; of a column of numbers bins from the lowest, each with
missing values on the right and then on the left; of a categorical column first the categories of low G / (H +
smoothing), then those of high ones (Fisher, "On Grouping for Maximum Homogeneity", 1958; with the limits of LightGBM),
of equal ones the lower first. One must gain strictly more than all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.trees.compiled import jit
from fl.trees.gradients import gradient_unit, hessian_unit
from fl.trees.settings import Column, TreeSettings
from fl.trees.tables import SCORE_BITS
from fl.trees.tree import MOST_LEAF, Split

Integers = NDArray[np.int64]
Sums = tuple[int, int, int]  # gradient, hessian, rows
Bounds = tuple[float, float]  # of a node's step
UNBOUNDED: Bounds = (-np.inf, np.inf)


@dataclass(frozen=True)
class Cells:
    """Which cells a histogram has. `columns`: that a tree may split by, ascending. `bins`: of those columns.

    Each has its bins or categories, and after them a cell for missing values.
    """

    columns: tuple[int, ...]
    bins: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """The first cell of each column."""
        ends = np.cumsum([each + 1 for each in self.bins])
        return (0, *(int(end) for end in ends[:-1]))

    @property
    def count(self) -> int:
        """Cells of all columns."""
        return sum(self.bins) + len(self.bins)


@dataclass(frozen=True)
class Found:
    """A split, the sums of its left side, and the bounds of both sides."""

    split: Split
    left: Sums = field(repr=False)
    bounds: tuple[Bounds, Bounds]


class Finder:
    """Finds splits under fixed settings. Pure: equal histograms give equal splits."""

    def __init__(self, columns: Sequence[Column], settings: TreeSettings) -> None:
        self._columns, self._settings = columns, settings
        self._gradient, self._hessian = gradient_unit(settings.weight_bits), hessian_unit(settings.weight_bits)

    def may_split(self, sums: Sums) -> bool:
        """Whether a node has the rows and the curvature for two sides: public, so nobody sums a histogram in vain."""
        least = self._settings
        return sums[2] >= 2 * least.least_rows and sums[1] * self._hessian >= 2 * least.least_hessian

    def best(self, histogram: Integers, cells: Cells, sums: Sums, bounds: Bounds) -> Found | None:
        """The best split of a node with this `histogram`, int64[cells, 3], and these sums. None: none gains enough."""
        settings = self._settings
        columns = [self._columns[place] for place in cells.columns]
        gain, place, last, direction = _best(
            histogram,
            np.array(cells.starts),
            np.array(cells.bins),
            np.array([column.categories > 0 for column in columns]),
            np.array([column.monotone for column in columns]),
            np.array(sums),
            np.array(bounds),
            np.array([self._gradient, self._hessian, settings.penalty]),
            np.array([settings.least_gain, settings.least_hessian, float(settings.least_rows)]),
            np.array([settings.category_penalty, settings.category_smoothing, float(settings.most_categories)]),
        )
        if place < 0:
            return None
        start, bins = cells.starts[place], cells.bins[place]
        each, column, at = histogram[start : start + bins + 1], columns[place], cells.columns[place]
        if column.categories:
            split, left = self._by_category(each, at, int(last), int(direction), float(gain))
            return Found(split, left, (bounds, bounds))
        missing_left = direction == 1
        left = _triple(each[: last + 1].sum(axis=0) + (each[bins] if missing_left else 0))
        if each[bins, 2] == 0:  # nobody knows better: with the larger side
            missing_left = 2 * left[2] >= sums[2]
        split = Split(at, int(last), bool(missing_left), gain=float(gain))
        return Found(split, left, self._bounds_of(column.monotone, bounds, left, sums))

    def step(self, sums: Sums, bounds: Bounds) -> float:
        """The step of a node within its bounds, in nats."""
        return float(min(max(self._free_step(sums), bounds[0]), bounds[1]))

    def leaf(self, sums: Sums, bounds: Bounds) -> int:
        """The score that a leaf adds, in multiples of 2^-16, at most `MOST_LEAF` on either side."""
        scaled = (self.step(sums, bounds) * self._settings.rate) * 2.0**SCORE_BITS
        return min(max(round(scaled), -MOST_LEAF), MOST_LEAF)

    def _free_step(self, sums: Sums) -> float:
        return -(sums[0] * self._gradient) / (sums[1] * self._hessian + self._settings.penalty)

    def _bounds_of(self, monotone: int, bounds: Bounds, left: Sums, sums: Sums) -> tuple[Bounds, Bounds]:
        """Both sides keep to their side of the middle of their steps, so that no split below can turn the order."""
        if monotone == 0:
            return bounds, bounds
        right = (sums[0] - left[0], sums[1] - left[1], sums[2] - left[2])
        middle = (self.step(left, bounds) + self.step(right, bounds)) / 2
        lower, upper = (bounds[0], middle), (middle, bounds[1])
        return (lower, upper) if monotone > 0 else (upper, lower)

    def _by_category(self, each: Integers, at: int, last: int, direction: int, gain: float) -> tuple[Split, Sums]:
        """The split after the category `last` in the order of its direction: the side with fewer rows goes right.

        The missing value alone never does: it would leave no category that goes right.
        """
        bins = len(each) - 1
        order = _order(each, self._gradient, self._hessian, self._settings.category_smoothing)
        ordered = [int(code) for code in (order if direction == 0 else order[::-1])]
        first, rest = ordered[: last + 1], ordered[last + 1 :]
        by_rows = sorted([first, rest], key=lambda side: int(each[side, 2].sum()))  # of equal ones `first` goes right
        right, left = by_rows if by_rows[0] != [bins] else by_rows[::-1]
        known = tuple(sorted(code for code in right if code < bins))
        return Split(at, -1, bins not in right, known, gain), _triple(each[left].sum(axis=0))


def _triple(sums: Integers) -> Sums:
    return int(sums[0]), int(sums[1]), int(sums[2])


@jit
def _order(each: Any, gradient_unit: Any, hessian_unit: Any, smoothing: Any) -> Any:
    """Categories with rows, the missing value among them, by ascending G / (H + smoothing); of equal ones the lower."""
    order, keys, count = np.empty(len(each), np.int64), np.empty(len(each)), 0
    for code in range(len(each)):
        if each[code, 2] == 0:
            continue
        key = (each[code, 0] * gradient_unit) / (each[code, 1] * hessian_unit + smoothing)
        place = count
        while place > 0 and keys[place - 1] > key:
            keys[place], order[place] = keys[place - 1], order[place - 1]
            place -= 1
        keys[place], order[place] = key, code
        count += 1
    return order[:count]


@jit
def _score(gradient: Any, curvature: Any, low: Any, high: Any) -> Any:
    """The score of a side: `curvature` is H + lambda."""
    step = -gradient / curvature
    if step < low or step > high:
        step = min(max(step, low), high)
        return -(2.0 * gradient * step + curvature * step * step)
    return gradient * gradient / curvature


@jit
def _best(
    histogram: Any,
    starts: Any,
    bins: Any,
    categorical: Any,
    monotone: Any,
    sums: Any,
    bounds: Any,
    units: Any,
    least: Any,
    by_category: Any,
) -> Any:
    """(gain, place of the column, last bin or place in the order of categories, direction); place -1: none."""
    low, high = bounds[0], bounds[1]
    penalty = units[2]
    whole = _score(sums[0] * units[0], sums[1] * units[1] + penalty, low, high)
    best, place, last, direction = least[0], -1, -1, 0
    for column in range(len(starts)):
        each = histogram[starts[column] : starts[column] + bins[column] + 1]
        if not categorical[column]:
            missing = each[bins[column]]
            left = np.zeros(3, np.int64)
            for bin_ in range(bins[column]):
                left += each[bin_]
                for way in range(2):
                    if way == 1 and missing[2] == 0:
                        break
                    gain = _gain(left + way * missing, sums, low, high, units, penalty, least, monotone[column])
                    if gain - whole > best:
                        best, place, last, direction = gain - whole, column, bin_, way
        else:
            order = _order(each, units[0], units[1], by_category[1])
            for way in range(2):
                left = np.zeros(3, np.int64)
                for at in range(min(len(order) - 1, int(by_category[2]))):
                    left += each[order[at] if way == 0 else order[len(order) - 1 - at]]
                    gain = _gain(left, sums, low, high, units, penalty + by_category[0], least, 0)
                    if gain - whole > best:
                        best, place, last, direction = gain - whole, column, at, way
    return best, place, last, direction


@jit
def _gain(left: Any, sums: Any, low: Any, high: Any, units: Any, penalty: Any, least: Any, monotone: Any) -> Any:
    """The score of both sides; minus infinity where one is too small, or they are in the wrong order."""
    rows, hessian = sums[2] - left[2], (sums[1] - left[1]) * units[1]
    g, h = left[0] * units[0], left[1] * units[1]
    if left[2] < least[2] or rows < least[2] or h < least[1] or hessian < least[1]:
        return -np.inf
    gradient = (sums[0] - left[0]) * units[0]
    if monotone != 0:
        on_left = min(max(-g / (h + penalty), low), high)
        on_right = min(max(-gradient / (hessian + penalty), low), high)
        if (on_right - on_left) * monotone < 0:
            return -np.inf
    return _score(g, h + penalty, low, high) + _score(gradient, hessian + penalty, low, high)
