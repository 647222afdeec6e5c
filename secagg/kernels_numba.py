"""The inner loops compiled by numba (extra `fast`): the same functions as `kernels_numpy.py`, bit for bit.

Compiled once, cached on disk where a folder is writable, run without the interpreter lock. Modular products by
constants use Shoup's precomputed quotients (Harvey, "Faster arithmetic for number-theoretic transforms", 2014,
section 2) in 32 bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from secagg.kernels_numpy import I64, U8, U32


def _cache_is_writable() -> bool:
    """Whether numba finds a folder for compiled code; a read-only installation without a home has none."""
    try:
        numba.njit(cache=True)(_cache_is_writable)  # decorates only, compiles nothing
    except RuntimeError:
        return False
    return True


_jit = numba.njit(cache=_cache_is_writable(), nogil=True, boundscheck=False)


@_jit
def _forward(a: Any, roots: Any, quotients: Any, p: Any) -> None:
    degree = a.shape[0]
    groups, half = 1, degree >> 1
    while groups < degree:
        for g in range(groups):
            w = roots[groups + g]
            wq = np.uint64(quotients[groups + g])
            start = 2 * g * half
            upper = a[start : start + half]
            lower = a[start + half : start + 2 * half]
            for j in range(half):
                u = upper[j]
                x = lower[j]
                q = np.uint32((wq * x) >> np.uint64(32))
                v = np.uint32(w * x - q * p)
                v = min(v, np.uint32(v - p))
                s = np.uint32(u + v)
                d = np.uint32(u - v)
                upper[j] = min(s, np.uint32(s - p))
                lower[j] = min(d, np.uint32(d + p))
        groups, half = groups << 1, half >> 1


@_jit
def _inverse(a: Any, roots: Any, quotients: Any, p: Any, scale: Any) -> None:
    degree = a.shape[0]
    groups, half = degree >> 1, 1
    while groups >= 1:
        for g in range(groups):
            w = roots[groups + g]
            wq = np.uint64(quotients[groups + g])
            start = 2 * g * half
            upper = a[start : start + half]
            lower = a[start + half : start + 2 * half]
            for j in range(half):
                u = upper[j]
                v = lower[j]
                s = np.uint32(u + v)
                upper[j] = min(s, np.uint32(s - p))
                x = np.uint32(u + p - v)
                q = np.uint32((wq * x) >> np.uint64(32))
                y = np.uint32(w * x - q * p)
                lower[j] = min(y, np.uint32(y - p))
        groups, half = groups >> 1, half << 1
    factor = np.uint64(scale)
    modulus = np.uint64(p)
    for j in range(degree):
        a[j] = np.uint32(np.uint64(a[j]) * factor % modulus)


@_jit
def _forward_all(residues: Any, roots: Any, quotients: Any, primes: Any) -> None:
    for i in range(primes.shape[0]):
        _forward(residues[i], roots[i], quotients[i], primes[i])


@_jit
def _inverse_all(residues: Any, roots: Any, quotients: Any, primes: Any, scale: Any) -> None:
    for i in range(primes.shape[0]):
        _inverse(residues[i], roots[i], quotients[i], primes[i], scale[i])


def forward_ntt(residues: U32, roots: U32, quotients: U32, primes: U32) -> None:
    """See `kernels_numpy.forward_ntt`."""
    _forward_all(residues, roots, quotients, primes)


def inverse_ntt(residues: U32, roots: U32, quotients: U32, primes: U32, scale: U32) -> None:
    """See `kernels_numpy.inverse_ntt`."""
    _inverse_all(residues, roots, quotients, primes, scale)


@_jit
def _quantise(update: Any, clip: Any, inverse_step: Any, weight: Any, out: Any) -> int:
    clipped = 0
    for i in range(update.shape[0]):
        value = np.float64(update[i])
        if value > clip:
            value = clip
            clipped += 1
        elif value < -clip:
            value = -clip
            clipped += 1
        out[i] = np.int64(np.rint(value * inverse_step)) * weight
    return clipped


def quantise(update: NDArray[np.floating], clip: float, inverse_step: float, weight: int, out: I64) -> int:
    """See `kernels_numpy.quantise`."""
    return int(_quantise(update, clip, inverse_step, weight, out))


@_jit
def _pack_lanes(values: Any, factors: Any, primes: Any, out: Any) -> None:
    lanes, degree = values.shape
    for i in range(primes.shape[0]):
        prime = np.int64(primes[i])
        modulus = np.uint64(prime)
        inverse = 1.0 / np.float64(prime)
        row = out[i]
        total = np.zeros(degree, dtype=np.uint64)
        for lane in range(lanes):
            factor = np.uint64(factors[i, lane])
            line = values[lane]
            for c in range(degree):
                # Quotient by a float64 estimate: |value| < 2**48, so it is off by at most one.
                x = line[c]
                r = x - np.int64(np.float64(x) * inverse) * prime
                r += prime if r < 0 else 0
                r -= prime if r >= prime else 0
                total[c] += np.uint64(r) * factor
            if lane % 8 == 7:  # eight products of 60 bits fit 64 beside a reduced sum
                for c in range(degree):
                    total[c] %= modulus
        for c in range(degree):
            row[c] = np.uint32(total[c] % modulus)


def pack_lanes(values: I64, factors: U32, primes: U32, out: U32) -> None:
    """See `kernels_numpy.pack_lanes`."""
    _pack_lanes(values, factors, primes, out)


@_jit
def _unpack_lanes(
    residues: Any, primes: Any, inverses: Any, offsets: Any, divisors: Any, digits: Any, left: Any
) -> None:
    count, degree = residues.shape
    garner = np.empty(count, dtype=np.int64)
    for c in range(degree):
        for i in range(count):
            prime = np.uint64(primes[i])
            t = (np.uint64(residues[i, c]) + np.uint64(offsets[i])) % prime
            for j in range(i):
                known = np.uint64(garner[j])
                known = known - prime if known >= prime else known
                t = (t + prime - known) * np.uint64(inverses[j, i]) % prime
            garner[i] = np.int64(t)
        top = count
        for position in range(divisors.shape[0]):
            divisor = divisors[position]
            fraction = np.float64(divisor)
            while top > 0 and garner[top - 1] == 0:
                top -= 1
            remainder = np.int64(0)
            for i in range(top - 1, -1, -1):
                prime_signed = np.int64(primes[i])
                estimate = np.int64(
                    (np.float64(remainder) * np.float64(prime_signed) + np.float64(garner[i])) / fraction
                )
                rest = remainder * prime_signed + garner[i] - estimate * divisor
                if rest < 0:
                    rest += divisor
                    estimate -= 1
                elif rest >= divisor:
                    rest -= divisor
                    estimate += 1
                garner[i] = estimate
                remainder = rest
            digits[position, c] = remainder
        flag = np.uint8(0)
        for i in range(top):
            if garner[i] != 0:
                flag = np.uint8(1)
        left[c] = flag


def unpack_lanes(residues: U32, primes: U32, inverses: U32, offsets: U32, divisors: I64, digits: I64) -> U8:
    """See `kernels_numpy.unpack_lanes`."""
    left = np.empty(residues.shape[1], dtype=np.uint8)
    _unpack_lanes(residues, primes, inverses, offsets, divisors, digits, left)
    return left


@_jit
def _add_modular(total: Any, term: Any, primes: Any) -> None:
    for i in range(total.shape[0]):
        prime = primes[i % primes.shape[0]]
        row, other = total[i], term[i]
        for c in range(row.shape[0]):
            s = np.uint32(row[c] + other[c])
            row[c] = min(s, np.uint32(s - prime))


def add_modular(total: U32, term: U32, primes: U32) -> None:
    """See `kernels_numpy.add_modular`."""
    degree = total.shape[-1]
    _add_modular(total.reshape(-1, degree), term.reshape(-1, degree), primes)


@_jit
def _subtract_modular(total: Any, term: Any, primes: Any) -> None:
    for i in range(total.shape[0]):
        prime = primes[i % primes.shape[0]]
        row, other = total[i], term[i]
        for c in range(row.shape[0]):
            d = np.uint32(row[c] - other[c])
            row[c] = min(d, np.uint32(d + prime))


def subtract_modular(total: U32, term: U32, primes: U32) -> None:
    """See `kernels_numpy.subtract_modular`."""
    degree = total.shape[-1]
    _subtract_modular(total.reshape(-1, degree), term.reshape(-1, degree), primes)


@_jit
def _in_range(residues: Any, primes: Any) -> bool:
    for i in range(residues.shape[0]):
        prime = primes[i % primes.shape[0]]
        row = residues[i]
        largest = np.uint32(0)
        for c in range(row.shape[0]):
            largest = max(largest, row[c])
        if largest >= prime:
            return False
    return True


def in_range(residues: U32, primes: U32) -> bool:
    """See `kernels_numpy.in_range`."""
    return bool(_in_range(residues.reshape(-1, residues.shape[-1]), primes))


@_jit
def _pack30(residues: Any, out: Any) -> None:
    for g in range(residues.shape[0] // 4):
        r0 = np.uint64(residues[4 * g])
        r1 = np.uint64(residues[4 * g + 1])
        r2 = np.uint64(residues[4 * g + 2])
        r3 = np.uint64(residues[4 * g + 3])
        low = r0 | (r1 << np.uint64(30)) | (r2 << np.uint64(60))
        high = (r2 >> np.uint64(4)) | (r3 << np.uint64(26))
        base = 15 * g
        for b in range(8):
            out[base + b] = np.uint8((low >> np.uint64(8 * b)) & np.uint64(255))
        for b in range(7):
            out[base + 8 + b] = np.uint8((high >> np.uint64(8 * b)) & np.uint64(255))


def pack30(residues: U32, out: U8) -> None:
    """See `kernels_numpy.pack30`."""
    _pack30(residues.reshape(-1), out)


@_jit
def _unpack30(packed: Any, out: Any) -> None:
    mask = np.uint64(2**30 - 1)
    for g in range(out.shape[0] // 4):
        base = 15 * g
        low = np.uint64(0)
        high = np.uint64(0)
        for b in range(8):
            low |= np.uint64(packed[base + b]) << np.uint64(8 * b)
        for b in range(7):
            high |= np.uint64(packed[base + 8 + b]) << np.uint64(8 * b)
        out[4 * g] = np.uint32(low & mask)
        out[4 * g + 1] = np.uint32((low >> np.uint64(30)) & mask)
        out[4 * g + 2] = np.uint32(((low >> np.uint64(60)) | (high << np.uint64(4))) & mask)
        out[4 * g + 3] = np.uint32((high >> np.uint64(26)) & mask)


def unpack30(packed: U8, out: U32) -> None:
    """See `kernels_numpy.unpack30`."""
    _unpack30(packed, out.reshape(-1))


@_jit
def _fold_words(row: Any, filled: Any, words: Any, prime: Any, negative: Any) -> Any:
    degree = row.shape[0]
    position = filled
    for i in range(words.shape[0]):
        word = np.uint32(words[i] & np.uint32(2**30 - 1))
        if word < prime:
            if position == degree:
                break
            if negative:
                d = np.uint32(row[position] - word)
                row[position] = min(d, np.uint32(d + prime))
            else:
                s = np.uint32(row[position] + word)
                row[position] = min(s, np.uint32(s - prime))
            position += 1
    return position


def fold_words(row: U32, filled: int, words: U32, prime: int, negative: bool) -> int:
    """See `kernels_numpy.fold_words`."""
    return int(_fold_words(row, filled, words, np.uint32(prime), negative))
