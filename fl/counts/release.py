"""One release of shared statistics: paid for, noised, summed under encryption and kept, so that it happens once.

What it does: `share_statistics` returns the totals of a plan, from the run folder where they are already there.

Order, which the budget rests on:

1. Every bank's ledger is asked whether it has room for the release, or nothing happens.
2. The roster closes; each bank draws its noise share, and its noised integers (its draft) are on its disk, synced.
3. Every bank's ledger holds the release, synced, by the hash of the drafts. Only then is any of them contributed.
4. The totals are on disk; only then are the drafts deleted.

A payment is for its drafts and for nothing else: a run's name in a ledger buys nothing. A process killed after 3 and
started again contributes *the same* drafts to a roster of the same banks. Where one of them is lost or changed, or the
totals are lost after 4, or a copy of the run folder draws for itself, all drafts are drawn anew and paid for anew: to
add one old draft to a new sum would show its bank's counts under less noise than was paid for. In a deployment each
bank keeps its own file; here one process plays all of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

import numpy as np

from fl.counts.key_slots import SALT_BYTES, KeySlots
from fl.counts.plan import Integers, StatisticsPlan, Totals, bank_counts, contribution
from fl.data.reading import Transactions
from fl.data.schema import Days
from fl.durable import replace_durably
from fl.errors import StatisticsError
from fl.privacy.noise_shares import plan_noise
from fl.secure.session import encrypted_sum

TOTALS = "totals.npz"


@dataclass(frozen=True)
class ReleasedCounts:
    """Totals, and what making them took; `seconds` and bytes are those of the run that made them.

    `release`: the hash that was paid for; None for exact windows, and for totals of an earlier version.
    """

    totals: Totals
    seconds: float
    bytes_up: int  # all banks together
    bytes_down: int
    value_bits: int
    release: str | None = None


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


def bank_salt(folder: Path) -> bytes:
    """The banks' salt for keys outside the directory, made once per run and kept in `folder`.

    Raises `StatisticsError` when it is gone and the totals that were made under it are not.
    """
    path = folder / "salt"
    if not path.exists():
        if (folder / TOTALS).exists():
            raise StatisticsError(
                f"{path} is gone, and the totals beside it cannot be read without: put it back, or start the run anew"
            )
        folder.mkdir(parents=True, exist_ok=True)
        replace_durably(path, secrets.token_bytes(SALT_BYTES))
        path.chmod(0o600)
    return path.read_bytes()


def share_statistics(
    banks: Sequence[tuple[str, Transactions]],
    plan: StatisticsPlan,
    keys: KeySlots,
    folder: Path,
    *,
    payment: Payment | None = None,
    engine: str = "auto",
) -> ReleasedCounts:
    """The totals over `banks` (name, transactions), released now or read from `folder`.

    `payment`: needed for a plan with noise, and asked before any count is made. Raises whatever it raises,
    `StatisticsError`, `AggregationError`, `secagg.errors.SecAggError`.
    """
    done = read_totals(folder, plan)
    if plan.noise is not None and payment is None:
        raise StatisticsError("a noisy release is paid for: expected the banks' ledgers, got none")
    if done is not None:
        if payment is not None:
            payment.require_paid(done.release)
        return done
    start = time.perf_counter()
    drafts = _Drafts(banks, plan, keys, folder)
    if payment is not None:
        drafts.keep_if_paid(payment)
        payment.require_room(drafts.release)
    folder.mkdir(parents=True, exist_ok=True)
    summed = encrypted_sum(
        [partial(drafts.of, position, payment) for position in range(len(banks))],
        length=plan.length,
        largest=plan.largest,
        model_hash=named(plan, banks[0][1].schema.sha256).hex(),
        engine=engine,
    )
    totals = Totals(plan, summed.totals.reshape(plan.shape))
    seconds = time.perf_counter() - start
    released = ReleasedCounts(totals, seconds, summed.bytes_up, summed.bytes_down, summed.value_bits, drafts.release)
    _write_totals(folder, released, keys)
    drafts.delete()
    return released


@dataclass
class _Drafts:
    """What the banks contribute to one release, all of it drawn together.

    `release`: the hash of the drafts, of what they count and of where their keys stand; None before they are drawn.
    """

    banks: Sequence[tuple[str, Transactions]]
    plan: StatisticsPlan
    keys: KeySlots
    folder: Path
    release: str | None = None
    paid: bool = False
    held: list[Integers] = field(default_factory=list, repr=False)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"contribution-{i}.npy" for i in range(len(self.banks))]

    def keep_if_paid(self, payment: Payment) -> None:
        """Take the drafts on disk where a ledger has paid for them. Others were contributed by nobody."""
        drafts = [_read_draft(path, self.plan) for path in self.paths]
        held = [draft for draft in drafts if draft is not None]
        if len(held) == len(drafts) and payment.began(release := self._hash(held)):
            self.held, self.release = held, release

    def of(self, position: int, payment: Payment | None, roster: int) -> Integers:
        """What one bank encrypts for a closed roster of `roster` banks: paid for, when this returns."""
        if payment is None:
            return self._drawn(position, roster)
        if self.release is None:
            self.held = [self._drawn(i, roster) for i in range(len(self.banks))]
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
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _drawn(self, position: int, roster: int) -> Integers:
        _, table = self.banks[position]
        return contribution(bank_counts(table, self.keys, self.plan), self.plan, roster)

    def _hash(self, drafts: Sequence[Integers]) -> str:
        digest = hashlib.sha256(named(self.plan, self.banks[0][1].schema.sha256))
        digest.update(hashlib.sha256(self.keys.salt).digest())
        for draft in drafts:
            digest.update(hashlib.sha256(np.ascontiguousarray(draft, dtype="<i8").tobytes()).digest())
        return digest.hexdigest()


def named(plan: StatisticsPlan, schema_sha256: str) -> bytes:
    """32 bytes that name this statistic: its mode, days, shape and schema."""
    text = f"fl statistics v1|{plan.mode}|{plan.periods}|{plan.shape}|{plan.min_banks}|{plan.noise}|{schema_sha256}"
    return hashlib.sha256(text.encode()).digest()


def read_totals(folder: Path, plan: StatisticsPlan) -> ReleasedCounts | None:
    """What `folder` holds of a release under `plan`; None before there is one.

    Raises `StatisticsError` when it holds another plan's.
    """
    path = folder / TOTALS
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        if bytes(file["plan"]) != named(plan, ""):
            raise StatisticsError(f"{path} holds totals of another plan: the run's data or options have changed")
        seconds, up, down, bits = file["costs"].tolist()
        release = json.loads(bytes(file["about"])).get("release") if "about" in file else None
        return ReleasedCounts(Totals(plan, file["sums"]), seconds, int(up), int(down), int(bits), release)


def load_release(folder: Path) -> tuple[Totals, KeySlots]:
    """The totals in `folder` and where their keys stand, without the data they were made from.

    Raises `StatisticsError` when there are none or they are damaged.
    """
    try:
        with np.load(folder / TOTALS, allow_pickle=False) as file:
            about, sums = json.loads(bytes(file["about"])), file["sums"]
        noise = None if about["noise"] is None else plan_noise(**about["noise"])
        periods = tuple(Days(first, last) for first, last in about["periods"])
        plan = StatisticsPlan(about["mode"], periods, about["slots"], about["min_banks"], noise)
        return Totals(plan, sums), KeySlots(tuple(about["directory"]), about["buckets"], bank_salt(folder))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        RecursionError,
        BadZipFile,
        zlib.error,
    ) as fault:
        raise StatisticsError(f"{folder / TOTALS}: no released totals that can be read ({fault})") from fault


def _write_totals(folder: Path, released: ReleasedCounts, keys: KeySlots) -> None:
    plan, buffer = released.totals.plan, io.BytesIO()
    costs = np.array([released.seconds, released.bytes_up, released.bytes_down, released.value_bits], np.float64)
    noise = plan.noise
    about = {
        "mode": plan.mode,
        "periods": [(period.first, period.last) for period in plan.periods],
        "slots": plan.slots,
        "min_banks": plan.min_banks,
        "noise": None if noise is None else {k: getattr(noise, k) for k in ("sigma", "banks", "colluders")},
        "directory": keys.directory,
        "buckets": keys.buckets,
        "release": released.release,
    }
    np.savez_compressed(
        buffer,
        sums=released.totals.sums,
        costs=costs,
        plan=np.frombuffer(named(plan, ""), np.uint8),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    )
    replace_durably(folder / TOTALS, buffer.getvalue())


def _read_draft(path: Path, plan: StatisticsPlan) -> Integers | None:
    """The noised integers at `path`; None where there are none that a bank could have contributed under `plan`."""
    try:
        draft: Integers = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(draft, np.ndarray) and draft.dtype == np.int64 and draft.shape == (plan.length,)
    return draft if fits else None
