"""A public grid on which every bank counts a column of numbers, and the bins that the counts give.

A cell holds the float32 numbers of one sign, one exponent from -16 to 23 and the same leading bits of the mantissa.
Numbers nearer to zero than 2^-16 share the cell in the middle, and numbers beyond 2^24 the outermost ones. So each cell
is the same share of a power of two, whatever the column measures, and one count is enough: nobody has to know a
column's range first. How many leading bits follows from the number of bins that are asked for: few bins need a coarse
grid of 641 cells, which costs a bank least, and many need a fine one of 2,561.

Bins are runs of cells. A cell weighs the fourth root of its count, in whole numbers. From the lowest cell on, a bin
takes cells until it is as near as it gets to an equal share of the weight that is left. Roots leave bins for the rare
ends of a column, where fraud is; equal counts would not. docs/adr/0032-trees.md has the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Numbers = NDArray[np.float32]

EXPONENTS = (-16, 23)
FEW_BINS = 128  # up to so many, the coarse grid
COARSE, FINE = 3, 5  # leading bits of the mantissa

_FINENESS = 8  # a count of 1 weighs 2^8


@dataclass(frozen=True)
class Grid:
    """`bits`: leading bits of the mantissa that tell cells apart."""

    bits: int

    @classmethod
    def of(cls, bins: int) -> Grid:
        """The grid for at most so many bins of a column."""
        return cls(COARSE if bins <= FEW_BINS else FINE)

    @property
    def side(self) -> int:
        """Cells of one sign."""
        return (EXPONENTS[1] - EXPONENTS[0] + 1) << self.bits

    @property
    def cells(self) -> int:
        """All cells: of both signs, and the one in the middle."""
        return 2 * self.side + 1

    def cells_of(self, values: Numbers) -> Integers:
        """int64[n]: the cell of each of `values`, float32[n], none of them NaN."""
        bits = values.view(np.uint32).astype(np.int64)
        size = np.clip(((bits & 0x7FFFFFFF) >> self._dropped) - self._first, -1, self.side - 1) + 1
        cells: Integers = self.side + np.where(bits >> 31 == 1, -size, size)
        return cells

    def counts_on(self, values: Numbers) -> Integers:
        """int64[cells]: how many of `values`, float32[n], lie in each cell. NaN is in none."""
        cells = self.cells_of(values[~np.isnan(values)])
        counted: Integers = np.bincount(cells, minlength=self.cells).astype(np.int64)
        return counted

    def upper_end(self, cell: int) -> float:
        """The largest float32 in a cell."""
        size = cell - self.side
        leading = self._first + (-size - 1 if size < 0 else size)
        bits = (leading << self._dropped) if size < 0 else (leading << self._dropped) - 1
        number = np.array([bits], np.uint32).view(np.float32)[0]
        return float(-number if size < 0 else number)

    def edges_from(self, counts: Integers, most: int) -> tuple[float, ...]:
        """Ascending float32 numbers that end all bins but the last: a row is in the first whose edge it does not pass.

        `counts`: int64[cells]. `most`: bins.
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
                edges.append(self.upper_end(filled[place]))
                held, left, bins = 0, left - held, bins - 1
        return tuple(edges)

    @property
    def _dropped(self) -> int:
        """Bits of a float32 that a cell does not see."""
        return 23 - self.bits

    @property
    def _first(self) -> int:
        """Leading bits of 2^-16."""
        return (EXPONENTS[0] + 127) << self.bits


def _weight(count: int) -> int:
    """The fourth root of a count, in multiples of 2^-8."""
    return isqrt(isqrt(count << (4 * _FINENESS)))
