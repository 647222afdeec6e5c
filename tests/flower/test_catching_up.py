"""A bank that missed rounds: what moves its model, what it writes down first, and what it does not move past."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flower_federation import LENGTH, QUICK, Federation, first_model, only, silent, silent_after_work

import secagg
from fl.flower import endpoint
from fl.flower.calls import Answer, Calls
from fl.flower.errors import ModelMismatch
from fl.flower.local_parties import KEY_HOLDER
from fl.flower.logs import read_log
from fl.flower.loopback import honest
from fl.flower.models import FlatModel
from fl.flower.parties.bank import BankParty
from fl.flower.parties.party import plan_of
from fl.flower.settings import load_settings
from fl.flower.transport import Call, from_records
from secagg import wire
from secagg.errors import LedgerError
from secagg.journal import MAX_STEP_JUMP, audit_journal
from secagg.ledger import compare_journal
from secagg.messages import Abort, Release
from secagg.transcript import signed_bytes

BANK_2 = 4  # its node


class KeyHolder:
    """The key holder's key in the hands of somebody who signs with it whatever is wanted."""

    def __init__(self, here: Federation) -> None:
        self._identity = secagg.Identity.load(here.parties.home(KEY_HOLDER) / "identity.json")
        self.plan = plan_of(load_settings(here.parties.file("bank-2")).plan, LENGTH)

    def release(self, like: bytes, step: int, model: bytes | None = None, shift: int = 0) -> bytes:
        """A release for another step, of a round that was never played."""
        true = wire.decode(like, self.plan)
        assert isinstance(true, Release)
        header = replace(true.header, step=step, model=true.header.model if model is None else model)
        if step != true.header.step:
            header = replace(header, round_id=step.to_bytes(16, "big"))
        sums = np.minimum(true.sums + shift, true.total_weight)
        unsigned = replace(true, header=header, sums=sums)
        return wire.encode(replace(unsigned, signature=self._identity.sign(signed_bytes(unsigned))), self.plan)


@pytest.fixture
def here(federation) -> Federation:
    return federation()


def noted(here: Federation, who: str, action: str, name: str) -> list[bytes]:
    """Where byte strings of a node's calls are collected from now on."""
    seen: list[bytes] = []

    def note(message, deliver):  # type: ignore[no-untyped-def]
        call = from_records(message.content)
        seen.extend(bytes(call.wires[name]) for _ in (1,) if name in call.wires)
        return deliver(message)

    here.fail(who, only(action, note))
    return seen


def accept(here: Federation, release: bytes) -> Answer:
    return Calls(here.grid).one("accept", BANK_2, Call({}, {"release": release}), 1.0)


def bank_party(here: Federation) -> BankParty:
    """bank-2, as it runs."""
    party = endpoint._ENDPOINTS[here.parties.file("bank-2").resolve()].party
    assert isinstance(party, BankParty)
    return party


def model(here: Federation) -> bytes:
    return here.model_of("bank-2").digest


def journal(here: Federation) -> Iterator[tuple[int, str]]:
    """Steps in the journal of bank-2 and how each ended; its process is over afterwards."""
    here.restart("bank-2")
    for each in audit_journal(here.parties.home("bank-2") / "journal.db").rounds:
        release = "joined, released" if each.offer is not None else "released"
        yield each.step, "aborted" if each.aborted else "open" if each.release is None else release


def compared(here: Federation, tmp_path: Path) -> int:
    """The audit of the key holder's ledger against the journal of bank-2."""
    for name in (KEY_HOLDER, "bank-2"):
        here.restart(name)
    for name, log in ((KEY_HOLDER, "ledger.db"), ("bank-2", "journal.db")):
        shutil.copy(here.parties.home(name) / log, tmp_path / log)
    return compare_journal(tmp_path / "ledger.db", tmp_path / "journal.db")


def test_every_release_that_moved_a_bank_is_in_its_journal_and_agrees_with_the_ledger(here, tmp_path) -> None:
    here.fail("bank-2", only("join", silent, times=1))
    here.rounds().run(2)
    assert compared(here, tmp_path) == 2
    assert list(journal(here)) == [(1, "released"), (2, "joined, released")]


def test_a_release_signed_for_one_bank_alone_is_found_by_the_audit(here, tmp_path) -> None:
    releases = noted(here, "bank-0", "accept", "release")
    here.rounds().run(1)
    before = model(here)
    forged = KeyHolder(here).release(releases[0], 2, model=before, shift=1)
    assert not accept(here, forged).error  # the key holder signed it for this bank's model: the bank cannot know better
    assert model(here) != before
    with pytest.raises(LedgerError, match="step 2: the client caught up with its release, and the ledger has no such"):
        compared(here, tmp_path)


def test_a_second_release_of_a_step_is_refused_by_name_and_moves_nothing(here) -> None:
    releases = noted(here, "bank-0", "accept", "release")
    here.fail("bank-2", only("join", silent))
    here.rounds().run(1)
    assert accept(here, releases[0]).error == ""
    before = model(here)
    assert accept(here, releases[0]).error == ""  # the same bytes again
    other = KeyHolder(here).release(releases[0], 1, shift=1)
    answer = accept(here, other)
    assert answer.error == "ReleaseDiffers" and "audit" in answer.message
    assert model(here) == before


def test_a_crash_between_the_journal_and_the_model_is_mended_by_the_same_release_and_no_other(
    here, monkeypatch
) -> None:
    releases = noted(here, "bank-0", "accept", "release")
    here.fail("bank-2", only("join", silent))
    here.rounds().run(1)
    before = model(here)
    with monkeypatch.context() as patched:
        patched.setattr("fl.flower.parties.bank.replace_durably", _no_disk)
        with pytest.raises(Exception, match="no disk"):
            accept(here, releases[0])
    here.restart("bank-2")
    assert model(here) == before
    assert accept(here, KeyHolder(here).release(releases[0], 1, shift=1)).error == "ReleaseDiffers"
    assert accept(here, releases[0]).error == ""
    assert model(here) == here.model_of("bank-0").digest
    assert list(journal(here)) == [(1, "released")]


def _no_disk(*_: object) -> None:
    raise OSError("no disk")


def test_a_bank_moves_past_no_round_that_has_its_contribution_until_that_is_aborted_in_writing(here) -> None:
    releases = noted(here, "bank-0", "accept", "release")
    here.fail("bank-2", only("contribute", silent_after_work, times=1))  # sealed, and its answer was lost
    here.rounds().run(1)
    assert next(iter(journal(here))) == (1, "open")
    before = model(here)
    answer = accept(here, releases[0])  # of step 2, which the others played without it
    assert answer.error == "RoundStillOpen" and "step 1" in answer.message
    assert model(here) == before
    outcome = here.rounds().run(2)  # the aggregator brings the abort along with the release
    assert "bank-2" in outcome.rounds[0].members and model(here).hex() == outcome.model
    assert list(journal(here)) == [(1, "aborted"), (2, "released"), (3, "joined, released")]


def test_a_bank_whose_round_was_refused_gets_that_in_writing_when_it_comes_back(here) -> None:
    def halve(message, deliver):  # type: ignore[no-untyped-def]
        from fl.flower.transport import to_records

        data = bytearray(from_records(message.content).wires["sum"])
        data[-100] ^= 1
        message.content = to_records(Call({}, {"sum": bytes(data)}), "release")
        return deliver(message)

    def refuse_the_sum(message, deliver):  # type: ignore[no-untyped-def]
        """As a sum would be refused that only its decryption shows to be wrong."""
        here.fail("bank-2", only("join", silent))
        return halve(message, deliver)

    here.fail(KEY_HOLDER, only("release", refuse_the_sum, times=1))
    here.rounds().run(1)
    here.fail("bank-2", lambda message, deliver: deliver(message))
    outcome = here.rounds().run(2)
    assert "bank-2" in outcome.rounds[0].members
    assert next(iter(journal(here))) == (1, "aborted")


def test_a_bank_that_is_in_a_round_is_not_moved_under_it_by_a_release_of_another_round_of_that_step(here) -> None:
    """It is delivered between join and contribution."""
    releases = noted(here, "bank-0", "accept", "release")
    here.rounds().run(1)
    forged = KeyHolder(here).release(releases[0], 2, model=model(here))

    def first(message, deliver):  # type: ignore[no-untyped-def]
        assert accept(here, forged).error == "ReleaseDiffers"
        return deliver(message)

    here.fail("bank-2", only("contribute", first))
    outcome = here.rounds().run(2)
    assert outcome.rounds[0].lost == () and "bank-2" in outcome.rounds[0].members


def test_a_bank_gets_the_abort_that_it_needs_however_many_rounds_were_lost_before_it(here, monkeypatch) -> None:
    monkeypatch.setattr("fl.flower.parties.key_holder._MAX_ABORTS", 1)
    here.fail("bank-3", only("contribute", silent, times=1))  # step 1 is lost
    calls: list[int] = []

    def second(message, deliver):  # type: ignore[no-untyped-def]
        calls.append(len(calls))
        answer = deliver(message)
        return None if len(calls) == 2 else answer

    here.fail("bank-2", only("contribute", second))  # and step 2, which has a contribution of bank-2
    assert here.rounds().run(1).rounds[0].step == 3
    outcome = here.rounds().run(2)
    assert "bank-2" in outcome.rounds[0].members and model(here).hex() == outcome.model


def test_aborts_that_are_asked_for_again_are_the_same_bytes_and_change_nothing(here) -> None:
    aborts = noted(here, "bank-0", "join", "abort-0")
    here.fail("bank-2", only("contribute", silent_after_work, times=1))
    here.rounds().run(1)
    (abort,) = [wire.decode(data, KeyHolder(here).plan) for data in aborts]
    assert isinstance(abort, Abort)
    request = here.party.request("stored", 0, abort.header.model, LENGTH)
    for _ in range(2):
        answer = Calls(here.grid).one("stored", 1, Call({}, {"request": request}), 1.0)
        assert [bytes(each) for each in answer.call.numbered("abort")] == aborts
        assert answer.call.number("step") == 2


def test_the_log_says_how_each_release_was_taken(here, tmp_path) -> None:
    here.fail("bank-2", only("join", silent, times=1))
    here.rounds().run(2)
    taken = [
        (event["step"], event["how"])
        for event in read_log(tmp_path / "log.jsonl")
        if event["event"] == "accepted" and event["organisation"] == "bank-2"
    ]
    assert taken == [(1, "caught up"), (2, "member")]


# --- an offer that no ledger holds ----------------------------------------------------------------------------------


def offered_to_bank_2(here: Federation, step: int) -> None:
    """Have bank-2 join an offer that the key holder's key signed and that its ledger does not hold."""
    identity = secagg.Identity.load(here.parties.home(KEY_HOLDER) / "identity.json")
    plan = here.party.plan(LENGTH)
    offer = secagg.KeyHolder(identity, here.party.enrolment, plan, 3).open(step, model(here))
    answer = Calls(here.grid).one("join", BANK_2, Call({}, {"offer": wire.encode(offer, plan)}), 1.0)
    assert not answer.error


@pytest.mark.parametrize("jump", [1, 2, 1000])
def test_an_offer_that_stands_in_no_ledger_costs_steps_and_one_round_and_not_the_bank(here, jump: int) -> None:
    here.rounds().run(1)
    offered_to_bank_2(here, 1 + jump)
    second, third = here.rounds().run(3).rounds
    assert second.step == 2 + jump  # one above what bank-2 has joined
    assert "bank-2" not in second.members  # its join says what it was offered, and the ledger holds no such offer
    assert any(f"step {1 + jump}: bank-2 was offered it" in said for said in second.refused)
    assert "bank-2" in third.members and second.lost == third.lost == ()
    assert model(here) == here.model_of("bank-0").digest


def test_a_bank_that_joined_as_far_above_as_it_may_is_back_within_two_jumps_of_the_ledger(here) -> None:
    here.rounds().run(1)
    offered_to_bank_2(here, MAX_STEP_JUMP)
    rounds = here.rounds().run(6).rounds
    assert [each.step for each in rounds] == [1 + MAX_STEP_JUMP // 2, *range(1 + MAX_STEP_JUMP, 5 + MAX_STEP_JUMP)]
    assert "bank-2" in rounds[-1].members and model(here) == here.model_of("bank-0").digest


def test_a_bank_moves_past_a_round_that_it_only_joined_also_while_it_is_in_it(here) -> None:
    releases = noted(here, "bank-0", "accept", "release")
    here.rounds().run(1)
    offered_to_bank_2(here, 9)
    here.fail("bank-2", silent)
    here.rounds(replace(QUICK, ready_s=0.1)).run(2)
    here.fail("bank-2", honest)
    assert accept(here, releases[1]).error == ""
    assert model(here) == here.model_of("bank-0").digest


def test_the_key_holder_opens_any_step_that_its_ledger_may_hold_and_gives_nothing_up_for_another(here) -> None:
    first = FlatModel.from_record(first_model()).digest

    def opened(step: int) -> Answer:
        request = here.party.request("open", step, first, LENGTH)
        return Calls(here.grid).one("open", 1, Call({}, {"request": request}), 1.0)

    assert not opened(7).error
    for step, refused in ((7, "StepNotIncreasing"), (3, "StepNotIncreasing"), (8 + MAX_STEP_JUMP, "StepJump")):
        assert opened(step).error == refused
    closing = Call({}, {"request": here.party.request("close", 7)})
    assert Calls(here.grid).one("close", 1, closing, 1.0).error == "QuorumNotMet"  # step 7 is still open


# --- a release that the model has no room for -----------------------------------------------------------------------


def test_a_release_that_the_model_has_no_room_for_is_not_in_the_journal_as_taken_and_may_come_again(
    here, monkeypatch
) -> None:
    releases = noted(here, "bank-0", "accept", "release")

    def no_room(*_: object) -> None:
        raise ModelMismatch("1 of 40 values would be beyond float16; nothing was moved")

    def without_room(message, deliver):  # type: ignore[no-untyped-def]
        with monkeypatch.context() as patched:
            patched.setattr(FlatModel, "moved_by", no_room)
            return deliver(message)

    here.fail("bank-2", only("accept", without_room))
    (report,) = here.rounds().run(1).rounds
    assert report.refused == ("bank-2: ModelMismatch: 1 of 40 values would be beyond float16; nothing was moved",)
    known = bank_party(here)._journal.round_of(1)
    assert known is not None and known.contribution is not None and not known.finished
    here.fail("bank-2", honest)
    assert accept(here, releases[0]).error == ""
    assert model(here) == here.model_of("bank-0").digest
    assert list(journal(here)) == [(1, "joined, released")]
