"""Episodes of fraud at a shared entity: what is known about them, and how an entity's days are told apart.

What it does: holds the counts of frauds that all banks released (`BlockCounts`), a bank's own labelled rows
(`OwnEvidence`) and the constants of a hidden Markov model (`Episodes`). `fl.counts.fit` finds the constants,
`compromised` applies them.

The model, for each shared entity (a terminal, for example) by itself: on any day it is clean or compromised. A clean
entity becomes compromised with probability `onset` a day. An episode lasts a whole number of days of a gamma law with
mean `mean_days` and `shape` (a large shape is a fixed duration, shape 1 forgets the age). A transaction is a fraud
with probability `fraud_share` on a compromised day, and `base_share` on a clean one. It is a hidden semi-Markov model
with explicit durations: Rabiner, "A tutorial on hidden Markov models" (Proceedings of the IEEE 77, 1989), section
IV.D; Yu, "Hidden semi-Markov models" (Artificial Intelligence 174, 2010), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fl import options
from fl.counts.day_filter import Chain, Shown, run
from fl.counts.durations import ending
from fl.counts.emission import Observed, observed
from fl.data.schema import Days
from fl.errors import StatisticsError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_NATS = 60.0  # of one day's own rows: some rows prove nothing against a label that is wrong
SPREAD = 10**7  # steps between the least and the largest count up to which a table of all between them is made
LAW_SLACK = 1e-6  # how far the probabilities of a noise law may be from 1 together


@dataclass(frozen=True)
class BlockCounts:
    """Frauds per block of days and slot over all banks, as released, and the law of the noise in each of them.

    periods: disjoint blocks in order; days between two blocks belong to none.  frauds: float64[periods, slots], in
    events; multiples of 1 / `resolution`.  noise: float64[2 * reach + 1], probabilities of the noise in one cell on
    -reach to reach steps of 1 / `resolution` events; None for exact counts.  Raises `StatisticsError`.
    """

    periods: tuple[Days, ...]
    frauds: Floats = field(repr=False)
    noise: Floats | None = field(repr=False)
    resolution: int = 1

    def __post_init__(self) -> None:
        shape = self.frauds.shape
        if len(shape) != 2 or shape[0] != len(self.periods) or shape[1] < 1:
            raise StatisticsError(
                f"block counts: expected shape ({len(self.periods)} periods, at least one slot), got {shape}"
            )
        if any(later.first <= earlier.last for earlier, later in pairwise(self.periods)):
            raise StatisticsError("block counts: expected disjoint periods in order; sort them and leave out overlaps")
        if not np.isfinite(self.frauds).all():
            raise StatisticsError("block counts: expected finite counts, got infinity or NaN")
        if self.resolution < 1:
            raise StatisticsError(f"block counts: expected a resolution of at least 1, got {self.resolution}")
        if self.noise is not None:
            law = self.noise
            if law.ndim != 1 or len(law) % 2 == 0 or law.min() < 0 or abs(law.sum() - 1) > LAW_SLACK:
                raise StatisticsError(
                    "block counts: expected the noise's probabilities on -reach to reach, not negative, sum 1; "
                    f"got shape {law.shape} and sum {float(law.sum())!r}"
                )

    @property
    def slots(self) -> int:
        return int(self.frauds.shape[1])

    def of_slots(self, slots: Integers) -> BlockCounts:
        """The same of these slots only."""
        return replace(self, frauds=self.frauds[:, slots])

    @property
    def reach(self) -> int:
        """Steps of 1 / `resolution` events within which the noise lies; 0 without noise."""
        return 0 if self.noise is None else len(self.noise) // 2

    def units(self) -> Integers:
        """int64[periods, slots]: the counts in steps of 1 / `resolution` events."""
        return np.rint(self.frauds * self.resolution).astype(np.int64)

    def ended_by(self, day: int) -> BlockCounts | None:
        """The blocks whose last day is `day` or earlier; None if there are none."""
        kept = sum(period.last <= day for period in self.periods)
        return replace(self, periods=self.periods[:kept], frauds=self.frauds[:kept]) if kept else None


@dataclass(frozen=True)
class LateFrauds:
    """Own frauds whose labels came after the label delay of their day. Private, as `OwnEvidence` is.

    day, slot, known: int64[n]; `known` is the day on which the label came, ascending.
    """

    day: Integers = field(repr=False)
    slot: Integers = field(repr=False)
    known: Integers = field(repr=False)

    def known_before(self, day: int) -> LateFrauds:
        """Those whose label was there when `day` began."""
        number = int(np.searchsorted(self.known, day))
        return LateFrauds(self.day[:number], self.slot[:number], self.known[:number])


NO_LATE_FRAUDS = LateFrauds(*(np.empty(0, np.int64) for _ in range(3)))


@dataclass(frozen=True)
class OwnEvidence:
    """A bank's own labelled rows per day and slot. Private: never sent, never logged, no part of a release.

    frauds, transactions: int[days, slots].  first_day: day of the first row of both.  `frauds` are those labelled
    within the label delay of their day. `late` are the others: each is used from the day after its label came, and is a
    genuine row until then, because the bank cannot tell it from one.  counted: int[days, slots], frauds as the bank
    counted them for the release, which the filter takes out of the released sums; None where these are `frauds`.
    Raises `StatisticsError`.
    """

    frauds: NDArray[np.integer] = field(repr=False)
    transactions: NDArray[np.integer] = field(repr=False)
    first_day: int
    counted: NDArray[np.integer] | None = field(default=None, repr=False)
    late: LateFrauds = field(default=NO_LATE_FRAUDS, repr=False)

    def __post_init__(self) -> None:
        if self.frauds.ndim != 2 or self.frauds.shape != self.transactions.shape or not self.frauds.size:
            raise StatisticsError(
                "own evidence: expected frauds and transactions of one shape (days, slots), got "
                f"{self.frauds.shape} and {self.transactions.shape}"
            )
        if (self.frauds < 0).any() or (self.frauds > self.transactions).any():
            raise StatisticsError("own evidence: expected 0 <= frauds <= transactions in every cell")
        if self.counted is not None and self.counted.shape != self.frauds.shape:
            raise StatisticsError(
                f"own evidence: expected counted frauds of shape {self.frauds.shape}, got {self.counted.shape}"
            )

    @property
    def days(self) -> Days:
        return Days(self.first_day, self.first_day + len(self.frauds) - 1)

    @property
    def slots(self) -> int:
        return int(self.frauds.shape[1])

    def on_days(self, first: int, last: int) -> OwnEvidence | None:
        """The rows of the days `first` to `last`; None if there are none."""
        start, stop = max(first - self.first_day, 0), max(last + 1 - self.first_day, 0)
        if start >= len(self.frauds[:stop]):
            return None
        held = (self.late.day >= first) & (self.late.day <= last)
        return OwnEvidence(
            self.frauds[start:stop],
            self.transactions[start:stop],
            self.first_day + start,
            None if self.counted is None else self.counted[start:stop],
            LateFrauds(self.late.day[held], self.late.slot[held], self.late.known[held]),
        )

    def until(self, day: int) -> OwnEvidence | None:
        """The rows of `day` and earlier days; None if there are none."""
        return self.on_days(self.first_day, day)

    def known_on(self, day: int) -> OwnEvidence:
        """What the bank knows when `day` begins: late frauds are frauds if their label came before, else genuine."""
        known = self.late.known_before(day)
        frauds = self.frauds.astype(np.int64)
        np.add.at(frauds, (known.day - self.first_day, known.slot), 1)
        counted = self.frauds if self.counted is None else self.counted
        return replace(self, frauds=frauds, counted=counted, late=NO_LATE_FRAUDS)

    def of_slots(self, slots: Integers) -> OwnEvidence:
        """The same of these slots only, as known without any late label."""
        return OwnEvidence(
            self.frauds[:, slots],
            self.transactions[:, slots],
            self.first_day,
            None if self.counted is None else self.counted[:, slots],
        )


@dataclass(frozen=True)
class Episodes:
    """Constants of the episodes at one kind of entity. A run keeps them in its folder (`dataclasses.asdict`,
    `fl.toml.filled`).

    traffic: transactions per slot and day over all banks.  gain: log-likelihood (nats) of these constants over that of
    one constant rate for all slots and days.  present: whether the gain is beyond what chance and the number of
    constants explain. If not, `onset` is 0 and the probability of being compromised is 0 on every day.
    """

    onset: Annotated[float, options.PROBABILITY]
    mean_days: Annotated[float, options.EPISODE_DAYS]
    shape: Annotated[float, options.EPISODE_SHAPE]
    fraud_share: Annotated[float, options.PROBABILITY]
    base_share: Annotated[float, options.PROBABILITY]
    traffic: Annotated[float, options.PER_DAY]
    present: bool
    gain: Annotated[float, options.NATS]

    def __post_init__(self) -> None:
        options.check(self, StatisticsError, "[episodes] ")
        if self.present and not (self.onset > 0 and self.base_share < self.fraud_share < 1):
            raise StatisticsError(
                "[episodes] expected onset above 0 and base_share below fraud_share below 1, got "
                f"{self.onset}, {self.base_share} and {self.fraud_share}"
            )
        if not self.present and self.onset:
            raise StatisticsError(f"[episodes] without episodes expected onset 0, got {self.onset}")


@dataclass(frozen=True)
class Evidence:
    """Released blocks and own rows, laid out by day from `first_day` on, for any constants of the episodes.

    For each block: where it ends, which of `observed` it is of, and which of its values each slot has. Days of `own`
    count only where they are not part of a block that `own` covers in part.
    """

    first_day: int
    slots: int
    elapsed: Integers = field(repr=False)
    closes: Integers = field(repr=False)
    kind: Integers = field(repr=False)
    code: Integers = field(repr=False)
    observed: tuple[Observed, ...] = field(repr=False)
    own: OwnEvidence | None = field(repr=False)  # from `first_day` on

    @staticmethod
    def of(blocks: BlockCounts | None, own: OwnEvidence | None, others_share: float = 1.0) -> Evidence | None:
        """None where there is nothing. Raises `StatisticsError` for different numbers of slots."""
        if own is None and (blocks is None or not blocks.periods):
            return None
        if blocks is not None and own is not None and blocks.slots != own.slots:
            raise StatisticsError(f"own evidence: expected {blocks.slots} slots as released, got {own.slots}")
        periods = () if blocks is None else blocks.periods
        spans = [*periods[:1], *periods[-1:], *(() if own is None else (own.days,))]
        first, last = min(span.first for span in spans), max(span.last for span in spans)
        elapsed, closes = np.zeros(last + 1 - first, np.int64), np.full(last + 1 - first, -1, np.int64)
        covered = [own is not None and own.first_day <= p.first and p.last <= own.days.last for p in periods]
        left = None if own is None else _from(own, first, last)
        for i, period in enumerate(periods):
            within = slice(period.first - first, period.last + 1 - first)
            elapsed[within] = np.arange(1, len(period) + 1)
            closes[period.last - first] = i
            if left is not None and not covered[i]:
                left.frauds[within], left.transactions[within] = 0, 0
        kinds = [(len(period), others_share if whole else 1.0) for period, whole in zip(periods, covered, strict=True)]
        known = sorted(set(kinds))
        kind = np.array([known.index(each) for each in kinds], np.int64)
        slots = blocks.slots if blocks is not None else own.slots if own is not None else 0
        code, laws = np.empty((len(periods), slots), np.int64), []
        if blocks is not None:
            units = blocks.units()
            for i, period in enumerate(periods):
                if covered[i] and left is not None:
                    within = slice(period.first - first, period.last + 1 - first)
                    counted = left.frauds if left.counted is None else left.counted
                    units[i] -= counted[within].sum(axis=0) * blocks.resolution
            for each, (length, share) in enumerate(known):
                values, code[kind == each] = _codes(units[kind == each])
                laws.append(observed(length, share, values, blocks.noise, blocks.resolution))
        return Evidence(first, slots, elapsed, closes, kind, code, tuple(laws), left)

    @property
    def longest(self) -> int:
        """Days of the longest block, at least 1."""
        return int(self.elapsed.max(initial=1))

    def of_slots(self, slots: Integers) -> Evidence:
        """The same of these slots only."""
        own = None if self.own is None else self.own.of_slots(slots)
        return replace(self, slots=len(slots), code=self.code[:, slots], own=own)

    def shown(self, fraud_share: float, base_share: float, traffic: float, days: int | None = None) -> Shown:
        """What the first `days` days (all by default) show under these constants."""
        found = [law.likelihoods(fraud_share * traffic, base_share * traffic) for law in self.observed]
        own = None
        if self.own is not None:
            fraud, other = np.log(fraud_share / base_share), np.log((1 - fraud_share) / (1 - base_share))
            frauds, rows = self.own.frauds[:days], self.own.transactions[:days]
            own = np.exp(np.clip(frauds * fraud + (rows - frauds) * other, -MOST_NATS, MOST_NATS))
        plain = [np.log(each[0]) for each in found]
        ratio = [each / each[0] for each in found]
        elapsed, closes = self.elapsed[:days], self.closes[:days]
        if days is not None and days > len(self.elapsed):  # nothing is known of the days after the last
            more = days - len(self.elapsed)
            elapsed, closes = np.append(elapsed, np.zeros(more, np.int64)), np.append(closes, np.full(more, -1))
            own = own if own is None else np.concatenate([own, np.ones((more, self.slots))])
        return Shown(elapsed, closes, self.kind, self.code, plain, ratio, own, self.slots)


def _from(own: OwnEvidence, first: int, last: int) -> OwnEvidence:
    """A copy on the days `first` to `last`, without rows on the days that `own` lacks, and without late labels."""
    around = ((own.first_day - first, last - own.days.last), (0, 0))
    frauds, rows = (np.pad(each, around).astype(np.int64) for each in (own.frauds, own.transactions))
    return OwnEvidence(frauds, rows, first, None if own.counted is None else np.pad(own.counted, around))


def _from_whole_blocks(own: OwnEvidence, periods: Sequence[Days]) -> OwnEvidence | None:
    """`own` from the first day on that is not in a block which began before it."""
    first = next((p.last + 1 for p in periods if p.first < own.first_day <= p.last), own.first_day)
    return own.on_days(first, own.days.last)


def _codes(units: Integers) -> tuple[Integers, Integers]:
    """(distinct values ascending, int64 of the shape of `units`: where each stands among them)."""
    least = int(units.min())
    if int(units.max()) - least > SPREAD:
        values, code = np.unique(units, return_inverse=True)
        return values, code.reshape(units.shape)
    places = units - least
    there = np.zeros(int(places.max()) + 1, bool)
    there[places] = True
    return np.flatnonzero(there) + least, (np.cumsum(there) - 1)[places]


def compromised(
    blocks: BlockCounts | None,
    episodes: Episodes,
    days: Sequence[int],
    delay: int,
    *,
    others_share: float = 1.0,
    own: OwnEvidence | None = None,
) -> Floats:
    """float64[len(days), slots]: probability that each entity is compromised on each of `days` (ascending).

    Day d uses only what is known when it begins: blocks that ended by d - delay - 1, own rows up to that day, and of
    their late labels those that came before d. From there the model predicts `delay` + 1 days ahead.

    blocks: what was released; None for a bank's own evidence alone.  own: the bank's own labelled rows; each day of
    them multiplies the odds by the likelihood ratio of its labels, and its frauds are taken out of the released sums,
    of which the other banks' part remains.  others_share: share of all transactions that other banks report, used for
    blocks that `own` covers; 1 - 1/n for n alike banks.  Where `own` covers a block in part, the block counts in full
    and those days of `own` do not.  Raises `StatisticsError`.
    """
    if blocks is None and own is None:
        raise StatisticsError("compromised: expected released blocks, own rows, or both, got neither")
    if list(days) != sorted(days):
        raise StatisticsError("compromised: expected ascending days, got others; sort them")
    if not 0 <= others_share <= 1:
        raise StatisticsError(f"compromised: expected others_share from 0 to 1, got {others_share!r}")
    if blocks is not None and own is not None:
        own = _from_whole_blocks(own, blocks.periods)
    asked = np.array(days, np.int64)
    found = _predicted(blocks, episodes, asked, delay, others_share, own)
    if own is None:
        return found
    # Slots are filtered by themselves, so that a late label costs a second run of its own slot alone.
    known = np.searchsorted(own.late.known, asked)
    for number in np.unique(known[known > 0]):
        these, slots = known == number, np.unique(own.late.slot[:number])
        then = own.known_on(int(asked[these][0])).of_slots(slots)
        seen = None if blocks is None else blocks.of_slots(slots)
        found[np.ix_(these, slots)] = _predicted(seen, episodes, asked[these], delay, others_share, then)
    return found


def _predicted(
    blocks: BlockCounts | None,
    episodes: Episodes,
    days: Integers,
    delay: int,
    others_share: float,
    own: OwnEvidence | None,
) -> Floats:
    """`compromised`, with the labels that `own.frauds` has on every day."""
    slots = blocks.slots if blocks is not None else own.slots if own is not None else 0
    if not episodes.present or not len(days):
        return np.zeros((len(days), slots))
    last = int(days[-1]) - delay - 1
    evidence = Evidence.of(blocks and blocks.ended_by(last), own and own.until(last), others_share)
    if evidence is None:
        clean, ages = _chain(episodes, 1).stationary()
        return np.full((len(days), slots), ages.sum() / (clean + ages.sum()))
    wanted = np.maximum(days - delay - 1 - evidence.first_day, -1)
    shown = evidence.shown(episodes.fraud_share, episodes.base_share, episodes.traffic, int(wanted[-1]) + 1)
    predicted, _ = run(_chain(episodes, evidence.longest), shown, wanted, delay + 1)
    return np.clip(predicted, 0.0, 1.0)


def _chain(episodes: Episodes, longest: int) -> Chain:
    return Chain(episodes.onset, ending(episodes.mean_days, episodes.shape, longest))
