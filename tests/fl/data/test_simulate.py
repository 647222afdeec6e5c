"""The embedded data: determinism, fraud share, the three scenarios, and that it fits its own schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.data.reading import transactions_from_frame
from fl.data.schema_file import load_schema
from fl.data.simulate import LEAK, Compromises, Simulation, _durations, embedded, simulate
from fl.errors import DataError

SMALL = Simulation(customers=400, terminals=200, days=60, banks=4, fraud_share=0.02, seed=7)


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    return simulate(SMALL)


def test_the_same_seed_makes_the_same_transactions_and_another_seed_others(small: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(small, simulate(SMALL))
    other = simulate(Simulation(customers=400, terminals=200, days=60, banks=4, fraud_share=0.02, seed=8))
    assert not small.AMOUNT.head(100).equals(other.AMOUNT.head(100))


@settings(max_examples=8, deadline=None)
@given(share=st.sampled_from([0.001, 0.003, 0.01, 0.05]), seed=st.integers(0, 2**32 - 1))
def test_the_fraud_share_is_the_one_asked_for(share: float, seed: int) -> None:
    frame = simulate(Simulation(customers=800, terminals=400, days=60, fraud_share=share, seed=seed))
    assert frame.IS_FRAUD.mean() == pytest.approx(share, rel=0.1)


def test_frauds_by_amount_are_exactly_the_largest_genuine_amounts(small: pd.DataFrame) -> None:
    base = small.AMOUNT.where(small.SCENARIO != 3, small.AMOUNT / 5)
    threshold = base[small.SCENARIO == 1].min()
    assert set(small.SCENARIO[base >= threshold + 0.01]) <= {1, 2, 3}
    assert (small.SCENARIO == 1).sum() > 0


def compromised(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each terminal with frauds of its own: days from the first to the last of them, and what happened between."""
    day = (frame.TIME - frame.TIME.min().normalize()).dt.days
    own = frame.SCENARIO == 2
    seen = day[own].groupby(frame.TERMINAL[own]).agg(["min", "max"])
    during = (day >= frame.TERMINAL.map(seen["min"])) & (day <= frame.TERMINAL.map(seen["max"]))
    seen["transactions"] = frame[during].groupby("TERMINAL").size()
    seen["frauds"] = frame[own].groupby("TERMINAL").size()
    return seen


@pytest.mark.parametrize(("shortest", "longest", "share"), [(14, 28, 0.7), (3, 5, 1.0)])
def test_terminals_are_compromised_as_long_and_as_much_as_asked(shortest: int, longest: int, share: float) -> None:
    law = Compromises(shortest, longest, least_share=share, most_share=share, of_frauds=1.0)
    seen = compromised(simulate(Simulation(400, 300, days=90, fraud_share=0.01, seed=7, compromises=law)))
    days = seen["max"] - seen["min"] + 1
    whole = seen[(seen["min"] > 0) & (seen["max"] < 89) & (days <= longest)]  # some are compromised twice
    assert len(whole) >= 8 and len(whole) > 0.8 * ((seen["min"] > 0) & (seen["max"] < 89)).sum()
    assert days[whole.index].max() > longest - 2
    assert days[whole.index].mean() > shortest - 2
    assert whole.frauds.sum() / whole.transactions.sum() == pytest.approx(share, abs=0.05)


def test_compromises_differ_in_length_and_in_their_share_of_frauds() -> None:
    law = Compromises(of_frauds=1.0)
    seen = compromised(simulate(Simulation(400, 50, days=120, fraud_share=0.05, seed=7, compromises=law)))
    days, share = seen["max"] - seen["min"] + 1, seen.frauds / seen.transactions
    once = days <= law.longest_days
    assert once.sum() > 10 and days[once].std() > 4
    assert share[once & (seen.transactions > 50)].max() - share[once & (seen.transactions > 50)].min() > 0.15


@pytest.mark.parametrize("law", [Compromises(14, 28), Compromises(1, 56, 14.0), Compromises(7, 49, 40.0), LEAK])
def test_durations_keep_to_their_limits_and_to_their_mean(law: Compromises) -> None:
    days = _durations(law, 100_000, np.random.default_rng(1))
    mean = (law.shortest_days + law.longest_days) / 2 if law.mean_days is None else law.mean_days
    assert (days.min(), days.max()) == (law.shortest_days, law.longest_days)
    assert days.mean() == pytest.approx(mean, abs=0.2)


def test_without_a_mean_all_durations_are_equally_likely() -> None:
    counts = np.bincount(_durations(Compromises(14, 28), 150_000, np.random.default_rng(1)))[14:]
    assert len(counts) == 15 and counts.min() > 9_400 and counts.max() < 10_600  # six standard deviations of 10,000


def test_without_compromised_terminals_the_fraud_share_is_met_by_the_other_frauds() -> None:
    world = Simulation(800, 400, days=60, seed=3, compromises=Compromises(of_frauds=0.0))
    frame = simulate(world)
    assert set(frame.SCENARIO) == {0, 1, 3}
    assert frame.IS_FRAUD.mean() == pytest.approx(0.01, rel=0.1)


def test_banks_share_terminals_and_regions_hardly_do() -> None:
    frame = simulate(Simulation(600, 300, days=40, seed=3))
    assert sorted(frame.REGION.unique()) == [f"region-{i}" for i in range(8)]
    assert (frame.groupby("CUSTOMER").REGION.nunique() == 1).all()
    # Of a terminal's transactions, those of the bank, or of the region, that has most of them there.
    most = {
        column: (frame.groupby(["TERMINAL", column]).size().groupby("TERMINAL").max().sum()) / len(frame)
        for column in ("BANK", "REGION")
    }
    assert most["REGION"] > 0.85
    assert most["BANK"] < 0.45


def test_embedded_data_have_two_terminals_for_a_customer() -> None:
    assert embedded(500, 3, 0.02, 4) == Simulation(500, 1000, banks=3, fraud_share=0.02, seed=4)
    assert embedded() == Simulation()


def test_a_compromised_customer_has_about_a_third_of_inflated_transactions_for_two_weeks() -> None:
    frame = simulate(Simulation(customers=300, terminals=300, days=60, fraud_share=0.1, seed=1))
    frauds = frame[frame.SCENARIO == 3]
    typical = frame[frame.SCENARIO == 0].groupby("CUSTOMER").AMOUNT.median()
    ratio = frauds.AMOUNT / frauds.CUSTOMER.map(typical)
    assert 4 < ratio.median() < 6
    shares = []
    for customer, rows in frauds.groupby("CUSTOMER"):
        window = frame[
            (customer == frame.CUSTOMER) & frame.TIME.between(rows.TIME.min(), rows.TIME.min() + pd.Timedelta(days=13))
        ]
        shares.append(((window.SCENARIO == 3).sum() + 0.0) / len(window))
    assert 0.2 < np.mean(shares) < 0.6


def test_fraud_is_spread_over_the_whole_span(small: pd.DataFrame) -> None:
    thirds = small.groupby(pd.cut(small.TIME.dt.day_of_year, 3), observed=True).IS_FRAUD.mean()
    assert thirds.min() > 0.3 * thirds.max()


def test_every_transaction_has_a_description_that_does_not_give_the_fraud_away(small: pd.DataFrame) -> None:
    assert small.DESCRIPTION.str.len().min() > 5
    assert small.DESCRIPTION.nunique() > 1000
    words = small.DESCRIPTION.str.replace(r"\d+", "", regex=True)
    genuine, fraudulent = set(words[small.IS_FRAUD == 0]), set(words[small.IS_FRAUD == 1])
    assert len(fraudulent & genuine) > 0.7 * len(fraudulent)


def test_every_bank_has_customers_and_the_customer_one_bank(small: pd.DataFrame) -> None:
    assert sorted(small.BANK.unique()) == ["bank-0", "bank-1", "bank-2", "bank-3"]
    assert (small.groupby("CUSTOMER").BANK.nunique() == 1).all()


def test_the_simulated_columns_fit_the_simulated_schema(small: pd.DataFrame) -> None:
    table = transactions_from_frame(small, load_schema("simulated"), "simulated", bank_column="BANK")
    assert len(table) == len(small)
    assert (table.index == np.arange(len(small))).all()


def test_more_frauds_than_compromises_can_hold_are_refused() -> None:
    law = Compromises(1, 1, least_share=0.001, most_share=0.001, of_frauds=1.0)
    with pytest.raises(
        DataError, match=r"expected \d+ frauds of compromises among \d+ transactions, got \d+ from 1000"
    ):
        simulate(Simulation(10, 10, days=30, banks=2, fraud_share=0.2, compromises=law))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shortest_days": 29, "longest_days": 28}, "a shortest duration of at most 28 days .* got 29"),
        ({"least_share": 0.9, "most_share": 0.5}, "a least share of at most 0.5, got .* 0.9"),
        ({"mean_days": 3.0}, "expected a mean from 14 to 42 days.* got 3"),
        ({"longest_days": 5000}, "longest_days: expected a whole number"),
        ({"of_frauds": 1.5}, "of_frauds: expected a number"),
    ],
)
def test_impossible_compromises_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Compromises(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"fraud_share": 0.0}, {"customers": 1}, {"banks": 500}, {"days": 0}, {"regions": 101}]
)
def test_an_impossible_simulation_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="expected"):
        Simulation(**({"customers": 100, "terminals": 100} | wrong))  # type: ignore[arg-type]
