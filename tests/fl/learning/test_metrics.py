from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fl.errors import MetricError
from fl.learning.metrics import at_threshold, card_precision, choose_threshold, measure


def test_figures_a_person_can_work_out_by_hand() -> None:
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    figures = measure(labels, scores, np.zeros(4, int), np.arange(4), threshold=0.75)
    assert figures.average_precision == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert figures.roc_auc == pytest.approx(3 / 4)
    assert (figures.precision, figures.recall, figures.f1) == (0.5, 0.5, 0.5)
    assert (figures.rows, figures.frauds) == (4, 2)
    assert figures.card_precision_at_100 == pytest.approx(0.02)


def test_a_row_at_the_threshold_is_flagged() -> None:
    assert at_threshold(np.array([1.0, 0.0]), np.array([0.5, 0.4]), 0.5) == (1.0, 1.0, 1.0)


def test_flagging_nothing_has_precision_zero_not_a_crash() -> None:
    assert at_threshold(np.array([1.0, 0.0]), np.array([0.5, 0.4]), 0.9) == (0.0, 0.0, 0.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_other_threshold_has_a_higher_f1(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([float(fraud) for fraud, _ in rows])
    scores = np.array([score / 12 for _, score in rows])
    if not 0 < labels.sum() < len(labels):
        with pytest.raises(MetricError):
            choose_threshold(labels, scores)
        return
    chosen = choose_threshold(labels, scores)
    best = max(f1_score(labels, scores >= t) for t in np.unique(scores))
    assert f1_score(labels, scores >= chosen) == pytest.approx(best)
    assert at_threshold(labels, scores, chosen)[2] == pytest.approx(best)


def test_a_card_that_was_found_is_left_out_on_later_days() -> None:
    day = np.array([1, 1, 2, 2])
    customer = np.array([7, 8, 7, 8])
    labels = np.array([1.0, 0.0, 1.0, 1.0])
    scores = np.array([0.9, 0.1, 0.9, 0.1])
    # Day 1, one card checked: 7, a hit. Day 2: 7 is blocked, so 8 is checked, a hit.
    assert card_precision(labels, scores, day, customer, top=1) == 1.0
    # With two checks a day: {7, 8} gives one hit of two; then only 8 is left, one hit of two.
    assert card_precision(labels, scores, day, customer, top=2) == 0.5


def test_a_card_counts_once_a_day_by_its_most_suspicious_row() -> None:
    day = np.zeros(4, int)
    customer = np.array([1, 1, 2, 3])
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    scores = np.array([0.9, 0.2, 0.5, 0.4])
    assert card_precision(labels, scores, day, customer, top=1) == 1.0
    assert card_precision(labels, scores, day, customer, top=2) == 0.5
    assert card_precision(labels, scores, day, customer, top=3) == pytest.approx(2 / 3)


@given(st.integers(0, 2**32), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_card_precision_equals_the_handbook_written_out_slowly(seed: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    n = 40
    day, customer = rng.integers(0, 4, n), rng.integers(0, 9, n)
    labels, scores = (rng.random(n) < 0.3).astype(float), rng.permutation(n) / n
    found: set[int] = set()
    daily = []
    for today in sorted(set(day.tolist())):
        cards: dict[int, tuple[float, bool]] = {}
        for i in np.flatnonzero(day == today):
            card = int(customer[i])
            if card not in found:
                score, fraud = cards.get(card, (-1.0, False))
                cards[card] = (max(score, scores[i]), fraud or labels[i] == 1)
        ranked = sorted(cards, key=lambda card: -cards[card][0])[:top]
        hits = [card for card in ranked if cards[card][1]]
        daily.append(len(hits) / top)
        found.update(hits)
    assert card_precision(labels, scores, day, customer, top=top) == pytest.approx(float(np.mean(daily)))


@pytest.mark.parametrize("labels", [[0.0, 0.0], [1.0, 1.0]])
def test_rows_of_one_kind_only_are_refused(labels: list[float]) -> None:
    with pytest.raises(MetricError, match="of 2 rows are frauds"):
        measure(np.array(labels), np.array([0.1, 0.2]), np.zeros(2, int), np.arange(2), threshold=0.5)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(MetricError, match="diverged"):
        choose_threshold(np.array([0.0, 1.0]), np.array([0.1, np.nan]))
