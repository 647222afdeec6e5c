"""One release of shared statistics: paid for, noised, summed under encryption and kept, so that it happens once.

What it does: `share_statistics` returns the totals of a plan, from the run folder where they are already there.

Order, which the budget rests on:

1. Every bank's ledger is asked whether it has room for the release, or nothing happens.
2. The roster closes; each bank draws its noise share, and its noised integers (its draft) are on its disk, synced.
3. Every bank's ledger holds the release, synced, by the hash of the drafts. Only then is any of them contributed.
4. The totals are on disk; only then are the drafts deleted.

A payment is for its drafts and for nothing else: a run's name in a ledger buys nothing. A process killed after 3 and
started again contributes *the same* drafts to the roster of the same banks. Where one of them is lost or changed, or
the totals are lost after 4, or the roster is another one, or a copy of the run folder draws for itself, all drafts are
drawn anew and paid for anew: to add one old draft to a new sum would show its bank's counts under less noise than was
paid for. In a deployment each bank keeps its own file; here one process plays all of them.

The sum is that of all members or there is none: the key holder aborts where one of them is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fl.counts.drafts import Drafts, named
from fl.counts.kept_drafts import Payment
from fl.counts.key_slots import SALT_BYTES, AllSlots, KeySlots
from fl.counts.plan import Noise, StatisticsPlan, Totals
from fl.data.reading import Transactions
from fl.data.schema import Days
from fl.durable import replace_durably
from fl.errors import BudgetError, SchemaError, StatisticsError
from fl.privacy.discrete_laplace import LaplacePlan, plan_laplace
from fl.privacy.noise_shares import plan_noise
from fl.secure.session import encrypted_sum

TOTALS = "totals.npz"
UNREADABLE = (  # what reading a damaged file raises
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RecursionError,
    BadZipFile,
    zlib.error,
    BudgetError,  # a noise that cannot be
    SchemaError,  # days that cannot be
)


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
    keys: AllSlots,
    folder: Path,
    *,
    payment: Payment | None = None,
    engine: str = "auto",
) -> ReleasedCounts:
    """The totals over `banks` (name, transactions), released now or read from `folder`.

    `payment`: needed for a plan with noise, and asked before any count is made. Raises whatever it raises,
    `StatisticsError`, `AggregationError`, `secagg.errors.SecAggError`.
    """
    members = [name for name, _ in banks]
    done = read_totals(folder, plan, members)
    if plan.noise is not None and payment is None:
        raise StatisticsError("a noisy release is paid for: expected the banks' ledgers, got none")
    if done is not None:
        if payment is not None:
            payment.require_paid(done.release)
        return done
    start = time.perf_counter()
    if plan.noise is not None and len(banks) != plan.noise.banks:
        raise StatisticsError(f"noise: planned for {plan.noise.banks} banks, got {len(banks)}; plan anew")
    drafts = Drafts(banks, plan, keys, folder)
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
    write_totals(folder, released, keys, members)
    drafts.delete()
    return released


def read_totals(folder: Path, plan: StatisticsPlan, members: Sequence[str]) -> ReleasedCounts | None:
    """What `folder` holds of a release under `plan` over the banks `members`; None before there is one.

    Raises `StatisticsError` when it holds another plan's or other banks'.
    """
    path = folder / TOTALS
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            of_plan, costs, sums = bytes(file["plan"]), file["costs"].tolist(), file["sums"]
            about = json.loads(bytes(file["about"])) if "about" in file else {}
        release, of_members = about.get("release"), about.get("members", list(members))
        seconds, up, down, bits = costs
    except UNREADABLE as fault:
        raise StatisticsError(f"{path}: no released totals that can be read ({fault})") from fault
    if of_plan != named(plan, ""):
        raise StatisticsError(f"{path} holds totals of another plan: the run's data or options have changed")
    if of_members != list(members):
        raise StatisticsError(f"{path} holds totals of other banks: expected those of {', '.join(members)}")
    return ReleasedCounts(Totals(plan, sums), seconds, int(up), int(down), int(bits), release)


def load_release(folder: Path) -> tuple[Totals, AllSlots]:
    """The totals in `folder` and where their keys stand, without the data they were made from.

    Raises `StatisticsError` when there are none or they are damaged.
    """
    try:
        with np.load(folder / TOTALS, allow_pickle=False) as file:
            about, sums = json.loads(bytes(file["about"])), file["sums"]
        periods = tuple(Days(first, last) for first, last in about["periods"])
        # Earlier versions counted terminals alone.
        listed = about.get("kinds") or [{"kind": "terminal", **{k: about[k] for k in ("directory", "buckets")}}]
        salt = bank_salt(folder)
        keys = AllSlots(tuple(KeySlots(tuple(k["directory"]), k["buckets"], salt, k["kind"]) for k in listed))
        kinds = tuple((each.kind, each.size) for each in keys.kinds)
        noise, reports = _noise_of(about["noise"]), about.get("reports", 1)
        plan = StatisticsPlan(about["mode"], periods, about["slots"], about["min_banks"], noise, kinds, reports)
        return Totals(plan, sums), keys
    except UNREADABLE as fault:
        raise StatisticsError(f"{folder / TOTALS}: no released totals that can be read ({fault})") from fault


def totals_digest(folder: Path) -> str:
    """SHA-256, hex, of the totals in `folder`: their plan, keys and sums, and not what making them took.

    Equal exact counts have equal digests. Raises `StatisticsError` as `load_release` does.
    """
    path = folder / TOTALS
    try:
        with np.load(path, allow_pickle=False) as file:
            about, plan, sums = json.loads(bytes(file["about"])), bytes(file["plan"]), file["sums"]
        told = {name: value for name, value in about.items() if name != "release"}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        digest.update(plan)
        digest.update(np.ascontiguousarray(sums).data.cast("B"))
    except UNREADABLE as fault:
        raise StatisticsError(f"{path}: no released totals that can be read ({fault})") from fault
    return digest.hexdigest()


def _noise_of(stored: Any) -> Noise | None:
    """The inverse of `_stored_noise`. Raises what `load_release` turns into a `StatisticsError`."""
    if stored is None:
        return None
    return plan_laplace(**stored) if "epsilon" in stored else plan_noise(**stored)


def _stored_noise(noise: Noise | None) -> dict[str, Any] | None:
    match noise:
        case None:
            return None
        case LaplacePlan():
            return asdict(noise)
        case _:
            return {name: getattr(noise, name) for name in ("sigma", "banks", "colluders")}


def write_totals(folder: Path, released: ReleasedCounts, keys: AllSlots, members: Sequence[str]) -> None:
    """Keep a release in `folder`, where `load_release` finds it. `members`: of the roster, in order."""
    plan, buffer = released.totals.plan, io.BytesIO()
    costs = np.array([released.seconds, released.bytes_up, released.bytes_down, released.value_bits], np.float64)
    about = {
        "mode": plan.mode,
        "periods": [(period.first, period.last) for period in plan.periods],
        "slots": plan.slots,
        "min_banks": plan.min_banks,
        "noise": _stored_noise(plan.noise),
        "kinds": [{"kind": each.kind, "directory": each.directory, "buckets": each.buckets} for each in keys.kinds],
        "reports": plan.reports,
        "members": members,
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
