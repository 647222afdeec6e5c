"""The second key of a robust round: sketches are encrypted under it, and their hidden products are opened with it.

CKKS at the data level (Cheon, Kim, Kim, Song, ASIACRYPT 2017, section 3.2), with SEAL's distributions:

    key          b = -a s + e                     a expanded from a public seed, s from SEAL (`ckks.generate_secret`)
    encryption   c0 = b u + e0 + m,  c1 = a u + e1

It is independent of the round's key: under one key for both, an aggregator could add a multiple of a victim's sketch to
the masked sum and to the sum of sketches alike. The key holder publishes a seed and not a: what hides a product from
the owner of s is an encryption of zero, and (a, a u + e1) hides nothing where a was chosen for it.

# Strategy: the aggregator encrypts zero for every pair and loads no tenseal, so nothing here imports it but
# `generate_sketch_keys`, inside. Randomness is that of the fast engine: per block a fresh AES-256 key, one counter
# range each for u, e0, e1 (`randomness.py`); the samplers are written in numpy and give the same integers (tested).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from secagg import kernels, randomness
from secagg.arrays import I8, I64, U32, U64
from secagg.errors import KeySelfTestFailed, WrongKey
from secagg.masks import add_residues, expand_key
from secagg.ownership import Owner
from secagg.parameters import ParameterSet
from secagg.plan import ERROR_MAX, key_norm_limits
from secagg.ring import bit_reversed, ring_of
from secagg.secrecy import Secret
from secagg.sketchplan import spectral_limits

SEED_BYTES = 32
_KEY_ATTEMPTS = 8
_BITS = np.uint64(2**21 - 1)


@dataclass(frozen=True, repr=False, eq=False)
class SketchKey:
    """The public half. seed: of a, 32 bytes. residues: b, uint32[primes, N], transformed, read-only."""

    params: ParameterSet
    seed: bytes
    residues: U32

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SketchKey) and (self.params, self.digest) == (other.params, other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the seed and b as little-endian uint32."""
        return hashlib.sha256(self.seed + np.ascontiguousarray(self.residues, dtype="<u4").data.cast("B")).digest()

    @cached_property
    def expanded(self) -> U32:
        """a: uint32[primes, N], transformed. AES-256-CTR under HKDF-Expand of the seed, rejected when not below p."""
        a: U32 = np.zeros_like(self.residues)
        for row, prime in zip(a, self.params.primes, strict=True):
            add_residues(
                row, expand_key(self.seed, b"secagg v2 sketch key" + prime.to_bytes(4, "little")), prime, False
            )
        return a

    def check(self) -> None:
        """Raise `WrongKey` unless shape and residues are right and b is not zero."""
        shape = (len(self.params.primes), self.params.degree)
        if self.residues.shape != shape or self.residues.dtype != np.uint32 or len(self.seed) != SEED_BYTES:
            raise WrongKey(
                f"sketch key: expected uint32{list(shape)} and {SEED_BYTES} bytes of seed; refuse this offer"
            )
        if not ring_of(self.params).in_range(self.residues) or not self.residues.any(axis=-1).all():
            raise WrongKey("sketch key: a residue is not below its prime, or a polynomial is zero; refuse this offer")

    def encrypt(self, coefficients: I64) -> U32:
        """A fresh encryption, uint32[2, primes, N], of int64[k], k <= N: coefficients below 2**62."""
        block = self.encrypt_zero()
        message = np.zeros(self.params.degree, dtype=np.int64)
        message[: coefficients.shape[0]] = coefficients
        plaintext = _residues(message, self.params)
        ring = ring_of(self.params)
        ring.to_ntt(plaintext)
        ring.add(block[0], plaintext)
        return block

    def encrypt_zero(self) -> U32:
        """A fresh encryption of zero: uint32[2, primes, N]."""
        key, degree = os.urandom(randomness.KEY_BYTES), self.params.degree
        u, e0, e1 = ternary(key, degree), binomial(key, "e0", degree), binomial(key, "e1", degree)
        return self.encrypt_zero_with(u, e0, e1)

    def zero_part(self) -> tuple[U32, U32]:
        """What `gram.py` needs of a fresh encryption of zero: c0's constant coefficient, uint32[primes], and c1.

        c1: uint32[primes, N], transformed. The other coefficients of c0, and of e0, are never made.
        """
        key, degree, ring = os.urandom(randomness.KEY_BYTES), self.params.degree, ring_of(self.params)
        factor = _small_residues(ternary(key, degree), ring.primes)
        ring.to_ntt(factor)
        linear = _small_residues(binomial(key, "e1", degree), ring.primes)
        ring.to_ntt(linear)
        kernels.multiply_onto(factor, self.expanded, ring.primes, linear)
        error = _small_residues(binomial(key, "e0", 1), ring.primes)[:, 0]
        mean = kernels.product_sums(factor, self.residues, ring.primes).astype(np.uint64) * ring.inverse_degree
        constant: U32 = ((mean + error) % ring.primes).astype(np.uint32)
        return constant, linear

    def encrypt_zero_with(self, u: I8, e0: I8, e1: I8) -> U32:
        """The arithmetic alone, for given randomness: int8[N] each. For tests."""
        ring = ring_of(self.params)
        block = np.zeros((2, *self.residues.shape), dtype=np.uint32)
        if kernels.NAME == "numba":
            from secagg import kernels_fast

            key, quotients = self._tables
            zero = np.zeros_like(self.residues)
            kernels_fast.encrypt(
                zero, u, e0, e1, key, quotients, ring.roots, ring.root_quotients, ring.primes, block[0], block[1]
            )
            return block
        block[0], block[1] = _residues(e0, self.params), _residues(e1, self.params)
        factor = _residues(u, self.params)
        for polynomial in (factor, block[0], block[1]):
            ring.to_ntt(polynomial)
        for half, part in zip(block, (self.residues, self.expanded), strict=True):
            kernels.multiply_onto(factor, part, ring.primes, half)
        return block

    @cached_property
    def _tables(self) -> tuple[U32, U32]:
        """(b, a) and their Shoup quotients for the compiled loop: uint32[2, primes, N] each."""
        key = np.stack([self.residues, self.expanded])
        return key, ring_of(self.params).quotients(key.astype(np.uint64))


class SketchSecret(Secret):
    """The secret half, in memory for one round of one process. Cannot be pickled; `repr` omits it."""

    def __init__(self, params: ParameterSet, residues: U32) -> None:
        self._owner = Owner("a sketch secret")
        self._params = params
        self._s = residues
        self._square = np.empty_like(residues)  # s sigma(s)
        kernels.multiply(residues, mirrored(residues, params), ring_of(params).primes, self._square)

    def decrypt(self, block: U32) -> U32:
        """c0 + c1*s of one checked block uint32[2, primes, N]: uint32[primes, N], coefficients."""
        self._owner.require()
        ring = ring_of(self._params)
        plain: U32 = np.empty_like(block[0])
        kernels.multiply(block[1], self._s, ring.primes, plain)
        ring.add(plain, block[0])
        ring.from_ntt(plain)
        return plain

    def product_sums(self, linear: U32, square: U32) -> U32:
        """Sum over the slots of linear * s + square * s sigma(s): uint32[primes]."""
        self._owner.require()
        primes = ring_of(self._params).primes
        first = kernels.product_sums(linear, self._s, primes).astype(np.uint64)
        second = kernels.product_sums(square, self._square, primes)
        sums: U32 = ((first + second) % primes).astype(np.uint32)
        return sums

    def __repr__(self) -> str:
        return "SketchSecret(OMITTED)"


def generate_sketch_keys(params: ParameterSet) -> tuple[SketchKey, SketchSecret]:
    """A key pair whose error and secret keep the norms and spectral norms that the bounds assume.

    Keys outside them (probability <= 2**-40) are made anew. Raises `KeySelfTestFailed`.
    """
    from secagg.ckks import centred, generate_secret  # loads tenseal

    ring, degree = ring_of(params), params.degree
    error_limit, secret_limit = spectral_limits(degree)
    for _ in range(_KEY_ATTEMPTS):
        secret = generate_secret(params)
        ternary_secret = secret.copy()
        ring.from_ntt(ternary_secret)
        error = binomial(os.urandom(randomness.KEY_BYTES), "e0", degree)
        wide = error.astype(np.int64)
        sound = (
            int(np.abs(wide).max()) <= ERROR_MAX
            and float(np.dot(wide, wide)) <= key_norm_limits(degree)[0]
            and _spectral_norm(error) <= error_limit
            and _spectral_norm(centred(ternary_secret, params)) <= secret_limit
        )
        if not sound:
            continue
        seed = os.urandom(SEED_BYTES)
        b = _residues(error, params)
        ring.to_ntt(b)
        product = np.empty_like(b)
        kernels.multiply(SketchKey(params, seed, b).expanded, secret, ring.primes, product)
        ring.subtract(b, product)
        b.flags.writeable = False
        return SketchKey(params, seed, b), SketchSecret(params, secret)
    raise KeySelfTestFailed(f"{_KEY_ATTEMPTS} sketch keys were outside the noise bounds: do not use this build")


def mirrored(residues: U32, params: ParameterSet) -> U32:
    """sigma: X -> X^-1 of transformed residues uint32[..., N], a permutation of slots; a copy."""
    found: U32 = residues[..., _mirror(params.degree)]
    return found


@lru_cache(maxsize=8)
def _mirror(degree: int) -> NDArray[np.intp]:
    # Slot k holds the value at psi^(2 bitrev(k) + 1), and sigma takes the value at the inverse root.
    exponents = 2 * np.array(bit_reversed(degree), dtype=np.intp) + 1
    slot_of = np.empty(2 * degree, dtype=np.intp)
    slot_of[exponents] = np.arange(degree)
    found = slot_of[2 * degree - exponents]
    found.flags.writeable = False
    return found


def ternary(key: bytes, degree: int) -> I8:
    """int8[degree], uniform on {-1, 0, 1}: bytes below 255 of the u range modulo 3, minus 1."""
    source, found = randomness.stream(key, "u"), np.empty(0, dtype=np.int8)
    while found.shape[0] < degree:
        drawn = randomness.draw(source, degree - found.shape[0] + randomness.TERNARY_SPARE)
        found = np.concatenate([found, (drawn[drawn != 255] % 3).astype(np.int8) - 1])
    return found[:degree]


def binomial(key: bytes, which: str, degree: int) -> I8:
    """int8[degree], centred binomial: ones among the lowest 21 bits of a word minus ones among the next 21."""
    words: U64 = randomness.draw(randomness.stream(key, which), 8 * degree).view("<u8")
    plus, minus = np.bitwise_count(words & _BITS), np.bitwise_count((words >> np.uint64(21)) & _BITS)
    found: I8 = plus.astype(np.int8) - minus.astype(np.int8)
    return found


def _small_residues(integers: I8, primes: U32) -> U32:
    """uint32[primes, N] of int8[N]: the prime is added where the integer is negative."""
    found: U32 = integers.astype(np.int32).view(np.uint32) + (integers < 0) * primes[:, None]
    return found


def _residues(integers: NDArray[np.signedinteger], params: ParameterSet) -> U32:
    """uint32[primes, N] of integers[N]."""
    primes = np.array(params.primes, dtype=np.int64)[:, None]
    return np.mod(integers.astype(np.int64), primes).astype(np.uint32)


def _spectral_norm(coefficients: NDArray[np.signedinteger]) -> float:
    """The largest |f(zeta)|**2 over the roots zeta of X^N + 1."""
    degree = coefficients.shape[0]
    twisted = coefficients * np.exp(1j * np.pi * np.arange(degree) / degree)
    return float((np.abs(np.fft.fft(twisted)) ** 2).max())
