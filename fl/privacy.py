"""What a bank's rows have cost in privacy: mechanisms, accountants, calibration, and one lifelong ledger
per bank.

What it does: `epsilon` turns a history of noisy steps into (epsilon, delta); `calibrate` finds the noise
for a whole schedule; `Ledger` remembers every step a bank ever took and refuses the one that would
overspend.

What it leaves to others: drawing the noise (`fl.randomness`), taking the steps (`fl.training`).

Sources: the Poisson-subsampled Gaussian composed numerically as privacy random variables (PRV; Gopi, Lee,
Wutschitz, NeurIPS 2021), whose *upper* bound is reported; Renyi DP (Mironov, Talwar, Zhang 2019) beside it.
Both are Opacus' implementations. A Gaussian-DP (central limit) figure is never offered: it can understate.

The unit is one *training row with its features fixed*, added or removed. A raw transaction also enters the
features of other rows (counts, averages, risk of a terminal), the choice of which rows are training rows,
and validation figures; none of that is covered, so no claim is made for a transaction, a card or a
customer. docs/privacy.md says it at length.

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
from opacus.accountants import PRVAccountant, RDPAccountant

from fl.durable import locked, replace_durably
from fl.errors import BudgetError, BudgetExhausted, LedgerError

UNIT = "training row, features fixed"
ACCOUNTANT = "PRV"
LEDGER_FORMAT = "fl privacy ledger 1"
SMALLEST_NOISE = 0.5  # noise multipliers below are not worth searching
LARGEST_NOISE = 10_000.0
MOSTLY_SPENT = 0.99  # of a budget: beyond it no further schedule is started
HOPELESS_EPSILON = 1000.0  # the PRV grid of a larger one would not fit in memory, nor would the figure help
RENYI_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 80, 128, 256, 512, 1024]  # the large ones serve small epsilons

Accountant = Literal["prv", "rdp"]


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


def epsilon(history: Iterable[Mechanism], delta: float, accountant: Accountant = "prv") -> float:
    """The epsilon at `delta` of all mechanisms in `history` together; 0.0 for an empty one, inf beyond
    `HOPELESS_EPSILON`.

    An upper bound in both accountants (PRV adds its own error of 0.01). The order of `history` is irrelevant.
    """
    if not 0.0 < delta < 1.0:
        raise BudgetError(f"delta must be between 0 and 1 (and well below 1 / number of rows), got {delta}")
    steps: dict[tuple[float, float], int] = {}
    for mechanism in history:
        key = (mechanism.noise_multiplier, mechanism.sample_rate)
        steps[key] = steps.get(key, 0) + mechanism.steps
    return _composed(tuple((*key, count) for key, count in sorted(steps.items())), delta, accountant)


def calibrate(
    spent: Sequence[Mechanism], *, sample_rate: float, steps: int, epsilon_limit: float, delta: float
) -> float:
    """The smallest noise multiplier (>= 0.5, to 3 decimals, rounded up) for which `spent` and `steps`
    further steps stay in the limit.

    Raises `BudgetExhausted` when no noise is enough because `spent` has used the budget up.
    """

    if not epsilon_limit > 0:
        raise BudgetError(f"epsilon must be positive, got {epsilon_limit}")
    already = epsilon(spent, delta)
    if already > MOSTLY_SPENT * epsilon_limit:
        raise BudgetExhausted(
            f"{already:.3f} of epsilon {epsilon_limit} is spent (delta {delta}): what is left would buy "
            "noise and nothing else. "
            "This data has been used up; train on rows that no ledger has seen."
        )

    def total(thousandths: int) -> float:
        return epsilon([*spent, Mechanism(sample_rate, thousandths / 1000, steps)], delta)

    low, high = 0, round(1000 * SMALLEST_NOISE)  # thousandths; `low` is too little noise, `high` enough
    above, below = math.inf, total(high)  # what they would spend
    while below > epsilon_limit:
        low, above = high, below
        high *= 2
        below = total(high)
        if high > 1000 * LARGEST_NOISE:
            raise BudgetExhausted(
                f"no noise up to {LARGEST_NOISE:g} lets {steps} steps fit into epsilon {epsilon_limit} at "
                "delta "
                f"{delta} beside the {already:.3f} spent: ask for fewer rounds or a larger epsilon"
            )
    halve = False
    while high - low > 1:
        guess = _between(low, high, above, below, epsilon_limit, halve)
        if (spending := total(guess)) <= epsilon_limit:
            high, below = guess, spending
        else:
            low, above = guess, spending
        halve = not halve
    return high / 1000


def _between(low: int, high: int, above: float, below: float, target: float, halve: bool) -> int:
    """A point strictly between: where a power law through both ends meets the target, every other time the
    middle.
    """
    if halve or math.isinf(above) or low == 0:
        return (low + high) // 2
    share = math.log(above / target) / math.log(above / below)
    return min(max(round(low * (high / low) ** share), low + 1), high - 1)


@dataclass(frozen=True)
class Spend:
    """One line of a ledger: a round's mechanism, and the run and round it was recorded for."""

    mechanism: Mechanism
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

    def history(self) -> list[Mechanism]:
        """Every mechanism recorded so far, by any run."""
        return [spend.mechanism for spend in self.spends()]

    def spends(self) -> list[Spend]:
        """Every line of the ledger, oldest first. Raises `LedgerError` when the file is damaged."""
        with locked(self.path.with_suffix(".lock")):
            return self._read()[2]

    def spent(self, accountant: Accountant = "prv") -> float:
        """Epsilon of everything ever recorded, at this ledger's delta."""
        return epsilon(self.history(), self.delta, accountant)

    def spend(self, mechanism: Mechanism, *, run: str, round_number: int) -> None:
        """Record `mechanism` durably; to be called before the first of its gradients is computed.

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
                    f"{self.delta}, {UNIT}); nothing was trained. {self.path} lists what was spent."
                )
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._write(lifetime_limit, [*spends, Spend(mechanism, run, round_number, now)])

    def _read(self) -> tuple[float, float, list[Spend]]:
        """(lifetime epsilon limit, delta, spends). Anything unexpected is refused: a ledger is never
        repaired by guessing.
        """
        try:
            content: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != LEDGER_FORMAT or content["unit"] != UNIT:
                raise LedgerError(
                    f"{self.path}: expected format {LEDGER_FORMAT!r} for {UNIT!r}, got "
                    f"{content['format']!r}, {content['unit']!r}"
                )
            if content["bank"] != self.bank:
                raise LedgerError(f"{self.path} belongs to {content['bank']!r}, not to {self.bank!r}")
            spends = [
                Spend(
                    Mechanism(**line["mechanism"]),
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
            "unit": UNIT,
            "epsilon_limit": lifetime_limit,
            "delta": self.delta,
            "spent": [asdict(spend) for spend in spends],
        }
        replace_durably(self.path, (json.dumps(content, indent=1) + "\n").encode())


def ledger_path(folder: Path, bank: str) -> Path:
    """Where `bank`'s ledger lies in `folder`: readable, and different for every name, whatever characters
    it has.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", bank)[:40]
    return folder / f"{readable}-{hashlib.sha256(bank.encode()).hexdigest()[:8]}.json"


@lru_cache(maxsize=4096)
def _composed(history: tuple[tuple[float, float, int], ...], delta: float, accountant: Accountant) -> float:
    if not history:
        return 0.0
    renyi, prv = RDPAccountant(), PRVAccountant()
    renyi.history = prv.history = list(history)
    # Opacus warns at the ends of the orders and takes log(0) at sampling rate 1, where -inf is the right
    # value.
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the")
        if accountant == "rdp":
            return float(renyi.get_epsilon(delta, alphas=RENYI_ORDERS))
        # Integer orders are a closed form, hence quick; at small orders they bound even a huge epsilon.
        hopeless = renyi.get_epsilon(delta, alphas=[2, 4, 8, 16, 32]) > HOPELESS_EPSILON
        return math.inf if hopeless else float(prv.get_epsilon(delta))
