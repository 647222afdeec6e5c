"""The plain average of the updates that a rule keeps, and settings that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from fl import options
from fl.errors import AggregationError, BanksVanished, RuleRefusedRound
from fl.secure.robust import RobustSettings, plain_sum_without, robust_plain_sum
from fl.secure.session import Joined
from secagg.rules import RULES, Rule


def joined(*updates: list[float], vanished: frozenset[str] = frozenset()) -> Joined:
    names = tuple(f"bank {i}" for i in range(len(updates)))
    vectors = tuple(np.array(update, np.float32) for update in updates)
    return Joined(names, vectors, (1,) * len(names), "ab" * 32, vanished=vanished)


SIDES = ([0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5])


def test_every_rule_can_be_asked_for() -> None:
    assert options.RULE.words == RULES


def test_the_average_is_of_those_who_were_kept() -> None:
    result = robust_plain_sum(joined(*SIDES, [9.0, 9.0, 9.0]), clip=100.0, settings=RobustSettings())
    assert result.kept == (0, 1, 2) and result.total_weight == 3
    assert result.average == pytest.approx([1 / 6] * 3)


def test_what_is_judged_is_what_would_be_added() -> None:
    """Clipped to 0.5, the fourth update is (.5, .5, .5): as far from the others as they are from each other."""
    result = robust_plain_sum(joined(*SIDES, [9.0, 9.0, 9.0]), clip=0.5, settings=RobustSettings())
    assert result.kept == (0, 1, 2, 3) and result.clipped == (0, 0, 0, 3)


def test_clipped_coordinates_are_counted_for_those_left_out_as_well() -> None:
    result = robust_plain_sum(joined(*SIDES, [9.0, 9.0, 0.0]), clip=5.0, settings=RobustSettings("norm"))
    assert result.kept == (0, 1, 2) and result.clipped == (0, 0, 0, 2)


def test_a_round_without_a_majority_is_refused_without_a_score() -> None:
    twins = ([0.5, 0.0, 0.0], [0.5, 0.01, 0.0], [0.0, 0.5, 0.0], [0.01, 0.5, 0.0], [0.0, 0.0, 0.5])
    with pytest.raises(RuleRefusedRound, match="expected at least 3 of 5 members to stay, got 1") as refusal:
        robust_plain_sum(joined(*twins), clip=1.0, settings=RobustSettings())
    assert refusal.value.banks == ()


def test_a_bank_that_vanished_is_named_as_without_a_rule() -> None:
    with pytest.raises(BanksVanished):
        robust_plain_sum(joined(*SIDES, vanished=frozenset({"bank 1"})), clip=1.0, settings=RobustSettings())


def test_the_average_without_named_banks_needs_somebody_else() -> None:
    assert plain_sum_without(joined(*SIDES), frozenset({"bank 0"}), clip=1.0).average.tolist() == [0.0, 0.25, 0.25]
    with pytest.raises(AggregationError, match="attackers only"):
        plain_sum_without(joined(*SIDES), frozenset({"bank 0", "bank 1", "bank 2"}), clip=1.0)


@pytest.mark.parametrize("rule", ["nnm", "multikrum", "krum"])
def test_rules_that_count_must_be_told_how_many(rule: str) -> None:
    with pytest.raises(AggregationError, match=rf"robust: {rule} leaves out by count.*\(--byzantine\)"):
        RobustSettings(rule)  # type: ignore[arg-type]
    assert RobustSettings(rule, 2).asked == Rule(rule, 2)  # type: ignore[arg-type]


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(AggregationError, match="robust: rule: expected one of"):
        RobustSettings("median")  # type: ignore[arg-type]
    with pytest.raises(AggregationError, match="robust: byzantine: expected a whole number from 1"):
        RobustSettings("outliers", 0)
