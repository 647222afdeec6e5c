"""Every robust message on its way to every role that takes it: no changed byte or field passes, and nothing is changed.

One round is played, and before each message arrives its mutants do. Then the true message is taken, and the round ends
with the exact sum: whatever the mutants left behind would show there, and in the snapshots of the roles.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from mutate_messages import mutate
from robust_peers import COUNT, IDENTITY, RobustPeers, alike, robust_federation
from simulator import MODEL
from snapshot import snapshot

from secagg import wire
from secagg.blocks import payload_hash
from secagg.errors import PeerError, SecAggError
from secagg.messages import LateSeed, Message, Products, RobustOffer, RobustSum
from secagg.robust_client import RobustClient
from secagg.sketchkey import SketchKey
from secagg.transcript import HEADER, signed_bytes

CLIENTS, POISONER = 4, 1
FRAME = 16  # bytes before the header
PLAIN = ("public_key", "payload", "sealed", "sketches", "sketch_key")  # long fields: changed as bytes


@dataclass
class Mutations:
    """Sends mutants of a message to a role before the message itself, and counts how they were refused.

    every: a change at every n-th byte of the fixed fields; 1 for all of them. verdicts: by kind of message and error.
    """

    plan: Any
    every: int
    draw: random.Random
    signers: dict[bytes, Any]
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def before(self, message: Message, role: object, receive: Callable[[Any], object]) -> None:
        """All mutants of `message` are refused by name, and `role` is then as it was."""
        was, kind = snapshot(role), type(message).__name__
        for data in self.of_bytes(message):
            self.refused(kind, data, receive)
        for changed in [*self.of_fields(message), *self.signed_headers(message, role)]:
            # A field of another width has no encoding at all.
            try:
                data = wire.encode(changed, self.plan)
            except PeerError as error:
                self.verdicts[kind, type(error).__name__] += 1
                continue
            self.refused(kind, data, receive)
        assert snapshot(role) == was, f"{kind}: a refused message changed the role"

    def refused(self, kind: str, data: bytes, receive: Callable[[Any], object]) -> None:
        try:
            receive(wire.decode(data, self.plan))
        except PeerError as error:
            assert str(error)
            self.verdicts[kind, type(error).__name__] += 1
            return
        raise AssertionError(f"{kind}: a changed message was taken")

    # --- bytes

    def of_bytes(self, message: Message) -> Iterator[bytes]:
        """One bit at places of the fixed fields, and of residues, each with a digest that fits; and worse damage."""
        head, payload, _ = map(bytes, wire.encode_parts(message, self.plan))
        whole = wire.encode(message, self.plan)
        assert self.framed(message, head, payload) == whole, "the mutants' digests would not fit"
        short = len(head) - len(getattr(message, "sketches", b""))  # a sum of sketches stands among the fixed fields
        places = range(self.draw.randrange(self.every), short, self.every)
        more = [self.draw.randrange(short, len(head)) for _ in range(20 if short < len(head) else 0)]
        for place in (*places, *more):
            yield self.framed(message, flipped(head, place, self.draw), payload)
        for _ in range(20 if payload else 0):
            yield self.framed(message, head, flipped(payload, self.draw.randrange(len(payload)), self.draw))
        for _ in range(40):
            if (mutant := mutate(whole, self.draw)) != whole:
                yield mutant

    def framed(self, message: Message, head: bytes, payload: bytes) -> bytes:
        """The bytes with the digest that an attacker would put there."""
        at = FRAME + HEADER.size + 4
        named = head[at : at + 32] if isinstance(message, Products | RobustSum) else payload_hash(payload)
        return head + payload + hashlib.sha256(head + named).digest()

    # --- fields

    def of_fields(self, message: Any) -> Iterator[Message]:
        """The message with one field changed, or one of a part; its signature is the true one."""
        for each in fields(message):
            value = getattr(message, each.name)
            if each.name in PLAIN:
                continue
            for other in self.others(value):
                yield replace(message, **{each.name: other})
        if isinstance(message, RobustOffer):
            key = message.sketch_key
            yield replace(message, sketch_key=SketchKey(key.params, bytes(32), key.residues))
            yield replace(message, sketch_key=SketchKey(key.params, key.seed, key.residues[:, ::-1].copy()))

    def others(self, value: Any) -> Iterator[Any]:
        """Values of the same type that differ in one place."""
        match value:
            case bool():
                yield not value
            case int():
                yield value + 1
                yield 0 if value else 2
            case bytes():
                yield flipped(value, self.draw.randrange(len(value)), self.draw)
                if any(value):
                    yield bytes(len(value))
                yield value + b"\0"
            case tuple():
                yield value[1:]
                if len(value) > 1:
                    yield value[::-1]
                yield (*value, value[-1]) if value else value
                yield (value[0], *value) if value else (bytes(32),)
                for index, part in enumerate(value):
                    for other in self.others(part):
                        yield (*value[:index], other, *value[index + 1 :])
            case _ if is_dataclass(value):
                for each in fields(value):
                    for other in self.others(getattr(value, each.name)):
                        yield replace(value, **{each.name: other})
            case _:
                raise AssertionError(f"no mutation of a {type(value).__name__}")

    def signed_headers(self, message: Any, role: object) -> Iterator[Message]:
        """One field of the header changed, and signed by the party that the message came from: only it can do that."""
        free = _free(message, role)
        for each in fields(message.header):
            if each.name in free:
                continue
            for other in self.others(getattr(message.header, each.name)):
                changed = replace(message, header=replace(message.header, **{each.name: other}))
                try:
                    signature = self.signers[message.header.sender].sign(signed_bytes(changed))
                except PeerError:
                    continue  # it has no encoding
                yield replace(changed, signature=signature)


def _free(message: Message, role: object) -> tuple[str, ...]:
    """Fields of a header in which its sender may say what it likes, because nobody knows better."""
    if isinstance(message, RobustOffer):  # it begins a round
        return ("round_id", "step", "model", "previous")
    # A client never sees the tally that a late seed answers.
    return ("previous",) if isinstance(message, LateSeed) and isinstance(role, RobustClient) else ()


def flipped(data: bytes, place: int, draw: random.Random) -> bytes:
    """`data` with one bit of one byte changed."""
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def round_under_mutations(length: int, every: int) -> Counter[tuple[str, str]]:
    """A robust round with one poisoner; every message but the plain ones comes after its mutants."""
    federation = robust_federation(CLIENTS, length)
    peers, updates = RobustPeers.of(federation), alike(federation, 1)
    updates[POISONER] = -4 * updates[POISONER]
    signers = {each.key: each for each in (federation.authority, federation.server, *federation.banks)}
    attack = Mutations(federation.plan, every, random.Random(length), signers)
    key_holder, aggregator, clients = peers.key_holder, peers.aggregator, peers.clients

    offer = key_holder.open(1, MODEL)
    attack.before(offer, aggregator, aggregator.prepare)
    intake = aggregator.prepare(offer)
    victim, shown = clients[0], updates[0]
    attack.before(offer, victim, lambda each: victim.join_with_sketch(each, MODEL, shown, intake))
    attack.before(intake, victim, lambda each: victim.join_with_sketch(offer, MODEL, shown, each))
    for client, update in zip(clients, updates, strict=True):
        join, sketch = client.join_with_sketch(offer, MODEL, update, intake)
        if client is victim:
            attack.before(join, key_holder, key_holder.receive_join)
            attack.before(sketch, aggregator, aggregator.receive_sketch)
        key_holder.receive_join(join)
        aggregator.receive_sketch(sketch)
    products = aggregator.multiply()
    attack.before(products, key_holder, key_holder.judge)
    roster = key_holder.judge(products)
    assert len(roster.left_out) == 1
    attack.before(roster, aggregator, lambda each: aggregator.open(offer, each))
    aggregator.open(offer, roster)
    members = [client for index, client in enumerate(clients) if index != POISONER]
    attack.before(roster, victim, victim.contribute)
    left_out = clients[POISONER]
    attack.before(roster, left_out, left_out.check_roster)
    for client in members:
        aggregator.receive(client.contribute(roster))
    if key_holder.looks == 2:
        tally = aggregator.tally()
        attack.before(tally, key_holder, key_holder.reveal)
        seed = key_holder.reveal(tally)
        attack.before(seed, aggregator, aggregator.reopen)
        aggregator.reopen(seed)
        attack.before(seed, victim, victim.sketch_again)
        for client in members:
            sketch = client.sketch_again(seed)
            if client is victim:
                attack.before(sketch, aggregator, aggregator.receive_sketch)
            aggregator.receive_sketch(sketch)
        products = aggregator.multiply()
        attack.before(products, key_holder, key_holder.judge_again)
        key_holder.judge_again(products)
    total = aggregator.close()
    attack.before(total, key_holder, key_holder.release)
    release = key_holder.release(total)
    quantised = [federation.quantised(update) for index, update in enumerate(updates) if index != POISONER]
    assert np.array_equal(release.sums, np.sum(quantised, axis=0))
    for client in members:
        assert client.accept(release).contributors == 3
    return attack.verdicts


KINDS = {"RobustOffer", "Intake", "RobustJoin", "Sketch", "Products", "RobustRoster", "Tally", "LateSeed", "RobustSum"}


def require_thorough(verdicts: Counter[tuple[str, str]], kinds: set[str], at_least: int) -> None:
    assert {kind for kind, _ in verdicts} == kinds
    for kind in kinds:
        count = sum(number for (of, _), number in verdicts.items() if of == kind)
        assert count >= at_least, f"{kind}: {count} mutants"
        assert verdicts[kind, "BadSignature"] > 0, f"{kind}: no mutant got as far as its signature"
    assert all(error != SecAggError.__name__ for _, error in verdicts)
    print(*(f"{kind} {error}: {number}" for (kind, error), number in sorted(verdicts.items())), sep="\n")


@pytest.mark.parametrize(
    ("length", "kinds"), [(IDENTITY, KINDS - {"Tally", "LateSeed"}), (COUNT, KINDS)], ids=["identity", "count"]
)
def test_no_mutant_of_a_robust_message_is_taken_and_none_changes_a_role(length, kinds) -> None:
    require_thorough(round_under_mutations(length, every=29), kinds, at_least=90)


@pytest.mark.long
@pytest.mark.parametrize("length", [IDENTITY, COUNT], ids=["identity", "count"])
def test_a_change_of_any_byte_of_any_fixed_field_of_a_robust_message_is_refused(length) -> None:
    kinds = KINDS if length == COUNT else KINDS - {"Tally", "LateSeed"}
    require_thorough(round_under_mutations(length, every=1), kinds, at_least=400)
