"""A compiled loop of modular products and nothing else: how fast one core could multiply. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

PRIME = 1_073_643_521  # 30 bits, 1 modulo 2^15, as the primes of a plan
FACTOR = 123_456_789


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _multiply(values: Any, passes: Any, factor: Any, quotient: Any, prime: Any) -> None:
    for _ in range(passes):
        for i in range(values.shape[0]):
            x = values[i]
            q = np.uint32((quotient * x) >> np.uint64(32))
            r = np.uint32(factor * x - q * prime)
            values[i] = min(r, np.uint32(r - prime))


def multiply_repeatedly(values: NDArray[np.uint32], passes: int) -> None:
    """Multiply all of `values` by a constant modulo a prime, `passes` times, by Shoup's method as `secagg` does."""
    _multiply(values, passes, np.uint32(FACTOR), np.uint64((FACTOR << 32) // PRIME), np.uint32(PRIME))
