"""The suite's statistics, on numbers that a person can work out."""

from __future__ import annotations

import pytest

from benchmarks.statistics import growth, ratio_interval, spread


def test_spread_is_the_median_between_its_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.median, found.lower, found.upper, found.mad, found.count) == (3.0, 2.0, 4.0, 1.0, 5)


def test_one_slow_repetition_hardly_moves_the_median() -> None:
    assert spread([1.0, 1.0, 1.0, 1.0, 100.0]).median == 1.0


@pytest.mark.parametrize(
    ("samples", "unstable"),
    [([1.0, 1.01, 0.99], False), ([1.0, 1.5, 0.6], True), ([1.0, 1.0], True)],
)
def test_a_median_that_is_not_known_to_a_tenth_is_called_unstable(samples: list[float], unstable: bool) -> None:
    assert spread(samples).unstable is unstable


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_growth_finds_the_exponent_of_a_power_law(exponent: float) -> None:
    found = growth([(size, 3e-9 * size**exponent) for size in (10**6, 10**7, 10**8)])
    assert found is not None
    assert found.exponent == pytest.approx(exponent)
    assert found.sizes == (10**6, 10**7, 10**8)


@pytest.mark.parametrize("points", [[(10, 1.0)], [(10, 1.0), (10, 2.0)], [(10, 1.0), (100, 0.0)]])
def test_growth_of_a_single_size_or_of_nothing_is_not_invented(points: list[tuple[int, float]]) -> None:
    assert growth(points) is None


def test_ratio_interval_holds_the_ratio_and_is_the_same_every_time() -> None:
    old, new = [1.0, 1.1, 0.9, 1.05, 0.95], [1.2, 1.3, 1.1, 1.25, 1.15]
    ratio, low, high = ratio_interval(old, new, 0.98)
    assert ratio == pytest.approx(1.2)
    assert low < ratio < high
    assert (ratio, low, high) == ratio_interval(old, new, 0.98)


def test_ratio_interval_never_leaves_the_extremes_of_the_samples() -> None:
    _, low, high = ratio_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 0.98)
    assert 2.0 / 3.0 <= low <= high <= 6.0
