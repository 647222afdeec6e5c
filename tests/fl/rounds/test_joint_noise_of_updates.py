"""Client-level noise: clipped, rounded, shared among banks, and paid for in a unit of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_audit import noise_verdict

from fl.errors import AggregationError, BudgetError, BudgetExhausted
from fl.privacy.accounting import concentrated_epsilon, epsilon
from fl.privacy.calibrate import calibrate_clients
from fl.privacy.mechanisms import ClientRounds, Mechanism
from fl.rounds.joint_noise import GRID, JointNoise, update_sensitivity
from fl.secure.session import Aggregate, Joined

DELTA = 1e-5
SELDOM = 2.0**-41  # how often right noise, which the operating system draws, may fail a test
BANKS, LENGTH = 5, 3000


def plan(limit: float = 4.0, colluders: int = 1, rounds: int = 5) -> JointNoise:
    once = calibrate_clients(
        [],
        sensitivity=update_sensitivity(LENGTH),
        dimension=LENGTH,
        banks=BANKS,
        colluders=colluders,
        rounds=rounds,
        epsilon_limit=limit,
        delta=DELTA,
    )
    return JointNoise(0.5, BANKS, BANKS, once)


def averaged(updates: list[np.ndarray], made: JointNoise) -> Aggregate:
    names = tuple(f"bank {i}" for i in range(len(updates)))
    return made.average(Joined(names, tuple(updates), (1,) * len(updates), "00" * 32))


@given(st.integers(0, 2**32), st.floats(0, 1e6))
@settings(max_examples=20, deadline=None)
def test_no_update_is_longer_than_the_accounted_sensitivity(seed: int, size: float) -> None:
    update = (np.random.default_rng(seed).standard_cauchy(LENGTH) * size).clip(-1e30, 1e30).astype(np.float32)
    once = ClientRounds(update_sensitivity(LENGTH), 1.0, 4, LENGTH, 1)
    quiet = JointNoise(0.5, BANKS, BANKS, once)
    noised = quiet.integers(update, BANKS)
    # Shares of variance 1 add at most sqrt(LENGTH) * 1.2 to the length, but for one time in thousands of lives.
    assert np.linalg.norm(noised) <= update_sensitivity(LENGTH) + 1.2 * math.sqrt(LENGTH)


def test_the_average_carries_everybodys_noise_and_nothing_else() -> None:
    made = plan()
    updates = [np.full(LENGTH, 0.001 * i, np.float32) for i in range(BANKS)]
    result = averaged(updates, made)
    noise = (result.average - np.mean(updates, axis=0)) * BANKS / made.unit
    released = math.sqrt(BANKS * made.once.share_variance)
    assert noise_verdict(noise, released, SELDOM) == "consistent"
    assert noise_verdict(noise / 2, released, SELDOM) == "too little"
    assert float(np.abs(result.average - np.mean(updates, axis=0)).max()) <= result.error_bound
    assert result.clipped == (0,) * BANKS


def test_a_long_update_is_shortened_and_counted() -> None:
    made = plan()
    updates = [np.full(LENGTH, 1.0, np.float32), *[np.zeros(LENGTH, np.float32)] * (BANKS - 1)]
    result = averaged(updates, made)
    assert result.clipped == (1, 0, 0, 0, 0)
    assert abs(float(result.average.sum()) * BANKS - 0.5 * math.sqrt(LENGTH)) < 8 * released_sum_sigma(made)


def released_sum_sigma(made: JointNoise) -> float:
    return math.sqrt(LENGTH * BANKS * made.once.share_variance) * made.unit


@pytest.mark.parametrize("limit", [1.0, 4.0, 8.0])
def test_calibrated_rounds_spend_the_budget_and_no_more(limit: float) -> None:
    once = plan(limit).once
    spent = epsilon([once] * 5, DELTA)
    assert 0.99 * limit < spent <= limit
    assert epsilon([once] * 6, DELTA) > limit


def test_more_colluders_need_more_noise_from_each() -> None:
    few, many = plan(colluders=1).once, plan(colluders=3).once
    assert many.share_variance == pytest.approx(2 * few.share_variance, rel=1e-2)
    assert (few.shares, many.shares) == (4, 2)


def test_zcdp_converts_as_known_figures_say() -> None:
    # Canonne et al., Proposition 12, beats rho + 2 sqrt(rho log(1/delta)), the classical conversion.
    classical = 0.5 + 2 * math.sqrt(0.5 * math.log(1 / DELTA))
    assert 0.8 * classical < concentrated_epsilon(0.5, DELTA) < classical
    assert concentrated_epsilon(0.0, DELTA) == 0.0


def test_units_are_never_added_up() -> None:
    with pytest.raises(BudgetError, match="different units"):
        epsilon([plan().once, Mechanism(0.1, 1.0, 1)], DELTA)


def test_another_roster_another_length_and_a_broken_update_are_refused() -> None:
    made = plan()
    with pytest.raises(AggregationError, match="planned for 5"):
        made.integers(np.zeros(LENGTH, np.float32), roster=4)
    with pytest.raises(AggregationError, match="finite"):
        made.integers(np.zeros(3, np.float32), roster=BANKS)
    with pytest.raises(AggregationError, match="finite"):
        made.integers(np.full(LENGTH, np.nan, np.float32), roster=BANKS)


def test_a_budget_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(BudgetExhausted, match="client-level"):
        plan(limit=1e-3, rounds=100)
    assert GRID == 2048
