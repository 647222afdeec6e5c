"""Bytes from outside: every mutation is refused by name, the state stays, and the true message still goes through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simulator import Federation, Peers

import secagg
from secagg import errors, wire
from secagg.blocks import payload_hash
from secagg.messages import Abort, AbortReason, Contribution, EncryptedSum, Join, Offer, Release, Roster
from secagg.session import Parties, Session, Terms
from secagg.transcript import HEADER, header_bytes, message_hash

SCRIPT = Path(__file__).with_name("mutate_messages.py")
MODEL = b"m" * 32


@pytest.fixture(scope="module")
def conversation():
    """Every message of one round, and its plan."""
    plan = secagg.plan_round(length=2_000, max_clients=5, value_bits=10, max_weight=7)
    roles = Session(Parties.generate(["bank 0", "bank 1", "bank 2"])).roles(Terms(plan))
    key_holder, aggregator, clients = roles.key_holder, roles.aggregator, roles.clients
    offer = key_holder.open(4, MODEL)
    joins = [client.join(offer, MODEL) for client in clients]
    for join in joins:
        key_holder.receive_join(join)
    roster = key_holder.close_roster()
    aggregator.open(offer, roster)
    contributions = [c.contribute(roster, np.linspace(-1, 1, plan.length), 1 + i) for i, c in enumerate(clients)]
    for contribution in contributions:
        aggregator.receive(contribution)
    encrypted_sum = aggregator.close()
    release = key_holder.release(encrypted_sum)
    key_holder.open(5, MODEL)
    abort = key_holder.abort(AbortReason.QUORUM)
    messages = {
        Offer: offer,
        Join: joins[0],
        Roster: roster,
        Contribution: contributions[0],
        EncryptedSum: encrypted_sum,
        Release: release,
        Abort: abort,
    }
    return plan, messages


KINDS = [Offer, Join, Roster, Contribution, EncryptedSum, Release, Abort]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_survives_the_wire_with_the_same_hash_signature_and_bytes(conversation, kind):
    plan, messages = conversation
    data = wire.encode(messages[kind], plan)
    back = wire.decode(data, plan)
    assert type(back) is kind
    assert back.header == messages[kind].header
    assert back.signature == messages[kind].signature
    assert message_hash(back) == message_hash(messages[kind])
    assert wire.encode(back, plan) == data


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_a_message_is_known_before_it_comes(conversation, kind):
    plan, messages = conversation
    members = 3 if kind in (Roster, EncryptedSum) else 0
    assert len(wire.encode(messages[kind], plan)) == wire.message_bytes(kind, plan, members)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_raises_a_peer_error_and_nothing_else(conversation, kind):
    plan, messages = conversation
    data = wire.encode(messages[kind], plan)
    for length in {*range(0, min(len(data), 700)), len(data) - 33, len(data) - 1}:
        with pytest.raises(errors.PeerError):
            wire.decode(data[:length], plan)


@pytest.mark.parametrize("kind", KINDS)
def test_trailing_bytes_are_refused_as_oversized(conversation, kind):
    plan, messages = conversation
    with pytest.raises(errors.OversizedMessage):
        wire.decode(wire.encode(messages[kind], plan) + b"\0", plan)


@pytest.mark.parametrize("kind", [Offer, Release])
def test_a_flipped_bit_in_a_payload_is_named_as_a_digest_mismatch(conversation, kind):
    plan, messages = conversation
    data = bytearray(wire.encode(messages[kind], plan))
    data[-1000] ^= 1
    with pytest.raises(errors.DigestMismatch):
        wire.decode(bytes(data), plan)


@pytest.mark.parametrize("kind", [Contribution, EncryptedSum])
def test_a_flipped_bit_before_a_ciphertext_is_a_digest_mismatch_and_one_within_is_left_to_the_role(conversation, kind):
    plan, messages = conversation
    data = wire.encode(messages[kind], plan)
    for position in (300, len(data) - plan.residue_bytes - 33, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with pytest.raises(errors.PeerError):
            wire.decode(bytes(flipped), plan)
    flipped = bytearray(data)
    flipped[-1000] ^= 1
    message = wire.decode(bytes(flipped), plan)
    assert message.payload_hash == messages[kind].payload_hash != payload_hash(message.payload)


def test_a_flipped_bit_in_a_contributions_ciphertext_is_refused_by_the_aggregator_as_a_digest_mismatch():
    federation = Federation(length=2_000)
    peers = Peers(federation)
    plan, aggregator = federation.plan, peers.aggregator
    offer, roster, contributions = peers.contributions(1, [np.zeros(plan.length)] * 3)
    aggregator.open(offer, roster)
    data = wire.encode(contributions[0], plan)
    flipped = bytearray(data)
    flipped[-1000] ^= 1
    with pytest.raises(errors.DigestMismatch):
        aggregator.receive(wire.decode(bytes(flipped), plan))
    aggregator.receive(wire.decode(data, plan))  # the control: nothing was lost


def test_a_message_of_another_plan_is_named_as_such_before_its_payload_is_read(conversation):
    plan, messages = conversation
    other = secagg.plan_round(length=2_000, max_clients=5, value_bits=10, max_weight=8)
    assert other.params == plan.params
    with pytest.raises(errors.WrongPlan):
        wire.decode(wire.encode(messages[Join], plan), other)


def test_another_version_is_named_as_such(conversation):
    plan, messages = conversation
    data = bytearray(wire.encode(messages[Join], plan))
    data[4] = 99
    with pytest.raises(errors.UnsupportedVersion):
        wire.decode(bytes(data), plan)


def test_an_offer_whose_key_was_exchanged_is_refused(conversation):
    plan, messages = conversation
    key_holder = secagg.Identity.generate("x")
    aggregator = secagg.Identity.generate("y")
    bank = secagg.Identity.generate("z")
    enrolment = secagg.Enrolment.of(key_holder.member, aggregator.member, (bank.member,))
    other = secagg.KeyHolder(key_holder, enrolment, plan).open(1, MODEL)
    from dataclasses import replace

    forged = replace(messages[Offer], public_key=other.public_key)
    with pytest.raises(errors.MalformedMessage):
        wire.decode(wire.encode(forged, plan), plan)


def test_the_header_has_the_width_that_the_protocol_states(conversation):
    _, messages = conversation
    assert HEADER.size == 234
    assert len(header_bytes(messages[Offer].header)) == 234


def test_masks_and_statements_cost_at_most_a_kilobyte_and_260_bytes_per_member():
    for members in (3, 5, 64, 128):
        wide = secagg.plan_round(length=2_000, max_clients=128)
        added = wire.message_bytes(Join, wide) + wire.message_bytes(Roster, wide, members)
        assert added <= 1000 + 260 * members


def test_no_message_shows_its_payload_or_signature_in_its_repr(conversation):
    _, messages = conversation
    for message in messages.values():
        assert len(repr(message)) < 2_000
        assert message.signature.hex() not in repr(message) and repr(message.signature) not in repr(message)


def _mutants(count: int, seed: int) -> dict:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(count), str(seed)], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def _assert_only_peer_errors(report: dict, at_least: int) -> None:
    verdicts = report["verdicts"]
    assert sum(verdicts.values()) >= at_least
    assert not [name for name in verdicts if "ACCEPTED" in name]
    assert verdicts["contribution message BadSignature"] > 0  # some digests were recomputed well enough to get there
    assert verdicts["contribution payload ResidueOutOfRange"] > 0
    assert report["state_kept"] and report["round_ends_exactly"]


def test_random_mutations_of_a_contribution_and_a_sum_raise_peer_errors_and_change_nothing():
    _assert_only_peer_errors(_mutants(1_000, seed=1), at_least=2_000)


@pytest.mark.long
def test_ten_thousand_mutations_each_of_a_contribution_and_a_sum_raise_peer_errors_and_change_nothing():
    _assert_only_peer_errors(_mutants(10_000, seed=2), at_least=20_000)
