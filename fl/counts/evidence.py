"""A bank's own labelled rows by day and slot, for the filter: what it may use when it scores, and never sends.

What it does: `own_evidence` counts a bank's table as the release counted it, so that the filter can take the bank's
own frauds out of the released sums (`fl.counts.compromised`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl.counts.episodes import OwnEvidence
from fl.counts.key_slots import AllSlots
from fl.counts.plan import in_time
from fl.data.reading import Transactions
from fl.data.schema import Days
from fl.errors import StatisticsError


def own_evidence(table: Transactions, keys: AllSlots, kind: str, periods: Sequence[Days] = ()) -> OwnEvidence:
    """Frauds and transactions of one bank by day and slot of one kind of party.

    `periods`: blocks of the release; none without one. A fraud whose label came too late for them is left out, as a
    transaction too: when the filter looks at its day, nobody knows what it is. Too late is after its block was closed,
    and outside of all blocks after its own day's label delay. Raises `StatisticsError` where the table is empty or
    lacks a column.
    """
    party = table.party(kind)
    if table.label is None or table.time is None or party is None or not len(table):
        raise StatisticsError(f"{table.source}: own evidence needs rows with a time, a {kind} and a label")
    size = keys.sections[kind].stop - keys.sections[kind].start
    slot = (keys.of(kind, party.ids) - keys.sections[kind].start)[party.code]
    first = int(table.day[0])
    shape = (int(table.day[-1]) - first + 1, size)
    kept = in_time(table, periods)
    cell = (table.day.astype(np.int64) - first) * size + slot

    def daily(rows: NDArray[np.bool_]) -> NDArray[np.int32]:
        counts = np.bincount(cell[rows], minlength=shape[0] * size)
        return counts.reshape(shape).astype(np.int32)

    return OwnEvidence(daily(kept & (table.label == 1)), daily(kept), first)
