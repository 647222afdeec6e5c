"""The allow-list: nothing leaves without a person's word, some things never, and nothing as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.assist.errors import ColumnNotAllowed
from fl.assist.redact import Redactor
from fl.assist.release import Facts, Policy, amount_range, band, describe_schema, moment, releasable
from fl.data.schema import DAY_US, Schema
from fl.data.schema_file import SHIPPED, load_schema


def test_a_column_that_nobody_allowed_stops_the_record(schema: Schema, redactor: Redactor) -> None:
    with pytest.raises(ColumnNotAllowed, match="AMOUNT"):
        Policy.of(schema, ["DESCRIPTION"]).release({"DESCRIPTION": "rent", "AMOUNT": 3.0}, redactor)


@pytest.mark.parametrize("column", ["CUSTOMER", "TERMINAL", "BANK", "IS_FRAUD", "SCENARIO"])
def test_parties_bank_and_label_cannot_be_allowed(schema: Schema, column: str) -> None:
    with pytest.raises(ColumnNotAllowed, match="cannot be allowed"):
        Policy.of(schema, [column])


def test_the_label_can_be_allowed_for_training_examples_alone(schema: Schema, redactor: Redactor) -> None:
    policy = Policy.of(schema, ["IS_FRAUD"], with_label=True)
    assert policy.release({"IS_FRAUD": 1}, redactor) == {"IS_FRAUD": "fraud"}


def test_an_unknown_name_is_refused_with_the_known_ones(schema: Schema) -> None:
    with pytest.raises(ColumnNotAllowed, match="DESCRIPTION"):
        Policy.of(schema, ["DESCRIPTON"])


def test_every_value_leaves_in_a_coarser_form(schema: Schema, redactor: Redactor) -> None:
    record = {"DESCRIPTION": "rent 4711", "AMOUNT": 73.12, "TIME": 3 * DAY_US // 24, "terminal_risk_7d": 2.0}
    released = Policy.nothing_leaves(schema).release({**record, "score": 0.98765}, redactor)
    assert released == {
        "DESCRIPTION": "rent [NUMBER]",
        "AMOUNT": "50 to 100",
        "TIME": "weekday, night",
        "terminal_risk_7d": "very high",
        "score": "0.99",
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_schema_can_release_a_party_or_the_label(name: str) -> None:
    schema = load_schema(name)
    forbidden = {schema.label.column, schema.parties.customer, schema.parties.terminal, schema.partition, *schema.never}
    assert not releasable(schema) & forbidden


@given(st.floats(-1e9, 1e9))
def test_a_band_holds_its_value_and_names_round_numbers_only(value: float) -> None:
    text = band(value)
    if text != "0":
        low, high = (float(edge) for edge in text.removeprefix("minus ").split(" to "))
        assert low <= abs(value) * (1 + 1e-9) and abs(value) <= high
        assert all(f"{edge:e}"[0] in "125" for edge in (low, high))


def test_a_moment_names_no_hour_and_no_date() -> None:
    assert moment(2 * DAY_US + 13 * DAY_US // 24) == "weekend, afternoon"
    assert moment(0) == "weekday, night"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_described_schema_holds_no_date_and_no_hash(name: str) -> None:
    schema = load_schema(name)
    text = str(Facts("a scenario", schema, 7, 10, 0).as_json())
    assert "2018" not in text and "2024" not in text and schema.sha256[:8] not in text
    assert describe_schema(schema)["name"] == schema.name
    if schema.amount is not None:
        assert amount_range(schema)[1] >= schema.amount.typical
