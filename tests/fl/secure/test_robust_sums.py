"""The plain average of the updates that a rule keeps, and settings that cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fl import options
from fl.errors import AggregationError, BanksVanished, RuleRefusedRound
from fl.secure.robust import RobustSettings, plain_sum_without, robust_plain_sum
from fl.secure.session import InProcessRounds, Joined
from secagg.errors import LateOutlier
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


# --- encrypted ------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d", "e")


def rosters_of_five(length: int, seed: int = 0) -> Joined:
    """Four honest updates with a direction in common, and one that points the other way and is longer."""
    rng = np.random.default_rng(seed)
    common = rng.normal(scale=0.02, size=length)
    updates = [(common + rng.normal(scale=0.02, size=length)).astype(np.float32) for _ in NAMES]
    updates[3] = np.asarray(-10.0 * common, np.float32)
    return Joined(NAMES, tuple(updates), (1,) * 5, "ab" * 32)


@pytest.mark.parametrize("length", [300, 6_000])
@pytest.mark.parametrize("settings", [RobustSettings(), RobustSettings("nnm", 1)], ids=["outliers", "nnm"])
def test_an_encrypted_round_keeps_whom_the_plain_one_keeps(length: int, settings: RobustSettings) -> None:
    """300 values are their own sketch; 6,000 are shown by count sketches, twice."""
    joined_by_all = rosters_of_five(length)
    plain = robust_plain_sum(joined_by_all, clip=1.0, settings=settings)
    secure = InProcessRounds(NAMES, clip=1.0, quorum=3, rule=settings.asked)
    result = secure.average(joined_by_all, 16)
    assert result.kept == plain.kept == (0, 1, 2, 4) and result.total_weight == 4
    assert np.abs(result.average - plain.average).max() <= result.error_bound
    assert len(result.clipped) == 5


def test_a_bank_left_out_of_one_round_can_be_in_the_next() -> None:
    secure = InProcessRounds(NAMES, clip=1.0, quorum=3, rule=Rule(), model_repeats=None)
    first = secure.average(rosters_of_five(300), 16)
    honest = rosters_of_five(300, seed=1)
    updates = list(honest.updates)
    updates[3] = np.asarray(updates[0] + np.random.default_rng(2).normal(scale=0.02, size=300), np.float32)
    second = secure.average(replace(honest, updates=tuple(updates), model_hash="cd" * 32), 16)
    assert (first.kept, second.kept) == ((0, 1, 2, 4), (0, 1, 2, 3, 4))


def test_an_encrypted_round_that_the_rule_refuses_is_no_average_and_names_nobody() -> None:
    twins = ([0.5, 0.0, 0.0], [0.5, 0.01, 0.0], [0.0, 0.5, 0.0], [0.01, 0.5, 0.0], [0.0, 0.0, 0.5])
    secure = InProcessRounds(NAMES, clip=1.0, quorum=3, rule=Rule())
    with pytest.raises(RuleRefusedRound, match="expected at least 3 of 5 members to stay, got 1") as refusal:
        secure.average(replace(joined(*twins), banks=NAMES), 16)
    assert refusal.value.banks == ()


def test_a_member_that_the_second_look_finds_out_is_named_as_the_run_knows_it(monkeypatch) -> None:
    def found_out(*_: object) -> None:
        raise LateOutlier(("bank 3",))

    monkeypatch.setattr("fl.secure.session.play", found_out)
    secure = InProcessRounds(NAMES, clip=1.0, quorum=3, rule=Rule())
    with pytest.raises(RuleRefusedRound, match="d: found out by the second look") as refusal:
        secure.average(rosters_of_five(30), 16)
    assert refusal.value.banks == ("d",)


def test_what_a_rule_cannot_be_asked_about_is_refused() -> None:
    with pytest.raises(AggregationError, match="sealed in chunks of 20"):
        InProcessRounds(NAMES, clip=1.0, quorum=3, rule=Rule(), chunk=20)
    secure = InProcessRounds(NAMES, clip=1.0, quorum=3, rule=Rule())
    for change in ({"vanished": frozenset("a")}, {"reuse": True}, {"weights": (1, 1, 1, 1, 2)}):
        with pytest.raises(AggregationError, match="equal weight that are shown once"):
            secure.average(replace(rosters_of_five(30), **change), 16)
