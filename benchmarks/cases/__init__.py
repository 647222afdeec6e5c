"""The cases that are measured: each is a way to average the same vectors, and all have one interface.

    case = make(options)                 # in a process of its own
    case.prepare(vectors) -> parameters  # not timed
    case.repeat(meter) -> CaseResult     # one whole round, timed by phase and stage; the result is checked

`registry.py` lists the cases. A new case needs a class with this interface and an entry there.
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
    """largest_error: max |average - exact mean|. allowed_error: the error that the method promises not to exceed."""

    largest_error: float
    allowed_error: float

    def check(self) -> None:
        """Raises `WrongResult` if the error is larger than allowed, or NaN."""
        if not self.largest_error <= self.allowed_error:
            raise WrongResult(f"the average is off by {self.largest_error:.3g}; the limit is {self.allowed_error:.3g}")


class Case(Protocol):
    """A way to average the vectors of a workload."""

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        """Prepare for these vectors and return the parameters to report. Raises `CaseNotRunnable`. Not timed."""

    def repeat(self, meter: Meter) -> CaseResult:
        """Average once. Raises `WrongResult` if the case itself finds that its result is wrong."""


def compared(average: F64, vectors: Vectors, allowed_error: float) -> CaseResult:
    """Compare an average, float64[length], with the exact mean. Raises `WrongResult` for another shape."""
    if average.shape != (vectors.workload.length,):
        raise WrongResult(f"expected an average of {vectors.workload.length} values, got {average.shape}")
    worst = 0.0
    for start, exact in vectors.exact_mean():
        gap = float(np.abs(average[start : start + len(exact)] - exact).max())
        worst = gap if np.isnan(gap) else max(worst, gap)
    return CaseResult(worst, allowed_error)
