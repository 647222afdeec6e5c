"""What each role refuses of messages that are well formed and signed by the right party, and that nothing changes then.

The senders here are dishonest: they hold their own keys and sign what they like.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulator import MODEL, Federation, Peers
from snapshot import snapshot

import secagg
from secagg import errors
from secagg.blocks import payload_hash
from secagg.identity import Identity
from secagg.messages import Message
from secagg.publickey import PublicKey
from secagg.transcript import message_hash, parts_hash, public_key_hash, signed_bytes

FEDERATION = Federation(clients=3)
OTHER = b"x" * 32


@pytest.fixture
def peers() -> Peers:
    return Peers(FEDERATION)


def signed(message: Message, identity: Identity, **changes: object) -> Message:
    """The message with fields of its header or body changed, under a signature that is right."""
    header = {name: value for name, value in changes.items() if hasattr(message.header, name)}
    body = {name: value for name, value in changes.items() if name not in header}
    changed = replace(message, header=replace(message.header, **header), **body)
    return replace(changed, signature=identity.sign(signed_bytes(changed)))


def refuses(role: object, error: type[errors.SecAggError], call) -> None:
    before = snapshot(role)
    with pytest.raises(error):
        call()
    assert snapshot(role) == before


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (errors.WrongRound, {"session": b"x" * 16}),
        (errors.WrongPlan, {"plan": OTHER}),
        (errors.WrongPlan, {"engine": 1}),
        (errors.WrongPlan, {"masked": False}),
        (errors.WrongModel, {"model": OTHER}),
        (errors.WrongKey, {"key": OTHER}),
        (errors.MalformedMessage, {"roster": OTHER}),
        (errors.QuorumNotMet, {"quorum": 1}),
        (errors.QuorumNotMet, {"quorum": 4}),
        (errors.BadSeal, {"agreement_key": bytes(32)}),
        (errors.UnknownClient, {"sender": FEDERATION.server.key}),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_client_joins_no_offer_that_differs_from_what_it_expects(peers, error, changes):
    offer = signed(peers.key_holder.open(1, MODEL), FEDERATION.authority, **changes)
    refuses(peers.clients[0], error, lambda: peers.clients[0].join(offer, MODEL))


@pytest.mark.parametrize("broken", ["residue", "zero", "parameters"])
def test_a_client_joins_no_offer_with_a_malformed_key(peers, broken):
    offer = peers.key_holder.open(1, MODEL)
    residues, params = offer.public_key.residues.copy(), offer.public_key.params
    if broken == "residue":
        residues[0, 0, 0] = params.primes[0]
    elif broken == "zero":
        residues[1] = 0
    else:
        params = secagg.parameters.ALLOWED[-1]
    key = PublicKey(params, residues)
    offer = signed(offer, FEDERATION.authority, public_key=key, key=public_key_hash(key))
    refuses(peers.clients[0], errors.WrongKey, lambda: peers.clients[0].join(offer, MODEL))


def test_a_client_joins_each_step_once_and_in_rising_order(peers):
    offer = peers.key_holder.open(5, MODEL)
    client = peers.clients[0]
    client.join(offer, MODEL)
    client.abort()
    for step in (5, 4):
        again = signed(offer, FEDERATION.authority, step=step)
        refuses(client, errors.StepNotIncreasing, lambda again=again: client.join(again, MODEL))


def test_an_offer_at_the_end_of_all_steps_does_not_take_them_from_the_client(peers):
    offer = peers.key_holder.open(5, MODEL)
    client = peers.clients[0]
    for step in (2**63 - 1, 2**20 + 1):
        far = signed(offer, FEDERATION.authority, step=step)
        refuses(client, errors.StepJump, lambda far=far: client.join(far, MODEL))
    client.join(offer, MODEL)


def test_an_update_is_checked_before_a_round_is_joined_for_it(peers):
    client, update = peers.clients[0], FEDERATION.update(1)
    client.check_update(update)
    for error, bad in (
        (errors.UpdateNotFinite, np.where(np.arange(update.size) == 3, np.nan, update)),
        (errors.UpdateLengthMismatch, update[1:]),
        (errors.UpdateTypeUnsupported, update.astype(np.int64)),
    ):
        refuses(client, error, lambda bad=bad: client.check_update(bad))
    for weight in (0, FEDERATION.plan.max_weight + 1, 1.0, True):
        refuses(client, errors.WeightOutOfRange, lambda weight=weight: client.check_update(update, weight))
    peers.round(1, [FEDERATION.update(seed) for seed in range(1, 1 + len(peers.clients))])
    refuses(client, errors.UpdateReused, lambda: client.check_update(update.astype(np.float32)))


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (errors.WrongRound, {"session": b"x" * 16}),
        (errors.WrongRound, {"round_id": b"x" * 16}),
        (errors.WrongRound, {"step": 2}),
        (errors.WrongPlan, {"plan": OTHER}),
        (errors.WrongPlan, {"masked": False}),
        (errors.WrongKey, {"key": OTHER}),
        (errors.WrongModel, {"model": OTHER}),
        (errors.RosterMismatch, {"previous": OTHER}),
        (errors.RosterMismatch, {"roster": OTHER}),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_every_receiver_refuses_messages_of_another_round(peers, error, changes):
    offer = peers.key_holder.open(1, MODEL)
    joins = [client.join(offer, MODEL) for client in peers.clients]
    join = signed(joins[0], FEDERATION.banks[0], **changes)
    refuses(peers.key_holder, error, lambda: peers.key_holder.receive_join(join))
    for each in joins:
        peers.key_holder.receive_join(each)
    roster = peers.key_holder.close_roster()
    moved = signed(roster, FEDERATION.authority, **changes)
    update = FEDERATION.update(1)
    refuses(peers.clients[0], error, lambda: peers.clients[0].contribute(moved, update))
    refuses(peers.aggregator, error, lambda: peers.aggregator.open(offer, moved))
    peers.aggregator.open(offer, roster)
    contributions = [client.contribute(roster, update + i) for i, client in enumerate(peers.clients)]
    foreign = signed(contributions[0], FEDERATION.banks[0], **changes)
    refuses(peers.aggregator, error, lambda: peers.aggregator.receive(foreign))
    for contribution in contributions:
        peers.aggregator.receive(contribution)
    encrypted_sum = peers.aggregator.close()
    foreign = signed(encrypted_sum, FEDERATION.server, **changes)
    refuses(peers.key_holder, error, lambda: peers.key_holder.release(foreign))
    release = peers.key_holder.release(encrypted_sum)
    if "previous" not in changes:  # a client does not know the sum that a release answers
        foreign = signed(release, FEDERATION.authority, **changes)
        refuses(peers.clients[0], error, lambda: peers.clients[0].accept(foreign))
    assert peers.clients[0].accept(release).contributors == 3


@pytest.mark.parametrize("break_it", ["part", "part missing", "hash", "short", "residue", "transparent", "signature"])
def test_a_sum_that_is_not_one_of_this_roster_burns_nothing(peers, break_it):
    encrypted_sum = peers.encrypted_sum(1, [FEDERATION.update(i) for i in range(3)])
    parts, payload = encrypted_sum.parts, bytearray(encrypted_sum.payload)
    expected: type[errors.SecAggError] = errors.PeerError
    match break_it:
        case "part":
            parts, expected = (parts[1], *parts[1:]), errors.BadSignature
        case "part missing":
            parts, expected = parts[1:], errors.RosterMismatch
        case "short":
            payload, expected = payload[:-1], errors.MalformedMessage
        case "residue":
            payload[:4], expected = b"\xff" * 4, errors.ResidueOutOfRange
        case "transparent":
            payload[len(payload) // 2 :], expected = (
                bytes(len(payload) - len(payload) // 2),
                errors.TransparentCiphertext,
            )
    hashed = OTHER if break_it == "hash" else payload_hash(payload)
    identity = FEDERATION.authority if break_it == "signature" else FEDERATION.server
    forged = signed(
        encrypted_sum, identity, parts=parts, payload=payload, payload_hash=hashed, previous=parts_hash(parts)
    )
    refuses(peers.key_holder, expected, lambda: peers.key_holder.release(forged))
    assert peers.key_holder.release(encrypted_sum).contributors == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"contributors": 2},
        {"contributors": 2, "total_weight": 2, "sums": np.zeros(FEDERATION.plan.length, dtype=np.int64)},
        {"total_weight": 2},
        {"total_weight": 4},
        {"sums": np.full(FEDERATION.plan.length, 3 * FEDERATION.plan.max_value + 1)},
    ],
    ids=["fewer", "fewer in every field", "less weight", "more weight", "larger sums"],
)
def test_a_client_accepts_no_release_that_its_round_cannot_have(peers, changes):
    release = peers.key_holder.release(peers.encrypted_sum(1, [FEDERATION.update(i) for i in range(3)]))
    forged = signed(release, FEDERATION.authority, **changes)
    refuses(peers.clients[0], errors.PeerError, lambda: peers.clients[0].accept(forged))
    assert peers.clients[0].accept(release).total_weight == 3


def test_a_roster_is_checked_before_noise_is_drawn_for_it(peers):
    clients, key_holder = peers.clients, peers.key_holder
    offer = key_holder.open(1, MODEL)
    for client in clients:
        key_holder.receive_join(client.join(offer, MODEL))
    roster = key_holder.close_roster()
    for error, wrong in (
        (errors.BadSignature, replace(roster, signature=bytes(64))),
        (errors.WrongModel, signed(roster, FEDERATION.authority, model=OTHER)),
        (errors.QuorumNotMet, signed(roster, FEDERATION.authority, entries=roster.entries[:1])),
    ):
        refuses(clients[0], error, lambda wrong=wrong: clients[0].check_roster(wrong))
    before = snapshot(clients[0])
    names = clients[0].check_roster(roster)
    assert snapshot(clients[0]) == before
    assert sorted(names) == sorted(member.organisation for member in FEDERATION.enrolment.clients)


def test_more_joins_than_the_plan_holds_are_refused():
    federation = Federation(clients=3, max_clients=2)
    peers = Peers(federation)
    offer = peers.key_holder.open(1, MODEL)
    for client in peers.clients[:2]:
        peers.key_holder.receive_join(client.join(offer, MODEL))
    join = peers.clients[2].join(offer, MODEL)
    refuses(peers.key_holder, errors.QuorumNotMet, lambda: peers.key_holder.receive_join(join))


def test_a_step_or_model_that_does_not_fit_is_refused_before_a_key_is_made(peers):
    for step, model in ((-1, MODEL), (2**63, MODEL), (1, MODEL[:31])):
        refuses(peers.key_holder, errors.LocalError, lambda step=step, model=model: peers.key_holder.open(step, model))


def test_stored_releases_come_back_as_they_were_sent(peers):
    release = peers.round(1, [FEDERATION.update(i) for i in range(3)])
    stored = peers.key_holder.stored_release(1)
    assert stored is not None and peers.key_holder.stored_release(2) is None
    assert message_hash(stored) == message_hash(release)
    assert secagg.encode(stored, FEDERATION.plan) == secagg.encode(release, FEDERATION.plan)
