"""Schema files: what loads, what is refused and why, and that every draft loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demos.schema import schema as schema_command
from fl.data import schema_file
from fl.data.draft import draft_schema
from fl.data.features import features
from fl.data.federation import load_federation
from fl.data.reading import load_transactions
from fl.data.schema import DatedSplit, Days, FractionSplit, Schema, TimeColumn
from fl.data.schema_file import SHIPPED, load_schema, parse_schema, schema_for_header
from fl.data.simulate import Simulation, simulate
from fl.errors import SchemaError

LEAST = '[label]\ncolumn = "y"\n'


def parse(text: str) -> Schema:
    return parse_schema(text, "some.toml")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_schema_loads_and_has_features(name: str) -> None:
    schema = load_schema(name)
    assert schema.name == name
    assert features(schema)
    assert schema.source.startswith("#")


def test_the_handbook_schema_has_the_handbook_split_and_never_the_scenario() -> None:
    schema = load_schema("fdh")
    assert isinstance(schema.split, DatedSplit)
    assert schema.day_name(schema.split.train.first) == "2018-07-25"
    assert [schema.day_name(d) for t in schema.split.test for d in (t.first, t.last)] == [
        "2018-08-08",
        "2018-08-14",
    ]
    assert schema.label.delay_days == 7
    assert "TX_FRAUD_SCENARIO" in schema.never
    assert not any("SCENARIO" in column for column in schema.columns_read())


def test_a_shipped_schema_is_recognised_by_the_header() -> None:
    card = ["Time", *(f"V{i}" for i in range(1, 29)), "Amount", "Class"]
    assert schema_for_header(card, "card.csv").name == "creditcard"
    with pytest.raises(SchemaError, match=r"other\.csv.*got none.*--init"):
        schema_for_header(["a", "b"], "other.csv")


def test_the_label_is_all_a_schema_must_have() -> None:
    schema = parse(LEAST)
    assert schema.time is None and schema.amount is None and schema.parties.customer is None
    assert schema.split == FractionSplit(0.7, 0.3)
    with pytest.raises(SchemaError, match=r"some\.toml: expected a table \[label\]"):
        parse("")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "[amout]\n", "amout: unknown key; did you mean 'amount'"),
        (LEAST + "delay = 3\n", r"\[label\] delay: unknown key; did you mean 'delay_days'"),
        (LEAST + "delay_days = 1.5\n", r"delay_days: expected a whole number, got 1\.5"),
        (LEAST + "delay_days = true\n", "delay_days: expected a whole number, got True"),
        (LEAST + "delay_days = -1\n", "from 0 to"),
        (LEAST + 'positive = ["0"]\n', "both positive and negative"),
        (LEAST + "[time]\n", r"\[time\] column: expected the name of a column"),
        (LEAST + '[time]\ncolumn = "t"\nunit = "hour"\n', "expected one of datetime.*got 'hour'"),
        (LEAST + '[time]\ncolumn = "t"\nunit = "order"\nformat = "%Y"\n', "format belongs to"),
        (LEAST + '[time]\ncolumn = "t"\norigin = 2024-01-01\n', "origin dates the 0"),
        (LEAST + '[amount]\ncolumn = "y"\n', r"\['y'\] more than once"),
        (LEAST + '[columns]\nnever = ["y"]\n', "'y' is in never and also has a role"),
        (LEAST + '[[numeric]]\ncolumn = "a"\ntransform = "log"\n', "expected one of identity"),
        (LEAST + "[[numeric]]\nscale = 2\n", "either column or columns"),
        (LEAST + '[[categorical]]\ncolumn = "a"\n', "vocabulary or hash_width, got none"),
        (LEAST + '[[categorical]]\ncolumn = "a"\nvocabulary = ["x", "x"]\n', "more than once"),
        (LEAST + '[[text]]\ncolumn = "a"\nngrams = [5, 3]\n', "ngrams"),
        (LEAST + '[drop]\na = "x"\n', r"\[drop\] a: expected a list of strings"),
        (LEAST + "[features]\nwindows_days = [0]\n", "windows_days"),
        (LEAST + "[split]\ntrain_fraction = 0.8\ntest_fraction = 0.3\n", "together <= 1"),
        (LEAST + "[split]\ntrain = [1, 2]\n", "not some of each"),
        (LEAST + "[split]\ntrain = [1, 2]\ntest = [[3, 4]]\n", r"periods need a \[time\]"),
        (LEAST + "[split]\nvalidation_share = 1.0\n", "validation_share"),
        ("[label\n", "not valid TOML"),
        (LEAST + f"delay_days = {'9' * 5000}\n", "not valid TOML"),
        (f"name = {'[' * 5000}\n", "not valid TOML"),
        ('name = ""\n' + LEAST, "name: expected a text, not empty"),
        (LEAST + "positive = []\n", r"\[label\] positive: expected a list of 1 or more"),
        (LEAST + '[file]\ndelimiter = ""\n', "delimiter: expected one character, not empty"),
        (LEAST + '[file]\ndelimiter = "ab"\n', "delimiter: expected one character"),
        (LEAST + '[[text]]\ncolumn = "a"\nngrams = []\n', "ngrams: expected .low, high."),
        (LEAST + "[features]\nbound = inf\n", "bound: expected a number above 0"),
        (LEAST + '[amount]\ncolumn = "a"\nspread = nan\n', "spread: expected a number above 0"),
        (LEAST + '[[numeric]]\ncolumn = "a"\nmissing = nan\n', "missing: expected a number"),
        (
            LEAST + '[[numeric]]\ncolumn = "a"\nmonotone = "rising"\n',
            "monotone: expected one of up, down, got 'rising'",
        ),
        (LEAST + '[[numeric]]\ncolumn = "a"\nmonotone = 1\n', "monotone: expected a string, got 1"),
        (LEAST + '[[numeric]]\ncolumn = "a"\nmonotone = ["up"]\n', "monotone: expected a string"),
        (LEAST + '[amount]\ncolumn = "a"\nmonotone = ""\n', "monotone"),
        (LEAST + '[derived]\nd = { equal = ["a", "b"], monotone = true }\n', "monotone: expected a string, got True"),
        (LEAST + '[[categorical]]\ncolumn = "a"\nhash_width = 2\nmonotone = "up"\n', "monotone: unknown key"),
    ],
)
def test_a_mistake_in_a_schema_is_named_by_file_and_key(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as refused:
        parse(text)
    assert str(refused.value).startswith("some.toml: ")


def test_no_windows_are_no_windows_and_not_the_usual_ones(tmp_path: Path) -> None:
    shipped = Path(schema_file.__file__).parent / "schemas" / "simulated.toml"
    (tmp_path / "none.toml").write_text(shipped.read_text() + "\n[features]\nwindows_days = []\n")
    schema = load_schema(tmp_path / "none.toml")
    assert schema.windows_days == () and not schema.has_windows and not schema.shares_counts
    assert [each.name for each in features(schema)] == ["weekend", "night", "amount"]
    simulate(Simulation(customers=60, terminals=30, banks=3, fraud_share=0.1)).to_csv(tmp_path / "a.csv", index=False)
    federation = load_federation(tmp_path / "a.csv", tmp_path / "none.toml")
    assert np.isfinite(federation.banks[0].train.x).all() and len(federation.banks[0].train) > 0


def test_a_test_period_before_labels_are_known_is_refused() -> None:
    dated = LEAST + 'delay_days = 7\n[time]\ncolumn = "t"\n[split]\ntrain = [2024-01-01, 2024-01-07]\n'
    with pytest.raises(SchemaError, match=r"known from 2024-01-15 on"):
        parse(dated + "test = [[2024-01-14, 2024-01-20]]\n")
    assert parse(dated + "test = [[2024-01-15, 2024-01-20]]\n").split == DatedSplit(
        Days(19723, 19729), (Days(19737, 19742),)
    )


def test_periods_are_day_numbers_where_time_has_no_date() -> None:
    text = LEAST + '[time]\ncolumn = "t"\nunit = "hours"\n[split]\ntrain = [0, 9]\ntest = [[10, 12]]\n'
    assert parse(text).split == DatedSplit(Days(0, 9), (Days(10, 12),))
    with pytest.raises(SchemaError, match="two day numbers"):
        parse(text.replace("[0, 9]", "[2024-01-01, 2024-01-02]"))


def test_the_hash_counts_meaning_and_not_layout() -> None:
    assert parse(LEAST).sha256 == parse("# a comment\n" + LEAST).sha256
    assert parse(LEAST).sha256 != parse(LEAST + "delay_days = 1\n").sha256


def test_a_direction_is_known_by_the_name_of_the_feature_and_is_part_of_the_hash() -> None:
    text = (
        LEAST
        + """
[amount]
column = "paid"
[[numeric]]
columns = ["a", "b"]
[[numeric]]
column = "c"
[derived]
d = { log_ratio = ["e", "f"], constants = "given" }
"""
    )
    given = text.replace('"paid"', '"paid"\nmonotone = "up"').replace('"b"]', '"b"]\nmonotone = "down"')
    given = given.replace('"given" }', '"given", monotone = "up" }')
    assert parse(text).monotone == {}
    assert parse(given).monotone == {"amount": "up", "a": "down", "b": "down", "d": "up"}
    other = given.replace('monotone = "down"', 'monotone = "up"')
    assert len({parse(each).sha256 for each in (text, given, other)}) == 3


def test_an_unknown_schema_name_lists_the_known_ones() -> None:
    with pytest.raises(SchemaError, match="fdh, creditcard, paysim, simulated"):
        load_schema("fhd")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=12).map(str.strip)
CELLS = st.sampled_from(
    [
        lambda i: str(i),
        lambda i: f"{i * 7 % 13 - 4}.5",
        lambda i: f"user{i % 30}",
        lambda i: "x",
        lambda i: "",
        lambda i: f"2024-01-{i % 28 + 1:02} 10:00:00",
        lambda i: "two words " * (i % 4),
        lambda i: "ab"[i % 2],
        lambda i: "" if i % 5 else "3",
        lambda i: '"quoted", with comma',
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(names=st.lists(NAMES.filter(bool), min_size=1, max_size=6, unique=True), data=st.data())
def test_every_draft_loads_and_never_reads_the_label_as_a_feature(
    tmp_path: Path, names: list[str], data: st.DataObject
) -> None:
    columns = {name: [data.draw(CELLS)(i) for i in range(60)] for name in names}
    columns["is_fraud"] = [str(int(i % 9 == 0)) for i in range(60)]
    path = tmp_path / "drafted.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    schema = parse(draft_schema(path))
    assert schema.label.column == "is_fraud"
    assert "is_fraud" not in [feature.name for feature in features_or_none(schema)]
    assert set(schema.columns_read()) <= set(columns)


def features_or_none(schema: Schema) -> Iterator[object]:
    has_plain = schema.numeric or schema.categorical or schema.amount or (schema.time and schema.time.has_calendar)
    yield from features(schema) if has_plain else ()


def test_a_draft_recognises_the_columns_of_simulated_data_and_trains(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    frame = simulate(Simulation(customers=300, terminals=150, days=60, banks=3, fraud_share=0.02))
    frame.to_csv(path, index=False)
    schema = parse(draft_schema(path))
    assert (schema.label.column, schema.label.delay_days) == ("IS_FRAUD", 7)
    assert schema.time == TimeColumn("TIME")
    assert schema.amount is not None and schema.amount.column == "AMOUNT"
    assert (schema.parties.customer, schema.parties.terminal) == ("CUSTOMER", "TERMINAL")
    assert schema.partition == "BANK"
    assert set(schema.never) == {"TRANSACTION", "SCENARIO"}
    assert [t.column for t in schema.text] == ["DESCRIPTION"]
    assert len(load_federation(path, schema).banks) == 3


def test_a_draft_recognises_a_paysim_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 400
    kinds = rng.choice(["PAYMENT", "TRANSFER", "CASH_OUT"], n)
    frame = pd.DataFrame({"step": np.sort(rng.integers(1, 700, n)), "type": kinds})
    frame["amount"] = rng.lognormal(10, 1, n).round(2)
    frame["nameOrig"] = [f"C{i}" for i in rng.integers(0, 350, n)]
    frame["oldbalanceOrg"] = rng.lognormal(10, 1, n).round(2)
    frame["newbalanceOrig"] = rng.lognormal(10, 1, n).round(2)
    frame["nameDest"] = [f"M{i}" for i in rng.integers(0, 50, n)]
    frame["oldbalanceDest"] = rng.lognormal(10, 1, n).round(2)
    frame["newbalanceDest"] = rng.lognormal(10, 1, n).round(2)
    frame["isFraud"] = (rng.random(n) < 0.05).astype(int)
    frame["isFlaggedFraud"] = 0
    path = tmp_path / "paysim.csv"
    frame.to_csv(path, index=False)
    schema = parse(draft_schema(path))
    assert schema.label.column == "isFraud" and "isFlaggedFraud" in schema.never
    assert schema.time == TimeColumn("step", "hours")
    assert (schema.parties.customer, schema.parties.terminal) == ("nameOrig", "nameDest")
    assert set(schema.categorical[0].vocabulary) == set(kinds)
    shipped = load_schema("paysim")
    assert len(load_transactions(path, shipped)) == n
    assert len(load_federation(path, shipped, clients=2).banks) == 2


def test_a_file_without_a_recognisable_label_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("a,b,t\n" + "1,0,x\n2,1,y\n" * 20)
    with pytest.raises(SchemaError, match="--label"):
        draft_schema(path)
    assert parse(draft_schema(path, "b")).label.column == "b"
    with pytest.raises(SchemaError, match="expected the label column 'z'"):
        draft_schema(path, "z")
    with pytest.raises(SchemaError, match="expected yes/no"):
        draft_schema(path, "t")


def test_words_for_yes_and_no_are_drafted_into_the_label(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("fraud,v\n" + "no,1.5\nyes,2.5\n" * 30)
    schema = parse(draft_schema(path))
    assert "yes" in schema.label.positive and "no" in schema.label.negative
    assert load_transactions(path, schema).label is not None


def test_the_command_drafts_checks_and_simulates(tmp_path: Path) -> None:
    run = CliRunner()
    data, drafted = str(tmp_path / "some.csv"), tmp_path / "some.toml"
    made = run.invoke(schema_command, ["--simulate", data, "--customers", "120"])
    assert made.exit_code == 0, made.output
    draft = run.invoke(schema_command, ["--init", data])
    assert draft.exit_code == 0, draft.output
    drafted.write_text(draft.stdout)
    checked = run.invoke(schema_command, ["--check", str(drafted), data, "--json"])
    assert checked.exit_code == 0, checked.output
    found = json.loads(checked.stdout)
    assert found["frauds"] > 0 and "IS_FRAUD" in found["columns"] and "amount" in found["features"]
    assert run.invoke(schema_command, ["--check", "fdh"]).exit_code == 0


@pytest.mark.parametrize("arguments", [[], ["--init", "a.csv", "--check", "b.toml"], ["--init", "a.csv", "b.csv"]])
def test_the_command_refuses_contradictory_options_as_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(schema_command, arguments).exit_code == 2
