"""The compiled loop of the fast engine: the encryption of one block. numba only; see `ckks_fast.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from secagg.arrays import I8, U32
from secagg.kernels_numba import _forward, _jit, _plus, _residue, _times


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
