"""What an attacker gains: the figures that the documentation quotes, and bounds that distributions confirm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.stats import norm

from fl.errors import BudgetError
from fl.privacy.accounting import epsilon
from fl.privacy.calibrate import calibrate_counts, calibrate_steps
from fl.privacy.discrete_laplace import plan_laplace
from fl.privacy.mechanisms import (
    ClientRounds,
    Entry,
    LaplaceCounts,
    Mechanism,
    NoisyCounts,
    SharedSteps,
    laplace_counts,
    noisy_counts,
)
from fl.privacy.protection import attack_accuracy, highest_posterior, protection

DELTA = 1e-5


def with_steps(spent: list[Entry], limit: float, steps: int) -> list[Entry]:
    """`spent`, and steps of a small model that use the rest of `limit` up: ten banks, one of them observing."""
    once, _ = calibrate_steps(
        spent, sensitivity=2048 + math.sqrt(13), dimension=13, banks=10, colluders=1, steps=steps,
        epsilon_limit=limit, delta=DELTA,
    )  # fmt: skip
    return [*spent, replace(once, rounds=steps)]


@pytest.mark.parametrize(
    ("limit", "eps", "steps", "accuracy", "posterior", "five"),
    [
        (1.0, 0.75, 40, 0.679, 0.00293, 0.929),
        (3.0, 2.6, 40, 0.931, 0.0218, 0.9996),
        (8.0, 7.2, 40, 0.9993, 0.777, 1.0),
    ],
)
def test_laplace_counts_and_steps_give_away_what_the_documentation_says(
    limit: float, eps: float, steps: int, accuracy: float, posterior: float, five: float
) -> None:
    history = with_steps([laplace_counts(plan_laplace(eps, 10, 1), 1, (0, 9))], limit, steps)
    found = protection(history, DELTA)
    assert found.attack_accuracy == pytest.approx(accuracy, abs=5e-4)
    assert found.highest_posterior == pytest.approx(posterior, rel=0.02)
    assert found.accuracy_for_frauds == pytest.approx(five, abs=5e-4)
    assert (found.prior, found.frauds) == (1e-3, 5)


@pytest.mark.parametrize(
    ("limit", "accuracy", "posterior", "five"),
    [(1.0, 0.553, 0.00324, 0.749), (3.0, 0.640, 0.0271, 0.964), (8.0, 0.798, 0.830, 1.0)],
)
def test_gaussian_counts_of_the_same_epsilon_give_away_less_in_the_ordinary_case(
    limit: float, accuracy: float, posterior: float, five: float
) -> None:
    noise = calibrate_counts(
        [], columns=1, days=(0, 9), banks=10, colluders=1, epsilon_limit=0.9 * limit, delta=DELTA
    )  # fmt: skip
    found = protection(with_steps([noisy_counts(noise, 1, (0, 9))], limit, 40), DELTA)
    assert found.attack_accuracy == pytest.approx(accuracy, abs=1e-3)
    assert found.highest_posterior == pytest.approx(posterior, rel=0.02)
    assert found.accuracy_for_frauds == pytest.approx(five, abs=1e-3)


def test_laplace_counts_alone_are_guessed_as_often_as_randomised_response_tells_the_truth() -> None:
    entry = LaplaceCounts(2.0, 1, 9, 0, 9, 0.0)
    assert attack_accuracy([entry], DELTA) == pytest.approx(1 / (1 + math.exp(-2.0)))
    # All five or none: right when the noise is below 3, by the discrete Laplace law.
    q = math.exp(-2.0)
    assert attack_accuracy([entry], DELTA, 5) == pytest.approx(1 - q**3 / (1 + q))


def test_gaussian_steps_alone_are_guessed_as_often_as_the_nearer_mean_is_the_right_one() -> None:
    steps: list[Entry] = [SharedSteps(2052.0, 2.0e8, 27, 13, 20)]
    mu = 2052 * math.sqrt(20 / (27 * 2.0e8))
    assert attack_accuracy(steps, DELTA) == pytest.approx(norm.cdf(mu / 2), abs=1e-5)
    assert attack_accuracy(steps, DELTA, 5) == pytest.approx(norm.cdf(5 * mu / 2), abs=1e-5)


def test_counts_of_other_days_help_no_attacker_and_those_of_the_same_day_do() -> None:
    first = LaplaceCounts(1.0, 1, 9, 0, 4, 0.0)
    once = attack_accuracy([first], DELTA)
    assert attack_accuracy([first, replace(first, first_day=5, last_day=9)], DELTA) == once
    assert attack_accuracy([first, NoisyCounts(1, 12, 16.0, 9, 3, 9)], DELTA) > once


def test_nothing_released_is_a_coin_and_certainty_is_one() -> None:
    assert attack_accuracy([], DELTA) == 0.5 and highest_posterior([], DELTA, 0.25) == pytest.approx(0.25)
    everything: list[Entry] = [LaplaceCounts(900.0, 1, 9, 0, 4, 0.0), Mechanism(1.0, 0.01, 100)]
    assert attack_accuracy(everything, DELTA) == 1.0 and highest_posterior(everything, DELTA) == 1.0


def test_subsampled_steps_are_bounded_alone_and_beside_counts() -> None:
    """One step: the attacker compares N(0, s) with a mixture, whose distance is the rate times the Gaussians'."""
    rate, noise = 0.3, 1.5
    exact = rate * (2 * norm.cdf(1 / (2 * noise)) - 1)
    own: list[Entry] = [Mechanism(rate, noise, 1)]
    assert exact <= 2 * attack_accuracy(own, DELTA) - 1 <= exact + 0.01
    beside = [*own, LaplaceCounts(0.8, 1, 9, 0, 9, 0.0)]
    assert max(attack_accuracy([entry], DELTA) for entry in beside) < attack_accuracy(beside, DELTA)
    several = [attack_accuracy(beside, DELTA, frauds) for frauds in (1, 2, 5)]
    assert several == sorted(several) and several[-1] < 1.0


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_where_a_loss_cannot_be_had_epsilon_and_delta_bound_the_attacker(rate: float) -> None:
    history: list[Entry] = [Mechanism(rate, 1000.0, 10), LaplaceCounts(0.5, 1, 9, 0, 9, 0.0)]
    for delta in (1e-30, DELTA):
        spent = epsilon(history, delta)
        assert 0.5 < attack_accuracy(history, delta) <= 0.5 + math.tanh(spent / 2) / 2 + 0.01


def test_steps_without_a_closed_form_are_bounded_by_their_renyi_epsilon() -> None:
    steps: list[Entry] = [SharedSteps(0.1, 1.0, 3, 4, 1)]
    assert 0.5 < attack_accuracy(steps, DELTA) <= 0.5 + math.tanh(epsilon(steps, DELTA) / 2) / 2 + DELTA
    assert attack_accuracy(steps, DELTA, 5) <= 1.0


def test_a_bank_as_a_whole_is_guessed_as_its_gaussian_says_whatever_the_number_of_transactions() -> None:
    rounds: list[Entry] = [ClientRounds(2100.0, 1e8, 9, 30, 10)]
    accuracy = attack_accuracy(rounds, DELTA)
    assert accuracy == pytest.approx(norm.cdf(2100 * math.sqrt(10 / 9e8) / 2), abs=1e-4)
    assert attack_accuracy(rounds, DELTA, 5) == accuracy


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(BudgetError, match="prior"):
        highest_posterior([], DELTA, 1.0)
    with pytest.raises(BudgetError, match="at least 1"):
        attack_accuracy([], DELTA, 0)
    with pytest.raises(BudgetError, match="delta"):
        protection([], 0.0)
