"""The public grid gives the centre and spread that a person who sees all rows would choose."""

from __future__ import annotations

import numpy as np
import pytest

from fl.data.log_grid import LEVELS, REACH, Counted, constant_of, counts_of
from fl.errors import StatisticsError

RAW = Counted("x", is_log=False, bound=10.0)
LOG = Counted("x", is_log=True, bound=10.0)


def found(counted: Counted, values: np.ndarray, sigma: float = 0.0, seed: int = 0) -> tuple[float, float]:
    counts = counts_of(counted, values, np.zeros(len(values), np.int64)).astype(float)
    counts += np.random.default_rng(seed).normal(0, sigma, len(counts)) if sigma else 0.0
    constant = constant_of(counted, counts, sigma)
    return constant.center, constant.scale


@pytest.mark.parametrize("size", [1e-5, 1.0, 1e4, 1e12])
def test_the_median_and_the_spread_are_found_at_any_size(size: float) -> None:
    values = size * np.random.default_rng(1).normal(3.0, 0.5, 50_000)
    center, scale = found(RAW, values)
    assert center == pytest.approx(3.0 * size, rel=0.02)
    assert scale == pytest.approx(0.5 * size, rel=0.12)


def test_logarithms_are_counted_as_they_are() -> None:
    center, scale = found(LOG, np.random.default_rng(2).normal(7.6, 0.01, 50_000))
    assert center == pytest.approx(7.6, abs=1 / 64)
    assert scale == pytest.approx(0.01, abs=0.01)


def test_a_few_rows_far_out_move_neither_centre_nor_scale() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, 10_000)
    far = np.concatenate([values, np.full(40, 1e14)])
    assert found(RAW, far) == pytest.approx(found(RAW, values), rel=0.05, abs=0.05)


def test_a_column_that_is_mostly_zero_is_not_cut_off() -> None:
    values = np.where(np.random.default_rng(4).random(20_000) < 0.04, 50.0, 0.0)
    center, scale = found(RAW, values)
    assert (np.abs((values - center) / scale) <= RAW.bound * 1.02).mean() > 0.99


def test_every_value_is_counted_once_at_each_level_wherever_it_lies() -> None:
    values = np.array([-1e300, -1.0, 0.0, 1.0, 1e300, np.nan])
    counts = counts_of(RAW, values, np.zeros(6, np.int64))
    assert len(counts) == RAW.length == 2 * REACH * sum(LEVELS)
    assert counts.sum() == 5 * RAW.moved


def test_noise_of_a_hundred_rows_a_count_hardly_moves_the_constants_of_a_hundred_thousand_rows() -> None:
    values = np.random.default_rng(5).normal(5.0, 2.0, 100_000)
    center, scale = found(LOG, values, sigma=100.0)
    assert center == pytest.approx(5.0, abs=0.15)
    assert scale == pytest.approx(2.0, rel=0.12)


def test_constants_under_noise_alone_are_refused() -> None:
    with pytest.raises(StatisticsError, match="stand out of a noise of 1000 rows"):
        constant_of(RAW, np.zeros(RAW.length), 1000.0)


def test_a_column_without_values_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"column 'x': expected values .* got none; say constants"):
        found(RAW, np.full(3, np.nan))


def test_each_word_has_its_mean_and_the_rest_has_one_too() -> None:
    counted = Counted("x", is_log=True, bound=10.0, words=("a", "b"))
    group = np.repeat([0, 1, 2], 5_000)
    values = np.array([1.0, 4.0, 8.0])[group] + np.random.default_rng(6).normal(0, 0.5, len(group))
    constant = constant_of(counted, counts_of(counted, values, group).astype(float))
    assert constant.means["a"] == pytest.approx(1.0, abs=0.05)
    assert constant.means["b"] == pytest.approx(4.0, abs=0.05)
    assert constant.rest == pytest.approx(8.0, abs=0.05)
    assert constant.center == pytest.approx(0.0, abs=0.1)
    assert constant.scale == pytest.approx(0.5, rel=0.15)
