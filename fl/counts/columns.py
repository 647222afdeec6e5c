"""Features of a transaction from totals over all banks, which replace or supplement a bank's own terminal windows.

What it does: turns `Totals` into scaled columns for rows of a given day and key, and a federation with bank-local
features into one with shared columns as well.

A row of day d uses only periods whose labels were all known when day d began; a day beyond the last release uses the
newest one there is.

Exact windows stand in for the bank's own windows of the same length; the bank's own one-day window stays. Where a
cell is suppressed, or nothing is released yet, the bank's own window stays in its place: a threshold hides what other
banks know, never what the bank counted itself. Beside counts of frauds alone the bank's exact own windows stay, and
frauds enter as z-scores: sums of the newest blocks over the standard deviation of their noise, or over 1 event where
the noise is smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl.counts.key_slots import AllSlots
from fl.counts.plan import StatisticsPlan, Totals
from fl.data.features import features
from fl.data.federation import BankData, Federation, Rows
from fl.data.reading import Transactions
from fl.data.schema import Schema
from fl.errors import StatisticsError

Z_SCALE = 0.5  # of a z-score: 6 sigma then reach the bound of 3
LEAST_SIGMA = 1.0  # events, of a z-score of frauds alone: with less noise than that, single frauds fill the bound

Parties = Mapping[str, NDArray[np.object_]]  # by kind: object[n], a row's identifier


@dataclass(frozen=True)
class SharedColumns:
    """Columns made of released totals, for any row with a day and the identifiers of its parties."""

    schema: Schema
    keys: AllSlots
    totals: Totals

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that `extend` gives, in order."""
        return input_names(self.schema, self.totals.plan)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of parties that were counted."""
        return tuple(kind for kind, _ in self.totals.plan.kinds)

    def extend(self, x: NDArray[np.float32], day: NDArray[np.int32], parties: Parties) -> NDArray[np.float32]:
        """float32[n, d']: the bank's own columns that stay, then the shared ones, within +-bound.

        `x`: float32[n, d], the schema's features as the bank computed them; `day`: int32[n]; `parties`: those of the
        rows, of every kind in the plan.
        """
        own = [feature.name for feature in features(self.schema)]
        replaced = [own.index(name) for name in replaced_names(self.schema, self.totals.plan)]
        kept = [i for i in range(len(own)) if i not in replaced]
        match self.totals.plan.mode:
            case "exact windows":
                columns = self._windows(day, self.keys.of_rows("terminal", parties["terminal"]), x[:, replaced])
            case "private increments":
                columns = self._increments(day, self.keys.of_rows("terminal", parties["terminal"]))
            case "private fraud counts":
                kinds = [kind for kind, _ in self.totals.plan.kinds]
                columns = [one for kind in kinds for one in self._frauds(day, self.keys.of_rows(kind, parties[kind]))]
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
        plan, counts = self.totals.plan, self.totals.counts()
        assert plan.noise is not None
        block = len(plan.periods[0])
        depths = block_depths(self.schema, block)
        usual = self.schema.parties.terminal_per_day * depths[-1] * block
        transactions = self._newest(counts[:, :, 0], day, slot, depths[-1])
        columns = [np.log1p(np.maximum(transactions, 0)) - np.log1p(usual)]
        for depth in depths:
            frauds = self._newest(counts[:, :, 1], day, slot, depth)
            columns.append(Z_SCALE * frauds / (plan.noise.released_sigma * np.sqrt(depth)))
        return columns

    def _frauds(self, day: NDArray[np.int32], slot: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        plan, frauds = self.totals.plan, self.totals.frauds()
        sigma = LEAST_SIGMA if plan.noise is None else max(plan.noise.released_sigma, LEAST_SIGMA)
        depths = block_depths(self.schema, len(plan.periods[0]))
        return [Z_SCALE * self._newest(frauds, day, slot, d) / (sigma * np.sqrt(d)) for d in depths]

    def _newest(
        self, counts: NDArray[np.float64], day: NDArray[np.int32], slot: NDArray[np.int64], depth: int
    ) -> NDArray[np.float64]:
        """float64[n]: sum of the `depth` newest blocks of counts (float64[periods, slots]) whose labels were known."""
        running = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
        ends = np.array([period.last for period in self.totals.plan.periods])
        known = np.searchsorted(ends, day - self.schema.label.delay_days - 1, side="right")
        newest: NDArray[np.float64] = running[known, slot] - running[np.maximum(known - depth, 0), slot]
        return newest


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
    if plan.counts_frauds:
        return tuple(f"{kind}_frauds_{depth * block}d_all_banks" for kind, _ in plan.kinds for depth in depths)
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


def parties_at(table: Transactions, kinds: Iterable[str], index: NDArray[np.int64] | None = None) -> Parties:
    """The parties of these kinds of the rows with these source positions; of all rows when None.

    Raises `StatisticsError` where the table names no party of a kind.
    """
    position = np.arange(len(table))
    if index is not None:
        order = np.argsort(table.index)
        position = order[np.searchsorted(table.index[order], index)]
    found = {}
    for kind in kinds:
        party = table.party(kind)
        if party is None:
            raise StatisticsError(f"{table.source}: counts of every {kind} were shared, and the rows name none")
        found[kind] = party.ids[party.code[position]]
    return found


class Columns(Protocol):
    """Inputs of a model that a release gives, in place of a bank's own columns or beside them."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def kinds(self) -> tuple[str, ...]: ...
    def extend(self, x: NDArray[np.float32], day: NDArray[np.int32], parties: Parties) -> NDArray[np.float32]: ...


def with_shared_columns(federation: Federation, table: Transactions, shared: Columns) -> Federation:
    """The federation whose rows carry shared columns too; `table` holds all rows of its source."""

    def extend(rows: Rows) -> Rows:
        return replace(rows, x=shared.extend(rows.x, rows.day, parties_at(table, shared.kinds, rows.index)))

    banks = tuple(
        BankData(bank.name, extend(bank.train), extend(bank.validation), tuple(extend(test) for test in bank.test))
        for bank in federation.banks
    )
    return replace(federation, banks=banks, feature_names=shared.names)
