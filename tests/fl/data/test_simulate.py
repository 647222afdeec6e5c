"""The embedded data: determinism, fraud share, the three scenarios, and that it fits its own schema."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.data.reading import transactions_from_frame
from fl.data.schema_file import load_schema
from fl.data.simulate import Simulation, simulate
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


def test_a_compromised_terminal_is_fraudulent_for_at_most_four_weeks_at_a_time(small: pd.DataFrame) -> None:
    frauds = small[small.SCENARIO == 2]
    span = frauds.groupby("TERMINAL").TIME.agg(lambda t: (t.max() - t.min()).days)
    assert len(span) >= 3
    assert (span <= 28).mean() > 0.5  # a terminal may be compromised twice
    worst = frauds.TERMINAL.value_counts().index[0]
    rows = small[(worst == small.TERMINAL)]
    first = rows[rows.SCENARIO == 2].TIME.min()
    during = rows[(first <= rows.TIME) & (first + pd.Timedelta(days=5) > rows.TIME)]
    assert (during.IS_FRAUD == 1).mean() > 0.9


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


@pytest.mark.parametrize("wrong", [{"fraud_share": 0.0}, {"customers": 1}, {"banks": 500}, {"days": 0}])
def test_an_impossible_simulation_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="expected"):
        Simulation(**({"customers": 100, "terminals": 100} | wrong))  # type: ignore[arg-type]
