"""Settings of shared counts, such as the suppression threshold `min_banks`, and the plan that follows from them.

What it does: `plan_sharing`, `key_slots` and `describe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fl import options
from fl.counts.columns import shared_windows
from fl.counts.key_slots import KeySlots
from fl.counts.plan import COLUMNS, StatisticsPlan, increments_plan, windows_plan
from fl.counts.release import ReleasedCounts
from fl.data.federation import PartitionedTable
from fl.data.schema import DAY_US
from fl.data.split import Period, Periods
from fl.errors import StatisticsError
from fl.privacy.mechanisms import COUNTS_UNIT
from fl.privacy.noise_shares import NoisePlan

DIRECTORY_LIMIT = 50_000  # keys; with more of them all fall into buckets
ALL_HASHED = 2**16  # buckets then

EXACT_WARNING = (
    "exact totals: suppression of cells with few banks protects against honest parties only, and overlapping windows "
    "can be differenced (83 % of single-transaction terminal-days were recovered from daily refreshed 30-day totals "
    "at three banks); use differential privacy where that matters"
)
NOISY_NOT_COVERED = "a card, a customer or a terminal as a whole; a bank's being part of the roster"


@dataclass(frozen=True)
class StatisticsSettings:
    """How counts of shared keys are released. All of it is public."""

    min_banks: Annotated[int, options.BANKS]  # cells with fewer contributing banks are suppressed
    colluders: Annotated[int, options.BANKS] = 1  # t, the observing bank included; with noise only
    increment_days: Annotated[int, options.INCREMENT_DAYS] = 5  # days of one disjoint block; with noise only
    budget_share: Annotated[float, options.BUDGET_SHARE] = 0.5  # of what is left of epsilon at the start; noise only
    buckets: Annotated[int, options.BUCKETS] = 1024  # slots for keys outside the directory
    sigma: Annotated[float | None, options.SIGMA] = None  # calibrated when the run starts, kept; None: exact windows

    def __post_init__(self) -> None:
        options.check(self, StatisticsError)


def default_settings(private: bool) -> StatisticsSettings:
    """Settings that nobody changed. Cells of fewer than 3 banks are suppressed, unless noise protects them."""
    return StatisticsSettings(min_banks=1 if private else 3)


def plan_sharing(source: PartitionedTable, settings: StatisticsSettings, noise: NoisePlan | None) -> StatisticsPlan:
    """The plan of a run's release. Raises `StatisticsError`."""
    schema, days = source.table.schema, needed_days(source.periods)
    directory, buckets = _directory(source, settings)
    windows, delay, slots = shared_windows(schema), schema.label.delay_days, len(directory) + buckets
    if noise is None:
        return windows_plan(days, windows, delay, slots, settings.min_banks)
    block, least = settings.increment_days, settings.min_banks
    return increments_plan(days, max(windows), delay, block, slots, least, noise)


def key_slots(source: PartitionedTable, settings: StatisticsSettings, salt: bytes) -> KeySlots:
    """Where the keys of a run's release stand, under the banks' `salt`."""
    return KeySlots(*_directory(source, settings), salt)


def needed_days(periods: Periods) -> list[int]:
    """Days of training and test, ascending: those for which features are made."""
    if periods.train is None:
        raise StatisticsError("shared statistics need a time column that measures days")
    return sorted({day for period in (periods.train, *periods.test) for day in _days(period)})


def _days(period: Period) -> range:
    return range(period.start // DAY_US, (period.end - 1) // DAY_US + 1)


def _directory(source: PartitionedTable, settings: StatisticsSettings) -> tuple[tuple[str, ...], int]:
    """(identifiers with a slot of their own, slots of all others together).

    A deployment takes the public register of terminals; here those seen before training stand in for it.
    """
    table = source.table
    assert table.terminal is not None
    known: NDArray[np.int64] = np.unique(table.terminal.code[table.day < needed_days(source.periods)[0]])
    if len(known) > DIRECTORY_LIMIT:
        return (), ALL_HASHED
    return tuple(sorted(str(name) for name in table.terminal.ids[known])), settings.buckets


def describe(released: ReleasedCounts, keys: KeySlots, settings: StatisticsSettings) -> dict[str, Any]:
    """What `train --json` says of a release: what was shared, under which promise, at which cost."""
    plan, totals = released.totals.plan, released.totals
    filled = totals.sums[:, :, 0] > 0
    told: dict[str, Any] = {
        "mode": plan.mode,
        "columns": list(COLUMNS[: plan.columns]),
        "periods": len(plan.periods),
        "keys": {"directory": len(keys.directory), "buckets": keys.buckets},
        "integers_per_bank": plan.length,
        "min_banks": plan.min_banks,
        "suppressed_share": float(totals.suppressed[filled].mean()) if filled.any() else 0.0,
        "value_bits": released.value_bits,
        "seconds": released.seconds,
        "bytes_up": released.bytes_up,
        "bytes_down": released.bytes_down,
    }
    if plan.noise is None:
        return {**told, "warning": EXACT_WARNING}
    return {
        **told,
        "unit": COUNTS_UNIT,
        "not_covered": NOISY_NOT_COVERED,
        "increment_days": settings.increment_days,
        "sensitivity": float(np.sqrt(plan.columns)),
        "sigma": plan.noise.sigma,
        "released_sigma": plan.noise.released_sigma,
        "resolution": plan.noise.resolution,
        "share_variance": float(plan.noise.share_variance),
        "colluders": plan.noise.colluders,
    }
