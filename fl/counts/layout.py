"""What the inner loop of the filter reads: arrays alone, so that it can be compiled (`fl.counts.recursion`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Transitions:
    """How states follow each other, and where they begin.

    onset: probability a day.  ends: float64[ages].  clean, age: float and float64[ages], probabilities before the first
    day.  later_clean, later_age: of being compromised on the day asked for, by the state today.
    """

    onset: float
    ends: Floats = field(repr=False)
    clean: float
    age: Floats = field(repr=False)
    later_clean: float
    later_age: Floats = field(repr=False)


@dataclass(frozen=True)
class Days:
    """What the days show of some slots.

    elapsed, closes: int64[days], as in `fl.counts.day_filter.Shown`.  kind: int64[blocks].  code: int64[blocks, slots].
    ratio: one float64[length + 1, codes] a kind.  own: float64[days, slots] or None.  wanted: int64, ascending days
    after which a prediction is written; -1 is before the first.
    """

    elapsed: Integers = field(repr=False)
    closes: Integers = field(repr=False)
    kind: Integers = field(repr=False)
    code: Integers = field(repr=False)
    ratio: tuple[Floats, ...] = field(repr=False)
    own: Floats | None = field(repr=False)
    wanted: Integers = field(repr=False)

    @property
    def longest(self) -> int:
        """Days of the longest block; 0 without one."""
        return int(self.elapsed.max(initial=0))
