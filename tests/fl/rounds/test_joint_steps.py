"""Steps under one shared noise: row gradients clipped one by one, noise as planned, priced as the paper says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_audit import noise_verdict
from torch.nn.functional import binary_cross_entropy_with_logits

from fl.data.federation import Rows
from fl.errors import AggregationError, BudgetError, BudgetExhausted
from fl.learning.model import build_model, flatten, model_hash
from fl.privacy.accounting import epsilon, reckoned
from fl.privacy.calibrate import calibrate_steps
from fl.privacy.mechanisms import UNIT, ClientRounds, Mechanism, NoisyCounts, SharedSteps, units_of
from fl.rounds.joint_noise import GRID, JointNoise, row_sensitivity
from fl.rounds.joint_steps import clipped_gradient_sum
from fl.secure.cost import LARGEST_VALUE
from fl.secure.session import Aggregate, Joined

SELDOM = 2.0**-41  # how often right noise, which the operating system draws, may fail a test
INPUTS = 5
MODEL = build_model(INPUTS, seed=3, hidden=(6, 4))
LENGTH = flatten(MODEL).shape[0]


def rows_of(count: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.3).astype(np.float32)
    places = np.arange(count)
    return Rows(rng.normal(size=(count, INPUTS)).astype(np.float32), labels, places.astype(np.int32), places, places)


def one_by_one(rows: Rows, clip: float, pos_weight: float) -> np.ndarray:
    model = build_model(INPUTS, seed=3, hidden=(6, 4), dropout=0.0).double()
    total = np.zeros(LENGTH)
    for x, y in zip(torch.from_numpy(rows.x).double(), torch.from_numpy(rows.y).double(), strict=True):
        model.zero_grad()
        weight = torch.tensor(pos_weight, dtype=torch.float64)
        binary_cross_entropy_with_logits(model(x[None]).reshape(-1), y[None], pos_weight=weight).backward()
        row = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy()
        total += row * min(1.0, clip / np.linalg.norm(row))
    return total


def plan_of(banks: int = 4, colluders: int = 1, pieces: int = 1, dimension: int = LENGTH) -> JointNoise:
    once = SharedSteps(row_sensitivity(dimension), 40.0**2, pieces * (banks - colluders), dimension, 1)
    return JointNoise(1.0, 100.0, banks, once, pieces)


def averaged(gradients: list[np.ndarray], plan: JointNoise) -> Aggregate:
    names = tuple(f"bank {i}" for i in range(len(gradients)))
    return plan.average(Joined(names, tuple(gradients), (1,) * len(gradients), model_hash(MODEL)))


@pytest.mark.parametrize("clip", [0.05, 1.0, 100.0])
def test_the_sum_is_that_of_gradients_taken_and_clipped_row_by_row(clip: float) -> None:
    rows, before = rows_of(40), flatten(MODEL)
    summed = clipped_gradient_sum(MODEL, rows, max_grad_norm=clip, pos_weight=4.0)
    expected = one_by_one(rows, clip, 4.0)
    np.testing.assert_allclose(summed, expected, rtol=2e-5, atol=1e-5 * clip)  # Opacus divides by norm + 1e-6
    assert summed.dtype == np.float64 and (flatten(MODEL) == before).all()
    assert np.linalg.norm(summed) <= 40 * clip


def test_dropout_is_off_and_no_rows_give_a_sum_of_zero() -> None:
    first = clipped_gradient_sum(MODEL, rows_of(9), max_grad_norm=1.0, pos_weight=1.0)
    second = clipped_gradient_sum(MODEL, rows_of(9), max_grad_norm=1.0, pos_weight=1.0)
    assert (first == second).all() and first.any()
    assert not clipped_gradient_sum(MODEL, rows_of(0), max_grad_norm=1.0, pos_weight=1.0).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31), st.sampled_from([0.01, 1.0]))
def test_one_row_moves_a_banks_integers_by_no_more_than_the_sensitivity(count: int, seed: int, clip: float) -> None:
    rows = rows_of(count, seed)
    without = Rows(*(part[1:] for part in (rows.x, rows.y, rows.day, rows.customer, rows.index)))
    plan = replace(plan_of(), clip_norm=clip)
    noise = [np.random.default_rng(seed), np.random.default_rng(seed)]
    one, other = (
        plan.integers(
            clipped_gradient_sum(MODEL, part, max_grad_norm=clip, pos_weight=4.0),
            4,
            entropy=lambda count, generator=generator: generator.bytes(count),
        )
        for part, generator in zip((rows, without), noise, strict=True)
    )
    moved = float(np.linalg.norm(one - other))
    assert moved <= plan.once.sensitivity == GRID * (1 + 1e-6) + math.sqrt(LENGTH)


@pytest.mark.parametrize(("banks", "colluders", "pieces"), [(3, 1, 1), (5, 3, 1), (4, 1, 3)])
def test_a_released_gradient_holds_the_exact_sum_and_the_planned_noise(banks: int, colluders: int, pieces: int) -> None:
    plan = plan_of(banks, colluders, pieces, dimension=8_000)
    gradients = [np.random.default_rng(i).normal(size=8_000) for i in range(banks)]
    exact = np.sum([np.rint(g / plan.unit) for g in gradients], axis=0)
    released = averaged(gradients, plan)
    sums = released.average * plan.divisor / plan.unit
    np.testing.assert_allclose(sums, np.rint(sums), atol=1e-6)
    added = np.rint(sums) - exact
    assert np.abs(added).max() * plan.unit / plan.divisor <= released.error_bound
    assert noise_verdict(added / GRID, plan.released_sigma, SELDOM) == "consistent"
    assert noise_verdict(added / GRID / 2, plan.released_sigma, SELDOM) == "too little"


def test_what_a_round_records_of_its_error_says_nothing_about_gradients_without_noise() -> None:
    plan = plan_of(3)
    gradients = [np.full(LENGTH, float(i)) for i in range(3)]
    released = averaged(gradients, plan)
    assert released.error_against(np.sum(gradients, axis=0) / plan.divisor) == (0.0, 0.0)
    assert released.error_against(np.full(LENGTH, 1e9)) == (0.0, 0.0)
    noise = released.average - np.sum(gradients, axis=0) / plan.divisor
    assert np.abs(noise).max() > 0  # the control: there is a distance that is not told


def test_noise_planned_for_another_roster_or_model_is_refused() -> None:
    plan = plan_of()
    with pytest.raises(AggregationError, match="plan anew"):
        plan.integers(np.zeros(LENGTH), 3)
    with pytest.raises(AggregationError, match="finite"):
        plan.integers(np.full(LENGTH, np.nan), 4)
    with pytest.raises(BudgetError, match="another model"):
        replace(plan, once=replace(plan.once, dimension=2 * LENGTH))
    with pytest.raises(BudgetError, match="another model"):
        replace(plan, once=replace(plan.once, sensitivity=float(GRID)))


def test_a_shared_step_costs_what_the_gaussian_of_its_noise_costs() -> None:
    once = SharedSteps(1000.0, 2500.0**2, 16, 50, 1)  # ratio 1000 / (2500 * 4) = 0.1
    assert once.concentrated == pytest.approx(0.005, rel=1e-6)
    steps, gaussian = replace(once, rounds=100), Mechanism(1.0, 10.0, 100)
    assert epsilon([steps], 1e-5, "rdp") == pytest.approx(epsilon([gaussian], 1e-5, "rdp"), rel=1e-3)
    # PRV knows the Gaussian's exact loss as well, and adds its own error of 0.01.
    assert epsilon([gaussian], 1e-5) - 0.02 < epsilon([steps], 1e-5) < epsilon([gaussian], 1e-5)
    assert epsilon([once] * 100, 1e-5) == pytest.approx(epsilon([steps], 1e-5))


def test_shared_steps_add_up_with_counts_and_with_steps_under_own_noise_and_not_with_clients() -> None:
    steps = SharedSteps(1000.0, 2500.0**2, 16, 50, 100)
    counts = NoisyCounts(2, 2, 16.0, 9, 0, 9)
    own = Mechanism(0.25, 4.0, 50)
    alone = [epsilon([entry], 1e-5, "rdp") for entry in (steps, counts, own)]
    together = epsilon([steps, counts, own], 1e-5)
    assert max(alone) < together < sum(alone)
    assert units_of([steps, own]) == UNIT and reckoned([steps, counts], 1e-5).accountant == "exact"
    assert reckoned([own, counts], 1e-5).accountant == reckoned([own, steps], 1e-5).accountant == "PRV"
    with pytest.raises(BudgetError, match="different units"):
        epsilon([steps, ClientRounds(1.0, 4.0, 3, 5, 1)], 1e-5)


@pytest.mark.parametrize("limit", [1.0, 3.0, 8.0])
def test_calibrated_steps_use_the_budget_up_and_fit_the_lane(limit: float) -> None:
    dimension, spent = 3265, [NoisyCounts(2, 2, 400.0, 9, 0, 9)]
    once, pieces = calibrate_steps(
        spent, sensitivity=row_sensitivity(dimension), dimension=dimension, banks=10, colluders=1, steps=100,
        epsilon_limit=limit, delta=1e-5,
    )  # fmt: skip
    assert 0.985 * limit < epsilon([*spent, *[once] * 100], 1e-5) <= limit
    plan = JointNoise(1.0, 20_480.0, 10, once, pieces)
    assert once.shares == 9 * pieces and plan.largest < LARGEST_VALUE


def test_a_budget_that_no_noise_keeps_and_impossible_colluders_are_refused() -> None:
    asked = {"sensitivity": 2100.0, "dimension": 100, "banks": 4, "steps": 100, "delta": 1e-5}
    with pytest.raises(BudgetError, match="colluders"):
        calibrate_steps([], colluders=4, epsilon_limit=1.0, **asked)
    with pytest.raises(BudgetExhausted, match="no noise"):
        calibrate_steps([], colluders=1, epsilon_limit=1e-4, **asked)
