"""A file of one's own in a federation on this machine: who its banks are, which days they agree on, what they train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import risky_banks
from click.testing import CliRunner
from flower_federation import end_process
from private_federation import PATIENT

from demos.network import network
from fl.data.constants import Constant
from fl.data.federation import read_partitioned
from fl.data.schema import DatedSplit
from fl.data.schema_file import load_schema, parse_schema
from fl.errors import PartitionError, SplitError
from fl.flower import client_app, key_holder_app
from fl.flower.comparison import in_process
from fl.flower.errors import SettingsError
from fl.flower.local_data import LocalData, prepare
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.loopback import LoopbackGrid, Node
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.private.local import private_parties
from fl.flower.private.plan import Course, make_plan
from fl.flower.settings import PlanSettings, load_settings
from fl.flower.workflow import EncryptedRounds
from fl.runs.asked import configuration

FRACTIONS = "[split]\ntrain_fraction = 0.7\ntest_fraction = 0.3\nvalidation_share = 0.2\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    path = risky_banks.written(folder, risky_banks.frame())
    text = (folder / "risky.toml").read_text()
    (folder / "fractions.toml").write_text(text[: text.index("[split]")] + FRACTIONS)
    return path


def schema_beside(data: Path, name: str = "risky") -> str:
    return str(data.parent / f"{name}.toml")


# --- who the banks are -----------------------------------------------------------------------------------------------


def test_banks_are_those_of_the_schemas_column(data: Path, tmp_path: Path) -> None:
    made = prepare(tmp_path, data, schema_beside(data))
    assert made.banks == risky_banks.BANKS
    assert made.tables["bank-1"] == {
        "data": str(data), "schema": str(tmp_path / "schema.toml"), "partition": "BANK", "seed": 0, "bank": "bank-1",
    }  # fmt: skip
    assert (tmp_path / "schema.toml").read_text() == (data.parent / "risky.toml").read_text()


def test_random_banks_are_the_same_when_each_bank_looks_them_up(data: Path, tmp_path: Path) -> None:
    made = prepare(tmp_path, data, schema_beside(data), clients=4, seed=2)
    read = read_partitioned(data, made.common["schema"], made.common["partition"], seed=2)
    drawn = {name: rows.tolist() for name, rows, _ in made.source.banks}
    assert {name: rows.tolist() for name, rows, _ in read.banks} == drawn and len(drawn) == 4


def test_three_random_banks_stand_in_where_nothing_names_any(data: Path, tmp_path: Path) -> None:
    text = (data.parent / "risky.toml").read_text().replace('[partition]\ncolumn = "BANK"\n', "")
    (tmp_path / "alone.toml").write_text(text)
    assert prepare(tmp_path / "made", data, str(tmp_path / "alone.toml")).banks == ("bank-0", "bank-1", "bank-2")


def test_random_banks_of_rows_without_customers_are_refused(data: Path, tmp_path: Path) -> None:
    text = (data.parent / "risky.toml").read_text().replace('customer = "CARD"\n', "").replace("[partition]", "[old]")
    text = text.replace('[old]\ncolumn = "BANK"\n', "")
    (tmp_path / "nobody.toml").write_text(text)
    with pytest.raises(PartitionError, match="names no customer column: name a column of banks"):
        prepare(tmp_path / "made", data, str(tmp_path / "nobody.toml"), clients=3)


def test_a_file_of_banks_is_found_from_any_folder(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cards = [f"C{number}" for number in range(600)]
    pd.DataFrame({"CARD": cards, "B": [f"b{number % 3}" for number in range(600)]}).to_csv("mine.csv", index=False)
    made = prepare(tmp_path / "made", data, schema_beside(data), "mine.csv:B")
    assert made.common["partition"] == f"{tmp_path}/mine.csv:B" and made.banks == ("b0", "b1", "b2")


@pytest.mark.parametrize("name", ["north/south", "..", "-x", 'a"b', "x" * 61, " north"])
def test_a_bank_whose_name_is_no_name_of_a_folder_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    frame = pd.read_csv(data, dtype=str)
    frame.loc[frame.BANK == "bank-1", "BANK"] = name
    frame.to_csv(tmp_path / "named.csv", index=False)
    with pytest.raises(SettingsError, match="expected a name of letters and digits"):
        prepare(tmp_path / "made", tmp_path / "named.csv", schema_beside(data))


def test_more_banks_than_a_machine_can_play_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected 3 to 12 banks, .* got 13"):
        prepare(tmp_path, data, schema_beside(data), clients=13)


def test_constants_that_nobody_computed_yet_are_refused_before_the_file_is_read(data: Path, tmp_path: Path) -> None:
    text = (data.parent / "risky.toml").read_text().replace("typical = 50.0\nspread = 0.6", 'constants = "shared"')
    (tmp_path / "drafted.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"schema '.*' leaves the scaling constants of AMOUNT .* demos train"):
        prepare(tmp_path / "made", data, str(tmp_path / "drafted.toml"))
    assert not (tmp_path / "made").exists()


def test_the_schema_that_a_run_wrote_holds_the_constants(data: Path, tmp_path: Path) -> None:
    text = (data.parent / "risky.toml").read_text().replace("typical = 50.0\nspread = 0.6", 'constants = "shared"')
    drafted = parse_schema(text, "drafted")
    written = drafted.with_constants([Constant("AMOUNT", 3.9, 0.7)]).source
    (tmp_path / "known.toml").write_text(written)
    assert prepare(tmp_path / "made", data, str(tmp_path / "known.toml")).banks == risky_banks.BANKS
    assert (tmp_path / "made" / "schema.toml").read_text() == written


# --- which days they agree on ----------------------------------------------------------------------------------------


def test_fractions_become_days_that_keep_the_label_delay_between_them(data: Path, tmp_path: Path) -> None:
    made = prepare(tmp_path, data, schema_beside(data, "fractions"), calendar=True)
    schema = load_schema(made.common["schema"])
    assert isinstance(schema.split, DatedSplit) and schema.validation_share == 0.2
    (test,) = schema.split.test
    assert schema.split.train.first == risky_banks.FIRST_DAY
    assert test.first > schema.split.train.last + risky_banks.DELAY
    assert test.last == risky_banks.FIRST_DAY + risky_banks.DAYS - 1
    by_days = {name: (len(held.train), len(held.test[0])) for name, _, held in made.source.banks}
    by_fractions = read_partitioned(data, schema_beside(data, "fractions"), None)
    for name, _, held in by_fractions.banks:
        assert by_days[name][0] == pytest.approx(len(held.train), rel=0.05)
        assert by_days[name][1] == pytest.approx(len(held.test[0]), rel=0.2)


def test_days_and_fractions_stay_as_they_are_where_banks_need_no_calendar(data: Path, tmp_path: Path) -> None:
    for name, calendar in (("risky", True), ("fractions", False)):
        prepare(tmp_path / name, data, schema_beside(data, name), calendar=calendar)
        assert (tmp_path / name / "schema.toml").read_text() == (data.parent / f"{name}.toml").read_text()


def test_rows_of_a_few_days_have_no_calendar(data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data)
    frame.loc[::9, "FRAUD"] = 1
    frame[frame.TIME < "2024-01-17"].to_csv(tmp_path / "short.csv", index=False)
    text = (data.parent / "fractions.toml").read_text().replace("delay_days = 7", "delay_days = 0")
    (tmp_path / "short.toml").write_text(text)
    with pytest.raises(SplitError, match="expected training and test to cover whole days"):
        prepare(tmp_path / "made", tmp_path / "short.csv", str(tmp_path / "short.toml"), calendar=True)


def test_days_of_fractions_are_days_that_every_bank_reaches_to(data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data)
    late = (frame.BANK == "bank-1") & ((frame.TIME < "2024-01-17") | (frame.TIME >= "2024-03-02"))
    frame[~late].to_csv(tmp_path / "late.csv", index=False)
    made = prepare(tmp_path / "made", tmp_path / "late.csv", schema_beside(data, "fractions"), calendar=True)
    split = load_schema(made.common["schema"]).split
    assert (split.train.first, split.test[0].last) == (risky_banks.FIRST_DAY + 2, risky_banks.FIRST_DAY + 46)


def test_a_bank_without_rows_on_the_days_of_the_schema_is_named_before_anything_starts(data, tmp_path) -> None:
    frame = pd.read_csv(data)
    frame[(frame.BANK != "bank-1") | (frame.TIME < "2024-03-01")].to_csv(tmp_path / "late.csv", index=False)
    with pytest.raises(SplitError, match="bank 'bank-1': expected rows from 2024-02-05 to 2024-03-03"):
        prepare(tmp_path / "made", tmp_path / "late.csv", schema_beside(data), calendar=True)


# --- what they train -------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[LocalParties]]:
    """Parties whose processes end with the test."""
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    made: list[LocalParties] = []
    yield made
    for parties in made:
        for name in parties.names:
            client_app.app_mod.forget(parties.home(name))
            end_process(parties.file(name))


def rounds_of(parties: LocalParties, made: LocalData) -> EncryptedRounds:
    nodes = [
        Node(key_holder_app.app if name == KEY_HOLDER else client_app.app, {"party": str(parties.file(name))})
        for name in (KEY_HOLDER, *made.banks)
    ]
    party = AggregatorParty(load_settings(parties.file(AGGREGATOR)))
    return EncryptedRounds(LoopbackGrid(nodes), party, limits=PATIENT)


def test_banks_that_read_the_file_get_the_model_of_one_process(data: Path, tmp_path: Path, ended) -> None:
    made = prepare(tmp_path / "data", data, schema_beside(data, "fractions"), seed=4)
    plan = PlanSettings(max_clients=3, clip=1.0, value_bits=20, max_weight=1, max_length=100_000)
    parties = LocalParties(tmp_path / "parties", plan, made.tables, reports={"hashes": ["model_hash"]})
    parties.make()
    ended.append(parties)
    outcome = rounds_of(parties, made).run(2, evaluate=True)
    expected = in_process(made.tables["bank-0"], plan, 2)
    assert {said["model_hash"] for said in outcome.reports.values()} == {expected.model_hash}
    assert expected.average_precision is not None and 0 < expected.average_precision <= 1
    assert in_process(made.tables["bank-0"], plan, 1).model_hash != expected.model_hash


def test_a_bank_that_the_file_does_not_hold_is_refused(data: Path, tmp_path: Path, ended) -> None:
    made = prepare(tmp_path / "data", data, schema_beside(data))
    plan = PlanSettings(max_clients=3, clip=1.0, value_bits=20, max_weight=1, max_length=100_000)
    parties = LocalParties(tmp_path / "parties", plan, {"bank-9": {**made.common, "bank": "bank-9"}})
    parties.make()
    with pytest.raises(SettingsError, match=r"expected a bank of .* \(bank-0, bank-1, bank-2\), got 'bank-9'"):
        client_app._workplace(parties.file("bank-9"))


def test_a_schema_beside_the_party_file_is_found_from_any_folder(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries = {"data": data.name, "schema": "risky.toml", "seed": 1}
    found = client_app.banks_of(entries, data.parent)
    assert [name for name, _, _ in found.banks] == list(risky_banks.BANKS)


def test_a_private_run_on_the_file_pays_at_every_bank(data: Path, tmp_path: Path, ended) -> None:
    made = prepare(tmp_path / "data", data, schema_beside(data, "fractions"), seed=4, calendar=True)
    config = configuration({"epsilon": 3.0, "rounds": 1, **made.common, "model": "noisy-or"})
    plan = make_plan(config, made.source)
    assert plan.agreed.first_day == risky_banks.FIRST_DAY and len(plan.agreed.registers["terminal"]) == 24
    tables = {name: {key: made.common[key] for key in ("data", "schema", "partition")} for name in made.banks}
    parties = private_parties(tmp_path / "parties", plan, made.source, tables)
    ended.append(parties)
    outcome = rounds_of(parties, made).run(Course.of(plan.at(made.source)).rounds, evaluate=True)
    assert len({said["model_hash"] for said in outcome.reports.values()}) == 1 and len(outcome.reports) == 3
    assert all((parties.home(bank) / "budget").iterdir() for bank in made.banks)
    assert all((parties.home(bank) / "comparison.json").exists() for bank in made.banks)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--schema", "fdh"], "give --data FILE as well"),
        (["--partition", "BANK"], "give --data FILE as well"),
        (["--data", "x.csv", "--customers", "100"], "--customers is a number of the embedded data"),
        (["--data", "x.csv", "--partition", "BANK", "--banks", "3"], "give one of them"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(options: list[str], said: str) -> None:
    done = CliRunner().invoke(network, options)
    assert done.exit_code == 2 and said in " ".join(done.output.split())
