"""A CKKS public key as plain residues: what travels in an offer. Checked here, before SEAL is given anything of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secagg.errors import WrongKey
from secagg.kernels_numpy import U64
from secagg.parameters import ParameterSet


@dataclass(frozen=True, repr=False, eq=False)
class PublicKey:
    """A public key as residues modulo the data primes and the special prime, the last: uint64[2, primes + 1, N]."""

    params: ParameterSet
    residues: U64

    def check(self) -> None:
        """Raise `WrongKey` unless the shape is right, every residue is below its prime and neither half is zero."""
        primes = (*self.params.primes, self.params.special_prime)
        shape = (2, len(primes), self.params.degree)
        if self.residues.shape != shape or self.residues.dtype != np.uint64:
            raise WrongKey(
                f"public key: expected uint64{list(shape)}, got {self.residues.dtype}{list(self.residues.shape)}"
            )
        if not np.all(self.residues < np.array(primes, dtype=np.uint64)[:, None]):
            raise WrongKey("public key: a residue is not below its prime; refuse this offer")
        if not self.residues.any(axis=-1).all():
            raise WrongKey("public key: a polynomial is zero; refuse this offer")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self.params == other.params and np.array_equal(self.residues, other.residues)

    def __hash__(self) -> int:
        return hash((self.params, self.residues.tobytes()))
