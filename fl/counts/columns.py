"""Features of a transaction from totals over all banks, which replace or supplement a bank's own terminal windows.

What it does: turns `Totals` into scaled columns for rows of a given day and key, and a federation with bank-local
features into one with shared columns as well.

A row of day d uses only periods whose labels were all known when day d began; a day beyond the last release uses the
newest one there is.

Exact windows stand in for the bank's own windows of the same length; the bank's own one-day window stays. Where a
cell is suppressed, or nothing is released yet, the bank's own window stays in its place: a threshold hides what other
banks know, never what the bank counted itself. Under noise the bank's exact own windows stay beside the shared
columns, and frauds enter as z-scores, since a ratio of two noisy numbers is mostly a statement about its denominator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fl.counts.key_slots import KeySlots
from fl.counts.plan import StatisticsPlan, Totals
from fl.data.features import features
from fl.data.federation import BankData, Federation, Rows
from fl.data.reading import Transactions
from fl.data.schema import Schema

Z_SCALE = 0.5  # of a z-score: 6 sigma then reach the bound of 3


@dataclass(frozen=True)
class SharedColumns:
    """Columns made of released totals, for any row with a day and a key."""

    schema: Schema
    keys: KeySlots
    totals: Totals

    def extend(
        self, x: NDArray[np.float32], day: NDArray[np.int32], identifiers: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """float32[n, d']: the bank's own columns that stay, then the shared ones, within +-bound.

        `x`: float32[n, d], the schema's features as the bank computed them; `day`: int32[n]; `identifiers`:
        object[n], the rows' keys.
        """
        own = [feature.name for feature in features(self.schema)]
        replaced = [own.index(name) for name in replaced_names(self.schema, self.totals.plan)]
        kept = [i for i in range(len(own)) if i not in replaced]
        distinct, code = np.unique(identifiers.astype(str), return_inverse=True)
        slot = self.keys.of(distinct.astype(object))[code]
        exact = self.totals.plan.mode == "exact windows"
        columns = self._windows(day, slot, x[:, replaced]) if exact else self._increments(day, slot)
        bound = self.schema.bound
        shared = np.clip(np.stack(columns, axis=1), -bound, bound).astype(np.float32)
        return np.concatenate([x[:, kept], shared], axis=1)

    def _windows(
        self, day: NDArray[np.int32], slot: NDArray[np.int64], own: NDArray[np.float32]
    ) -> list[NDArray[np.float64]]:
        """Count and risk per window over all banks; `own` (float32[n, windows * 2]) where the cell says nothing."""
        windows, counts, suppressed = shared_windows(self.schema), self.totals.counts(), self.totals.suppressed
        ends = np.array([period.last for period in self.totals.plan.periods[:: len(windows)]])
        newest = np.searchsorted(ends, day - self.schema.label.delay_days - 1, side="right") - 1
        columns = []
        for i, days in enumerate(windows):
            period = np.maximum(newest, 0) * len(windows) + i
            unknown = (newest < 0) | suppressed[period, slot]
            transactions, frauds = counts[period, slot, 0], counts[period, slot, 1]
            count = np.log1p(transactions) - np.log1p(self.schema.parties.terminal_per_day * days)
            risk = frauds / np.maximum(transactions, 1) * self.schema.bound
            columns.append(np.where(unknown, own[:, 2 * i], count))
            columns.append(np.where(unknown, own[:, 2 * i + 1], risk))
        return columns

    def _increments(self, day: NDArray[np.int32], slot: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        plan = self.totals.plan
        assert plan.noise is not None
        counts = self.totals.counts()
        running = np.concatenate([np.zeros((1, *counts.shape[1:])), np.cumsum(counts, axis=0)])
        ends = np.array([period.last for period in plan.periods])
        known = np.searchsorted(ends, day - self.schema.label.delay_days - 1, side="right")

        def total(depth: int, column: int) -> NDArray[np.float64]:
            until, since = running[known, slot, column], running[np.maximum(known - depth, 0), slot, column]
            span: NDArray[np.float64] = until - since
            return span

        block = len(plan.periods[0])
        depths = block_depths(self.schema, block)
        usual = self.schema.parties.terminal_per_day * depths[-1] * block
        columns = [np.log1p(np.maximum(total(depths[-1], 0), 0)) - np.log1p(usual)]
        for depth in depths:
            columns.append(Z_SCALE * total(depth, 1) / (plan.noise.released_sigma * np.sqrt(depth)))
        return columns


def input_names(schema: Schema, plan: StatisticsPlan | None) -> tuple[str, ...]:
    """Names of all inputs of a model, in column order. `plan`: of the release whose columns it has; None: of none."""
    own = tuple(feature.name for feature in features(schema))
    if plan is None:
        return own
    replaced = replaced_names(schema, plan)
    return (*(name for name in own if name not in replaced), *shared_names(schema, plan))


def shared_names(schema: Schema, plan: StatisticsPlan) -> tuple[str, ...]:
    """Names of the columns that a release under `plan` gives."""
    if plan.mode == "exact windows":
        windows, figures = shared_windows(schema), ("count", "risk")
        return tuple(f"terminal_{what}_{days}d_all_banks" for days in windows for what in figures)
    block = len(plan.periods[0])
    depths = block_depths(schema, block)
    frauds = (f"terminal_frauds_{depth * block}d_all_banks" for depth in depths)
    return (f"terminal_count_{depths[-1] * block}d_all_banks", *frauds)


def replaced_names(schema: Schema, plan: StatisticsPlan) -> tuple[str, ...]:
    """Names of a bank's own features that columns of a release under `plan` stand in for."""
    if plan.mode != "exact windows":
        return ()
    return tuple(f"terminal_{what}_{days}d" for days in shared_windows(schema) for what in ("count", "risk"))


def block_depths(schema: Schema, block: int) -> tuple[int, ...]:
    """On how many blocks of `block` days each fraud column looks back.

    That is 1, 2, 4, ... and as many as the longest window holds.
    """
    deepest = max(1, round(max(schema.windows_days) / block))
    return tuple(sorted({1, deepest, *(2**i for i in range(1, deepest.bit_length()) if 2**i < deepest)}))


def shared_windows(schema: Schema) -> tuple[int, ...]:
    """Lengths, in days, of the windows that banks share: all but one day, which stays each bank's own."""
    return tuple(days for days in schema.windows_days if days > 1)


def keys_of(table: Transactions, index: NDArray[np.int64]) -> NDArray[np.object_]:
    """object[n]: terminal identifiers of the rows with these source positions."""
    assert table.terminal is not None
    order = np.argsort(table.index)
    position = order[np.searchsorted(table.index[order], index)]
    keys: NDArray[np.object_] = table.terminal.ids[table.terminal.code[position]]
    return keys


def with_shared_columns(federation: Federation, table: Transactions, shared: SharedColumns) -> Federation:
    """The federation whose rows carry shared columns too; `table` holds all rows of its source."""

    def extend(rows: Rows) -> Rows:
        return replace(rows, x=shared.extend(rows.x, rows.day, keys_of(table, rows.index)))

    banks = tuple(
        BankData(bank.name, extend(bank.train), extend(bank.validation), tuple(extend(test) for test in bank.test))
        for bank in federation.banks
    )
    return replace(federation, banks=banks, feature_names=input_names(shared.schema, shared.totals.plan))
