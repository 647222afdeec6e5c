"""The logarithm of numbers of either sign: sign(x) log(1 + |x|), the transform "signed_log1p" of a schema."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def signed_log1p(values: Floats) -> Floats:
    """float64[n]: the natural logarithm of one plus each magnitude, with the number's sign."""
    logs: Floats = np.sign(values) * np.log1p(np.abs(values))
    return logs


def signed_expm1(logs: Floats) -> Floats:
    """float64[n]: the numbers whose `signed_log1p` is `logs`."""
    values: Floats = np.sign(logs) * np.expm1(np.abs(logs))
    return values
