"""What a run may spend and what it has spent: ledgers opened, noise calibrated to all rounds, the report of both.

What it does: everything of a run that is about its budget and happens before the first round or after the last.

What it leaves to others: what a mechanism costs and the ledger's rule (`fl.privacy.accounting`), recording a spend when
a round begins (`fl.runs.experiment`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fl.counts.columns import input_names
from fl.counts.settings import StatisticsSettings, plan_sharing
from fl.data.federation import Federation, PartitionedTable
from fl.errors import (
    AggregationError,
    AlgorithmError,
    BudgetError,
    CompressionError,
    LedgerError,
    ResourceError,
    RunFolderError,
)
from fl.learning.model import HIDDEN, build_model, layout
from fl.learning.training import LocalTraining, PrivateSteps
from fl.options import LEAST_BANKS
from fl.privacy.accounting import Reckoned
from fl.privacy.budget import BudgetLedger, Spend, ledger_path
from fl.privacy.calibrate import calibrate, calibrate_clients, calibrate_counts, calibrate_steps, require_left
from fl.privacy.mechanisms import UNIT, ClientRounds, Entry, Mechanism, NoisyCounts, SharedSteps, noisy_counts, units_of
from fl.privacy.noise_shares import plan_noise
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.fedprox import require_stable_pull
from fl.rounds.algorithms.settings import algorithm_of
from fl.rounds.algorithms.state import trainings
from fl.rounds.compression import Compression, compression_of
from fl.rounds.joint_noise import GRID, JointNoise, row_sensitivity, update_sensitivity
from fl.rounds.limits import Choice, Workload, choose, limits_of, measure_machine
from fl.runs.config import BY_NOISE, PrivacySettings, RunConfig

NOISE_PER_STEP = 2.7e-3  # standard deviation, in the unit of the weights; figures in docs/adr/0012
STATISTICS_ROUND = 0  # what a ledger calls the round in which counts were shared

ONLY_PRIVATE = (  # options of the command line that mean nothing without differential privacy
    "epsilon",
    "delta",
    "unit",
    "noise",
    "update_norm",
    "colluders",
    "statistics_share",
    "increment_days",
    "budget_dir",
    "sample_rate",
    "local_steps",
    "max_grad_norm",
    "expected_batch",
)

NOT_COVERED = (
    "a row's influence on the features of other rows",
    "the choice of which rows are training rows",
    "validation and test figures, the threshold among them",
    "the baselines",
    "the number of rows of a bank, if it is published otherwise",
    "a transaction, card or customer as a whole",
)
CLIENT_NOT_COVERED = (
    "that a bank takes part",
    "validation and test figures, the threshold among them",
    "the baselines",
)
WITHOUT_PRIVACY: dict[str, Any] = {
    "epsilon": None,
    "delta": None,
    "accountant": None,
    "rdp_epsilon": None,
    "unit": UNIT,
    "noise_multiplier": None,
    "per_bank": {},
    "not_covered": ("everything: this run was trained without differential privacy",),
}


def open_ledgers(folder: Path, privacy: PrivacySettings, federation: Federation) -> dict[str, BudgetLedger]:
    return {
        bank.name: BudgetLedger(ledger_path(folder, bank.name), bank.name, privacy.epsilon, privacy.delta)
        for bank in federation.banks
    }


@dataclass(frozen=True)
class CountsPayment:
    """The banks' ledgers, as a run's release of counts sees them (`fl.counts.release.Payment`).

    A payment is known by what it paid for: the run's name in a ledger is the name of every copy of its folder as well.
    """

    ledgers: Mapping[str, BudgetLedger]
    run: str
    entry: NoisyCounts

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
                raise LedgerError(
                    f"{ledger.path}: {bank} took part in this run's release of counts, and its ledger does not hold "
                    "it: an older copy was put back, or the ledger is gone. Restore the one that paid: without it "
                    "nobody knows what was spent"
                )

    def _holds(self, ledger: BudgetLedger, release: str | None) -> bool:
        """`release` None: totals of an earlier version, which are there and are not released again."""
        return any(
            spend.mechanism == self.entry and spend.bound_to == release and (release is not None or self._named(spend))
            for spend in ledger.spends()
        )

    def _named(self, spend: Spend) -> bool:
        return spend.run == self.run and spend.round == STATISTICS_ROUND


def require_paid(ledgers: Mapping[str, BudgetLedger], run: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to go on when a ledger holds fewer trainings of `run` than its bank has shown in finished rounds: it is an
    older copy, or another ledger than the one that paid. Raises `LedgerError`.
    """
    for bank, ledger in ledgers.items():
        shown = sum(bank in record["members"] for record in records)
        paid = sum(spend.run == run and spend.round != STATISTICS_ROUND for spend in ledger.spends())
        if paid < shown:
            raise LedgerError(
                f"{ledger.path}: {bank} took part in {shown} finished rounds of this run, and its ledger holds {paid}: "
                "an older copy was put back, or the ledger is gone. Restore the one that paid: without it nobody knows "
                "what was spent"
            )


def refuse_beside_no_dp(given: Collection[str]) -> None:
    """Refuse those of the options `given` that only a private run has, beside the wish for no privacy: whoever names a
    budget expects it to be kept. Raises `BudgetError`.
    """
    if contradicting := [name for name in ONLY_PRIVATE if name in given]:
        raise BudgetError(
            f"--no-dp trains without differential privacy, and --{contradicting[0].replace('_', '-')} says how much of "
            "it there is, or how it is spent: leave out one of the two"
        )


def require_room(config: RunConfig, banks: int) -> None:
    """Refuse sharing and units that do not fit each other, before any budget is looked at."""
    privacy, participation = config.privacy, config.participation
    if participation is not None and participation.reuse and privacy is not None:
        raise AlgorithmError(
            "--reuse-updates sends one noisy update to two rosters, whose sums can be differenced: under differential "
            "privacy a retry trains afresh"
        )
    if config.statistics is not None and banks < LEAST_BANKS:
        raise AggregationError(
            f"shared statistics need at least {LEAST_BANKS} banks, got {banks}: more --clients, or "
            "--no-shared-statistics"
        )
    if privacy is None:
        return
    if privacy.noise == "shared":
        _require_room_for_shared_noise(config, privacy, banks)
    if privacy.unit == "row":
        return
    if config.statistics is not None:
        raise BudgetError(
            "shared counts protect single transactions, and --unit client promises more than that for a whole bank: "
            "leave them out with --no-shared-statistics"
        )
    if participation is not None or config.algorithm.name == "fedbuff":
        raise AlgorithmError(
            "--unit client plans its noise for one roster of all banks: leave out partial participation, dropouts and "
            "fedbuff"
        )
    if config.resources is not None:
        raise ResourceError("--unit client plans bits and noise together: leave out the banks' limits")
    if config.compression is not None:
        raise CompressionError(
            "--unit client plans its noise for one vector and one grid: leave out --bits and --layers"
        )
    if config.aggregation.mode != "encrypted":
        raise BudgetError("--unit client puts its noise into the encrypted sum: use --aggregation encrypted")


def _require_room_for_shared_noise(config: RunConfig, privacy: PrivacySettings, banks: int) -> None:
    if privacy.unit != "row":
        raise BudgetError("--noise shared protects training rows; --unit client shares its noise already")
    if config.aggregation.mode != "encrypted" or banks < LEAST_BANKS:
        raise BudgetError(
            f"--noise shared hides each bank's share inside the encrypted sum of at least {LEAST_BANKS} banks: use "
            "--aggregation encrypted, or --noise own"
        )
    others = (config.participation, config.compression, config.resources)
    if any(each is not None for each in others) or config.algorithm.name != "fedavg":
        raise AlgorithmError(
            "--noise shared takes one step of all banks a round: leave out other algorithms, partial participation, "
            "compression and limits, or use --noise own"
        )


def calibrated(config: RunConfig, source: PartitionedTable, federation: Federation) -> RunConfig:
    """`config` with the noise of its release and of all its rounds, enough for the bank that has spent most; every
    bank uses the same.

    Ledgers in the run folder do not exist yet, so that nothing is spent.
    """
    privacy = config.privacy
    if privacy is None:
        return config
    histories: list[list[Entry]] = [[]]
    if privacy.budget_dir is not None:
        ledgers = open_ledgers(Path(privacy.budget_dir), privacy, federation)
        histories = [ledger.history() for ledger in ledgers.values()]
    if privacy.unit == "client":
        return replace(config, privacy=_client_noise(config, privacy, histories, federation))
    if config.statistics is not None:
        sigma, entry = _statistics_noise(config.statistics, privacy, histories, source)
        config = replace(config, statistics=replace(config.statistics, sigma=sigma))
        histories = [[*history, entry] for history in histories]
    if privacy.noise == "shared":
        privacy = _shared_noise(config, privacy, histories, source, federation)
        return replace(config, privacy=_with_step(config.training, privacy, len(source.banks)))
    noise = max(
        calibrate(
            history,
            sample_rate=privacy.sample_rate,
            steps=max(_trainings(config, federation) * privacy.steps, 1),
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
        )
        for history in histories
    )
    return replace(config, privacy=replace(privacy, noise_multiplier=noise))


def _trainings(config: RunConfig, federation: Federation) -> int:
    """Most trainings of one bank; a lost attempt takes one of them, and the run ends that much earlier."""
    return trainings(planned_algorithm(config, federation).timetable, config.rounds)


def chosen_resources(config: RunConfig, source: PartitionedTable, federation: Federation) -> Choice:
    """What the banks' limits choose for this run. Raises `ResourceError`."""
    assert config.resources is not None
    if config.statistics is not None:  # the model will also have the columns of counts that are not shared yet
        sigma, colluders = config.statistics.sigma, config.statistics.colluders
        noise = None if sigma is None else plan_noise(sigma, len(federation.banks), colluders)
        plan, _ = plan_sharing(source, config.statistics, noise, bytes(32))
        federation = replace(federation, feature_names=input_names(source.table.schema, plan))
    inputs, banks = len(federation.feature_names), federation.banks
    model = build_model(inputs, seed=0, dropout=config.model.dropout, prior=config.model.prior)
    shape, steps = layout(model), private_steps(config.privacy)
    algorithm, compression = planned_algorithm(config, federation), planned_compression(config, federation)
    travels = algorithm.travels(shape.length)
    turns = range(1, max(len(compression.groups), 1) + 1)
    passes = config.training.epochs if steps is None else steps.sample_rate * steps.steps
    work = Workload(
        rows={bank.name: math.ceil(passes * len(bank.train)) for bank in banks},
        inputs=inputs,
        hidden=sum(HIDDEN),
        length=shape.length,
        travelling=max(int((travels & compression.sent(turn)).sum()) for turn in turns),
        clients=algorithm.timetable.largest,
        clip=config.aggregation.clip,
        value_bits=max(bits for _, bits in compression.bits),
        max_weight=algorithm.max_weight,
        private=steps is not None,
    )
    limits = limits_of(config.resources, [bank.name for bank in banks])
    return choose(limits, work, measure_machine(model, config.training, steps, inputs))


def planned_compression(config: RunConfig, federation: Federation) -> Compression:
    """How many bits and which layers each round has. Raises `CompressionError`."""
    model = build_model(len(federation.feature_names), seed=0)
    return compression_of(config.compression, layout(model), config.aggregation.value_bits)


def planned_algorithm(config: RunConfig, federation: Federation) -> FedAvg:
    """The run's algorithm. Raises `AlgorithmError`."""
    model = build_model(len(federation.feature_names), seed=0)
    algorithm = algorithm_of(
        config.algorithm,
        config.participation,
        banks=len(federation.banks),
        model=layout(model),
        seed=config.seed,
    )
    if config.training.optimiser == "sgd":
        require_stable_pull(algorithm.proximal, config.training.learning_rate, config.training.momentum)
    return algorithm


def _statistics_noise(
    settings: StatisticsSettings, privacy: PrivacySettings, histories: list[list[Entry]], source: PartitionedTable
) -> tuple[float, NoisyCounts]:
    """Sigma of the counts, and what their release costs: a share of what is left of epsilon."""
    banks = len(source.banks)
    plan, _ = plan_sharing(source, settings, plan_noise(1.0, banks, settings.colluders), bytes(32))
    noises = []
    for history in histories:
        already = require_left(history, privacy.epsilon, privacy.delta)
        limit = already + settings.budget_share * (privacy.epsilon - already)
        noises.append(
            calibrate_counts(
                history,
                columns=plan.columns,
                days=plan.days,
                banks=banks,
                colluders=settings.colluders,
                epsilon_limit=limit,
                delta=privacy.delta,
            )
        )
    most = max(noises, key=lambda noise: noise.sigma)
    return most.sigma, noisy_counts(most, plan.columns, plan.days)


def _client_noise(
    config: RunConfig, privacy: PrivacySettings, histories: list[list[Entry]], federation: Federation
) -> PrivacySettings:
    model = build_model(len(federation.feature_names), seed=0)
    length = int(planned_algorithm(config, federation).travels(layout(model).length).sum())
    variances = [
        calibrate_clients(
            history,
            sensitivity=update_sensitivity(length),
            dimension=length,
            banks=len(federation.banks),
            colluders=privacy.colluders,
            rounds=max(_trainings(config, federation), 1),
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
        ).share_variance
        for history in histories
    ]
    return replace(privacy, share_variance=max(variances))


def _shared_noise(
    config: RunConfig,
    privacy: PrivacySettings,
    histories: list[list[Entry]],
    source: PartitionedTable,
    federation: Federation,
) -> PrivacySettings:
    inputs = len(federation.feature_names)
    if config.statistics is not None:
        assert config.statistics.sigma is not None
        noise = plan_noise(config.statistics.sigma, len(source.banks), config.statistics.colluders)
        plan, _ = plan_sharing(source, config.statistics, noise, bytes(32))
        inputs = len(input_names(source.table.schema, plan))
    length = layout(build_model(inputs, seed=0)).length
    found = [
        calibrate_steps(
            history,
            sensitivity=row_sensitivity(length),
            dimension=length,
            banks=len(federation.banks),
            colluders=privacy.colluders,
            steps=max(config.rounds, 1),
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
        )
        for history in histories
    ]
    once, pieces = max(found, key=lambda each: each[0].share_variance * each[1])
    return replace(privacy, share_variance=once.share_variance, share_pieces=pieces)


def _with_step(training: LocalTraining, privacy: PrivacySettings, banks: int) -> PrivacySettings:
    """`privacy` with the learning rate at which its noise moves every weight by `NOISE_PER_STEP` a step, where
    `training` asks for that: a function of the calibrated noise alone.
    """
    if training.learning_rate != BY_NOISE:
        return privacy
    assert privacy.share_variance is not None and privacy.share_pieces is not None
    shares = privacy.share_pieces * (banks - privacy.colluders)
    sigma = math.sqrt(shares * privacy.share_variance) / GRID * privacy.max_grad_norm  # of a summed gradient
    return replace(privacy, learning_rate=NOISE_PER_STEP * privacy.expected_batch * banks / sigma)


def local_training(config: RunConfig) -> LocalTraining:
    """What the banks do: as it was asked for, with the learning rate that was calibrated where that was asked for.

    Raises `RunFolderError` when it was not calibrated.
    """
    training, privacy = config.training, config.privacy
    if training.learning_rate != BY_NOISE:
        return training
    if privacy is None or privacy.learning_rate is None:
        raise RunFolderError("config.toml names no learning_rate: the run never got under way; start it anew")
    return replace(training, learning_rate=privacy.learning_rate)


def joint_noise(privacy: PrivacySettings | None, length: int, banks: int) -> JointNoise | None:
    """The noise that `banks` banks put into the encrypted sum of their vectors of `length` values; None where there is
    none, or each bank's own. Raises `RunFolderError` where it was not calibrated.
    """
    if privacy is None or (privacy.unit == "row" and privacy.noise == "own"):
        return None
    variance, honest = privacy.share_variance, banks - privacy.colluders
    if privacy.unit == "client" and variance is not None:
        return JointNoise(
            privacy.update_norm, banks, banks, ClientRounds(update_sensitivity(length), variance, honest, length, 1)
        )
    if variance is None or privacy.share_pieces is None:
        raise RunFolderError("config.toml names no noise share: the run never got under way; start it anew")
    pieces, divisor = privacy.share_pieces, privacy.expected_batch * banks
    once = SharedSteps(row_sensitivity(length), variance, pieces * honest, length, 1)
    return JointNoise(privacy.max_grad_norm, divisor, banks, once, pieces)


def private_steps(privacy: PrivacySettings | None) -> PrivateSteps | None:
    if privacy is None or privacy.unit == "client" or privacy.noise == "shared":
        return None
    if privacy.noise_multiplier is None:
        raise RunFolderError("config.toml names no noise_multiplier: the run never got under way; start it anew")
    return PrivateSteps(
        privacy.sample_rate,
        privacy.noise_multiplier,
        privacy.steps,
        privacy.max_grad_norm,
        privacy.expected_batch,
    )


def dearest(ledgers: Mapping[str, BudgetLedger]) -> Reckoned:
    """What the bank that has spent most has spent, over all runs that its ledger knows of."""
    return max((ledger.reckoned() for ledger in ledgers.values()), key=lambda each: each.epsilon)


def privacy_report(privacy: PrivacySettings | None, ledgers: Mapping[str, BudgetLedger]) -> dict[str, Any]:
    """What was spent in all runs these ledgers know of."""
    if privacy is None:
        return WITHOUT_PRIVACY
    spent, accountant = dearest(ledgers)
    return {
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
        "not_covered": NOT_COVERED if privacy.unit == "row" else CLIENT_NOT_COVERED,
    }


def _steps(history: Iterable[Entry]) -> int:
    """Noisy steps, or whole updates, that a ledger has recorded."""
    counted = {Mechanism: "steps", ClientRounds: "rounds", SharedSteps: "rounds"}
    return sum(getattr(entry, counted[type(entry)]) for entry in history if type(entry) in counted)
