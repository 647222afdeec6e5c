"""Closed forms against the two distributions themselves, by sums and quadrature, in both directions."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from fl.errors import BudgetExhausted
from fl.privacy.accounting import combinations, epsilon, loss_of, randomised_response, reckoned
from fl.privacy.calibrate import calibrate_laplace, calibrate_steps
from fl.privacy.discrete_laplace import plan_laplace
from fl.privacy.exact_loss import Gaussian, charges_of, exact_loss
from fl.privacy.mechanisms import (
    Counts,
    Entry,
    LaplaceCounts,
    Mechanism,
    NoisyCounts,
    SharedSteps,
    laplace_counts,
    noisy_counts,
)
from fl.privacy.noise_shares import plan_noise
from fl.privacy.privacy_loss import composed_loss

DELTA = 1e-5
Law = NDArray[np.float64]
Pair = tuple[Law, Law]  # probabilities of one outcome under either of two neighbours

REACH = 200
NOISE = np.arange(-REACH, REACH + 1)


def laplace(eps: float, moved: int = 1) -> Pair:
    q = math.exp(-eps)
    absent, present = ((1 - q) / (1 + q) * q ** np.abs(NOISE - m, dtype=np.float64) for m in (0, moved))
    return absent, present


def discrete_gaussian(variance: float, moved: int = 1) -> Pair:
    weights = [np.exp(-((NOISE - m) ** 2) / (2 * variance)) for m in (0, moved)]
    return weights[0] / weights[0].sum(), weights[1] / weights[1].sum()


def gaussian(mu: float) -> Pair:
    """Cells so narrow that their probabilities have the ratio of the densities."""
    at = np.linspace(-11, 11 + mu, 40_001)
    width = at[1] - at[0]
    return norm.pdf(at) * width, norm.pdf(at, mu) * width


def delta_of(eps: float, *pairs: Pair) -> tuple[float, float]:
    """delta at `eps` of independent releases, in both directions, summed over all outcomes."""
    *few, last = pairs
    both = [0.0, 0.0]
    for here, there in zip(*told_apart(few), strict=True):
        both[0] += float(np.maximum(here * last[0] - math.exp(eps) * there * last[1], 0).sum())
        both[1] += float(np.maximum(there * last[1] - math.exp(eps) * here * last[0], 0).sum())
    return both[0], both[1]


def told_apart(pairs: list[Pair]) -> Pair:
    """Several releases as one; outcomes of the same likelihood ratio, which say the same, are one outcome."""
    here, there = np.ones(1), np.ones(1)
    for first, second in pairs:
        here, there = np.outer(here, first).ravel(), np.outer(there, second).ravel()
        seen = (here > 1e-30) & (there > 1e-30)
        ratio = np.round(np.log(here[seen]) - np.log(there[seen]), 9)
        _, which = np.unique(ratio, return_inverse=True)
        here, there = np.bincount(which, here[seen]), np.bincount(which, there[seen])
    return here, there


def counts(eps: float, moved: int = 1) -> LaplaceCounts:
    return LaplaceCounts(eps, moved, 9, 0, 9, 0.0)


# mu as it comes of the splits .7 / 2.6 / 7.2 of epsilon 1 / 3 / 8 at delta 1e-5
SPLITS = [(1.0, 0.7, 0.0916), (3.0, 2.6, 0.1165), (8.0, 7.2, 0.2187)]


@pytest.mark.parametrize(("total", "eps", "mu"), SPLITS)
def test_laplace_counts_beside_steps_have_the_delta_of_their_distributions_in_both_directions(
    total: float, eps: float, mu: float
) -> None:
    loss = exact_loss([Mechanism(1.0, 1 / mu, 1)], [counts(eps)])
    assert loss is not None
    for at in (0.0, 0.5 * total, eps, total):
        for delta in delta_of(at, laplace(eps), gaussian(mu)):
            assert loss.delta(at) == pytest.approx(delta, rel=1e-4)


@pytest.mark.parametrize(
    ("entries", "pairs", "mu", "frauds"),
    [
        ([counts(0.7, 2)], [laplace(0.7), laplace(0.7)], 0.3, 1),  # two kinds of entity
        ([counts(0.7)], [laplace(0.7, 5)], 0.3, 5),  # five frauds in one cell
        ([counts(0.7), counts(0.4)], [laplace(0.7), laplace(0.4)], 0.3, 1),  # two releases that share a day
        ([NoisyCounts(1, 2, 9.0, 4, 0, 9)], [discrete_gaussian(36.0, 2)], 0.3, 1),
        ([NoisyCounts(1, 2, 9.0, 4, 0, 9)], [discrete_gaussian(36.0, 6)], 0.3, 3),
    ],
)
def test_several_counts_and_several_frauds_have_the_delta_of_their_distributions(
    entries: list[Counts], pairs: list[Pair], mu: float, frauds: int
) -> None:
    loss = exact_loss([Mechanism(1.0, 1 / mu, 1)], entries, frauds)
    assert loss is not None
    for at in (0.0, 1.0, 2.0):
        for delta in delta_of(at, *pairs, gaussian(frauds * mu)):
            assert loss.delta(at) == pytest.approx(delta, rel=1e-4, abs=1e-12)


def test_two_reports_of_one_event_never_cost_more_than_is_charged() -> None:
    """A count that moves by two under noise for moves by one: charged as one event of twice the epsilon."""
    loss = exact_loss([], [counts(1.4)])
    assert loss is not None
    for at in (0.0, 0.5, 1.0, 1.39, 1.4):
        assert max(delta_of(at, laplace(0.7, 2))) <= loss.delta(at) + 1e-12


def test_two_reports_of_one_event_move_a_gaussian_count_by_two() -> None:
    plan = plan_noise(3.0, 10, 1)
    twice = noisy_counts(plan, 1, (0, 9), reports=2)
    assert twice == replace(noisy_counts(plan, 1, (0, 9)), resolution=2 * plan.resolution)
    # As dear as four counts that move by one each: both are a distance of 2 in the Gaussian's unit.
    assert epsilon([twice], DELTA) == pytest.approx(epsilon([noisy_counts(plan, 4, (0, 9))], DELTA), rel=1e-3)


def test_the_gaussian_curve_holds_on_both_sides_of_zero() -> None:
    at = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    found = Gaussian(0.8).deltas(at)
    for eps, delta in zip(at, found, strict=True):
        assert delta == pytest.approx(delta_of(float(eps), gaussian(0.8))[0], rel=1e-4)
    assert Gaussian(0.0).deltas(at) == pytest.approx([-math.expm1(-3.0), -math.expm1(-0.5), 0.0, 0.0, 0.0])


# --- discrete against continuous
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [2.0, 50.0, 3000.0])
def test_a_discrete_gaussian_is_as_near_to_a_rounded_one_as_is_charged(sigma: float) -> None:
    noise = np.arange(math.floor(9 * sigma) + 1, dtype=np.float64)
    steps = max(1, len(noise) // 2000)
    noise = np.append(noise[::steps], noise[-1])
    normaliser = sigma * math.sqrt(2 * math.pi)
    points = (np.arange(2000) + 0.5) / 2000 - 0.5
    ratios = [float(np.log(np.mean(np.exp(-x * points / sigma**2 - points**2 / (2 * sigma**2))))) for x in noise]
    assert max(np.abs(ratios)) <= 3.34 / sigma**2 + 1e-12 <= 9**2 / 24 / sigma**2 + 1e-12
    assert sigma < 50 or max(np.abs(ratios)) > 3.2 / sigma**2  # the bound is no invention
    # and the normaliser of the discrete law is that of the density
    every = np.arange(-40 * math.ceil(sigma), 40 * math.ceil(sigma) + 1)
    assert float(np.exp(-(every**2) / (2 * sigma**2)).sum()) == pytest.approx(normaliser, rel=1e-13)


def test_shared_steps_never_cost_less_than_the_discrete_gaussians_they_are_made_of() -> None:
    """Two coordinates that move by 3 and 4, sigma 20, by the distributions themselves; the charge is large here."""
    steps = SharedSteps(5.0, 100.0, 4, 2, 1)
    loss = exact_loss([steps], [])
    assert loss is not None
    continuous = exact_loss([Mechanism(1.0, 20 / 5, 1)], [])
    assert continuous is not None
    for at in (0.0, 0.5, 1.0):
        exact = max(delta_of(at, discrete_gaussian(400.0, 3), discrete_gaussian(400.0, 4)))
        assert exact <= loss.delta(at)
        assert loss.delta(at) == pytest.approx(continuous.delta(at - 0.0), abs=0.05)
    charge = charges_of([steps], [])[0]
    assert charge.log_ratio == pytest.approx(2 * 81 / (24 * 400)) and charge.beyond < 1e-16


def test_a_sum_of_too_little_noise_has_no_closed_form_and_is_counted_in_renyi_dp() -> None:
    assert reckoned([SharedSteps(0.1, 1.0, 3, 4, 1)], DELTA).accountant == "RDP"


# --- epsilon
# --------------------------------------------------------------------------------------------------------


def test_epsilon_of_laplace_counts_is_theirs_but_for_what_delta_pays() -> None:
    spent, accountant = reckoned([counts(2.6)], DELTA)
    assert accountant == "exact"
    often = 1 / (1 + math.exp(-2.6))
    assert spent == pytest.approx(2.6 + math.log1p(-DELTA / often), rel=1e-6)  # often (1 - exp(e - 2.6)) = delta


def test_disjoint_days_are_paid_once_and_shared_days_together() -> None:
    first = LaplaceCounts(1.0, 1, 9, 0, 4, 0.0)
    later, overlapping = replace(first, first_day=5, last_day=9), replace(first, first_day=4, last_day=8)
    once = epsilon([first], DELTA)
    assert epsilon([first, later], DELTA) == once
    assert 1.99 < epsilon([first, overlapping], DELTA) < 2.0
    assert len(combinations([first, later, overlapping])) == 3


def test_many_small_releases_cost_less_than_their_sum() -> None:
    assert epsilon([LaplaceCounts(0.01, 1000, 9, 0, 9, 0.0)], DELTA) < 5.0  # in Renyi DP
    assert epsilon([counts(0.1)] * 40, DELTA) < 0.8 * 4.0
    assert epsilon([counts(0.01 * (1 + i)) for i in range(30)], DELTA) < sum(0.01 * (1 + i) for i in range(30))


def test_the_order_of_a_history_is_irrelevant_and_its_length_too() -> None:
    step = SharedSteps(2052.0, 2.0e8, 27, 13, 1)
    whole: list[Entry] = [counts(2.6), replace(step, rounds=20)]
    assert epsilon([*[step] * 20, counts(2.6)], DELTA) == epsilon(whole, DELTA)


def test_closed_forms_and_the_numerical_composition_agree() -> None:
    """The same steps at rate 1, composed on a grid, beside the same counts."""
    exact = exact_loss([Mechanism(1.0, 40.0, 20)], [counts(2.6)])
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.simplefilter("ignore")
        grid = composed_loss([(40.0, 1.0, 20)], [], DELTA)
    assert exact is not None and grid is not None
    numerical = replace(exact, rest=grid)
    assert exact.epsilon(DELTA) <= numerical.epsilon(DELTA) <= exact.epsilon(DELTA) + 0.03
    assert exact.delta(0.0) <= numerical.delta(0.0) <= exact.delta(0.0) + 0.01


def test_laplace_counts_beside_a_subsampled_step_cost_what_their_distributions_say_in_both_directions() -> None:
    rate, noise, eps = 0.3, 1.5, 0.8
    history: list[Entry] = [Mechanism(rate, noise, 1), counts(eps)]
    spent, accountant = reckoned(history, DELTA)
    at = np.linspace(-20, 25, 60_001)
    without = norm.pdf(at, 0, noise) * (at[1] - at[0])
    pair = (rate * norm.pdf(at, 1, noise) * (at[1] - at[0]) + (1 - rate) * without, without)
    assert accountant == "PRV"
    assert max(delta_of(spent, laplace(eps), pair)) <= DELTA < max(delta_of(spent - 0.04, laplace(eps), pair))
    (together,) = (each for each in combinations(history) if each.counts)
    loss = loss_of(together, DELTA)
    assert loss is not None
    for eps_at in (0.0, 0.3, 0.9):  # where the mixture of losses asks for deltas below zero
        assert max(delta_of(eps_at, laplace(eps), pair)) <= loss.delta(eps_at)


def test_the_precision_of_noise_is_paid_out_of_delta() -> None:
    rough = LaplaceCounts(1.0, 1, 9, 0, 9, 1e-9)
    spent = epsilon([rough], DELTA)
    assert spent > epsilon([counts(1.0)], DELTA)
    exact = exact_loss([], [counts(1.0)])
    assert exact is not None
    assert exact.delta(spent) + 1e-9 * (1 + math.exp(spent)) == pytest.approx(DELTA, rel=1e-3)
    assert epsilon([replace(rough, distance=1e-5)], DELTA) == math.inf
    assert epsilon([replace(rough, distance=1e-5)], DELTA, "rdp") == math.inf


@pytest.mark.parametrize("delta", [1e-40, 1e-20, 1e-13, 1e-9, 1e-5, 1e-2])
def test_every_delta_has_an_upper_bound_that_falls_as_delta_grows(delta: float) -> None:
    """Where what lies beyond 9 sigma is too much of delta, 12 sigma serve; beyond that Renyi DP."""
    history: list[Entry] = [counts(2.6), SharedSteps(2052.0, 2.0e8, 27, 13, 20)]
    spent, more = reckoned(history, delta), reckoned(history, 10 * delta)
    assert more.epsilon <= spent.epsilon < math.inf
    assert spent.epsilon <= epsilon(history, delta, "rdp")
    assert (spent.accountant == "exact") == (delta >= 1e-20)


def test_randomised_response_has_the_renyi_divergence_of_its_two_laws() -> None:
    orders, eps = np.array([1.5, 2.0, 8.0, 64.0]), 0.7
    p, q = laplace(eps)
    inside = np.abs(NOISE) < 60
    for order, found in zip(orders, randomised_response(eps, orders), strict=True):
        by_hand = math.log(float((p[inside] * (p[inside] / q[inside]) ** (order - 1)).sum())) / (order - 1)
        assert found == pytest.approx(by_hand, rel=1e-6)


# --- calibration
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "eps", "steps"), [(1.0, 0.7, 20), (3.0, 2.6, 20), (8.0, 7.2, 40)])
def test_steps_after_laplace_counts_use_the_budget_up_and_need_less_noise_than_renyi_dp_asks_for(
    limit: float, eps: float, steps: int
) -> None:
    spent = [laplace_counts(plan_laplace(eps, 10, 1), 1, (0, 9))]
    once, _ = calibrate_steps(
        spent, sensitivity=2048 + math.sqrt(13), dimension=13, banks=10, colluders=1, steps=steps,
        epsilon_limit=limit, delta=DELTA,
    )  # fmt: skip
    history: list[Entry] = [*spent, replace(once, rounds=steps)]
    assert 0.999 * limit < epsilon(history, DELTA) <= limit < epsilon(history, DELTA, "rdp")


def test_calibrated_laplace_counts_use_up_what_is_left_and_no_less_noise_would_do() -> None:
    asked = {"kinds": 2, "days": (0, 9), "banks": 10, "colluders": 1, "epsilon_limit": 3.0, "delta": DELTA}
    fresh = calibrate_laplace([], **asked)
    assert fresh.epsilon == pytest.approx(1.5, abs=2e-4)
    spent: list[Entry] = [SharedSteps(2052.0, 1e8, 27, 13, 20)]
    later = calibrate_laplace(spent, **asked)
    assert later.epsilon < fresh.epsilon
    assert epsilon([*spent, laplace_counts(later, 2, (0, 9))], DELTA) <= 3.0
    more = plan_laplace(later.epsilon + 2e-4, 10, 1)
    assert epsilon([*spent, laplace_counts(more, 2, (0, 9))], DELTA) > 3.0
    assert calibrate_laplace([], **{**asked, "kinds": 1, "reports": 2}).epsilon == pytest.approx(1.5, abs=2e-4)
    assert calibrate_laplace([], **{**asked, "epsilon_limit": 500.0}).epsilon < 32.1


def test_a_budget_that_no_laplace_noise_keeps_is_refused() -> None:
    with pytest.raises(BudgetExhausted, match="Laplace"):
        calibrate_laplace([], kinds=1, days=(0, 9), banks=3, colluders=1, epsilon_limit=0.001, delta=1e-9)
    with pytest.raises(BudgetExhausted, match="used up"):
        calibrate_laplace([counts(1.0)], kinds=1, days=(0, 9), banks=3, colluders=1, epsilon_limit=1.0, delta=DELTA)
