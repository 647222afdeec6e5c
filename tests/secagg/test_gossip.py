"""What members say they saw of the key holder: a fork, a rollback and two ends of one step show in the next roster."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from simulator import MODEL, Federation, Peers
from test_attacks import resigned, signed_roster, tampered

from secagg import errors, wire
from secagg.blocks import payload_hash
from secagg.gossip import Known, check_statements
from secagg.messages import NO_STEP, NOTHING_SEEN, Abort, AbortReason, Ending, Join, Offer, Release, Seen
from secagg.transcript import message_hash, parse_seen, seen_bytes

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def peers() -> Peers:
    return Peers(Federation(clients=3, length=50, quorum=2))


def updates(peers: Peers, step: int) -> list:
    return [peers.federation.update(10 * step + i) for i in range(len(peers.clients))]


def joined(peers: Peers, step: int) -> tuple[Offer, list[Join]]:
    offer = peers.key_holder.open(step, MODEL)
    return offer, [client.join(offer, MODEL) for client in peers.clients]


def round_of_two(peers: Peers, step: int) -> Release:
    """A whole round without the last client."""
    offer, roster = peers.roster(step, members=[0, 1])
    peers.aggregator.open(offer, roster)
    for client, update in zip(peers.clients[:2], updates(peers, step)[:2], strict=True):
        peers.aggregator.receive(client.contribute(roster, update))
    release = peers.key_holder.release(peers.aggregator.close())
    for client in peers.clients[:2]:
        client.accept(release)
    return release


def accepted_anyway(peers: Peers, step: int):
    """A key holder that takes every join, whatever it states, and signs the roster."""
    offer, joins = joined(peers, step)
    return signed_roster(peers.federation, offer, joins)


# --- what honest parties say ----------------------------------------------------------------------------------------


def test_a_first_join_states_nothing_and_each_later_one_the_step_before(peers):
    offer, joins = joined(peers, 1)
    assert [join.seen for join in joins] == [NOTHING_SEEN] * 3
    abort = peers.key_holder.abort()
    for client in peers.clients:
        client.abort(abort)
    second, joins = joined(peers, 2)
    assert {join.seen for join in joins} == {Seen(Ending.ABORTED, 1, message_hash(abort), 1, offer.header.previous)}
    peers.key_holder.abort()
    for client in peers.clients:
        client.abort()  # on their own: nothing is known of the end
    release = peers.round(3, updates(peers, 3))
    _, joins = joined(peers, 4)
    third = joins[0].seen
    assert {join.seen for join in joins} == {third} and third.head != second.header.previous
    assert (third.ending, third.step, third.end, third.joined) == (Ending.RELEASED, 3, message_hash(release), 3)


def test_who_missed_rounds_takes_part_again(peers):
    """A statement about a release that others missed is compared with those of the others alone."""
    peers.round(1, updates(peers, 1))
    for step in (2, 3):
        round_of_two(peers, step)
    peers.round(4, updates(peers, 4))


def test_a_release_that_a_client_caught_up_with_is_what_it_states(peers):
    release = round_of_two(peers, 1)
    header, key = release.header, peers.federation.authority.key
    peers.clients[2]._journal.caught_up(1, header.model, header.round_id, message_hash(release), key)
    _, joins = joined(peers, 2)
    assert joins[2].seen == Seen(Ending.RELEASED, 1, message_hash(release), NO_STEP, bytes(32))
    for join in joins:
        peers.key_holder.receive_join(join)


def test_aborts_of_a_restarted_key_holder_are_those_that_clients_state(tmp_path):
    peers = Peers(Federation(clients=2, folder=tmp_path))
    peers.roster(1)
    peers.key_holder._ledger.close()
    peers.key_holder = peers.federation.key_holder()
    (abort,) = peers.key_holder.report_abandoned()
    for client in peers.clients:
        client.abort(abort)
    peers.round(2, updates(peers, 2))


# --- what a lying key holder cannot hide ----------------------------------------------------------------------------


def test_a_release_that_differs_between_two_banks_is_found_in_the_next_roster(peers):
    message = peers.encrypted_sum(1, updates(peers, 1))
    release = peers.key_holder.release(message)
    other = resigned(replace(release, sums=release.sums[::-1].copy()), peers.federation.authority)
    for client, told in zip(peers.clients, (other, release, release), strict=True):
        client.accept(told)
    roster = accepted_anyway(peers, 2)
    for client in peers.clients:
        head = client._journal.head
        with pytest.raises(errors.HistoryMismatch, match=r"step 1: bank \d .*bank \d") as caught:
            client.contribute(roster, peers.federation.update(99))
        assert "bank 0" in str(caught.value)
        assert client._journal.head == head  # nothing was bound to that roster


def test_an_abort_told_to_one_bank_of_a_round_that_was_released_is_found_in_the_next_roster(peers):
    message = peers.encrypted_sum(1, updates(peers, 1))
    release = peers.key_holder.release(message)
    header = release.header.reply(peers.federation.authority.key, previous=bytes(32), roster=bytes(32))
    abort = resigned(Abort(header, AbortReason.ABANDONED, b""), peers.federation.authority)
    peers.clients[0].abort(abort)
    for client in peers.clients[1:]:
        client.accept(release)
    roster = accepted_anyway(peers, 2)
    for client in peers.clients:
        with pytest.raises(errors.HistoryMismatch, match=r"released.*aborted|aborted.*released"):
            client.contribute(roster, peers.federation.update(99))


def test_a_forked_ledger_is_found_in_the_next_roster(peers):
    """Two histories, one told to bank 0 and the other to the others, until they meet."""
    fork = peers.federation.key_holder()
    for holder in (fork, peers.key_holder):
        holder.open(1, MODEL)
        holder.abort()
    first, second = fork.open(2, MODEL), peers.key_holder.open(2, MODEL)
    assert first.header.previous != second.header.previous
    for client, offer in zip(peers.clients, (first, second, second), strict=True):
        client.join(offer, MODEL)
        client.abort()
    peers.key_holder.abort()
    roster = accepted_anyway(peers, 3)
    for client in peers.clients:
        with pytest.raises(errors.HistoryMismatch, match=r"step 2: bank \d was offered it after ledger head"):
            client.contribute(roster, peers.federation.update(99))


def test_a_ledger_that_was_rolled_back_offers_two_steps_after_one_head(peers):
    """The ledger of before step 1 serves step 2: whoever joined step 1 had the same head then."""
    peers.round(1, updates(peers, 1))
    peers.key_holder = peers.federation.key_holder()  # an empty ledger again
    offer, joins = joined(peers, 2)
    roster = signed_roster(peers.federation, offer, joins)
    for client in peers.clients:
        with pytest.raises(errors.HistoryMismatch, match="the key holder has step 2 after the same head"):
            client.contribute(roster, peers.federation.update(99))


def test_an_older_statement_is_compared_with_ones_own_journal(peers):
    """Bank 2 was told something else of step 1 and missed step 2: its statement meets that of no other."""
    message = peers.encrypted_sum(1, updates(peers, 1))
    release = peers.key_holder.release(message)
    other = resigned(replace(release, sums=release.sums[::-1].copy()), peers.federation.authority)
    for client, told in zip(peers.clients, (release, release, other), strict=True):
        client.accept(told)
    round_of_two(peers, 2)
    roster = accepted_anyway(peers, 3)
    with pytest.raises(errors.HistoryMismatch, match=r"step 1: bank 2 .* bank 0 "):
        peers.clients[0].contribute(roster, peers.federation.update(99))


# --- what the key holder checks -------------------------------------------------------------------------------------


def test_a_key_holder_whose_ledger_was_rolled_back_is_told_by_the_first_join(peers):
    peers.round(1, updates(peers, 1))
    peers.key_holder = peers.federation.key_holder()
    _, joins = joined(peers, 2)
    with pytest.raises(errors.HistoryMismatch, match=r"step 1: bank 0 saw it released .* has no record of its end"):
        peers.key_holder.receive_join(joins[0])


def test_a_client_that_was_told_afterwards_how_lost_rounds_ended_may_say_so(peers):
    """One was refused, one aborted: `aborts_after` signs what the running key holder would have signed."""
    wrong = tampered(peers, peers.encrypted_sum(1, updates(peers, 1)))
    with pytest.raises(errors.SumRefused):
        peers.key_holder.release(wrong)
    for client in peers.clients:
        client.abort()
    _, joins = joined(peers, 2)
    sent = peers.key_holder.abort()
    ledger, authority = peers.key_holder._ledger, peers.federation.authority
    for client in peers.clients:
        client.abort()
    refused, aborted = peers.key_holder.aborts_after(ledger, authority, 0, MODEL, 9)
    assert (refused.header.step, refused.reason) == (1, AbortReason.REFUSED)
    assert wire.encode(aborted, peers.federation.plan) == wire.encode(sent, peers.federation.plan)
    assert peers.key_holder.aborts_after(ledger, authority, 0, MODEL, 1) == (refused,)
    assert peers.key_holder.aborts_after(ledger, authority, 2, MODEL, 9) == ()
    assert peers.key_holder.aborts_after(ledger, authority, 0, A, 9) == ()
    peers.clients[0].settle(refused)
    peers.clients[1].settle(refused)
    peers.clients[1].settle(aborted)
    _, joins = joined(peers, 3)
    assert [join.seen.step for join in joins] == [1, 2, NO_STEP]
    for join in joins:
        peers.key_holder.receive_join(join)


@pytest.mark.parametrize(
    "lie",
    [
        lambda seen: replace(seen, end=A),
        lambda seen: replace(seen, ending=Ending.ABORTED),
        lambda seen: replace(seen, head=A),
        lambda seen: replace(seen, step=0),
        lambda seen: replace(seen, joined=0),
    ],
)
def test_a_join_that_states_what_the_ledger_does_not_hold_is_refused_and_takes_no_place(peers, lie):
    peers.round(1, updates(peers, 1))
    _, joins = joined(peers, 2)
    liar = resigned(replace(joins[1], seen=lie(joins[1].seen)), peers.federation.banks[1])
    with pytest.raises(errors.HistoryMismatch, match="bank 1"):
        peers.key_holder.receive_join(liar)
    for join in joins:
        peers.key_holder.receive_join(join)


@pytest.mark.parametrize("changes", [{"step": 2}, {"joined": 2}, {"step": 2**63 - 1}])
def test_a_statement_about_no_earlier_step_is_malformed(peers, changes):
    peers.round(1, updates(peers, 1))
    _, joins = joined(peers, 2)
    liar = resigned(replace(joins[1], seen=replace(joins[1].seen, **changes)), peers.federation.banks[1])
    with pytest.raises(errors.MalformedMessage):
        peers.key_holder.receive_join(liar)


def test_a_statement_is_under_the_signature_of_its_join(peers):
    peers.round(1, updates(peers, 1))
    offer, joins = joined(peers, 2)
    forged = replace(joins[1], seen=NOTHING_SEEN)
    with pytest.raises(errors.BadSignature):
        peers.key_holder.receive_join(forged)
    roster = signed_roster(peers.federation, offer, [joins[0], forged, joins[2]])
    with pytest.raises(errors.BadSignature):
        peers.clients[0].contribute(roster, peers.federation.update(99))


# --- encoding and comparison ----------------------------------------------------------------------------------------

GOOD = Seen(Ending.RELEASED, 5, A, 6, B)


@pytest.mark.parametrize("seen", [NOTHING_SEEN, GOOD, replace(GOOD, joined=NO_STEP, head=bytes(32))])
def test_a_statement_survives_its_bytes(seen):
    assert parse_seen(seen_bytes(seen)) == seen and len(seen_bytes(seen)) == 81


@pytest.mark.parametrize(
    "changes",
    [
        {"step": NO_STEP},
        {"step": NO_STEP, "end": bytes(32)},
        {"ending": Ending.NONE},
        {"step": 2**63},
        {"joined": 2**63},
        {"joined": NO_STEP},
        {"end": A[1:]},
        {"head": B + b"b"},
    ],
)
def test_a_statement_has_one_encoding(changes):
    with pytest.raises(errors.MalformedMessage):
        seen_bytes(replace(GOOD, **changes))


@pytest.mark.parametrize("place", [(0, 3), (0, 255), (8, 0x80), (48, 0x80)])
def test_bytes_that_no_statement_has_are_malformed(place):
    data = bytearray(seen_bytes(GOOD))
    data[place[0]] = place[1]
    with pytest.raises(errors.MalformedMessage):
        parse_seen(bytes(data))


def test_a_join_with_a_malformed_statement_is_malformed_on_the_wire(peers):
    _, joins = joined(peers, 1)
    data = bytearray(wire.encode(joins[0], peers.plan))
    data[16 + 234 + 32 + 48] = 9
    data[-32:] = hashlib.sha256(bytes(data[:-32]) + payload_hash(b"")).digest()
    with pytest.raises(errors.MalformedMessage, match="known end"):
        wire.decode(bytes(data), peers.plan)


def test_a_journal_from_before_abort_hashes_states_the_last_end_that_it_has_a_hash_of(peers):
    release = peers.round(1, updates(peers, 1))
    journal, (offer, _) = peers.clients[0]._journal, joined(peers, 2)
    header = offer.header
    journal._log.append("aborted", 2, header.model, header.round_id, b"")
    seen = journal.seen(peers.federation.authority.key)
    assert seen == Seen(Ending.RELEASED, 1, message_hash(release), 2, header.previous)
    assert journal.known(2, header.sender) == Known(Ending.ABORTED, None, header.previous)
    assert journal.known(2, peers.federation.server.key) == Known()  # another key holder's step 2 is another step


def test_a_journal_from_before_abort_hashes_opposes_only_a_release():
    """Its memory of an abort has no hash: any abort agrees with it, no release does."""
    known = Known(Ending.ABORTED, None, A)
    one = Seen(Ending.ABORTED, 1, B, NO_STEP, bytes(32))
    check_statements([("a", one)], 2, B, lambda _: known, "own")
    with pytest.raises(errors.HistoryMismatch, match=r"step 1: a .* own "):
        check_statements([("a", replace(one, ending=Ending.RELEASED))], 2, B, lambda _: known, "own")
