"""From which score on a row is an alert: by F1, by alerts, by cost, and for one bank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import MetricError, OptionError
from fl.learning.bank_figures import ScoredBank, bank_figures, points_of_all
from fl.learning.metrics import choose_threshold
from fl.learning.thresholds import (
    ENOUGH_FRAUDS,
    ByAlerts,
    ByCost,
    ByF1,
    HeldOut,
    Thresholds,
    per_bank,
    rule_as_json,
    rule_in_words,
    shared_threshold,
)

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=40)


def held(label: list[int], score: list[float], days: float = 1.0) -> HeldOut:
    return HeldOut(np.array(label, float), np.array(score, float), days)


@given(ROWS, st.integers(1, 50), st.sampled_from([0.5, 1.0, 3.0]))
def test_no_lower_threshold_keeps_to_the_alerts_a_day(rows: list[tuple[int, int]], alerts: int, days: float) -> None:
    score = np.array([s / 8 for _, s in rows])
    chosen = ByAlerts(alerts).choose(held([y for y, _ in rows], score.tolist(), days))
    allowed = int(alerts * days)
    assert (score >= chosen).sum() <= allowed
    lower = score[score < chosen]
    assert len(lower) == 0 or (score >= lower.max()).sum() > allowed


@given(ROWS, st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from([0.0, 1.0, 2.0]))
def test_no_other_threshold_costs_less(rows: list[tuple[int, int]], missed: float, alert: float) -> None:
    label, score = np.array([y for y, _ in rows]), np.array([s / 8 for _, s in rows])
    missed, alert = missed or 0.5, alert or 0.1
    chosen = ByCost(missed, alert).choose(held(label.tolist(), score.tolist()))

    def cost(threshold: float) -> float:
        flagged = score >= threshold
        return missed * float(label[~flagged].sum()) + alert * float(flagged.sum())

    assert cost(chosen) == pytest.approx(min(cost(t) for t in [*score, 2.0]))


def test_f1_is_the_rule_of_the_model_file() -> None:
    label, score = [0, 1, 0, 1, 1], [0.1, 0.4, 0.5, 0.6, 0.9]
    assert ByF1().choose(held(label, score)) == choose_threshold(np.array(label, float), np.array(score))


def test_a_bank_has_its_own_threshold_only_from_enough_frauds() -> None:
    many = held([1] * ENOUGH_FRAUDS + [0] * 100, [0.9] * ENOUGH_FRAUDS + [0.1] * 100)
    few = held([1] * (ENOUGH_FRAUDS - 1) + [0] * 100, [0.9] * (ENOUGH_FRAUDS - 1) + [0.1] * 100)
    none = held([], [])
    rows = {"many": many, "few": few, "none": none}
    assert set(per_bank(ByF1(), rows)) == {"many"}
    assert set(per_bank(ByAlerts(5), rows)) == {"many", "few"}  # needs no fraud
    chosen = Thresholds(shared_threshold(ByF1(), rows), per_bank(ByF1(), rows), {})
    assert chosen.of("few") == chosen.shared and chosen.of("many") == 0.9


def test_rows_that_allow_no_threshold_are_refused() -> None:
    for rule in (ByF1(), ByAlerts(3), ByCost(1, 1)):
        with pytest.raises(MetricError):
            rule.choose(held([], []))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(OptionError):
            ByAlerts(wrong)
        with pytest.raises(OptionError):
            ByCost(1.0, wrong)


def test_a_rule_is_told_in_words_from_its_file() -> None:
    assert rule_in_words(rule_as_json(ByAlerts(40))) == "for 40 alerts a day"
    assert rule_in_words(rule_as_json(ByAlerts(40)), days=False) == "for 40 alerts in all"
    assert "120" in rule_in_words(rule_as_json(ByCost(120, 4)))
    assert rule_in_words({"name": "f1", "rows": "validation"}).endswith("validation rows")
    assert "another version" in rule_in_words({"name": "alerts", "alerts": -1})
    assert "another version" in rule_in_words({"name": "luck"})


def bank(name: str, frauds: int, cut: float) -> ScoredBank:
    """Frauds score .9, other rows `cut`."""
    label = np.array([1.0] * frauds + [0.0] * 200)
    score = np.where(label == 1, 0.9, cut)
    ids = np.arange(len(label))
    return ScoredBank(
        name,
        (label, score),
        (label, label[-50:]),
        (score, score[-50:]),
        (np.zeros(len(label), int), np.zeros(50, int)),
        (ids, ids[-50:]),
    )


def test_figures_of_a_bank_stand_at_four_thresholds_and_none_where_there_is_no_fraud() -> None:
    big, small = bank("big", 60, 0.2), bank("small", 3, 0.6)
    figures = {each.name: bank_figures(each, 0.5) for each in (big, small)}
    assert (figures["big"].chosen, figures["small"].chosen) == ("own", "shared")
    first, second = figures["small"].windows
    assert first["at_shared"] == {
        "threshold": 0.5,
        "alerts": 203,
        "precision": 3 / 203,
        "recall": 1.0,
        "f1": pytest.approx(6 / 206),
    }
    assert first["at_own"] == {"threshold": 0.9, "alerts": 3, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert first["at_chosen"] == first["at_shared"] and first["average_precision"] == 1.0
    assert second["average_precision"] is None and second["roc_auc"] is None
    assert second["at_own"] == {"threshold": 0.9, "alerts": 0, "precision": None, "recall": None, "f1": None}
    both = points_of_all((big, small), figures, 0, 0.5)
    assert both["at_own"]["precision"] == 1.0 and both["at_chosen"]["alerts"] == 60 + 203
