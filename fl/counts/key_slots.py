"""The position of the counts of a key (a terminal, merchant, device or account) in a shared vector.

What it does: gives every identifier a slot (`KeySlots` for one kind of party, `AllSlots` for all kinds of a release).
Identifiers on a public directory have a slot of their own; all others fall into a fixed number of buckets by
HMAC-SHA256 under a salt that the banks share and that neither the aggregator nor the key holder knows. The vector's
length is then the same whatever a bank has seen, and no identifier travels: a slot's number is all that the position in
a vector says. A kind without a public register has buckets alone.

What it leaves to others: what is counted (`fl.counts.plan`). How banks agree on the salt is theirs (any group
key agreement); losing it to the key holder lets it test guesses of identifiers against released totals.

Two keys in one bucket are counted together. With b buckets and m keys in them, a key shares its bucket with
probability 1 - (1 - 1/b)^(m-1).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fl.errors import StatisticsError

SALT_BYTES = 32


@dataclass(frozen=True)
class KeySlots:
    """`directory`: public identifiers, one slot each, in this order; `buckets`: slots of all other keys together.

    `kind`: of the party that the identifiers name. Raises `StatisticsError` for a repeated identifier, no slot at all,
    or a salt of another length.
    """

    directory: tuple[str, ...] = field(repr=False)
    buckets: int
    salt: bytes = field(repr=False)
    kind: str = "terminal"

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
        # Terminals are hashed without their kind: runs of versions that knew no other kind hold totals under it.
        named = identifier if self.kind == "terminal" else f"{self.kind}\0{identifier}"
        digest = hmac.new(self.salt, named.encode(), hashlib.sha256).digest()
        # 128 bits, so that the remainder's bias is below 2^-96 for any number of buckets.
        return len(self.directory) + int.from_bytes(digest[:16], "little") % self.buckets


@dataclass(frozen=True)
class AllSlots:
    """The slots of all kinds in one vector, kind after kind. Raises `StatisticsError` for no kind, or one twice."""

    kinds: tuple[KeySlots, ...]

    def __post_init__(self) -> None:
        names = [each.kind for each in self.kinds]
        if not names or len(set(names)) != len(names):
            raise StatisticsError(f"slots: expected at least one kind, and each once, got {names}")

    @property
    def size(self) -> int:
        """Slots in all."""
        return sum(each.size for each in self.kinds)

    @property
    def sections(self) -> dict[str, slice]:
        """By kind, its slots in the vector."""
        return sections_of([(each.kind, each.size) for each in self.kinds])

    def of(self, kind: str, identifiers: NDArray[np.object_]) -> NDArray[np.int64]:
        """int64[n] in [0, size): the slot of each identifier of a party of this `kind`."""
        for each in self.kinds:
            if each.kind == kind:
                first: int = self.sections[kind].start
                return first + each.of(identifiers)
        raise StatisticsError(f"slots: expected one of {[each.kind for each in self.kinds]}, got {kind!r}")

    def of_rows(self, kind: str, identifiers: NDArray[np.object_]) -> NDArray[np.int64]:
        """As `of`, for the party of each row: identifiers repeat, and each one is hashed once."""
        distinct, code = np.unique(identifiers.astype(str), return_inverse=True)
        slot: NDArray[np.int64] = self.of(kind, distinct.astype(object))[code]
        return slot

    @property
    def sha256(self) -> str:
        """Names directories, buckets and salt, so that noised integers are not taken for those of other slots."""
        digest = hashlib.sha256()
        for each in self.kinds:
            listed = "".join(f"{len(name.encode())}:{name}" for name in each.directory)
            text = f"{each.kind}|{each.buckets}|{hashlib.sha256(listed.encode()).hexdigest()}|"
            digest.update(text.encode() + hashlib.sha256(each.salt).digest())
        return digest.hexdigest()


def sections_of(kinds: Sequence[tuple[str, int]]) -> dict[str, slice]:
    """By kind, its slots in a vector that holds the slots of `kinds` (kind, how many), kind after kind."""
    ends = accumulate(slots for _, slots in kinds)
    return {kind: slice(end - slots, end) for (kind, slots), end in zip(kinds, ends, strict=True)}
