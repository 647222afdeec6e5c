"""The noised integers that banks contribute to one release of counts: drawn once, for one plan and one roster.

What it does: `Drafts` draws them, keeps them on disk until the totals are there, and finds out whether those on disk
are the ones that were paid for.

A draft is an integer vector with its noise in it, never noise alone. It is bound to the plan, to the slots and their
salt, and to the names of all members of the roster, in order: the hash that a ledger holds covers all of them together
with all drafts (`Drafts.release`). Anything else (another roster, other slots, a recount) finds no payment, so that all
drafts are drawn and paid for anew. Why the roster: the sums of two rosters with the same drafts differ by the draft of
the banks that are in one of them alone, with one share of noise on it instead of all.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from fl.counts.key_slots import AllSlots
from fl.counts.plan import Integers, StatisticsPlan, bank_counts, contribution
from fl.data.reading import Transactions
from fl.durable import replace_durably


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
class Drafts:
    """What the banks contribute to one release, all of it drawn together.

    `banks`: (name, its transactions) of every member of the roster whose drafts are here: all of them in one process,
    in a deployment one. `members`: names of the whole roster, in order; those of `banks` when empty. `release`: the
    hash that is paid for; None before the drafts are drawn.
    """

    banks: Sequence[tuple[str, Transactions]]
    plan: StatisticsPlan
    keys: AllSlots
    folder: Path
    release: str | None = None
    paid: bool = False
    held: list[Integers] = field(default_factory=list, repr=False)
    members: Sequence[str] = ()

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"contribution-{i}.npy" for i in range(len(self.banks))]

    def keep_if_paid(self, payment: Payment) -> None:
        """Take the drafts on disk where a ledger has paid for them, for this roster. Nobody contributed any other."""
        drafts = [_read(path, self.plan) for path in self.paths]
        held = [draft for draft in drafts if draft is not None]
        if len(held) == len(drafts) and payment.began(release := self._hash(held)):
            self.held, self.release = held, release

    def of(self, position: int, payment: Payment | None, roster: int) -> Integers:
        """What one bank encrypts for a closed roster of `roster` banks: paid for, when this returns."""
        if payment is None:
            return self._drawn(position, roster)
        if self.release is None:
            self.held = [self._drawn(i, roster) for i in range(len(self.banks))]
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
        """Delete all drafts in the folder, those of other rosters among them."""
        for path in self.folder.glob("contribution-*.npy"):
            path.unlink(missing_ok=True)

    def _drawn(self, position: int, roster: int) -> Integers:
        _, table = self.banks[position]
        return contribution(bank_counts(table, self.keys, self.plan), self.plan, roster)

    def _hash(self, drafts: Sequence[Integers]) -> str:
        digest = hashlib.sha256(named(self.plan, self.banks[0][1].schema.sha256))
        digest.update(self.keys.sha256.encode())
        digest.update(json.dumps(list(self.members) or [name for name, _ in self.banks]).encode())
        for draft in drafts:
            digest.update(hashlib.sha256(np.ascontiguousarray(draft, dtype="<i8").tobytes()).digest())
        return digest.hexdigest()


def named(plan: StatisticsPlan, schema_sha256: str) -> bytes:
    """32 bytes that name this statistic: its mode, days, shape and schema."""
    version = 2 if plan.counts_frauds else 1
    text = f"fl statistics v{version}|{plan.mode}|{plan.periods}|{plan.shape}|{plan.min_banks}|{plan.noise}|"
    if plan.counts_frauds:
        text += f"{plan.kinds}|{plan.reports}|"
    return hashlib.sha256(f"{text}{schema_sha256}".encode()).digest()


def _read(path: Path, plan: StatisticsPlan) -> Integers | None:
    """The noised integers at `path`; None where there are none that a bank could have contributed under `plan`."""
    try:
        draft: Integers = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(draft, np.ndarray) and draft.dtype == np.int64 and draft.shape == (plan.length,)
    return draft if fits else None
