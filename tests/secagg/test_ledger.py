"""The ledger: one decryption per step whatever happens, and a rollback that others can prove."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from forked import in_a_child
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import Federation, Peers

from secagg.audit import _never_dropped, audit
from secagg.errors import (
    LedgerError,
    ReleasePruned,
    RoundAlreadyReleased,
    SecAggError,
    StepJump,
    StepNotIncreasing,
    WrongState,
)
from secagg.eventlog import Content, EventLog
from secagg.events import NO_HEAD, PRUNED
from secagg.hashing import large_hash
from secagg.identity import Identity
from secagg.journal import MAX_STEP_JUMP, Journal, journal_rounds
from secagg.ledger import LEAST_KEPT, PURPOSE, Ledger, Outcome, audit_ledger, compare, compare_journal

MODEL = b"m" * 32
OWNER = Identity.generate("key holder")


def round_id(step: int) -> bytes:
    return step.to_bytes(16, "little")


def content(data: bytes) -> Content:
    return Content(data, large_hash(data))


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
                ledger.released(*name, hashed, b"release", content(b" %d" % step), b"")
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
    ledger.released(1, MODEL, round_id(1), bytes(32), b"", content(stored), b"")
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


# --- pruning --------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_ledger(tmp_path) -> Path:
    """Releases of 64 kB at steps 1, 3, 5 ... 27, and a step between them that was aborted. Closed."""
    ledger = Ledger(tmp_path / "l.db", OWNER)
    for step in range(1, 28, 2):
        play(ledger, step, *RELEASED[:3])
        data = step.to_bytes(2, "little") * (1 << 15)
        ledger.released(step, MODEL, round_id(step), step.to_bytes(32, "little"), b"head", content(data), b"tail")
        play(ledger, step + 1, "opened", "aborted")
    ledger.close()
    return tmp_path / "l.db"


def test_pruning_drops_all_but_the_last_releases_and_the_chain_verifies(long_ledger):
    before, size = audit_ledger(long_ledger), long_ledger.stat().st_size
    ledger = Ledger(long_ledger, OWNER)
    assert ledger.prune(LEAST_KEPT) == 4
    for step in (1, 3, 5, 7):
        with pytest.raises(ReleasePruned, match=f"step {step}: the sums of this release were dropped"):
            ledger.stored_release(step)
    assert [ledger.stored_release(step)[:8] for step in (9, 27)] == [b"head\x09\0\x09\0", b"head\x1b\0\x1b\0"]
    assert ledger.stored_release(27).endswith(b"\x1b\0tail")
    with pytest.raises(ReleasePruned):  # and not the one of step 9, which does not follow from what its reader has
        ledger.release_after(2)
    assert ledger.release_after(7)[0] == 9
    ledger.close()
    after = audit_ledger(long_ledger)
    assert (after.events, after.steps, after.decryptions) == (before.events + 1, before.steps, before.decryptions)
    assert (before.dropped, after.dropped) == (0, 4)
    assert long_ledger.stat().st_size < size - 3 * (1 << 16)


def test_a_pruned_ledger_goes_on_and_is_pruned_again(long_ledger):
    ledger = Ledger(long_ledger, OWNER)
    ledger.prune(12)
    ledger.close()
    shutil.copy(long_ledger, long_ledger.with_name("early.db"))
    ledger = Ledger(long_ledger, OWNER)
    assert [ledger.outcome(step) for step in (1, 3, 4)] == [Outcome.RELEASED, Outcome.RELEASED, Outcome.ABORTED]
    assert ledger.record(3).release == (3).to_bytes(32, "little")
    assert ledger.next_step == 29 and ledger.abandoned() == ()
    with pytest.raises(RoundAlreadyReleased):
        ledger.check_step(3)
    play(ledger, 29, *RELEASED)
    assert ledger.stored_release(29) == b"release 29"
    assert ledger.prune(12) == 1
    assert ledger.prune(12) == 0  # and no event
    ledger.close()
    assert compare(long_ledger, long_ledger.with_name("early.db")) == 5


def test_pruning_leaves_the_last_releases_whatever_is_asked(long_ledger):
    ledger = Ledger(long_ledger, OWNER)
    for keep in (LEAST_KEPT - 1, 0, -1):
        with pytest.raises(LedgerError, match=f"expected {LEAST_KEPT} or more, got {keep}"):
            ledger.prune(keep)
    head = ledger.head
    for keep in (14, 15, 1_000):
        assert ledger.prune(keep) == 0
    assert ledger.head == head
    ledger.close()


@pytest.mark.parametrize("forget", ["the event", "the floor", "the step"])
def test_releases_that_are_missing_without_a_right_event_are_a_damage(long_ledger, forget):
    if forget == "the event":
        connection = sqlite3.connect(long_ledger)
        connection.execute("UPDATE contents SET content = NULL WHERE sequence < 5")
        connection.commit()
        connection.close()
        expected = "owner recorded no pruning"
    else:
        log = EventLog(long_ledger, OWNER, PURPOSE)  # a dishonest key holder can sign what it likes
        step = 11 if forget == "the floor" else 6
        log.drop_contents(step, MODEL, round_id(step))
        log.close()
        expected = "was not released or is one of the last"
    with pytest.raises(LedgerError, match=expected):
        audit_ledger(long_ledger)


def test_a_content_is_dropped_by_a_later_pruning_of_its_step_or_of_a_higher_one_alone():
    """Against a slow reading of the rule, for short logs of any kind."""
    draw = random.Random(5)
    for _ in range(2_000):
        events = [(sequence, draw.randrange(6)) for sequence in range(1, 12)]
        kinds = [draw.choice("mp.") for _ in events]
        missing, pruned = ([e for e, kind in zip(events, kinds, strict=True) if kind == name] for name in "mp")
        slow = [s for s, step in missing if not any(later > s and upto >= step for later, upto in pruned)]
        assert _never_dropped(missing, pruned) == (slow[0] if slow else None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contents SET content = x'00' WHERE sequence = 4",
        "UPDATE contents SET hash = zeroblob(32) WHERE sequence = 4",
        "UPDATE contents SET content = 7 WHERE sequence = 4",
        "DELETE FROM contents WHERE sequence = 4",
        "INSERT INTO contents VALUES (1, zeroblob(32), x'00')",
        "INSERT INTO contents VALUES (9999, zeroblob(32), x'00')",
    ],
)
def test_a_content_that_was_edited_is_a_damage(long_ledger, statement):
    connection = sqlite3.connect(long_ledger)
    schema = connection.execute("SELECT * FROM sqlite_master WHERE name LIKE 'contents_%'").fetchall()
    for name in ("contents_are_final", "contents_stay"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    for *_, sql in schema:
        connection.execute(sql)
    connection.commit()
    connection.close()
    for read in (audit, lambda path: Ledger(path, OWNER)):
        with pytest.raises(LedgerError, match=r"edited|wrong type|expected 14 contents"):
            read(long_ledger)


def test_the_database_itself_lets_nothing_be_dropped_by_accident(long_ledger):
    connection = sqlite3.connect(long_ledger)
    for statement in (
        "DELETE FROM contents",
        "UPDATE contents SET content = x'00'",
        "UPDATE contents SET content = NULL, hash = zeroblob(32)",
        "UPDATE contents SET content = NULL, sequence = sequence + 100",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()


def test_an_old_ledger_takes_new_releases_and_keeps_its_own(tmp_path):
    """Earlier, a release stood in its event. Such a file is read, continued, and pruned of newer releases only."""
    log = EventLog(tmp_path / "l.db", OWNER, PURPOSE)
    for step in (1, 2):
        for kind in RELEASED:
            body = bytes(32) + b"old release %d" % step if kind == "released" else bytes(266)
            log.append(kind, step, MODEL, round_id(step), body)
    log.close()
    assert version_of(tmp_path / "l.db") == 1
    ledger = Ledger(tmp_path / "l.db", OWNER)
    assert ledger.stored_release(2) == b"old release 2"
    assert ledger.release_after(0) == (1, b"old release 1")
    for step in range(3, 15):
        play(ledger, step, *RELEASED)
    assert ledger.prune(LEAST_KEPT) == 2
    assert ledger.stored_release(1) == b"old release 1"
    with pytest.raises(ReleasePruned):
        ledger.stored_release(4)
    assert ledger.stored_release(5) == b"release 5"
    ledger.close()
    assert version_of(tmp_path / "l.db") == 2
    report = audit_ledger(tmp_path / "l.db")
    assert [outcome for _, _, outcome in report.steps] == [Outcome.RELEASED] * 14


def test_a_journal_never_gets_the_table_of_contents(tmp_path):
    Journal(tmp_path / "j.db", OWNER).close()
    assert version_of(tmp_path / "j.db") == 1


@pytest.mark.parametrize("place", ["insert", "update", "commit", "vacuum"])
def test_a_process_killed_while_it_prunes_has_pruned_or_has_not(long_ledger, place):
    """The event and what it drops are one transaction, and the file is smaller later or not at all."""

    def prune_and_die() -> None:
        ledger = Ledger(long_ledger, OWNER)
        marks = {"insert": "INSERT INTO events", "update": "UPDATE contents", "commit": "COMMIT", "vacuum": "VACUUM"}

        def die(statement: str) -> None:
            if statement.startswith(marks[place]):
                os.kill(os.getpid(), signal.SIGKILL)

        ledger._log._connection.set_trace_callback(die)
        ledger.prune(LEAST_KEPT)

    assert in_a_child(prune_and_die) == ""  # it died and said nothing
    done = place == "vacuum"
    ledger = Ledger(long_ledger, OWNER)
    if done:
        with pytest.raises(ReleasePruned):
            ledger.stored_release(1)
    else:
        assert ledger.stored_release(1) is not None
    assert ledger.prune(LEAST_KEPT) == (0 if done else 4)
    ledger.close()
    report = audit_ledger(long_ledger)
    assert sum(entry.kind == PRUNED for entry in audit(long_ledger).entries) == 1
    assert all(outcome in (Outcome.RELEASED, Outcome.ABORTED) for _, _, outcome in report.steps)


@pytest.mark.parametrize("place", ["events", "contents", "commit"])
def test_a_process_killed_while_it_stores_a_release_has_stored_it_or_has_not(tmp_path, place):
    ledger = Ledger(tmp_path / "l.db", OWNER)
    play(ledger, 1, "opened", "aborted")
    ledger.close()

    def store_and_die() -> None:
        ledger = Ledger(tmp_path / "l.db", OWNER)
        play(ledger, 2, *RELEASED[:3])
        marks = {"events": "INSERT INTO events", "contents": "INSERT INTO contents", "commit": "COMMIT"}

        def die(statement: str) -> None:
            if statement.startswith(marks[place]):
                os.kill(os.getpid(), signal.SIGKILL)

        ledger._log._connection.set_trace_callback(die)
        play(ledger, 2, "released")

    assert in_a_child(store_and_die) == ""
    ledger = Ledger(tmp_path / "l.db", OWNER)
    assert ledger.outcome(2) is Outcome.ABANDONED and ledger.stored_release(2) is None
    play(ledger, 2, "aborted")
    play(ledger, 3, *RELEASED)
    assert ledger.stored_release(3) == b"release 3"
    ledger.close()


# --- offline --------------------------------------------------------------------------------------------------------


def signed_log(path: Path, events: list[tuple[str, int, bytes]]) -> None:
    """A log whose chain and signatures are right, with any events: what a dishonest key holder could write."""
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
