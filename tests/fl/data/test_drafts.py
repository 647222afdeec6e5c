"""What a draft recognises: roles by name and by content, parts of the data, and columns that give the label away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl.data.draft import disguised_inputs, draft
from fl.data.drafting import looks
from fl.data.drafting.names import is_figure, rank_as_bank, words_of
from fl.data.reading import load_transactions
from fl.data.schema import ColumnSplit, DropRule, TimeColumn
from fl.data.schema_file import parse_schema

N = 2000


@pytest.fixture
def frame() -> pd.DataFrame:
    """Forty days of 90 cards at 30 merchants."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"tx_time": pd.date_range("2024-01-01", periods=N, freq="29min").astype(str)})
    frame["card_id"] = [f"C{i}" for i in rng.integers(90, size=N)]
    frame["merchant"] = [f"M{i}" for i in rng.integers(30, size=N)]
    frame["amount"] = rng.lognormal(3, 1, N).round(2)
    frame["is_fraud"] = (rng.random(N) < 0.08).astype(int)
    return frame


def drafted(frame: pd.DataFrame, folder: Path, label: str | None = None, **csv: str) -> tuple[str, Any]:
    """(text, schema) of the draft, which loads the file it was drafted from."""
    path = folder / "made.csv"
    frame.to_csv(path, index=False, **csv)  # type: ignore[call-overload]  # pandas has one overload for each
    text = draft(path, label).text
    schema = parse_schema(text, "made.toml")
    load_transactions(path, schema, bank_column=schema.partition)
    return text, schema


def test_labels_of_a_third_kind_are_dropped_even_when_they_come_last(frame: pd.DataFrame, tmp_path: Path) -> None:
    status = frame.is_fraud.astype(str)
    status.iloc[-1], status.iloc[-2] = "under review", ""
    text, schema = drafted(frame.assign(is_fraud=status), tmp_path)
    assert schema.drop == (DropRule("is_fraud", ("under review", "")),)
    assert "neither fraud nor genuine" in text


@pytest.mark.parametrize("name", ["SITE", "site_id", "BANK", "Filiale", "issuer"])
def test_a_column_named_like_a_site_divides_the_rows(name: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame[name] = [f"s{i % 5}" for i in range(N)]
    assert drafted(frame, tmp_path)[1].partition == name


@pytest.mark.parametrize("name", ["website", "customer_region", "merchant_site", "onsite"])
def test_a_name_that_only_contains_one_is_no_bank(name: str) -> None:
    assert rank_as_bank(name) is None


def test_figures_about_a_customer_are_no_customer(frame: pd.DataFrame, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frame.insert(0, "CUSTOMER_TX_PAST_30D", rng.integers(0, 400, N))
    frame.insert(1, "account_age_days", rng.integers(0, 4000, N))
    _, schema = drafted(frame, tmp_path)
    assert schema.parties.customer == "card_id"
    assert [c.column for c in schema.numeric] == ["CUSTOMER_TX_PAST_30D", "account_age_days"]
    assert words_of("CUSTOMER_TX_PAST_30D") == ("customer", "tx", "past", "30d") and is_figure("nb_tx_7d")
    assert words_of("nameOrig") == ("name", "orig") and not is_figure("nameOrig")


def test_identifiers_without_a_telling_name_become_parties_with_the_reason(frame: pd.DataFrame, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frame = frame.drop(columns=["card_id", "merchant"])
    frame["a1"], frame["a2"] = [[f"{p}{i:04d}" for i in rng.integers(k, size=N)] for p, k in (("X", 700), ("Y", 150))]
    text, schema = drafted(frame, tmp_path)
    assert (schema.parties.customer, schema.parties.terminal) == ("a1", "a2")
    assert "its cells look like identifiers" in text


def test_merchants_that_serve_many_cards_are_shared_and_the_delay_leaves_rows_to_test(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    text, schema = drafted(frame, tmp_path)
    assert schema.parties.shared == ("terminal",) and schema.shares_counts
    assert schema.label.delay_days == 7 and schema.split.train == 0.52
    assert "days in which labels of the training are not known yet" in text


@pytest.mark.parametrize(
    ("name", "unit", "per_second"),
    [("ts", "seconds", 1), ("createdAt", "milliseconds", 10**3), ("event_time", "microseconds", 10**6)],
)
def test_numbers_that_count_from_1970_are_time(
    name: str, unit: str, per_second: int, frame: pd.DataFrame, tmp_path: Path
) -> None:
    seconds = 1_700_000_000 + 1740 * np.arange(N)
    _, schema = drafted(frame.drop(columns="tx_time").assign(**{name: seconds * per_second}), tmp_path)
    time = schema.time
    assert (time.column, time.unit, str(time.origin)) == (name, unit, "1970-01-01") and time.has_calendar
    first = load_transactions(tmp_path / "made.csv", schema).time
    assert first is not None and first[0] == 1_700_000_000 * 10**6


@pytest.mark.parametrize(
    "format",
    [
        "%d.%m.%Y %H:%M",
        "%m/%d/%Y %H:%M:%S",
        "%d/%m/%Y %H:%M:%S.%f",
        "%Y%m%d%H%M%S",
        "%d-%b-%Y %H:%M:%S",
        "%m/%d/%y %H:%M",
    ],
)
def test_dates_in_other_notations_are_recognised(format: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    when = pd.date_range("2024-01-01", periods=N, freq="29min")
    _, schema = drafted(frame.assign(tx_time=when.strftime(format)), tmp_path)
    assert schema.time == TimeColumn("tx_time", format=format)
    read = load_transactions(tmp_path / "made.csv", schema).time
    assert read is not None and read[-1] == when[-1].value // 1000


def test_a_column_of_parts_becomes_the_split(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["set"] = np.array(["Train", "Train", "VALID", "test"])[np.arange(N) % 4]
    _, schema = drafted(frame, tmp_path)
    assert schema.split == ColumnSplit("set", ("Train",), ("test",), ("VALID",))


def test_columns_that_are_no_input_are_named_with_the_reason(frame: pd.DataFrame, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame["currency"] = "EUR"
    frame["elapsed_s"] = 1740 * np.arange(N) + 3
    frame["running"] = np.arange(N) * 2 + 7
    frame["reference"] = [f"{x:016x}" for x in rng.permutation(N)]
    frame["settled_on"] = pd.date_range("2024-01-03", periods=N, freq="29min").astype(str)
    text, schema = drafted(frame, tmp_path)
    assert schema.time.column == "tx_time"
    assert list(schema.never) == ["currency", "elapsed_s", "running", "reference"]
    for reason in ("one value in 2000 rows", "ascends with the time", "no value repeats"):
        assert reason in text
    # A second date is an input by its distance from the time.
    assert [each.columns for each in schema.derived if "settled_on" in each.columns]


def test_the_label_in_disguise_is_left_out_with_a_warning_of_its_own(frame: pd.DataFrame, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    frame["review_code"] = np.where(frame.is_fraud == 1, "R7", rng.choice(["A", "B", "C"], N))
    frame["loss"] = np.where(frame.is_fraud == 1, rng.lognormal(3, 1, N), 0.0).round(2)
    frame["is_fraud_score"] = rng.random(N)
    frame["hint"] = np.where((frame.is_fraud == 1) & (rng.random(N) < 0.6), 1, rng.integers(0, 2, N))
    path = tmp_path / "made.csv"
    frame.to_csv(path, index=False)
    made = draft(path)
    assert [warning.split("'")[1] for warning in made.warnings] == ["review_code", "loss", "is_fraud_score"]
    assert made.text.count("# WARNING: ") == 3 and "almost perfectly" in made.text
    assert set(parse_schema(made.text, "x").never) == {"review_code", "loss", "is_fraud_score"}


def test_a_schema_that_reads_the_label_in_disguise_is_told(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["review"] = np.where(frame.is_fraud == 1, 5.0, 1.0) + np.arange(N) % 3
    frame.to_csv(tmp_path / "a.csv", index=False)
    text = '[label]\ncolumn = "is_fraud"\n[amount]\ncolumn = "amount"\n[[numeric]]\ncolumn = "review"\n'
    (warning,) = disguised_inputs(tmp_path / "a.csv", parse_schema(text, "a.toml"))
    assert warning.startswith("input 'review' may be the label in disguise: alone it finds the frauds")


def test_an_amount_that_tells_all_frauds_is_kept_with_a_warning(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["amount"] = np.where(frame.is_fraud == 1, 900.0, 10.0) + np.arange(N) % 50
    path = tmp_path / "made.csv"
    frame.to_csv(path, index=False)
    made = draft(path)
    amount = parse_schema(made.text, "x").amount
    assert amount is not None and amount.column == "amount"
    assert len(made.warnings) == 1 and "kept" in made.warnings[0]


def test_categories_stay_categories(frame: pd.DataFrame, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    frame["price"] = rng.choice(["less than 20 thousand", "20 to 29 thousand", "more than 69 thousand"], N)
    frame["model"] = [f"model {i}" for i in rng.integers(300, size=N)]
    frame["mcc_code"] = rng.integers(5000, 5012, N)
    _, schema = drafted(frame, tmp_path)
    kinds = {c.column: (len(c.vocabulary), c.hash_width) for c in schema.categorical}
    assert kinds == {"price": (3, 0), "model": (0, 128), "mcc_code": (12, 0)}
    assert schema.text == ()


def test_the_sample_is_spread_over_the_file_and_its_words_are_all_there(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "SAMPLE_ROWS", 100)
    frame["kind"] = ["early"] * (N - 1) + ["late"]
    frame["gap"] = [1.5] * (N - 1) + [None]
    text, schema = drafted(frame, tmp_path)
    assert schema.categorical[0].vocabulary == ("early", "late")
    assert "2000 rows, of which 125, evenly spread" in text and "1 empty cells" in text


def test_what_was_detected_stands_on_top(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["ort"] = "K\u00f6ln"
    text, schema = drafted(frame, tmp_path, sep=";", decimal=",", encoding="latin-1", compression="xz")
    assert text.startswith(
        "# Drafted from made.csv. Detected: csv, compressed with xz, latin-1, columns between semicolons, "
        "decimal comma.\n"
    )
    assert (schema.delimiter, schema.decimal, schema.encoding) == (";", ",", "latin-1")


def test_a_file_of_hours_gets_windows_of_minutes(frame: pd.DataFrame, tmp_path: Path) -> None:
    when = pd.date_range("2024-01-01 06:00", periods=N, freq="20s").astype(str)
    _, schema = drafted(frame.assign(tx_time=when), tmp_path)
    assert schema.windows_minutes == (10, 60) and schema.windows_days == ()
    assert schema.label.delay_days == 0 and not schema.words.days
