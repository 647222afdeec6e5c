"""Types of the arrays that modules hand to each other, and the tuples of them that the inner loops take and return.

The names give only the dtype. Every docstring that uses one gives the shape.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
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
    """Constants for splitting the coefficients of a sum into lanes.

    The first four fields are arguments of `unpack_lanes`. The offset makes every digit non-negative: it adds
    `noise_centre` to the noise and `max_lane` to every lane.
    """

    primes: U32
    inverses: U32
    offsets: U32
    divisors: I64
    noise_centre: int
    max_lane: int


class Extremes(NamedTuple):
    """Extremes of a part of a block.

    noise: largest |noise|. highest, lowest: the largest and the smallest of the sums and zero. above: whether a
    coefficient has a remainder above its highest digit.
    """

    noise: int
    highest: int
    lowest: int
    above: bool


class Tables(NamedTuple):
    """Constants of `hide_pair`: the transforms' as in `ring.Ring`, and those that make a residue a fraction of Q.

    x / Q = sum over the primes of (x * shares mod p) / p, modulo 1. 2**64 / p is fractions + rests / 2**32, cut.
    primes, inverse_degree, shares: uint32[primes]. fractions, rests: uint64[primes]. The others: uint32[primes, N].
    """

    roots: U32
    root_quotients: U32
    inverse_roots: U32
    inverse_root_quotients: U32
    primes: U32
    inverse_degree: U32
    shares: U32
    fractions: U64
    rests: U64


class Zero(NamedTuple):
    """What a fresh encryption of zero under the key (b, a) is made of. u, e1: int8[N]. key: uint32[2, primes, N]."""

    u: I8
    e1: I8
    key: U32


class Pair(NamedTuple):
    """Two ciphertexts, uint32[2, primes, N], and sigma of their first polynomials, uint32[primes, N]; transformed."""

    first: U32
    first_mirror: U32
    second: U32
    second_mirror: U32
