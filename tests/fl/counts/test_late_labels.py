"""Own evidence where labels come late: each is used from the day after it came, and its row is genuine until then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.counts.entity_risk import EntityRisk
from fl.counts.episodes import Episodes, LateFrauds, OwnEvidence, compromised
from fl.counts.evidence import own_evidence
from fl.counts.key_slots import AllSlots, KeySlots
from fl.counts.plan import Totals, bank_counts, fraud_blocks_plan
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema_file import parse_schema
from fl.errors import StatisticsError

FIRST, DAYS, DELAY, TERMINALS = 19_723, 40, 7, 6  # from 2024-01-01 on
START = pd.Timestamp("2024-01-01")
SCHEMA = parse_schema(
    f"""
name = "late"
[label]
column = "FRAUD"
delay_days = {DELAY}
known = "LABELLED"
[time]
column = "TIME"
[parties]
terminal = "TERMINAL"
shared = ["terminal"]
""",
    "late.toml",
)
SLOTS = AllSlots((KeySlots(tuple(f"T{i}" for i in range(TERMINALS)), 1, bytes(32)),))
EPISODES = Episodes(0.02, 14.0, 6.0, 0.7, 0.01, 2.0, True, 100.0)


def rows(seed: int, number: int = 150) -> pd.DataFrame:
    """Frauds are labelled 0 to 14 days after their day: half of them after the label delay."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, DAYS, number))
    return pd.DataFrame(
        {
            "DAY": day,
            "TIME": START + pd.to_timedelta(day, unit="D"),
            "TERMINAL": [f"T{i}" for i in rng.integers(0, TERMINALS, number)],
            "FRAUD": (rng.random(number) < 0.3).astype(int),
            "KNOWN": day + rng.integers(0, 15, number),
        }
    )


def table(frame: pd.DataFrame) -> Transactions:
    labelled = frame.assign(LABELLED=START + pd.to_timedelta(frame.KNOWN, unit="D"))
    return transactions_from_frame(labelled, SCHEMA, "made up", needs_fraud=False)


def feature(
    own: pd.DataFrame, others: pd.DataFrame | None, block: int, days: list[int], others_share: float = 0.5
) -> np.ndarray:
    """Of days counted from the first; `others` None: the release is of these rows alone."""
    plan = fraud_blocks_plan([FIRST + DAYS + 14], FIRST, DELAY, block, [("terminal", TERMINALS + 1)], None)
    held = [table(frame) for frame in (own, others) if frame is not None]
    totals = Totals(plan, np.sum([bank_counts(each, SLOTS, plan) for each in held], axis=0))
    mine = own_evidence(held[0], SLOTS, "terminal", plan.periods)
    asked = [FIRST + day for day in days]
    return compromised(totals.blocks("terminal"), EPISODES, asked, DELAY, others_share=others_share, own=mine)


@settings(max_examples=25)
@given(
    day=st.integers(10, 45),
    block=st.sampled_from([1, 2, 3, 7]),
    later=st.sampled_from([[], [52]]),
    seed=st.integers(0, 2**32 - 1),
)
def test_nothing_looks_ahead_at_a_label_that_has_not_come_yet(
    day: int, block: int, later: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    before, others = rows(seed), rows(seed + 1)
    after, unknown = before.copy(), ~(before.FRAUD.eq(1) & before.KNOWN.lt(day))
    after.loc[unknown, "FRAUD"] = rng.integers(0, 2, int(unknown.sum()))
    after.loc[unknown, "KNOWN"] = np.maximum(after.DAY[unknown], day) + rng.integers(0, 15, int(unknown.sum()))
    old, new = (feature(each, others, block, [day, *later])[0] for each in (before, after))
    np.testing.assert_allclose(new, old, rtol=1e-9)


@pytest.mark.parametrize("block", [1, 7])
@pytest.mark.parametrize("late", [DELAY + 1, DELAY + 3, DELAY + 10])
def test_a_late_label_counts_from_the_day_after_it_came_and_is_a_genuine_row_until_then(block: int, late: int) -> None:
    genuine = rows(3).assign(FRAUD=0)
    genuine.loc[60, ["FRAUD", "KNOWN"]] = [1, genuine.DAY[60] + late]
    others = rows(4)
    days = list(range(int(genuine.DAY[60]), DAYS))
    slot = int(genuine.TERMINAL[60][1:])
    without, given_ = (feature(each, others, block, days) for each in (genuine.assign(FRAUD=0), genuine))
    differs = np.abs(given_ - without) > 1e-6
    assert days[int(np.argmax(differs[:, slot]))] == genuine.KNOWN[60] + 1
    assert not np.delete(differs, slot, axis=1).any()


@pytest.mark.parametrize("block", [1, 3, 7])
def test_days_asked_for_together_are_those_asked_for_one_by_one(block: int) -> None:
    own, others = rows(5), rows(6)
    days = list(range(5, 50, 4))
    together = feature(own, others, block, days)
    for day, row in zip(days, together, strict=True):
        np.testing.assert_allclose(row, feature(own, others, block, [day])[0], rtol=1e-9)


@pytest.mark.parametrize("block", [1, 3, 7])
def test_late_frauds_that_a_block_counted_are_taken_out_of_its_sum(block: int) -> None:
    """Where no other bank adds anything, the release says nothing beside the bank's own rows."""
    own = rows(7)
    assert (own.FRAUD.eq(1) & own.KNOWN.gt(own.DAY + DELAY)).sum() > 10
    both = feature(own, None, block, [30, 40], others_share=0.0)
    mine = own_evidence(table(own), SLOTS, "terminal")
    alone = compromised(None, EPISODES, [FIRST + 30, FIRST + 40], DELAY, own=mine)
    np.testing.assert_allclose(both, alone, rtol=1e-9)


def test_the_constants_of_own_rows_are_fitted_to_the_labels_of_that_day() -> None:
    """A late fraud is fitted from the day after its label came."""
    own = rows(8, 600)
    late = own.FRAUD.eq(1) & own.KNOWN.gt(own.DAY + DELAY)
    today = 30
    never, by_then = own.copy(), own.copy()
    never.loc[late, "FRAUD"] = 0
    by_then.loc[late & own.KNOWN.ge(today), "FRAUD"] = 0

    def gain(frame: pd.DataFrame) -> float:
        evidence = {"terminal": own_evidence(table(frame), SLOTS, "terminal")}
        return EntityRisk.alone(evidence, SLOTS, DELAY, FIRST + today).episodes["terminal"].gain

    assert gain(own) == pytest.approx(gain(by_then), rel=1e-9)
    assert gain(own) != pytest.approx(gain(never), rel=1e-9)


def test_evidence_that_contradicts_itself_is_refused() -> None:
    own = OwnEvidence(np.zeros((2, 3), int), np.ones((2, 3), int), 5)
    with pytest.raises(StatisticsError, match="counted frauds of shape"):
        replace(own, counted=np.zeros((2, 2), int))
    twice = LateFrauds(np.array([5, 5]), np.array([1, 1]), np.array([20, 21]))
    with pytest.raises(StatisticsError, match="0 <= frauds <= transactions"):
        replace(own, late=twice).known_on(22)
