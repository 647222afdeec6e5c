"""What a run decides before it trains: once, from its configuration and its transactions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fl.counts.risk_columns import RISK
from fl.counts.settings import StatisticsSettings
from fl.data.federation import PartitionedTable
from fl.errors import AlgorithmError, CompressionError, RunFolderError
from fl.privacy.discrete_laplace import LaplacePlan
from fl.privacy.mechanisms import ClientRounds, Mechanism, SharedSteps
from fl.rounds.algorithms.settings import AlgorithmSettings
from fl.rounds.compression import CompressionSettings
from fl.runs.config import DataSettings, PrivacySettings, RunConfig
from fl.runs.noise import with_noise
from fl.runs.plan import RunPlan, read_source
from fl.runs.styles import OPEN, style_of

DATA = DataSettings("simulated", clients=3, customers=200, fraud_share=0.05)


@pytest.fixture(scope="module")
def source() -> PartitionedTable:
    return read_source(DATA, 1)


def config(privacy: PrivacySettings | None, **settings: Any) -> RunConfig:
    style = style_of(privacy, "mlp")
    asked = {"rounds": 2, "data": DATA, "model": style.model, "training": style.training, "privacy": privacy}
    return RunConfig(**{**asked, "baseline_model": OPEN.model, "baseline_training": OPEN.training, **settings})


def test_the_model_has_the_columns_of_counts_before_they_are_shared(source: PartitionedTable) -> None:
    plan = RunPlan.new(config(None, statistics=StatisticsSettings(1)), source)
    alone = RunPlan.new(config(None), source)
    assert alone.sharing is None and not any("all_banks" in name for name in alone.feature_names)
    assert plan.sharing is not None and any("all_banks" in name for name in plan.feature_names)
    assert plan.compression.model.slots[0].shape[1] == len(plan.feature_names)


def test_the_risk_of_parties_is_one_column_whether_or_not_counts_are_shared(source: PartitionedTable) -> None:
    plan = RunPlan.new(config(PrivacySettings(), statistics=StatisticsSettings(1)), source)
    alone = RunPlan.new(config(PrivacySettings()), source)
    assert plan.sharing is not None and alone.sharing is None
    assert plan.feature_names == alone.feature_names and plan.feature_names[-1] == RISK
    assert plan.compression.model.slots[0].shape[1] == len(plan.feature_names)


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
def test_calibration_changes_nothing_about_the_counts_but_their_noise(source: PartitionedTable, law: Any) -> None:
    before = RunPlan.new(config(PrivacySettings(), statistics=StatisticsSettings(1, count_noise=law)), source)
    after = with_noise(before)
    kept = after.config.statistics
    assert before.sharing is not None and after.sharing is not None and kept is not None
    assert kept.epsilon == pytest.approx(1.5, rel=2e-3)
    match after.sharing.noise:
        case LaplacePlan() as noise:
            assert law == "laplace" and kept.sigma is None and noise.epsilon == kept.epsilon
        case noise:
            assert law == "gaussian" and noise is not None and kept.sigma == noise.sigma
    assert replace(before.sharing, noise=after.sharing.noise) == after.sharing
    assert before.feature_names == after.feature_names


@pytest.mark.parametrize(
    ("privacy", "cost"),
    [
        (PrivacySettings(), Mechanism),
        (PrivacySettings(noise="shared"), SharedSteps),
        (PrivacySettings(unit="client"), ClientRounds),
    ],
)
def test_a_run_pays_for_the_noise_that_was_calibrated(
    source: PartitionedTable, privacy: PrivacySettings, cost: type
) -> None:
    plan = RunPlan.new(config(privacy), source)
    with pytest.raises(RunFolderError, match=r"config.toml names no .*: no round was played"):
        plan.require_calibrated()
    calibrated = with_noise(plan)
    calibrated.require_calibrated()
    assert type(calibrated.round_cost) is cost
    assert (calibrated.joint_noise is None) == (cost is Mechanism)


def test_a_run_without_privacy_has_no_noise_and_pays_nothing(source: PartitionedTable) -> None:
    plan = RunPlan.new(config(None), source)
    plan.require_calibrated()
    assert with_noise(plan) is plan
    assert plan.round_cost is None and plan.joint_noise is None and plan.private_steps is None


@pytest.mark.parametrize(
    ("law", "gone", "words"),
    [
        ("laplace", {"epsilon": None}, "names no statistics.epsilon"),
        ("gaussian", {"sigma": None}, "names no statistics.sigma"),
        ("gaussian", {"sigma": None, "epsilon": None}, "names no statistics.epsilon"),
    ],
)
def test_missing_noise_of_counts_is_named(source: PartitionedTable, law: Any, gone: dict, words: str) -> None:
    plan = with_noise(RunPlan.new(config(PrivacySettings(), statistics=StatisticsSettings(1, count_noise=law)), source))
    assert plan.config.statistics is not None
    edited = replace(plan.config, statistics=replace(plan.config.statistics, **gone))
    with pytest.raises(RunFolderError, match=words):
        RunPlan(edited, source).require_calibrated()


def test_an_algorithm_or_layers_that_cannot_be_are_refused_when_the_run_is_planned(source: PartitionedTable) -> None:
    with pytest.raises(AlgorithmError):
        RunPlan.new(config(None, algorithm=AlgorithmSettings("heads", head="nowhere")), source)
    with pytest.raises(CompressionError):
        RunPlan.new(config(None, compression=CompressionSettings(layers="nowhere")), source)


def test_only_a_run_with_joint_steps_is_compared_with_other_rounds(source: PartitionedTable) -> None:
    own, shared = (with_noise(RunPlan.new(config(PrivacySettings(noise=noise)), source)) for noise in ("own", "shared"))
    assert own.own_algorithm is own.algorithm and own.without_privacy(own.schedule(2)).rounds == 2
    assert shared.own_algorithm.name == "joint steps" and shared.algorithm.name == "fedavg"
    assert shared.without_privacy(shared.schedule(2)).rounds == OPEN.rounds
    plain = RunPlan.new(config(None), source)
    schedule = plain.schedule(2)
    assert plain.without_privacy(schedule) is schedule
