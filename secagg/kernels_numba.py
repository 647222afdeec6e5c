"""The inner loops compiled by numba (extra `fast`): the same functions as `kernels_numpy.py`, bit for bit.

`compiled.py` says how they are compiled. Modular products by constants use Shoup's precomputed quotients (Harvey,
"Faster arithmetic for number-theoretic transforms", 2014, section 2) in 32 bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from secagg.arrays import F64, I8, I64, U8, U16, U32, U64, Extremes, Inverse, Lanes, Pair, Tables, Zero
from secagg.compiled import compiled

_jit = compiled()
_inline = numba.njit(inline="always", nogil=True, boundscheck=False)

_LARGEST_DIVISOR = 2**47
_PACKED_TILE = 1024  # residues unpacked at a time before they are added; it divides every degree above it
_TILE = 256  # coefficients whose mixed-radix digits are held in the first-level cache at a time
_FOLDED = 128  # words of a mask that are tested at once


@_inline
def _times(x: Any, w: Any, wq: Any, p: Any) -> Any:
    """x * w modulo p for any 32-bit x; wq is floor(w * 2**32 / p) as uint64."""
    q = np.uint32((wq * x) >> np.uint64(32))
    r = np.uint32(w * x - q * p)
    return min(r, np.uint32(r - p))


@_inline
def _plus(x: Any, y: Any, p: Any) -> Any:
    s = np.uint32(x + y)
    return min(s, np.uint32(s - p))


@_inline
def _minus(x: Any, y: Any, p: Any) -> Any:
    d = np.uint32(x - y)
    return min(d, np.uint32(d + p))


@_jit
def _forward(a: Any, roots: Any, quotients: Any, p: Any) -> None:
    degree = a.shape[0]
    groups, half = 1, degree >> 1
    while half >= 8:
        for g in range(groups):
            w = roots[groups + g]
            wq = np.uint64(quotients[groups + g])
            start = 2 * g * half
            upper = a[start : start + half]
            lower = a[start + half : start + 2 * half]
            for j in range(half):
                u = upper[j]
                v = _times(lower[j], w, wq, p)
                upper[j] = _plus(u, v, p)
                lower[j] = _minus(u, v, p)
        groups, half = groups << 1, half >> 1
    # The last three stages, spelled out: loops this short are vectorised across groups only in this form.
    eighth = degree >> 3
    r4, q4 = roots[eighth : 2 * eighth], quotients[eighth : 2 * eighth]
    for g in range(eighth):
        w = r4[g]
        wq = np.uint64(q4[g])
        for j in range(4):
            u = a[8 * g + j]
            v = _times(a[8 * g + 4 + j], w, wq, p)
            a[8 * g + j] = _plus(u, v, p)
            a[8 * g + 4 + j] = _minus(u, v, p)
    r2, q2 = roots[2 * eighth : 4 * eighth], quotients[2 * eighth : 4 * eighth]
    for g in range(2 * eighth):
        w = r2[g]
        wq = np.uint64(q2[g])
        u0, u1 = a[4 * g], a[4 * g + 1]
        v0 = _times(a[4 * g + 2], w, wq, p)
        v1 = _times(a[4 * g + 3], w, wq, p)
        a[4 * g], a[4 * g + 2] = _plus(u0, v0, p), _minus(u0, v0, p)
        a[4 * g + 1], a[4 * g + 3] = _plus(u1, v1, p), _minus(u1, v1, p)
    r1, q1 = roots[4 * eighth :], quotients[4 * eighth :]
    for g in range(4 * eighth):
        u = a[2 * g]
        v = _times(a[2 * g + 1], r1[g], np.uint64(q1[g]), p)
        a[2 * g], a[2 * g + 1] = _plus(u, v, p), _minus(u, v, p)


@_jit
def _inverse(a: Any, roots: Any, quotients: Any, p: Any, scale: Any) -> None:
    degree = a.shape[0]
    eighth = degree >> 3
    r1, q1 = roots[4 * eighth :], quotients[4 * eighth :]
    for g in range(4 * eighth):
        u, v = a[2 * g], a[2 * g + 1]
        a[2 * g] = _plus(u, v, p)
        a[2 * g + 1] = _times(np.uint32(u + p - v), r1[g], np.uint64(q1[g]), p)
    r2, q2 = roots[2 * eighth : 4 * eighth], quotients[2 * eighth : 4 * eighth]
    for g in range(2 * eighth):
        w = r2[g]
        wq = np.uint64(q2[g])
        u0, u1, v0, v1 = a[4 * g], a[4 * g + 1], a[4 * g + 2], a[4 * g + 3]
        a[4 * g], a[4 * g + 2] = _plus(u0, v0, p), _times(np.uint32(u0 + p - v0), w, wq, p)
        a[4 * g + 1], a[4 * g + 3] = _plus(u1, v1, p), _times(np.uint32(u1 + p - v1), w, wq, p)
    r4, q4 = roots[eighth : 2 * eighth], quotients[eighth : 2 * eighth]
    for g in range(eighth):
        w = r4[g]
        wq = np.uint64(q4[g])
        for j in range(4):
            u, v = a[8 * g + j], a[8 * g + 4 + j]
            a[8 * g + j] = _plus(u, v, p)
            a[8 * g + 4 + j] = _times(np.uint32(u + p - v), w, wq, p)
    groups, half = degree >> 4, 8
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
                upper[j] = _plus(u, v, p)
                lower[j] = _times(np.uint32(u + p - v), w, wq, p)
        groups, half = groups >> 1, half << 1
    factor = np.uint32(scale)
    quotient = (np.uint64(scale) << np.uint64(32)) // np.uint64(p)
    for j in range(degree):
        a[j] = _times(a[j], factor, quotient, p)


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
def _quantise_onto(update: Any, clip: Any, inverse_step: Any, factor: Any, total: Any) -> int:
    clipped = 0
    for i in range(update.shape[0]):
        value = np.float64(update[i])
        clipped += int(abs(value) > clip)
        total[i] += np.int64(np.rint(max(min(value, clip), -clip) * inverse_step)) * factor
    return clipped


def quantise_onto(update: NDArray[np.floating], clip: float, inverse_step: float, factor: int, total: I64) -> int:
    """See `kernels_numpy.quantise_onto`."""
    return int(_quantise_onto(update, clip, inverse_step, factor, total))


@_jit
def _pack_lanes(values: Any, factors: Any, primes: Any, out: Any) -> None:
    rows, degree = values.shape
    for i in range(primes.shape[0]):
        p = primes[i]
        prime = np.int64(p)
        inverse = 1.0 / np.float64(prime)
        lift = 2 * prime
        target = out[i]
        for row in range(rows):
            w = np.uint32(factors[i, row])
            wq = (np.uint64(w) << np.uint64(32)) // np.uint64(p)
            line = values[row]
            for c in range(degree):
                # |value| < 2**62: the float64 quotient is below 2**33, its error below 2**-19. Cut towards zero, the
                # remainder lies in (-p - 2**11, p + 2**11); lifted by 2p it is a 32-bit factor, which is all it takes.
                x = line[c]
                r = x - np.int64(np.float64(x) * inverse) * prime
                y = _times(np.uint32(r + lift), w, wq, p)
                target[c] = y if row == 0 else _plus(target[c], y, p)


def pack_lanes(values: I64, factors: U32, primes: U32, out: U32) -> None:
    """See `kernels_numpy.pack_lanes`."""
    _pack_lanes(values, factors, primes, out)


@_jit
def _unpack_tile(
    residues: Any,
    start: Any,
    width: Any,
    primes: Any,
    inverses: Any,
    offsets: Any,
    divisors: Any,
    garner: Any,
    remainders: Any,
    digits: Any,
    left: Any,
) -> None:
    """Digits of at most `_TILE` columns from `start` on. Scratch: garner, uint32[primes, _TILE], and remainders."""
    count = residues.shape[0]
    for i in range(count):
        p = primes[i]
        row = garner[i]
        source = residues[i, start : start + width]
        offset = offsets[i]
        for c in range(width):
            row[c] = _plus(source[c], offset, p)
        for j in range(i):
            w = inverses[j, i]
            wq = (np.uint64(w) << np.uint64(32)) // np.uint64(p)
            known = garner[j]
            for c in range(width):
                # known may exceed p, by less than p: both primes have 30 bits.
                k = min(known[c], np.uint32(known[c] - p))
                row[c] = _times(np.uint32(row[c] + p - k), w, wq, p)
    top = count
    position = 0
    while position < divisors.shape[0]:
        single = divisors[position]
        # Two digits at once where both fit a divisor that keeps the estimates exact (`plan.MAX_RADIX`).
        pair = position + 1 < divisors.shape[0] and single <= _LARGEST_DIVISOR // divisors[position + 1]
        divisor = single * divisors[position + 1] if pair else single
        reciprocal = 1.0 / np.float64(divisor)
        remainders[:] = 0
        for i in range(top - 1, -1, -1):
            prime = np.int64(primes[i])
            fraction = np.float64(prime)
            row = garner[i]
            for c in range(width):
                digit = np.int64(row[c])
                remainder = remainders[c]
                estimate = np.int64((np.float64(remainder) * fraction + np.float64(digit)) * reciprocal)
                rest = remainder * prime + digit - estimate * divisor
                low = np.int64(rest < 0)
                high = np.int64(rest >= divisor)
                remainders[c] = rest + (low - high) * divisor
                row[c] = np.uint32(estimate - low + high)
        target = digits[position, :width]
        if pair:
            reciprocal = 1.0 / np.float64(single)
            upper = digits[position + 1, :width]
            for c in range(width):
                remainder = remainders[c]
                estimate = np.int64(np.float64(remainder) * reciprocal)
                rest = remainder - estimate * single
                low = np.int64(rest < 0)
                high = np.int64(rest >= single)
                target[c] = rest + (low - high) * single
                upper[c] = estimate - low + high
        else:
            for c in range(width):
                target[c] = remainders[c]
        position += 2 if pair else 1
        while top > 0:
            highest = np.uint32(0)
            row = garner[top - 1]
            for c in range(width):
                highest = max(highest, row[c])
            if highest != 0:
                break
            top -= 1
    for c in range(width):
        flag = np.uint32(0)
        for i in range(top):
            flag |= garner[i, c]
        left[c] = np.uint8(flag != 0)


@_jit
def _unpack_lanes(
    residues: Any, primes: Any, inverses: Any, offsets: Any, divisors: Any, digits: Any, left: Any
) -> None:
    garner = np.empty((residues.shape[0], _TILE), dtype=np.uint32)
    remainders = np.empty(_TILE, dtype=np.int64)
    degree = residues.shape[1]
    for start in range(0, degree, _TILE):
        stop = min(start + _TILE, degree)
        _unpack_tile(
            residues,
            start,
            stop - start,
            primes,
            inverses,
            offsets,
            divisors,
            garner,
            remainders,
            digits[:, start:stop],
            left[start:stop],
        )


def unpack_lanes(residues: U32, primes: U32, inverses: U32, offsets: U32, divisors: I64, digits: I64) -> U8:
    """See `kernels_numpy.unpack_lanes`."""
    left = np.empty(residues.shape[1], dtype=np.uint8)
    _unpack_lanes(residues, primes, inverses, offsets, divisors, digits, left)
    return left


@_jit
def _unpack_sums(
    residues: Any,
    primes: Any,
    inverses: Any,
    offsets: Any,
    divisors: Any,
    noise_centre: Any,
    max_lane: Any,
    sums: Any,
    rest: Any,
    first: Any,
    last: Any,
) -> Any:
    # Tile by tile: digits are checked and written while they are in the first-level cache.
    degree, lanes = residues.shape[1], divisors.shape[0] - 1
    garner = np.empty((residues.shape[0], _TILE), dtype=np.uint32)
    remainders = np.empty(_TILE, dtype=np.int64)
    digits = np.empty((lanes + 1, _TILE), dtype=np.int64)
    left = np.empty(_TILE, dtype=np.uint8)
    noise, above = np.int64(0), np.uint8(0)
    highest = lowest = np.int64(0)
    for start in range(first, last, _TILE):
        width = min(_TILE, last - start)
        _unpack_tile(residues, start, width, primes, inverses, offsets, divisors, garner, remainders, digits, left)
        for c in range(width):
            noise = max(noise, abs(digits[0, c] - noise_centre))
            above |= left[c]
        for lane in range(lanes):
            row = digits[lane + 1]
            base = lane * degree + start
            inside = min(max(sums.shape[0] - base, 0), width)  # columns from here on belong to `rest`
            target = sums[base : base + inside]
            for c in range(inside):
                value = row[c] - max_lane
                highest = max(highest, value)
                lowest = min(lowest, value)
                target[c] = value
            for c in range(inside, width):
                rest[base + c - sums.shape[0]] = row[c] - max_lane
    return noise, highest, lowest, above


def unpack_sums(residues: U32, lanes: Lanes, sums: I64, rest: I64, first: int, last: int) -> Extremes:
    """See `kernels_numpy.unpack_sums`."""
    return _extremes(_unpack_sums(residues, *lanes, sums, rest, first, last))


def _extremes(values: Any) -> Extremes:
    noise, highest, lowest, above = values
    return Extremes(int(noise), int(highest), int(lowest), bool(above))


@_jit
def _unpack_transformed(
    wide: Any,
    roots: Any,
    quotients: Any,
    scale: Any,
    primes: Any,
    inverses: Any,
    offsets: Any,
    divisors: Any,
    noise_centre: Any,
    max_lane: Any,
    sums: Any,
    rest: Any,
) -> Any:
    count, degree = wide.shape
    residues = np.empty((count, degree), dtype=np.uint32)
    for i in range(count):
        row = residues[i]
        for c in range(degree):
            row[c] = np.uint32(wide[i, c])
        _inverse(row, roots[i], quotients[i], primes[i], scale[i])
    return _unpack_sums(residues, primes, inverses, offsets, divisors, noise_centre, max_lane, sums, rest, 0, degree)


def unpack_transformed(wide: U64, inverse: Inverse, lanes: Lanes, sums: I64, rest: I64) -> Extremes:
    """See `kernels_numpy.unpack_transformed`."""
    return _extremes(_unpack_transformed(wide, *inverse, *lanes, sums, rest))


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


def _typed_word(context: Any, source: Any, at: Any) -> Any:
    """source[at : at + 8] of uint8 as a little-endian word: one load, where eight shifted bytes take a dozen steps."""

    def load(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        word = builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(source, types.intp), load


_word: Any = intrinsic(_typed_word)


@_inline
def _split(packed: Any, base: Any) -> Any:
    """The four residues of 15 bytes from `base` on."""
    mask = np.uint64(2**30 - 1)
    low, high = _word(packed, base), _word(packed, base + 7)
    return (
        np.uint32(low & mask),
        np.uint32((low >> np.uint64(30)) & mask),
        np.uint32((high >> np.uint64(4)) & mask),
        np.uint32(high >> np.uint64(34)),
    )


@_jit
def _unpack30(packed: Any, out: Any) -> None:
    for g in range(out.shape[0] // 4):
        out[4 * g], out[4 * g + 1], out[4 * g + 2], out[4 * g + 3] = _split(packed, 15 * g)


def unpack30(packed: U8, out: U32) -> None:
    """See `kernels_numpy.unpack30`."""
    _unpack30(packed, out.reshape(-1))


@_inline
def _pack_width(sums: Any, shift: Any, width: Any, out: Any) -> None:
    for i in range(sums.shape[0]):
        value = np.uint64(sums[i] + shift)
        for b in range(width):
            out[i, b] = np.uint8((value >> np.uint64(8 * b)) & np.uint64(255))


@_jit
def _pack_sums(sums: Any, shift: Any, out: Any) -> None:
    # A width that the compiler knows is written in whole vectors: 19 bits of 16-bit values of 8 clients take 3 bytes.
    if out.shape[1] == 2:
        _pack_width(sums, shift, 2, out)
    elif out.shape[1] == 3:
        _pack_width(sums, shift, 3, out)
    elif out.shape[1] == 4:
        _pack_width(sums, shift, 4, out)
    else:
        _pack_width(sums, shift, out.shape[1], out)


def pack_sums(sums: I64, shift: int, out: U8) -> None:
    """See `kernels_numpy.pack_sums`."""
    _pack_sums(sums, np.int64(shift), out)


@_inline
def _unpack_width(packed: Any, shift: Any, width: Any, out: Any) -> Any:
    largest = np.int64(0)
    for i in range(out.shape[0]):
        value = np.int64(0)
        for b in range(width):
            value |= np.int64(packed[i, b]) << np.int64(8 * b)
        largest = max(largest, value)
        out[i] = value - shift
    return largest


@_jit
def _unpack_sums_of(packed: Any, shift: Any, out: Any) -> Any:
    if packed.shape[1] == 2:
        return _unpack_width(packed, shift, 2, out)
    if packed.shape[1] == 3:
        return _unpack_width(packed, shift, 3, out)
    if packed.shape[1] == 4:
        return _unpack_width(packed, shift, 4, out)
    return _unpack_width(packed, shift, packed.shape[1], out)


def unpack_sums_of(packed: U8, shift: int, out: I64) -> int:
    """See `kernels_numpy.unpack_sums_of`."""
    return int(_unpack_sums_of(packed, np.int64(shift), out))


@_jit
def _scale_sums(sums: Any, factor: Any, out: Any) -> Any:
    highest = lowest = np.int64(0)
    for i in range(sums.shape[0]):
        value = sums[i]
        highest = max(highest, value)
        lowest = min(lowest, value)
        out[i] = np.float64(value) * factor
    return highest, lowest


def scale_sums(sums: I64, factor: float, out: F64) -> tuple[int, int]:
    """See `kernels_numpy.scale_sums`."""
    highest, lowest = _scale_sums(sums, np.float64(factor), out)
    return int(highest), int(lowest)


@_jit
def _fold_packed(packed: Any, primes: Any, total: Any, largest: Any) -> None:
    tile = np.empty(min(total.shape[1], _PACKED_TILE), dtype=np.uint32)
    degree, width, place = total.shape[1], tile.shape[0], 0
    for i in range(total.shape[0]):
        p = primes[i % primes.shape[0]]
        highest = np.uint32(0)
        for start in range(0, degree, width):
            _unpack30(packed[place : place + width // 4 * 15], tile)
            place += width // 4 * 15
            sums = total[i, start : start + width]
            for c in range(width):
                residue = tile[c]
                highest = max(highest, residue)
                s = np.uint32(sums[c] + residue)
                sums[c] = min(s, np.uint32(s - p))
        largest[i] = highest


def fold_packed(packed: U8, primes: U32, total: U32, largest: U32) -> None:
    """See `kernels_numpy.fold_packed`."""
    _fold_packed(packed, primes, total, largest)


@_jit
def _fold_words(rows: Any, filled: Any, words: Any, primes: Any, negative: Any) -> Any:
    # In pieces, because one word in 200 or fewer is rejected: a piece is taken whole, or up to its first rejected word.
    mask = np.uint32(2**30 - 1)
    flip = np.uint32(0xFFFFFFFF) if negative else np.uint32(0)
    degree, taken = rows.shape[1], 0
    while taken < words.shape[0] and filled < rows.size:
        index, start = filled // degree, filled % degree
        prime = primes[index]
        lift = np.uint32(prime + np.uint32(1)) if negative else np.uint32(0)  # (word ^ -1) + p + 1 is p - word
        width = min(_FOLDED, words.shape[0] - taken, degree - start)
        piece = words[taken : taken + width]
        target = rows[index, start : start + width]
        largest = np.uint32(0)
        for i in range(width):
            largest = max(largest, np.uint32(piece[i] & mask))
        accepted = width
        if largest >= prime:
            accepted = 0
            while np.uint32(piece[accepted] & mask) < prime:
                accepted += 1
        for i in range(accepted):
            s = np.uint32(target[i] + np.uint32((np.uint32(piece[i] & mask) ^ flip) + lift))
            target[i] = min(s, np.uint32(s - prime))
        filled += accepted
        taken += min(accepted + 1, width)
    return filled


def fold_words(rows: U32, filled: int, words: U32, primes: U32, negative: bool) -> int:
    """See `kernels_numpy.fold_words`."""
    return int(_fold_words(rows, filled, words, primes, negative))


@_inline
def _add_signed(values: Any, signs: Any, bit: Any, total: Any) -> None:
    for c in range(values.shape[0]):
        odd = np.int64((signs[c] >> bit) & np.uint8(1))
        total[c] += (values[c] ^ -odd) + odd  # x ^ -1 + 1 is -x


@_jit
def _add_rows(values: Any, signs: Any, shifts: Any, total: Any) -> None:
    width = total.shape[0]
    for row in range(shifts.shape[0]):
        start, shift = row * width, shifts[row]
        length = min(width, values.shape[0] - start)
        line = values[start : start + length]
        odd = signs[row // 8 * width : row // 8 * width + length]
        bit = np.uint8(row % 8)
        first = min(length, width - shift)
        _add_signed(line[:first], odd[:first], bit, total[shift : shift + first])
        _add_signed(line[first:], odd[first:], bit, total[: length - first])


def add_rows(values: I64, signs: U8, shifts: NDArray[np.intp], total: I64) -> None:
    """See `kernels_numpy.add_rows`."""
    _add_rows(values, signs, shifts, total)


@_inline
def _add_quantised(update: Any, clip: Any, inverse_step: Any, signs: Any, bit: Any, total: Any) -> None:
    for c in range(update.shape[0]):
        value = np.rint(max(min(np.float64(update[c]), clip), -clip) * inverse_step)
        odd = np.int64((signs[c] >> bit) & np.uint8(1))
        total[c] += (np.int64(value) ^ -odd) + odd


@_jit
def _quantise_rows(update: Any, clip: Any, inverse_step: Any, signs: Any, shifts: Any, total: Any) -> None:
    width = total.shape[0]
    for row in range(shifts.shape[0]):
        start, shift = row * width, shifts[row]
        length = min(width, update.shape[0] - start)
        line = update[start : start + length]
        odd = signs[row // 8 * width : row // 8 * width + length]
        bit = np.uint8(row % 8)
        first = min(length, width - shift)
        _add_quantised(line[:first], clip, inverse_step, odd[:first], bit, total[shift : shift + first])
        _add_quantised(line[first:], clip, inverse_step, odd[first:], bit, total[: length - first])


def quantise_rows(
    update: NDArray[np.floating],
    clip: float,
    inverse_step: float,
    signs: U8,
    shifts: NDArray[np.intp],
    total: I64,
) -> None:
    """See `kernels_numpy.quantise_rows`."""
    _quantise_rows(update, clip, inverse_step, signs, shifts, total)


@_inline
def _reduced(x: Any, p: Any, inverse: Any) -> Any:
    """x modulo p for x < 2**62; inverse is floor(2**61 / p), of 32 bits. Barrett, with two corrections."""
    q = ((x >> np.uint64(29)) * inverse) >> np.uint64(32)
    r = np.uint32(x - q * p)  # below 4p, which fits 32 bits
    p32 = np.uint32(p)
    twice = np.uint32(p32 + p32)
    r = min(r, np.uint32(r - twice))
    return min(r, np.uint32(r - p32))


@_jit
def _fill_ternary(random: Any, out: Any, filled: Any) -> Any:
    degree = out.shape[0]
    position = filled
    for i in range(random.shape[0]):
        byte = random[i]
        if byte != 255 and position < degree:
            out[position] = np.int8(byte % np.uint8(3)) - np.int8(1)
            position += 1
    return position


def fill_ternary(random: U8, out: I8, filled: int) -> int:
    """See `kernels_numpy.fill_ternary`."""
    return int(_fill_ternary(random, out, filled))


@_inline
def _ones(x: Any) -> Any:
    """Number of ones of a 32-bit word."""
    x = np.uint32(x - ((x >> np.uint32(1)) & np.uint32(0x55555555)))
    x = np.uint32((x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333)))
    x = np.uint32((x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F))
    return np.uint32(x * np.uint32(0x01010101)) >> np.uint32(24)


@_jit
def _fill_binomial(random: Any, out: Any) -> None:
    mask = np.uint64(2**21 - 1)
    for i in range(out.shape[0]):
        word = random[i]
        plus = _ones(np.uint32(word & mask))
        minus = _ones(np.uint32((word >> np.uint64(21)) & mask))
        out[i] = np.int8(np.int32(plus) - np.int32(minus))


def fill_binomial(random: U64, out: I8) -> None:
    """See `kernels_numpy.fill_binomial`."""
    _fill_binomial(random, out)


@_inline
def _residue(small: Any, p: Any) -> Any:
    """A small signed integer modulo p."""
    value = np.uint32(np.int32(small))  # wraps modulo 2**32 when negative
    return min(value, np.uint32(value + p))


@_jit
def _product_sums(a: Any, b: Any, primes: Any, out: Any) -> None:
    for i in range(a.shape[0]):
        p = np.uint64(primes[i])
        inverse = np.uint64(np.uint64(1 << 61) // p)
        total = np.uint64(0)
        x, y = a[i], b[i]
        for c in range(x.shape[0]):
            total += np.uint64(_reduced(np.uint64(x[c]) * np.uint64(y[c]), p, inverse))
        out[i] = np.uint32(total % p)


def product_sums(a: U32, b: U32, primes: U32) -> U32:
    """See `kernels_numpy.product_sums`."""
    out = np.empty(primes.shape[0], dtype=np.uint32)
    _product_sums(a, b, primes, out)
    return out


@_jit
def _multiply(a: Any, b: Any, primes: Any, out: Any) -> None:
    for i in range(a.shape[0]):
        p = np.uint64(primes[i])
        inverse = np.uint64(np.uint64(1 << 61) // p)
        x, y, z = a[i], b[i], out[i]
        for c in range(x.shape[0]):
            z[c] = _reduced(np.uint64(x[c]) * np.uint64(y[c]), p, inverse)


@_jit
def _quotients(table: Any, primes: Any, out: Any) -> None:
    # floor(2**62 / p) has at most 33 bits and misses 2**62 / p by less than 1, so the quotient is right or 1 too small.
    for i in range(primes.shape[0]):
        p = np.uint64(primes[i])
        inverse = np.uint64(2**62) // p
        row, target = table[i], out[i]
        for j in range(row.shape[0]):
            x = row[j]
            q = (x * inverse) >> np.uint64(30)
            q += np.uint64((x << np.uint64(32)) - q * p >= p)
            target[j] = np.uint32(q)


def quotients(table: U64, primes: U32, out: U32) -> None:
    """See `kernels_numpy.quotients`."""
    for part, target in zip(table.reshape(-1, *out.shape[-2:]), out.reshape(-1, *out.shape[-2:]), strict=True):
        _quotients(part, primes, target)


def multiply(a: U32, b: U32, primes: U32, out: U32) -> None:
    """See `kernels_numpy.multiply`."""
    _multiply(a, b, primes, out)


@_jit
def _multiply_onto(a: Any, b: Any, primes: Any, out: Any) -> None:
    for i in range(a.shape[0]):
        p = np.uint64(primes[i])
        inverse = np.uint64(np.uint64(1 << 61) // p)
        x, y, z = a[i], b[i], out[i]
        for c in range(x.shape[0]):
            z[c] = _reduced(np.uint64(x[c]) * np.uint64(y[c]) + np.uint64(z[c]), p, inverse)


def multiply_onto(a: U32, b: U32, primes: U32, out: U32) -> None:
    """See `kernels_numpy.multiply_onto`."""
    _multiply_onto(a, b, primes, out)


@_jit
def _hide_pair(
    u: Any,
    e1: Any,
    key: Any,
    first: Any,
    first_mirror: Any,
    second: Any,
    second_mirror: Any,
    roots: Any,
    root_quotients: Any,
    inverse_roots: Any,
    inverse_root_quotients: Any,
    primes: Any,
    inverse_degree: Any,
    shares: Any,
    fractions: Any,
    rests: Any,
    upper: Any,
    lower: Any,
    sums: Any,
) -> None:
    degree = u.shape[0]
    factor = np.empty(degree, dtype=np.uint32)
    total = np.full(degree, np.uint64(1 << 15))
    low32 = np.uint64(2**32 - 1)
    for i in range(primes.shape[0]):
        p = primes[i]
        wide = np.uint64(p)
        inverse = np.uint64(np.uint64(1 << 61) // wide)
        for c in range(degree):
            factor[c] = _residue(u[c], p)
        _forward(factor, roots[i], root_quotients[i], p)
        b, a = key[0, i], key[1, i]
        c0, c1, d1 = first[0, i], first[1, i], second[1, i]
        c0_mirror, d0_mirror = first_mirror[i], second_mirror[i]
        low, high = np.uint64(0), np.uint64(0)
        for c in range(degree):
            x, y = np.uint64(factor[c]), np.uint64(d0_mirror[c])
            constant = x * np.uint64(b[c]) + np.uint64(c0[c]) * y  # below 2**61
            low += constant & low32
            high += constant >> np.uint64(32)
            # Three products stay below 2**62.
            linear = x * np.uint64(a[c]) + np.uint64(c1[c]) * y + np.uint64(c0_mirror[c]) * np.uint64(d1[c])
            factor[c] = _reduced(linear, wide, inverse)
        sums[i] = np.uint32((high % wide * (np.uint64(1 << 32) % wide) + low) % wide)
        _inverse(factor, inverse_roots[i], inverse_root_quotients[i], p, inverse_degree[i])
        w = np.uint32(shares[i])
        wq = (np.uint64(w) << np.uint64(32)) // wide
        fraction, rest = fractions[i], rests[i]
        for c in range(degree):
            share = np.uint64(_times(_plus(factor[c], _residue(e1[c], p), p), w, wq, p))
            total[c] += share * fraction + ((share * rest) >> np.uint64(32))  # wraps: the modulus is 1
    for c in range(degree):
        upper[c] = np.uint32(total[c] >> np.uint64(32))
        lower[c] = np.uint16(total[c] >> np.uint64(16))


def hide_pair(zero: Zero, pair: Pair, tables: Tables, upper: U32, lower: U16) -> U32:
    """See `kernels_numpy.hide_pair`."""
    sums = np.empty(tables.primes.shape[0], dtype=np.uint32)
    _hide_pair(*zero, *pair, *tables, upper, lower, sums)
    return sums


@_jit
def _signed_sum(upper: Any, lower: Any, signs: Any) -> Any:
    total = np.int64(0)
    for c in range(signs.shape[0]):
        total += ((np.int64(upper[c]) << 16) | np.int64(lower[c])) * np.int64(signs[c])
    return total


def signed_sum(upper: U32, lower: U16, signs: I8) -> int:
    """See `kernels_numpy.signed_sum`."""
    return int(_signed_sum(upper, lower, signs))
