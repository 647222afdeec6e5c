"""The inner loops in plain numpy: always available, and the definition that `kernels_numba.py` must match bit for bit.

Arrays of residues are uint32[primes, N]; every residue is smaller than its prime, and every prime is below 2**30.
Sources: the transform is Longa and Naehrig, ePrint 2016/504, algorithms 1 and 2; the reconstruction is Garner's
mixed-radix conversion (Knuth, TAOCP vol. 2, section 4.3.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.arrays import F64, I8, I64, U8, U16, U32, U64, Extremes, Inverse, Lanes, Pair, Tables, Zero

_GROUP_BYTES = 15  # four 30-bit residues
_MASK30 = np.uint64(2**30 - 1)
_BITS21 = np.uint64(2**21 - 1)
_SUMS_AT_ONCE = 1 << 15  # released sums written or read at once: they fit the cache


def forward_ntt(residues: U32, roots: U32, quotients: U32, primes: U32) -> None:
    """Negacyclic transform in place, natural order in, bit-reversed order out (Cooley-Tukey)."""
    degree = residues.shape[1]
    for i, prime in enumerate(primes.astype(np.uint64)):
        a = residues[i].astype(np.uint64)
        groups, half = 1, degree // 2
        while groups < degree:
            view = a.reshape(groups, 2, half)
            twiddle = roots[i, groups : 2 * groups].astype(np.uint64)[:, None]
            u = view[:, 0, :].copy()
            v = view[:, 1, :] * twiddle % prime
            view[:, 0, :] = (u + v) % prime
            view[:, 1, :] = (u + prime - v) % prime
            groups, half = 2 * groups, half // 2
        residues[i] = a


def inverse_ntt(residues: U32, roots: U32, quotients: U32, primes: U32, scale: U32) -> None:
    """Inverse of `forward_ntt` in place (Gentleman-Sande); `scale` is 1/N modulo each prime."""
    degree = residues.shape[1]
    for i, prime in enumerate(primes.astype(np.uint64)):
        a = residues[i].astype(np.uint64)
        groups, half = degree // 2, 1
        while groups >= 1:
            view = a.reshape(groups, 2, half)
            twiddle = roots[i, groups : 2 * groups].astype(np.uint64)[:, None]
            u = view[:, 0, :].copy()
            v = view[:, 1, :].copy()
            view[:, 0, :] = (u + v) % prime
            view[:, 1, :] = (u + prime - v) * twiddle % prime
            groups, half = groups // 2, 2 * half
        residues[i] = a * np.uint64(scale[i]) % prime


def quantise_onto(update: NDArray[np.floating], clip: float, inverse_step: float, factor: int, total: I64) -> int:
    """`total[i] += factor * rint(clamp(update[i]) * inverse_step)`; returns how many values lay outside [-clip, clip].

    The count compares the values themselves, not their scaled ones, so that rounding at the edge cannot change it.
    """
    values = update.astype(np.float64)
    clipped = int(np.count_nonzero(np.abs(values) > clip))
    np.clip(values, -clip, clip, out=values)
    values *= inverse_step
    np.rint(values, out=values)
    total += values.astype(np.int64) * factor
    return clipped


def pack_lanes(values: I64, factors: U32, primes: U32, out: U32) -> None:
    """`out[i, c] = sum_j values[j, c] * factors[i, j] mod primes[i]` for values int64[rows, N], |value| < 2**62."""
    for i, prime in enumerate(primes.astype(np.int64)):
        total = np.zeros(values.shape[1], dtype=np.uint64)
        for lane in range(values.shape[0]):
            residue = np.mod(values[lane], prime).astype(np.uint64)
            total += residue * np.uint64(factors[i, lane])
            total %= np.uint64(prime)
        out[i] = total


def unpack_lanes(residues: U32, primes: U32, inverses: U32, offsets: U32, divisors: I64, digits: I64) -> U8:
    """Digits of the mixed-radix number V + offset for every coefficient, V given by its residues.

    divisors: the bases, lowest first (noise span, then one radix per lane); digits: int64[len(divisors), N], written.
    offsets: the offset modulo each prime. inverses[j, i]: 1 / primes[j] modulo primes[i].
    Returns uint8[N]: 1 where something is left above the highest digit.
    """
    count, degree = residues.shape
    garner = np.empty((count, degree), dtype=np.uint64)
    for i in range(count):
        prime = np.uint64(primes[i])
        t = (residues[i].astype(np.uint64) + np.uint64(offsets[i])) % prime
        for j in range(i):
            t = (t + prime - garner[j] % prime) * np.uint64(inverses[j, i]) % prime
        garner[i] = t
    for position, divisor in enumerate(divisors):
        digits[position] = _divide(garner, primes, int(divisor))
    left: U8 = np.any(garner != 0, axis=0).astype(np.uint8)
    return left


def unpack_sums(residues: U32, lanes: Lanes, sums: I64, rest: I64, first: int, last: int) -> Extremes:
    """Write the lanes of columns first..last-1 of a block.

    Value lane * N + column goes into `sums`; what is beyond its end goes into `rest`. Threads can share both.

    residues: uint32[primes, N]. sums, rest: int64, together lanes * N.
    """
    degree = residues.shape[1]
    digits = np.empty((lanes.divisors.shape[0], last - first), dtype=np.int64)
    left = unpack_lanes(residues[:, first:last], lanes.primes, lanes.inverses, lanes.offsets, lanes.divisors, digits)
    noise = int(np.abs(digits[0] - lanes.noise_centre).max(initial=0))
    highest = lowest = 0
    for lane in range(digits.shape[0] - 1):
        values = digits[lane + 1] - lanes.max_lane
        start = lane * degree + first
        inside = min(max(sums.shape[0] - start, 0), last - first)
        sums[start : start + inside] = values[:inside]
        beyond = start + inside - sums.shape[0]
        rest[beyond : beyond + values.shape[0] - inside] = values[inside:]
        highest = max(highest, int(values[:inside].max(initial=0)))
        lowest = min(lowest, int(values[:inside].min(initial=0)))
    return Extremes(noise, highest, lowest, bool(left.any()))


def unpack_transformed(wide: U64, inverse: Inverse, lanes: Lanes, sums: I64, rest: I64) -> Extremes:
    """`inverse_ntt` of uint64[primes, N] whose values fit 32 bits, then `unpack_sums` of all columns; `wide` stays."""
    residues = wide.astype(np.uint32)
    inverse_ntt(residues, inverse.roots, inverse.quotients, lanes.primes, inverse.scale)
    return unpack_sums(residues, lanes, sums, rest, 0, residues.shape[1])


def _divide(garner: U64, primes: U32, divisor: int) -> I64:
    """Divide the mixed-radix numbers in place by `divisor` (< 2**48); returns the remainders.

    One digit's dividend is below divisor * prime, up to 2**78. The float64 estimate of its quotient (< 2**30) is off
    by at most one, and the remainder computed modulo 2**64 from it is exact after one correction either way.
    """
    remainder = np.zeros(garner.shape[1], dtype=np.int64)
    for i in range(garner.shape[0] - 1, -1, -1):
        prime = int(primes[i])
        digit = garner[i].astype(np.int64)
        estimate = ((remainder.astype(np.float64) * prime + digit) / divisor).astype(np.int64)
        with np.errstate(over="ignore"):
            rest = remainder * prime + digit - estimate * divisor
        low, high = rest < 0, rest >= divisor
        estimate += high.astype(np.int64) - low.astype(np.int64)
        rest += divisor * (low.astype(np.int64) - high.astype(np.int64))
        garner[i] = estimate.astype(np.uint64)
        remainder = rest
    return remainder


def add_modular(total: U32, term: U32, primes: U32) -> None:
    """`total += term` modulo primes[i] along the second-last axis, in place. Both uint32[..., primes, N]."""
    column = primes[:, None]
    np.add(total, term, out=total)  # below 2**31: no overflow
    np.subtract(total, column, out=total, where=total >= column)


def subtract_modular(total: U32, term: U32, primes: U32) -> None:
    """`total -= term` modulo primes[i] along the second-last axis, in place."""
    column = primes[:, None]
    borrow = total < term
    np.subtract(total, term, out=total)  # wraps modulo 2**32 where it borrows
    np.add(total, column, out=total, where=borrow)


def in_range(residues: U32, primes: U32) -> bool:
    """Whether every residue of uint32[..., primes, N] is below its prime."""
    return bool(np.all(residues < primes[:, None]))


def pack30(residues: U32, out: U8) -> None:
    """Little-endian bit stream of 30 bits a residue: uint32[4n] into uint8[15n]."""
    r = residues.reshape(-1, 4).astype(np.uint64)
    low = r[:, 0] | (r[:, 1] << np.uint64(30)) | (r[:, 2] << np.uint64(60))
    high = (r[:, 2] >> np.uint64(4)) | (r[:, 3] << np.uint64(26))
    grouped = out.reshape(-1, _GROUP_BYTES)
    grouped[:, :8] = low.astype("<u8").view(np.uint8).reshape(-1, 8)
    grouped[:, 8:] = high.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :7]


def unpack30(packed: U8, out: U32) -> None:
    """Inverse of `pack30`: uint8[15n] into uint32[4n]; every result is below 2**30."""
    grouped = packed.reshape(-1, _GROUP_BYTES)
    words = np.zeros((grouped.shape[0], 16), dtype=np.uint8)
    words[:, :_GROUP_BYTES] = grouped
    pair = words.view("<u8")
    low, high = pair[:, 0], pair[:, 1]
    r = out.reshape(-1, 4)
    r[:, 0] = low & _MASK30
    r[:, 1] = (low >> np.uint64(30)) & _MASK30
    r[:, 2] = ((low >> np.uint64(60)) | (high << np.uint64(4))) & _MASK30
    r[:, 3] = (high >> np.uint64(26)) & _MASK30


def fold_packed(packed: U8, primes: U32, total: U32, largest: U32) -> None:
    """Unpack rows of residues and add each to its row of `total`, uint32[rows, N], modulo primes[row % len(primes)].

    packed: uint8[rows * N * 30 / 8], as `pack30` writes them. largest: uint32[rows], receives each row's largest
    residue once the row is added. Rows with one that is not below its prime are added too, for the caller to take out
    again: `subtract_modular` gives back exactly the total before, because a residue below 2**30 borrows if and only if
    adding it had carried.
    """
    row = np.empty(total.shape[1], dtype=np.uint32)
    width = row.shape[0] // 4 * _GROUP_BYTES
    for i in range(total.shape[0]):
        unpack30(packed[i * width : (i + 1) * width], row)
        column = primes[i % primes.shape[0]].reshape(1)
        add_modular(total[i : i + 1], row[None, :], column)
        largest[i] = row.max()


def pack_sums(sums: I64, shift: int, out: U8) -> None:
    """`out[i]` = the lowest bytes of sums[i] + shift, little-endian: int64[n] into uint8[n, width], width at most 8."""
    for start in range(0, sums.shape[0], _SUMS_AT_ONCE):
        shifted = (sums[start : start + _SUMS_AT_ONCE] + shift).astype("<i8", copy=False)
        out[start : start + _SUMS_AT_ONCE] = shifted.view(np.uint8).reshape(-1, 8)[:, : out.shape[1]]


def unpack_sums_of(packed: U8, shift: int, out: I64) -> int:
    """The inverse of `pack_sums`, for a width below 8. Returns the largest of out[i] + shift."""
    largest = 0
    wide = np.zeros((_SUMS_AT_ONCE, 8), dtype=np.uint8)
    for start in range(0, packed.shape[0], _SUMS_AT_ONCE):
        part = packed[start : start + _SUMS_AT_ONCE]
        wide[: part.shape[0], : part.shape[1]] = part
        shifted = wide[: part.shape[0]].reshape(-1).view("<i8")
        largest = max(largest, int(shifted.max()))
        np.subtract(shifted, shift, out=out[start : start + _SUMS_AT_ONCE])
    return largest


def scale_sums(sums: I64, factor: float, out: F64) -> tuple[int, int]:
    """`out[i] = sums[i] * factor`, float64[n]. Returns the largest and the smallest of the sums and zero."""
    highest = lowest = 0
    for start in range(0, sums.shape[0], _SUMS_AT_ONCE):
        part = sums[start : start + _SUMS_AT_ONCE]
        highest, lowest = max(highest, int(part.max())), min(lowest, int(part.min()))
        np.multiply(part, factor, out=out[start : start + _SUMS_AT_ONCE], dtype=np.float64)
    return highest, lowest


def fold_words(rows: U32, filled: int, words: U32, primes: U32, negative: bool) -> int:
    """Add (or subtract) the accepted ones of `words` to uint32[primes, N], from residue number `filled` on.

    Residues are counted row by row, each row modulo its prime. A word is masked to 30 bits and accepted when it is
    below the prime of the row that is being filled: rejection sampling of uniform residues. Returns the new `filled`.
    Words left over once all rows are full are ignored.
    """
    masked = words & np.uint32(2**30 - 1)
    degree, taken = rows.shape[1], 0
    while taken < masked.shape[0] and filled < rows.size:
        index, start = divmod(filled, degree)
        places = np.flatnonzero(masked[taken:] < primes[index])[: degree - start]
        accepted = masked[taken:][places]
        target = rows[index : index + 1, start : start + accepted.shape[0]]
        change = subtract_modular if negative else add_modular
        change(target, accepted[None, :], primes[index : index + 1])
        filled += int(accepted.shape[0])
        full = accepted.shape[0] == degree - start
        taken = taken + int(places[-1]) + 1 if full else masked.shape[0]
    return filled


def add_rows(values: I64, signs: U8, shifts: NDArray[np.intp], total: I64) -> None:
    """Add the rows of int64[L] to int64[width] `total`, each rotated, each value with a sign.

    Row r holds the values from r * width on. Its value c goes to (c + shifts[r]) % width, with a minus where bit r % 8
    of signs[r // 8 * width + c] is one. signs: uint8[ceil(rows / 8) * width].
    """
    width = total.shape[0]
    for row, shift in enumerate(shifts):
        line = values[row * width : (row + 1) * width]
        bits = signs[row // 8 * width :][: line.shape[0]] >> np.uint8(row % 8) & np.uint8(1)
        signed = np.where(bits == 1, -line, line)
        first = min(line.shape[0], width - int(shift))
        total[shift : shift + first] += signed[:first]
        total[: line.shape[0] - first] += signed[first:]


def quantise_rows(
    update: NDArray[np.floating],
    clip: float,
    inverse_step: float,
    signs: U8,
    shifts: NDArray[np.intp],
    total: I64,
) -> None:
    """`add_rows` of the integers that `quantise_onto` makes of an update, without room for them."""
    integers = np.zeros(update.shape[0], dtype=np.int64)
    quantise_onto(update, clip, inverse_step, 1, integers)
    add_rows(integers, signs, shifts, total)


def fill_ternary(random: U8, out: I8, filled: int) -> int:
    """Fill int8 `out` from `filled` on with uniform {-1, 0, 1}: bytes below 255 modulo 3. Returns the new `filled`."""
    digits = (random[random != 255] % 3).astype(np.int8)[: out.shape[0] - filled] - 1
    out[filled : filled + digits.shape[0]] = digits
    return filled + int(digits.shape[0])


def fill_binomial(random: U64, out: I8) -> None:
    """`out[i]` = ones among the lowest 21 bits of random[i] minus ones among the next 21: int8 in [-21, 21]."""
    low, high = random & _BITS21, (random >> np.uint64(21)) & _BITS21
    out[:] = np.bitwise_count(low).astype(np.int8) - np.bitwise_count(high).astype(np.int8)


def hide_pair(zero: Zero, pair: Pair, tables: Tables, upper: U32, lower: U16) -> U32:
    """The hidden product of two ciphertexts (c0, c1) and (d0, d1); `secagg/gram.py` has the formula.

    Writes the 48 upper bits of the linear part's coefficients, as fractions of the modulus: the upper 32 of them into
    uint32[N], the lower 16 into uint16[N]. Returns the sum over the slots of the constant part: uint32[primes].
    """
    primes = tables.primes.astype(np.uint64)[:, None]
    factor = (zero.u.astype(np.int64) % primes.astype(np.int64)).astype(np.uint32)
    forward_ntt(factor, tables.roots, tables.root_quotients, tables.primes)
    c0, c1 = pair.first.astype(np.uint64)
    d1, d0_mirror, c0_mirror = (x.astype(np.uint64) for x in (pair.second[1], pair.second_mirror, pair.first_mirror))
    b, a = zero.key.astype(np.uint64)
    constant = (factor * b + c0 * d0_mirror) % primes
    linear = ((factor * a + c1 * d0_mirror + c0_mirror * d1) % primes).astype(np.uint32)
    inverse_ntt(linear, tables.inverse_roots, tables.inverse_root_quotients, tables.primes, tables.inverse_degree)
    error = (zero.e1.astype(np.int64) % primes.astype(np.int64)).astype(np.uint64)
    shares = (linear + error) % primes * tables.shares.astype(np.uint64)[:, None] % primes
    fractions = shares * tables.fractions[:, None] + ((shares * tables.rests[:, None]) >> np.uint64(32))
    total = fractions.sum(axis=0, dtype=np.uint64) + np.uint64(1 << 15)  # wraps: the modulus is 1
    upper[:] = total >> np.uint64(32)
    lower[:] = (total >> np.uint64(16)) & np.uint64(0xFFFF)
    sums: U32 = (constant.sum(axis=1) % primes[:, 0]).astype(np.uint32)
    return sums


def signed_sum(upper: U32, lower: U16, signs: I8) -> int:
    """Sum of signs[c] * (upper[c] * 2**16 + lower[c]), int8[N] signs within -1..1: below 2**62."""
    values = upper.astype(np.int64) << 16 | lower
    return int(np.dot(values, signs.astype(np.int64)))


def product_sums(a: U32, b: U32, primes: U32) -> U32:
    """`sum over c of a[i, c] * b[i, c] mod primes[i]`: uint32[primes]."""
    column = primes.astype(np.uint64)[:, None]
    products = a.astype(np.uint64) * b % column
    sums: U32 = (products.sum(axis=1) % column[:, 0]).astype(np.uint32)  # below 2**30 * 2**14
    return sums


def quotients(table: U64, primes: U32, out: U32) -> None:
    """`out` = floor(2**32 table / prime), row by row: uint64[..., primes, N] below the primes, which exceed 2**29."""
    out[...] = (table << np.uint64(32)) // primes.astype(np.uint64)[:, None]


def multiply(a: U32, b: U32, primes: U32, out: U32) -> None:
    """`out = a * b` modulo primes[i], slot by slot: uint32[primes, N]."""
    out[...] = a.astype(np.uint64) * b % primes.astype(np.uint64)[:, None]


def multiply_onto(a: U32, b: U32, primes: U32, out: U32) -> None:
    """`out += a * b` modulo primes[i], slot by slot: uint32[primes, N]."""
    out[...] = (a.astype(np.uint64) * b + out) % primes.astype(np.uint64)[:, None]
