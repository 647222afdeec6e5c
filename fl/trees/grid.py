"""A public grid of 641 cells on which every bank counts a column of numbers, and the bins that the counts give.

A cell holds the float32 numbers of one sign, one exponent from -16 to 23 and the same three leading bits of the
mantissa. Numbers nearer to zero than 2^-16 share the cell in the middle, and numbers beyond 2^24 the outermost ones.
So each cell is one eighth of a power of two wide, whatever the column measures, and one count is enough: nobody has to
know a column's range first.

Bins are runs of cells. A cell weighs the fourth root of its count, in whole numbers. From the lowest cell on, a bin
takes cells until it is as near as it gets to an equal share of the weight that is left. Roots leave bins for the rare
ends of a column, where fraud is; equal counts would not. docs/adr/0032-trees.md has the comparison.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Numbers = NDArray[np.float32]

EXPONENTS = (-16, 23)
MANTISSA_BITS = 3
SIDE = (EXPONENTS[1] - EXPONENTS[0] + 1) << MANTISSA_BITS  # cells of one sign
CELLS = 2 * SIDE + 1

_DROPPED = 23 - MANTISSA_BITS  # bits of a float32 that a cell does not see
_FIRST = (EXPONENTS[0] + 127) << MANTISSA_BITS  # leading bits of 2^-16
_FINENESS = 8  # a count of 1 weighs 2^8


def cells_of(values: Numbers) -> Integers:
    """int64[n]: the cell of each of `values`, float32[n], none of them NaN."""
    bits = values.view(np.uint32).astype(np.int64)
    size = np.clip(((bits & 0x7FFFFFFF) >> _DROPPED) - _FIRST, -1, SIDE - 1) + 1
    cells: Integers = SIDE + np.where(bits >> 31 == 1, -size, size)
    return cells


def counts_on(values: Numbers) -> Integers:
    """int64[CELLS]: how many of `values`, float32[n], lie in each cell. NaN is in none."""
    counted: Integers = np.bincount(cells_of(values[~np.isnan(values)]), minlength=CELLS).astype(np.int64)
    return counted


def upper_end(cell: int) -> float:
    """The largest float32 in a cell."""
    size = cell - SIDE
    leading = _FIRST + (-size - 1 if size < 0 else size)
    bits = (leading << _DROPPED) if size < 0 else (leading << _DROPPED) - 1
    number = np.array([bits], np.uint32).view(np.float32)[0]
    return float(-number if size < 0 else number)


def edges_from(counts: Integers, most: int) -> tuple[float, ...]:
    """Ascending float32 numbers that end all bins but the last: a row is in the first whose edge it does not exceed.

    `counts`: int64[CELLS]. `most`: bins.
    """
    filled = [int(cell) for cell in np.flatnonzero(counts)]
    weights = [_weight(int(counts[cell])) for cell in filled]
    edges: list[float] = []
    held, left, bins = 0, sum(weights), most
    for place, weight in enumerate(weights[:-1]):
        held += weight
        # One more cell would take the bin further beyond its share than it is below it now.
        enough = (2 * held + weights[place + 1]) * bins >= 2 * left
        cells_left = len(weights) - 1 - place
        if bins > 1 and (enough or cells_left < bins):
            edges.append(upper_end(filled[place]))
            held, left, bins = 0, left - held, bins - 1
    return tuple(edges)


def _weight(count: int) -> int:
    """The fourth root of a count, in multiples of 2^-8."""
    return isqrt(isqrt(count << (4 * _FINENESS)))
