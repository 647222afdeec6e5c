"""Counts per key and period over all banks: what each contributes, and what the released totals say.

What it does: plans which periods are shared (`windows_plan`, `increments_plan`), counts one bank's transactions,
frauds and presence (`bank_counts`), prepares a bank's integers for an encrypted sum, noise share included
(`contribution`), and reads the released sums (`Totals`).

Two modes, and what each promises:

- `exact windows`, without differential privacy only. Per day and key, the exact totals of the windows that end
  when labels are known. Cells with fewer than `min_banks` contributing banks are suppressed, by whoever reads the
  release: this protects against honest parties only. Windows overlap, so that totals of successive days can be
  differenced: suppression is no defence against that.
- `private increments`, the default. The days are cut into disjoint blocks; each transaction and its label enter
  one block, once, after the label is known. Every bank adds a discrete Gaussian share before it encrypts. Windows
  are sums of released noisy blocks. Suppression thresholds the noised here-count and is post-processing: it adds
  nothing to the promise.

The unit is one transaction with its label, added or removed: it moves each of `columns` counts of one cell by one,
hence sqrt(columns) in L2. It is no claim about a card, a customer or a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl.counts.key_slots import KeySlots
from fl.data.reading import Transactions
from fl.data.schema import Days
from fl.errors import StatisticsError
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.noise_shares import NoisePlan, tail_bound
from fl.privacy.randomness import Entropy

Integers = NDArray[np.int64]
Mode = Literal["exact windows", "private increments"]

LARGEST_COUNT = 2**15 - 1  # of one bank in one cell
COLUMNS = ("transactions", "frauds", "banks")


@dataclass(frozen=True)
class StatisticsPlan:
    """What is shared, alike for every bank. All of it is public.

    periods: days of each block or window, both ends included. `columns`: 3 when here-counts are shared, which only a
    threshold above one bank needs, otherwise 2. `noise` is None for exact windows.
    """

    mode: Mode
    periods: tuple[Days, ...]
    slots: int
    min_banks: int
    noise: NoisePlan | None

    def __post_init__(self) -> None:
        if not self.periods or self.slots < 1:
            raise StatisticsError(f"expected periods and slots to share, got {len(self.periods)} and {self.slots}")
        if self.min_banks < 1:
            raise StatisticsError(f"min_banks: expected at least 1, got {self.min_banks}")
        if self.noise is not None and any(
            later.first <= earlier.last for earlier, later in zip(self.periods, self.periods[1:], strict=False)
        ):
            raise StatisticsError("noisy increments must be disjoint and in order: a transaction would be paid twice")

    @property
    def columns(self) -> int:
        return 2 if self.min_banks == 1 else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(periods, slots, columns) of a bank's counts and of the totals."""
        return len(self.periods), self.slots, self.columns

    @property
    def length(self) -> int:
        """Integers in one encrypted sum."""
        return len(self.periods) * self.slots * self.columns

    @property
    def resolution(self) -> int:
        """Grid units per event."""
        return 1 if self.noise is None else self.noise.resolution

    @property
    def days(self) -> tuple[int, int]:
        """First and last day whose transactions are counted."""
        return min(p.first for p in self.periods), max(p.last for p in self.periods)

    @property
    def largest(self) -> int:
        """Largest integer that one bank contributes: a full cell, and noise within its tail bound."""
        tail = 0 if self.noise is None else tail_bound(self.noise.share_variance, self.length)
        return LARGEST_COUNT * self.resolution + tail


def windows_plan(days: Sequence[int], windows: Sequence[int], delay: int, slots: int, min_banks: int) -> StatisticsPlan:
    """Exact windows for features of `days`: for each day d and window w, the days d - delay - w to d - delay - 1.

    Labels of day x are all known when day x + delay ends, so a feature of day d looks back from d - delay - 1.
    """
    ends = [day - delay - 1 for day in sorted(set(days))]
    periods = tuple(Days(end - window + 1, end) for end in ends for window in windows)
    return StatisticsPlan("exact windows", periods, slots, min_banks, None)


def increments_plan(
    days: Sequence[int], longest: int, delay: int, block: int, slots: int, min_banks: int, noise: NoisePlan
) -> StatisticsPlan:
    """Disjoint blocks of `block` days on a calendar that is the same for every run.

    The blocks are those on which features of `days` with windows up to `longest` days look back.
    """
    if block < 1:
        raise StatisticsError(f"increments: expected at least one day each, got {block}")
    first = (min(days) - delay - longest) // block
    last = (max(days) - delay) // block  # blocks before this one are complete and their labels known
    periods = tuple(Days(i * block, (i + 1) * block - 1) for i in range(first, last))
    return StatisticsPlan("private increments", periods, slots, min_banks, noise)


def bank_counts(table: Transactions, keys: KeySlots, plan: StatisticsPlan) -> Integers:
    """int64[periods, slots, columns]: one bank's exact counts. Plaintext: never log it, never send it.

    Raises `StatisticsError` when the table has no days, keys or labels, or when a cell exceeds `LARGEST_COUNT`.
    """
    if table.terminal is None or table.label is None or table.time is None:
        raise StatisticsError(f"{table.source}: shared counts need a time, a terminal and a label column")
    first, last = plan.days
    within = (table.day >= first) & (table.day <= last)
    slot = keys.of(table.terminal.ids)[table.terminal.code[within]] if within.any() else np.empty(0, np.int64)
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
    if (most := int(counts.max())) > LARGEST_COUNT:
        raise StatisticsError(
            f"{table.source}: a key has {most} transactions in one period and a lane holds {LARGEST_COUNT}: "
            "share shorter periods"
        )
    return counts


def contribution(counts: Integers, plan: StatisticsPlan, roster: int, *, entropy: Entropy = os.urandom) -> Integers:
    """int64[plan.length]: what a bank encrypts for a closed roster of `roster` banks.

    Without noise the counts themselves; with it, counts * resolution and a fresh share of the noise, bounded to the
    lane (beyond which lies 2^-100 of its probability). `entropy` is a parameter for tests only. Raises
    `StatisticsError` when the roster is not the one the noise was planned for.
    """
    flat = counts.reshape(-1)
    if plan.noise is None:
        return flat
    if roster != plan.noise.banks:
        raise StatisticsError(f"noise: planned for {plan.noise.banks} banks, and the roster holds {roster}; plan anew")
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

    @property
    def suppressed(self) -> NDArray[np.bool_]:
        """bool[periods, slots]: cells in which fewer than `min_banks` banks contributed, by the (noised) here-count.

        With a threshold of one bank nothing is suppressed: an empty cell says 0.
        """
        if self.plan.columns == 2:
            return np.zeros(self.sums.shape[:2], bool)
        return self.sums[:, :, 2] < self.plan.min_banks * self.plan.resolution

    def counts(self) -> NDArray[np.float64]:
        """float64[periods, slots, 2]: transactions and frauds, in events; 0 in suppressed cells."""
        events = self.sums[:, :, :2] / self.plan.resolution
        return np.where(self.suppressed[:, :, None], 0.0, events)
