"""The settings of private training follow from the declared number of rows, and meet the known ones at 8,192."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import risky_banks

from fl.errors import BudgetError
from fl.learning.private_size import LONGEST_STEP, own_steps
from fl.learning.training import LocalTraining
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import ReleasedAverage
from fl.rounds.joint_steps import JointSteps
from fl.runs.asked import configuration
from fl.runs.config import PrivacySettings
from fl.runs.styles import PRIVATE


def test_banks_of_8192_rows_get_the_settings_that_were_searched_for() -> None:
    own, known = own_steps(8192), PrivacySettings()
    assert (own.sample_rate, own.steps, own.expected_batch) == (known.sample_rate, known.steps, known.expected_batch)
    assert own.learning_rate == PRIVATE.training.learning_rate


@pytest.mark.parametrize("rows", [100, 2_000, 8_192, 20_000, 100_000, 10_000_000])
def test_the_divisor_is_the_batch_and_passes_and_path_stay(rows: float) -> None:
    own = own_steps(rows)
    assert own.expected_batch == pytest.approx(max(own.sample_rate * rows, 1.0))
    assert own.steps * own.sample_rate == pytest.approx(2.5, rel=0.05)
    assert own.steps * own.learning_rate == pytest.approx(300 * min(rows / 8192, 1.0))


@pytest.mark.parametrize("rows", [0, -1, 99, math.nan, math.inf, 1e12])
def test_a_number_of_rows_that_no_bank_has_is_refused(rows: float) -> None:
    with pytest.raises(BudgetError, match="rows_per_bank: expected a number"):
        own_steps(rows)


def test_the_declared_rows_set_batch_steps_and_rate_and_a_setting_that_is_given_wins() -> None:
    config = configuration({"model": "mlp", "rows_per_bank": 100_000.0, "local_steps": 7})
    own = own_steps(100_000)
    assert config.privacy is not None and config.privacy.steps == 7
    assert config.privacy.expected_batch == own.expected_batch and config.privacy.sample_rate == own.sample_rate
    assert config.training.learning_rate == own.learning_rate


def test_the_declared_rows_are_the_divisor_where_all_banks_step_together() -> None:
    for given in ({"noise": "shared", "model": "mlp"}, {}):
        config = configuration({"rows_per_bank": 20_000.0, **given})
        assert config.privacy is not None and config.privacy.expected_batch == 20_000.0


@pytest.mark.parametrize(("rows", "epsilon", "kind"), [(6_000.0, 8.0, "noisy-or"), (10_000.0, 10.0, "mlp")])
def test_enough_declared_rows_and_epsilon_choose_the_network(
    rows: float, epsilon: float, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "alone.toml").write_text(risky_banks.SCHEMA_TEXT.replace('shared = ["terminal"]\n', ""))
    asked = {"rows_per_bank": rows, "epsilon": epsilon, "schema": tmp_path / "alone.toml"}
    config = configuration(asked)
    assert config.model.kind == kind
    assert configuration({**asked, "model": "noisy-or"}).model.kind == "noisy-or"
    assert configuration({"epsilon": epsilon}, config).model.kind == kind


def test_a_shared_step_of_the_network_is_bounded_and_that_of_other_models_is_not() -> None:
    shared = configuration({"noise": "shared", "model": "mlp"}).privacy
    assert shared is not None and shared.longest_step == LONGEST_STEP
    assert all(
        privacy is not None and privacy.longest_step is None
        for privacy in (configuration({}).privacy, configuration({"model": "mlp"}).privacy)
    )


@pytest.mark.parametrize(("gradient", "length"), [(0.01, 0.01 * 10), (5.0, 0.5)])
def test_a_step_that_is_too_long_is_shortened_and_a_short_one_is_not(gradient: float, length: float) -> None:
    timetable = FedAvg.__new__(FedAvg)  # a step asks it for nothing
    steps = JointSteps(timetable, 1.0, LocalTraining("sgd", learning_rate=10.0), 0.5)  # type: ignore[arg-type]
    first = np.zeros(4, np.float32)
    average = np.array([gradient, 0.0, 0.0, 0.0])
    after = steps.apply(steps.begin(first), ReleasedAverage(1, average, np.ones(4, bool), 3, 3))
    assert np.linalg.norm(after.model) == pytest.approx(length, rel=1e-6)
