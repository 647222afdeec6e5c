"""Plan a run before it trains, from its configuration and its transactions.

`RunPlan(config, source)` decides the algorithm, the layers that are sent and their bits, the shared counts, the noise,
and the number of rounds that the budget is divided among. Each is decided once, here, for the model that is trained,
which includes the columns of counts that are not shared yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fl.counts.columns import input_names
from fl.counts.plan import StatisticsPlan
from fl.counts.risk_columns import RISK, columns_beside_risk
from fl.counts.settings import law_of_noise, noise_of, plan_sharing
from fl.data.features import features
from fl.data.federation import SIMULATED, PartitionedTable, read_partitioned
from fl.data.schema import Schema
from fl.data.simulate import Compromises, Simulation, embedded
from fl.data.split import own_history
from fl.errors import AlgorithmError, BudgetError, ModelError, RunFolderError
from fl.learning.kinds import model_of
from fl.learning.model import HIDDEN, Layout, build_model, layout
from fl.learning.noisy_or import BOUND
from fl.learning.training import LocalTraining, PrivateSteps
from fl.options import LEAST_BANKS
from fl.privacy.mechanisms import ClientRounds, Entry, Mechanism, SharedSteps
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.fedprox import require_stable_pull
from fl.rounds.algorithms.participation import Dropouts
from fl.rounds.algorithms.settings import algorithm_of, dropouts_of, quorum_of
from fl.rounds.algorithms.state import trainings
from fl.rounds.attackers import Attackers
from fl.rounds.compression import Compression, compression_of
from fl.rounds.joint_noise import JointNoise, row_sensitivity, update_sensitivity
from fl.rounds.joint_steps import JointSteps, NoisyOrSteps
from fl.rounds.limits import ResourceChoice, RoundWork, choose, limits_of, measure_machine
from fl.rounds.play import Schedule
from fl.runs.config import APPLIED_GRID, BY_NOISE, DataSettings, ModelSettings, RunConfig
from fl.runs.constants import settings_of
from fl.runs.styles import HISTORY_DAYS, OPEN, declared_rows


def read_source(data: DataSettings, seed: int) -> PartitionedTable:
    """The transactions of a run, partitioned and split. Raises what `fl.data.federation.read_partitioned` does."""
    simulation = simulation_of(data, seed) if data.source == SIMULATED else None
    return read_partitioned(
        data.source,
        data.schema,
        data.partition,
        data.random_banks,
        seed,
        test_windows=data.test_windows,
        simulation=simulation,
    )


def simulation_of(data: DataSettings, seed: int) -> Simulation:
    """The embedded data that a run asks for. Raises `DataError` where its settings contradict each other."""
    asked: dict[str, Any] = {
        "shortest_days": data.compromise_shortest,
        "longest_days": data.compromise_longest,
        "mean_days": data.compromise_mean,
        "least_share": data.compromise_least,
        "most_share": data.compromise_most,
        "of_frauds": data.terminal_frauds,
    }
    compromises = replace(Compromises(), **{name: value for name, value in asked.items() if value is not None})
    return embedded(data.customers, data.clients, data.fraud_share, seed, compromises)


def _unlinked(model: ModelSettings) -> ModelSettings:
    """Trees without shared counts: they see all columns of a bank's own, and learn from the training period.

    Raises `ModelError` for a history that was asked for.
    """
    if model.history_days not in (0, HISTORY_DAYS):
        raise ModelError(
            f"model.history_days: got {model.history_days}, and trees without shared counts learn from the training "
            "period alone: leave it out, or share counts ([parties] shared in the schema)"
        )
    return replace(model, inputs="own", history_days=0)


def _against_all_others(config: RunConfig, banks: int) -> RunConfig:
    """Noise of a bank's own, where all banks step together, is a share that suffices if every other bank colludes."""
    privacy = config.privacy
    if config.model.kind == "mlp" or privacy is None or privacy.noise != "own":
        return config
    statistics = config.statistics
    return replace(
        config,
        privacy=replace(privacy, colluders=banks - 1),
        statistics=None if statistics is None else replace(statistics, colluders=banks - 1),
    )


def _require_monotone(config: RunConfig, schema: Schema) -> None:
    """Refuse monotone columns that the model cannot keep. Raises `AlgorithmError`."""
    keeps = config.model.kind == "trees" and config.privacy is None
    if keeps and config.model.ignore_monotone:
        raise AlgorithmError(
            "ignore_monotone: trees that learn their splits keep the schema's monotone columns; leave the option out"
        )
    if schema.monotone and not keeps and not config.model.ignore_monotone:
        said = ", ".join(f"{name} {direction}" for name, direction in schema.monotone.items())
        raise AlgorithmError(
            f"the schema says in which direction columns move the score ({said}), and of all models trees that learn "
            "their splits alone keep to that: give --no-dp --model trees, or take monotone out of the schema, or give "
            "--option ignore_monotone=true"
        )


@dataclass(frozen=True)
class RunPlan:
    """All decisions before the first round.

    `choice`: values chosen by the banks' limits; None without limits.

    A new run's plan has no noise until `fl.runs.noise.with_noise` has calibrated it.
    """

    config: RunConfig
    source: PartitionedTable = field(repr=False)
    choice: ResourceChoice | None = None
    own_features: tuple[str, ...] | None = None  # that a continued run was begun with; None: all there are

    @classmethod
    def new(cls, config: RunConfig, source: PartitionedTable) -> RunPlan:
        """The plan of a new run, without its noise. Raises `AlgorithmError`, `CompressionError` or `ModelError`."""
        schema = source.table.schema
        _require_monotone(config, schema)
        if not schema.shares_counts:  # the schema names no party that banks have in common
            config = replace(config, statistics=None)
        if config.model.kind == "trees" and config.statistics is None and config.privacy is None:
            config = replace(config, model=_unlinked(config.model))
        config = replace(config, constants=settings_of(config, source))
        plan = cls(_against_all_others(config, len(source.banks)), source)
        private = plan.config.privacy
        if private is not None and private.unit == "row" and not plan.takes_joint_steps and schema.parties.reports > 1:
            raise BudgetError(
                "the schema says that issuer and acquirer both report a transaction, and each bank's own noise covers "
                "only one of its two rows: use --noise shared, or --model noisy-or"
            )
        _ = plan.algorithm, plan.compression
        return plan

    # --- the model and what travels ---------------------------------------------------------------------------------

    @cached_property
    def banks(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.source.banks)

    @cached_property
    def sharing(self) -> StatisticsPlan | None:
        """The plan of the shared counts; None where banks share no counts.

        Until a run has decided on the counts' epsilon, their share of the whole epsilon stands in for it, as if nothing
        were spent yet.
        """
        settings, privacy = self.config.statistics, self.config.privacy
        if settings is None:
            return None
        if privacy is None:
            return plan_sharing(self.source, settings, None, fraud_blocks=self.config.model.inputs == "risk")
        if settings.epsilon is None and not settings.of_earlier_version:
            settings = replace(settings, epsilon=settings.budget_share * privacy.epsilon)
        return plan_sharing(self.source, settings, noise_of(settings, self.source.table.schema, len(self.banks)))

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Inputs of the model, in column order."""
        schema = self.source.table.schema
        if self.config.model.inputs == "risk":
            return (*columns_beside_risk(schema, windows=self.config.windows_beside_risk), RISK)
        missing = {feature.name for feature in features(schema)} - set(self.own_names)
        return tuple(name for name in input_names(schema, self.sharing) if name not in missing)

    @property
    def own_names(self) -> tuple[str, ...]:
        """Columns that a bank computes from its own rows."""
        names = tuple(feature.name for feature in features(self.source.table.schema))
        return names if self.own_features is None else self.own_features

    @cached_property
    def model(self) -> Layout:
        settings = self.config.model
        return layout(model_of(settings.kind, len(self.feature_names), seed=0, prior=settings.prior))

    @cached_property
    def algorithm(self) -> FedAvg:
        """The requested algorithm. Raises `AlgorithmError`."""
        config, local = self.config, self.config.training
        algorithm = algorithm_of(
            config.algorithm, config.participation, banks=len(self.banks), model=self.model, seed=config.seed
        )
        if local.optimiser == "sgd":
            require_stable_pull(algorithm.proximal, local.learning_rate, local.momentum)
        return algorithm

    @cached_property
    def compression(self) -> Compression:
        """How many bits and which layers each round has. Raises `CompressionError`."""
        compression = compression_of(self.config.compression, self.model, self.config.aggregation.value_bits)
        return compression if self.choice is None else compression.capped(self.choice.value_bits)

    @cached_property
    def travelling(self) -> int:
        """Number of coordinates of an update that are sent in some round; of random trees, values of one tree."""
        if self.config.trees is not None and self.config.privacy is not None:
            return 2 << self.config.trees.depth  # a gradient and a curvature for each leaf
        return int(self.algorithm.travels(self.model.length).sum())

    @property
    def quorum(self) -> int:
        """Fewest members of a roster. A rule may leave out a minority of those that a round asked."""
        if self.config.robust is not None and self.config.participation is None:
            return max(LEAST_BANKS, self.algorithm.timetable.largest // 2 + 1)
        return quorum_of(self.config.participation, self.algorithm.timetable)

    @cached_property
    def attackers(self) -> Attackers | None:
        """The banks that poison the model, in a simulation. Raises `AlgorithmError` for too many."""
        attack = self.config.attack
        return None if attack is None else Attackers.drawn(attack, len(self.banks), self.config.seed)

    @property
    def attacking(self) -> tuple[str, ...]:
        """Names of the attackers."""
        members = frozenset[int]() if self.attackers is None else self.attackers.members
        return tuple(name for position, name in enumerate(self.banks) if position in members)

    @property
    def dropouts(self) -> Dropouts:
        return dropouts_of(self.config.participation, seed=self.config.seed)

    @cached_property
    def trainings(self) -> int:
        """Most trainings of one bank. A lost attempt uses one of them, so the run ends with fewer rounds."""
        return trainings(self.algorithm.timetable, self.config.rounds)

    @property
    def at_once(self) -> dict[str, int]:
        """Rows in memory while a bank with limits trains."""
        return {} if self.choice is None else {name: share.batch for name, share in self.choice.banks.items()}

    # --- training and its noise -------------------------------------------------------------------------------------

    @property
    def local(self) -> LocalTraining:
        """The requested local training, with the calibrated learning rate where it follows from the noise."""
        training = self.config.training
        if training.learning_rate != BY_NOISE:
            return training
        assert self.config.privacy is not None and self.config.privacy.learning_rate is not None
        return replace(training, learning_rate=self.config.privacy.learning_rate)

    @property
    def private_steps(self) -> PrivateSteps | None:
        """The noisy steps of each bank; None where local training adds no noise."""
        privacy = self.config.privacy
        if privacy is None or privacy.unit == "client" or self.takes_joint_steps:
            return None
        assert privacy.noise_multiplier is not None
        return PrivateSteps(
            privacy.sample_rate,
            privacy.noise_multiplier,
            privacy.steps,
            privacy.max_grad_norm,
            privacy.expected_batch,
        )

    @cached_property
    def joint_noise(self) -> JointNoise | None:
        """The noise of all banks inside the encrypted sum; None without noise, or with each bank's own noise."""
        privacy, banks, length = self.config.privacy, len(self.banks), self.travelling
        if privacy is None or (privacy.unit == "row" and not self.takes_joint_steps):
            return None
        variance, honest = privacy.share_variance, banks - privacy.colluders
        assert variance is not None
        if privacy.unit == "client":
            once = ClientRounds(update_sensitivity(length), variance, honest, length, 1)
            return JointNoise(privacy.update_norm, banks, banks, once)
        assert privacy.share_pieces is not None
        sensitivity = row_sensitivity(length, self.source.table.schema.parties.reports)
        steps = SharedSteps(sensitivity, variance, privacy.share_pieces * honest, length, 1)
        return JointNoise(privacy.max_grad_norm, privacy.expected_batch * banks, banks, steps, privacy.share_pieces)

    @property
    def takes_joint_steps(self) -> bool:
        """Whether a round is one step of all banks under one noise."""
        if self.config.model.kind == "noisy-or":
            return True
        if self.config.model.kind == "trees":
            return self.config.privacy is not None
        return self.config.privacy is not None and self.config.privacy.noise == "shared"

    @property
    def round_cost(self) -> Entry | None:
        """The privacy cost of one training for a bank; None without differential privacy."""
        if self.joint_noise is not None:
            return self.joint_noise.once
        private = self.private_steps
        return None if private is None else Mechanism(private.sample_rate, private.noise_multiplier, private.steps)

    def schedule(self, rounds: int) -> Schedule:
        """The settings of all banks in each of `rounds` rounds."""
        config, model = self.config, self.config.model
        # Noise that all banks share is far larger than the grid.
        grid = 0.0 if self.takes_joint_steps else APPLIED_GRID * config.aggregation.clip
        private, local = self.private_steps, self.local
        return Schedule(
            rounds,
            local,
            private,
            dropout=model.dropout,
            prior=model.prior,
            seed=config.seed,
            applied_grid=grid,
            kind=model.kind,
        )

    def without_privacy(self, schedule: Schedule) -> Schedule:
        """The schedule of the baselines that train without privacy; `schedule` itself where training has no noise."""
        if schedule.private is None and not self.takes_joint_steps:
            return schedule
        config, model = self.config, self.config.baseline_model
        rounds = OPEN.rounds if self.takes_joint_steps else config.rounds
        grid = APPLIED_GRID * config.aggregation.clip
        return Schedule(
            rounds,
            config.baseline_training,
            private=None,
            dropout=model.dropout,
            prior=model.prior,
            seed=config.seed,
            applied_grid=grid,
        )

    @cached_property
    def own_algorithm(self) -> FedAvg:
        """The algorithm of the run's own rounds: `algorithm`, or steps that all banks take together."""
        if not self.takes_joint_steps:
            return self.algorithm
        privacy, timetable = self.config.privacy, self.algorithm.timetable
        if self.config.model.kind == "noisy-or":
            # Without noise nothing divides the sum later.
            declared = declared_rows(self.config.model.history_days)
            norm, rows = (BOUND, declared) if privacy is None else (privacy.max_grad_norm, 1.0)
            return NoisyOrSteps(timetable, norm, self.local, rows=rows)
        assert privacy is not None
        return JointSteps(timetable, privacy.max_grad_norm, self.local, longest_step=privacy.longest_step)

    # --- limits -----------------------------------------------------------------------------------------------------

    def with_limits(self) -> RunPlan:
        """This plan with the values that the banks' limits choose. Raises `ResourceError`."""
        config, inputs = self.config, len(self.feature_names)
        if config.resources is None:
            return self
        steps, compression, travels = self.private_steps, self.compression, self.algorithm.travels(self.model.length)
        turns = range(1, max(len(compression.groups), 1) + 1)
        passes = config.training.epochs if steps is None else steps.sample_rate * steps.steps
        work = RoundWork(
            rows={name: math.ceil(passes * len(split.train)) for name, _, split in self.source.banks},
            inputs=inputs,
            hidden=sum(HIDDEN),
            length=self.model.length,
            travelling=max(int((travels & compression.sent(turn)).sum()) for turn in turns),
            clients=self.algorithm.timetable.largest,
            clip=config.aggregation.clip,
            value_bits=max(bits for _, bits in compression.bits),
            max_weight=self.algorithm.max_weight,
            private=steps is not None,
        )
        model = build_model(inputs, seed=0, dropout=config.model.dropout, prior=config.model.prior)
        machine = measure_machine(model, config.training, steps, inputs)
        return replace(self, choice=choose(limits_of(config.resources, self.banks), work, machine))

    def require_calibrated(self) -> None:
        """Raise `RunFolderError` where the configuration lacks noise that is calibrated when a run starts."""
        privacy, statistics = self.config.privacy, self.config.statistics
        if privacy is None:
            return
        own = privacy.unit == "row" and not self.takes_joint_steps
        new = None if statistics is None or statistics.of_earlier_version else statistics
        constants = self.config.constants
        needed = {
            "constants.sigma": constants is None or constants.sigma,
            "statistics.epsilon": new is None or new.epsilon,
            "statistics.sigma": new is None or law_of_noise(new) == "laplace" or new.sigma,
            "noise_multiplier": not own or privacy.noise_multiplier,
            "share_variance": own or privacy.share_variance,
            "share_pieces": not self.takes_joint_steps or privacy.share_pieces,
            "learning_rate": self.config.training.learning_rate != BY_NOISE or privacy.learning_rate,
        }
        if missing := [name for name, value in needed.items() if value is None]:
            raise RunFolderError(f"config.toml names no {missing[0]}: no round was played; start the run anew")


def learned_rows(plan: RunPlan) -> int:
    """Rows of all banks that the common model learns from."""
    source, days = plan.source, plan.config.model.history_days
    if not days:
        return sum(len(held.train) for _, _, held in source.banks)
    tables = ((source.table.take(rows), held) for _, rows, held in source.banks)
    return sum(len(own_history(table, held, source.periods, days)) for table, held in tables)
