"""Refuse settings of a run that contradict each other, and say which one to leave out."""

from __future__ import annotations

import math
from dataclasses import replace

from fl.errors import AggregationError, AlgorithmError, BudgetError, CompressionError, OptionError, ResourceError
from fl.learning.noisy_or import BOUND
from fl.options import LEAST_BANKS
from fl.rounds.attackers import AttackSettings
from fl.runs.config import LEAF_BOUND, PrivacySettings, RunConfig
from fl.secure.rule_settings import RobustSettings
from fl.trees.settings import TreeSettings

OWN_WINDOWS = (
    "--option inputs=own: windows at a terminal hold labels of other rows, which no epsilon of trees covers: leave it "
    "out, or give --no-dp"
)


def require_possible(config: RunConfig, banks: int) -> None:
    """Refuse settings that contradict each other or the number of banks, before any budget is read.

    Raises `AggregationError`, `AlgorithmError`, `BudgetError`, `CompressionError`, `ResourceError`, or
    `secagg.errors.RuleNeedsMoreClients`.
    """
    privacy, participation = config.privacy, config.participation
    if config.aggregation.mode == "encrypted" and banks < LEAST_BANKS:
        raise AggregationError(
            f"encrypted aggregation needs at least {LEAST_BANKS} banks, got {banks}: raise --clients, or use "
            "--aggregation plain"
        )
    if participation is not None and participation.reuse and privacy is not None:
        raise AlgorithmError(
            "reuse_updates sends one update to two rosters, and the difference of their sums reveals updates: leave it "
            "out under differential privacy, where a retry trains again"
        )
    if config.statistics is not None and banks < LEAST_BANKS:
        raise AggregationError(
            f"shared statistics need at least {LEAST_BANKS} banks, got {banks}: raise --clients, or use "
            "--no-shared-statistics"
        )
    if config.model.kind == "noisy-or":
        _require_possible_with_noisy_or(config)
    if config.model.kind == "trees":
        _require_possible_with_trees(config, banks)
    if config.attack is not None:
        _require_possible_with_attackers(config, config.attack, banks)
    if config.robust is not None:
        _require_possible_with_a_rule(config, config.robust, banks)
    if privacy is None:
        return
    if privacy.noise == "shared":
        _require_possible_with_shared_noise(config, privacy, banks)
    if privacy.unit == "row":
        return
    if config.statistics is not None:
        raise BudgetError(
            "shared counts protect single transactions, and --unit client protects a whole bank: "
            "leave the counts out with --no-shared-statistics"
        )
    if participation is not None or config.algorithm.name == "fedbuff":
        raise AlgorithmError(
            "--unit client plans its noise for one roster of all banks: leave out partial participation, dropouts and "
            "fedbuff"
        )
    if config.resources is not None:
        raise ResourceError("--unit client plans bits and noise together: leave out the banks' limits")
    if config.compression is not None:
        raise CompressionError("--unit client plans its noise for one vector and one grid: leave out bits and layers")
    if config.aggregation.mode != "encrypted":
        raise BudgetError("--unit client adds its noise inside the encrypted sum: use --aggregation encrypted")


def _require_possible_with_shared_noise(config: RunConfig, privacy: PrivacySettings, banks: int) -> None:
    if privacy.unit != "row":
        raise BudgetError("--noise shared is for --unit row; --unit client always shares its noise: leave it out")
    if config.aggregation.mode != "encrypted" or banks < LEAST_BANKS:
        raise BudgetError(
            f"--noise shared hides each bank's share inside the encrypted sum of at least {LEAST_BANKS} banks: use "
            "--aggregation encrypted, or --noise own"
        )
    others = (config.participation, config.compression, config.resources)
    if any(each is not None for each in others) or config.algorithm.name != "fedavg":
        raise AlgorithmError(
            "--noise shared takes one step of all banks per round: leave out other algorithms, partial participation, "
            "compression and limits, or use --noise own"
        )


def _require_possible_with_noisy_or(config: RunConfig) -> None:
    """A configuration file can say what no option would."""
    privacy, others = config.privacy, (config.participation, config.compression, config.resources)
    if any(each is not None for each in others) or config.algorithm.name != "fedavg":
        raise AlgorithmError(
            "the noisy-or model is trained in full steps of all banks: leave out other algorithms, partial "
            "participation, compression and limits, or train the network (--model mlp)"
        )
    if privacy is None:
        return
    if privacy.unit != "row" or config.aggregation.mode != "encrypted":
        raise BudgetError(
            "the noisy-or model protects training rows by noise inside the encrypted sum: use --aggregation encrypted "
            "and --unit row, or train the network (--model mlp)"
        )
    if privacy.max_grad_norm < BOUND:
        raise BudgetError(
            f"max_grad_norm: a row's gradient of the noisy-or model is as long as {BOUND:g}; expected at least that, "
            f"got {privacy.max_grad_norm:g}"
        )


def _require_possible_with_trees(config: RunConfig, banks: int) -> None:
    """A configuration file can say what no option would."""
    if banks < LEAST_BANKS:
        raise AggregationError(
            f"trees grow by sums over at least {LEAST_BANKS} banks, got {banks}: of two, each learns the other's "
            "histograms from the sum; raise --clients"
        )
    if config.privacy is not None:
        _require_possible_with_random_trees(config, config.privacy)
    others = (config.participation, config.compression, config.resources, config.robust, config.attack)
    if any(each is not None for each in others) or config.algorithm.name != "fedavg":
        raise AlgorithmError(
            "trees grow by sums over all banks: leave out other algorithms, partial participation, compression, "
            "limits, rules and attackers"
        )


def _require_possible_with_random_trees(config: RunConfig, privacy: PrivacySettings) -> None:
    trees = config.trees
    assert trees is not None
    if config.model.inputs != "risk":
        raise BudgetError(OWN_WINDOWS)
    if privacy.unit != "row" or config.aggregation.mode != "encrypted":
        raise BudgetError(
            "random trees protect training rows by noise inside the encrypted sum: use --aggregation encrypted and "
            "--unit row, or --no-dp"
        )
    if privacy.max_grad_norm < LEAF_BOUND:
        raise BudgetError(
            f"max_grad_norm: a row's gradient and curvature together have an L2 length of up to {LEAF_BOUND:g}; "
            f"expected at least that, got {privacy.max_grad_norm:g}"
        )
    default = TreeSettings()
    learned = ("row_share", "column_share", "class_weight", "patience", "least_rows", "least_hessian", "least_gain")
    drawn = replace(trees, **{name: getattr(default, name) for name in learned})
    if trees != drawn:
        raise OptionError(
            "[trees] sets what belongs to learned splits (class_weight, least_rows, least_hessian, least_gain, "
            "row_share, column_share or patience), and under privacy splits are drawn: leave it out, or give --no-dp"
        )


def _require_possible_with_attackers(config: RunConfig, attack: AttackSettings, banks: int) -> None:
    attack.require_honest(banks)
    if _shares_noise(config):
        raise AlgorithmError(
            "--attack changes what a bank sends after training, and here all banks take a step together: use "
            "--model mlp with --noise own and --unit row, or --no-dp"
        )


def _require_possible_with_a_rule(config: RunConfig, robust: RobustSettings, banks: int) -> None:
    """A rule compares whole updates of one model, each shown once and added once."""
    participation, encrypted = config.participation, config.aggregation.mode == "encrypted"
    if _shares_noise(config):
        raise BudgetError(
            "--robust judges each bank by its own update, and with shared noise (--noise shared, --unit client or "
            "--model noisy-or) a bank left out takes its share of the noise with it: use --model mlp with --noise own "
            "and --unit row, or --no-dp"
        )
    if config.algorithm.name == "fedbuff":
        raise AlgorithmError(
            "--robust compares updates from one model with equal weights, and with fedbuff they differ in both: "
            "choose another algorithm"
        )
    if participation is not None and (participation.vanish_before or participation.vanish_after or participation.reuse):
        raise AlgorithmError(
            "--robust shows an update to the rule once, so nothing is sent again after a bank has vanished: leave out "
            "vanish_before, --vanish-after and reuse_updates"
        )
    if config.resources is not None:
        raise ResourceError("--robust compares whole updates, and banks' limits send them in pieces: leave out limits")
    asked = banks if participation is None else _asked(participation.fraction, participation.quorum, banks)
    robust.require_enough(asked)
    if not encrypted:
        return
    if robust.rule == "krum":
        raise AggregationError(
            "--robust krum keeps one update, and an encrypted average of one hides nothing: use nnm or outliers, or "
            "--aggregation plain"
        )
    kept = robust.fewest_kept(asked)
    if kept < LEAST_BANKS:
        raise AggregationError(
            f"--robust {robust.rule} may keep {kept} of {asked} banks, and an encrypted average needs at least "
            f"{LEAST_BANKS}: raise --clients, or use --aggregation plain"
        )


def _asked(fraction: float, quorum: int, banks: int) -> int:
    """Banks that a round asks (`fl.rounds.algorithms.participation.Sampled`)."""
    return banks if fraction == 1.0 else max(quorum, math.ceil(fraction * banks))


def _shares_noise(config: RunConfig) -> bool:
    """Whether a round is one step of all banks, or has noise that all banks share."""
    privacy = config.privacy
    shared = privacy is not None and (privacy.noise == "shared" or privacy.unit == "client")
    return shared or config.model.kind == "noisy-or"
