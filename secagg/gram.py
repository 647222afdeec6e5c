"""Inner products of encrypted sketches, which the key holder can open and of which it sees nothing else.

A block holds an integer vector u as D u + e in its coefficients. Let sigma be X -> X^-1, on transformed residues a
permutation of slots. For ciphertexts (c0, c1) of u and (d0, d1) of v

    c0 sigma(d0) + c1 sigma(d0) s + c0 sigma(d1) sigma(s) + c1 sigma(d1) s sigma(s)

has <D u + e, D v + e'> as its constant coefficient. The constant coefficient of a polynomial is that of its sigma, so
the two middle terms fold into (c1 sigma(d0) + sigma(c0) d1) s. Three things travel for each pair:

    constant   the constant coefficient of c0 sigma(d0) + z0          one residue for each prime
    linear     c1 sigma(d0) + sigma(c0) d1 + z1                       a polynomial
    square     c1 sigma(d1)                                           a polynomial, without any message in it

(z0, z1) is a fresh encryption of zero for each pair. With it `linear` is indistinguishable from uniform even to the
owner of s, because a comes from a public seed (`sketchkey.py`). The other coefficients of c0 sigma(d0) are left out.
Hiding them under a uniform polynomial and sending them says the same and costs a third more. No relinearisation, no
rotation, no evaluation key; a constant coefficient is the mean of the slots, so nothing is transformed back.

Which sketches belong together, who sends what and when is `robust_*.py`'s; docs/adr/0023-robust-rounds.md has the
argument and the attacks on earlier designs. CKKS without relinearisation: Cheon, Kim, Kim, Song, ASIACRYPT 2017, 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np

from secagg import kernels
from secagg.arrays import F64, I64, U8, U32
from secagg.blocks import Payload, empty_block, read_block, write_block
from secagg.errors import ResidueOutOfRange, SumRefused
from secagg.parameters import ParameterSet
from secagg.ring import ring_of
from secagg.sketchkey import SketchKey, SketchSecret, mirrored
from secagg.sketchplan import SketchPlan, pairs


def seal_sketch(integers: I64, key: SketchKey, plan: SketchPlan) -> bytearray:
    """The payload of one encrypted sketch. integers: int64[width]."""
    payload = bytearray(plan.bytes)
    write_block(key.encrypt(integers * plan.scale), 0, plan.params, np.frombuffer(payload, dtype=np.uint8))
    return payload


def hidden_products(sketches: Sequence[U32], key: SketchKey, plan: SketchPlan) -> bytearray:
    """The payload of all products of checked sketches, uint32[2, primes, N] each: pairs (i, j), i <= j, in order.

    Memory: the sketches twice, the payload, and two blocks of scratch.
    """
    params = plan.params
    payload = bytearray(plan.products_bytes(len(sketches)))
    constants = np.empty((pairs(len(sketches)), len(params.primes)), dtype="<u4")
    packed: U8 = np.frombuffer(payload, dtype=np.uint8)
    mirrors = [mirrored(sketch, params) for sketch in sketches]
    for index, (i, j) in enumerate(_order(len(sketches))):
        constants[index], block = _hidden_product(sketches[i], mirrors[i], sketches[j], mirrors[j], key)
        write_block(block, index, params, packed)
    packed[constants.shape[0] * params.ciphertext_bytes :] = constants.view(np.uint8).reshape(-1)
    return payload


def _hidden_product(c: U32, c_mirror: U32, d: U32, d_mirror: U32, key: SketchKey) -> tuple[U32, U32]:
    """(constant, [linear, square]) of one pair: uint32[primes] and uint32[2, primes, N]."""
    ring = ring_of(key.params)
    hiding, linear = key.zero_part()
    mean = kernels.product_sums(c[0], d_mirror[0], ring.primes).astype(np.uint64) * ring.inverse_degree
    constant = (mean + hiding) % ring.primes
    block = np.empty_like(c)
    block[0] = linear
    kernels.multiply_twice(c[1], d_mirror[0], c_mirror[0], d[1], ring.primes, block[0])
    kernels.multiply(c[1], d_mirror[1], ring.primes, block[1])
    return constant.astype(np.uint32), block


def open_products(payload: Payload, clients: int, secret: SketchSecret, plan: SketchPlan) -> F64:
    """float64[n, n]: the inner products of `clients` sketches, exact but for `SketchPlan.product_error`.

    Raises `ResidueOutOfRange` or `TransparentCiphertext` for residues that no honest aggregator sends.
    """
    params, ring = plan.params, ring_of(plan.params)
    count = pairs(clients)
    tail = memoryview(payload)[count * params.ciphertext_bytes :]
    constants = np.frombuffer(tail, dtype="<u4").reshape(count, len(params.primes))
    if not bool((constants < ring.primes).all()):
        raise ResidueOutOfRange("products: a constant is not below its prime: refuse this sender")
    opened = np.empty((count, len(params.primes)), dtype=np.uint32)
    block = empty_block(params)
    for index in range(count):
        read_block(payload, index, params, block)
        mean = secret.product_sums(block[0], block[1]).astype(np.uint64) * ring.inverse_degree % ring.primes
        opened[index] = (mean + constants[index]) % ring.primes
    gram = np.empty((clients, clients), dtype=np.float64)
    for (i, j), value in zip(_order(clients), _centred_integers(opened, params), strict=True):
        gram[i, j] = gram[j, i] = value / plan.scale**2
    return gram


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
