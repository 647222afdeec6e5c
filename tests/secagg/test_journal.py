"""The journal: one roster per offer, one use per update, and what was not sent before a crash is never sent."""

from __future__ import annotations

import hashlib
import struct
import warnings

import numpy as np
import pytest
from simulator import MODEL, Federation, Peers

from secagg import packing
from secagg.errors import (
    LedgerError,
    ModelRepeated,
    ModelUnmoved,
    RosterMismatch,
    StepJump,
    StepNotIncreasing,
    UpdateReused,
    WrongRound,
    WrongState,
)
from secagg.identity import Identity
from secagg.journal import MAX_STEP_JUMP, Consent, Journal, UpdateReuseWarning, ZeroUpdateWarning, audit_journal
from secagg.messages import AbortReason
from secagg.plan import RoundPlan, plan_round

OWNER = Identity.generate("bank")
UPDATE = np.linspace(-1, 1, 300_000)
PLAN = plan_round(length=len(UPDATE), max_clients=4, value_bits=16)
MEMBERS = [b"a" * 32, b"b" * 32]


def round_id(step: int) -> bytes:
    return step.to_bytes(16, "little")


def joined(journal: Journal, step: int) -> None:
    journal.joined(step, MODEL, round_id(step), b"o" * 32, b"h" * 32, b"k" * 32)


def contributing(
    journal: Journal,
    step: int,
    update=UPDATE,
    members=MEMBERS,
    weight=1,
    allow_reuse=False,
    plan: RoundPlan = PLAN,
    model: bytes = MODEL,
    model_repeats: int | None = None,
) -> None:
    journal.joined(step, model, round_id(step), b"o" * 32, b"h" * 32, b"k" * 32)
    name, consent = journal.name(update, plan), Consent(allow_reuse, model_repeats)
    journal.contributing(step, model, round_id(step), b"r" * 32, members, name, weight, consent)


@pytest.fixture
def journal() -> Journal:
    return Journal.in_memory(OWNER)


def test_steps_are_joined_once_and_in_rising_order(journal):
    joined(journal, 3)
    for step in (1, 3):
        with pytest.raises(StepNotIncreasing):
            joined(journal, step)
    joined(journal, 4)


def test_an_offer_has_one_roster(journal):
    contributing(journal, 1)
    with pytest.raises(RosterMismatch, match="expected one roster for this offer"):
        journal.contributing(1, MODEL, round_id(1), b"s" * 32, MEMBERS, journal.name(UPDATE * 2, PLAN), 1, Consent())


@pytest.mark.parametrize("same", [UPDATE, UPDATE.copy(), UPDATE[::-1][::-1]])
def test_an_update_enters_one_roster_only(journal, same):
    contributing(journal, 1)
    with pytest.raises(UpdateReused, match="the sums can then be subtracted"):
        contributing(journal, 2, same)


FINE = plan_round(length=len(UPDATE), max_clients=4, value_bits=24)
WIDE = plan_round(length=len(UPDATE), max_clients=4, value_bits=16, clip=2.0)
SHORT = plan_round(length=4, max_clients=4, value_bits=8)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (UPDATE.astype(np.float32), UPDATE.astype(np.float32).astype(np.float64)),
        (UPDATE, np.nextafter(UPDATE, 0)),
        (UPDATE * 3, np.clip(UPDATE * 3, -1, 1)),
        (UPDATE * 3, np.where(np.abs(UPDATE * 3) > 1, UPDATE * 7, UPDATE * 3)),
    ],
    ids=["as float64", "one ulp", "clipped already", "other values beyond the clip"],
)
def test_what_becomes_the_same_integers_is_the_same_update(journal, first, again):
    assert all((a == b).all() for a, b in zip(pieces(first), pieces(again), strict=True))
    contributing(journal, 1, first)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2, again)


def test_an_update_is_recognised_in_float32_even_where_a_rounded_value_becomes_another_integer(journal):
    narrow = UPDATE.astype(np.float32)
    assert any((a != b).any() for a, b in zip(pieces(UPDATE), pieces(narrow), strict=True))
    contributing(journal, 1)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2, narrow)


def pieces(update, plan=PLAN):
    return [piece.copy() for piece in packing.quantised(update, plan)]


@pytest.mark.parametrize("plan", [FINE, WIDE], ids=["more bits", "another clip"])
def test_an_update_is_recognised_under_another_plan_whose_integers_differ(journal, plan):
    assert any((a != b).any() for a, b in zip(pieces(UPDATE), pieces(UPDATE, plan), strict=True))
    contributing(journal, 1)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2, UPDATE.astype(np.float32), plan=plan)


@pytest.mark.parametrize("zero", [-0.0, -1e-60], ids=["negative zero", "nearly zero"])
def test_the_sign_of_a_zero_makes_no_other_update_under_another_plan(journal, zero):
    update = np.where(np.arange(UPDATE.size) == 2, 0.0, UPDATE)
    contributing(journal, 1, update)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2, np.where(np.arange(UPDATE.size) == 2, zero, update), plan=FINE)


def test_integers_are_recognised_under_a_plan_that_gives_them_another_meaning(journal):
    doubled = plan_round(length=4, max_clients=4, value_bits=8, clip=2.0)
    update = np.array([0.1, -0.5, 1.0, 0.0])
    contributing(journal, 1, update, plan=SHORT)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2, update * 2, plan=doubled)


def test_after_an_abort_another_plan_is_another_circumstance(journal):
    contributing(journal, 1)
    journal.aborted(1, MODEL, round_id(1), b"a" * 32)
    with pytest.raises(UpdateReused, match="plan"):
        contributing(journal, 2, plan=FINE)
    contributing(journal, 3)


def test_the_integers_that_are_named_are_those_that_are_encrypted():
    plan = plan_round(length=10_000, max_clients=4, value_bits=16)
    update = np.random.default_rng(0).uniform(-1.5, 1.5, plan.length)
    decoder = packing.Decoder(plan, 1)
    for number, block in enumerate(packing.Encoder(update, 1, plan).blocks()):
        decoder.add(number, block)
    assert (np.concatenate(pieces(update, plan)) == decoder.sums().sums).all()


@pytest.mark.parametrize("bits", [2, 8, 9, 16, 17, 32, 33, 40])
def test_one_changed_integer_gives_another_name_at_every_width(journal, bits):
    plan = plan_round(length=3, max_clients=2, value_bits=bits)
    update = np.array([1.0, -1.0, 0.0])
    changed = np.array([1.0, -1.0, plan.step])
    first, second = journal.name(update, plan), journal.name(changed, plan)
    assert first.integers != second.integers
    assert journal.name(update, plan) == first


def test_zeros_may_come_again_and_are_warned_about(journal):
    """They add nothing to either sum, so that the two differ by nothing of this client's."""
    zeros = np.full(4, 0.4 * SHORT.step)
    contributing(journal, 1, zeros, plan=SHORT)
    journal.check_update(journal.name(zeros, SHORT))
    with pytest.warns(ZeroUpdateWarning, match="hides no other member"):
        contributing(journal, 2, np.zeros(4), plan=SHORT, members=MEMBERS[:1])


def test_zeros_need_no_consent_to_come_again_and_are_counted_as_rosters_of_their_model_all_the_same(journal):
    """Few bits round a small update away. Who is in the second sum is still for the count of rosters to limit."""
    small = np.linspace(-0.4, 0.4, 4) * SHORT.step
    contributing(journal, 1, small, plan=SHORT, model_repeats=0)
    journal.sealed(1, MODEL, round_id(1), b"c" * 32)
    journal.finished(1, MODEL, round_id(1), b"f" * 32)
    with pytest.warns(ZeroUpdateWarning, match="step 1"):
        contributing(journal, 2, small / 2, plan=SHORT, model_repeats=0)
    with pytest.raises(ModelUnmoved, match="step 1 did not change the model"):
        contributing(journal, 3, small, plan=SHORT, members=MEMBERS[:1], model_repeats=0)


def test_what_few_bits_leave_of_two_updates_is_one_update_unless_it_is_nothing(journal):
    one, other = np.array([0.0, 0.0, 0.6, 0.1]) * SHORT.step, np.array([0.2, -0.3, 0.9, 0.0]) * SHORT.step
    contributing(journal, 1, one, plan=SHORT, model_repeats=0)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2, other, plan=SHORT, members=MEMBERS[:1])
    contributing(journal, 3, 0.1 * one, plan=SHORT)
    with pytest.warns(ZeroUpdateWarning):
        contributing(journal, 4, 0.2 * one, plan=SHORT, members=MEMBERS[:1])


def test_an_update_that_no_roster_can_take_is_known_before_it_is_joined(journal):
    contributing(journal, 1)
    with pytest.raises(UpdateReused):
        journal.check_update(journal.name(UPDATE, PLAN))
    journal.aborted(1, MODEL, round_id(1), b"a" * 32)
    journal.check_update(journal.name(UPDATE, PLAN))  # the same members may come together again
    journal.check_update(journal.name(UPDATE * 2, PLAN))


def test_an_update_of_a_journal_from_before_its_second_name_is_still_known(tmp_path):
    owner = Identity.generate("bank")
    journal = Journal(tmp_path / "journal.db", owner)
    name = journal.name(UPDATE, PLAN)
    joined(journal, 1)
    senders = hashlib.sha256(b"".join(MEMBERS)).digest()
    body = b"r" * 32 + name.values + struct.pack("<32sIQ", senders, len(MEMBERS), 1)
    journal._log.append("contributing", 1, MODEL, round_id(1), body)
    journal.close()
    journal = Journal(tmp_path / "journal.db", owner)
    known = journal.round_of(1)
    assert known is not None and (known.roster, known.members) == (b"r" * 32, 2)
    with pytest.raises(UpdateReused, match="step 1"):
        contributing(journal, 2)


# --- one roster per base model --------------------------------------------------------------------------------------

OTHERS = MEMBERS[:1]


def attempts(journal: Journal, rosters: list, allowed: int | None, end: str = "aborted") -> None:
    """One roster after the other from one model, each update trained anew."""
    for step, members in enumerate(rosters, start=1):
        update = np.full(4, step / 10)
        contributing(journal, step, update, members, plan=SHORT, model_repeats=allowed)
        if end == "finished":
            journal.sealed(step, MODEL, round_id(step), b"c" * 32)
            journal.finished(step, MODEL, round_id(step), b"f" * 32)
        else:
            journal.aborted(step, MODEL, round_id(step), b"a" * 32)


@pytest.mark.parametrize(
    ("rosters", "needs"),
    [
        ([MEMBERS], 0),
        ([MEMBERS, MEMBERS, MEMBERS], 0),
        ([MEMBERS, OTHERS], 1),
        ([OTHERS, MEMBERS], 1),
        ([MEMBERS, MEMBERS, OTHERS], 1),
        ([MEMBERS, OTHERS, OTHERS], 2),
        ([MEMBERS, OTHERS, MEMBERS], 2),
    ],
)
def test_rosters_from_one_model_with_other_members_need_as_much_consent_as_there_are(rosters, needs):
    attempts(Journal.in_memory(OWNER), rosters, needs)
    attempts(Journal.in_memory(OWNER), rosters, None)
    if needs:
        journal = Journal.in_memory(OWNER)
        with pytest.raises(ModelRepeated, match=f"roster {needs} with other members .* allows {needs - 1}") as caught:
            attempts(journal, rosters, needs - 1)
        assert type(caught.value) is ModelRepeated
        assert journal.unfinished() == (len(rosters),)  # joined, and nothing was bound to that roster
        assert not journal._log.events(len(rosters), "contributing")


def test_a_model_that_a_release_did_not_move_is_named_as_such(journal):
    attempts(journal, [MEMBERS], 0, end="finished")
    with pytest.raises(ModelUnmoved, match="step 1 did not change the model"):
        contributing(journal, 2, np.full(4, 0.9), OTHERS, plan=SHORT, model_repeats=0)


def test_another_model_is_another_count(journal):
    attempts(journal, [MEMBERS, OTHERS], 1)
    contributing(journal, 3, np.full(4, 0.9), MEMBERS[1:], plan=SHORT, model=b"n" * 32, model_repeats=0)


def test_the_same_sum_again_is_no_further_roster(journal):
    update = np.full(4, 0.9)
    contributing(journal, 1, update, plan=SHORT, model_repeats=1)
    journal.aborted(1, MODEL, round_id(1), b"a" * 32)
    contributing(journal, 2, np.full(4, 0.8), OTHERS, plan=SHORT, model_repeats=1)
    contributing(journal, 3, update, plan=SHORT, model_repeats=1)


def test_rosters_from_one_model_are_counted_over_a_restart(tmp_path):
    journal = Journal(tmp_path / "j.db", OWNER)
    attempts(journal, [MEMBERS], 0)
    journal.close()
    journal = Journal(tmp_path / "j.db", OWNER)
    with pytest.raises(ModelRepeated):
        contributing(journal, 2, np.full(4, 0.9), OTHERS, plan=SHORT, model_repeats=0)
    journal.close()


@pytest.mark.parametrize("last", [None, 1, 7 * MAX_STEP_JUMP])
def test_an_offer_far_above_the_last_step_is_refused_and_leaves_steps_to_join(journal, last):
    if last is not None:
        journal._log.append("joined", last, MODEL, round_id(last), b"x" * 96)
    head, latest = journal.head, last or 0
    for step in (2**63 - 1, latest + MAX_STEP_JUMP + 1):
        with pytest.raises(StepJump, match="ask the key holder"):
            joined(journal, step)
        with pytest.raises(StepJump):
            caught_up(journal, step)
    assert journal.head == head
    joined(journal, latest + MAX_STEP_JUMP)


def test_a_fresh_update_is_welcome(journal):
    contributing(journal, 1)
    changed = UPDATE.copy()
    changed[-1] = 0.5
    contributing(journal, 2, changed)


def test_after_an_abort_an_update_may_meet_the_same_members_again_and_no_others(journal):
    contributing(journal, 1)
    journal.aborted(1, MODEL, round_id(1), b"a" * 32)
    for step, others in ((2, {"members": MEMBERS[:1]}), (3, {"weight": 2}), (4, {"members": MEMBERS[::-1]})):
        with pytest.raises(UpdateReused):
            contributing(journal, step, **others)
    contributing(journal, 5)


def test_leaving_a_round_on_ones_own_does_not_free_the_update(journal):
    contributing(journal, 1)  # no abort of the key holder was ever seen: the sum may still come out
    with pytest.raises(UpdateReused):
        contributing(journal, 2)


def test_reuse_on_request_is_warned_about(journal):
    contributing(journal, 1)
    with pytest.warns(UpdateReuseWarning, match="one sum can be subtracted"):
        contributing(journal, 2, allow_reuse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contributing(journal, 3, UPDATE * 2, allow_reuse=True)


@pytest.mark.parametrize(
    "move",
    [
        lambda j: j.sealed(1, MODEL, round_id(1), b"c" * 32),
        lambda j: j.finished(1, MODEL, round_id(1), b"f" * 32),
        lambda j: j.aborted(2, MODEL, round_id(2), b"a" * 32),
        lambda j: j.aborted(1, MODEL, round_id(2), b"a" * 32),
        lambda j: j.contributing(2, MODEL, round_id(2), b"r" * 32, MEMBERS, j.name(UPDATE, PLAN), 1, Consent()),
    ],
)
def test_events_out_of_order_or_of_another_round_change_nothing(journal, move):
    joined(journal, 1)
    head = journal.head
    with pytest.raises(WrongState):
        move(journal)
    assert journal.head == head


def test_a_journal_remembers_over_a_restart_what_became_of_each_step(tmp_path):
    journal = Journal(tmp_path / "j.db", OWNER)
    contributing(journal, 1)
    journal.sealed(1, MODEL, round_id(1), b"c" * 32)
    journal.finished(1, MODEL, round_id(1), b"f" * 32)
    contributing(journal, 2, UPDATE * 2)
    journal.aborted(2, MODEL, round_id(2), b"a" * 32)
    contributing(journal, 3, UPDATE * 3)
    journal.close()
    journal = Journal(tmp_path / "j.db", OWNER)
    assert journal.unfinished() == (3,)
    assert journal.round_of(4) is None
    seen = [journal.round_of(step) for step in (1, 2, 3)]
    journal.close()
    assert tuple(seen) == audit_journal(tmp_path / "j.db").rounds
    first, second, third = seen
    assert first and second and third
    assert (first.roster, first.members, first.contribution, first.release) == (b"r" * 32, 2, b"c" * 32, b"f" * 32)
    assert (first.offer, first.anchor, first.key_holder) == (b"o" * 32, b"h" * 32, b"k" * 32)
    assert [each.finished for each in (first, second, third)] == [True, True, False]


def test_a_journal_shows_no_value_and_no_hash_that_could_be_guessed(tmp_path):
    journal = Journal(tmp_path / "j.db", OWNER)
    update = np.array([1.0])
    plan = plan_round(length=1, max_clients=4, value_bits=8)
    contributing(journal, 1, update, plan=plan)
    journal.close()
    stored = (tmp_path / "j.db").read_bytes()
    for guess in (
        update.tobytes(),
        hashlib.sha256(update.tobytes()).digest(),
        hashlib.sha256(b"<f8" + update.tobytes()).digest(),
        hashlib.sha256(update.astype("<f4").tobytes()).digest(),
        hashlib.sha256(b"\1\x7f").digest(),
    ):
        assert guess not in stored


def test_signed_events_that_break_the_rules_of_a_journal_do_not_pass_an_audit(tmp_path):
    from secagg.eventlog import EventLog
    from secagg.journal import PURPOSE

    for number, events in enumerate(
        (
            [("sealed", 1, 1)],
            [("joined", 1, 1), ("finished", 1, 1)],
            [("joined", 2, 2), ("joined", 1, 1)],
            [("joined", 1, 1), ("aborted", 1, 2)],
            [("joined", 1, 1), ("contributing", 1, 1)],  # with a body that is too short
            [("joined", 1, 1), ("lost", 1, 1)],
            [("caught up", 2, 2), ("caught up", 1, 1)],
            [("caught up", 2, 2), ("joined", 1, 1)],
            [("joined", 1, 1), ("caught up", 1, 2)],
            [("joined", 1, 1), ("aborted", 1, 1), ("caught up", 1, 1)],
        )
    ):
        log = EventLog(tmp_path / f"{number}.db", OWNER, PURPOSE)
        for kind, step, name in events:
            log.append(kind, step, MODEL, round_id(name), b"x" * 96)
        log.close()
        with pytest.raises(LedgerError):
            audit_journal(tmp_path / f"{number}.db")


# --- a client that was no member ---


def caught_up(journal: Journal, step: int, release: bytes = b"f" * 32, name: int | None = None) -> None:
    journal.caught_up(step, MODEL, round_id(step if name is None else name), release, b"k" * 32)


def test_a_release_that_a_client_catches_up_with_is_remembered_and_is_the_last_one_accepted(tmp_path):
    journal = Journal(tmp_path / "j.db", OWNER)
    contributing(journal, 1)
    journal.sealed(1, MODEL, round_id(1), b"c" * 32)
    assert journal.last_accepted() is None
    journal.finished(1, MODEL, round_id(1), b"e" * 32)
    joined(journal, 2)  # and was not on the roster
    caught_up(journal, 2)
    caught_up(journal, 4, b"g" * 32)
    assert journal.unfinished() == ()
    last = journal.last_accepted()
    assert last is not None and (last.step, last.release, last.offer) == (4, b"g" * 32, None)
    journal.close()
    first, second, third = audit_journal(tmp_path / "j.db").rounds
    assert [each.release for each in (first, second, third)] == [b"e" * 32, b"f" * 32, b"g" * 32]
    assert second.offer == b"o" * 32 and third.offer is None and third.finished
    assert {each.key_holder for each in (first, second, third)} == {b"k" * 32}


def test_a_step_is_caught_up_with_once_and_no_earlier_one_is_joined_or_caught_up_with_afterwards(journal):
    caught_up(journal, 3)
    for step in (1, 3):
        with pytest.raises(StepNotIncreasing):
            caught_up(journal, step, b"g" * 32)
        with pytest.raises(StepNotIncreasing):
            joined(journal, step)
    joined(journal, 4)


def test_no_client_catches_up_with_a_round_that_had_its_contribution_or_was_said_to_be_aborted(journal):
    contributing(journal, 1)
    with pytest.raises(WrongState, match="caught up after contributing"):
        caught_up(journal, 1)
    journal.sealed(1, MODEL, round_id(1), b"c" * 32)
    with pytest.raises(WrongState, match="caught up after sealed"):
        caught_up(journal, 1)
    journal.aborted(1, MODEL, round_id(1), b"a" * 32)
    with pytest.raises(WrongState, match="caught up after aborted"):
        caught_up(journal, 1)
    joined(journal, 2)
    with pytest.raises(WrongState, match="in this round"):
        caught_up(journal, 2, name=7)


# --- a client that lost its memory ----------------------------------------------------------------------------------


@pytest.fixture
def federation(tmp_path) -> Federation:
    return Federation(clients=2, folder=tmp_path)


def restarted(federation: Federation, peers: Peers, index: int) -> None:
    """The client as a new process finds it: only the journal is left."""
    peers.clients[index]._journal.close()
    peers.clients[index] = federation.client(index)


def test_a_client_that_crashed_after_sealing_still_accepts_the_release(federation):
    peers = Peers(federation)
    updates = [federation.update(1), federation.update(2)]
    encrypted_sum = peers.encrypted_sum(1, updates)
    restarted(federation, peers, 0)
    assert peers.clients[0].unfinished() == (1,)
    release = peers.sent(peers.key_holder.release(encrypted_sum))
    late = peers.clients[0].settle(release)
    assert late is not None
    assert (late.values == peers.clients[1].accept(release).values).all()
    assert peers.clients[0].unfinished() == ()
    with pytest.raises(WrongRound):
        peers.clients[0].settle(release)


def test_a_client_that_crashed_before_sealing_accepts_no_release_of_that_round(federation):
    peers = Peers(federation)
    release = peers.round(1, [federation.update(1), federation.update(2)])
    _, _ = peers.roster(2)
    restarted(federation, peers, 0)
    with pytest.raises(WrongRound):
        peers.clients[0].settle(release)  # of step 1, which is finished
    assert peers.clients[0].unfinished() == (2,)


def test_a_restarted_key_holder_reports_lost_rounds_once_and_clients_may_use_the_update_again(federation):
    peers = Peers(federation)
    updates = [federation.update(1), federation.update(2)]
    peers.encrypted_sum(1, updates)
    peers.key_holder._ledger.close()
    peers.key_holder = federation.key_holder()
    assert peers.key_holder.abandoned_steps() == (1,)
    (abort,) = peers.key_holder.report_abandoned()
    assert (abort.reason, peers.key_holder.report_abandoned()) == (AbortReason.ABANDONED, ())
    restarted(federation, peers, 0)
    assert peers.clients[0].settle(peers.sent(abort)) is None
    peers.clients[1].abort(abort)
    peers.aggregator = federation.aggregator()
    release = peers.round(2, updates)  # the same members and weights: no UpdateReused
    assert (release.sums == sum(map(federation.quantised, updates))).all()


def test_a_forged_or_foreign_end_of_a_lost_round_changes_nothing(federation, tmp_path_factory):
    from dataclasses import replace

    from secagg.errors import BadSignature, PeerError, RosterMismatch, UnknownClient, WrongModel, WrongPlan

    peers = Peers(federation)
    encrypted_sum = peers.encrypted_sum(1, [federation.update(1), federation.update(2)])
    restarted(federation, peers, 0)
    release = peers.key_holder.release(encrypted_sum)
    client = peers.clients[0]
    head = client._journal.head
    for error, forged in (
        (WrongRound, replace(release, header=replace(release.header, session=bytes(16)))),
        (WrongRound, replace(release, header=replace(release.header, round_id=bytes(16)))),
        (WrongRound, replace(release, header=replace(release.header, step=2))),
        (WrongModel, replace(release, header=replace(release.header, model=bytes(32)))),
        (WrongPlan, replace(release, header=replace(release.header, plan=bytes(32)))),
        (WrongPlan, replace(release, header=replace(release.header, masked=False))),
        (RosterMismatch, replace(release, header=replace(release.header, roster=bytes(32)))),
        (RosterMismatch, replace(release, contributors=1)),
        (UnknownClient, replace(release, header=replace(release.header, sender=federation.server.key))),
        (BadSignature, replace(release, sums=release.sums + 1)),
        (BadSignature, replace(release, signature=bytes(64))),
    ):
        assert issubclass(error, PeerError)
        with pytest.raises(error):
            client.settle(forged)
        assert client._journal.head == head
    assert client.settle(release) is not None
