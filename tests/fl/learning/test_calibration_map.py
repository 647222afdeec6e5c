"""Scores become probabilities by a line in the log odds, which is fitted to labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from fl.errors import MetricError
from fl.learning.calibration import FOR_INTERCEPT, Calibration, fit, log_odds


def drawn(rows: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose probability is that line of the log odds of their scores; a fixed draw."""
    rng = np.random.default_rng(7)
    odds = rng.normal(-2.0, 2.0, rows)
    return (rng.random(rows) < expit(slope * odds + intercept)).astype(float), expit(odds)


def test_the_line_is_found_and_probabilities_add_up_to_the_frauds() -> None:
    label, score = drawn(40_000, 0.7, -1.0)
    found = fit(label, score, 4.0)
    assert found.fitted == "slope and intercept"
    assert (found.slope, found.intercept) == (pytest.approx(0.7, abs=0.03), pytest.approx(-1.0, abs=0.06))
    assert found.of(score).sum() == pytest.approx(label.sum(), rel=1e-6)


def test_a_calibration_changes_no_ranking() -> None:
    label, score = drawn(2_000, 1.3, 0.5)
    found = fit(label, score, 1.0)
    assert np.array_equal(np.argsort(found.of(score), kind="stable"), np.argsort(score, kind="stable"))


def test_few_frauds_move_the_line_and_do_not_turn_it() -> None:
    _, score = drawn(300, 1.0, 0.0)
    label = np.zeros(300)
    label[np.argsort(score)[-FOR_INTERCEPT:]] = 1.0
    found = fit(label, score, 4.0)
    assert (found.fitted, found.slope) == ("intercept", 1.0)
    assert found.of(score).sum() == pytest.approx(FOR_INTERCEPT, rel=1e-6)


def test_without_frauds_only_the_weight_of_the_loss_is_taken_back() -> None:
    _, score = drawn(100, 1.0, 0.0)
    found = fit(np.zeros(100), score, 4.0)
    assert (found.fitted, found.slope, found.intercept) == ("nothing", 1.0, -math.log(4.0))
    assert found.of(np.array([0.5])) == pytest.approx([0.2])  # odds of 1 divided by 4


def test_scores_that_rank_against_the_frauds_get_no_falling_line() -> None:
    label, score = drawn(5_000, 1.0, 0.0)
    found = fit(1.0 - label, score, 1.0)
    assert (found.fitted, found.slope) == ("intercept", 1.0)


def test_frauds_that_no_other_row_overlaps_leave_a_finite_map() -> None:
    label = np.repeat([0.0, 1.0], 60)
    found = fit(label, np.repeat([0.1, 0.9], 60), 1.0)
    assert math.isfinite(found.slope) and math.isfinite(found.intercept)


def test_scores_of_zero_and_one_have_probabilities() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    both = Calibration(1.0, 0.0, "nothing", 0, 0).of(np.array([0.0, 1.0]))
    assert both == pytest.approx([0.0, 1.0], abs=1e-12)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(MetricError, match="NaN or infinite"):
        fit(np.array([0.0, 1.0]), np.array([0.1, np.nan]), 1.0)
    with pytest.raises(MetricError, match="slope"):
        Calibration(-1.0, 0.0, "nothing", 0, 0)
