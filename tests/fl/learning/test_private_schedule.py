"""The public settings of a private run: by epsilon, rows and noise alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import BudgetError
from fl.learning.noisy_or import BOUND
from fl.learning.private_schedule import (
    NOISE_PER_STEP,
    counts_epsilon,
    private_schedule,
)

EPSILONS = st.floats(1e-3, 1000)


@pytest.mark.parametrize(("total", "counts", "steps"), [(1, 0.75, 40), (3, 2.6, 40), (8, 7.2, 40), (100, 90, 40)])
def test_the_split_and_the_steps_are_those_that_were_measured(total: float, counts: float, steps: int) -> None:
    schedule = private_schedule(total)
    assert schedule.counts_epsilon == pytest.approx(counts) and schedule.steps == steps
    assert schedule.max_grad_norm == BOUND


@given(EPSILONS, EPSILONS)
def test_a_larger_epsilon_gives_counts_and_steps_more(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 0 < counts_epsilon(less) <= counts_epsilon(more) < more
    assert less - counts_epsilon(less) <= more - counts_epsilon(more) + 1e-9


def test_the_learning_rate_is_cut_where_noise_would_move_the_weights_too_far() -> None:
    schedule = private_schedule(3.0, prior=0.004)
    assert schedule.learning_rate(0.0, 60_000) == schedule.learning_rate(10.0, 60_000) == pytest.approx(37.5)
    few = schedule.learning_rate(100.0, 6_000)
    assert few * 100.0 / 6_000 == pytest.approx(NOISE_PER_STEP) and few < 37.5


def test_a_higher_guess_of_frauds_takes_smaller_steps() -> None:
    assert private_schedule(3.0, prior=0.04).learning_rate(0.0, 1e5) == pytest.approx(3.75)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf, 1001.0])
def test_an_epsilon_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(BudgetError, match="epsilon: expected"):
        private_schedule(wrong)


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(BudgetError, match="prior: expected"):
        private_schedule(3.0, prior=0.0)
    for sigma, rows in ((-1.0, 10.0), (1.0, 0.0), (math.nan, 10.0)):
        with pytest.raises(BudgetError, match="rows >= 1"):
            private_schedule(3.0).learning_rate(sigma, rows)
