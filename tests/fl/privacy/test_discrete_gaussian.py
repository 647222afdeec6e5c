"""The sampler against the distribution it promises, and what sums of shares are accounted as."""

from __future__ import annotations

import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fl.errors import BudgetError
from fl.privacy.accounting import epsilon
from fl.privacy.discrete_gaussian import LARGEST_VARIANCE, discrete_gaussian, exact_variance
from fl.privacy.mechanisms import Mechanism, NoisyCounts, noisy_counts
from fl.privacy.noise_shares import plan_noise, sum_correction, tail_bound
from fl.privacy.randomness import Entropy

DELTA = 1e-5


def stream(seed: bytes) -> Entropy:
    """Reproducible bytes, so that a statistical test cannot fail once in a while."""
    counter = itertools.count()
    return lambda count: hashlib.shake_256(seed + next(counter).to_bytes(8, "big")).digest(count)


def weights(variance: float, reach: int) -> np.ndarray:
    noise = np.arange(-reach, reach + 1)
    weight = np.exp(-(noise**2) / (2 * variance))
    return weight / weight.sum()


@pytest.mark.parametrize("variance", [0.25, 1.0, 6.5, 100.0])
def test_samples_follow_the_discrete_gaussian(variance: float) -> None:
    samples = discrete_gaussian(20_000, exact_variance(variance), entropy=stream(b"chi"))
    reach = math.ceil(3 * math.sqrt(variance))
    clipped = np.clip(samples, -reach, reach)
    expected = weights(variance, 40 * reach)
    middle = expected[39 * reach : 41 * reach + 1].copy()
    middle[0] += expected[: 39 * reach].sum()
    middle[-1] += expected[41 * reach + 1 :].sum()
    seen = np.bincount(clipped + reach, minlength=2 * reach + 1)
    assert chisquare(seen, middle * len(samples)).pvalue > 1e-4


def test_large_variances_are_sampled_without_leaving_64_bits() -> None:
    samples = discrete_gaussian(3000, Fraction(LARGEST_VARIANCE), entropy=stream(b"large"))
    assert abs(samples.var() / LARGEST_VARIANCE - 1) < 0.1
    assert abs(samples.mean()) < 4 * math.sqrt(LARGEST_VARIANCE / 3000)


def test_without_a_stream_no_two_draws_agree() -> None:
    draws = [discrete_gaussian(50, exact_variance(1000.0)) for _ in range(2)]
    assert (draws[0] != draws[1]).any()


@given(st.floats(1e-3, LARGEST_VARIANCE))
@settings(max_examples=50, deadline=None)
def test_variances_are_rounded_up_and_by_little(variance: float) -> None:
    exact = exact_variance(variance)
    assert variance <= exact <= variance * (1 + 2e-6) + 1 / 256
    assert exact_variance(float(exact)) == exact


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, 2.0 * LARGEST_VARIANCE])
def test_impossible_variances_are_refused(variance: float) -> None:
    with pytest.raises(BudgetError, match="variance"):
        exact_variance(variance)


def test_a_variance_that_cannot_be_sampled_exactly_is_refused() -> None:
    with pytest.raises(BudgetError, match="exact_variance"):
        discrete_gaussian(1, Fraction(1, 3))


@given(st.floats(0.3, 50), st.integers(2, 64), st.data())
@settings(max_examples=40, deadline=None)
def test_honest_shares_alone_make_the_noise_that_was_asked_for(sigma: float, banks: int, data: st.DataObject) -> None:
    plan = plan_noise(sigma, banks, data.draw(st.integers(1, banks - 1)))
    honest = math.sqrt(plan.honest * float(plan.share_variance)) / plan.resolution
    assert sigma <= honest <= 1.01 * sigma
    assert plan.share_variance >= 4  # sigma of a share >= 2 grid units
    assert sum_correction(float(plan.share_variance), plan.honest) < 1e-15


@pytest.mark.parametrize("colluders", [0, 10, 11])
def test_impossible_coalitions_are_refused(colluders: int) -> None:
    with pytest.raises(BudgetError, match="colluders"):
        plan_noise(1.0, 10, colluders)


def test_small_shares_cost_a_correction_and_tiny_ones_are_refused() -> None:
    # 10 * exp(-pi^2) for two shares of variance 1, by hand
    assert sum_correction(1.0, 2) == pytest.approx(5.17e-4, rel=1e-2)
    assert sum_correction(1.0, 1) == 0.0
    with pytest.raises(BudgetError, match="1/2"):
        sum_correction(0.4, 3)


def test_tails_beyond_the_lane_have_the_probability_that_is_stated() -> None:
    bound = tail_bound(Fraction(16), 10**6)
    assert 2 * 10**6 * math.exp(-(bound**2) / 32) <= 2.0**-100


def test_noisy_counts_cost_what_the_gaussian_of_the_same_size_costs() -> None:
    """sqrt(3) events of sensitivity under sigma: a Gaussian of multiplier sigma / sqrt(3), within the grid's error."""
    plan = plan_noise(3.0, 10, 1)
    counted = epsilon([noisy_counts(plan, 3, (0, 4))], DELTA)
    sigma = math.sqrt(plan.honest * float(plan.share_variance)) / plan.resolution
    assert counted == pytest.approx(epsilon([Mechanism(1.0, sigma / math.sqrt(3), 1)], DELTA), abs=0.02)
    assert counted < epsilon([noisy_counts(plan, 3, (0, 4))], DELTA, "rdp")


def test_the_privacy_loss_of_counts_is_exact() -> None:
    """delta at the reported epsilon, from the two distributions themselves: never above what was promised."""
    entry = NoisyCounts(columns=1, resolution=3, share_variance=9.0, shares=4, first_day=0, last_day=0)
    found = epsilon([entry], DELTA)
    noise = np.arange(-400, 401)
    here = np.exp(-(noise**2) / 72.0)
    there = np.exp(-((noise - 3) ** 2) / 72.0)
    here, there = here / here.sum(), there / there.sum()
    for eps, holds in ((found, True), (found - 0.05, False)):
        spent = float(np.maximum(here - math.exp(eps) * there, 0).sum())
        assert (spent <= DELTA) == holds


def test_disjoint_days_are_paid_once_and_shared_days_twice() -> None:
    plan = plan_noise(3.0, 10, 1)
    first, second, overlapping = (noisy_counts(plan, 2, days) for days in ((0, 4), (5, 9), (4, 8)))
    once = epsilon([first], DELTA)
    assert epsilon([first, second], DELTA) == once
    assert epsilon([first, overlapping], DELTA) == pytest.approx(epsilon([first, first], DELTA)) and once > 0
    assert epsilon([first, overlapping], DELTA) > 1.2 * once
