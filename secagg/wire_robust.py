"""The fields and payloads of the messages that only robust rounds send, as bytes and back; see `wire_fields.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from secagg import kernels, wire_fields
from secagg.blocks import Payload
from secagg.errors import MalformedMessage, PlanError
from secagg.identity import KEY_BYTES, SIGNATURE_BYTES
from secagg.messages import (
    EncryptedSum,
    Header,
    Intake,
    Join,
    LateSeed,
    Message,
    Offer,
    Products,
    RobustEntry,
    RobustJoin,
    RobustOffer,
    RobustRoster,
    RobustSum,
    Roster,
    Sketch,
    SketchPart,
    Tally,
)
from secagg.plan import RoundPlan
from secagg.sketchkey import SEED_BYTES, SketchKey
from secagg.sketchplan import SketchPlan, plan_sketches
from secagg.transcript import RULE, entry_bytes, left_out_bytes
from secagg.wire_fields import cut

KINDS: dict[type, int] = {
    RobustOffer: 8,
    Intake: 9,
    RobustJoin: 10,
    Sketch: 11,
    Products: 12,
    RobustRoster: 13,
    Tally: 14,
    LateSeed: 15,
    RobustSum: 16,
}
COUNTED = (Products, RobustRoster, Tally, LateSeed, RobustSum)  # bodies that begin with a number of members
TAG_BYTES = 16  # of AES-GCM
_PART_BYTES = KEY_BYTES + 32 + SIGNATURE_BYTES


def fields(message: Message, plan: RoundPlan) -> tuple[bytes, Payload]:
    """Fields of fixed width, and the payload."""
    match message:
        case RobustOffer():
            start, key = wire_fields.fields(message, plan)
            start += message.sketch_key.seed + message.commitment + message.rule
            return start, bytes(key) + _packed(message.sketch_key)
        case Intake():
            return message.agreement_key + message.signature, b""
        case RobustJoin():
            return wire_fields.fields(message, plan)[0] + message.sketch_hash, b""
        case Sketch():
            number = struct.pack("<I", message.number)
            return number + message.agreement_key + message.payload_hash + message.signature, message.sealed
        case Products():
            parts = b"".join(part.sender + part.payload_hash + part.signature for part in message.parts)
            count, number = struct.pack("<I", len(message.parts)), struct.pack("<I", message.number)
            return count + message.payload_hash + number + message.signature + parts, message.payload
        case RobustRoster():
            counts = struct.pack("<I", len(message.entries)) + left_out_bytes(message.left_out)
            return counts + message.signature + b"".join(map(entry_bytes, message.entries)), b""
        case Tally():
            return struct.pack("<I", len(message.parts)) + message.signature + wire_fields.signed_hashes(
                message.parts
            ), b""
        case LateSeed():
            count = struct.pack("<I", len(message.hashes))
            return count + message.secret + message.signature + b"".join(message.hashes), b""
        case RobustSum():
            start, payload = wire_fields.fields(message, plan)
            return start + message.sketches_hash + bytes(message.sketches), payload
        case _:
            raise TypeError(f"{type(message).__name__} is not a kind of this module")


def sizes(kind: type, plan: RoundPlan, members: int, left_out: int = 0) -> tuple[int, int]:
    """(bytes of fixed fields after the header, bytes of payload). Raises `MalformedMessage`: no robust plan."""
    sketch = sketches_of(plan)
    offer, offer_payload = wire_fields.sizes(Offer, plan, members)
    total, total_payload = wire_fields.sizes(EncryptedSum, plan, members)
    found: dict[type, tuple[int, int]] = {
        RobustOffer: (offer + SEED_BYTES + 32 + RULE, offer_payload + sketch.bytes // 2),
        Intake: (32 + SIGNATURE_BYTES, 0),
        RobustJoin: (wire_fields.sizes(Join, plan, members)[0] + 32, 0),
        Sketch: (4 + 32 + 32 + SIGNATURE_BYTES, sketch.bytes + TAG_BYTES),
        Products: (4 + 32 + 4 + SIGNATURE_BYTES + members * _PART_BYTES, sketch.products_bytes(members)),
        RobustRoster: (wire_fields.sizes(Roster, plan, members)[0] + 4 + 32 * (members + left_out), 0),
        Tally: (4 + SIGNATURE_BYTES + members * wire_fields.SIGNED_HASH_BYTES, 0),
        LateSeed: (4 + 32 + SIGNATURE_BYTES + 32 * members, 0),
        RobustSum: (total + 32 + sketch.bytes, total_payload),
    }
    return found[kind]


def sketches_of(plan: RoundPlan) -> SketchPlan:
    """The plan's sketches. Raises `MalformedMessage` where it has none: nobody sends such a message under it."""
    try:
        return plan_sketches(plan)
    except PlanError as error:
        raise MalformedMessage(f"no robust round is possible under this plan ({error}): refuse this message") from error


def _packed(key: SketchKey) -> bytes:
    packed = np.empty(key.residues.size * 30 // 8, dtype=np.uint8)
    kernels.pack30(key.residues, packed)
    return packed.tobytes()


# --- reading --------------------------------------------------------------------------------------------------------


def _read_offer(header: Header, body: memoryview, plan: RoundPlan) -> RobustOffer:
    sketch = sketches_of(plan)
    plain, payload = wire_fields.sizes(Offer, plan, 0)
    start = plain + SEED_BYTES + 32 + RULE
    offer = wire_fields.read_offer(header, memoryview(bytes(body[:plain]) + bytes(body[start : start + payload])), plan)
    seed, commitment, rule = cut(body[plain:], SEED_BYTES, 32, RULE)
    residues = np.empty((len(sketch.params.primes), sketch.params.degree), dtype=np.uint32)
    kernels.unpack30(np.frombuffer(body[start + payload :], dtype=np.uint8), residues)
    residues.flags.writeable = False
    key = SketchKey(sketch.params, seed, residues)
    key.check()
    return RobustOffer(
        header, offer.quorum, offer.agreement_key, offer.public_key, offer.signature, key, commitment, rule
    )


def _read_intake(header: Header, body: memoryview, plan: RoundPlan) -> Intake:
    return Intake(header, *cut(body, 32, SIGNATURE_BYTES))


def _read_join(header: Header, body: memoryview, plan: RoundPlan) -> RobustJoin:
    join = wire_fields.read_join(header, body[:-32], plan)
    return RobustJoin(
        header, join.agreement_key, join.sealed_seed, join.seen, join.signature, sketch_hash=bytes(body[-32:])
    )


def _read_sketch(header: Header, body: memoryview, plan: RoundPlan) -> Sketch:
    number, agreement_key, digest, signature = cut(body, 4, 32, 32, SIGNATURE_BYTES)
    start = 4 + 32 + 32 + SIGNATURE_BYTES
    return Sketch(header, int.from_bytes(number, "little"), agreement_key, digest, body[start:], signature)


def _read_products(header: Header, body: memoryview, plan: RoundPlan) -> Products:
    count, digest, number, signature = cut(body, 4, 32, 4, SIGNATURE_BYTES)
    members, start = int.from_bytes(count, "little"), 4 + 32 + 4 + SIGNATURE_BYTES
    parts = tuple(
        SketchPart(*cut(body[start + i * _PART_BYTES :], KEY_BYTES, 32, SIGNATURE_BYTES)) for i in range(members)
    )
    payload = body[start + members * _PART_BYTES :]
    return Products(header, int.from_bytes(number, "little"), parts, digest, payload, signature)


def _read_roster(header: Header, body: memoryview, plan: RoundPlan) -> RobustRoster:
    members, left = struct.unpack_from("<II", body)
    senders = tuple(cut(body[8:], *[KEY_BYTES] * left))
    start = 8 + KEY_BYTES * left
    signature, rest = bytes(body[start : start + SIGNATURE_BYTES]), body[start + SIGNATURE_BYTES :]
    size = wire_fields.ENTRY_BYTES + 32
    entries = tuple(_read_entry(rest[i * size : (i + 1) * size]) for i in range(members))
    wire_fields.check_ascending([entry.sender for entry in entries])
    wire_fields.check_ascending(senders)
    return RobustRoster(header, entries, signature, senders)


def _read_entry(data: memoryview) -> RobustEntry:
    entry = wire_fields.read_entry(data[:-32])
    return RobustEntry(
        entry.sender, entry.agreement_key, entry.sealed_seed, entry.seen, entry.signature, bytes(data[-32:])
    )


def _read_tally(header: Header, body: memoryview, plan: RoundPlan) -> Tally:
    count, signature = cut(body, 4, SIGNATURE_BYTES)
    parts = wire_fields.read_signed_hashes(body[4 + SIGNATURE_BYTES :], int.from_bytes(count, "little"))
    return Tally(header, parts, signature)


def _read_late_seed(header: Header, body: memoryview, plan: RoundPlan) -> LateSeed:
    count, secret, signature = cut(body, 4, 32, SIGNATURE_BYTES)
    hashes = tuple(cut(body[4 + 32 + SIGNATURE_BYTES :], *[32] * int.from_bytes(count, "little")))
    return LateSeed(header, secret, hashes, signature)


def _read_sum(header: Header, body: memoryview, plan: RoundPlan) -> RobustSum:
    (members,) = struct.unpack_from("<I", body)
    fixed, _ = wire_fields.sizes(EncryptedSum, plan, members)
    end = fixed + 32 + sketches_of(plan).bytes
    plain = wire_fields.read_sum(header, body[:fixed], plan)
    return RobustSum(
        header,
        plain.parts,
        plain.payload_hash,
        body[end:],
        plain.signature,
        sketches_hash=bytes(body[fixed : fixed + 32]),
        sketches=body[fixed + 32 : end],
    )


READERS: dict[int, Callable[[Header, memoryview, RoundPlan], Message]] = {
    8: _read_offer,
    9: _read_intake,
    10: _read_join,
    11: _read_sketch,
    12: _read_products,
    13: _read_roster,
    14: _read_tally,
    15: _read_late_seed,
    16: _read_sum,
}
