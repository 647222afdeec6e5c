"""One release of shared statistics: paid for, noised, summed under encryption and kept, so that it happens once.

What it does: `share_statistics` returns the totals of a plan, from the run folder where they are already there.

What it leaves to others: counting (`fl.statistics`), the encrypted sum (`fl.secure`), the ledger's rule
(`fl.privacy`, through `pay`).

Order, which the budget rests on:

1. `pay`: every bank's ledger holds the release, synced, or nothing happens.
2. The roster closes; each bank draws its noise share, and its noised integers are on its disk, synced, before they
   are contributed.
3. The totals are on disk; only then are the noised integers deleted.

A process killed between 1 and 3 and started again contributes *the same* noised integers to a roster of the same
banks, and draws noise only where none was ever contributed. Either way one release leaves the banks, the one that
was paid for. In a deployment each bank keeps its own file; here one process plays all of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl.data import Transactions
from fl.durable import replace_durably
from fl.errors import StatisticsError
from fl.key_slots import SALT_BYTES, KeySlots
from fl.schema import Days
from fl.secure import Draw, encrypted_sum
from fl.shared_noise import plan_noise
from fl.statistics import Integers, StatisticsPlan, Totals, bank_counts, contribution

TOTALS = "totals.npz"


@dataclass(frozen=True)
class Released:
    """Totals, and what making them took; `seconds` and bytes are those of the run that made them."""

    totals: Totals
    seconds: float
    bytes_up: int  # all banks together
    bytes_down: int
    value_bits: int


def bank_salt(folder: Path) -> bytes:
    """The banks' salt for keys outside the directory, made once per run and kept in `folder`."""
    path = folder / "salt"
    if not path.exists():
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
    pay: Callable[[], None],
    engine: str = "auto",
) -> Released:
    """The totals over `banks` (name, transactions), released now or read from `folder`.

    `pay` records the release in every bank's ledger, unless it is there already, or refuses; it is called before any
    count is made. Raises whatever `pay` raises, `StatisticsError`, `AggregationError`, `secagg.errors.SecAggError`.
    """
    if (done := read_totals(folder, plan)) is not None:
        return done
    pay()
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    drafts = [folder / f"contribution-{i}.npy" for i in range(len(banks))]

    def draw_for(table: Transactions, draft: Path) -> Draw:
        def prepared(roster: int) -> Integers:
            return contribution(bank_counts(table, keys, plan), plan, roster)

        return lambda roster: _drawn_once(lambda: prepared(roster), draft, plan)

    draws = [draw_for(table, draft) for (_, table), draft in zip(banks, drafts, strict=True)]
    summed = encrypted_sum(
        draws, length=plan.length, largest=plan.largest, bound_to=named(plan, banks[0][1].schema.sha256), engine=engine
    )
    totals = Totals(plan, summed.totals.reshape(plan.shape))
    released = Released(totals, time.perf_counter() - start, summed.bytes_up, summed.bytes_down, summed.value_bits)
    _write_totals(folder, released, keys)
    for draft in drafts:
        draft.unlink(missing_ok=True)
    return released


def named(plan: StatisticsPlan, schema_sha256: str) -> bytes:
    """32 bytes that name this statistic: its mode, days, shape and schema."""
    text = f"fl statistics v1|{plan.mode}|{plan.periods}|{plan.shape}|{plan.min_banks}|{plan.noise}|{schema_sha256}"
    return hashlib.sha256(text.encode()).digest()


def read_totals(folder: Path, plan: StatisticsPlan) -> Released | None:
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
        return Released(Totals(plan, file["sums"]), seconds, int(up), int(down), int(bits))


def load_release(folder: Path) -> tuple[Totals, KeySlots]:
    """The totals in `folder` and where their keys stand, without the data they were made from. Raises
    `StatisticsError` when there are none or they are damaged.
    """
    try:
        with np.load(folder / TOTALS, allow_pickle=False) as file:
            about, sums = json.loads(bytes(file["about"])), file["sums"]
        noise = None if about["noise"] is None else plan_noise(**about["noise"])
        periods = tuple(Days(first, last) for first, last in about["periods"])
        plan = StatisticsPlan(about["mode"], periods, about["slots"], about["min_banks"], noise)
        return Totals(plan, sums), KeySlots(tuple(about["directory"]), about["buckets"], bank_salt(folder))
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise StatisticsError(f"{folder / TOTALS}: no released totals that can be read ({fault})") from fault


def _write_totals(folder: Path, released: Released, keys: KeySlots) -> None:
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
    }
    np.savez_compressed(
        buffer,
        sums=released.totals.sums,
        costs=costs,
        plan=np.frombuffer(named(plan, ""), np.uint8),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    )
    replace_durably(folder / TOTALS, buffer.getvalue())


def _drawn_once(draw: Callable[[], Integers], draft: Path, plan: StatisticsPlan) -> Integers:
    """A bank's noised integers: those it may have contributed before, or fresh ones, on disk before they are used."""
    if plan.noise is None:
        return draw()
    if not draft.exists():
        buffer = io.BytesIO()
        np.save(buffer, draw(), allow_pickle=False)
        replace_durably(draft, buffer.getvalue())
    integers: Integers = np.load(draft, allow_pickle=False)
    return integers
