"""Settings of shared counts, such as the suppression threshold `min_banks`, and the plan that follows from them.

What it does: `StatisticsSettings` and its public rules (`block_days`, `law_of_noise`), `noise_of`, `plan_sharing`,
`key_slots` and `describe`. Every rule is a function of epsilon and of what the schema says, never of a bank's rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl import options
from fl.counts.columns import shared_windows
from fl.counts.key_slots import AllSlots, KeySlots
from fl.counts.plan import Noise, StatisticsPlan, fraud_blocks_plan, increments_plan, windows_plan
from fl.counts.release import ReleasedCounts
from fl.data.federation import PartitionedTable
from fl.data.schema import DAY_US, Schema
from fl.data.split import Period, Periods
from fl.errors import StatisticsError
from fl.privacy.accounting import epsilon
from fl.privacy.discrete_laplace import EPSILON, LaplacePlan, plan_laplace
from fl.privacy.mechanisms import COUNTS_UNIT, Counts, LaplaceCounts
from fl.privacy.noise_shares import NoisePlan, plan_noise

Law = Literal["laplace", "gaussian"]

DIRECTORY_LIMIT = 50_000  # keys; with more of them all fall into buckets
ALL_HASHED = 2**16  # buckets then
WITH_REGISTER = ("terminal",)  # kinds of party of which there is a public register
IN_ONE_HAND = ("device", "account")  # kinds of which one person may cause all frauds
BLOCKS = ((1.2, 7), (1.9, 3), (4.0, 2))  # up to this epsilon of a count, days of a block; above, one day
ONE_DAY = 1
MOST_NOTICED = 40.0  # epsilon of a count beyond which no number of colluding banks makes a block longer
FRAUDS_PRICED = (2, 5, 10)  # of one entity, whose cost an output names

EXACT_WARNING = (
    "exact totals: suppression of cells with few banks protects against honest parties only, and overlapping windows "
    "can be differenced (83 % of single-transaction terminal-days were recovered from daily refreshed 30-day totals "
    "at three banks); use differential privacy where that matters"
)
EXACT_BLOCKS_WARNING = (
    "exact counts of frauds, none suppressed: a count of 1 shows every bank that some bank had a fraud there on those "
    "days; use differential privacy where that matters"
)
NOISY_NOT_COVERED = (
    "a card, a customer or a party as a whole; a bank's being part of the roster; a fraud that moves to another party "
    "or block, or a row that stands there twice, costs twice the epsilon of counts"
    "; the list of parties with a count of their own, where it is taken from rows and not from a public register"
)


@dataclass(frozen=True)
class StatisticsSettings:
    """How counts of shared keys are released. All of it is public."""

    min_banks: Annotated[int, options.BANKS]  # cells with fewer contributing banks are suppressed; exact windows only
    colluders: Annotated[int, options.BANKS] = 1  # t, the observing bank included; with noise only
    # Days of one disjoint block of fraud counts; None: by the counts' noise (`block_days`).
    increment_days: Annotated[int | None, options.INCREMENT_DAYS] = None
    budget_share: Annotated[float, options.BUDGET_SHARE] = 0.5  # of what is left of epsilon at the start; noise only
    buckets: Annotated[int, options.BUCKETS] = 1024  # slots for keys outside the directory, of each kind
    sigma: Annotated[float | None, options.SIGMA] = None  # of Gaussian noise: calibrated when the run starts, kept
    count_noise: Law | None = None  # None: `law_of_noise`
    epsilon: Annotated[float | None, options.EPSILON] = None  # of all counts: decided when the run starts, kept

    def __post_init__(self) -> None:
        options.check(self, StatisticsError)

    @property
    def of_earlier_version(self) -> bool:
        """Whether an earlier version calibrated them: its counts were of transactions too, under Gaussian noise."""
        return self.sigma is not None and self.epsilon is None

    def undecided(self) -> StatisticsSettings:
        """These settings without what a run decides when it starts."""
        return replace(self, sigma=None, epsilon=None)


def default_settings(private: bool, *, fraud_blocks: bool = False) -> StatisticsSettings:
    """Settings that nobody changed.

    Exact windows suppress cells of fewer than 3 banks; counts of frauds alone, noisy or exact, suppress none.
    """
    return StatisticsSettings(min_banks=1 if private or fraud_blocks else 3)


def block_days(count_epsilon: float, banks: int, colluders: int) -> int:
    """Days of one block where each count is released at `count_epsilon`: the noisier a count, the more days in it.

    Where t of n banks may collude, all n shares together are as noisy as those against one bank would be at

        epsilon' = arcosh(1 + (n - t) / (n - 1) (cosh(epsilon) - 1)),

    and the length follows from that: the variance of n shares of discrete Laplace noise is n / (n - t) / (cosh(epsilon)
    - 1). With t = 1 it is epsilon itself.
    """
    if count_epsilon > MOST_NOTICED:  # and cosh may be no number
        return ONE_DAY
    alike = math.acosh(1 + (banks - colluders) / max(banks - 1, 1) * (math.cosh(count_epsilon) - 1))
    # The detour through cosh errs in the last digits.
    return next((days for limit, days in BLOCKS if alike <= limit * (1 + 1e-12)), ONE_DAY)


def law_of_noise(settings: StatisticsSettings) -> Law:
    """The law of the noise: the one asked for, or Laplace, which has the smaller variance at every usual epsilon.

    At one event in one count, delta 1e-5 and epsilon .7 / 2.6 / 7.2, the standard deviation is 2.0 / .52 / .04 events
    against 4.9 / 1.5 / .64 of a Gaussian. The Gaussian protects better at equal accuracy (docs/privacy.md).
    """
    return settings.count_noise or "laplace"


def noise_of(settings: StatisticsSettings, schema: Schema, banks: int) -> Noise:
    """The noise of counts at `settings.epsilon`; of a Gaussian, at `settings.sigma` (1 event until it is calibrated).

    The epsilon of one count stays within what Laplace noise can have; a ledger is told of that of the noise. Raises
    `BudgetError` for an impossible t.
    """
    if law_of_noise(settings) == "gaussian" or settings.of_earlier_version:
        return plan_noise(1.0 if settings.sigma is None else settings.sigma, banks, settings.colluders)
    if settings.epsilon is None:
        raise StatisticsError("statistics: counts need the epsilon they may spend, got none")
    of_count = min(max(settings.epsilon / moved(schema), EPSILON.low), EPSILON.high)
    return plan_laplace(of_count, banks, settings.colluders)


def moved(schema: Schema) -> int:
    """How many counts of frauds one transaction moves by one, over all banks that report it and all kinds."""
    return len(schema.parties.shared) * schema.parties.reports


def plan_sharing(
    source: PartitionedTable, settings: StatisticsSettings, noise: Noise | None, *, fraud_blocks: bool = False
) -> StatisticsPlan:
    """The plan of a run's release: counts of frauds alone under `noise`, exact ones with `fraud_blocks`, else windows.

    `settings.epsilon`, needed with Gaussian noise, or that of Laplace noise decides on the length of a block; exact
    blocks have a day. Raises `StatisticsError`.
    """
    schema, days = source.table.schema, needed_days(source.periods)
    delay, kinds = schema.label.delay_days, shared_kinds(source, settings)
    slots = sum(len(directory) + buckets for _, directory, buckets in kinds)
    if settings.of_earlier_version and isinstance(noise, NoisePlan):
        block = 5 if settings.increment_days is None else settings.increment_days
        return increments_plan(days, max(shared_windows(schema)), delay, block, slots, settings.min_banks, noise)
    if noise is None and not fraud_blocks:
        if schema.parties.shared != ("terminal",) or schema.parties.reports != 1:
            raise StatisticsError(
                "exact windows count terminals alone, and each transaction at one bank; the schema shares "
                f"{', '.join(schema.parties.shared)}, reported by the {schema.parties.reported_by}: use "
                "--no-shared-statistics, or differential privacy"
            )
        return windows_plan(days, shared_windows(schema), delay, slots, settings.min_banks)
    if noise is None:
        chosen = ONE_DAY
    elif isinstance(noise, LaplacePlan):
        chosen = block_days(noise.epsilon, noise.banks, noise.colluders)
    elif settings.epsilon is not None:
        chosen = block_days(settings.epsilon / moved(schema), noise.banks, noise.colluders)
    else:
        raise StatisticsError("statistics: Gaussian counts need the epsilon they may spend, got none")
    plan = fraud_blocks_plan(
        days,
        source.first_day,
        delay,
        chosen if settings.increment_days is None else settings.increment_days,
        [(kind, len(directory) + buckets) for kind, directory, buckets in kinds],
        noise,
        reports=schema.parties.reports,
    )
    return replace(plan, min_banks=settings.min_banks)  # refused unless it is 1


def key_slots(source: PartitionedTable, settings: StatisticsSettings, salt: bytes) -> AllSlots:
    """Where the keys of a run's release stand, under the banks' `salt`."""
    kinds = shared_kinds(source, settings)
    return AllSlots(tuple(KeySlots(directory, buckets, salt, kind) for kind, directory, buckets in kinds))


def most_days(source: PartitionedTable, settings: StatisticsSettings) -> tuple[int, int]:
    """(first, last) day that any blocks of the run's counts of frauds can hold, whatever their length."""
    return plan_sharing(source, replace(settings, increment_days=ONE_DAY, min_banks=1), None, fraud_blocks=True).days


def needed_days(periods: Periods) -> list[int]:
    """Days of training and test, ascending: those for which features are made."""
    if periods.train is None:
        raise StatisticsError("shared statistics need a time column that measures days")
    return sorted({day for period in (periods.train, *periods.test) for day in _days(period)})


def _days(period: Period) -> range:
    return range(period.start // DAY_US, (period.end - 1) // DAY_US + 1)


def shared_kinds(source: PartitionedTable, settings: StatisticsSettings) -> list[tuple[str, tuple[str, ...], int]]:
    """(kind of party, identifiers with a slot of their own, slots of all others together) of each shared kind.

    A deployment takes the public register of terminals (`PartitionedTable.agreed`); in one process those seen before
    training stand in for it. No other kind has a register.
    """
    table = source.table
    kinds: list[tuple[str, tuple[str, ...], int]] = []
    for kind in table.schema.parties.shared:
        directory: tuple[str, ...] = ()
        buckets = settings.buckets
        if kind in WITH_REGISTER:
            listed = _seen_before_training(source, kind) if source.agreed is None else source.agreed.registers.get(kind)
            if listed is None or len(listed) > DIRECTORY_LIMIT:
                buckets = ALL_HASHED
            else:
                directory = tuple(sorted(listed))
        kinds.append((kind, directory, buckets))
    return kinds


def _seen_before_training(source: PartitionedTable, kind: str) -> tuple[str, ...]:
    party, first = source.table.party(kind), needed_days(source.periods)[0]
    assert party is not None
    known: NDArray[np.int64] = np.unique(party.code[source.table.day < first])
    return tuple(str(name) for name in party.ids[known])


def cost_of_frauds(entry: Counts, frauds: int, delta: float) -> float:
    """What `frauds` frauds of one entity in one block cost together, when all of them are added or removed.

    Laplace: so many times the epsilon of one. Gaussian: the epsilon at `delta` of counts that move by as much.
    """
    if isinstance(entry, LaplaceCounts):
        return frauds * entry.epsilon * entry.moved
    return epsilon([replace(entry, resolution=frauds * entry.resolution)], delta)


def describe(released: ReleasedCounts, keys: AllSlots, delta: float | None) -> dict[str, Any]:
    """What `train --json` says of a release: what was shared, under which promise, at which cost at `delta`.

    `delta`: None without noise.
    """
    plan, totals = released.totals.plan, released.totals
    filled = totals.sums[:, :, 0] > 0
    told: dict[str, Any] = {
        "mode": plan.mode.replace("private", "exact") if plan.counts_frauds and plan.noise is None else plan.mode,
        "columns": list(plan.column_names),
        "periods": len(plan.periods),
        "kinds": [kind for kind, _ in plan.kinds],
        "keys": {
            "directory": sum(len(each.directory) for each in keys.kinds),
            "buckets": sum(each.buckets for each in keys.kinds),
        },
        "integers_per_bank": plan.length,
        "min_banks": plan.min_banks,
        "suppressed_share": float(totals.suppressed[filled].mean()) if filled.any() else 0.0,
        "value_bits": released.value_bits,
        "seconds": released.seconds,
        "bytes_up": released.bytes_up,
        "bytes_down": released.bytes_down,
    }
    if plan.noise is None:
        return {**told, "warning": EXACT_BLOCKS_WARNING if plan.counts_frauds else EXACT_WARNING}
    entry = plan.entry
    assert entry is not None and delta is not None
    told |= {
        "unit": COUNTS_UNIT,
        "not_covered": NOISY_NOT_COVERED,
        "increment_days": len(plan.periods[0]),
        "noise": "laplace" if isinstance(plan.noise, LaplacePlan) else "gaussian",
        "epsilon": cost_of_frauds(entry, 1, delta),
        "cost_of_frauds": {str(m): cost_of_frauds(entry, m, delta) for m in FRAUDS_PRICED},
        "frauds_in_one_hand": [kind for kind, _ in plan.kinds if kind in IN_ONE_HAND],
        "released_sigma": plan.noise.released_sigma,
        "resolution": plan.noise.resolution,
        "colluders": plan.noise.colluders,
    }
    if isinstance(plan.noise, LaplacePlan):
        return {**told, "sensitivity": float(plan.moved)}
    return {
        **told,
        "sensitivity": float(np.sqrt(plan.moved * plan.reports if plan.counts_frauds else plan.columns)),
        "sigma": plan.noise.sigma,
        "share_variance": float(plan.noise.share_variance),
    }
