"""The noised integers that banks contribute to one release: drawn once, kept, and paid for before they are contributed.

What it does: `KeptDrafts` keeps the drafts of all banks on disk until the totals of the release are there, and finds
out whether those on disk are the ones that were paid for.

A draft is an integer vector with its noise in it, never noise alone. The hash that a ledger holds (`release`) covers
what the drafts are of (`named`), the names of all members of the roster, in order, and all drafts. Anything else
(another roster, another plan, a recount) finds no payment, so that all drafts are drawn and paid for anew. Why the
roster: the sums of two rosters with the same drafts differ by the draft of the banks that are in one of them alone,
with one share of noise on it instead of all.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl.durable import replace_durably

Integers = NDArray[np.int64]


class Payment(Protocol):
    """The banks' ledgers, as a noisy release sees them."""

    def began(self, release: str) -> bool:
        """Whether some ledger holds `release`: its drafts may have been contributed."""

    def require_room(self, release: str | None) -> None:
        """Raise when a ledger neither holds `release` nor has room for another one; writes nothing."""

    def pay(self, release: str) -> None:
        """Record `release` in every ledger that does not hold it yet, or raise."""

    def require_paid(self, release: str | None) -> None:
        """Raise when a ledger does not hold the `release` that totals were made of."""


@dataclass
class KeptDrafts:
    """What the banks contribute to one release, all of it drawn together.

    `named`: bytes that say what the drafts are of, the members of the roster among them. `draws`: of each bank, what
    draws its draft of `length` integers for a closed roster of so many banks. `stem`: of the files' names. `release`:
    the hash that is paid for; None before the drafts are drawn.
    """

    named: bytes
    draws: Sequence[Callable[[int], Integers]] = field(repr=False)
    length: int
    folder: Path
    stem: str = "contribution"
    release: str | None = None
    paid: bool = False
    held: list[Integers] = field(default_factory=list, repr=False)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{self.stem}-{i}.npy" for i in range(len(self.draws))]

    def keep_if_paid(self, payment: Payment) -> None:
        """Take the drafts on disk where a ledger has paid for them, for this roster. Nobody contributed any other."""
        drafts = [_read(path, self.length) for path in self.paths]
        held = [draft for draft in drafts if draft is not None]
        if len(held) == len(drafts) and payment.began(release := self._hash(held)):
            self.held, self.release = held, release

    def of(self, position: int, payment: Payment | None, roster: int) -> Integers:
        """What one bank encrypts for a closed roster of `roster` banks: paid for, when this returns."""
        if payment is None:
            return self.draws[position](roster)
        if self.release is None:
            self.held = [draw(roster) for draw in self.draws]
            self.delete()
            for path, draft in zip(self.paths, self.held, strict=True):
                buffer = io.BytesIO()
                np.save(buffer, draft, allow_pickle=False)
                replace_durably(path, buffer.getvalue())
            self.release = self._hash(self.held)
        if not self.paid:
            payment.pay(self.release)
            self.paid = True
        return self.held[position]

    def delete(self) -> None:
        """Delete all drafts of this kind in the folder, those of other rosters among them."""
        for path in self.folder.glob(f"{self.stem}-*.npy"):
            path.unlink(missing_ok=True)

    def _hash(self, drafts: Sequence[Integers]) -> str:
        digest = hashlib.sha256(self.named)
        for draft in drafts:
            digest.update(hashlib.sha256(np.ascontiguousarray(draft, dtype="<i8").tobytes()).digest())
        return digest.hexdigest()


def _read(path: Path, length: int) -> Integers | None:
    """The noised integers at `path`; None where there are none that a bank could have contributed."""
    try:
        draft: Integers = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(draft, np.ndarray) and draft.dtype == np.int64 and draft.shape == (length,)
    return draft if fits else None
