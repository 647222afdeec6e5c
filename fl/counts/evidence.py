"""A bank's own labelled rows by day and slot, for the filter: what it may use when it scores, and never sends.

What it does: `own_evidence` counts a bank's table twice: as the release counted it, so that the filter can take the
bank's own frauds out of the released sums, and as its labels became known (`fl.counts.episodes.compromised`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl.counts.episodes import LateFrauds, OwnEvidence
from fl.counts.key_slots import AllSlots
from fl.counts.plan import in_time
from fl.data.reading import Transactions
from fl.data.schema import Days
from fl.errors import StatisticsError


def own_evidence(table: Transactions, keys: AllSlots, kind: str, periods: Sequence[Days] = ()) -> OwnEvidence:
    """Frauds and transactions of one bank by day and slot of one kind of party.

    `periods`: blocks of the release, none without one; what was counted for them is taken out of their sums. A label
    that came after the label delay of its own day is used from the day after it came, whether or not a block counted
    it. Raises `StatisticsError` where the table is empty or lacks a column.
    """
    party = table.party(kind)
    if table.label is None or table.time is None or party is None or not len(table):
        raise StatisticsError(f"{table.source}: own evidence needs rows with a time, a {kind} and a label")
    size = keys.sections[kind].stop - keys.sections[kind].start
    slot = (keys.of(kind, party.ids) - keys.sections[kind].start)[party.code]
    first = int(table.day[0])
    shape = (int(table.day[-1]) - first + 1, size)
    fraud, timely = table.label == 1, in_time(table, ())
    day = table.day.astype(np.int64)
    cell = (day - first) * size + slot

    def daily(rows: NDArray[np.bool_]) -> NDArray[np.int32]:
        counts = np.bincount(cell[rows], minlength=shape[0] * size)
        return counts.reshape(shape).astype(np.int32)

    frauds, rows = daily(fraud & timely), daily(np.ones(len(table), bool))
    late = np.flatnonzero(~timely)
    if table.known_day is None or not len(late):
        return OwnEvidence(frauds, rows, first)
    late = late[np.argsort(table.known_day[late], kind="stable")]
    known = LateFrauds(day[late], slot[late], table.known_day[late].astype(np.int64))
    return OwnEvidence(frauds, rows, first, daily(fraud & in_time(table, periods)), known)
