"""What banks and the SuperLink say about models: a quorum that agrees is believed, and nobody ends a run alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flower_federation import QUICK, Federation, only

from fl.flower.errors import ModelsDiverged
from fl.flower.logs import read_log
from fl.flower.parties.bank import BankParty

LIES = [
    {"rounds": 10**6},
    {"rounds": 0},
    {"model": "ab" * 32},
    {"model": ""},
    {"rounds": 2, "model": "ab" * 32},
    {"length": 41},
    {"length": 99_999},
    {"length": 2**40},
    {"step": 2**63 - 2},
    {"step": 0},
    {"finished": 1},
]
BRIEF = replace(QUICK, ready_s=0.1)
NEXT_STEPS = [{"next_step": 1}, {"next_step": 2**63 - 2}]


def lies(monkeypatch: pytest.MonkeyPatch, who: set[str], lie: dict[str, object]) -> None:
    """Banks that sign something else about their model than what they hold."""
    true = BankParty._model_fields
    monkeypatch.setattr(
        BankParty, "_model_fields", lambda bank: {**true(bank), **(lie if bank.organisation in who else {})}
    )


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_bank_that_lies_about_its_model_is_set_aside_and_the_others_play_every_round(
    federation, monkeypatch, lie: dict[str, object]
) -> None:
    here: Federation = federation()
    here.rounds().run(1)
    lies(monkeypatch, {"bank-1"}, lie)
    outcome = here.rounds(BRIEF).run(3)
    assert [each.number for each in outcome.rounds] == [2, 3]
    assert all(set(each.members) == {"bank-0", "bank-2", "bank-3"} for each in outcome.rounds)
    assert outcome.model == here.model_of("bank-0").digest.hex()


@pytest.mark.parametrize("lie", NEXT_STEPS, ids=str)
def test_a_bank_that_lies_about_its_steps_costs_steps_and_nothing_else(
    federation, monkeypatch, lie: dict[str, object]
) -> None:
    here: Federation = federation()
    here.rounds().run(1)
    lies(monkeypatch, {"bank-1"}, lie)
    assert [each.lost for each in here.rounds(BRIEF).run(3).rounds] == [(), ()]


def test_banks_that_agree_on_a_lie_are_no_more_believed_than_a_quorum(federation, monkeypatch) -> None:
    here: Federation = federation()
    here.rounds().run(1)
    lies(monkeypatch, {"bank-1", "bank-2"}, {"model": "ab" * 32})
    with pytest.raises(ModelsDiverged, match=r"bank-1, bank-2: model abababab.*expected at least 3 of them"):
        here.rounds(BRIEF).run(3)


@pytest.mark.parametrize(
    ("action", "lie"),
    [
        ("accept", {"rounds": 10**6}),
        ("accept", {"model": "ab" * 32}),
        ("accept", {"length": 2**40}),
        ("accept", {"step": 0}),
        ("start", {"rounds": 10**6}),
        ("start", {"model": ""}),
    ],
    ids=str,
)
def test_what_a_superlink_changes_in_one_answer_costs_no_round_of_the_run(
    federation, tmp_path: Path, action: str, lie: dict[str, object]
) -> None:
    here: Federation = federation()

    def alter(message, deliver):  # type: ignore[no-untyped-def]
        reply = deliver(message)
        for name, value in lie.items():
            reply.content["secagg"][name] = value
        return reply

    here.fail("bank-1", only(action, alter, times=1))
    outcome = here.rounds().run(4)
    assert [each.number for each in outcome.rounds] == [1, 2, 3, 4]
    assert "bank-1" in outcome.rounds[-1].members and not any(each.lost for each in outcome.rounds)
    aside = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "bank set aside"]
    assert [(event["organisation"], event["bank"], event["error"]) for event in aside] == [
        ("aggregator", "bank-1", "BadSignature")
    ]
