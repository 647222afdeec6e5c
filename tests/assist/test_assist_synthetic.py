"""Synthetic rows: typed, in the schema's columns, and everything wrong with them is found before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fl.assist import synthetic
from fl.assist.aggregates import released_aggregates
from fl.assist.approval import Candidate, accept_unflagged, open_proposal, propose, read_approval, write_approval
from fl.assist.cache import Cache
from fl.assist.descriptions import Described, reads_text
from fl.assist.errors import AnswerMalformed, ApprovalError, LeakRefused, ScenarioError
from fl.assist.gateway import Gateway
from fl.assist.likeness import _jensen_shannon
from fl.assist.offline import OfflineProvider
from fl.assist.redact import Redactor
from fl.assist.release import Policy
from fl.assist.stories import _real
from fl.assist.synthetic import SyntheticSet, to_frame
from fl.assist.validation import Validation, own_findings, validate
from fl.data.federation import federation_of
from fl.data.schema import DAY_US, MICROSECONDS, Schema
from fl.data.schema_file import SHIPPED, load_schema
from fl.data.split import Period, Periods
from fl.errors import DataError
from tests.assist.model_server import ModelServer


@pytest.fixture(scope="module")
def made(described: Described, redactor: Redactor) -> SyntheticSet:
    gateway = Gateway(OfflineProvider(), Policy.nothing_leaves(described.schema), redactor, None)
    return synthetic.generate(gateway, described.schema, "a stolen card", 90)


def checked(made: SyntheticSet, described: Described, redactor: Redactor, banks: slice = slice(1, 2)) -> Validation:
    """Against the second bank unless more are asked for."""
    frame = to_frame(made, described.source.periods)
    table = synthetic.transactions(frame, reads_text(made.schema))
    return validate(made, table, _real(described)[banks], redactor)


def changed(made: SyntheticSet, row: int, **values: Any) -> SyntheticSet:
    rows = list(made.rows)
    rows[row] = {**rows[row], **values}
    return replace(made, rows=tuple(rows))


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_become_a_table_that_the_ordinary_reader_and_features_take(
    made: SyntheticSet, described: Described
) -> None:
    periods = described.source.periods
    frame = to_frame(made, periods)
    rows = synthetic.training_rows(frame, made.schema, periods)
    real = federation_of(described.source).banks[0].train
    assert rows.x.shape[1] == real.x.shape[1] and 0 < len(rows) < len(made)
    assert (rows.customer < 0).all() and (rows.index == -1).all(), "no bank's customer is meant"
    assert periods.train is not None
    assert rows.day.min() >= periods.train.start // DAY_US and rows.day.max() < periods.train.end // DAY_US


def test_an_answer_with_another_type_column_or_range_is_refused(schema: Schema) -> None:
    model = synthetic.row_model(schema)
    good = {"actor": 0, "place": 0, "day": 1, "minute": 2, "fraud": False, "AMOUNT": 3.0, "DESCRIPTION": "rent"}
    assert model.model_validate(good).model_dump(by_alias=True) == good
    for bad in (
        {**good, "AMOUNT": "3"},
        {**good, "minute": 1440},
        {**good, "day": -1},
        {**good, "fraud": 0},
        {**good, "SCENARIO": 1},
        {**good, "DESCRIPTION": "x" * 241},
        {**good, "DESCRIPTION": "rent\x1b[31m"},
        {k: v for k, v in good.items() if k != "AMOUNT"},
    ):
        with pytest.raises(ValidationError):
            model.model_validate(bad)


@pytest.mark.parametrize(("scenario", "rows"), [("", 10), ("  ", 10), ("theft", 1)])
def test_a_request_without_words_or_rows_is_refused(
    schema: Schema, redactor: Redactor, scenario: str, rows: int
) -> None:
    gateway = Gateway(OfflineProvider(), Policy.nothing_leaves(schema), redactor, None)
    with pytest.raises(ScenarioError):
        synthetic.generate(gateway, schema, scenario, rows)


# --- what leaves ----------------------------------------------------------------------------------------------------


def answer(content: dict[str, Any]) -> Any:
    row = {"actor": 0, "place": 0, "minute": 2, "AMOUNT": 3.0, "DESCRIPTION": "rent"}
    return {"transactions": [{**row, "day": i, "fraud": i == 0} for i in range(content["rows"])]}


def test_a_request_holds_the_schema_and_nothing_of_any_row(
    gateway_to: Callable[..., Gateway], server: ModelServer, schema: Schema
) -> None:
    server.answer = answer
    synthetic.generate(gateway_to(allow=()), schema, "small test charges, then a large one", 42)
    first, second = (request["input"] for request in server.requests)
    assert '"batch": 0' in first and '"batch": 1' in second and '"rows": 2' in second
    assert "SYN" not in first and "bank-" not in first and "aggregates" not in first


def test_aggregates_leave_only_when_asked_for_and_come_from_an_encrypted_sum(
    gateway_to: Callable[..., Gateway], server: ModelServer, described: Described
) -> None:
    federation = federation_of(described.source)
    released = released_aggregates(federation)
    x = [bank.train.x.astype(np.float64) for bank in federation.banks]
    assert np.allclose(released.mean, np.mean([b.mean(axis=0) for b in x], axis=0), atol=1e-4)
    assert released.banks == 3 and released.typical_amount is not None and 10 < released.typical_amount < 100
    server.answer = answer
    synthetic.generate(gateway_to(allow=()), described.schema, "theft", 40, released)
    assert "aggregates" in server.requests[0]["input"]


def test_a_scenario_that_names_a_customer_is_not_sent(
    gateway_to: Callable[..., Gateway], server: ModelServer, schema: Schema
) -> None:
    for scenario in ("Maria Gonzalez lost her card", "card 4111 1111 1111 1111", "like customer C00012"):
        with pytest.raises(LeakRefused, match="reword"):
            synthetic.generate(gateway_to(), schema, scenario, 40)
    assert server.bodies == []


def test_a_killed_set_resumes_where_it_stopped_and_a_bad_batch_is_not_paid_for_again(
    gateway_to: Callable[..., Gateway], server: ModelServer, schema: Schema, tmp_path: Path
) -> None:
    server.answer = lambda content: answer(content) if content["batch"] == 0 else {"transactions": [{"day": 1}]}
    for _ in range(2):
        with pytest.raises(AnswerMalformed):
            synthetic.generate(gateway_to(), schema, "theft", 80)
    assert len(server.bodies) == 2
    server.answer = answer
    gateway = gateway_to()
    gateway._cache = Cache(tmp_path / "cache", ask_again=True)
    assert len(synthetic.generate(gateway, schema, "theft", 80)) == 80
    assert len(server.bodies) == 3, "the first batch came from the cache"


# --- what is found --------------------------------------------------------------------------------------------------


def test_ordinary_synthetic_rows_have_no_blocking_findings(
    made: SyntheticSet, described: Described, redactor: Redactor
) -> None:
    found = checked(made, described, redactor, slice(None))
    kinds = [finding.kind for finding in found.findings if finding.blocks]
    assert len(kinds) <= 3 and set(kinds) <= {"near_copy"}, "chance flags about one in fifty"
    assert len(found.likeness) == 3
    for figures in found.likeness:
        assert figures.detector_auc is not None and 0.5 < figures.detector_auc <= 1.0
        assert 0.0 <= figures.nearer_to_training <= 1.0
        assert all(0.0 <= divergence <= 1.0 for divergence in figures.marginal.values())


def test_divergence_of_two_columns_by_hand() -> None:
    """Of (1, 0) and (1/2, 1/2): 1.5 - 0.75 log2 3 bits; of columns without a common value one bit."""
    flat, both = np.zeros(6, np.int64), np.array([0, 1] * 5)
    assert _jensen_shannon(flat, both) == pytest.approx(1.5 - 0.75 * np.log2(3), abs=1e-12)
    assert _jensen_shannon(flat, flat) == 0.0
    assert _jensen_shannon(flat, flat + 1) == 1.0


def _real_row(described: Described, made: SyntheticSet, number: int) -> dict[str, Any]:
    """A real training row of the second bank, in the form of an answer."""
    bank = _real(described)[1]
    table, at = bank.table, int(bank.train[number])
    assert table.time is not None and table.amount is not None and described.source.periods.train is not None
    first = (described.source.periods.train.end - 1) // DAY_US - made.days + 1
    return {
        "day": int(table.time[at] // DAY_US) - first,
        "minute": int(table.time[at] % DAY_US // MICROSECONDS["minutes"]),
        "AMOUNT": float(table.amount[at]),
        "DESCRIPTION": str(table.text["DESCRIPTION"][at]),
    }


DISGUISES = {
    "exact": (0, 0, 0.0),
    "amount shifted": (0, 0, 0.001),
    "a minute later": (0, 1, 0.0),
    "a week earlier": (-7, 0, 0.0),
    "three days earlier, amount shifted": (-3, 0, 0.002),
}


def test_copies_of_real_rows_are_caught_in_disguise_too(
    made: SyntheticSet, described: Described, redactor: Redactor
) -> None:
    planted, row = {}, 10
    spoiled = made
    for number in (3, 50, 111, 200, 301):
        for name, (days, minutes, share) in DISGUISES.items():
            real = _real_row(described, made, number)
            real["AMOUNT"] = round(real["AMOUNT"] * (1 + share), 2)
            real["minute"] = min(real["minute"] + minutes, 1439)
            real["day"] += days
            spoiled, planted[row], row = changed(spoiled, row, **real), (number, name), row + 1
    found = {f.row for f in checked(spoiled, described, redactor).findings if f.kind == "near_copy"}
    assert [what for row, what in planted.items() if row not in found] == []
    assert len(found - set(planted)) <= 3


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"AMOUNT": 1e7}, "range"),
        ({"AMOUNT": -5.0}, "range"),
        ({"day": 0, "minute": 0}, "order"),
        ({"DESCRIPTION": "fraudulent order"}, "label_in_text"),
        ({"DESCRIPTION": "is_fraud=1"}, "label_in_text"),
        ({"DESCRIPTION": "rent 4111 1111 1111 1111"}, "identifier"),
        ({"DESCRIPTION": "rent for Maria González"}, "identifier"),
    ],
)
def test_a_planted_fault_is_found_in_its_row_and_blocks_it(
    made: SyntheticSet, redactor: Redactor, values: dict[str, Any], kind: str
) -> None:
    findings = own_findings(changed(made, 45, **values), redactor)
    assert any(finding.row == 45 and finding.kind == kind for finding in findings)
    assert 45 in Validation(len(made), tuple(findings), ()).blocked


def test_a_repeated_row_is_found(made: SyntheticSet, redactor: Redactor) -> None:
    findings = own_findings(changed(made, 46, **made.rows[45]), redactor)
    assert [finding.row for finding in findings if finding.kind == "duplicate"] == [46]


def test_a_word_that_only_frauds_have_blocks_the_whole_set(made: SyntheticSet, redactor: Redactor) -> None:
    rows = tuple({**row, "DESCRIPTION": "order zz" if row["fraud"] else row["DESCRIPTION"]} for row in made.rows)
    found = Validation(len(made), tuple(own_findings(replace(made, rows=rows), redactor)), ())
    assert any(finding.kind == "label_leak" and finding.row is None for finding in found.findings)
    assert len(found.blocked) == len(made)


def test_an_amount_that_tells_the_label_is_reported_and_left_to_people(made: SyntheticSet, redactor: Redactor) -> None:
    rows = tuple({**row, "AMOUNT": 900.0 + i if row["fraud"] else 10.0 + i} for i, row in enumerate(made.rows))
    findings = own_findings(replace(made, rows=rows), redactor)
    assert any(finding.kind == "separable" and not finding.blocks for finding in findings)


def test_rows_taken_from_the_bank_itself_look_real_to_the_detector(
    made: SyntheticSet, described: Described, redactor: Redactor
) -> None:
    rows = sorted((_real_row(described, made, i) for i in range(0, 500, 5)), key=lambda r: (r["day"], r["minute"]))
    copied = [{"actor": i, "place": i, "fraud": i < 9, **row} for i, row in enumerate(rows[:99])]
    stolen = replace(made, rows=tuple(copied), batch=(0,) * len(copied))
    found = checked(stolen, described, redactor)
    own = found.likeness[0]
    assert own.detector_auc is not None and own.detector_auc < 0.75
    assert own.nearer_to_training > 0.5, "they are training rows"
    assert sum(finding.kind == "near_copy" for finding in found.findings) >= 99


# --- approval -------------------------------------------------------------------------------------------------------

CANDIDATES = (
    Candidate({"AMOUNT": "3.50", "DESCRIPTION": "rent"}, "", False),
    Candidate({"AMOUNT": "-1.0", "DESCRIPTION": "=1+1"}, "range: too small", True),
    Candidate({"AMOUNT": "7", "DESCRIPTION": "order"}, "separable: look", False),
)


def decide(path: Path, **decisions: tuple[str, str]) -> None:
    """Fill in (decision, reviewer) by row, as a spreadsheet would save it."""
    import csv

    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for row, (decision, reviewer) in decisions.items():
        lines[int(row[1:])] |= {"decision": decision, "reviewer": reviewer}
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(lines)


def test_only_accepted_rows_are_approved(tmp_path: Path) -> None:
    path = tmp_path / "approval.csv"
    write_approval(path, CANDIDATES, "by")
    assert read_approval(path, CANDIDATES, "by").accepted == ()
    decide(path, r0=("Accept", "A. Nalyst"), r2=("reject", ""))
    found = read_approval(path, CANDIDATES, "by")
    assert found.accepted == (0,) and found.rejected == 2 and found.reviewers == ("A. Nalyst",)


@pytest.mark.parametrize(
    ("row", "decision", "message"),
    [
        ("r1", ("accept", "me"), "cannot be accepted"),
        ("r0", ("accept", " "), "accepted without a reviewer"),
        ("r0", ("yes", "me"), "accept or reject"),
    ],
)
def test_a_decision_that_cannot_stand_is_refused(
    tmp_path: Path, row: str, decision: tuple[str, str], message: str
) -> None:
    path = tmp_path / "approval.csv"
    write_approval(path, CANDIDATES, "by")
    decide(path, **{row: decision})
    with pytest.raises(ApprovalError, match=message):
        read_approval(path, CANDIDATES, "by")


@pytest.mark.parametrize("forgery", [("3.50", "350"), ("order", "other"), ("range: too small", ""), ("\n2,", "\n9,")])
def test_a_changed_cell_is_refused(tmp_path: Path, forgery: tuple[str, str]) -> None:
    path = tmp_path / "approval.csv"
    write_approval(path, CANDIDATES, "by")
    path.write_bytes(path.read_bytes().replace(forgery[0].encode(), forgery[1].encode()))
    with pytest.raises(ApprovalError, match="was changed"):
        read_approval(path, CANDIDATES, "by")


def test_a_deleted_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "approval.csv"
    write_approval(path, CANDIDATES, "by")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ApprovalError, match="expected 3 rows, got 2"):
        read_approval(path, CANDIDATES, "by")


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "approval.csv"
    write_approval(path, CANDIDATES, "by")
    assert ",'=1+1" in path.read_text() and ",=1+1" not in path.read_text() and ",-1.0," in path.read_text()


def test_accepting_all_unflagged_rows_leaves_flagged_ones_to_people(tmp_path: Path) -> None:
    path = tmp_path / "approval.csv"
    write_approval(path, CANDIDATES, "by")
    with pytest.raises(ApprovalError):
        accept_unflagged(path, CANDIDATES, "by", " ")
    assert accept_unflagged(path, CANDIDATES, "by", "A. Nalyst") == 1
    found = read_approval(path, CANDIDATES, "by")
    assert found.accepted == (0,) and found.undecided == 1


def test_a_file_with_decisions_is_never_overwritten(tmp_path: Path) -> None:
    about = {"made_by": {"provider": "offline", "model": "m", "prompt": "p"}}
    propose(tmp_path, "kind", CANDIDATES, about)
    with pytest.raises(ApprovalError, match="may hold decisions"):
        propose(tmp_path, "kind", CANDIDATES, about)
    assert open_proposal(tmp_path).candidates == CANDIDATES
    with pytest.raises(ApprovalError, match="of kind"):
        open_proposal(tmp_path, "examples")
    with pytest.raises(ApprovalError, match="nothing is accepted"):
        open_proposal(tmp_path).require_accepted()
    with pytest.raises(ApprovalError, match="expected candidates"):
        open_proposal(tmp_path / "absent")


def test_rows_that_hold_only_frauds_cannot_be_trained_on(made: SyntheticSet, described: Described) -> None:
    frame = to_frame(made, described.source.periods)
    frauds = frame[frame["IS_FRAUD"] == "1"]
    with pytest.raises(DataError, match="only frauds"):
        synthetic.training_rows(frauds, made.schema, described.source.periods)


@pytest.mark.parametrize("name", SHIPPED)
def test_rows_of_every_shipped_schema_reach_training(name: str, redactor: Redactor) -> None:
    schema = load_schema(name)
    gateway = Gateway(OfflineProvider(), Policy.nothing_leaves(schema), redactor, None)
    made = synthetic.generate(gateway, schema, "a stolen card", 80)
    start = 17_650 * DAY_US if schema.time is not None and schema.time.has_calendar else 0
    periods = Periods(Period(start, start + 60 * DAY_US), (), 1, {})
    rows = synthetic.training_rows(to_frame(made, periods), schema, periods)
    assert 0 < len(rows) <= 80 and rows.y.sum() > 0 and np.isfinite(rows.x).all()
    assert not own_findings(made, redactor)


# --- data that is not weeks long -------------------------------------------------------------------------------------

HOUR_US = MICROSECONDS["hours"]


@pytest.mark.parametrize(
    ("start", "end"),
    [(9 * HOUR_US, 15 * HOUR_US), (-3 * HOUR_US, 5 * HOUR_US), (2 * DAY_US, 5 * DAY_US)],
    ids=["hours of one day", "hours around midnight", "fewer days than a set has"],
)
def test_rows_for_a_short_training_period_fall_into_it(
    made: SyntheticSet, described: Described, start: int, end: int
) -> None:
    day = 20_000 * DAY_US
    short = replace(described.source.periods, train=Period(day + start, day + end))
    table = synthetic.transactions(to_frame(made, short), made.schema)
    rows = synthetic.training_rows(to_frame(made, short), made.schema, short)
    learnt = sum(row["day"] >= made.schema.history_days for row in made.rows)
    assert 0 < learnt <= len(rows) < len(made), "the days before give features a past"
    assert table.time is not None and table.time.max() < day + end
    assert len(np.unique(table.time)) > 0.9 * len(made), "times of a day stay apart"


def test_whole_weeks_of_training_move_no_minute(made: SyntheticSet, described: Described) -> None:
    periods = described.source.periods
    assert periods.train is not None and made.schema.time is not None
    first = periods.train.end // DAY_US - made.days
    asked = [(first + row["day"]) * DAY_US + row["minute"] * MICROSECONDS["minutes"] for row in made.rows]
    times = to_frame(made, periods)[made.schema.time.column].to_numpy("datetime64[us]").astype(np.int64)
    assert times.tolist() == asked
