"""Derived columns: what they compute, what is refused, and that constants of a schema survive its TOML."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from five_sites import AWAY, WAITED, five_sites

from fl.data.constants import Constant
from fl.data.draft import draft_schema
from fl.data.features import features, scaled_features
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.scaling import by_bank, clipped_shares, exact_constants
from fl.data.schema_file import parse_schema
from fl.errors import DataError, FeatureError, SchemaError

HEAD = """
[label]
column = "FRAUD"
[time]
column = "PAID"
[amount]
column = "AMOUNT"
[[categorical]]
column = "KIND"
vocabulary = ["a", "b"]
[features]
windows_days = []
"""
ROWS = pd.DataFrame(
    {
        "FRAUD": [0, 1, 0],
        "PAID": ["2024-01-02 00:00:00", "2024-01-03 12:00:00", "2024-01-04 00:00:00"],
        "ORDERED": ["2024-01-01 00:00:00", "2024-01-03 11:59:00", ""],
        "AMOUNT": ["10", "20", "30"],
        "USUAL": ["5", "0", "30"],
        "KIND": ["a", "b", "c"],
        "OTHER": ["a", "a", "c"],
        "LAT": ["0", "48.2082", "0"],
        "LON": ["0", "16.3738", "0"],
        "LAT2": ["0", "52.52", ""],
        "LON2": ["1", "13.405", "0"],
    }
)


def draft_of(payments: pd.DataFrame) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "five.csv"
        payments.to_csv(path, index=False)
        return draft_schema(path)


def read(derived: str, rows: pd.DataFrame = ROWS) -> Transactions:
    return transactions_from_frame(rows, parse_schema(f"{HEAD}[derived]\n{derived}\n", "made.toml"), "made")


def test_a_difference_is_in_seconds_and_missing_where_a_date_is() -> None:
    values = read('x = { difference = ["PAID", "ORDERED"] }').derived["x"]
    assert values[:2].tolist() == [86_400.0, 60.0] and math.isnan(values[2])


def test_a_log_ratio_is_missing_where_a_number_is_not_above_zero() -> None:
    values = read('x = { log_ratio = ["AMOUNT", "USUAL"] }').derived["x"]
    assert values[0] == pytest.approx(math.log(2)) and math.isnan(values[1]) and values[2] == 0.0


def test_a_distance_is_in_kilometres_on_the_sphere() -> None:
    values = read('x = { distance = ["LAT", "LON", "LAT2", "LON2"] }').derived["x"]
    assert values[0] == pytest.approx(111.195, abs=0.01)  # one degree of the equator
    assert values[1] == pytest.approx(524.0, abs=2.0)  # Vienna to Berlin
    assert math.isnan(values[2])


def test_a_distance_in_the_plane_is_in_the_columns_unit() -> None:
    values = read('x = { distance = ["LAT", "LON", "LAT2", "LON2"], unit = "plane" }').derived["x"]
    assert values[0] == 1.0


def test_a_latitude_beyond_the_pole_is_refused_with_its_cell() -> None:
    with pytest.raises(DataError, match=r"row 1, column 'LAT': expected degrees from -90 to 90, got '91'.*plane"):
        read('x = { distance = ["LAT", "LON", "LAT2", "LON2"] }', ROWS.assign(LAT=["91", "0", "0"]))


def test_equality_compares_text() -> None:
    table = read('x = { equal = ["KIND", "OTHER"] }')
    assert table.derived["x"].tolist() == [1.0, 0.0, 1.0]
    assert [feature.name for feature in features(table.schema)][-3:] == ["x", "KIND=a", "KIND=b"]


def test_a_ratio_to_the_mean_takes_the_mean_of_the_rows_word_and_of_the_rest() -> None:
    table = read('x = { ratio_to_mean = ["AMOUNT", "KIND"] }')
    logs = np.log1p([10.0, 20.0, 30.0])
    known = table.schema.with_constants([Constant("x", 0.0, 1.0, {"a": 1.0, "b": 2.0}, 3.0)])
    scaled = scaled_features(transactions_from_frame(ROWS, known, "made"))
    place = [feature.name for feature in features(known)].index("x")
    assert scaled[:, place] == pytest.approx(logs - [1.0, 2.0, 3.0], abs=1e-6)


def test_a_missing_value_is_scaled_to_zero_and_marked() -> None:
    schema = read('x = { difference = ["PAID", "ORDERED"] }').schema.with_constants([Constant("x", 9.0, 2.0)])
    scaled = scaled_features(transactions_from_frame(ROWS, schema, "made"))
    place = [feature.name for feature in features(schema)].index("x")
    assert scaled[2, place] == pytest.approx(0.0, abs=1e-6) and scaled[:, place + 1].tolist() == [0.0, 0.0, 1.0]
    assert scaled[0, place] == pytest.approx((math.log1p(86_400) - 9.0) / 2.0, rel=1e-6)


@pytest.mark.parametrize(
    ("derived", "words"),
    [
        ('x = { equal = ["FRAUD", "KIND"] }', "holds the label"),
        ('x = { equal = ["KIND"] }', "expected 2 different columns"),
        ('x = { equal = ["KIND", "KIND"] }', "expected 2 different columns"),
        ('x = { near = ["KIND", "OTHER"] }', "expected one of difference, log_ratio"),
        ('x = { equal = ["KIND", "OTHER"], colour = 1 }', "unknown key"),
        ('x = { ratio_to_mean = ["AMOUNT", "OTHER"] }', r"expected a \[\[categorical\]\] column with a vocabulary"),
        ('x = { ratio_to_mean = ["AMOUNT", "KIND"], constants = "given" }', "means are computed"),
        ('x = { log_ratio = ["AMOUNT", "USUAL"], scale = 2.0 }', "remove one of the two"),
        ('AMOUNT = { equal = ["KIND", "OTHER"] }', "has this name and a role"),
        ("x = 3", "expected a table"),
    ],
)
def test_a_derived_column_that_cannot_be_is_refused(derived: str, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        read(derived)


def test_a_column_in_never_is_no_source() -> None:
    text = f'{HEAD}[derived]\nx = {{ equal = ["KIND", "OTHER"] }}\n[columns]\nnever = ["OTHER"]\n'
    with pytest.raises(SchemaError, match="column 'OTHER' is in never"):
        parse_schema(text, "made.toml")


def test_features_without_their_constants_are_refused() -> None:
    with pytest.raises(FeatureError, match="the constants of x are computed from the rows of the banks"):
        scaled_features(read('x = { difference = ["PAID", "ORDERED"] }'))


def test_constants_survive_the_toml_of_their_schema() -> None:
    schema = parse_schema(f'{HEAD}[derived]\n"x y" = {{ ratio_to_mean = ["AMOUNT", "KIND"] }}\n', "made.toml")
    known = schema.with_constants([Constant("x y", 0.5, 2.0, {"a": 1.0, "b": -2.0}, 3.0)])
    again = parse_schema(known.source, "made.toml")
    assert again == known and again.sha256 == known.sha256 != schema.sha256
    assert known.lacking("shared") == () and schema.lacking("shared") == ("x y",)


def test_the_bound_of_a_column_is_ten_where_its_constants_are_computed_and_three_where_they_are_given() -> None:
    text = HEAD + '[[numeric]]\ncolumn = "USUAL"\n[[numeric]]\ncolumn = "LAT"\nconstants = "shared"\n'
    bounds = {feature.name: feature.bound for feature in features(parse_schema(text, "made.toml"))}
    assert bounds["USUAL"] is None and bounds["LAT"] == 10.0


def test_one_digit_constants_cut_off_a_column_and_shared_ones_do_not() -> None:
    payments = five_sites(300)
    draft = draft_of(payments)
    # As a draft had it before: the centre of the log to one digit, a scale of 1, and a bound of 3.
    before = draft.replace('column = "VOLUME"\ntransform = "signed_log1p"\nconstants = "shared"', OLD)
    for text, least, most in ((before, 0.05, 1.0), (draft, 0.0, 0.01)):
        tables = by_bank(transactions_from_frame(payments, parse_schema(text, "d.toml"), "made", bank_column="SITE"))
        volume = next(each for each in clipped_shares(tables) if each.column == "VOLUME")
        assert set(volume.shares) == {f"site-{i}" for i in range(1, 6)}
        assert least <= volume.worst <= most
        assert (volume.warning is None) == (volume.worst <= 0.01)


OLD = 'column = "VOLUME"\ntransform = "signed_log1p"\ncenter = 6.0\nscale = 1.0'


def test_a_draft_suggests_the_time_between_two_dates_and_the_distance_of_two_places() -> None:
    text = draft_of(five_sites(100))
    schema = parse_schema(text, "draft.toml")
    kinds = {column.name: column.kind for column in schema.derived}
    assert kinds == {WAITED: "difference", AWAY: "distance"}
    assert "ORDERED_AT" not in schema.never
    assert '# "AMOUNT_OVER_BALANCE" = { log_ratio' in text  # a possibility, as a comment


def test_constants_of_all_banks_are_those_of_their_rows_together() -> None:
    payments = five_sites(200)
    schema = parse_schema(draft_of(payments), "draft.toml")
    table = transactions_from_frame(payments, schema, "made", bank_column="SITE")
    assert exact_constants(by_bank(table)) == exact_constants({"all": table})


def test_constants_that_are_added_to_others_are_read_again_wherever_those_stand() -> None:
    others = "[constants]\nAMOUNT = { center = 1.0, scale = 2.0 }\n[split]\ntrain_fraction = 0.6\ntest_fraction = 0.4\n"
    head = HEAD.replace('column = "AMOUNT"', 'column = "AMOUNT"\nconstants = "shared"')
    numbers = "".join(f'[[numeric]]\ncolumn = "{name}"\nconstants = "shared"\n' for name in ("N.1", "M"))
    schema = parse_schema(head + numbers + others, "some.toml")
    one, two = Constant("N.1", 3.0, 4.0), Constant("M", 5.0, 6.0)
    for complete in (schema.with_constants([one, two]), schema.with_constants([one]).with_constants([two])):
        again = parse_schema(complete.source, "some.toml")
        assert again.sha256 == complete.sha256
        assert again.constant_of("N.1") == one and again.constant_of("M") == two
        assert again.lacking("shared") == ()
