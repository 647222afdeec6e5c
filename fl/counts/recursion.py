"""Chooses the inner loop of the filter at its first use: numba's where it is installed, numpy's elsewhere.

`SECAGG_KERNELS=numpy` or `numba` in the environment forces one of them, as it does for the kernels of `secagg`. Asking
for numba where it cannot be imported is an error.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Protocol

from fl.counts.layout import Days, Floats, Transitions
from fl.errors import StatisticsError


class Recursion(Protocol):
    """One implementation of the loop over days."""

    def advance(self, chain: Transitions, days: Days, predicted: Floats, totals: Floats) -> None:
        """Carry the states of some slots through all days.

        predicted: float64[wanted, slots], is filled.  totals: float64[days, slots], is filled with the probability of
        what each day shows given the days before it; 1 where it shows nothing.
        """


@cache
def recursion() -> Recursion:
    """The implementation of this process. Raises `StatisticsError` where the one asked for is not there."""
    asked = os.environ.get("SECAGG_KERNELS", "")
    if asked not in ("", "numpy", "numba"):
        raise StatisticsError(f"SECAGG_KERNELS: expected numpy or numba, got {asked!r}")
    if asked != "numpy":
        try:
            return importlib.import_module("fl.counts.recursion_numba")
        except ImportError as fault:
            if asked == "numba":
                raise StatisticsError(
                    "SECAGG_KERNELS=numba, but numba cannot be imported: run pip install -e '.[fast]' in a checkout"
                ) from fault
    return importlib.import_module("fl.counts.recursion_numpy")
