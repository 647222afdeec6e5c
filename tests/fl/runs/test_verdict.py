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


def joined(alone: dict[str, Any], **banks: tuple[float, float, float] | None) -> dict[str, Any]:
    """Figures of banks alone, with what each bank gains by joining as (gain, low, high)."""
    names = ("gain", "low", "high")
    each = {bank: None if one is None else dict(zip(names, one, strict=True)) for bank, one in banks.items()}
    return {**alone, "gain_of_joining": {"level": 0.95, "low": 0.05, "high": 0.15, "banks": each}}


def test_the_sentence_begins_with_the_banks_to_which_joining_is_worth_it() -> None:
    alone = joined(figures(0.5), north=(0.1, 0.05, 0.2), south=(0.2, 0.1, 0.3), quiet=None)
    sentence = verdict(result(figures(0.6), alone=alone)).sentence
    opening = "Joining is worth it to each of 2 banks at epsilon 3.00: average precision +0.100 in all"
    assert sentence.startswith(opening)
    assert "(95 % interval +0.050 to +0.150; by bank +0.100 to +0.200)" in sentence


def test_banks_that_lose_and_banks_of_which_nobody_can_tell_are_named() -> None:
    alone = joined(figures(0.5), north=(0.1, 0.05, 0.2), south=(-0.2, -0.3, -0.1), west=(0.1, -0.1, 0.2))
    sentence = verdict(result(figures(0.6), epsilon=None, alone=alone)).sentence
    opening = "Joining is worth it to 1 of 3 banks without privacy; west may gain or lose; south loses by it: "
    assert sentence.startswith(opening)


def test_a_gain_that_is_sure_and_too_little_is_not_worth_it() -> None:
    alone = joined(figures(0.5), north=(0.005, 0.002, 0.008))
    sentence = verdict(result(figures(0.505), alone=alone)).sentence
    assert sentence.startswith("Joining is not surely worth it to any bank at epsilon 3.00")
    assert "little to learn from each other: try" in sentence
