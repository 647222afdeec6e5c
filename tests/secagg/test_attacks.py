"""What a malicious party may try with well-formed, properly signed messages, and how each attempt ends.

The stories of `demos/attacks` are played by tests/test_demos_attack.py; here stand the finer attempts on the roles
themselves: keys nobody should have, seeds and joins in other names, fields moved, buffers changed, messages again.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import secagg
from secagg import errors, masks
from secagg.blocks import payload_hash
from secagg.identity import verify
from secagg.ledger import Outcome
from secagg.messages import AbortReason, EncryptedSum, Join, Offer, Release, Roster, RosterEntry
from secagg.states import KeyHolderState
from secagg.transcript import HEADER, header_bytes, message_hash, parts_hash, signed_bytes
from tests.simulator import MODEL, Federation, Peers

P25519 = 2**255 - 19
# The u-coordinates of small order (RFC 7748 section 7; Bernstein's list), each in every 32-byte encoding there is.
SMALL_ORDER_U = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P25519 - 1,
    P25519,
    P25519 + 1,
)
SMALL_ORDER_KEYS = [(u | high).to_bytes(32, "little") for u in SMALL_ORDER_U for high in (0, 1 << 255)]


@pytest.fixture
def peers() -> Peers:
    return Peers(Federation(clients=4, length=50, quorum=3, max_clients=8))


def resigned(message, identity):
    return replace(message, signature=identity.sign(signed_bytes(message)))


def signed_roster(federation: Federation, offer: Offer, joins: list[Join]) -> Roster:
    """A roster that a lying key holder makes of any joins."""
    entries = tuple(
        RosterEntry(join.header.sender, join.agreement_key, join.sealed_seed, join.seen, join.signature)
        for join in sorted(joins, key=lambda join: join.header.sender)
    )
    header = offer.header.reply(federation.authority.key, previous=message_hash(offer))
    return resigned(Roster(header, entries, b""), federation.authority)


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("public", SMALL_ORDER_KEYS, ids=lambda key: key.hex()[:8] + key.hex()[-2:])
def test_a_key_agreement_that_gives_zero_is_refused(public):
    with pytest.raises(errors.BadSeal):
        masks.AgreementKey().shared_with(public)


def test_an_offer_with_a_small_order_agreement_key_gets_no_join(peers):
    offer = peers.key_holder.open(1, MODEL)
    trap = resigned(replace(offer, agreement_key=SMALL_ORDER_KEYS[0]), peers.federation.authority)
    with pytest.raises(errors.BadSeal):
        peers.clients[0].join(trap, MODEL)
    peers.clients[0].join(offer, MODEL)  # nothing was consumed


def test_a_join_with_a_small_order_agreement_key_is_refused_by_key_holder_and_peers(peers):
    offer = peers.key_holder.open(1, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    weak = resigned(replace(joins[1], agreement_key=SMALL_ORDER_KEYS[2]), peers.federation.banks[1])
    with pytest.raises(errors.BadSeal):
        peers.key_holder.receive_join(weak)
    # A key holder that lies takes it all the same: then the client is the one that refuses.
    with pytest.raises(errors.BadSeal):
        peers.clients[0].contribute(signed_roster(peers.federation, offer, [joins[0], weak, *joins[2:]]), update(peers))


@pytest.mark.parametrize(
    "y",
    [
        0,
        1,
        P25519 - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
        P25519,
        P25519 + 1,
    ],
    ids=["order 4", "order 1", "order 2", "order 8", "order 8 again", "order 4 not reduced", "order 1 not reduced"],
)
def test_a_public_key_under_which_anybody_can_sign_is_not_enrolled(y):
    assert times_eight_is_neutral(y)
    for sign in (0, 1 << 255):
        with pytest.raises(errors.IdentityError, match="anybody can sign"):
            secagg.Member("bank", (y | sign).to_bytes(32, "little"))


def test_the_forgery_that_small_order_keys_allow_is_real():
    """The control of the test above: without that check this signature, made without any key, verifies."""
    neutral = (1).to_bytes(32, "little")
    base_point = bytes.fromhex("58" + "66" * 31)
    verify(neutral, base_point + (1).to_bytes(32, "little"), os.urandom(20))


def times_eight_is_neutral(y: int) -> bool:
    """Whether the Ed25519 point with this y has an order that divides 8, by three doublings of y alone."""
    d = -121665 * pow(121666, -1, P25519) % P25519
    y %= P25519
    for _ in range(3):
        x2 = (y * y - 1) * pow(d * y * y + 1, -1, P25519) % P25519
        product = d * x2 % P25519 * y * y % P25519
        y = (y * y + x2) * pow(1 - product, -1, P25519) % P25519
    return y == 1


# --- joins and seeds ------------------------------------------------------------------------------------------------


def test_a_sealed_seed_copied_into_another_clients_join_does_not_open(peers):
    """With the victim's seed under its own name a colluder would take the victim's seed mask off the sum."""
    offer = peers.key_holder.open(1, MODEL)
    victim, own = (client.join(offer, MODEL) for client in peers.clients[:2])
    colluder = peers.federation.banks[1]
    for copied in (
        replace(own, sealed_seed=victim.sealed_seed),
        replace(own, sealed_seed=victim.sealed_seed, agreement_key=victim.agreement_key),
    ):
        with pytest.raises(errors.BadSeal):
            peers.key_holder.receive_join(resigned(copied, colluder))
    peers.key_holder.receive_join(victim)
    peers.key_holder.receive_join(own)


def test_a_sealed_seed_from_another_round_does_not_open(peers):
    first = peers.clients[0].join(peers.key_holder.open(1, MODEL), MODEL)
    peers.key_holder.abort()
    peers.clients[0].abort()
    second = peers.clients[0].join(peers.key_holder.open(2, MODEL), MODEL)
    stale = replace(second, sealed_seed=first.sealed_seed, agreement_key=first.agreement_key)
    with pytest.raises(errors.BadSeal):
        peers.key_holder.receive_join(resigned(stale, peers.federation.banks[0]))


def test_a_join_whose_bytes_moved_between_fields_is_malformed(peers):
    """Key and seed stand side by side under the signature; only their fixed widths keep them apart."""
    offer = peers.key_holder.open(1, MODEL)
    join = peers.clients[0].join(offer, MODEL)
    both = join.agreement_key + join.sealed_seed
    moved = replace(join, agreement_key=both[:31], sealed_seed=both[31:])
    with pytest.raises(errors.MalformedMessage):
        peers.key_holder.receive_join(moved)


@pytest.mark.parametrize("name", ["session", "round_id", "sender", "plan", "key", "model", "roster", "previous"])
def test_no_header_field_is_cut_or_padded_into_another_headers_bytes(peers, name):
    header = peers.key_holder.open(1, MODEL).header
    value = getattr(header, name)
    assert len(header_bytes(header)) == HEADER.size
    for other in (value + b"\0", value[:-1]):
        with pytest.raises(errors.MalformedMessage):
            header_bytes(replace(header, **{name: other}))


@pytest.mark.parametrize("change", [{"step": -1}, {"step": 2**63}, {"engine": 256}])
def test_no_number_in_a_header_leaves_its_range(peers, change):
    header = peers.key_holder.open(1, MODEL).header
    with pytest.raises(errors.MalformedMessage):
        header_bytes(replace(header, **change))


def test_every_field_of_a_header_is_under_the_signature(peers):
    offer = peers.key_holder.open(1, MODEL)
    key = peers.federation.authority.key
    verify(key, offer.signature, signed_bytes(offer))
    for name, value in {
        "session": bytes(16),
        "round_id": bytes(16),
        "step": 2,
        "sender": bytes(32),
        "plan": bytes(32),
        "engine": offer.header.engine ^ 1,
        "masked": False,
        "key": bytes(32),
        "model": bytes(32),
        "roster": b"\1" * 32,
        "previous": b"\1" * 32,
    }.items():
        changed = replace(offer, header=replace(offer.header, **{name: value}))
        with pytest.raises(errors.BadSignature):
            verify(key, changed.signature, signed_bytes(changed))
    for changed in (replace(offer, quorum=offer.quorum - 1), replace(offer, agreement_key=bytes(32))):
        with pytest.raises(errors.BadSignature):
            verify(key, changed.signature, signed_bytes(changed))


# --- rosters --------------------------------------------------------------------------------------------------------


def test_a_roster_that_replaces_a_peers_join_is_refused(peers):
    """The key holder would know the mask between the victim and the peer that it invented."""
    offer = peers.key_holder.open(1, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    forged = replace(joins[1], agreement_key=X25519PrivateKey.generate().public_key().public_bytes_raw())
    for replaced in (forged, resigned(forged, peers.federation.authority)):
        with pytest.raises(errors.BadSignature):
            peers.clients[0].contribute(
                signed_roster(peers.federation, offer, [joins[0], replaced, *joins[2:]]), update(peers)
            )


def test_a_roster_with_an_earlier_join_of_a_member_is_refused_by_that_member_and_by_the_others(peers):
    """Same client, same key holder, another offer: nothing of it fits."""
    first_offer = peers.key_holder.open(1, MODEL)
    earlier = peers.clients[0].join(first_offer, MODEL)
    peers.key_holder.abort()
    peers.clients[0].abort()
    offer = peers.key_holder.open(2, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    roster = signed_roster(peers.federation, offer, [earlier, *joins[1:]])
    with pytest.raises(errors.RosterMismatch, match="own join"):
        peers.clients[0].contribute(roster, update(peers))
    with pytest.raises(errors.BadSignature):
        peers.clients[1].contribute(roster, update(peers))


def test_a_roster_without_this_client_is_refused(peers):
    offer = peers.key_holder.open(1, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    with pytest.raises(errors.RosterMismatch):
        peers.clients[0].contribute(signed_roster(peers.federation, offer, joins[1:]), update(peers))


def test_a_roster_names_nobody_twice_and_nobody_from_outside(peers):
    federation = peers.federation
    offer = peers.key_holder.open(1, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    with pytest.raises(errors.DuplicateClient):
        peers.clients[0].contribute(signed_roster(federation, offer, [*joins, joins[1]]), update(peers))
    stranger = secagg.Identity.generate("stranger")
    header = joins[1].header.reply(stranger.key, previous=joins[1].header.previous)
    outside = resigned(replace(joins[1], header=header), stranger)
    with pytest.raises(errors.UnknownClient):
        peers.clients[0].contribute(signed_roster(federation, offer, [*joins, outside]), update(peers))


def test_neither_client_nor_key_holder_can_be_made_with_a_quorum_of_one():
    federation = Federation(clients=3, length=50, quorum=1)
    with pytest.raises(errors.PlanError):
        federation.client(0)
    with pytest.raises(errors.PlanError):
        federation.key_holder()


def test_a_lower_quorum_than_the_clients_own_is_not_joined(peers):
    offer = peers.key_holder.open(1, MODEL)
    with pytest.raises(errors.QuorumNotMet):
        peers.clients[0].join(resigned(replace(offer, quorum=2), peers.federation.authority), MODEL)


def test_an_unmasked_offer_is_not_joined_by_a_client_that_masks(peers):
    offer = peers.key_holder.open(1, MODEL)
    downgraded = replace(offer, header=replace(offer.header, masked=False))
    with pytest.raises(errors.WrongPlan):
        peers.clients[0].join(resigned(downgraded, peers.federation.authority), MODEL)


def test_nothing_is_encrypted_twice_under_one_offers_masks(peers):
    """Two contributions under the same masks differ by the plaintexts and fresh encryptions alone."""
    offer = peers.key_holder.open(1, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    for join in joins:
        peers.key_holder.receive_join(join)
    roster, client = peers.key_holder.close_roster(), peers.clients[0]
    client.contribute(roster, update(peers))
    for again in (roster, signed_roster(peers.federation, offer, joins[:3])):
        with pytest.raises(errors.SecAggError):
            client.contribute(again, update(peers, 7))
    client.abort()
    with pytest.raises(errors.StepNotIncreasing):
        client.join(offer, MODEL)


# --- sums and releases ----------------------------------------------------------------------------------------------


def test_a_sum_that_comes_again_after_its_release_is_refused_by_name(peers):
    message = peers.encrypted_sum(1, updates(peers))
    release = peers.key_holder.release(message)
    for _ in range(2):
        with pytest.raises(errors.RoundAlreadyReleased):
            peers.key_holder.release(message)
    assert peers.key_holder.state is KeyHolderState.IDLE
    stored = peers.key_holder.stored_release(1)
    assert stored is not None and stored.signature == release.signature
    peers.key_holder.open(2, MODEL)
    with pytest.raises(errors.RoundAlreadyReleased):
        peers.key_holder.release(message)


def test_a_sum_that_comes_again_after_its_refusal_is_refused_by_name(peers):
    message = peers.encrypted_sum(1, updates(peers))
    wrong = tampered(peers, message)
    with pytest.raises(errors.SumRefused):
        peers.key_holder.release(wrong)
    for again in (wrong, message):  # the honest sum as well: the step is burnt
        with pytest.raises(errors.RoundAlreadyReleased):
            peers.key_holder.release(again)
    assert peers.key_holder.outcome(1) is Outcome.REFUSED


def test_a_refusal_says_one_word_and_carries_no_cause(peers):
    message = tampered(peers, peers.encrypted_sum(1, updates(peers)))
    with pytest.raises(errors.SumRefused) as caught:
        peers.key_holder.release(message)
    assert caught.value.args == ("refused",)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_bad_message_burns_nothing_and_the_honest_sum_is_still_released(peers):
    message = peers.encrypted_sum(1, updates(peers))
    server, parts = peers.federation.server, message.parts
    for broken, error in (
        (replace(message, signature=bytes(64)), errors.BadSignature),
        (resigned(message, peers.federation.banks[0]), errors.BadSignature),
        (with_parts(message, parts[:-1], server), errors.RosterMismatch),
        (with_parts(message, (parts[0], parts[0], *parts[2:]), server), errors.BadSignature),
        (with_parts(message, (parts[1], parts[0], *parts[2:]), server), errors.BadSignature),
        (replace(message, parts=(parts[1], parts[0], *parts[2:])), errors.RosterMismatch),
        (replace(message, payload=bytes(len(message.payload))), errors.DigestMismatch),
        (replace(message, payload=bytes(message.payload)[:-15]), errors.MalformedMessage),
    ):
        with pytest.raises(error):
            peers.key_holder.release(broken)
        assert peers.key_holder.state is KeyHolderState.CLOSED
        assert peers.key_holder.outcome(1) is Outcome.OPEN
    assert isinstance(peers.key_holder.release(message), Release)


def test_a_payload_that_changes_after_its_check_is_refused_without_saying_why(peers, monkeypatch):
    """A buffer shared with a network thread: whatever replaces the checked bytes, the answer is the same word."""
    message = peers.encrypted_sum(1, updates(peers))
    buffer = bytearray(message.payload)
    aliased = replace(message, payload=memoryview(buffer))
    consumed = peers.key_holder._ledger.consumed

    def consume_and_change(*event):
        consumed(*event)
        buffer[:] = b"\xff" * len(buffer)  # every residue out of range

    monkeypatch.setattr(peers.key_holder._ledger, "consumed", consume_and_change)
    with pytest.raises(errors.SumRefused) as caught:
        peers.key_holder.release(aliased)
    assert type(caught.value) is errors.SumRefused and caught.value.args == ("refused",)
    assert peers.key_holder.outcome(1) is Outcome.REFUSED


def test_a_forged_release_or_abort_changes_nothing_at_a_client(peers):
    message = peers.encrypted_sum(1, updates(peers))
    release = peers.key_holder.release(message)
    forged_sums = replace(release, sums=release.sums + 1)
    renamed = replace(release, header=replace(release.header, sender=peers.federation.server.key))
    for forged, error in (
        (forged_sums, errors.BadSignature),
        (resigned(forged_sums, peers.federation.server), errors.BadSignature),
        (resigned(renamed, peers.federation.server), errors.UnknownClient),
        (replace(release, total_weight=release.total_weight - 1), errors.BadSignature),
        (replace(release, header=replace(release.header, roster=bytes(32))), errors.RosterMismatch),
        (replace(release, header=replace(release.header, step=2)), errors.WrongRound),
        (replace(release, contributors=3), errors.RosterMismatch),
    ):
        for client in peers.clients:
            with pytest.raises(error):
                client.accept(forged)
    for client in peers.clients:
        assert client.accept(release).contributors == 4


def test_an_abort_that_the_aggregator_signs_frees_no_update(peers):
    """If it did, the aggregator could have the same updates sent to a second roster."""
    offer, roster = peers.roster(1)
    peers.clients[0].contribute(roster, update(peers))
    abort = peers.key_holder.abort(AbortReason.ABANDONED)
    forged = resigned(abort, peers.federation.server)
    with pytest.raises(errors.BadSignature):
        peers.clients[0].abort(forged)
    peers.clients[0].abort()  # on its own decision: nothing is remembered as aborted
    offer = peers.key_holder.open(2, MODEL)
    joins = [peers.clients[0].join(offer, MODEL)]
    for client in peers.clients[1:]:
        client.abort()
        joins.append(client.join(offer, MODEL))
    for join in joins:
        peers.key_holder.receive_join(join)
    with pytest.raises(errors.UpdateReused):
        peers.clients[0].contribute(peers.key_holder.close_roster(), update(peers))


@pytest.mark.parametrize(
    "disguise",
    [
        lambda u: u.astype(np.float32),
        lambda u: np.nextafter(u, 0),
        lambda u: np.where(np.abs(u) > 1, 2 * u, u),
    ],
    ids=["as float32", "one ulp", "beyond the clip"],
)
def test_an_update_in_disguise_enters_no_second_roster(peers, disguise):
    """The three others send what rounds to the same integers without the fourth: the difference is its update."""
    whole = [np.float64(peers.federation.update(seed)) for seed in range(4)]
    peers.round(1, whole)
    _, roster = peers.roster(2, members=[0, 1, 2])
    for client, update in zip(peers.clients[:3], whole[:3], strict=True):
        with pytest.raises(errors.UpdateReused):
            client.contribute(roster, disguise(update))


def retrained(federation: Federation, update):
    """What a second training from the same model gives: much the same."""
    return np.clip(update + np.random.default_rng(7).normal(0, 0.05, update.size), -1, 1)


def lied_about_an_abort(federation: Federation) -> tuple[Peers, np.ndarray, Roster]:
    """All clients' sum opened in secret, the round called lost, and a roster without the first client closed."""
    peers = Peers(federation)
    first = [federation.update(seed) for seed in range(len(peers.clients))]
    opened = peers.key_holder._open(peers.encrypted_sum(1, first), peers.key_holder._current())
    abort = peers.key_holder.abort(AbortReason.ABANDONED)
    for client in peers.clients:
        client.abort(abort)
    offer, roster = peers.roster(2, members=range(1, len(peers.clients)))
    peers.aggregator = federation.aggregator()
    peers.aggregator.open(offer, roster)
    return peers, opened.sums, roster


def test_a_key_holder_that_lies_about_an_abort_gets_no_second_roster_from_the_same_model():
    federation = Federation(clients=4, length=50, quorum=3, model_repeats=0)
    peers, _, roster = lied_about_an_abort(federation)
    for index, client in enumerate(peers.clients[1:], start=1):
        head = client._journal.head
        with pytest.raises(errors.ModelRepeated, match="one sum can be subtracted"):
            client.contribute(roster, retrained(federation, federation.update(index)))
        assert client._journal.head == head


def test_with_their_consent_the_second_roster_shows_the_absent_clients_update():
    """The control of the test above, and what `model_repeats` costs: every update of it was trained anew."""
    federation = Federation(clients=4, length=50, quorum=3, model_repeats=1)
    peers, opened, roster = lied_about_an_abort(federation)
    for index, client in enumerate(peers.clients[1:], start=1):
        peers.aggregator.receive(client.contribute(roster, retrained(federation, federation.update(index))))
    sums = peers.key_holder.release(peers.aggregator.close()).sums
    difference, victim = (opened - sums).astype(np.float64), federation.quantised(federation.update(0))
    cosine = difference @ victim / np.linalg.norm(difference) / np.linalg.norm(victim)
    assert cosine > 0.9


def test_a_retry_shows_a_lying_key_holder_how_far_those_moved_who_did_not_retry():
    """A limit that is stated, not a promise (docs/attacks.md): the members are the same, the updates are not.

    After an abort the others send the updates of the failed round again, as they may; one client has trained on. A key
    holder that opened the first sum in secret subtracts, and holds the difference of that client's two updates.
    """
    peers = Peers(Federation(clients=3, length=50, quorum=3))
    first, trained_on = [peers.federation.update(seed) for seed in range(3)], peers.federation.update(9)
    before = peers.encrypted_sum(1, first)
    opened_in_secret = peers.key_holder._open(before, peers.key_holder._current())
    abort = peers.key_holder.abort(AbortReason.ABANDONED)
    for client in peers.clients:
        client.abort(abort)
    release = peers.key_holder.release(peers.encrypted_sum(2, [first[0], trained_on, first[2]]))
    moved = peers.federation.quantised(trained_on) - peers.federation.quantised(first[1])
    assert np.array_equal(release.sums - opened_in_secret.sums, moved)


def test_nobody_but_the_enrolled_parties_can_play_a_role():
    federation = Federation(clients=3, length=50)
    stranger = secagg.Identity.generate("key holder")  # the right name, another key
    with pytest.raises(errors.UnknownClient):
        secagg.KeyHolder(stranger, federation.enrolment, federation.plan)
    with pytest.raises(errors.UnknownClient):
        secagg.Aggregator(federation.authority, federation.enrolment, federation.plan)
    with pytest.raises(errors.UnknownClient):
        secagg.Client(federation.server, federation.enrolment, federation.plan)


# --- the pieces -----------------------------------------------------------------------------------------------------


def update(peers: Peers, seed: int = 0) -> np.ndarray:
    return peers.federation.update(seed)


def updates(peers: Peers) -> list[np.ndarray]:
    return [peers.federation.update(seed) for seed in range(len(peers.clients))]


def with_parts(message: EncryptedSum, parts, server: secagg.Identity) -> EncryptedSum:
    """Other signed hashes under a header and signature to match."""
    header = replace(message.header, previous=parts_hash(parts))
    return resigned(replace(message, header=header, parts=parts), server)


def tampered(peers: Peers, message: EncryptedSum) -> EncryptedSum:
    """One residue of c0 changed, signed by the aggregator: well formed, and wrong."""
    payload = bytearray(message.payload)
    payload[0] ^= 1
    changed = replace(message, payload=bytes(payload), payload_hash=payload_hash(bytes(payload)))
    return resigned(changed, peers.federation.server)
