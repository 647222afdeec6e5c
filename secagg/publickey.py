"""A CKKS public key as plain residues: what travels in an offer. Checked here, before SEAL is given anything of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from secagg.arrays import U64
from secagg.errors import WrongKey
from secagg.hashing import large_hash
from secagg.parameters import ParameterSet

T = TypeVar("T")


@dataclass(frozen=True, repr=False, eq=False)
class PublicKey:
    """A public key as residues modulo the data primes and the special prime, the last: uint64[2, primes + 1, N].

    Several parties check and hash it in every round. If `residues` is read-only, each is done once and remembered.
    """

    params: ParameterSet
    residues: U64

    @property
    def digest(self) -> bytes:
        """BLAKE3 over the residues as little-endian uint64."""
        return self.once("_digest", self._hashed)

    def check(self) -> None:
        """Raise `WrongKey` unless the shape is right, every residue is below its prime and neither half is zero."""
        self.once("_checked", self._checked_now)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns, made once under this name if `residues` is read-only. It must follow from the key."""
        if self.residues.flags.writeable:  # also of a copy or a pickle of a key, whose array is always writeable
            return make()
        known: dict[str, T] = self.__dict__
        if name not in known:
            known[name] = make()
        return known[name]

    def _hashed(self) -> bytes:
        return large_hash(np.ascontiguousarray(self.residues, dtype="<u8"))

    def _checked_now(self) -> bool:
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
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self.params == other.params and np.array_equal(self.residues, other.residues)

    def __hash__(self) -> int:
        return hash((self.params, self.residues.tobytes()))
