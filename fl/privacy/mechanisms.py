"""What a release of a bank can be: frozen values that a ledger remembers and an accountant prices.

Three units, and what each does not say:

- training: one *training row with its features fixed*, added or removed. A raw transaction also enters the
  features of other rows, the choice of which rows are training rows, and validation figures.
- statistics: one *transaction in shared counts* with its label. Counts of different days are different
  transactions' (parallel composition), so a bank pays for the dearest day, not for their sum.
- client: everything a bank contributes to a round, its whole update. It composes with none of the others.

The first two are added up, for the transaction that is both. None of them speaks of a card or a customer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from fl import options
from fl.errors import BudgetError
from fl.privacy.discrete_gaussian import LARGEST_VARIANCE
from fl.privacy.discrete_laplace import LaplacePlan
from fl.privacy.noise_shares import TAIL_LOG2, NoisePlan, sum_correction

UNIT = "training row, features fixed"
COUNTS_UNIT = "transaction in shared counts"
CLIENT_UNIT = "client: a bank's whole update"
ALL_UNITS = (UNIT, COUNTS_UNIT, f"{UNIT}; {COUNTS_UNIT}", CLIENT_UNIT)  # of a whole ledger
# What a mechanism can be, whoever wrote it down: beyond these, accounting is nonsense or does not end.
SAMPLE_RATE = options.Real(1e-12, 1)
NOISE_MULTIPLIER = options.Real(1e-3, 1e6)
TIMES = options.Whole(1, 10**9)
SHARES = options.Whole(1, 2**22)
SHARE_VARIANCE = options.Real(0, LARGEST_VARIANCE, "grid units squared", above=True)
DAY = options.Whole(-(10**9), 10**9)
COUNT_EPSILON = options.Real(0, 1000, "for what one event does to one count", above=True)
DISTANCE = options.Real(0, 1, "probability")


@dataclass(frozen=True)
class Mechanism:
    """`steps` Poisson-subsampled Gaussian steps.

    The noise's standard deviation is `noise_multiplier` * the clipping norm.
    """

    sample_rate: Annotated[float, SAMPLE_RATE]
    noise_multiplier: Annotated[float, NOISE_MULTIPLIER]
    steps: Annotated[int, TIMES]

    def __post_init__(self) -> None:
        options.check(self, BudgetError)


@dataclass(frozen=True)
class NoisyCounts:
    """One release of disjoint counts, in which an event moves `columns` counts by one each.

    What is accounted is the noise of the `shares` banks outside the planned coalition.
    """

    columns: Annotated[int, TIMES]  # the integer vector's sensitivity is resolution * sqrt(columns)
    resolution: Annotated[int, TIMES]  # grid units per event
    share_variance: Annotated[float, SHARE_VARIANCE]
    shares: Annotated[int, SHARES]  # n - t
    first_day: Annotated[int, DAY]
    last_day: Annotated[int, DAY]  # included: which transactions this release is about

    def __post_init__(self) -> None:
        options.check(self, BudgetError)
        _require_days(self.first_day, self.last_day)


@dataclass(frozen=True)
class LaplaceCounts:
    """One release of counts under discrete Laplace noise: whatever an event does to one count costs at most `epsilon`.

    The event moves `moved` counts, whose noises are independent. The noise is that of the `shares` banks outside the
    planned coalition. `distance` bounds how far what is released of these counts is from what the promise speaks of, as
    a statistical distance: the precision of the sampler, and noise that is cut off at the end of its lane. It is paid
    out of delta, times 1 + exp(epsilon of everything).
    """

    epsilon: Annotated[float, COUNT_EPSILON]
    moved: Annotated[int, TIMES]
    shares: Annotated[int, SHARES]  # n - t
    first_day: Annotated[int, DAY]
    last_day: Annotated[int, DAY]  # included: which transactions this release is about
    distance: Annotated[float, DISTANCE]

    def __post_init__(self) -> None:
        options.check(self, BudgetError)
        _require_days(self.first_day, self.last_day)


@dataclass(frozen=True)
class SharedGaussian:
    """`rounds` sums of integer vectors under shared discrete Gaussian noise (Kairouz, Liu, Steinke 2021).

    The unit moves the vectors by at most `sensitivity`.
    """

    sensitivity: Annotated[float, options.Real(0, 1e12, "L2, grid units, rounding included", above=True)]
    share_variance: Annotated[float, SHARE_VARIANCE]
    shares: Annotated[int, SHARES]  # that nobody in the planned coalition knows
    dimension: Annotated[int, TIMES]
    rounds: Annotated[int, TIMES]

    def __post_init__(self) -> None:
        options.check(self, BudgetError)

    @property
    def concentrated(self) -> float:
        """rho: every round is rho-zCDP (their Theorem 1, with the better of its first two bounds)."""
        tau = sum_correction(self.share_variance, self.shares)
        ratio = self.sensitivity / math.sqrt(self.shares * self.share_variance)
        spread = ratio + tau * math.sqrt(self.dimension)
        return 0.5 * min(ratio * ratio + 0.5 * tau * self.dimension, spread * spread)


@dataclass(frozen=True)
class ClientRounds(SharedGaussian):
    """Sums of whole updates: the unit is everything that a bank contributes."""


@dataclass(frozen=True)
class SharedSteps(SharedGaussian):
    """Sums of clipped row gradients, one for each step of training: the unit is a training row."""


Counts = NoisyCounts | LaplaceCounts
Entry = Mechanism | Counts | ClientRounds | SharedSteps  # what a ledger's line can be


def noisy_counts(plan: NoisePlan, columns: int, days: tuple[int, int], *, reports: int = 1) -> NoisyCounts:
    """What a ledger is told of a release of counts under `plan`, of the transactions of `days` (first, last).

    An event moves `columns` counts, each by `reports`: 2 where two banks report the same transaction.
    """
    return NoisyCounts(columns, reports * plan.resolution, float(plan.share_variance), plan.honest, *days)


def laplace_counts(plan: LaplacePlan, kinds: int, days: tuple[int, int], *, reports: int = 1) -> LaplaceCounts:
    """What a ledger is told of a release of counts under `plan`, of the transactions of `days` (first, last).

    An event moves one count of each of `kinds` kinds of entity by `reports`: 2 where two banks report the same
    transaction, which costs twice as much.
    """
    distance = kinds * plan.honest * plan.distance + 2.0**TAIL_LOG2
    return LaplaceCounts(reports * plan.epsilon, kinds, plan.honest, *days, distance)


def _require_days(first: int, last: int) -> None:
    if first > last:
        raise BudgetError(f"a release ends on day {last} before it begins, on {first}")


_UNITS = {
    Mechanism: UNIT,
    SharedSteps: UNIT,
    NoisyCounts: COUNTS_UNIT,
    LaplaceCounts: COUNTS_UNIT,
    ClientRounds: CLIENT_UNIT,
}


def units_of(entries: Iterable[Entry]) -> str:
    """The units that these entries speak of, as every output names them beside an epsilon."""
    present = {_UNITS[type(entry)] for entry in entries}
    return "; ".join(name for name in dict.fromkeys(_UNITS.values()) if name in present) or UNIT
