"""The settings of a run with their defaults, and their TOML form, config.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from fl import options
from fl.counts.risk_columns import Scale
from fl.counts.settings import StatisticsSettings
from fl.errors import AggregationError, BudgetError, ModelError, OptionError, RunFolderError, StatisticsError
from fl.learning.kinds import ModelKind
from fl.learning.training import LocalTraining
from fl.rounds.algorithms.settings import AlgorithmSettings, ParticipationSettings
from fl.rounds.attackers import AttackSettings
from fl.rounds.compression import CompressionSettings
from fl.rounds.limits import ResourceSettings
from fl.secure.rule_settings import RobustSettings
from fl.toml import filled, literal, parsed
from fl.trees.settings import TreeSettings

# Grid of averages, as a share of the clip, encrypted or not. Not a power of two: means of float32 lie on such grids,
# and many of them would be ties in rounding.
APPLIED_GRID = 1e-6

LEAF_BOUND = 1.031  # of `fl.trees.random_trees.BOUND`, rounded up: that module needs the extra `trees`

BY_NOISE = 0.0  # the learning rate is chosen when the noise is calibrated: `PrivacySettings.learning_rate`


@dataclass(frozen=True)
class DataSettings:
    """Transactions, banks and test windows of a run."""

    source: Annotated[str, options.FILE] = "simulated"  # or the path of a file
    schema: Annotated[str | None, options.FILE] = None
    partition: str | None = None
    clients: Annotated[int | None, options.RANDOM_BANKS] = None
    test_windows: Annotated[int | None, options.TEST_WINDOWS] = None  # consecutive; None: the schema's own
    customers: Annotated[int | None, options.CUSTOMERS] = None  # of the embedded generator
    fraud_share: Annotated[float | None, options.FRAUD_SHARE] = None  # of the embedded generator
    # Compromised terminals of the embedded generator: `fl.data.simulate.Compromises` says what each means.
    compromise_shortest: Annotated[int | None, options.COMPROMISE_DAYS] = None
    compromise_longest: Annotated[int | None, options.COMPROMISE_DAYS] = None
    compromise_mean: Annotated[float | None, options.MEAN_DAYS] = None
    compromise_least: Annotated[float | None, options.COMPROMISE_SHARE] = None
    compromise_most: Annotated[float | None, options.COMPROMISE_SHARE] = None
    terminal_frauds: Annotated[float | None, options.TERMINAL_FRAUDS] = None

    def __post_init__(self) -> None:
        options.check(self, OptionError)

    @property
    def random_banks(self) -> int | None:
        """Number of random banks to make; None for generated data, which has its own banks."""
        return None if self.source == "simulated" else self.clients


@dataclass(frozen=True)
class PrivacySettings:
    """The budget of every bank and the noisy steps that it is spent on. All of it is public."""

    epsilon: Annotated[float, options.EPSILON] = 3.0  # for all runs in a bank's ledger
    delta: Annotated[float, options.DELTA] = 1e-5
    sample_rate: Annotated[float, options.SAMPLE_RATE] = 0.25  # probability of a row being in a batch
    steps: Annotated[int, options.STEPS] = 10  # noisy steps per round
    max_grad_norm: Annotated[float, options.MAX_GRAD_NORM] = 1.0  # L2 bound of one row's gradient
    expected_batch: Annotated[float, options.EXPECTED_BATCH] = 2048.0  # rows: the public divisor
    budget_dir: Annotated[str | None, options.FOLDER] = None  # of the banks' ledgers; None: in the run folder
    noise_multiplier: Annotated[float | None, options.NOISE_MULTIPLIER] = None  # calibrated when the run starts, kept
    unit: Literal["row", "client"] = "row"  # what epsilon protects
    update_norm: Annotated[float, options.UPDATE_NORM] = 1.0  # L2 bound of a bank's update; unit client only
    noise: Literal["own", "shared"] = "own"  # each bank's own, or shares of one noise inside the encrypted sum
    colluders: Annotated[int, options.BANKS] = 1  # t, including the observing bank; unit client and shared noise only
    share_variance: Annotated[float | None, options.SHARE_VARIANCE] = None  # of a share, as noise_multiplier
    share_pieces: Annotated[int | None, options.SHARE_PIECES] = None  # draws that make one share; shared noise only
    # Calibrated to the noise where training asks for that; shared noise only.
    learning_rate: Annotated[float | None, options.LEARNING_RATE] = None
    # Training rows of a bank, declared in public: batch, steps and rate follow from it; None: those of 8,000 rows.
    rows_per_bank: Annotated[float | None, options.ROWS_PER_BANK] = None
    longest_step: Annotated[float | None, options.LONGEST_STEP] = None  # of the network's shared steps; None: no bound

    def __post_init__(self) -> None:
        options.check(self, BudgetError)


@dataclass(frozen=True)
class AggregationSettings:
    """How updates are averaged."""

    mode: Literal["encrypted", "plain"] = "encrypted"
    clip: Annotated[float, options.CLIP] = 1.0  # of every coordinate of an update
    value_bits: Annotated[int, options.VALUE_BITS] = 16  # of a quantised coordinate, sign included
    engine: Annotated[str, options.ENGINE] = "auto"

    def __post_init__(self) -> None:
        options.check(self, AggregationError)


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and the public guess of the fraud share that its first output equals.

    `kind`: the network of `fl.learning.model`, the model of a dozen weights of `fl.learning.noisy_or`, or the boosted
    trees of `fl.trees`, where `dropout` and `prior` are those of the network that they are compared with. `inputs`: all
    features of a bank's own, or those that no label enters and the risk of shared parties (`fl.counts.risk_columns`).
    Trees with that risk grow inside the noisy-or link; a plan has them without it where banks share no counts.
    `history_days`: a model that knows that risk as a probability (noisy-or, trees) learns from the rows of at least so
    many days up to the end of training; 0: from the training period. Each row takes part in as many steps as before:
    more rows cost no epsilon. `ignore_monotone`: train a model that cannot keep the
    schema's monotone columns all the same.
    """

    dropout: Annotated[float, options.DROPOUT]
    prior: Annotated[float, options.PRIOR]
    kind: ModelKind = "mlp"
    inputs: Literal["own", "risk"] = "own"
    history_days: Annotated[int, options.HISTORY_DAYS] = 0
    ignore_monotone: bool = False

    def __post_init__(self) -> None:
        options.check(self, ModelError)
        if self.kind == "noisy-or" and self.inputs != "risk":
            raise ModelError(f'model.inputs: the noisy-or model has the inputs "risk", got {self.inputs!r}')
        if self.history_days and (self.kind == "mlp" or self.inputs != "risk"):
            raise ModelError(
                "model.history_days: networks, and trees outside the noisy-or link, learn from the training period "
                f"alone, expected 0, got {self.history_days}; leave it out, or give --model noisy-or"
            )


@dataclass(frozen=True)
class ConstantsSettings:
    """How the scaling constants that a schema leaves to the banks are computed. All of it is public."""

    budget_share: Annotated[float, options.BUDGET_SHARE] = 0.05  # of what is left of epsilon at the start; noise only
    colluders: Annotated[int, options.BANKS] = 1  # t, the observing bank included; noise only
    sigma: Annotated[float | None, options.SIGMA] = None  # rows; calibrated when the run starts, kept

    def __post_init__(self) -> None:
        options.check(self, StatisticsError)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result. It holds no secret."""

    seed: Annotated[int, options.SEED] = 0  # of data, first model and batches; never of keys or noise
    rounds: Annotated[int, options.ROUNDS]
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, options.THREADS] = 1  # of torch; part of the result's reproducibility
    with_baselines: bool = True
    data: DataSettings = DataSettings()
    model: ModelSettings
    training: LocalTraining
    aggregation: AggregationSettings = AggregationSettings()
    privacy: PrivacySettings | None  # None: --no-dp
    baseline_model: ModelSettings
    baseline_training: LocalTraining  # of the baselines that need no privacy
    statistics: StatisticsSettings | None = None  # None: no counts are shared
    algorithm: AlgorithmSettings = AlgorithmSettings()  # noqa: RUF009 - frozen
    participation: ParticipationSettings | None = None  # None: every bank in every round
    compression: CompressionSettings | None = None  # None: the same bits and all layers in every round
    resources: ResourceSettings | None = None  # None: no bank has limits
    constants: ConstantsSettings | None = None  # None: the schema names all scaling constants
    robust: RobustSettings | None = None  # None: every update enters the average
    attack: AttackSettings | None = None  # None: every bank is honest
    trees: TreeSettings | None = None  # None: another model. Rounds, training and algorithm are then the network's

    @property
    def scale(self) -> Scale:
        """How the risk of shared parties enters the model, where it does."""
        return "log odds" if self.model.kind == "mlp" else "probability"

    @property
    def windows_beside_risk(self) -> bool:
        """Whether a model that knows the risk of shared parties sees the bank's own windows at a terminal as well.

        Labels of other rows enter these, so that under privacy no model has them beside the risk.
        """
        return self.model.kind == "trees" and self.privacy is None

    def __post_init__(self) -> None:
        options.check(self, OptionError)
        joint = self.privacy is not None and (self.privacy.noise == "shared" or self.model.kind == "noisy-or")
        for name, training in (("training", self.training), ("baseline_training", self.baseline_training)):
            if training.learning_rate == BY_NOISE and not (joint and name == "training"):
                raise OptionError(f"{name}.learning_rate: expected {options.LEARNING_RATE}, got {BY_NOISE}")
        if self.trees is not None and self.trees.seed != self.seed:  # one seed of a run draws everything
            object.__setattr__(self, "trees", replace(self.trees, seed=self.seed))
        if self.trees is not None and self.privacy is not None:  # one noisy sum for each tree
            object.__setattr__(self, "rounds", self.trees.trees)
        if (self.model.kind == "trees") != (self.trees is not None):
            raise OptionError(
                f"[trees] belongs to model.kind 'trees', and to no other: got model.kind {self.model.kind!r} "
                f"{'without' if self.trees is None else 'with'} [trees]"
            )


def config_to_toml(config: RunConfig) -> str:
    """`config` as TOML; a None is left out of it."""
    scalars, tables = [], []
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            lines = [f"{key} = {literal(item)}" for key, item in value.items() if item is not None]
            tables.append("\n".join([f"[{name}]", *lines]))
        elif value is not None:
            scalars.append(f"{name} = {literal(value)}")
    return "\n\n".join(["\n".join(scalars), *tables]) + "\n"


def config_from_toml(text: str) -> RunConfig:
    """The inverse of `config_to_toml`. Raises `RunFolderError` naming a missing or unknown key."""
    return config_of(parsed(text, "config.toml", RunFolderError), "config.toml")


def config_of(read: Mapping[str, Any], name: str) -> RunConfig:
    """The configuration in the tables of a file called `name`. Raises `RunFolderError` naming a key."""
    tables: dict[str, type] = {
        "data": DataSettings,
        "model": ModelSettings,
        "training": LocalTraining,
        "aggregation": AggregationSettings,
        "privacy": PrivacySettings,
        "baseline_model": ModelSettings,
        "baseline_training": LocalTraining,
        "statistics": StatisticsSettings,
        "algorithm": AlgorithmSettings,
        "participation": ParticipationSettings,
        "compression": CompressionSettings,
        "resources": ResourceSettings,
        "constants": ConstantsSettings,
        "robust": RobustSettings,
        "attack": AttackSettings,
        "trees": TreeSettings,
    }
    values: dict[str, Any] = {"privacy": None, "statistics": None}
    for key, value in read.items():
        values[key] = filled(tables[key], value, f"[{key}]", RunFolderError) if key in tables else value
    return filled(RunConfig, values, name, RunFolderError)
