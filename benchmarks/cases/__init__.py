"""What is measured: each case is a way to average the same vectors, behind one interface.

    case = make(options)                 # in a process of its own
    case.prepare(vectors) -> parameters  # not timed
    case.repeat(meter) -> CaseResult        # one whole round, timed by phase and stage; the result is checked

`registry.py` lists the cases; adding one means writing a class like those here and one line there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.errors import WrongResult
from benchmarks.meter import Meter
from benchmarks.workload import F64, Vectors


@dataclass(frozen=True)
class CaseResult:
    """largest_error: max |average - exact mean|. allowed_error: what the method promises; beyond it, it is wrong."""

    largest_error: float
    allowed_error: float

    def check(self) -> None:
        """Raise `WrongResult` beyond the allowed error, and for NaN."""
        if not self.largest_error <= self.allowed_error:
            raise WrongResult(f"the average is off by {self.largest_error:.3g}; allowed are {self.allowed_error:.3g}")


class Case(Protocol):
    """A way to average."""

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        """Get ready for these vectors; returns the parameters to report. Raises `CaseNotRunnable`."""

    def repeat(self, meter: Meter) -> CaseResult:
        """Average once. Raises `WrongResult` where the case itself sees that its result is wrong."""


def compared(average: F64, vectors: Vectors, allowed_error: float) -> CaseResult:
    """The outcome of an average, float64[length], of these vectors."""
    if average.shape != (vectors.workload.length,):
        raise WrongResult(f"expected an average of {vectors.workload.length} values, got {average.shape}")
    worst = 0.0
    for start, exact in vectors.exact_mean():
        gap = float(np.abs(average[start : start + len(exact)] - exact).max())
        worst = gap if np.isnan(gap) else max(worst, gap)
    return CaseResult(worst, allowed_error)
