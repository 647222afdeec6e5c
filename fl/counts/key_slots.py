"""The position of the counts of a key (a terminal, merchant, device or account) in a shared vector.

What it does: gives every identifier a slot. Identifiers on a public directory have a slot of their own; all others
fall into a fixed number of buckets by HMAC-SHA256 under a salt that the banks share and that neither the aggregator
nor the key holder knows. The vector's length is then the same whatever a bank has seen, and no identifier travels:
a slot's number is all that the position in a vector says.

What it leaves to others: what is counted (`fl.counts.plan`). How banks agree on the salt is theirs (any group
key agreement); losing it to the key holder lets it test guesses of identifiers against released totals.

Two keys in one bucket are counted together. With b buckets and m keys in them, a key shares its bucket with
probability 1 - (1 - 1/b)^(m-1).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.errors import StatisticsError

SALT_BYTES = 32


@dataclass(frozen=True)
class KeySlots:
    """`directory`: public identifiers, one slot each, in this order; `buckets`: slots of all other keys together.

    Raises `StatisticsError` for a repeated identifier, no slot at all, or a salt of another length.
    """

    directory: tuple[str, ...] = field(repr=False)
    buckets: int
    salt: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(set(self.directory)) != len(self.directory):
            raise StatisticsError("directory: expected each identifier once, got some more than once; remove them")
        if self.buckets < 1:
            raise StatisticsError(f"buckets: expected at least 1, for keys outside the directory, got {self.buckets}")
        if len(self.salt) != SALT_BYTES:
            raise StatisticsError(f"salt: expected {SALT_BYTES} bytes, got {len(self.salt)}")

    @property
    def size(self) -> int:
        """Slots in all."""
        return len(self.directory) + self.buckets

    def of(self, identifiers: NDArray[np.object_]) -> NDArray[np.int64]:
        """int64[n] in [0, size): the slot of each identifier."""
        listed = {name: slot for slot, name in enumerate(self.directory)}
        return np.array([listed[i] if i in listed else self._bucket(str(i)) for i in identifiers], np.int64)

    def _bucket(self, identifier: str) -> int:
        digest = hmac.new(self.salt, identifier.encode(), hashlib.sha256).digest()
        # 128 bits, so that the remainder's bias is below 2^-96 for any number of buckets.
        return len(self.directory) + int.from_bytes(digest[:16], "little") % self.buckets
