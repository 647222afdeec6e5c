"""A run's ledgers, read for people: what each bank has spent, has left, and what one more round would cost.

What it does: `bank_budgets` opens the ledgers of a run folder and prices the next round at the run's own noise.

What it leaves to others: writing ledgers (`fl.privacy.budget.BudgetLedger`, when a run spends).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.errors import BudgetError, RunFolderError
from fl.privacy.accounting import epsilon, reckoned
from fl.privacy.budget import BudgetLedger, ledger_path, read_ledger
from fl.privacy.mechanisms import Entry, Mechanism, NoisyCounts, units_of
from fl.runs.config import PrivacySettings
from fl.runs.folder import RunFolder, bank_names


@dataclass(frozen=True)
class BankBudget:
    """One bank's budget. All figures are epsilons at `delta`, for the life of the bank's data."""

    bank: str
    unit: str
    limit: float
    delta: float
    spent: float
    accountant: str  # that counted `spent`
    by_kind: dict[str, float]  # unit -> epsilon of that part alone; the parts do not add up to the whole
    releases: int  # lines in the ledger
    next_round: float  # what one more round like the run's last would add
    affordable: bool

    @property
    def left(self) -> float:
        return max(self.limit - self.spent, 0.0)

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "left": self.left}


def bank_budgets(run: Path) -> list[BankBudget]:
    """The budgets of every bank of the run in `run`, in the order of its manifest.

    Raises `BudgetError` when the run is without differential privacy, `RunFolderError` and `LedgerError` as opening
    the folder and its ledgers does.
    """
    folder = RunFolder.open(run)
    privacy = folder.config.privacy
    if privacy is None:
        raise BudgetError(f"{run} was trained with --no-dp: it spends no budget and keeps no ledger")
    where = Path(privacy.budget_dir) if privacy.budget_dir else run / "budget"
    banks = bank_names(folder.path)
    found = []
    for bank in banks:
        path = ledger_path(where, bank)
        if not path.exists():
            raise RunFolderError(f"{path}: the ledger of {bank} is not there yet: this run has spent nothing")
        limit = read_ledger(path, bank).epsilon_limit
        history = BudgetLedger(path, bank, min(limit, privacy.epsilon), privacy.delta).history()
        following: list[Entry] = [*history, _next_of(history, privacy)]
        (spent, accountant), after = reckoned(history, privacy.delta), epsilon(following, privacy.delta)
        kinds = {units_of([entry]): [e for e in history if type(e) is type(entry)] for entry in history}
        found.append(
            BankBudget(
                bank,
                units_of(following),
                limit,
                privacy.delta,
                spent,
                accountant,
                {unit: epsilon(part, privacy.delta) for unit, part in kinds.items()},
                len(history),
                after - spent,
                after <= limit,
            )
        )
    return found


def _next_of(history: list[Entry], privacy: PrivacySettings) -> Entry:
    """One more round as the run plays them: its own noise, or what it last released where the noise is shared."""
    if privacy.unit == "row" and privacy.noise_multiplier is not None:
        return Mechanism(privacy.sample_rate, privacy.noise_multiplier, privacy.steps)
    rounds = [entry for entry in history if not isinstance(entry, NoisyCounts)]
    if not rounds:
        raise BudgetError("no round was paid for yet: the price of the next one is not decided")
    return rounds[-1]
