"""The ledger: one decryption per step whatever happens, and a rollback that others can prove."""

from __future__ import annotations

import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import Federation, Peers

from secagg.errors import LedgerError, RoundAlreadyReleased, SecAggError, StepJump, StepNotIncreasing, WrongState
from secagg.eventlog import NO_HEAD, audit
from secagg.identity import Identity
from secagg.journal import MAX_STEP_JUMP, Journal, journal_rounds
from secagg.ledger import Ledger, Outcome, audit_ledger, compare, compare_journal

MODEL = b"m" * 32
OWNER = Identity.generate("key holder")


def round_id(step: int) -> bytes:
    return step.to_bytes(16, "little")


def play(ledger: Ledger, step: int, *kinds: str) -> None:
    """Write events of a step, with made-up hashes."""
    name, hashed = (step, MODEL, round_id(step)), step.to_bytes(32, "little")
    for kind in kinds:
        match kind:
            case "opened":
                ledger.opened(*name, hashed, bytes(234))
            case "roster":
                ledger.roster_closed(*name, hashed, b"s" * 32)
            case "consumed":
                ledger.consumed(*name, hashed)
            case "released":
                ledger.released(*name, hashed, b"release %d" % step)
            case "refused":
                ledger.refused(*name)
            case "aborted":
                ledger.aborted(*name, 3)


RELEASED = ("opened", "roster", "consumed", "released")


@pytest.mark.parametrize(
    ("kinds", "outcome"),
    [
        ((), None),
        (("opened",), Outcome.OPEN),
        (("opened", "roster", "consumed"), Outcome.OPEN),
        (RELEASED, Outcome.RELEASED),
        (("opened", "roster", "consumed", "refused"), Outcome.REFUSED),
        (("opened", "aborted"), Outcome.ABORTED),
        (("opened", "roster", "aborted"), Outcome.ABORTED),
        (("opened", "roster", "consumed", "aborted"), Outcome.ABORTED),
    ],
)
def test_a_step_has_one_outcome_and_keeps_it_over_a_restart(tmp_path, kinds, outcome):
    ledger = Ledger(tmp_path / "l.db", OWNER)
    play(ledger, 1, *kinds)
    assert ledger.outcome(1) is outcome
    ledger.close()
    after = Outcome.ABANDONED if outcome is Outcome.OPEN else outcome
    ledger = Ledger(tmp_path / "l.db", OWNER)
    assert ledger.outcome(1) is after
    assert [each.step for each in ledger.abandoned()] == ([1] if after is Outcome.ABANDONED else [])
    assert ledger.stored_release(1) == (b"release 1" if outcome is Outcome.RELEASED else None)
    ledger.close()
    assert [found for _, _, found in audit_ledger(tmp_path / "l.db").steps] == ([after] if after else [])


@given(moves=st.lists(st.tuples(st.integers(1, 3), st.sampled_from([*RELEASED, "refused", "aborted"])), max_size=24))
@settings(max_examples=150, deadline=None)
def test_whatever_is_asked_of_it_no_step_is_consumed_twice_or_released_without(moves):
    ledger = Ledger.in_memory(OWNER)
    told: dict[int, list[str]] = {}
    for step, kind in moves:
        head = ledger.head
        try:
            play(ledger, step, kind)
        except SecAggError:
            assert ledger.head == head
        else:
            told.setdefault(step, []).append(kind)
    for kinds in told.values():
        assert kinds[0] == "opened"
        assert all(kinds.count(kind) == 1 for kind in kinds)
        assert not {"released", "refused"} & set(kinds) or kinds[:3] == list(RELEASED[:3])
        assert len({"released", "refused", "aborted"} & set(kinds)) <= 1
    assert list(told) == sorted(told)


def test_steps_increase_and_a_released_step_says_so():
    ledger = Ledger.in_memory(OWNER)
    play(ledger, 5, *RELEASED)
    with pytest.raises(RoundAlreadyReleased, match="send the stored release again"):
        ledger.check_step(5)
    for step in (0, 4):
        with pytest.raises(StepNotIncreasing, match="expected more than 5"):
            ledger.check_step(step)
    ledger.check_step(6)


def test_a_step_that_no_client_would_follow_is_not_opened_and_takes_none_away():
    ledger = Ledger.in_memory(OWNER)
    for step in (2**63 - 1, MAX_STEP_JUMP + 1):
        with pytest.raises(StepJump, match="above the last one opened"):
            play(ledger, step, "opened")
    assert ledger.next_step == 1
    play(ledger, MAX_STEP_JUMP, "opened")
    assert ledger.next_step == MAX_STEP_JUMP + 1
    ledger.check_step(2 * MAX_STEP_JUMP)


def test_a_consumed_step_is_never_consumed_again_not_even_by_a_restarted_process(tmp_path):
    ledger = Ledger(tmp_path / "l.db", OWNER)
    play(ledger, 1, *RELEASED[:3])
    for _ in range(2):
        with pytest.raises(RoundAlreadyReleased):
            play(ledger, 1, "consumed")
        ledger.close()
        ledger = Ledger(tmp_path / "l.db", OWNER)
    ledger.close()


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_round_of_a_process_that_ended_can_only_be_reported(tmp_path, done):
    ledger = Ledger(tmp_path / "l.db", OWNER)
    play(ledger, 1, *RELEASED[:done])
    ledger.close()
    ledger = Ledger(tmp_path / "l.db", OWNER)
    with pytest.raises(WrongState, match="abandoned by an earlier process"):
        play(ledger, 1, RELEASED[done])
    (lost,) = ledger.abandoned()
    assert (lost.step, lost.round_id, lost.header) == (1, round_id(1), bytes(234))
    play(ledger, 1, "aborted")
    assert ledger.abandoned() == ()
    ledger.close()


def test_what_became_of_a_step_is_told_without_reading_the_release_that_is_stored_there():
    """A join may name any step, even one that is refused for it: that must not cost a release's memory and disk."""
    ledger, stored = Ledger.in_memory(OWNER), bytes(2**22)
    play(ledger, 1, "opened", "roster", "consumed")
    ledger.released(1, MODEL, round_id(1), bytes(32), stored)
    play(ledger, 2, "opened", "roster", "consumed", "refused")
    tracemalloc.start()
    try:
        released, refused = ledger.record(1), ledger.record(2)
        outcomes, left = (ledger.outcome(1), ledger.outcome(2)), ledger.abandoned()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(stored) // 8
    assert released is not None and (released.release, released.refused) == (bytes(32), False)
    assert refused is not None and (refused.release, refused.refused) == (None, True)
    assert len(released.header) == 234
    assert outcomes == (Outcome.RELEASED, Outcome.REFUSED) and left == ()
    assert ledger.stored_release(1) == stored


def test_another_round_or_model_cannot_continue_a_step():
    ledger = Ledger.in_memory(OWNER)
    play(ledger, 1, "opened")
    with pytest.raises(WrongState, match="expected the round and the model"):
        ledger.roster_closed(1, MODEL, round_id(2), bytes(32), b"")
    with pytest.raises(WrongState, match="expected the round and the model"):
        ledger.roster_closed(1, b"x" * 32, round_id(1), bytes(32), b"")


# --- offline --------------------------------------------------------------------------------------------------------


def signed_log(path: Path, events: list[tuple[str, int, bytes]]) -> None:
    """A log whose chain and signatures are right, with any events: what a dishonest key holder could write."""
    from secagg.eventlog import EventLog
    from secagg.ledger import PURPOSE

    log = EventLog(path, OWNER, PURPOSE)
    for kind, step, name in events:
        log.append(kind, step, MODEL, name)
    log.close()


A, B = round_id(1), round_id(2)


@pytest.mark.parametrize(
    "events",
    [
        [("roster", 1, A)],
        [("opened", 1, A), ("consumed", 1, A)],
        [("opened", 1, A), ("released", 1, A)],
        [("opened", 1, A), ("roster", 1, A), ("released", 1, A)],
        [("opened", 1, A), ("roster", 1, A), ("consumed", 1, A), ("released", 1, A), ("refused", 1, A)],
        [("opened", 1, A), ("roster", 1, A), ("consumed", 1, A), ("released", 1, A), ("aborted", 1, A)],
        [("opened", 1, A), ("aborted", 1, A), ("roster", 1, A)],
        [("opened", 2, A), ("opened", 1, B)],
        [("opened", 1, A), ("opened", 2, B), ("roster", 1, A)],
        [("opened", 1, A), ("roster", 1, B)],
        [("opened", 1, A), ("decrypted", 1, A)],
    ],
)
def test_signed_events_that_break_the_rules_of_a_ledger_do_not_pass_an_audit(tmp_path, events):
    signed_log(tmp_path / "l.db", events)
    with pytest.raises(LedgerError):
        audit_ledger(tmp_path / "l.db")


def test_an_audit_counts_decryptions_and_names_each_steps_outcome(tmp_path):
    ledger = Ledger(tmp_path / "l.db", OWNER)
    play(ledger, 1, *RELEASED)
    play(ledger, 2, "opened", "aborted")
    play(ledger, 4, "opened", "roster", "consumed", "refused")
    play(ledger, 7, "opened")
    head = ledger.head
    ledger.close()
    report = audit_ledger(tmp_path / "l.db")
    assert report.steps == (
        (1, MODEL, Outcome.RELEASED),
        (2, MODEL, Outcome.ABORTED),
        (4, MODEL, Outcome.REFUSED),
        (7, MODEL, Outcome.ABANDONED),
    )
    assert (report.events, report.decryptions, report.head, report.owner) == (11, 2, head, OWNER.key)


def test_copies_of_one_ledger_are_ordered_and_a_rollback_or_fork_shows(tmp_path):
    ledger = Ledger(tmp_path / "l.db", OWNER)
    play(ledger, 1, *RELEASED)
    ledger.close()
    shutil.copy(tmp_path / "l.db", tmp_path / "early.db")
    shutil.copy(tmp_path / "l.db", tmp_path / "fork.db")
    for path, step in ((tmp_path / "l.db", 2), (tmp_path / "fork.db", 3)):
        ledger = Ledger(path, OWNER)
        play(ledger, step, "opened")
        ledger.close()
    assert compare(tmp_path / "l.db", tmp_path / "l.db") == 0
    assert compare(tmp_path / "l.db", tmp_path / "early.db") == 1
    with pytest.raises(LedgerError, match="rolled back"):
        compare(tmp_path / "early.db", tmp_path / "l.db")
    with pytest.raises(LedgerError, match="differ from event 5"):
        compare(tmp_path / "l.db", tmp_path / "fork.db")
    Ledger(tmp_path / "other.db", Identity.generate("other")).close()
    with pytest.raises(LedgerError, match="different key holders"):
        compare(tmp_path / "l.db", tmp_path / "other.db")


def test_a_journal_is_no_ledger(tmp_path):
    Journal(tmp_path / "j.db", OWNER).close()
    with pytest.raises(LedgerError, match="expected a key holder ledger"):
        audit_ledger(tmp_path / "j.db")
    with pytest.raises(LedgerError):
        Ledger(tmp_path / "j.db", OWNER)


# --- what clients saw -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Federation:
    """Two released rounds, then an aborted one; all files closed. `before.db` is the ledger after the first round."""
    federation = Federation(clients=2, folder=tmp_path_factory.mktemp("federation"))
    peers = Peers(federation)
    peers.round(1, [federation.update(1), federation.update(2)])
    peers.key_holder._ledger.close()
    shutil.copy(federation.ledger_file, federation.folder / "before.db")
    peers.key_holder = federation.key_holder()
    peers.round(2, [federation.update(3), federation.update(4)])
    peers.roster(3)
    abort = peers.sent(peers.key_holder.abort())
    for client in peers.clients:
        client.abort(abort)
    close(peers)
    return federation


def close(peers: Peers) -> None:
    peers.key_holder._ledger.close()
    for client in peers.clients:
        client._journal.close()


def test_an_honest_ledger_agrees_with_every_journal(federation):
    for index in range(2):
        assert compare_journal(federation.ledger_file, federation.journal_file(index)) == 3


def test_a_ledger_that_was_rolled_back_contradicts_what_a_client_saw(federation):
    with pytest.raises(LedgerError, match=r"step 2: .*rolled back"):
        compare_journal(federation.folder / "before.db", federation.journal_file(0))


def test_a_ledger_that_was_rolled_back_and_continued_contradicts_what_a_client_saw(federation, tmp_path):
    shutil.copy(federation.folder / "before.db", tmp_path / "again.db")
    ledger = Ledger(tmp_path / "again.db", federation.authority)
    for step in (2, 3):
        play(ledger, step, *RELEASED)
    ledger.close()
    audit_ledger(tmp_path / "again.db")  # by itself it looks right
    with pytest.raises(LedgerError, match="step 2: the client answered another offer"):
        compare_journal(tmp_path / "again.db", federation.journal_file(1))


@pytest.mark.parametrize(
    ("part", "said"),
    [("anchor", "another ledger head"), ("roster", "roster that the ledger"), ("release", "release that the ledger")],
)
def test_each_thing_a_client_saw_is_compared(federation, monkeypatch, part, said):
    from dataclasses import replace

    import secagg.ledger as module

    honest = module.journal_rounds

    def shown_another(found):
        return {step: replace(each, **{part: b"x" * 32}) for step, each in honest(found).items() if step == 1}

    monkeypatch.setattr(module, "journal_rounds", shown_another)
    with pytest.raises(LedgerError, match=said):
        compare_journal(federation.ledger_file, federation.journal_file(0))


def test_a_key_holder_that_lies_about_an_abort_is_caught(federation, monkeypatch):
    from dataclasses import replace

    import secagg.ledger as module

    honest = module.journal_rounds

    def told_aborted(found):
        return {1: replace(honest(found)[1], release=None, aborted=True)}

    monkeypatch.setattr(module, "journal_rounds", told_aborted)
    with pytest.raises(LedgerError, match="received an abort of it, and the ledger released it"):
        compare_journal(federation.ledger_file, federation.journal_file(0))


def caught_up(federation, path, step: int, round_id: bytes, release: bytes) -> None:
    """A journal of the third bank, which was no member of any round and caught up with one release."""
    journal = Journal(path, OWNER)
    journal.caught_up(step, MODEL, round_id, release, federation.authority.key)
    journal.close()


def test_a_release_that_a_client_caught_up_with_must_stand_in_the_ledger_as_it_was(federation, tmp_path):
    first = journal_rounds(audit(federation.journal_file(0)))[1]
    assert first.release is not None
    cases = {
        "as it was": (1, first.round_id, first.release, None),
        "another release": (1, first.round_id, b"x" * 32, "step 1: the client accepted a release that the ledger"),
        "another round": (1, b"x" * 16, first.release, "step 1: the client caught up with another round"),
        "in no ledger": (9, b"x" * 16, b"x" * 32, "step 9: the client caught up with its release, and the ledger has"),
        "never released": (3, journal_rounds(audit(federation.journal_file(0)))[3].round_id, b"x" * 32, "step 3: "),
    }
    for name, (step, round_id, release, said) in cases.items():
        caught_up(federation, tmp_path / f"{name}.db", step, round_id, release)
        if said is None:
            assert compare_journal(federation.ledger_file, tmp_path / f"{name}.db") == 1
            continue
        with pytest.raises(LedgerError, match=said):
            compare_journal(federation.ledger_file, tmp_path / f"{name}.db")


def test_rounds_of_another_key_holder_are_not_compared(federation, tmp_path):
    Ledger(tmp_path / "other.db", Identity.generate("other")).close()
    assert compare_journal(tmp_path / "other.db", federation.journal_file(0)) == 0


def test_the_first_offer_anchors_an_empty_ledger(federation):
    from secagg.journal import audit_journal

    first, second, third = audit_journal(federation.journal_file(0)).rounds
    heads = sqlite3.connect(federation.ledger_file).execute("SELECT hash FROM events ORDER BY sequence").fetchall()
    assert first.anchor == NO_HEAD
    assert second.anchor == heads[3][0]
    assert third.anchor == heads[7][0]
