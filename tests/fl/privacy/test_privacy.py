from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fl.errors import BudgetError, BudgetExhausted
from fl.privacy.accounting import epsilon, reckoned
from fl.privacy.calibrate import SMALLEST_NOISE, calibrate
from fl.privacy.mechanisms import Entry, Mechanism, NoisyCounts

DELTA = 1e-5


# --- accountants
# ----------------------------------------------------------------------------------------------------


def exact_gaussian_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """Balle and Wang, ICML 2018, theorem 8: the exact curve of `steps` Gaussian mechanisms without
    sampling; 0 where delta alone is enough.
    """
    mu = math.sqrt(steps) / noise_multiplier

    def spent_delta(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))) - delta

    return float(brentq(spent_delta, 0.0, 50.0)) if spent_delta(0.0) > 0 else 0.0


@pytest.mark.parametrize(("noise", "steps"), [(13.3, 100), (2.0, 1), (40.0, 30)])
def test_without_sampling_prv_is_just_above_the_exact_gaussian_curve(noise: float, steps: int) -> None:
    exact = exact_gaussian_epsilon(noise, steps, DELTA)
    assert exact <= epsilon([Mechanism(1.0, noise, steps)], DELTA) <= exact + 0.03


# From where float64 no longer holds the numerical composition to where delta alone is enough: at .5 epsilon was -0.55,
# .999 and 1e-15 were tracebacks.
DELTAS = [1e-300, 1e-100, 1e-30, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3]
DELTAS += [0.01, 0.05, 0.1, 0.2, 0.5, 0.9, 0.999]


@pytest.mark.parametrize(("noise", "steps"), [(13.3, 100), (2.0, 1), (40.0, 30), (100.0, 1), (30.0, 1000)])
def test_at_every_delta_epsilon_is_an_upper_bound_of_the_exact_curve_and_falls_as_delta_grows(
    noise: float, steps: int
) -> None:
    found = [reckoned([Mechanism(1.0, noise, steps)], delta) for delta in DELTAS]
    for delta, (spent, accountant) in zip(DELTAS, found, strict=True):
        # Below 1e-15 the exact curve is a difference of two numbers that float64 holds no better.
        exact = exact_gaussian_epsilon(noise, steps, max(delta, 1e-15))
        assert 0.0 <= exact <= spent and math.isfinite(spent)
        assert accountant in ("PRV", "RDP")
        assert accountant == "RDP" or spent <= exact + 0.03
    assert all(later.epsilon <= earlier.epsilon for earlier, later in pairwise(found))
    assert found[0].accountant == "RDP" and found[-1].epsilon == 0.0


def test_where_rounding_would_decide_renyi_dp_counts_by_name() -> None:
    """The numerical composition said 0.477 at 1e-12 and 0.058 at 1e-11: a smaller delta cannot cost eight times."""
    history = [Mechanism(0.00033, 4.0, 10_000)]
    found = [reckoned(history, delta) for delta in (1e-12, 1e-11)]
    assert [accountant for _, accountant in found] == ["RDP", "RDP"]
    assert found[0].epsilon == epsilon(history, 1e-12, "rdp") < 0.1
    assert found[1].epsilon < found[0].epsilon < 1.2 * found[1].epsilon


@pytest.mark.parametrize("delta", [1e-14, 1e-10, 1e-5, 0.01, 0.5, 0.999])
def test_counts_beside_training_have_an_upper_bound_at_every_delta(delta: float) -> None:
    """At rate 1 both are Gaussians but for the grid, and one Gaussian says what both cost."""
    counts = NoisyCounts(2, 2, 400.0, 9, 0, 9)  # two columns at sigma sqrt(9 * 400) / 2 = 30 events
    spent = epsilon([Mechanism(1.0, 10.0, 10), counts], delta)
    both = 1 / math.sqrt(10 / 10**2 + 2 / 30**2)
    exact = exact_gaussian_epsilon(both, 1, delta)
    assert exact - 1e-4 <= spent <= (exact + 0.03 if delta >= 1e-5 else 1.2 * exact + 0.1)


@pytest.mark.parametrize("history", [[Mechanism(1.0, 1000.0, 10**9)], [Mechanism(1e-9, 1.0, 10**6)]])
def test_a_grid_that_would_not_fit_in_memory_is_not_made(history: list[Entry]) -> None:
    assert reckoned(history, DELTA).accountant == "RDP" or reckoned(history, DELTA).epsilon < 0.02


def test_the_accountants_agree_with_figures_checked_against_dp_accounting() -> None:
    """q = 1/16, noise 1, 16 steps: dp-accounting 0.5 gives RDP 2.764 and PLD 2.242."""
    history = [Mechanism(1 / 16, 1.0, 16)]
    assert epsilon(history, DELTA, "rdp") == pytest.approx(2.764, abs=1e-3)
    assert 2.242 <= epsilon(history, DELTA, "prv") <= 2.26


def test_splitting_steps_over_rounds_costs_nothing_more_nor_less() -> None:
    whole = epsilon([Mechanism(0.25, 3.0, 40)], DELTA)
    assert epsilon([Mechanism(0.25, 3.0, 10)] * 4, DELTA) == whole
    mixed = [Mechanism(0.25, 3.0, 20), Mechanism(0.1, 2.0, 5)]
    assert epsilon(mixed, DELTA) == epsilon(mixed[::-1], DELTA)


def test_nothing_spent_is_zero_and_hopeless_spending_is_infinite() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon([Mechanism(1.0, 0.01, 100)], DELTA) == math.inf


@pytest.mark.parametrize("values", [(0.0, 1.0, 1), (1.1, 1.0, 1), (0.5, 0.0, 1), (0.5, math.nan, 1), (0.5, 1.0, 0)])
def test_impossible_mechanisms_are_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(BudgetError):
        Mechanism(*values)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    with pytest.raises(BudgetError, match="delta"):
        epsilon([], delta)


# --- calibration
# ----------------------------------------------------------------------------------------------------


@given(rate=st.sampled_from([0.05, 0.25, 1.0]), steps=st.integers(1, 60), limit=st.sampled_from([0.5, 3.0, 8.0]))
@settings(max_examples=8, deadline=None)
def test_calibrated_noise_stays_in_the_limit_and_no_smaller_noise_would(rate: float, steps: int, limit: float) -> None:
    noise = calibrate([], sample_rate=rate, steps=steps, epsilon_limit=limit, delta=DELTA)
    assert epsilon([Mechanism(rate, noise, steps)], DELTA) <= limit
    if noise > SMALLEST_NOISE:
        assert epsilon([Mechanism(rate, noise - 0.001, steps)], DELTA) > limit


def test_calibration_counts_what_was_spent_before() -> None:
    spent = [Mechanism(1.0, 10.0, 30)]
    fresh = calibrate([], sample_rate=1.0, steps=20, epsilon_limit=3.0, delta=DELTA)
    later = calibrate(spent, sample_rate=1.0, steps=20, epsilon_limit=3.0, delta=DELTA)
    assert later > fresh
    assert 2.98 < epsilon([*spent, Mechanism(1.0, later, 20)], DELTA) <= 3.0


def test_a_used_up_budget_cannot_be_calibrated() -> None:
    with pytest.raises(BudgetExhausted, match="used up"):
        calibrate([Mechanism(1.0, 5.0, 100)], sample_rate=0.25, steps=1, epsilon_limit=3.0, delta=DELTA)
