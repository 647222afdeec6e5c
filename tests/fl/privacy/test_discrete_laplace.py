"""Shares of discrete Laplace noise: their law, their sampler, and what neighbours pay, by exact rational numbers."""

from __future__ import annotations

import hashlib
import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fl.errors import BudgetError
from fl.privacy.discrete_laplace import EPSILON, LaplacePlan, _table, cost_with, laplace_share, plan_laplace
from fl.privacy.mechanisms import laplace_counts
from fl.privacy.noise_shares import plan_noise
from fl.privacy.randomness import Entropy

PLANS = st.builds(
    lambda epsilon, banks, part: LaplacePlan(epsilon, banks, 1 + int(part * (banks - 1))),
    st.floats(0.2, 9.0),
    st.integers(2, 20),
    st.floats(0, 1, exclude_max=True),
)


def stream(seed: bytes) -> Entropy:
    """Reproducible bytes, so that a statistical test cannot fail once in a while."""
    counter = itertools.count()
    return lambda count: hashlib.shake_256(seed + next(counter).to_bytes(8, "big")).digest(count)


def drawn_law(plan: LaplacePlan) -> list[Fraction]:
    """The probabilities with which the sampler returns 0, 1, 2, ... for X: exact."""
    table = [*_table(plan.q, plan.honest), 2**128]
    return [Fraction(after - before, 2**128) for before, after in itertools.pairwise([0, *table])]


def convolved(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    out = [Fraction(0)] * (len(a) + len(b) - 1)
    for (i, x), (j, y) in itertools.product(enumerate(a), enumerate(b)):
        out[i + j] += x * y
    return out


def share_law(plan: LaplacePlan) -> list[Fraction]:
    """The probabilities of a drawn share on -m..m: exact."""
    law = drawn_law(plan)
    return convolved(law, law[::-1])


def overlap(here: list[Fraction], epsilon: float) -> float:
    """delta at `epsilon` between a law on the integers and itself moved by one."""
    factor = Fraction(math.exp(epsilon))
    pairs = zip([*here, Fraction(0)], [Fraction(0), *here], strict=True)
    return float(sum(max(p - factor * q, Fraction(0)) for p, q in pairs))


@given(PLANS)
@settings(max_examples=40, deadline=None)
def test_honest_shares_together_are_discrete_laplace(plan: LaplacePlan) -> None:
    law, q = plan.pmf(plan.honest), float(plan.q)
    noise = np.arange(len(law)) - len(law) // 2
    assert np.allclose(law, (1 - q) / (1 + q) * q ** np.abs(noise), rtol=1e-10, atol=0)


@given(PLANS)
@settings(max_examples=40, deadline=None)
def test_the_law_of_a_release_has_the_variance_that_is_stated_and_a_reach(plan: LaplacePlan) -> None:
    law = plan.pmf()
    noise = np.arange(len(law)) - plan.reach
    assert len(law) == 2 * plan.reach + 1 and law.sum() == pytest.approx(1.0, abs=1e-14)
    assert float(law @ noise**2) == pytest.approx(plan.released_variance, rel=1e-9)
    assert plan.released_sigma**2 == pytest.approx(plan.released_variance)


@given(PLANS)
@settings(max_examples=40, deadline=None)
def test_one_bank_alone_draws_in_one_share_what_the_honest_banks_add_together(plan: LaplacePlan) -> None:
    alone = plan.by_one_bank()
    assert alone.honest == 1 and alone.q == plan.q
    np.testing.assert_array_equal(alone.pmf(1), plan.pmf(plan.honest))


@pytest.mark.parametrize("epsilon", [0.7, 2.6, 7.2])
def test_three_shares_as_they_are_drawn_add_up_to_geometric_variables_but_for_the_distance_stated(
    epsilon: float,
) -> None:
    """In exact rational numbers: X of three banks, added up, against (1 - q) q^k."""
    plan = plan_laplace(epsilon, 4, 1)
    one = drawn_law(plan)
    together = convolved(convolved(one, one), one)
    geometric = [(1 - plan.q) * plan.q**k for k in range(len(together))]
    beyond = plan.q ** len(together)
    distance = (sum(abs(p - g) for p, g in zip(together, geometric, strict=True)) + beyond) / 2
    assert 0 < distance <= 3 * Fraction(plan.distance) / 2  # `distance` speaks of X - X', of two
    assert plan.distance < 2.0**-110


def test_drawn_shares_follow_the_law_of_a_share() -> None:
    plan = plan_laplace(0.7, 4, 1)
    law = plan.pmf(1)
    samples = laplace_share(20_000, plan, entropy=stream(b"shares"))
    middle = law[len(law) // 2 - 3 : len(law) // 2 + 4].copy()
    middle[[0, -1]] += law[: len(law) // 2 - 3].sum()
    seen = np.bincount(np.clip(samples, -3, 3) + 3, minlength=7)
    assert samples.dtype == np.int64 and chisquare(seen, middle / middle.sum() * len(samples)).pvalue > 1e-4


def test_lower_bits_decide_where_the_upper_ones_are_those_of_an_entry() -> None:
    plan = plan_laplace(1.0, 3, 1)
    entry = _table(plan.q, 2)[0]  # below it X is 0, from it on at least 1
    upper, lower = divmod(entry, 2**64)

    def given_words(*words: int) -> Entropy:
        left = iter(words)
        return lambda count: b"".join(next(left).to_bytes(8, "little") for _ in range(count // 8))

    other = 0  # the second draw, X', is 0
    for below, expected in ((lower - 1, 0), (lower, 1)):
        assert laplace_share(1, plan, entropy=given_words(upper, below, other)).tolist() == [expected]
    assert laplace_share(1, plan, entropy=given_words(upper - 1, other)).tolist() == [0]
    assert laplace_share(1, plan, entropy=given_words(other, upper + 1)).tolist() == [-1]


def test_without_a_stream_no_two_draws_agree() -> None:
    plan = plan_laplace(0.1, 2, 1)
    first, second = (laplace_share(100, plan) for _ in range(2))
    assert (first != second).any()


# --- what an event pays
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.7, 2.6, 7.2])
def test_an_event_among_three_banks_pays_epsilon_and_more_when_a_bank_is_missing(epsilon: float) -> None:
    """The third bank observes and knows its own share; what it cannot know are the shares of the other two.

    Exact rational numbers, from the sampler's own table, for counts that differ by one.
    """
    plan = plan_laplace(epsilon, 3, 1)
    share = share_law(plan)
    entry = laplace_counts(plan, 1, (0, 0))
    for present, law in ((2, convolved(share, share)), (1, share)):
        cost = cost_with(plan, present)
        assert overlap(law, cost) <= (1 + math.exp(cost)) * entry.distance
        assert overlap(law, 0.9 * cost) > 1e-6  # and less would not do
    assert cost_with(plan, 1) == pytest.approx(epsilon + math.log(2))


@given(PLANS, st.data())
@settings(max_examples=40, deadline=None)
def test_with_k_honest_shares_no_probability_changes_by_more_than_is_charged(
    plan: LaplacePlan, data: st.DataObject
) -> None:
    present = data.draw(st.integers(1, plan.banks))
    law = plan.pmf(present)
    steepest = float(np.abs(np.diff(np.log(law))).max())
    assert steepest <= cost_with(plan, present) + 1e-9
    if present < plan.honest:
        assert cost_with(plan, present) == pytest.approx(plan.epsilon + math.log(plan.honest / present))


def test_without_an_honest_share_there_is_no_price() -> None:
    with pytest.raises(BudgetError, match="honest share"):
        cost_with(plan_laplace(1.0, 3, 1), 0)
    with pytest.raises(BudgetError, match="at least one share"):
        plan_laplace(1.0, 3, 1).pmf(0)


@given(st.floats(EPSILON.low, EPSILON.high))
@settings(max_examples=60, deadline=None)
def test_the_ratio_of_neighbouring_probabilities_never_promises_more_than_epsilon(epsilon: float) -> None:
    q = plan_laplace(epsilon, 2, 1).q
    with localcontext() as context:
        context.prec = 60
        exact = (-Decimal(epsilon)).exp()
        rational = Decimal(q.numerator) / Decimal(q.denominator)
    assert exact <= rational <= exact * (1 + Decimal(2) ** -48)


@given(PLANS, st.integers(1, 10**7))
@settings(max_examples=40, deadline=None)
def test_shares_leave_their_lane_with_the_probability_that_is_stated(plan: LaplacePlan, draws: int) -> None:
    # All honest shares together reach at least as far as one: 2 q^(T + 1) / (1 + q) lies beyond T.
    bound, q = plan.tail(draws), plan.q
    assert draws * 2 * q ** (bound + 1) / (1 + q) <= Fraction(1, 2**100)
    assert plan.epsilon * bound < 100 * math.log(2) + math.log(4 * draws / (1 - float(q))) + 2 * plan.epsilon


def test_what_a_ledger_is_told_charges_kinds_reports_and_precision() -> None:
    plan = plan_laplace(0.7, 10, 1)
    entry = laplace_counts(plan, 2, (3, 9), reports=2)
    assert (entry.epsilon, entry.moved, entry.shares) == (1.4, 2, 9)
    assert (entry.first_day, entry.last_day) == (3, 9)
    assert entry.distance == 2 * 9 * plan.distance + 2.0**-100
    with pytest.raises(BudgetError, match="before it begins"):
        laplace_counts(plan, 1, (9, 3))


@pytest.mark.parametrize("epsilon", [0.0, 0.001, -1.0, 40.0, math.nan])
def test_an_epsilon_that_cannot_be_drawn_is_refused(epsilon: float) -> None:
    with pytest.raises(BudgetError, match="epsilon"):
        plan_laplace(epsilon, 3, 1)


@pytest.mark.parametrize("colluders", [0, 10, 11])
def test_impossible_coalitions_are_refused(colluders: int) -> None:
    with pytest.raises(BudgetError, match="colluders"):
        plan_laplace(1.0, 10, colluders)


def test_gaussian_and_laplace_noise_describe_themselves_alike() -> None:
    """What filters a release asks for the law on a grid, the units to an event, and the bound of a lane."""
    for plan in (plan_laplace(0.7, 10, 1), plan_noise(3.0, 10, 1)):
        law = plan.pmf()
        noise = (np.arange(len(law)) - plan.reach) / plan.resolution
        assert math.sqrt(float(law @ noise**2)) == pytest.approx(plan.released_sigma, rel=1e-9)
        assert plan.tail(10**6) > plan.tail(1) > 0
