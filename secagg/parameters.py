"""The allow-list of CKKS parameter sets, and the source of their security limits.

A parameter set is a ring degree N, `primes` (each below 2**30 and 1 modulo 2N, the moduli of a ciphertext) and one
`special_prime`, which SEAL keeps for the key level: it never appears in a ciphertext, but the public key is modulo all
of them, so it counts against the security limit.

Source of the limit: Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption", ePrint 2024/463,
table of maximal log2 Q for a uniform ternary secret and 128-bit classical security.  The limits are stricter than the
ones that SEAL enforces.  The primes are SEAL's own choice (``CoeffModulus.Create``): the largest of their size; a test
recomputes them and compares them with SEAL's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

MAX_LOG2_Q = {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430}
"""Ring degree -> largest log2 Q, special prime included (ePrint 2024/463, ternary secret, 128-bit classical)."""

PRIME_BITS = 30
"""Data primes are below 2**30: residues fit uint32, lazy sums fit 32 bits, products fit 64."""

# The largest primes below 2**30 that are 1 modulo 2N, largest first.
_DATA_PRIMES = {
    4096: (1073692673, 1073668097, 1073651713),
    8192: (1073692673, 1073643521, 1073479681, 1073430529, 1073299457, 1073233921),
    16384: (
        1073643521,
        1073479681,
        1073184769,
        1073053697,
        1072857089,
        1072496641,
        1071513601,
        1071415297,
        1071087617,
        1070727169,
        1070432257,
        1069219841,
        1068564481,
    ),
}
_SPECIAL_PRIMES = {
    (4096, 16): 40961,
    (4096, 46): 70368743669761,
    (8192, 34): 17179754497,
    (8192, 46): 70368743669761,
    (16384, 40): 1099510054913,
    (16384, 46): 70368743587841,
}


@dataclass(frozen=True)
class ParameterSet:
    """One entry of the allow-list.

    degree: N, coefficients per block.  primes: the data primes, in the order in which SEAL keeps them (ascending).
    special_prime: the key-level prime.  nanoseconds_per_residue: SEAL's public-key encryption, one core, measured
    (docs/parameters.md, section Cost); it only breaks ties between plans of equal size.
    """

    degree: int
    primes: tuple[int, ...]
    special_prime: int
    nanoseconds_per_residue: float

    @property
    def name(self) -> str:
        return f"N{self.degree}x{len(self.primes)}"

    @cached_property
    def modulus(self) -> int:
        """Q, the product of the data primes."""
        product = 1
        for prime in self.primes:
            product *= prime
        return product

    @property
    def log2_key_modulus(self) -> float:
        """Bits of the data primes and the special prime together, each rounded up: what the guideline limits."""
        return float(sum(prime.bit_length() for prime in (*self.primes, self.special_prime)))

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one block on the wire: two polynomials, 30 bits a residue."""
        return 2 * len(self.primes) * self.degree * PRIME_BITS // 8


def _parameter_set(degree: int, count: int, special_bits: int) -> ParameterSet:
    return ParameterSet(
        degree=degree,
        primes=tuple(reversed(_DATA_PRIMES[degree][:count])),
        special_prime=_SPECIAL_PRIMES[degree, special_bits],
        nanoseconds_per_residue={4096: 110.0, 8192: 103.0, 16384: 100.0}[degree],
    )


ALLOWED: tuple[ParameterSet, ...] = (
    _parameter_set(4096, 2, 46),
    _parameter_set(4096, 3, 16),
    *(_parameter_set(8192, count, 46) for count in (2, 3, 4, 5)),
    _parameter_set(8192, 6, 34),
    *(_parameter_set(16384, count, 46) for count in range(5, 13)),
    _parameter_set(16384, 13, 40),
)
"""Every parameter set that a plan may use."""
