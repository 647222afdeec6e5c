"""Types of the arrays that modules hand to each other, and the tuples of them that the inner loops take and return.

Names say dtype only; every docstring that uses one says its shape.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


class Inverse(NamedTuple):
    """Tables of the inverse transform, as `inverse_ntt` takes them: uint32[primes, N] twice, uint32[primes]."""

    roots: U32
    quotients: U32
    scale: U32


class Lanes(NamedTuple):
    """How the coefficients of a sum are taken apart.

    The first five fields are as `unpack_lanes` takes them. The offset centres the number, which leaves `noise_centre`
    on top of the noise and `max_lane` on top of every lane.
    """

    primes: U32
    inverses: U32
    offsets: U32
    divisors: I64
    noise_centre: int
    max_lane: int


class Extremes(NamedTuple):
    """Extremes of a part of a block.

    noise: largest |noise|. highest, lowest: of the sums, and zero. above: whether anything is left above the highest
    digit of a coefficient.
    """

    noise: int
    highest: int
    lowest: int
    above: bool
