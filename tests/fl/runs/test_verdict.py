"""The sentence that tells a bank whether joining was worth it."""

from __future__ import annotations

from typing import Any

import pytest

from fl.runs.verdict import verdict


def figures(*weeks: float) -> dict[str, Any]:
    return {"average_precision": sum(weeks) / len(weeks), "windows": [{"average_precision": week} for week in weeks]}


def result(
    together: dict[str, Any],
    evidence: dict[str, Any] | None = None,
    epsilon: float | None = 3.0,
    noise: str = "shared",
    statistics: Any = "counts",
    **baselines: dict[str, Any],
) -> dict[str, Any]:
    return {
        "metrics": {**together, "own_evidence": evidence},
        "baselines": baselines,
        "privacy": {"epsilon": epsilon, "noise": noise},
        "statistics": statistics,
    }


def test_without_baselines_nobody_knows() -> None:
    gain, sentence = verdict(result(figures(0.5)))
    assert gain is None and "--no-baselines" in sentence


def test_the_better_way_to_stay_alone_is_the_one_to_beat() -> None:
    gain, sentence = verdict(result(figures(0.5, 0.7), alone=figures(0.2, 0.3), alone_filter=figures(0.4, 0.5)))
    assert gain == pytest.approx(0.15)
    assert sentence.startswith("Joining is worth more than staying home: average precision 0.600 together at epsilon 3")
    assert "0.450" in sentence and "+0.100 to +0.200 over 2 test windows" in sentence


def test_own_evidence_counts_where_it_was_measured() -> None:
    gain, sentence = verdict(result(figures(0.3), figures(0.6), alone=figures(0.5)))
    assert gain == pytest.approx(0.1)
    assert "their own evidence as well" in sentence and "one test window" in sentence


@pytest.mark.parametrize(
    ("together", "said"), [(0.505, "Joining brings little"), (0.3, "Joining brings less than staying home")]
)
def test_a_small_gain_or_a_loss_is_said(together: float, said: str) -> None:
    gain, sentence = verdict(result(figures(together), alone=figures(0.5)))
    assert gain == pytest.approx(together - 0.5) and sentence.startswith(said)


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ({"plain_without_privacy": figures(0.7)}, "Try a larger --epsilon, or more banks"),
        ({"plain_without_privacy": figures(0.7), "noise": "own"}, "--noise shared"),
        ({"plain_without_privacy": figures(0.45)}, "Without privacy it would bring no more"),
        ({"statistics": None}, r"[parties] shared"),
        ({}, "little to learn from each other: try"),
    ],
)
def test_the_advice_follows_from_what_was_measured(asked: dict[str, Any], advice: str) -> None:
    assert advice in verdict(result(figures(0.4), alone=figures(0.5), **asked)).sentence


def test_a_run_without_privacy_names_no_epsilon() -> None:
    sentence = verdict(result(figures(0.6), epsilon=None, alone=figures(0.5))).sentence
    assert "together without privacy" in sentence and "epsilon" not in sentence
