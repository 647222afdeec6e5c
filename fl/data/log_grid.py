"""A public grid of logarithms on which any column of numbers is counted, and the centre and spread that counts give.

    u = sign(x) log(1 + |x| / 1e-6)        of a number x that enters the model without a logarithm
    u = x                                  of a number that is a logarithm already, by its transform

One grid fits numbers from a millionth to 10^15, so that nobody has to look at rows to choose its bins. The same values
are counted at three levels: bins of width 1, of 1/8 and of 1/64. A quantile is looked up from the coarse bins to the
fine ones. Noise therefore enters it once for a few coarse bins and then only for a share of one bin, whereas a sum
over thousands of fine bins would add up the noise of all of them. Hierarchical counts for quantiles: Hay, Rastogi,
Miklau, Suciu, "Boosting the Accuracy of Differentially Private Histograms Through Consistency" (VLDB 2010), section 4.

Centre: the median. Scale: the largest of the spread of the middle half, of the middle nine tenths (both as a normal
law has them), and of what keeps 99 % of the values within the bound. The median alone resists rows that are far out;
so do the first two spreads. The third keeps a column that is mostly one number from being clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl.data.constants import Constant
from fl.data.signed_log import signed_expm1, signed_log1p
from fl.errors import StatisticsError

REACH = 50  # of u: 1e-6 * e^50 is beyond 10^15
LEVELS = (1, 8, 64)  # bins in a step of 1
SIZE = tuple(2 * REACH * level for level in LEVELS)
UNIT = 1e-6  # of numbers that are no logarithms
HALF, TENTHS = 1.349, 3.290  # width of the middle half and of nine tenths of a normal law, in standard deviations
OUTER = 0.005  # of the values on either side may lie beyond the bound
STANDING_OUT = 3.0  # standard deviations of noise: a bin with less counts as empty
LEAST_SCALE = 1e-9

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """A column that is counted: its name, whether its values are logarithms, its bound, and the words that it is
    counted by (none: once)."""

    column: str
    is_log: bool
    bound: float
    words: tuple[str, ...] = ()

    @property
    def groups(self) -> int:
        """Words, and one group for all other words."""
        return len(self.words) + 1 if self.words else 1

    @property
    def levels(self) -> tuple[int, ...]:
        """Bins of a step of 1 at each level. Groups have no finest level: their means need none."""
        return LEVELS[:-1] if self.words else LEVELS

    @property
    def length(self) -> int:
        """Number of counts."""
        return self.groups * sum(2 * REACH * level for level in self.levels)

    @property
    def moved(self) -> int:
        """Counts that one row moves by one."""
        return len(self.levels)


def counts_of(counted: Counted, values: Values, group: Counts) -> Counts:
    """int64[counted.length]: how many of `values` (float64[n], NaN where there is none) lie in each bin of each level.

    `group`: int64[n], position of a row's word, the last group for other words; 0 where there are no words.
    """
    present = ~np.isnan(values)
    u = _to_grid(values[present], counted)
    parts = []
    for level in counted.levels:
        bins = 2 * REACH * level
        place = np.clip(np.floor((u + REACH) * level), 0, bins - 1).astype(np.int64)
        parts.append(np.bincount(group[present] * bins + place, minlength=counted.groups * bins))
    return np.concatenate(parts).astype(np.int64)


def constant_of(counted: Counted, counts: Values, sigma: float = 0.0) -> Constant:
    """The constants that `counts` (float64[counted.length], in rows) give. `sigma`: of the noise in one count.

    Raises `StatisticsError` when no count stands out of the noise.
    """
    tree = _without_noise(_levels(counted, counts), sigma)
    if not tree[0].sum() > 0:
        raise StatisticsError(
            f"column {counted.column!r}: expected values from which to compute its constants, got none"
            + (f" that stand out of a noise of {sigma:.0f} rows a count" if sigma else "")
            + '; say constants = "given" in the schema and name its constants'
        )
    if not counted.words:
        return _constant(counted, [_quantile(tree[-1][0], counted, share) for share in _SHARES])
    return _by_word(counted, tree)


_SHARES = (0.5, 0.25, 0.75, 0.05, 0.95, OUTER, 1 - OUTER)


def _constant(counted: Counted, quantiles: list[float]) -> Constant:
    median, lower, upper, low, high, least, most = quantiles
    scale = max(
        (upper - lower) / HALF,
        (high - low) / TENTHS,
        max(most - median, median - least) / counted.bound,
        LEAST_SCALE,
    )
    return Constant(counted.column, median, scale)


def _by_word(counted: Counted, tree: list[Values]) -> Constant:
    """The mean of each word, and the centre and scale of what is left when it is taken off."""
    finest = tree[-1]
    middle = _from_grid((np.arange(finest.shape[1]) + 0.5) / counted.levels[-1] - REACH, counted)
    rows = finest.sum(axis=1)
    overall = float((finest.sum(axis=0) @ middle) / finest.sum())
    means = np.where(rows > 0, (finest @ middle) / np.maximum(rows, 1e-300), overall)
    residual, weight = (middle[None, :] - means[:, None]).reshape(-1), finest.reshape(-1)
    order = np.argsort(residual)
    ascending, reached = residual[order], np.cumsum(weight[order]) / weight.sum()
    quantiles = [float(np.interp(share, reached, ascending)) for share in _SHARES]
    found = _constant(counted, quantiles)
    by_word = {word: float(mean) for word, mean in zip(counted.words, means[:-1], strict=True)}
    return Constant(counted.column, found.center, found.scale, by_word, float(means[-1]))


def _levels(counted: Counted, counts: Values) -> list[Values]:
    """By level: float64[groups, bins]."""
    sizes = [counted.groups * 2 * REACH * level for level in counted.levels]
    parts = np.split(counts.astype(np.float64), np.cumsum(sizes)[:-1])
    return [part.reshape(counted.groups, -1) for part in parts]


def _without_noise(tree: list[Values], sigma: float) -> list[Values]:
    """Bins that do not stand out of the noise are empty, at every level, and so are all bins within an empty one."""
    kept: list[Values] = []
    for noisy in tree:
        counts = np.where(noisy > STANDING_OUT * sigma, noisy, 0.0)
        if kept:
            inside = counts.shape[1] // kept[-1].shape[1]
            parent = np.repeat(kept[-1], inside, axis=1)
            children = counts.reshape(len(counts), -1, inside).sum(axis=2)
            # A bin whose parts all drown in noise is spread evenly over them.
            even = np.repeat(kept[-1] / inside, inside, axis=1)
            share = np.divide(kept[-1], children, out=np.zeros_like(children), where=children > 0)
            scale = np.repeat(share, inside, axis=1)
            known = np.repeat(children > 0, inside, axis=1)
            counts = np.where(parent > 0, np.where(known, counts * scale, even), 0.0)
        kept.append(counts)
    return kept


def _quantile(finest: Values, counted: Counted, share: float) -> float:
    """The transformed value below which this share of the rows lies: linear within a bin of the finest level."""
    reached = np.cumsum(finest)
    wanted = share * reached[-1]
    at = int(np.searchsorted(reached, wanted))
    at = min(at, len(finest) - 1)
    before = reached[at] - finest[at]
    within = (wanted - before) / finest[at] if finest[at] > 0 else 0.5
    return float(_from_grid(np.array([(at + within) / counted.levels[-1] - REACH]), counted)[0])


def _to_grid(values: Values, counted: Counted) -> Values:
    return values if counted.is_log else signed_log1p(values / UNIT)


def _from_grid(u: Values, counted: Counted) -> Values:
    return u if counted.is_log else signed_expm1(u) * UNIT
