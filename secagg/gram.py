"""Inner products of encrypted sketches, which the key holder can open and of which it sees nothing else.

A block holds an integer vector u as D u + e in its coefficients. Let sigma be X -> X^-1, on transformed residues a
permutation of slots. For ciphertexts (c0, c1) of u and (d0, d1) of v

    c0 sigma(d0) + c1 sigma(d0) s + c0 sigma(d1) sigma(s) + c1 sigma(d1) s sigma(s)

has <D u + e, D v + e'> as its constant coefficient. The constant coefficient of a polynomial is that of its sigma, so
the two middle terms fold into (c1 sigma(d0) + sigma(c0) d1) s. Three things travel:

    second     c1 of every sketch                                     a polynomial, without any message in it
    constant   the constant coefficient of c0 sigma(d0) + z0          for each pair, one residue for each prime
    linear     c1 sigma(d0) + sigma(c0) d1 + z1                       for each pair, a polynomial, cut to 48 bits

(z0, z1) is a fresh encryption of zero for each pair. With it `linear` is indistinguishable from uniform even to the
owner of s, because a comes from a public seed (`sketchkey.py`). Its coefficients are sent as fractions of the modulus:
48 bits of them are enough for the error that the plan states, and rounding what is hidden tells nothing more. The other
coefficients of c0 sigma(d0) are left out. c1 sigma(d1) is made of second polynomials, so those are sent once. No
relinearisation, no rotation, no evaluation key; a constant coefficient is the mean of the slots.

Which sketches belong together, who sends what and when is `robust_*.py`'s; docs/adr/0023-robust-rounds.md has the
argument and the attacks on earlier designs. CKKS without relinearisation: Cheon, Kim, Kim, Song, ASIACRYPT 2017, 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from secagg import kernels
from secagg.arrays import F64, I64, U8, U16, U32, Pair, Zero
from secagg.blocks import Payload, empty_block, read_block, read_polynomial, write_block
from secagg.errors import ResidueOutOfRange, SumRefused, TruncatedMessage
from secagg.parameters import ParameterSet
from secagg.ring import ring_of
from secagg.sketchkey import SketchKey, SketchSecret, mirrored
from secagg.sketchplan import LINEAR_BITS, SketchPlan, pairs
from secagg.workers import Workers


def seal_sketch(integers: I64, key: SketchKey, plan: SketchPlan) -> bytearray:
    """The payload of one encrypted sketch. integers: int64[width]."""
    payload = bytearray(plan.bytes)
    write_block(key.encrypt(integers * plan.scale), 0, plan.params, np.frombuffer(payload, dtype=np.uint8))
    return payload


def hidden_products(sketches: Sequence[U32], key: SketchKey, plan: SketchPlan, threads: int | None = None) -> bytearray:
    """The payload of all products of checked sketches, uint32[2, primes, N] each: pairs (i, j), i <= j, in order.

    threads: all usable cores when None. Memory: the sketches one and a half times, the payload, scratch per thread.
    """
    params, ring, clients = plan.params, ring_of(plan.params), len(sketches)
    payload = bytearray(plan.products_bytes(clients))
    parts = parts_of(payload, clients, plan)
    for row, sketch in zip(parts.seconds, sketches, strict=True):
        kernels.pack30(sketch[1], row)
    mirrors = [mirrored(sketch[0], params) for sketch in sketches]
    order, both = list(_order(clients)), key.both

    def some_pairs(start: int, stop: int) -> None:
        zeros = key.zeros()
        for index in range(start, stop):
            i, j = order[index]
            u, e1, e0 = zeros.next()
            pair = Pair(sketches[i], mirrors[i], sketches[j], mirrors[j])
            sums = kernels.hide_pair(
                Zero(u, e1, both), pair, ring.tables, parts.uppers[index], parts.lowers[index]
            ).astype(np.int64)
            parts.constants[index] = (sums * ring.inverse_degree % ring.primes + e0) % ring.primes

    with Workers(threads, work=len(payload)) as workers:
        workers.over(len(order), some_pairs)
    return payload


def open_products(
    payload: Payload, clients: int, secret: SketchSecret, plan: SketchPlan, threads: int | None = None
) -> F64:
    """float64[n, n]: the inner products of `clients` sketches, exact but for `SketchPlan.product_error`.

    threads: all usable cores when None. Raises `ResidueOutOfRange` or `TransparentCiphertext` for residues that no
    honest aggregator sends.
    """
    params, ring = plan.params, ring_of(plan.params)
    parts = parts_of(payload, clients, plan)
    if not bool((parts.constants < ring.primes).all()):
        raise ResidueOutOfRange("products: a constant is not below its prime: refuse this sender")
    times = [secret.times(read_polynomial(row, params)) for row in parts.seconds]
    mirrors = [mirrored(each, params) for each in times]
    order = list(_order(clients))
    exact = np.empty((len(order), len(params.primes)), dtype=np.uint32)
    linear = np.empty(len(order), dtype=np.int64)

    def some_pairs(start: int, stop: int) -> None:
        for index in range(start, stop):
            i, j = order[index]
            linear[index] = secret.constant(parts.uppers[index], parts.lowers[index])
            mean = kernels.product_sums(times[i], mirrors[j], ring.primes).astype(np.uint64) * ring.inverse_degree
            exact[index] = (mean + parts.constants[index]) % ring.primes

    with Workers(threads, work=len(payload)) as workers:
        workers.over(len(order), some_pairs)
    gram = np.empty((clients, clients), dtype=np.float64)
    modulus, half = params.modulus, 1 << (LINEAR_BITS - 1)
    for (i, j), known, fraction in zip(order, _centred_integers(exact, params), linear.tolist(), strict=True):
        value = (known + ((fraction * modulus + half) >> LINEAR_BITS)) % modulus
        gram[i, j] = gram[j, i] = (value - modulus if value > modulus // 2 else value) / plan.scale**2
    return gram


class Parts(NamedTuple):
    """Views of a payload. seconds: uint8[n, ...]. uppers: uint32[pairs, N]. lowers: uint16[pairs, N]. constants:
    uint32[pairs, primes]."""

    seconds: U8
    uppers: U32
    lowers: U16
    constants: U32


def parts_of(payload: Payload, clients: int, plan: SketchPlan) -> Parts:
    """The parts of the products of `clients` sketches. Raises `TruncatedMessage` for another number of bytes."""
    count, degree, primes = pairs(clients), plan.params.degree, len(plan.params.primes)
    sizes = (clients * plan.second_bytes, 4 * count * degree, 2 * count * degree, 4 * count * primes)
    if len(payload) != sum(sizes):
        raise TruncatedMessage(f"products: expected {sum(sizes)} bytes for {clients} sketches, got {len(payload)}")
    ends = np.cumsum(sizes).tolist()
    whole = np.frombuffer(payload, dtype=np.uint8)
    seconds, uppers, lowers, constants = (whole[end - size : end] for size, end in zip(sizes, ends, strict=True))
    return Parts(
        seconds.reshape(clients, -1),
        uppers.view("<u4").reshape(count, degree),
        lowers.view("<u2").reshape(count, degree),
        constants.view("<u4").reshape(count, primes),
    )


def open_sum(payload: Payload, clients: int, secret: SketchSecret, plan: SketchPlan) -> I64:
    """int64[width]: the exact sum of `clients` sketches.

    Raises `SumRefused` where the noise is not that of so many sketches, or where anything stands behind the width.
    """
    params, ring = plan.params, ring_of(plan.params)
    block = empty_block(params)
    read_block(payload, 0, params, block)
    # A coefficient D S + e plus this offset has the digits e + D/2 in [0, D) and S + most in [0, 2 most].
    most = clients * plan.rows * plan.max_value
    offset = plan.scale // 2 + plan.scale * most
    digits = np.empty((2, params.degree), dtype=np.int64)
    above = kernels.unpack_lanes(
        secret.decrypt(block),
        ring.primes,
        ring.garner_inverses,
        np.array([offset % p for p in params.primes], dtype=np.uint32),
        np.array([plan.scale, 2 * most + 1], dtype=np.int64),
        digits,
    )
    sums = digits[1] - most
    noise = int(np.abs(digits[0] - plan.scale // 2).max())
    if above.any() or noise > plan.noise_limit(clients) or sums[plan.width :].any():
        raise SumRefused("refused")
    total: I64 = sums[: plan.width]
    return total


def lifted(upper: U32, lower: U16, params: ParameterSet) -> U32:
    """uint32[primes, N]: the residues nearest to a linear part's fractions, coefficients; for attacks."""
    half = 1 << (LINEAR_BITS - 1)
    values = [
        ((int(high) << 16 | int(low)) * params.modulus + half) >> LINEAR_BITS
        for high, low in zip(upper, lower, strict=True)
    ]
    return np.array([[value % p for value in values] for p in params.primes], dtype=np.uint32)


def rounded(residues: U32, plan: SketchPlan) -> I64:
    """int64[N]: the integers nearest to decrypted coefficients over D, uint32[primes, N]; for attacks, see `open_sum`.

    Nothing is checked. Integers beyond 2**62 either way become 2**62 or -2**62.
    """
    nearest = ((value + plan.scale // 2) // plan.scale for value in _centred_integers(residues.T, plan.params))
    return np.array([max(-(2**62), min(value, 2**62)) for value in nearest], dtype=np.int64)


def check_block(payload: Payload, plan: SketchPlan) -> None:
    """Raise what `read_block` raises for a payload that is not one block of residues."""
    read_block(payload, 0, plan.params, empty_block(plan.params))


def _order(clients: int) -> Iterator[tuple[int, int]]:
    return combinations_with_replacement(range(clients), 2)


def _centred_integers(residues: U32, params: ParameterSet) -> list[int]:
    """The integers in (-Q/2, Q/2] of uint32[count, primes], by the Chinese remainder theorem."""
    modulus = params.modulus
    weights = [modulus // p * pow(modulus // p, -1, p) for p in params.primes]
    values = (sum(int(r) * w for r, w in zip(row, weights, strict=True)) % modulus for row in residues)
    return [value - modulus if value > modulus // 2 else value for value in values]
