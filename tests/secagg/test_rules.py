"""Robust rules on Gram matrices that a person can work out by hand: most updates here are points of a line or plane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import GramMalformed, PlanError, RuleNeedsMoreClients, RuleUnknown
from secagg.rules import RULES, Rule, Verdict, second_look, select, squared_distances


def gram_of(*updates: object) -> np.ndarray:
    points = np.array(updates, dtype=np.float64)
    points = points[:, None] if points.ndim == 1 else points
    return points @ points.T


def rule(name: str, slack: float = 1.0) -> Rule:
    return Rule(name, 1 if name in ("nnm", "multikrum", "krum") else None, slack)  # type: ignore[arg-type]


def test_distances_follow_from_inner_products() -> None:
    assert squared_distances(gram_of((3.0, 0.0), (0.0, 4.0))).tolist() == [[0.0, 25.0], [25.0, 0.0]]


# --- krum, multikrum ------------------------------------------------------------------------------------------------


def test_krum_keeps_the_point_whose_nearest_others_are_nearest() -> None:
    """n = 5, f = 1: n - f - 2 = 2 nearest others. Of 0, 1, 3, 4, 20 the scores are 10, 5, 5, 10, 545: the first 5."""
    assert select(gram_of(0, 1, 3, 4, 20), Rule("krum", 1)) == Verdict((1,))


def test_multikrum_leaves_out_the_f_largest_scores() -> None:
    assert select(gram_of(0, 1, 3, 4, 20), Rule("multikrum", 1)).kept == (0, 1, 2, 3)


def test_clones_fool_multikrum_and_the_member_left_out_is_honest() -> None:
    """n = 7, f = 2, three nearest others. Two attackers at 4 count each other as the nearest.

    Scores of 0 to 3: 1 + 4 + 9 = 14, 1 + 1 + 4 = 6, 1 + 1 + 4 = 6, 1 + 1 + 1 = 3. Of 20: 16^2 + ... Of the clones:
    0 + 1 + 4 = 5. So 0 goes with 20, and the clones stay.
    """
    kept = select(gram_of(0, 1, 2, 3, 20, 4, 4), Rule("multikrum", 2)).kept
    assert kept == (1, 2, 3, 5, 6)


# --- nearest-neighbour mixing ---------------------------------------------------------------------------------------


def test_nnm_keeps_the_neighbourhood_of_the_mixture_that_krum_selects() -> None:
    """n = 4, f = 1. Mixtures of 3: of 0, 1, 2 it is 1; of 30 it is (30 + 2 + 1) / 3 = 11. Krum selects the first 1."""
    assert select(gram_of(0, 1, 2, 30), Rule("nnm", 1)) == Verdict((0, 1, 2))


def test_nnm_is_not_fooled_by_the_clones_of_krum() -> None:
    """n = 5, f = 2, 3 nearest. Clones at 12: 12, 12, 8 mix to 32/3; 0, 4, 8 mix to 4 from 0 and from 4, 8 is between.

    Mixtures: 4, 4, (8 + 4 + 12) / 3 = 8, 32/3, 32/3. Krum's sums of the three nearest squares, itself included: 16, 16,
    0 + (8/3)^2 * 2 = 14.2, 7.1, 7.1: the clones. Moved out to 24 they lose: 4, 4, 4, 56/3, 56/3.
    """
    assert select(gram_of(0, 4, 8, 12, 12), Rule("nnm", 2)).kept == (2, 3, 4)
    assert select(gram_of(0, 4, 8, 24, 24), Rule("nnm", 2)).kept == (0, 1, 2)


# --- outliers -------------------------------------------------------------------------------------------------------

SPREAD = ((10.0, 1.0, 0.0), (10.0, -1.0, 0.0), (10.0, 0.0, 1.0), (10.0, 0.0, -1.0))  # distances sqrt(2) and 2


def test_outliers_keeps_all_who_are_equally_far_from_each_other() -> None:
    assert select(gram_of(*SPREAD), Rule()) == Verdict((0, 1, 2, 3))


@pytest.mark.parametrize(("distance", "slack", "stays"), [(3.5, 1.0, True), (3.6, 1.0, False), (3.6, 1.2, True)])
def test_outliers_leaves_out_who_is_more_than_two_and_a_half_medians_away(distance, slack, stays) -> None:
    """Orthogonal unit vectors are sqrt(2) apart, and 2.5 times that is 3.536. The fifth is sqrt(1 + h^2) from each."""
    far = np.array([0.0, 0.0, 0.0, 0.0, np.sqrt(distance**2 - 1)])
    verdict = select(gram_of(*np.eye(5)[:4], far), Rule(slack=slack))
    assert verdict.kept == ((0, 1, 2, 3, 4) if stays else (0, 1, 2, 3))


@pytest.mark.parametrize(("cosine", "stays"), [(-0.19, True), (-0.21, False)])
def test_outliers_leaves_out_who_points_against_the_core(cosine: float, stays: bool) -> None:
    """The first four are 2 sqrt(2) apart, so the core is the first three. The fifth is little farther from them."""
    close = np.hstack([np.ones((4, 1)), 2.0 * np.eye(4), np.zeros((4, 1))])
    total = close[:3].sum(axis=0)
    aside = np.eye(6)[5]
    opposed = 2.0 * (cosine * total / np.linalg.norm(total) + np.sqrt(1.0 - cosine**2) * aside)
    verdict = select(gram_of(*close, opposed), Rule())
    assert verdict.kept == ((0, 1, 2, 3, 4) if stays else (0, 1, 2, 3))


@pytest.mark.parametrize(("gap", "kept"), [(0.8, (0, 1, 2, 3, 4)), (0.6, (0, 1, 2))])
def test_outliers_leaves_out_near_copies_and_does_not_ask_which_was_first(gap: float, kept: tuple) -> None:
    """Others are sqrt(2) apart: half of that is .707. Both copies go, because nothing tells them apart."""
    turn = 2 * np.arcsin(gap / 2)
    copy = np.array([0.0, 0.0, 0.0, np.cos(turn), np.sin(turn)])
    same = np.full((5, 1), 3.0)  # makes them long, and changes no distance
    assert select(gram_of(*np.hstack([same, np.vstack([np.eye(5)[:4], copy])])), Rule()).kept == kept


def test_two_short_updates_are_no_copies_of_each_other_because_they_are_short() -> None:
    """Banks with few rows: .1 long and at right angles, .14 apart, where the others are 1.4 apart."""
    short = 0.1 * np.eye(6)[4:]
    assert select(gram_of(*np.eye(6)[:4], *short), Rule()).kept == (0, 1, 2, 3, 4, 5)
    assert select(gram_of(*np.eye(6)[:4], short[0], 1.1 * short[0]), Rule()).kept == (0, 1, 2, 3)


def test_outliers_keeps_everyone_when_all_updates_are_zero() -> None:
    assert select(np.zeros((4, 4)), Rule()).kept == (0, 1, 2, 3)


def test_outliers_refuses_a_round_without_a_majority() -> None:
    """Two pairs of near copies and one member: one of five stays."""
    pairs = ((1.0, 0.0, 0.0), (1.01, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.01, 0.0), (0.0, 0.0, 1.0))
    verdict = select(gram_of(*pairs), Rule())
    assert verdict == Verdict((), "outliers: expected at least 3 of 5 members to stay, got 1")


@given(n=st.integers(3, 20), data=st.data())
def test_a_minority_however_far_away_is_left_out_by_outliers_and_nnm(n: int, data: st.DataObject) -> None:
    """The bound of the lower median: f attackers among 2 f + 1 members. No update is close to another."""
    f = data.draw(st.integers(1, (n - 1) // 2))
    distance = data.draw(st.floats(100.0, 1e6))
    where = data.draw(st.permutations(range(n)))[:f]
    updates = np.eye(2 * n)[:n].copy()
    for number, member in enumerate(where):
        updates[member] = 0.0
        updates[member, n + number * data.draw(st.integers(0, 1))] = distance
    honest = tuple(sorted(set(range(n)) - set(where)))
    assert select(gram_of(*updates), Rule("outliers")).kept == honest
    assert select(gram_of(*updates), Rule("nnm", f)).kept == honest


# --- norm -----------------------------------------------------------------------------------------------------------


def test_norm_leaves_out_who_is_longer_than_two_and_a_half_medians_whatever_the_direction() -> None:
    assert select(gram_of(2.0, -2.0, 2.0, 5.0, -5.1), Rule("norm")).kept == (0, 1, 2, 3)


# --- every rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@given(n=st.integers(5, 12), seed=st.integers(0, 2**32), scale=st.sampled_from([1e-12, 1.0, 2.0**40]))
def test_a_verdict_depends_neither_on_the_unit_nor_on_the_order_of_members(name, n, seed, scale) -> None:
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(n, 6)) + 1.0
    order = rng.permutation(n)
    kept = select(gram_of(*updates), rule(name)).kept
    assert select(gram_of(*updates) * scale**2, rule(name)).kept == kept
    shuffled = select(gram_of(*updates[order]), rule(name)).kept
    assert sorted(order[list(shuffled)].tolist()) == list(kept)


@pytest.mark.parametrize("name", RULES)
def test_each_rule_says_by_name_how_many_members_it_needs(name: str) -> None:
    needed = {"outliers": 3, "nnm": 3, "norm": 3, "krum": 5, "multikrum": 5}[name]
    assert rule(name).smallest == needed
    rng = np.random.default_rng(0)
    select(gram_of(*rng.normal(size=(needed, 9))), rule(name))
    with pytest.raises(RuleNeedsMoreClients, match=rf"^{name} against 1 attacker: expected at least {needed} members"):
        select(gram_of(*rng.normal(size=(needed - 1, 9))), rule(name))


def test_more_attackers_need_more_members() -> None:
    assert [Rule("outliers", f).smallest for f in (1, 2, 4)] == [3, 5, 9]
    assert [Rule("krum", f).smallest for f in (1, 2, 4)] == [5, 7, 11]
    with pytest.raises(PlanError, match="nnm against 5 attackers: expected at least 11 members of a round, got 10"):
        Rule("nnm", 5).require_enough(10)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("median",), "expected one of outliers, nnm, multikrum, krum, norm, got 'median'"),
        (("nnm",), "nnm: expected the number of attackers"),
        (("outliers", 0), "byzantine: expected a whole number from 1, got 0"),
        (("krum", True), "byzantine: expected a whole number from 1, got True"),
        (("norm", 1, 0.9), "slack: expected a number from 1, got 0.9"),
        (("norm", 1, float("nan")), "slack: expected a number from 1, got nan"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(asked: tuple, said: str) -> None:
    with pytest.raises(RuleUnknown, match=said):
        Rule(*asked)


@pytest.mark.parametrize(
    "gram",
    [np.zeros((3, 2)), np.zeros(9), np.full((3, 3), np.nan), np.arange(9.0).reshape(3, 3), np.zeros((0, 0))],
    ids=["not square", "not a matrix", "nan", "not symmetric", "empty"],
)
def test_what_is_no_gram_matrix_is_refused(gram: np.ndarray) -> None:
    with pytest.raises(GramMalformed):
        select(gram, Rule())


# --- the second look ------------------------------------------------------------------------------------------------

WIDTH = 4096


@pytest.mark.parametrize("name", RULES)
def test_the_same_distances_pass_a_second_look(name: str) -> None:
    gram = gram_of(*np.eye(6))
    assert second_look(gram, gram, rule(name), width=WIDTH).kept == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("members", [2, 3, 5, 6])
def test_a_member_who_hid_something_from_the_first_sketch_is_named(name: str, members: int) -> None:
    """The honest are not blamed for their distance to it, as long as they are the majority."""
    before, after = np.eye(9)[:members], np.eye(9)[:members].copy()
    after[-1, 8] = 1.0  # |difference|^2 is 2 before and 3 after: 1.22 times the distance
    verdict = second_look(gram_of(*before), gram_of(*after), rule(name), width=WIDTH)
    assert verdict.kept == (tuple(range(members - 1)) if members > 2 else ())


def test_a_narrow_sketch_is_given_the_deviations_that_it_has() -> None:
    """At d = 256 the ratio of two estimates scatters by 1/16: 1.22 is no surprise, 1.6 is."""
    before, after = np.eye(9)[:5], np.eye(9)[:5].copy()
    after[-1, 8] = 1.0
    assert len(second_look(gram_of(*before), gram_of(*after), Rule("nnm", 1), width=256).kept) == 5
    after[-1, 8] = 2.0  # 3 / 2 squared: 1.73 times the distance
    assert second_look(gram_of(*before), gram_of(*after), Rule("nnm", 1), width=256).kept == (0, 1, 2, 3)


def test_count_sketches_of_honest_updates_pass_the_second_look() -> None:
    """A fixed draw: 40 rounds of 10 members, 200 sketches of each width in both places."""
    rng = np.random.default_rng(1)
    for width in (256, 1024, 4096):
        for _ in range(40):
            updates = rng.normal(size=(10, 12_000)) * rng.uniform(0.5, 2.0, size=(10, 1))
            grams = []
            for _ in range(2):
                slots, signs = rng.integers(0, width, 12_000), rng.choice((-1.0, 1.0), 12_000)
                sketches = np.stack([np.bincount(slots, signs * row, width) for row in updates])
                grams.append(sketches @ sketches.T)
            assert len(second_look(*grams, Rule("nnm", 3), width=width).kept) == 10


def test_matrices_of_different_members_are_refused() -> None:
    with pytest.raises(GramMalformed, match="one shape"):
        second_look(np.eye(3), np.eye(4), Rule(), width=WIDTH)
