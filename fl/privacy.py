"""What a bank's rows have cost in privacy: mechanisms, accountants, and one lifelong ledger per bank.

What it does: `epsilon` turns a history of training steps, shared counts and client-level releases into
(epsilon, delta); `Ledger` remembers everything a bank ever spent and refuses what would overspend.

What it leaves to others: finding the noise that a budget allows (`fl.calibrate`), drawing it (`fl.randomness`,
`fl.discrete_gaussian`), taking the steps (`fl.training`, `fl.shared_steps`).

Sources: the Poisson-subsampled Gaussian composed numerically as privacy random variables (PRV; Gopi, Lee,
Wutschitz, NeurIPS 2021), whose *upper* bound is reported; Renyi DP (Mironov, Talwar, Zhang 2019) beside it.
Both are Opacus' implementations; `fl.privacy_loss` adds the exact privacy loss of noisy counts to the first.
Client-level rounds are composed as zCDP (Bun, Steinke 2016), steps under shared noise as zCDP within Renyi DP. A
Gaussian-DP (central limit) figure is never offered: it can understate.

Three units, and what each does not say:

- training: one *training row with its features fixed*, added or removed. A raw transaction also enters the
  features of other rows, the choice of which rows are training rows, and validation figures.
- statistics: one *transaction in shared counts* with its label. Counts of different days are different
  transactions' (parallel composition), so a bank pays for the dearest day, not for their sum.
- client: everything a bank contributes to a round, its whole update. It composes with none of the others.

The first two are added up, for the transaction that is both. None of them speaks of a card or a customer.

Ordering rule of the ledger: the spend is on disk, synced, before the first gradient is computed. A crash
can therefore count steps that were never taken and cannot forget one that was.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from opacus.accountants import RDPAccountant

from fl.durable import locked, replace_durably
from fl.errors import BudgetError, BudgetExhausted, LedgerError
from fl.privacy_loss import CountLoss, composed_epsilon
from fl.shared_noise import NoisePlan, sum_correction

UNIT = "training row, features fixed"
COUNTS_UNIT = "transaction in shared counts"
CLIENT_UNIT = "client: a bank's whole update"
ACCOUNTANT = "PRV"
CLIENT_ACCOUNTANT = "zCDP"
SHARED_ACCOUNTANT = "RDP"  # of shared steps, and of everything beside them
ALL_UNITS = (UNIT, COUNTS_UNIT, f"{UNIT}; {COUNTS_UNIT}", CLIENT_UNIT)  # of a whole ledger
LEDGER_FORMAT = "fl privacy ledger 2"
HOPELESS_EPSILON = 1000.0  # the PRV grid of a larger one would not fit in memory, nor would the figure help
RENYI_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 80, 128, 256, 512, 1024]  # the large ones serve small epsilons


Accountant = Literal["prv", "rdp"]
CountsKey = tuple[int, int, float, int]  # columns, resolution, share variance, shares


@dataclass(frozen=True)
class Mechanism:
    """`steps` Poisson-subsampled Gaussian steps; the noise's standard deviation is `noise_multiplier` * the
    clipping norm.
    """

    sample_rate: float  # in (0, 1]
    noise_multiplier: float  # > 0
    steps: int  # >= 1

    def __post_init__(self) -> None:
        if not 0.0 < self.sample_rate <= 1.0:
            raise BudgetError(f"sample_rate must be in (0, 1], got {self.sample_rate}")
        if not (self.noise_multiplier > 0.0 and math.isfinite(self.noise_multiplier)):
            raise BudgetError(f"noise_multiplier must be positive and finite, got {self.noise_multiplier}")
        if self.steps < 1:
            raise BudgetError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class NoisyCounts:
    """One release of disjoint counts, in which an event moves `columns` counts by one each.

    What is accounted is the noise of the `shares` banks outside the planned coalition.
    """

    columns: int  # >= 1; the integer vector's sensitivity is resolution * sqrt(columns)
    resolution: int  # grid units per event
    share_variance: float  # grid units squared
    shares: int  # n - t
    first_day: int
    last_day: int  # included: which transactions this release is about

    def __post_init__(self) -> None:
        if min(self.columns, self.resolution, self.shares) < 1 or not self.share_variance > 0:
            raise BudgetError(f"expected positive columns, resolution, shares and variance, got {self}")
        if self.first_day > self.last_day:
            raise BudgetError(f"a release ends on day {self.last_day} before it begins, on {self.first_day}")


@dataclass(frozen=True)
class SharedGaussian:
    """`rounds` sums of integer vectors, which the unit moves by at most `sensitivity`, under shared discrete
    Gaussian noise (Kairouz, Liu, Steinke 2021).
    """

    sensitivity: float  # L2, grid units, rounding included
    share_variance: float  # grid units squared
    shares: int  # that nobody in the planned coalition knows
    dimension: int
    rounds: int

    def __post_init__(self) -> None:
        if min(self.shares, self.dimension, self.rounds) < 1 or not (self.share_variance > 0 < self.sensitivity):
            raise BudgetError(f"expected positive shares, dimension, rounds, variance and sensitivity, got {self}")

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


Entry = Mechanism | NoisyCounts | ClientRounds | SharedSteps  # what a ledger's line can be


def epsilon(history: Iterable[Entry], delta: float, accountant: Accountant = "prv") -> float:
    """The epsilon at `delta` of everything in `history` together; 0.0 for an empty one, inf beyond
    `HOPELESS_EPSILON`.

    An upper bound in both accountants (PRV adds its own error of 0.01). The order of `history` is irrelevant.
    Raises `BudgetError` when client-level rounds stand beside row-level ones: no single unit covers both.
    """
    if not 0.0 < delta < 1.0:
        raise BudgetError(f"delta must be between 0 and 1 (and well below 1 / number of rows), got {delta}")
    entries = list(history)
    clients = [entry for entry in entries if isinstance(entry, ClientRounds)]
    if clients:
        if len(clients) < len(entries):
            raise BudgetError(
                "client-level rounds and row-level releases have different units and no common epsilon: keep a "
                "ledger for each (--budget-dir)"
            )
        return concentrated_epsilon(sum(entry.rounds * entry.concentrated for entry in clients), delta)
    steps: dict[tuple[float, float], int] = {}
    for entry in entries:
        if isinstance(entry, Mechanism):
            key = (entry.noise_multiplier, entry.sample_rate)
            steps[key] = steps.get(key, 0) + entry.steps
    if rho := sum(entry.rounds * entry.concentrated for entry in entries if isinstance(entry, SharedSteps)):
        # No exact privacy loss is known for a vector of discrete Gaussians: all is composed in Renyi DP, where rho-zCDP
        # is what one Gaussian of this noise costs.
        accountant = "rdp"
        steps[math.sqrt(1 / (2 * rho)), 1.0] = steps.get((math.sqrt(1 / (2 * rho)), 1.0), 0) + 1
    trained = tuple((*key, count) for key, count in sorted(steps.items()))
    return max(_composed(trained, counted, delta, accountant) for counted in _by_day(entries))


def _by_day(entries: Sequence[Entry]) -> set[tuple[CountsKey, ...]]:
    """The combinations of count releases that one transaction can be part of: those that share a day."""
    counts = [entry for entry in entries if isinstance(entry, NoisyCounts)]
    found: set[tuple[CountsKey, ...]] = {()}
    for day in {entry.first_day for entry in counts}:  # the most overlap begins where some release begins
        here = [c for c in counts if c.first_day <= day <= c.last_day]
        found.add(tuple(sorted((c.columns, c.resolution, c.share_variance, c.shares) for c in here)))
    return found


def noisy_counts(plan: NoisePlan, columns: int, days: tuple[int, int]) -> NoisyCounts:
    """What a ledger is told of a release of counts under `plan`, of the transactions of `days` (first, last)."""
    return NoisyCounts(columns, plan.resolution, float(plan.share_variance), plan.honest, *days)


@dataclass(frozen=True)
class Spend:
    """One line of a ledger: what was released, and the run and round it was recorded for (0: statistics)."""

    mechanism: Entry
    run: str
    round: int
    recorded: str  # UTC, ISO 8601


class Ledger:
    """The lifelong privacy ledger of one bank: a JSON file that only this bank's process writes.

    The file holds the bank's limit, fixed when it is created, and every spend since. It is replaced
    atomically and synced, under a lock, so that neither a crash nor two runs at once lose a line. Restoring
    an old copy of the file is not detected.
    """

    def __init__(self, path: Path, bank: str, epsilon_limit: float, delta: float) -> None:
        """Open the ledger at `path`, or create it with this limit.

        Raises `BudgetError` when the file exists with another delta or a lower limit, `LedgerError` when it
        cannot be trusted.
        """
        self.path = path
        self.bank = bank
        self.delta = delta
        self.epsilon_limit = epsilon_limit
        with locked(self.path.with_suffix(".lock")):
            if not path.exists():
                self._write(epsilon_limit, [])
            lifetime_limit, lifetime_delta, _ = self._read()
        if lifetime_delta != delta:
            raise BudgetError(
                f"{path}: this ledger counts at delta {lifetime_delta}, the run asks for {delta}: use "
                f"--delta {lifetime_delta}"
            )
        if epsilon_limit > lifetime_limit:
            raise BudgetError(
                f"{path}: {bank} allows epsilon {lifetime_limit} for the life of its data, the run asks "
                f"for {epsilon_limit}: lower "
                '--epsilon, or let the bank raise "epsilon_limit" in that file itself'
            )

    def history(self) -> list[Entry]:
        """Every mechanism recorded so far, by any run."""
        return [spend.mechanism for spend in self.spends()]

    def spends(self) -> list[Spend]:
        """Every line of the ledger, oldest first. Raises `LedgerError` when the file is damaged."""
        with locked(self.path.with_suffix(".lock")):
            return self._read()[2]

    def spent(self, accountant: Accountant = "prv") -> float:
        """Epsilon of everything ever recorded, at this ledger's delta."""
        return epsilon(self.history(), self.delta, accountant)

    def spend(self, mechanism: Entry, *, run: str, round_number: int) -> None:
        """Record `mechanism` durably; to be called before the first of its gradients or noises is computed.

        Raises `BudgetExhausted`, with the ledger unchanged, when the total would exceed the limit this
        ledger was opened with.
        """
        with locked(self.path.with_suffix(".lock")):
            lifetime_limit, _, spends = self._read()
            total = epsilon([*(s.mechanism for s in spends), mechanism], self.delta)
            if total > self.epsilon_limit:
                raise BudgetExhausted(
                    f"{self.bank}: round {round_number} would bring epsilon to {total:.3f}, the limit is "
                    f"{self.epsilon_limit} (delta "
                    f"{self.delta}, {units_of([mechanism])}); nothing was trained. {self.path} lists what was spent."
                )
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._write(lifetime_limit, [*spends, Spend(mechanism, run, round_number, now)])

    def _read(self) -> tuple[float, float, list[Spend]]:
        """(lifetime epsilon limit, delta, spends). Anything unexpected is refused: a ledger is never
        repaired by guessing.
        """
        try:
            content: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != LEDGER_FORMAT or content["unit"] not in ALL_UNITS:
                raise LedgerError(
                    f"{self.path}: expected format {LEDGER_FORMAT!r} and a known unit, got "
                    f"{content['format']!r}, {content['unit']!r}"
                )
            if content["bank"] != self.bank:
                raise LedgerError(f"{self.path} belongs to {content['bank']!r}, not to {self.bank!r}")
            spends = [
                Spend(
                    _KINDS[line["kind"]](**line["mechanism"]),
                    str(line["run"]),
                    int(line["round"]),
                    str(line["recorded"]),
                )
                for line in content["spent"]
            ]
            return float(content["epsilon_limit"]), float(content["delta"]), spends
        except (ValueError, KeyError, TypeError, BudgetError) as fault:
            raise LedgerError(
                f"{self.path} is no ledger this program wrote ({type(fault).__name__}: {fault}); restore "
                "it from the bank's backup: "
                "without it nobody knows what was spent"
            ) from fault

    def _write(self, lifetime_limit: float, spends: list[Spend]) -> None:
        content = {
            "format": LEDGER_FORMAT,
            "bank": self.bank,
            "unit": units_of(spend.mechanism for spend in spends),
            "epsilon_limit": lifetime_limit,
            "delta": self.delta,
            "spent": [
                {"kind": _NAMES[type(s.mechanism)], "unit": units_of([s.mechanism]), **asdict(s)} for s in spends
            ],
        }
        replace_durably(self.path, (json.dumps(content, indent=1) + "\n").encode())


_KINDS: dict[str, type[Mechanism] | type[NoisyCounts] | type[ClientRounds] | type[SharedSteps]] = {
    "training steps": Mechanism,
    "shared steps": SharedSteps,
    "shared counts": NoisyCounts,
    "client rounds": ClientRounds,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_UNITS = {Mechanism: UNIT, SharedSteps: UNIT, NoisyCounts: COUNTS_UNIT, ClientRounds: CLIENT_UNIT}


def units_of(entries: Iterable[Entry]) -> str:
    """The units that these entries speak of, as every output names them beside an epsilon."""
    present = {_UNITS[type(entry)] for entry in entries}
    return "; ".join(name for name in dict.fromkeys(_UNITS.values()) if name in present) or UNIT


def accountant_of(entries: Iterable[Entry]) -> str:
    """Who counted: the name of the accountant behind `epsilon` of these entries."""
    present = {type(entry) for entry in entries}
    if ClientRounds in present:
        return CLIENT_ACCOUNTANT
    return SHARED_ACCOUNTANT if SharedSteps in present else ACCOUNTANT


def ledger_path(folder: Path, bank: str) -> Path:
    """Where `bank`'s ledger lies in `folder`."""
    return folder / f"{file_name(bank)}.json"


def file_name(bank: str) -> str:
    """A name for `bank`'s files: readable, and different for every bank, whatever characters its name has."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", bank)[:40]
    return f"{readable}-{hashlib.sha256(bank.encode()).hexdigest()[:8]}"


@lru_cache(maxsize=4096)
def _composed(
    trained: tuple[tuple[float, float, int], ...],
    counted: tuple[CountsKey, ...],
    delta: float,
    accountant: Accountant,
) -> float:
    if not trained and not counted:
        return 0.0
    correction = sum(2 * columns * sum_correction(v, shares) for columns, _, v, shares in counted)
    orders = RENYI_ORDERS if accountant == "rdp" else [2, 4, 8, 16, 32]
    renyi = _renyi(trained, counted, delta, orders)
    # Integer orders are a closed form, hence quick; at small orders they bound even a huge epsilon.
    if accountant == "rdp":
        return renyi + correction
    if renyi > HOPELESS_EPSILON:
        return math.inf
    exact = [(CountLoss(r, variance, shares), columns) for columns, r, variance, shares in counted]
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return composed_epsilon(trained, exact, delta) + correction


def _renyi(
    trained: tuple[tuple[float, float, int], ...], counted: tuple[CountsKey, ...], delta: float, orders: list[float]
) -> float:
    """Renyi DP: a discrete Gaussian's divergences are at most the Gaussian's (Canonne et al., Theorem 14)."""
    renyi = RDPAccountant()
    renyi.history = [*trained, *((math.sqrt(shares * v) / r, 1.0, columns) for columns, r, v, shares in counted)]
    # Opacus warns at the ends of the orders and takes log(0) at sampling rate 1, where -inf is the right
    # value.
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(renyi.get_epsilon(delta, alphas=orders))


def concentrated_epsilon(rho: float, delta: float) -> float:
    """Epsilon at `delta` of a rho-zCDP mechanism: the best order of Canonne et al., Proposition 12."""
    if rho == 0:
        return 0.0
    orders = 1.0 + np.geomspace(1e-3, 1e5, 20_000)
    bound = orders * rho + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
    return float(max(bound.min(), 0.0))
