"""What a bank can know before it joins is said in its join: no round is closed over an update that nobody can take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flower_federation import LENGTH, QUICK, Federation, update_of

from fl.flower.errors import FlowerError, PartiesMissing, RoundFailed
from fl.flower.logs import read_log
from secagg.journal import audit_journal

BRIEF = replace(QUICK, ready_s=0.1)  # nobody is waited for who said why it takes no part


def trains(monkeypatch: pytest.MonkeyPatch, partition: int, update) -> None:  # type: ignore[no-untyped-def]
    """Have one bank's training give update(number, attempt)."""
    monkeypatch.setattr(
        "flower_federation.update_of",
        lambda bank, number, attempt, length: (
            update(number, attempt) if bank == partition else update_of(bank, number, attempt, length)
        ),
    )


def spoiled(value: float) -> np.ndarray:
    update = update_of(1, 1, 0)
    update[7] = value
    return update


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused_in_the_join_and_costs_no_round(
    federation, tmp_path: Path, monkeypatch, value: float
) -> None:
    here = federation()
    trains(monkeypatch, 1, lambda *_: spoiled(value))
    (report,) = here.rounds().run(1).rounds
    assert report.lost == () and report.left_out == ("bank-1",)
    (refused,) = report.refused
    assert refused == "bank-1: UpdateNotFinite: the update cannot be encrypted; this bank's log says why"
    events = read_log(tmp_path / "log.jsonl")
    (unusable,) = [event for event in events if event["event"] == "unusable update"]
    assert "value 7 is NaN or infinite" in unusable["message"]  # where it is stays at the bank
    assert not [event for event in events if event["event"] == "round lost"]


@pytest.mark.parametrize("partition", [0, 3])
@pytest.mark.parametrize("max_weight", [3])
def test_examples_that_the_plan_does_not_hold_are_refused_in_the_join(
    federation, monkeypatch, partition: int, max_weight: int
) -> None:
    """bank-3 has four examples, above max_weight; bank-0 is made to have none."""
    here = federation(max_weight=max_weight)
    if partition == 0:
        from fl.flower.parties import bank

        honest = bank.BankParty._weight
        monkeypatch.setattr(
            bank.BankParty,
            "_weight",
            lambda party, trained: 0 if party.organisation == "bank-0" else min(3, honest(party, trained)),
        )
    (report,) = here.rounds().run(1).rounds
    assert report.lost == () and report.left_out == (f"bank-{partition}",)
    told = "WeightOutOfRange: weight: expected an integer in 1..3; this bank's log has the value"  # no row count
    assert report.refused[0] == f"bank-{partition}: {told}"


def test_an_update_equal_to_an_earlier_one_is_refused_in_the_join_with_what_to_do(federation, monkeypatch) -> None:
    here = federation()
    trains(monkeypatch, 1, lambda number, attempt: update_of(1, 1, 0))
    first, second = here.rounds().run(2).rounds
    assert "bank-1" in first.members
    assert second.lost == () and second.left_out == ("bank-1",)
    assert "ModelMismatch: training gives the same update" in second.refused[0] and "allow_reuse" in second.refused[0]


def test_updates_that_differ_by_less_than_the_quantisation_end_in_a_refusal_and_not_in_endless_training(
    federation, monkeypatch
) -> None:
    here = federation()
    attempts: list[int] = []

    def nearly_the_same(number: int, attempt: int) -> np.ndarray:
        attempts.append(attempt)
        return (update_of(1, 1, 0) + np.float32(attempt + 10 * number) * np.float32(1e-9)).astype(np.float32)

    trains(monkeypatch, 1, nearly_the_same)
    second = here.rounds().run(2).rounds[1]
    assert second.left_out == ("bank-1",) and len(attempts) < 40


def test_an_update_that_was_used_is_trained_anew_before_the_join_where_training_can(federation, monkeypatch) -> None:
    here = federation()
    trains(
        monkeypatch,
        1,
        lambda number, attempt: update_of(1, 1, 0) if number == 2 and not attempt else update_of(1, number, attempt),
    )
    second = here.rounds().run(2).rounds[1]
    assert second.lost == () and "bank-1" in second.members
    exact = update_of(1, 2, 1).astype(np.float64) / 4 + np.mean([update_of(b, 2, 0) for b in (0, 2, 3)], axis=0) * 0.75
    moved = np.asarray(here.model_of("bank-0").vector, dtype=np.float64)
    first = here.exact([0, 1, 2, 3], 1)
    assert np.abs(moved - first - exact).max() < 1e-5


def test_a_refused_join_leaves_no_open_round_in_the_journal_and_is_tried_anew_next_time(
    federation, monkeypatch
) -> None:
    here = federation()
    calls: list[int] = []

    def fails_once(number: int, attempt: int) -> np.ndarray:
        calls.append(number)
        return spoiled(np.nan) if len(calls) == 1 else update_of(1, number, attempt)

    trains(monkeypatch, 1, fails_once)
    first, second = here.rounds().run(2).rounds
    assert "bank-1" not in first.members and "bank-1" in second.members
    assert second.refused == ()
    here.restart("bank-1")
    rounds = audit_journal(here.parties.home("bank-1") / "journal.db").rounds
    assert [(each.step, each.offer is None, each.finished) for each in rounds] == [(1, True, True), (2, False, True)]


def test_without_a_quorum_the_run_ends_with_what_the_banks_said(federation, monkeypatch) -> None:
    here: Federation = federation(banks=3)
    trains(monkeypatch, 1, lambda *_: spoiled(np.nan))
    with pytest.raises(FlowerError) as caught:
        here.rounds(BRIEF).run(1)
    assert isinstance(caught.value, RoundFailed)
    assert "bank-1: UpdateNotFinite: the update cannot be encrypted" in str(caught.value)
    assert "SuperNodes" not in str(caught.value)


def test_a_bank_that_failed_in_the_round_is_named_with_its_reason_when_too_few_are_left(federation) -> None:
    from flower_federation import only
    from flwr.app import Message

    from fl.flower.transport import Call, to_records

    here: Federation = federation(banks=3)

    def refuses(message: Message, deliver):  # type: ignore[no-untyped-def]
        return Message(to_records(Call({"error": "DiskFull", "message": "no space"}), "contribute"), reply_to=message)

    here.fail("bank-1", only("contribute", refuses))
    with pytest.raises(RoundFailed) as caught:  # without bank-1 there is no quorum: it is asked again
        here.rounds(BRIEF).run(1)
    assert "3 attempts failed: bank-1: contribution: DiskFull: no space" in str(caught.value)
    assert "SuperNodes" not in str(caught.value)


def test_a_bank_that_says_nothing_is_the_one_that_is_asked_about(federation) -> None:
    from flower_federation import silent

    here: Federation = federation(banks=3)
    here.fail("bank-0", silent)
    with pytest.raises(PartiesMissing, match="no answer from bank-0: check that their SuperNodes and residents run"):
        here.rounds(BRIEF).run(1)


def test_the_federations_updates_have_the_length_that_these_tests_spoil() -> None:
    assert spoiled(np.nan).shape == (LENGTH,)
