"""Counts per key and period over all banks: what each contributes, and what the released totals say.

What it does: plans which periods are shared (`windows_plan`, `fraud_blocks_plan`), counts one bank's rows
(`bank_counts`), prepares a bank's integers for an encrypted sum, noise share included (`contribution`), and reads the
released sums (`Totals`).

The modes, and what each promises:

- `private fraud counts`, the default. The days are cut into disjoint blocks. A fraud enters one count for each kind of
  party that is shared: that of its own party, in the block of its own transaction day, if it was labelled when that
  block was closed, which is the label delay after the block's last day. A released block never changes: later labels
  are left out, and corrections are ignored. Nothing else is counted, neither transactions nor banks. With noise,
  every bank adds a share of it before it encrypts: the discrete Laplace mechanism (`fl.privacy.discrete_laplace`) or a
  discrete Gaussian (`fl.privacy.noise_shares`). Without noise, in runs without privacy, the same blocks are exact.
- `exact windows`, without differential privacy only. Per day and terminal, the exact totals of the windows that end
  when labels are known. Cells with fewer than `min_banks` contributing banks are suppressed, by whoever reads the
  release: this protects against honest parties only. Windows overlap, so that totals of successive days can be
  differenced: suppression is no defence against that.
- `private increments`: totals of earlier versions, with noisy counts of transactions and frauds. They are read, so that
  models of those runs still score, and never made again.

The unit is one transaction with its label, added or removed: it moves `moved` counts in all by one, and no count by
more than `reports`. Changing a label from fraud to genuine moves as much. Moving a fraud to another key or block moves
twice as much and costs twice the epsilon; a row that stands there m times costs m times the epsilon. It is no claim
about a card, a customer or a party as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl.counts.episodes import BlockCounts
from fl.counts.key_slots import AllSlots, sections_of
from fl.data.reading import Transactions
from fl.data.schema import Days
from fl.errors import StatisticsError
from fl.options import MOST_BANKS
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.discrete_laplace import LaplacePlan, laplace_share
from fl.privacy.mechanisms import Counts, laplace_counts, noisy_counts
from fl.privacy.noise_shares import NoisePlan
from fl.privacy.randomness import Entropy

Integers = NDArray[np.int64]
Mode = Literal["exact windows", "private increments", "private fraud counts"]
Noise = LaplacePlan | NoisePlan

LARGEST_COUNT = 2**15 - 1  # of one bank in one cell
COLUMNS = ("transactions", "frauds", "banks")
MOST_HISTORY = 182  # days before the first day with features: half a year tells how long episodes last


@dataclass(frozen=True)
class StatisticsPlan:
    """What is shared, alike for every bank. All of it is public.

    periods: days of each block or window, both ends included. slots: of all kinds together. noise: None for exact
    counts. kinds: (kind of party, its slots), in the order of the slots; terminals alone when empty. reports: how many
    banks count one transaction.
    """

    mode: Mode
    periods: tuple[Days, ...]
    slots: int
    min_banks: int
    noise: Noise | None
    kinds: tuple[tuple[str, int], ...] = ()
    reports: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", self.kinds or (("terminal", self.slots),))
        if not self.periods or self.slots < 1:
            raise StatisticsError(f"expected periods and slots to share, got {len(self.periods)} and {self.slots}")
        if self.min_banks < 1:
            raise StatisticsError(f"min_banks: expected at least 1, got {self.min_banks}")
        if self.reports not in (1, 2):
            raise StatisticsError(f"reports: expected 1 or 2 banks that count a transaction, got {self.reports}")
        if sum(slots for _, slots in self.kinds) != self.slots or any(slots < 1 for _, slots in self.kinds):
            raise StatisticsError(f"kinds: expected {self.slots} slots in all, got {self.kinds}")
        if self.counts_frauds and self.min_banks != 1:
            raise StatisticsError(
                "min_banks: counts of frauds alone are not suppressed, since nobody counts the banks behind them; "
                f"expected 1, got {self.min_banks}: use --min-banks 1"
            )
        if not self.counts_frauds and (len(self.kinds) > 1 or self.reports > 1):
            raise StatisticsError(f"{self.mode}: expected terminals alone, counted by one bank, got {self.kinds}")
        disjoint = all(later.first > earlier.last for earlier, later in pairwise(self.periods))
        if (self.counts_frauds or self.noise is not None) and not disjoint:
            raise StatisticsError("blocks of counts must be disjoint and in order: a transaction would be paid twice")

    @property
    def counts_frauds(self) -> bool:
        """Whether frauds are all that is counted."""
        return self.mode == "private fraud counts"

    @property
    def columns(self) -> int:
        """Counts of one cell; 3 of exact windows where cells may be suppressed, which needs counts of banks."""
        if self.counts_frauds:
            return 1
        return 2 if self.min_banks == 1 else 3

    @property
    def column_names(self) -> tuple[str, ...]:
        return ("frauds",) if self.counts_frauds else COLUMNS[: self.columns]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(periods, slots, columns) of a bank's counts and of the totals."""
        return len(self.periods), self.slots, self.columns

    @property
    def length(self) -> int:
        """Integers in one encrypted sum."""
        return len(self.periods) * self.slots * self.columns

    @property
    def moved(self) -> int:
        """L1 norm of what one transaction with its label adds to all banks' counts of frauds."""
        return len(self.kinds) * self.reports

    @property
    def resolution(self) -> int:
        """Grid units per event."""
        return 1 if self.noise is None else self.noise.resolution

    @property
    def days(self) -> tuple[int, int]:
        """First and last day whose transactions are counted."""
        return min(p.first for p in self.periods), max(p.last for p in self.periods)

    @property
    def sections(self) -> dict[str, slice]:
        """By kind, its slots."""
        return sections_of(self.kinds)

    @property
    def largest(self) -> int:
        """Largest integer that one bank contributes: a full cell, and noise within its tail bound."""
        tail = 0 if self.noise is None else self.noise.tail(self.length)
        return LARGEST_COUNT * self.resolution + tail

    @property
    def entry(self) -> Counts | None:
        """What a bank's ledger is told of the release; None without noise."""
        match self.noise:
            case None:
                return None
            case LaplacePlan():
                return laplace_counts(self.noise, len(self.kinds), self.days, reports=self.reports)
            case NoisePlan():
                columns = len(self.kinds) if self.counts_frauds else self.columns
                return noisy_counts(self.noise, columns, self.days, reports=self.reports)


def windows_plan(days: Sequence[int], windows: Sequence[int], delay: int, slots: int, min_banks: int) -> StatisticsPlan:
    """Exact windows for features of `days`: for each day d and window w, the days d - delay - w to d - delay - 1.

    Labels of day x are all known when day x + delay ends, so a feature of day d looks back from d - delay - 1.
    """
    ends = [day - delay - 1 for day in sorted(set(days))]
    periods = tuple(Days(end - window + 1, end) for end in ends for window in windows)
    return StatisticsPlan("exact windows", periods, slots, min_banks, None)


def fraud_blocks_plan(
    days: Sequence[int],
    first_day: int,
    delay: int,
    block: int,
    kinds: Sequence[tuple[str, int]],
    noise: Noise | None,
    *,
    reports: int = 1,
) -> StatisticsPlan:
    """Disjoint blocks of `block` days with counts of frauds, for features of `days`.

    The calendar of blocks is the same for every run: block i holds the days i * block to (i + 1) * block - 1. The
    first block begins no earlier than `first_day`, that of the data, and `MOST_HISTORY` days before the first of
    `days` with its label delay; the last one is closed when the last of `days` begins. Raises `StatisticsError` where
    no block fits between.
    """
    if block < 1:
        raise StatisticsError(f"blocks: expected at least one day each, got {block}")
    first = -(-max(first_day, min(days) - delay - MOST_HISTORY) // block)
    last = (max(days) - delay) // block  # blocks before this one are complete and their labels known
    if first >= last:
        raise StatisticsError(
            f"no block of {block} days fits between the first day of the data ({first_day}) and the label delay of "
            f"{delay} days before the last day with features ({max(days)}): use a smaller --increment-days"
        )
    periods = tuple(Days(i * block, (i + 1) * block - 1) for i in range(first, last))
    slots = sum(size for _, size in kinds)
    return StatisticsPlan("private fraud counts", periods, slots, 1, noise, tuple(kinds), reports)


def increments_plan(
    days: Sequence[int], longest: int, delay: int, block: int, slots: int, min_banks: int, noise: NoisePlan
) -> StatisticsPlan:
    """The plan of counts that an earlier version released, to read them: transactions and frauds in disjoint blocks.

    The blocks are those on which features of `days` with windows up to `longest` days look back.
    """
    first = (min(days) - delay - longest) // block
    last = (max(days) - delay) // block
    periods = tuple(Days(i * block, (i + 1) * block - 1) for i in range(first, last))
    return StatisticsPlan("private increments", periods, slots, min_banks, noise)


def bank_counts(table: Transactions, keys: AllSlots, plan: StatisticsPlan) -> Integers:
    """int64[periods, slots, columns]: one bank's exact counts. Plaintext: never log it, never send it.

    Raises `StatisticsError` when the table has no days, keys or labels, when a cell exceeds `LARGEST_COUNT`, or for
    a mode that is no longer counted.
    """
    if plan.mode == "private increments":
        raise StatisticsError(
            "this run was begun by an earlier version and has released no counts yet; they are counted differently "
            "now: start the run anew"
        )
    if table.label is None or table.time is None or any(table.party(kind) is None for kind, _ in plan.kinds):
        named = " and ".join(kind for kind, _ in plan.kinds)
        raise StatisticsError(f"{table.source}: shared counts need a time, a {named} and a label column")
    counts = _frauds(table, keys, plan) if plan.counts_frauds else _windows(table, keys, plan)
    if (most := int(counts.max())) > LARGEST_COUNT:
        raise StatisticsError(
            f"{table.source}: a key has {most} transactions in one period and a lane holds {LARGEST_COUNT}: "
            "share shorter periods"
        )
    return counts


def _frauds(table: Transactions, keys: AllSlots, plan: StatisticsPlan) -> Integers:
    """Frauds by block and slot, those whose label came in time."""
    first, last = plan.days
    block_of = np.full(last - first + 1, -1, np.int64)
    for i, period in enumerate(plan.periods):
        block_of[period.first - first : period.last - first + 1] = i
    frauds = table.take((table.label == 1) & (table.day >= first) & (table.day <= last) & in_time(table, plan.periods))
    block = block_of[frauds.day - first]
    counted = block >= 0
    counts = np.zeros(plan.shape, np.int64)
    for kind, section in plan.sections.items():
        party = frauds.party(kind)
        assert party is not None
        used, code = np.unique(party.code[counted], return_inverse=True)
        slot = keys.of(kind, party.ids[used])[code] if len(used) else np.empty(0, np.int64)
        if len(slot) and not section.start <= slot.min() <= slot.max() < section.stop:
            raise StatisticsError(f"slots: those of the {kind} are not where the plan has them")
        np.add.at(counts[:, :, 0], (block[counted], slot), 1)
    return counts


def in_time(table: Transactions, periods: Sequence[Days]) -> NDArray[np.bool_]:
    """bool[n]: False for frauds whose label came after their count was closed: their block's, or else their day's."""
    assert table.label is not None
    if table.known_day is None:
        return np.ones(len(table), bool)
    closes = table.day.astype(np.int64)
    if periods:
        first = np.array([period.first for period in periods])
        last = np.array([period.last for period in periods])
        block = np.searchsorted(first, closes, side="right") - 1
        held = (block >= 0) & (closes <= last[block])
        closes = np.where(held, last[block], closes)
    timely: NDArray[np.bool_] = (table.label == 0) | (table.known_day <= closes + table.schema.label.delay_days)
    return timely


def _windows(table: Transactions, keys: AllSlots, plan: StatisticsPlan) -> Integers:
    """Transactions, frauds and, where the plan has them, presence, by window and terminal."""
    assert table.terminal is not None and table.label is not None
    first, last = plan.days
    within = (table.day >= first) & (table.day <= last)
    slot = np.empty(0, np.int64)
    if within.any():
        slot = keys.of("terminal", table.terminal.ids)[table.terminal.code[within]]
    cell = (table.day[within].astype(np.int64) - first) * plan.slots + slot
    cells = (last - first + 1) * plan.slots
    counts = np.zeros(plan.shape, np.int64)
    for column, of in enumerate((None, table.label[within])):
        daily = np.bincount(cell if of is None else cell[of == 1], minlength=cells).reshape(-1, plan.slots)
        running = np.concatenate([np.zeros((1, plan.slots), np.int64), np.cumsum(daily, axis=0)])
        for i, period in enumerate(plan.periods):
            counts[i, :, column] = running[period.last + 1 - first] - running[period.first - first]
    if plan.columns == 3:
        counts[:, :, 2] = counts[:, :, 0] > 0
    return counts


def contribution(counts: Integers, plan: StatisticsPlan, roster: int, *, entropy: Entropy = os.urandom) -> Integers:
    """int64[plan.length]: what a bank encrypts for a closed roster of `roster` banks.

    Without noise the counts themselves; with it, counts * resolution and a fresh share of the noise, bounded to the
    lane (beyond which lies 2^-100 of its probability). `entropy` is a parameter for tests only. Raises
    `StatisticsError` when the roster is not the one the noise was planned for: fewer banks would add too little noise.
    """
    flat = counts.reshape(-1)
    if plan.noise is None:
        return flat
    if roster != plan.noise.banks:
        raise StatisticsError(f"noise: planned for {plan.noise.banks} banks, and the roster holds {roster}; plan anew")
    match plan.noise:
        case LaplacePlan():
            share = laplace_share(plan.length, plan.noise, entropy=entropy)
        case NoisePlan():
            share = discrete_gaussian(plan.length, plan.noise.share_variance, entropy=entropy)
    noised: Integers = np.clip(flat * plan.resolution + share, -plan.largest, plan.largest)
    return noised


@dataclass(frozen=True)
class Totals:
    """What a release says. `sums`: int64[periods, slots, columns], in grid units, as decrypted."""

    plan: StatisticsPlan
    sums: Integers = field(repr=False)

    def __post_init__(self) -> None:
        if self.sums.shape != self.plan.shape:
            raise StatisticsError(f"totals: expected shape {self.plan.shape}, got {self.sums.shape}")
        if self.sums.dtype != np.int64:
            raise StatisticsError(f"totals: expected integers of 64 bits, got {self.sums.dtype}")
        banks = MOST_BANKS if self.plan.noise is None else self.plan.noise.banks
        if int(self.sums.max()) > banks * self.plan.largest or int(self.sums.min()) < -banks * self.plan.largest:
            raise StatisticsError(f"totals: expected sums of at most {banks} x {self.plan.largest}, got larger ones")

    @property
    def suppressed(self) -> NDArray[np.bool_]:
        """bool[periods, slots]: cells in which fewer than `min_banks` banks contributed, by the (noised) here-count.

        With a threshold of one bank nothing is suppressed: an empty cell says 0.
        """
        if self.plan.columns < 3:
            return np.zeros(self.sums.shape[:2], bool)
        return self.sums[:, :, 2] < self.plan.min_banks * self.plan.resolution

    def counts(self) -> NDArray[np.float64]:
        """float64[periods, slots, 2]: transactions and frauds, in events; 0 in suppressed cells.

        Raises `StatisticsError` where only frauds were counted.
        """
        if self.plan.counts_frauds:
            raise StatisticsError("totals: these are counts of frauds alone, expected transactions as well")
        events = self.sums[:, :, :2] / self.plan.resolution
        return np.where(self.suppressed[:, :, None], 0.0, events)

    def frauds(self) -> NDArray[np.float64]:
        """float64[periods, slots]: frauds, in events, noise included; 0 in suppressed cells."""
        if self.plan.counts_frauds:
            return self.sums[:, :, 0] / self.plan.resolution
        return self.counts()[:, :, 1]

    def blocks(self, kind: str = "terminal") -> BlockCounts:
        """The counts of frauds of one kind of party, with the law of their noise, for the filter.

        Raises `StatisticsError` where no counts of frauds alone were released, or none of this kind.
        """
        plan = self.plan
        if not plan.counts_frauds or kind not in plan.sections:
            raise StatisticsError(
                f"totals: expected counts of frauds alone by {kind}, got {plan.mode} by "
                f"{', '.join(kind for kind, _ in plan.kinds)}"
            )
        law = None if plan.noise is None else plan.noise.pmf()
        return BlockCounts(plan.periods, self.frauds()[:, plan.sections[kind]], law, plan.resolution)
