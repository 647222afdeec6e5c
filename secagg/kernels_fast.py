"""Compiled loops of the fast engine: encryption, and the opening of a sum. numba only; see `ckks_fast.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from secagg.arrays import I8, U8, U32, Inverse
from secagg.kernels_numba import _forward, _inverse, _jit, _plus, _residue, _times, _unpack30


@_jit
def _encrypt(
    plaintext: Any,
    u: Any,
    e0: Any,
    e1: Any,
    key: Any,
    key_quotients: Any,
    roots: Any,
    root_quotients: Any,
    primes: Any,
    c0: Any,
    c1: Any,
) -> None:
    degree = u.shape[0]
    product = np.empty(degree, dtype=np.uint32)
    for i in range(primes.shape[0]):
        p = primes[i]
        message, first, second = plaintext[i], c0[i], c1[i]
        for j in range(degree):
            product[j] = _residue(u[j], p)
            first[j] = _plus(message[j], _residue(e0[j], p), p)
            second[j] = _residue(e1[j], p)
        _forward(product, roots[i], root_quotients[i], p)
        _forward(first, roots[i], root_quotients[i], p)
        _forward(second, roots[i], root_quotients[i], p)
        b, bq, a, aq = key[0, i], key_quotients[0, i], key[1, i], key_quotients[1, i]
        for j in range(degree):
            x = product[j]
            first[j] = _plus(first[j], _times(x, b[j], np.uint64(bq[j]), p), p)
            second[j] = _plus(second[j], _times(x, a[j], np.uint64(aq[j]), p), p)


def encrypt(
    plaintext: U32,
    u: I8,
    e0: I8,
    e1: I8,
    key: U32,
    key_quotients: U32,
    roots: U32,
    root_quotients: U32,
    primes: U32,
    c0: U32,
    c1: U32,
) -> None:
    """c0 = b*u + e0 + m and c1 = a*u + e1, transformed, for some primes.

    plaintext, c0, c1, roots: uint32[primes, N]; key: uint32[2, primes, N], transformed, (b, a); u, e0, e1: int8[N].
    """
    _encrypt(plaintext, u, e0, e1, key, key_quotients, roots, root_quotients, primes, c0, c1)


@_jit
def _read_rows(packed: Any, primes: Any, out: Any) -> bool:
    sound = True
    for i in range(out.shape[0]):
        row = out[i]
        _unpack30(packed[i], row)
        largest = np.uint32(0)
        for j in range(row.shape[0]):
            largest = max(largest, row[j])
        sound &= largest < primes[i]
    return sound


def read_rows(packed: U8, primes: U32, out: U32) -> bool:
    """Unpack rows of 30-bit residues, uint8[rows, 15N/4], into uint32[rows, N]; whether all are below their primes.

    primes: uint32[rows].
    """
    return bool(_read_rows(packed, primes, out))


@_jit
def _decrypt_rows(
    packed: Any, key: Any, key_quotients: Any, roots: Any, quotients: Any, scale: Any, primes: Any, rows: Any
) -> int:
    degree = rows.shape[1]
    linear = np.empty(degree, dtype=np.uint32)
    fault = 0
    for i in range(rows.shape[0]):
        p = primes[i]
        _unpack30(packed[i], linear)
        s, sq, row = key[i], key_quotients[i], rows[i]
        largest = np.uint32(0)
        for j in range(degree):
            c1 = linear[j]
            largest = max(largest, c1)
            row[j] = _plus(row[j], _times(c1, s[j], np.uint64(sq[j]), p), p)
        if largest >= p:
            fault |= 1
        if largest == 0:
            fault |= 2
        _inverse(row, roots[i], quotients[i], p, scale[i])
    return fault


OUT_OF_RANGE, TRANSPARENT = 1, 2


def decrypt_rows(packed: U8, key: U32, key_quotients: U32, inverse: Inverse, primes: U32, rows: U32) -> int:
    """`rows` = c0 + c1*s for some primes, in place, from transformed c0 to coefficients.

    packed: uint8[rows, 15N/4], c1 in 30 bits a residue. key: uint32[rows, N], s transformed; key_quotients: after
    Shoup. rows: uint32[rows, N], below the primes. Returns 0, or the sum of `OUT_OF_RANGE` if a residue of c1 is not
    below its prime and `TRANSPARENT` if c1 is zero modulo a prime: `rows` then means nothing.
    """
    return int(_decrypt_rows(packed, key, key_quotients, *inverse, primes, rows))
