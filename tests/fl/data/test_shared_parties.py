"""Parties that banks have in common, who reports a transaction, and when a label came: the schema and its columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl.assist.release import _never, releasable
from fl.data.partition import Partition
from fl.data.reading import load_transactions, transactions_from_frame
from fl.data.schema_file import parse_schema
from fl.data.stream import stream_file
from fl.errors import DataError, SchemaError

TEXT = """
[label]
column = "FRAUD"
delay_days = 7
{label}
[time]
column = "TIME"
[parties]
customer = "CARD"
terminal = "TERMINAL"
{parties}
"""
FRAME = pd.DataFrame(
    {
        "TIME": pd.to_datetime(["2024-01-01 10:00", "2024-01-02 11:00", "2024-01-03 12:00"]),
        "CARD": ["C1", "C2", "C1"],
        "TERMINAL": ["T1", "T1", "T2"],
        "DEVICE": ["D7", "D7", "D9"],
        "FRAUD": ["0", "1", "0"],
        "LABELLED": ["", "2024-01-05 09:30:00", "not looked at"],
    }
)


def schema(*, label: str = "", parties: str = 'shared = ["terminal"]'):
    return parse_schema(TEXT.format(label=label, parties=parties), "made-up.toml")


def test_a_schema_without_the_new_keys_has_the_hash_it_had() -> None:
    """Folders of runs hold it. It was computed by revision 27fc89b."""
    assert schema().sha256 == "a3273024c852ea552819859f22e57ca5850d6a0ecc36b3068398660689718390"


def test_every_new_key_changes_the_hash() -> None:
    made = [
        schema(),
        schema(label='known = "LABELLED"'),
        schema(parties='device = "DEVICE"\nshared = ["terminal"]'),
        schema(parties='account = "DEVICE"\nshared = ["terminal"]'),
        schema(parties='merchant = "DEVICE"\nshared = ["terminal"]'),
        schema(parties='merchant = "DEVICE"\nshared = ["terminal", "merchant"]'),
        schema(parties='reported_by = "issuer and acquirer"\nshared = ["terminal"]'),
    ]
    assert len({each.sha256 for each in made}) == len(made)
    assert made[-1].parties.reports == 2 and made[0].parties.reports == 1


@pytest.mark.parametrize("kind", ["card", "customer", "cardholder"])
def test_counts_of_a_card_or_customer_are_refused_by_name(kind: str) -> None:
    with pytest.raises(SchemaError, match=f"a {kind} belongs to one bank, .*; remove it"):
        schema(parties=f'shared = ["terminal", "{kind}"]')


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"parties": 'shared = ["device"]'}, "no device column is given; add device or remove it"),
        ({"parties": 'shared = ["shop"]'}, "expected some of terminal, merchant, device, account, got 'shop'"),
        ({"parties": 'shared = ["terminal", "terminal"]'}, "each once"),
        ({"parties": 'device = "TERMINAL"'}, "each once"),
        ({"parties": 'reported_by = "everybody"'}, "reported_by: expected one of issuer, issuer and acquirer"),
        ({"label": 'known = "FRAUD"'}, "each once"),
    ],
)
def test_contradictions_about_parties_are_refused(keys: dict[str, str], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        schema(**keys)


def test_a_date_of_labels_needs_a_time_that_measures_days() -> None:
    with pytest.raises(SchemaError, match=r"known dates a label, and needs a \[time\] column"):
        parse_schema('[label]\ncolumn = "FRAUD"\nknown = "LABELLED"\n', "made-up.toml")


WITH_BOTH = {"label": 'known = "LABELLED"', "parties": 'device = "DEVICE"\nshared = ["terminal", "device"]'}


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_parties_and_dates_of_labels_are_read_and_are_no_features(tmp_path: Path, kind: str) -> None:
    of = schema(**WITH_BOTH)
    path = tmp_path / f"rows.{kind}"
    match kind:
        case "frame":
            table = transactions_from_frame(FRAME, of, "made up")
        case "csv":
            FRAME.to_csv(path, index=False)
            table = load_transactions(path, of)
        case _:
            FRAME.assign(LABELLED=pd.to_datetime(FRAME.LABELLED, errors="coerce")).to_parquet(path)
            table = load_transactions(path, of)
    device = table.party("device")
    assert device is not None and device.ids[device.code].tolist() == ["D7", "D7", "D9"]
    assert table.party("terminal") is table.terminal and table.party("account") is None
    assert table.known_day is not None and table.known_day.tolist() == [0, 19_727, 0]
    part = table.take(np.array([1]))
    assert part.known_day is not None and part.known_day.tolist() == [19_727]
    assert [part.entities["device"].ids[i] for i in part.entities["device"].code] == ["D7"]


@pytest.mark.parametrize("cell", ["", "soon"])
def test_a_fraud_whose_label_has_no_date_is_refused_with_its_row(cell: str) -> None:
    with pytest.raises(DataError, match=r"row 2, column 'LABELLED': expected .* date"):
        transactions_from_frame(FRAME.assign(LABELLED=["", cell, ""]), schema(**WITH_BOTH), "made up")


def test_rows_without_labels_need_no_date_of_them(tmp_path: Path) -> None:
    of = schema(**WITH_BOTH)
    unlabelled = FRAME.drop(columns=["FRAUD", "LABELLED"])
    assert transactions_from_frame(unlabelled, of, "made up", labelled=False).known_day is None
    FRAME.to_csv(tmp_path / "history.csv", index=False)
    later = unlabelled.assign(TIME=unlabelled.TIME + pd.Timedelta(days=9), DEVICE=["D9", "new", "D7"])
    later.to_csv(tmp_path / "new.csv", index=False)
    rule = Partition("random", clients=2)
    (chunk,) = stream_file(tmp_path / "new.csv", of, rule, tmp_path / "history.csv")
    device = chunk.table.party("device")
    assert device is not None and device.ids[device.code].tolist() == ["D9", "new", "D7"] and len(chunk.x) == 3


def test_identifiers_of_parties_are_never_released_to_an_assistant() -> None:
    of = schema(**WITH_BOTH)
    assert {"DEVICE", "LABELLED"} <= _never(of) and not {"DEVICE", "LABELLED"} & releasable(of)
