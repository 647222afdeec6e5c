"""Public ring arithmetic of one parameter set: Z[X]/(X^N + 1) modulo each 30-bit prime.

Holds the tables (roots of unity in SEAL's order, Garner inverses) and wraps the kernels that use them; no secret is
touched here. The root of each prime is the smallest primitive 2N-th one, and root powers stand in bit-reversed order:
with both, a transformed polynomial equals what SEAL's encoder holds, residue by residue (tested against SEAL).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from secagg import kernels
from secagg.arrays import U32, U64, Tables
from secagg.parameters import ParameterSet


def minimal_root(prime: int, degree: int) -> int:
    """The smallest primitive 2*degree-th root of unity modulo `prime`."""
    order = 2 * degree
    generator = next(
        root
        for candidate in range(2, prime)
        if pow(root := pow(candidate, (prime - 1) // order, prime), degree, prime) == prime - 1
    )
    even_powers = _powers(generator * generator % prime, degree, prime)
    odd_powers = even_powers * np.uint64(generator) % np.uint64(prime)  # all the primitive roots there are
    return int(odd_powers.min())


def bit_reversed(degree: int) -> list[int]:
    """Bit reversal of 0..degree-1."""
    bits = degree.bit_length() - 1
    order = [0]
    for bit in range(bits):
        order += [index | (1 << (bits - 1 - bit)) for index in order]
    return order


@dataclass(frozen=True, repr=False, eq=False)
class Ring:
    """Tables of one parameter set; get it with `ring_of`. Arrays of residues are uint32[..., primes, N]."""

    params: ParameterSet
    primes: U32 = field(init=False)
    roots: U32 = field(init=False)  # [primes, N], psi**bitrev(i)
    root_quotients: U32 = field(init=False)  # floor(root * 2**32 / prime)
    inverse_roots: U32 = field(init=False)
    inverse_root_quotients: U32 = field(init=False)
    inverse_degree: U32 = field(init=False)
    garner_inverses: U32 = field(init=False)  # [j, i] = 1 / primes[j] modulo primes[i]

    def __post_init__(self) -> None:
        primes, degree = self.params.primes, self.params.degree
        order = bit_reversed(degree)
        minimal = [minimal_root(prime, degree) for prime in primes]
        forward = np.stack([_powers(r, degree, p)[order] for r, p in zip(minimal, primes, strict=True)])
        inverse = np.stack([_powers(pow(r, -1, p), degree, p)[order] for r, p in zip(minimal, primes, strict=True)])
        tables = {
            "primes": np.array(primes, dtype=np.uint32),
            "roots": forward.astype(np.uint32),
            "root_quotients": _shoup(forward, primes),
            "inverse_roots": inverse.astype(np.uint32),
            "inverse_root_quotients": _shoup(inverse, primes),
            "inverse_degree": np.array([pow(degree, -1, p) for p in primes], dtype=np.uint32),
            "garner_inverses": np.array(
                [[pow(q, -1, p) if p != q else 0 for p in primes] for q in primes], dtype=np.uint32
            ),
        }
        for name, table in tables.items():
            table.setflags(write=False)
            object.__setattr__(self, name, table)

    def to_ntt(self, residues: U32) -> None:
        """Transform uint32[primes, N] from coefficients to SEAL's transformed order, in place."""
        kernels.forward_ntt(residues, self.roots, self.root_quotients, self.primes)

    def from_ntt(self, residues: U32, primes: slice = slice(None)) -> None:
        """Inverse of `to_ntt`, in place. primes: those that `residues` has rows for."""
        kernels.inverse_ntt(
            residues,
            self.inverse_roots[primes],
            self.inverse_root_quotients[primes],
            self.primes[primes],
            self.inverse_degree[primes],
        )

    def add(self, total: U32, term: U32) -> None:
        """`total += term` modulo the primes, in place."""
        kernels.add_modular(total, term, self.primes)

    def subtract(self, total: U32, term: U32) -> None:
        """`total -= term` modulo the primes, in place."""
        kernels.subtract_modular(total, term, self.primes)

    def quotients(self, residues: U64) -> U32:
        """floor(residue * 2**32 / prime), for multiplying by the residue after Shoup: uint32[..., primes, N]."""
        return _shoup(residues, self.params.primes)

    @cached_property
    def tables(self) -> Tables:
        """What `kernels.hide_pair` needs of this ring."""
        primes, modulus = self.params.primes, self.params.modulus
        whole = [(1 << 96) // prime for prime in primes]
        shares = [pow(modulus // prime, -1, prime) for prime in primes]
        return Tables(
            self.roots,
            self.root_quotients,
            self.inverse_roots,
            self.inverse_root_quotients,
            self.primes,
            self.inverse_degree,
            np.array(shares, dtype=np.uint32),
            np.array([each >> 32 for each in whole], dtype=np.uint64),
            np.array([each & 0xFFFFFFFF for each in whole], dtype=np.uint64),
        )

    def in_range(self, residues: U32) -> bool:
        """Whether every residue is below its prime."""
        return bool(kernels.in_range(residues, self.primes))


@lru_cache(maxsize=32)
def ring_of(params: ParameterSet) -> Ring:
    """The ring of a parameter set; the tables are computed once per process."""
    return Ring(params)


def _powers(base: int, count: int, prime: int) -> U64:
    """uint64[count]: base**0 ... base**(count - 1) modulo a prime below 2**32; count is a power of two."""
    powers = np.ones(count, dtype=np.uint64)
    done = 1
    while done < count:  # doubling: the second half is the first half times base**done
        powers[done : 2 * done] = powers[:done] * np.uint64(pow(base, done, prime)) % np.uint64(prime)
        done *= 2
    return powers


def _shoup(table: U64, primes: tuple[int, ...]) -> U32:
    quotients = np.empty(table.shape, dtype=np.uint32)
    kernels.quotients(table, np.array(primes, dtype=np.uint32), quotients)
    return quotients
