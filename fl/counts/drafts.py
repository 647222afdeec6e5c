"""The noised integers that banks contribute to one release of counts: drawn once, for one plan and one roster.

What it does: `Drafts` says what such drafts are of (the plan, the slots and their salt, the roster) and how one is
drawn; `fl.counts.kept_drafts` keeps them until they are paid for and summed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fl.counts.kept_drafts import KeptDrafts
from fl.counts.key_slots import AllSlots
from fl.counts.plan import Integers, StatisticsPlan, bank_counts, contribution
from fl.data.reading import Transactions


class Drafts(KeptDrafts):
    """What the banks contribute to one release of counts.

    `banks`: (name, its transactions) of every member of the roster whose drafts are here: all of them in one process,
    in a deployment one. `members`: names of the whole roster, in order; those of `banks` when empty.
    """

    def __init__(
        self,
        banks: Sequence[tuple[str, Transactions]],
        plan: StatisticsPlan,
        keys: AllSlots,
        folder: Path,
        members: Sequence[str] = (),
    ) -> None:
        roster = json.dumps(list(members) or [name for name, _ in banks])
        super().__init__(
            named(plan, banks[0][1].schema.sha256) + keys.sha256.encode() + roster.encode(),
            [partial(_drawn, table, keys, plan) for _, table in banks],
            plan.length,
            folder,
        )


def _drawn(table: Transactions, keys: AllSlots, plan: StatisticsPlan, roster: int) -> Integers:
    return contribution(bank_counts(table, keys, plan), plan, roster)


def named(plan: StatisticsPlan, schema_sha256: str) -> bytes:
    """32 bytes that name this statistic: its mode, days, shape and schema."""
    version = 2 if plan.counts_frauds else 1
    text = f"fl statistics v{version}|{plan.mode}|{plan.periods}|{plan.shape}|{plan.min_banks}|{plan.noise}|"
    if plan.counts_frauds:
        text += f"{plan.kinds}|{plan.reports}|"
    return hashlib.sha256(f"{text}{schema_sha256}".encode()).digest()
