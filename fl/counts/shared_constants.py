"""Compute the scaling constants of columns over all banks in one secure round, in which no bank's rows are seen.

Every bank counts its training rows on a public grid of logarithms (`fl.data.log_grid`), and the counts of all banks
are added up under masks and encryption. From the sum everybody computes the same centre and scale for each column. No
bank's rows decide alone, and nobody looks at rows to choose a constant.

Under differential privacy each bank adds its share of discrete Gaussian noise to its counts before it encrypts them,
and every bank's ledger holds the release before anything leaves a bank (`fl.counts.release` states the order and why).
The unit is that of all counts: one transaction. It moves one count at each level of each column. With the noise the
constants are functions of a release that epsilon covers, so that the rows' features cost nothing more.

Without noise the sum shows every bank how many rows of all banks lie in a bin of width 1/64 of a logarithm.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fl import options
from fl.counts.kept_drafts import Integers, KeptDrafts, Payment
from fl.data.constants import Constant
from fl.data.log_grid import Counted
from fl.data.reading import Transactions
from fl.data.scaling import constants_of, counted_columns, counts_in
from fl.data.schema import Schema
from fl.durable import replace_json
from fl.errors import SchemaError, StatisticsError
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.mechanisms import NoisyCounts, noisy_counts
from fl.privacy.noise_shares import NoisePlan
from fl.privacy.randomness import Entropy
from fl.secure.cost import bits_for
from fl.secure.session import IntegerSum, encrypted_sum

CONSTANTS = "constants.json"
STEM = "constants"  # of the drafts' files
MOST_ROWS = 2**22  # of one bank, in one count: a lane must hold them with the noise
FORMAT = "shared constants 1"


@dataclass(frozen=True)
class ConstantsPlan:
    """One round for constants. All of it is public.

    `days`: first and last day of the rows that are counted. `reports`: how many banks count one transaction.
    """

    counted: tuple[Counted, ...]
    noise: NoisePlan | None
    days: tuple[int, int]
    reports: int = 1

    @property
    def length(self) -> int:
        """Number of counts of all columns."""
        return sum(each.length for each in self.counted)

    @property
    def moved(self) -> int:
        """Counts that one transaction moves by one at each bank that reports it."""
        return moved_counts(self.counted)

    @property
    def entry(self) -> NoisyCounts | None:
        """What a ledger holds of this round; None without noise."""
        return None if self.noise is None else noisy_counts(self.noise, self.moved, self.days, reports=self.reports)

    @property
    def resolution(self) -> int:
        """Grid units a row."""
        return 1 if self.noise is None else self.noise.resolution

    @property
    def largest(self) -> int:
        """Largest integer that a bank contributes."""
        return MOST_ROWS * self.resolution + (0 if self.noise is None else self.noise.tail(self.length))

    @property
    def sigma(self) -> float:
        """Standard deviation of all the noise in one released count, in rows."""
        return 0.0 if self.noise is None else self.noise.released_sigma

    def named(self, members: Sequence[str], schema_sha256: str) -> bytes:
        """Bytes that say what is computed, for which roster."""
        noise = None if self.noise is None else (self.noise.sigma, self.noise.banks, self.noise.colluders)
        about = [FORMAT, repr(self.counted), repr(noise), list(self.days), self.reports, list(members), schema_sha256]
        return hashlib.sha256(json.dumps(about).encode()).digest()


@dataclass(frozen=True)
class SharedConstants:
    """The constants of one round and what computing them took. `release`: the hash that was paid for."""

    constants: tuple[Constant, ...]
    sigma: float
    seconds: float
    bytes_up: int
    bytes_down: int
    release: str | None = field(default=None, repr=False)


def moved_counts(counted: Sequence[Counted]) -> int:
    """Counts that one transaction moves by one at a bank that reports it."""
    return sum(each.moved for each in counted)


def contribution(table: Transactions, plan: ConstantsPlan, roster: int, *, entropy: Entropy = os.urandom) -> Integers:
    """int64[plan.length]: what a bank encrypts for a closed roster of `roster` banks: counts, and its share of noise.

    `entropy`: for tests only. Raises `StatisticsError` for another roster than the noise was planned for, or for more
    than `MOST_ROWS` rows.
    """
    if len(table) > MOST_ROWS:
        raise StatisticsError(f"{table.source}: expected at most {MOST_ROWS} rows of a bank, got {len(table)}")
    counts = counts_in(table, plan.counted) * plan.resolution
    if plan.noise is None:
        return counts
    if roster != plan.noise.banks:
        raise StatisticsError(f"noise: planned for {plan.noise.banks} banks, and the roster holds {roster}; plan anew")
    share = discrete_gaussian(plan.length, plan.noise.share_variance, entropy=entropy)
    noised: Integers = np.clip(counts + share, -plan.largest, plan.largest)
    return noised


def share_constants(
    banks: Sequence[tuple[str, Transactions]],
    plan: ConstantsPlan,
    folder: Path,
    *,
    payment: Payment | None = None,
    engine: str | None = "auto",
) -> SharedConstants:
    """The constants over `banks` (name, training rows), computed now or read from `folder`.

    `engine`: None adds without encryption. `payment`: needed for a plan with noise, and asked before anything is
    counted. Raises whatever it raises, `StatisticsError`, `AggregationError`, `secagg.errors.SecAggError`.
    """
    if plan.noise is not None and payment is None:
        raise StatisticsError("a noisy release is paid for: expected the banks' ledgers, got none")
    members = [name for name, _ in banks]
    named = plan.named(members, banks[0][1].schema.sha256)
    if (done := read_constants(folder, named)) is not None:
        if payment is not None:
            payment.require_paid(done.release)
        return done
    start = time.perf_counter()
    draws = [partial(contribution, table, plan) for _, table in banks]
    drafts = KeptDrafts(named, draws, plan.length, folder, STEM)
    if payment is not None:
        drafts.keep_if_paid(payment)
        payment.require_room(drafts.release)
    folder.mkdir(parents=True, exist_ok=True)
    contributions = [partial(drafts.of, position, payment) for position in range(len(banks))]
    if engine is None:
        totals: Integers = np.sum([draw(len(banks)) for draw in contributions], axis=0)
        summed = IntegerSum(totals, bytes_up=0, bytes_down=0, seconds=0.0, value_bits=bits_for(plan.largest))
    else:
        summed = encrypted_sum(
            contributions, length=plan.length, largest=plan.largest, model_hash=named.hex(), engine=engine
        )
    constants = constants_of(plan.counted, summed.totals / plan.resolution, plan.sigma)
    seconds = time.perf_counter() - start
    shared = SharedConstants(constants, plan.sigma, seconds, summed.bytes_up, summed.bytes_down, drafts.release)
    content = {**asdict(shared), "constants": [_stored(each) for each in constants]}
    replace_json(folder / CONSTANTS, {"format": FORMAT, "named": named.hex(), **content})
    drafts.delete()
    return shared


def read_constants(folder: Path, named: bytes) -> SharedConstants | None:
    """What `folder` holds of the round `named`; None before there is one.

    Raises `StatisticsError` for a damaged file, and for constants of another round.
    """
    path = folder / CONSTANTS
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        of_format, of_named = content.pop("format"), content.pop("named")
        constants = tuple(Constant(**each) for each in content.pop("constants"))
        shared = SharedConstants(constants, **{name: _checked(name, value) for name, value in content.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SchemaError) as fault:
        raise StatisticsError(f"{path}: no shared constants that can be read ({fault}); start the run anew") from fault
    if of_format != FORMAT or of_named != named.hex():
        raise StatisticsError(f"{path} holds constants of another round: the run's data or options have changed")
    return shared


def constants_plan(schema: Schema, noise: NoisePlan | None, days: tuple[int, int]) -> ConstantsPlan:
    """The round that computes the shared constants that `schema` lacks."""
    return ConstantsPlan(counted_columns(schema, "shared"), noise, days, schema.parties.reports)


def _stored(constant: Constant) -> dict[str, Any]:
    return {**asdict(constant), "means": dict(constant.means)}


_NUMBER = options.Real(0, 1e15)


def _checked(name: str, value: object) -> Any:
    """A value of the file. Raises what `read_constants` turns into a `StatisticsError`."""
    if name == "release":
        if value is not None and not isinstance(value, str):
            raise TypeError(f"release: expected a hash, got {value!r:.60}")
        return value
    return int(_NUMBER.of(value)) if name.startswith("bytes_") else _NUMBER.of(value)
