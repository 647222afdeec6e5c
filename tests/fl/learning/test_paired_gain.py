"""What one model gains over another at each bank, with an interval from draws of customers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from fl.learning.bank_figures import ScoredBank
from fl.learning.paired_gain import _Ranked, paired_gain


def bank(name: str, seed: int, sharpness: float, frauds: float = 0.2) -> ScoredBank:
    """Two windows of 300 rows of 60 customers, of a fixed draw; sharper scores tell frauds better."""
    rng = np.random.default_rng(seed)
    label = tuple((rng.random(300) < frauds).astype(float) for _ in range(2))
    noise = [rng.random(300) for _ in range(2)]
    score = tuple((sharpness * y + z) / (1 + sharpness) for y, z in zip(label, noise, strict=True))
    customer = tuple(rng.integers(0, 60, 300) for _ in range(2))
    day = (np.zeros(300, int), np.ones(300, int))
    return ScoredBank(name, (label[0], score[0]), label, score, day, customer)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=30))
def test_weighted_average_precision_is_that_of_repeated_rows(rows: list[tuple[bool, int, int]]) -> None:
    label, score, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), weight.astype(int))
    ranked = _Ranked(label, score)
    found = ranked.average_precision(weight[ranked.order])
    if not label[repeated].sum():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(average_precision_score(label[repeated], score[repeated]))


def test_a_model_gains_nothing_over_itself() -> None:
    banks = [bank("a", 1, 1.0), bank("b", 2, 0.5)]
    found = paired_gain(banks, banks)
    assert (found.all_banks.gain, found.all_banks.low, found.all_banks.high) == (0.0, 0.0, 0.0)


def test_a_sharper_model_surely_gains_and_the_interval_holds_the_gain() -> None:
    ours, theirs = [bank("a", 1, 2.0), bank("b", 2, 0.5)], [bank("a", 1, 0.2), bank("b", 2, 0.5)]
    found = paired_gain(ours, theirs)
    gain = found.banks["a"]
    assert gain is not None and 0.0 < gain.low < gain.gain < gain.high
    assert found.banks["b"] is not None and found.banks["b"].gain == 0.0
    assert paired_gain(ours, theirs) == found  # the same draws
    back = paired_gain(theirs, ours).banks["a"]
    assert back is not None and back.gain == pytest.approx(-gain.gain) and back.high < 0.0


def test_the_gain_of_all_banks_is_the_mean_over_windows() -> None:
    ours, theirs = [bank("a", 1, 2.0), bank("b", 2, 0.5)], [bank("a", 1, 0.2), bank("b", 2, 0.1)]

    def of(banks: list[ScoredBank], window: int) -> float:
        label = np.concatenate([each.label[window] for each in banks])
        return float(average_precision_score(label, np.concatenate([each.score[window] for each in banks])))

    expected = np.mean([of(ours, w) - of(theirs, w) for w in range(2)])
    assert paired_gain(ours, theirs).all_banks.gain == pytest.approx(expected)


def test_a_bank_without_frauds_has_no_gain() -> None:
    quiet = replace(bank("b", 2, 0.5), label=(np.zeros(300), np.zeros(300)))
    found = paired_gain([bank("a", 1, 1.0), quiet], [bank("a", 1, 0.5), quiet])
    assert found.banks["b"] is None and found.as_json()["banks"]["b"] is None
