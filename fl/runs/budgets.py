"""Open the ledgers of a run, record releases of shared counts, and report the spent privacy budget.

`bank_budgets` also gives the cost of one more round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl.errors import BudgetError, BudgetLedgerError, RunFolderError
from fl.privacy.accounting import Reckoned, epsilon, reckoned
from fl.privacy.budget import BudgetLedger, Spend, ledger_path, read_ledger
from fl.privacy.mechanisms import UNIT, ClientRounds, Counts, Entry, Mechanism, SharedSteps, units_of
from fl.privacy.protection import Protection, protection
from fl.runs.config import PrivacySettings
from fl.runs.folder import RunFolder, bank_names

STATISTICS_ROUND = 0  # number of the release of counts in a ledger

NOT_COVERED = (
    "a row's influence on the features of other rows",
    "the choice of which rows are training rows",
    "validation and test figures, thresholds and the calibration of scores among them",
    "the baselines",
    "the number of rows of a bank, if it is published otherwise, and what manifest.json says of its rows and frauds",
    "a transaction, card or customer as a whole",
)
RISK_NOT_COVERED = (
    "a row's influence on the features of other rows, into which no label goes: changing one label is covered in full, "
    "adding or removing a row with the features of all other rows fixed",
    *NOT_COVERED[1:4],
    "scores, alerts and declines that use a bank's own labels, and models that stay at home",
    NOT_COVERED[4],
    "a card or a customer as a whole, and a party as a whole: several frauds cost several times as much",
)  # of a model whose training sees released counts and no label-dependent feature of a bank's own
CLIENT_NOT_COVERED = (
    "that a bank takes part",
    "validation and test figures, thresholds and the calibration of scores among them",
    "the baselines",
)
WITHOUT_PRIVACY: dict[str, Any] = {
    "epsilon": None,
    "delta": None,
    "accountant": None,
    "rdp_epsilon": None,
    "protection": None,
    "unit": UNIT,
    "noise_multiplier": None,
    "per_bank": {},
    "not_covered": ("everything: this run was trained without differential privacy",),
}


def ledgers_folder(run: Path, privacy: PrivacySettings) -> Path:
    """Folder of the banks' ledgers of the run in `run`."""
    return Path(privacy.budget_dir) if privacy.budget_dir else run / "budget"


def open_ledgers(folder: Path, privacy: PrivacySettings, banks: Iterable[str]) -> dict[str, BudgetLedger]:
    return {bank: BudgetLedger(ledger_path(folder, bank), bank, privacy.epsilon, privacy.delta) for bank in banks}


@dataclass(frozen=True)
class CountsPayment:
    """The banks' ledgers as `fl.counts.drafts.Payment`, for a run's release of counts.

    A payment is identified by the release that it paid for. The name of the run would not do: copies of a run's folder
    have the same name.
    """

    ledgers: Mapping[str, BudgetLedger]
    run: str
    entry: Counts

    def began(self, release: str) -> bool:
        return any(self._holds(ledger, release) for ledger in self.ledgers.values())

    def require_room(self, release: str | None) -> None:
        for ledger in self.ledgers.values():
            if release is None or not self._holds(ledger, release):
                ledger.require_room(self.entry, round_number=STATISTICS_ROUND)

    def pay(self, release: str) -> None:
        for ledger in self.ledgers.values():
            if not self._holds(ledger, release):
                ledger.spend(self.entry, run=self.run, round_number=STATISTICS_ROUND, bound_to=release)

    def require_paid(self, release: str | None) -> None:
        for bank, ledger in self.ledgers.items():
            if not self._holds(ledger, release):
                raise BudgetLedgerError(
                    f"{ledger.path}: {bank} took part in this run's release of counts, and its ledger does not hold "
                    "it: the ledger was lost or replaced by an older copy. Restore the ledger that recorded it: "
                    "without it, the spending of the bank is unknown"
                )

    def _holds(self, ledger: BudgetLedger, release: str | None) -> bool:
        """`release` None: totals of an earlier version, which exist and are not released again."""
        return any(
            spend.mechanism == self.entry and spend.bound_to == release and (release is not None or self._named(spend))
            for spend in ledger.spends()
        )

    def _named(self, spend: Spend) -> bool:
        return spend.run == self.run and spend.round == STATISTICS_ROUND


def trainings_paid(ledger: BudgetLedger, run: str) -> int:
    """Number of trainings of `run` in the ledger, finished or not."""
    return sum(spend.run == run and spend.round != STATISTICS_ROUND for spend in ledger.spends())


def require_paid(ledgers: Mapping[str, BudgetLedger], run: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to continue when a ledger holds fewer trainings of `run` than its bank has in finished rounds.

    Such a ledger is an older copy, or another one than the ledger that recorded them. Raises `BudgetLedgerError`.
    """
    for bank, ledger in ledgers.items():
        shown = sum(bank in record["members"] for record in records)
        paid = trainings_paid(ledger, run)
        if paid < shown:
            raise BudgetLedgerError(
                f"{ledger.path}: {bank} took part in {shown} finished rounds of this run, and its ledger holds {paid}: "
                "the ledger was lost or replaced by an older copy. Restore the ledger that recorded them: without it, "
                "the spending of the bank is unknown"
            )


def dearest(ledgers: Mapping[str, BudgetLedger]) -> Reckoned:
    """The spending of the bank that has spent most, over all runs in its ledger."""
    return max((ledger.reckoned() for ledger in ledgers.values()), key=lambda each: each.epsilon)


def privacy_report(
    privacy: PrivacySettings | None, ledgers: Mapping[str, BudgetLedger], *, by_risk: bool = False
) -> dict[str, Any]:
    """The spending in all runs of these ledgers, as JSON.

    `by_risk`: the run's model knows the risk of shared parties, so that no label enters a feature in its training.
    """
    if privacy is None:
        return WITHOUT_PRIVACY
    spent, accountant = dearest(ledgers)
    # Of each figure the worst bank's: the one with the largest epsilon need not be the one that is guessed most often.
    found = [asdict(protection(ledger.history(), privacy.delta)) for ledger in ledgers.values()]
    return {
        "protection": {name: max(each[name] for each in found) for name in found[0]},
        "epsilon": spent,
        "delta": privacy.delta,
        "accountant": accountant,
        "rdp_epsilon": max(ledger.spent("rdp") for ledger in ledgers.values()),
        "unit": units_of(entry for ledger in ledgers.values() for entry in ledger.history()),
        "epsilon_limit": privacy.epsilon,
        "noise_multiplier": privacy.noise_multiplier,
        "noise": privacy.noise,
        "colluders": privacy.colluders,
        "share_variance": privacy.share_variance,
        "share_pieces": privacy.share_pieces,
        "sample_rate": privacy.sample_rate,
        "steps": max(_steps(ledger.history()) for ledger in ledgers.values()),
        "max_grad_norm": privacy.max_grad_norm,
        "per_bank": {
            name: {
                **ledger.reckoned()._asdict(),
                "rounds_recorded": sum(s.round != STATISTICS_ROUND for s in ledger.spends()),
            }
            for name, ledger in ledgers.items()
        },
        "not_covered": not_covered(privacy, by_risk=by_risk),
    }


def not_covered(privacy: PrivacySettings, *, by_risk: bool) -> tuple[str, ...]:
    """What the epsilon of a run says nothing about. `by_risk`: as in `privacy_report`."""
    if privacy.unit != "row":
        return CLIENT_NOT_COVERED
    return RISK_NOT_COVERED if by_risk else NOT_COVERED


def _steps(history: Iterable[Entry]) -> int:
    """Noisy steps, or whole updates, that a ledger has recorded."""
    counted = {Mechanism: "steps", ClientRounds: "rounds", SharedSteps: "rounds"}
    return sum(getattr(entry, counted[type(entry)]) for entry in history if type(entry) in counted)


@dataclass(frozen=True)
class BankBudget:
    """One bank's budget. All figures are epsilons at `delta`, for the life of the bank's data."""

    bank: str
    unit: str
    limit: float
    delta: float
    spent: float
    accountant: str  # accountant that computed `spent`
    by_kind: dict[str, float]  # unit -> epsilon of that part alone; the parts do not add up to the whole
    releases: int  # lines in the ledger
    next_round: float  # epsilon that one more round like the run's last would add
    affordable: bool
    protection: Protection  # of what was spent

    @property
    def left(self) -> float:
        return max(self.limit - self.spent, 0.0)

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "left": self.left, "protection": asdict(self.protection)}


def bank_budgets(run: Path) -> list[BankBudget]:
    """The budgets of every bank of the run in `run`, in the order of its manifest.

    Raises `BudgetError` when the run is without differential privacy, `RunFolderError` when the folder cannot be
    opened, and `BudgetLedgerError` when a ledger cannot be opened.
    """
    folder = RunFolder.open(run)
    privacy = folder.config.privacy
    if privacy is None:
        raise BudgetError(f"{run} was trained with --no-dp: it spends no budget and keeps no ledger")
    where = ledgers_folder(run, privacy)
    banks = bank_names(folder.path)
    budgets: list[BankBudget] = []
    protections: dict[tuple[Entry, ...], Protection] = {}  # banks of one run have mostly the same history
    for bank in banks:
        path = ledger_path(where, bank)
        if not path.exists():
            raise RunFolderError(f"{path}: expected the ledger of {bank}, found none: this run has spent nothing yet")
        limit = read_ledger(path, bank).epsilon_limit
        history = BudgetLedger(path, bank, min(limit, privacy.epsilon), privacy.delta).history()
        following: list[Entry] = [*history, _next_of(history, privacy)]
        if tuple(history) not in protections:
            protections[tuple(history)] = protection(history, privacy.delta)
        (spent, accountant), after = reckoned(history, privacy.delta), epsilon(following, privacy.delta)
        units = dict.fromkeys(units_of([entry]) for entry in history)
        kinds = {unit: [entry for entry in history if units_of([entry]) == unit] for unit in units}
        budgets.append(
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
                protections[tuple(history)],
            )
        )
    return budgets


def _next_of(history: list[Entry], privacy: PrivacySettings) -> Entry:
    """The cost of one more round: with the run's own noise, or that of its last release where noise is shared."""
    if privacy.unit == "row" and privacy.noise_multiplier is not None:
        return Mechanism(privacy.sample_rate, privacy.noise_multiplier, privacy.steps)
    rounds = [entry for entry in history if not isinstance(entry, Counts)]
    if not rounds:
        raise BudgetError("no round is recorded yet, so the cost of the next one is unknown: play a round first")
    return rounds[-1]
