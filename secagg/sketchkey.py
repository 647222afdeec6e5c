"""The second key of a robust round: sketches are encrypted under it, and their hidden products are opened with it.

CKKS at the data level (Cheon, Kim, Kim, Song, ASIACRYPT 2017, section 3.2), with SEAL's distributions:

    key          b = -a s + e                     a expanded from a public seed, s from SEAL (`ckks.generate_secret`)
    encryption   c0 = b u + e0 + m,  c1 = a u + e1

It is independent of the round's key: under one key for both, an aggregator could add a multiple of a victim's sketch to
the masked sum and to the sum of sketches alike. The key holder publishes a seed and not a: what hides a product from
the owner of s is an encryption of zero, and (a, a u + e1) hides nothing where a was chosen for it.

# Strategy: the aggregator encrypts zero for every pair and loads no tenseal, so nothing here imports it but
# `generate_sketch_keys`, inside. Randomness is that of the fast engine: a fresh AES-256 key, one counter range each for
# u, e0, e1 (`randomness.py`). A client's key serves one encryption, an aggregator's all zeros of one thread in turn.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from secagg import kernels, randomness
from secagg.arrays import I8, I64, U16, U32
from secagg.errors import KeySelfTestFailed, WrongKey, WrongState
from secagg.masks import add_residues, expand_key
from secagg.ownership import Owner
from secagg.parameters import ParameterSet
from secagg.plan import ERROR_MAX, key_norm_limits
from secagg.ring import bit_reversed, ring_of
from secagg.secrecy import Secret, wipe
from secagg.sketchplan import spectral_limits

SEED_BYTES = 32
_KEY_ATTEMPTS = 8


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
        message = np.zeros((1, self.params.degree), dtype=np.int64)
        message[0, : coefficients.shape[0]] = coefficients
        plaintext = np.empty_like(self.residues)
        once = np.ones((plaintext.shape[0], 1), dtype=np.uint32)
        kernels.pack_lanes(message, once, ring_of(self.params).primes, plaintext)
        u, e0, e1 = randomness.parts(os.urandom(randomness.KEY_BYTES), self.params.degree)
        return self.encrypt_with(u, e0, e1, plaintext)

    def zeros(self) -> FreshZeros:
        """Fresh encryptions of zero, one after the other, for hiding products."""
        return FreshZeros(self.params.degree)

    def encrypt_with(self, u: I8, e0: I8, e1: I8, plaintext: U32) -> U32:
        """The arithmetic alone, for given randomness: int8[N] each; plaintext: uint32[primes, N], coefficients."""
        ring = ring_of(self.params)
        block = np.zeros((2, *self.residues.shape), dtype=np.uint32)
        if kernels.NAME == "numba":
            from secagg import kernels_fast

            key, quotients = self._tables
            kernels_fast.encrypt(
                plaintext, u, e0, e1, key, quotients, ring.roots, ring.root_quotients, ring.primes, block[0], block[1]
            )
            return block
        block[0], block[1] = _residues(e0, self.params), _residues(e1, self.params)
        ring.add(block[0], plaintext)
        factor = _residues(u, self.params)
        for polynomial in (factor, block[0], block[1]):
            ring.to_ntt(polynomial)
        for half, part in zip(block, (self.residues, self.expanded), strict=True):
            kernels.multiply_onto(factor, part, ring.primes, half)
        return block

    @cached_property
    def both(self) -> U32:
        """(b, a): uint32[2, primes, N]."""
        return np.stack([self.residues, self.expanded])

    @cached_property
    def _tables(self) -> tuple[U32, U32]:
        """(b, a) and their Shoup quotients for the compiled loop: uint32[2, primes, N] each."""
        return self.both, ring_of(self.params).quotients(self.both.astype(np.uint64))


class FreshZeros:
    """The random parts of fresh encryptions of zero, in turn, from one AES-256 key. Not shared between threads."""

    def __init__(self, degree: int) -> None:
        key = os.urandom(randomness.KEY_BYTES)
        self._degree = degree
        self._u, self._e0, self._e1 = (randomness.stream(key, which) for which in ("u", "e0", "e1"))

    def next(self) -> tuple[I8, I8, int]:
        """(u, e1, the constant coefficient of e0) of the next zero; u and e1: int8[N]."""
        u, e1 = randomness.ternary(self._u, self._degree), randomness.binomial(self._e1, self._degree)
        return u, e1, int(randomness.binomial(self._e0, 1)[0])


class SketchSecret(Secret):
    """The secret half, in memory for one round of one process. Cannot be pickled; `repr` omits it.

    residues: s, uint32[primes, N], transformed. This object is their only owner, and overwrites them as
    `ckks_fast.FastSecretKey` does.
    """

    def __init__(self, params: ParameterSet, residues: U32) -> None:
        self._owner = Owner("a sketch secret")
        self._params = params
        self._s = residues
        coefficients = residues[0].copy()
        ring = ring_of(params)
        ring.from_ntt(coefficients[None, :], slice(0, 1))
        small = coefficients.astype(np.int64)
        small -= int(params.primes[0]) * (small > params.primes[0] // 2)
        # The constant coefficient of f s is the inner product of f with (s_0, -s_(N-1), ..., -s_1).
        self._reversed: I8 = np.concatenate([small[:1], -small[:0:-1]]).astype(np.int8)
        wipe(coefficients, small)
        self._wipe = finalize(self, wipe, self._s, self._reversed)

    def decrypt(self, block: U32) -> U32:
        """c0 + c1*s of one checked block uint32[2, primes, N]: uint32[primes, N], coefficients."""
        ring = ring_of(self._params)
        plain = self.times(block[1])
        ring.add(plain, block[0])
        ring.from_ntt(plain)
        return plain

    def times(self, polynomial: U32) -> U32:
        """f s for a transformed f: uint32[primes, N]."""
        self._require()
        product: U32 = np.empty_like(polynomial)
        kernels.multiply(polynomial, self._s, ring_of(self._params).primes, product)
        return product

    def constant(self, upper: U32, lower: U16) -> int:
        """The constant coefficient of f s, for an f whose coefficients are uint32[N] * 2**16 + uint16[N]."""
        self._require()
        found: int = kernels.signed_sum(upper, lower, self._reversed)
        return found

    def wipe(self) -> None:
        """Overwrite the secret with zeros. Every later call raises `WrongState`."""
        self._wipe()

    def _require(self) -> None:
        self._owner.require()
        if not self._wipe.alive:
            raise WrongState("a sketch secret: its round has ended, and it was overwritten; open the next round")

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
        small = centred(ternary_secret, params)
        assert small is not None  # `generate_secret` has tested it
        error = randomness.binomial(randomness.stream(os.urandom(randomness.KEY_BYTES), "e0"), degree)
        wide = error.astype(np.int64)
        sound = (
            int(np.abs(wide).max()) <= ERROR_MAX
            and float(np.dot(wide, wide)) <= key_norm_limits(degree)[0]
            and _spectral_norm(error) <= error_limit
            and _spectral_norm(small) <= secret_limit
        )
        wipe(ternary_secret, small)
        if not sound:
            wipe(secret)
            continue
        seed = os.urandom(SEED_BYTES)
        b = _residues(error, params)
        ring.to_ntt(b)
        own = SketchSecret(params, secret)
        ring.subtract(b, own.times(SketchKey(params, seed, b).expanded))
        wipe(error, wide)
        b.flags.writeable = False
        return SketchKey(params, seed, b), own
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


def _residues(integers: NDArray[np.signedinteger], params: ParameterSet) -> U32:
    """uint32[primes, N] of integers[N]."""
    primes = np.array(params.primes, dtype=np.int64)[:, None]
    return np.mod(integers.astype(np.int64), primes).astype(np.uint32)


def _spectral_norm(coefficients: NDArray[np.signedinteger]) -> float:
    """The largest |f(zeta)|**2 over the roots zeta of X^N + 1."""
    degree = coefficients.shape[0]
    twisted = coefficients * np.exp(1j * np.pi * np.arange(degree) / degree)
    return float((np.abs(np.fft.fft(twisted)) ** 2).max())
