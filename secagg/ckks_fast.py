"""The fast engine: CKKS encryption and decryption in compiled loops, between packed integers and residues.

Encryption is that of CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017, section 3.2) at the data level, with SEAL's own
distributions: u uniform ternary, e0 and e1 centred binomial over 2 * 21 bits,

    c0 = b*u + e0 + m,    c1 = a*u + e1        modulo every data prime,

under a public key (b, a) that SEAL generated and `ckks.generate_keys` tested: b + a*s is the same small e modulo every
prime, so reduced to the data primes it is a valid public key there. Key generation stays in SEAL. Decryption is

    c0 + c1*s                                  modulo every data prime,

with the residues of s that the self-test of the keys read out of SEAL: the same integers as SEAL's own decryption, bit
for bit (`opening_fast.py`, ADR 0028). Neither is claimed to take the same time for every key.
Noise: u*e + e0 + e1*s, rms about 3.2 * sqrt(4N/3); plans budget for it (docs/parameters.md).

Randomness: every block of every contribution draws a fresh AES-256 key from the operating system and expands it in
counter mode, with separate counter ranges for u, e0 and e1 (`randomness.py`). Nothing is kept between calls, so threads
and forked children never share a stream. Ternary digits come from bytes by rejection: 255 is rejected, the rest taken
modulo 3. Needs numba (extra `fast`).
"""

from __future__ import annotations

import os
from functools import partial
from weakref import finalize

import numpy as np

from secagg import kernels, kernels_fast, randomness
from secagg.arrays import I8, U8, U32, Inverse
from secagg.errors import WrongState
from secagg.ownership import Owner
from secagg.parameters import ParameterSet
from secagg.publickey import PublicKey
from secagg.ring import ring_of
from secagg.secrecy import Secret, wipe
from secagg.workers import Workers, rows_of_blocks


class FastEncryptor:
    """Encrypts packed coefficients under a checked public key. Safe to call from several threads."""

    def __init__(self, public_key: PublicKey) -> None:
        public_key.check()
        self._params = public_key.params
        self._ring = ring_of(public_key.params)
        # Clients of one process encrypt under the same key, and it is public.
        self._key, self._key_quotients = public_key.once("fast", partial(_prepared, public_key))

    def encrypt_coefficients(self, plaintext: U32, block: U32) -> None:
        """Write a fresh encryption of `plaintext` into `block`.

        plaintext: uint32[primes, N], coefficients modulo each prime; overwritten.  block: uint32[2, primes, N].
        """
        u, e0, e1 = randomness.parts(os.urandom(randomness.KEY_BYTES), self._params.degree)
        self.encrypt_with(u, e0, e1, plaintext, block)

    def encrypt_with(self, u: I8, e0: I8, e1: I8, plaintext: U32, block: U32) -> None:
        """The arithmetic alone, for given randomness: int8[N] each. For tests; a caller's randomness is not checked."""
        self._encrypt_rows((u, e0, e1), slice(0, len(self._params.primes)), plaintext, block)

    def encrypt_blocks(self, plaintexts: U32, blocks: U32, workers: Workers) -> None:
        """As `encrypt_coefficients`, of several blocks: uint32[blocks, primes, N], uint32[blocks, 2, primes, N].

        Threads share the rows of all blocks. Each block has a key of its own, whichever threads work on it.
        """
        count, primes = plaintexts.shape[0], len(self._params.primes)
        u, e0, e1 = randomness.fresh(count, self._params.degree, workers)

        def some_rows(start: int, stop: int) -> None:
            for block, rows in rows_of_blocks(start, stop, primes):
                self._encrypt_rows((u[block], e0[block], e1[block]), rows, plaintexts[block], blocks[block])

        workers.over(count * primes, some_rows)

    def _encrypt_rows(self, parts: tuple[I8, I8, I8], rows: slice, plaintext: U32, block: U32) -> None:
        u, e0, e1 = parts
        ring = self._ring
        kernels_fast.encrypt(
            plaintext[rows],
            u,
            e0,
            e1,
            self._key[:, rows],
            self._key_quotients[:, rows],
            ring.roots[rows],
            ring.root_quotients[rows],
            ring.primes[rows],
            block[0, rows],
            block[1, rows],
        )


def _prepared(public_key: PublicKey) -> tuple[U32, U32]:
    """Both halves modulo the data primes, and their quotients for multiplication: uint32[2, primes, N] each."""
    data = public_key.residues[:, : len(public_key.params.primes)]
    return np.ascontiguousarray(data, dtype=np.uint32), ring_of(public_key.params).quotients(data)


class FastSecretKey(Secret):
    """Decrypts blocks, in the process that made it, without SEAL. Cannot be pickled; `repr` omits it.

    residues: s, uint32[primes, N] in SEAL's transformed order. This object is their only owner: it overwrites them with
    zeros in `wipe`, and at the latest when it is freed.
    """

    def __init__(self, params: ParameterSet, residues: U32) -> None:
        self._owner = Owner("a secret key")
        self._params, self._ring = params, ring_of(params)
        self._residues = residues
        self._quotients = self._ring.quotients(residues.astype(np.uint64))
        self._wipe = finalize(self, wipe, self._residues, self._quotients)

    def decrypt(self, block: U32) -> U32:
        """c0 + c1*s of one checked block uint32[2, primes, N]; returns uint32[primes, N], coefficients."""
        plain = self.decrypt_transformed(block)
        self._ring.from_ntt(plain)
        return plain

    def decrypt_transformed(self, block: U32) -> U32:
        """As `decrypt`, still in SEAL's transformed order."""
        self._require()
        plain: U32 = block[0].copy()
        kernels.multiply_onto(block[1], self._residues, self._ring.primes, plain)
        return plain

    def decrypt_rows(self, packed: U8, primes: slice, rows: U32) -> int:
        """`kernels_fast.decrypt_rows` for some primes. It releases the GIL."""
        self._require()
        ring = self._ring
        inverse = Inverse(ring.inverse_roots[primes], ring.inverse_root_quotients[primes], ring.inverse_degree[primes])
        key, quotients = self._residues[primes], self._quotients[primes]
        return kernels_fast.decrypt_rows(packed, key, quotients, inverse, ring.primes[primes], rows)

    def wipe(self) -> None:
        """Overwrite the key with zeros. Every later call raises `WrongState`."""
        self._wipe()

    def _require(self) -> None:
        self._owner.require()  # a forked copy could decrypt a second time
        if not self._wipe.alive:  # zeros would decrypt, to something else
            raise WrongState("a secret key: its round has ended, and it was overwritten; open the next round")

    def __repr__(self) -> str:
        return "FastSecretKey(OMITTED)"
