"""The exact bytes that signatures and hashes cover.

Every signature covers a type tag, the protocol version, and each field of the header and of the body in fixed width;
large bodies enter through their hash (`hashing.py`). Two messages with equal signed bytes are the same message. Nothing
here depends on how messages travel: `wire.py` uses these encodings, not the other way round.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import TypeVar

import numpy as np

from secagg.arrays import I64
from secagg.errors import MalformedMessage
from secagg.hashing import HASH_BYTES, large_hash
from secagg.identity import KEY_BYTES, SIGNATURE_BYTES, Identity
from secagg.messages import (
    NO_STEP,
    Abort,
    Contribution,
    EncryptedSum,
    Ending,
    Header,
    Intake,
    Join,
    LateSeed,
    Message,
    Offer,
    Products,
    Release,
    RobustEntry,
    RobustJoin,
    RobustOffer,
    RobustRoster,
    RobustSum,
    Roster,
    RosterEntry,
    Seen,
    SignedHash,
    Sketch,
    SketchPart,
    Tally,
)
from secagg.publickey import PublicKey

M = TypeVar("M", bound=Message)

VERSION = 4
SEAL_BYTES = 48  # sealed seed: 32 bytes and the tag
RULE = 20  # bytes of a robust offer's rule: its name and f
HEADER = struct.Struct("<16s16sQ32s32sBB32s32s32s32s")
SEEN = struct.Struct("<BQ32sQ32s")
# A tag names the version in which what its signature covers last changed. Ledgers and journals of version 2 compare the
# hashes of aborts, so these keep their tag.
_TAGS: dict[type, bytes] = {
    Offer: b"secagg v4 offer",
    Join: b"secagg v4 join",
    Roster: b"secagg v4 roster",
    Contribution: b"secagg v4 contribution",
    EncryptedSum: b"secagg v4 sum",
    Release: b"secagg v4 release",
    Abort: b"secagg v2 abort",
    RobustOffer: b"secagg v4 robust offer",
    Intake: b"secagg v4 intake",
    RobustJoin: b"secagg v4 robust join",
    Sketch: b"secagg v4 sketch",
    Products: b"secagg v4 products",
    RobustRoster: b"secagg v4 robust roster",
    Tally: b"secagg v4 tally",
    LateSeed: b"secagg v4 late seed",
    RobustSum: b"secagg v4 robust sum",
}


def header_bytes(header: Header) -> bytes:
    """The header in 234 bytes. Raises `MalformedMessage` for a field that does not fit its width."""
    if not (0 <= header.step < 2**63 and 0 <= header.engine < 2**8):
        raise MalformedMessage("header: a field is out of its range: refuse this message")
    return HEADER.pack(
        _wide(header.session, 16),
        _wide(header.round_id, 16),
        header.step,
        _wide(header.sender, KEY_BYTES),
        _wide(header.plan, HASH_BYTES),
        header.engine,
        int(header.masked),
        _wide(header.key, HASH_BYTES),
        _wide(header.model, HASH_BYTES),
        _wide(header.roster, HASH_BYTES),
        _wide(header.previous, HASH_BYTES),
    )


def parse_header(data: bytes) -> Header:
    """The inverse of `header_bytes`. Raises `MalformedMessage`."""
    if len(data) != HEADER.size:
        raise MalformedMessage(f"header: expected {HEADER.size} bytes, got {len(data)}")
    session, round_id, step, sender, plan, engine, masked, key, model, roster, previous = HEADER.unpack(data)
    if masked > 1 or step >= 2**63:
        raise MalformedMessage("header: a field is out of its range: refuse this message")
    return Header(session, round_id, step, sender, plan, engine, bool(masked), key, model, roster, previous)


def seen_bytes(seen: Seen) -> bytes:
    """A statement in 81 bytes. Raises `MalformedMessage` as `parse_seen` does."""
    _check_seen(seen)
    return SEEN.pack(seen.ending, seen.step, _wide(seen.end, HASH_BYTES), seen.joined, _wide(seen.head, HASH_BYTES))


def parse_seen(data: bytes) -> Seen:
    """The inverse of `seen_bytes`. Raises `MalformedMessage`: each statement has one encoding."""
    ending, step, end, joined, head = SEEN.unpack(data)
    if ending > max(Ending):
        raise MalformedMessage(f"join: expected a known end of a round, got {ending}: refuse it")
    seen = Seen(Ending(ending), step, end, joined, head)
    _check_seen(seen)
    return seen


def _check_seen(seen: Seen) -> None:
    for step, content in ((seen.step, seen.end), (seen.joined, seen.head)):
        if not (0 <= step < 2**63 or (step == NO_STEP and not any(content))):
            raise MalformedMessage("join: a step is out of range, or it has a hash but no step: refuse it")
    if (seen.ending is Ending.NONE) != (seen.step == NO_STEP):
        raise MalformedMessage("join: it has an end without a step, or a step without an end: refuse it")


def signed_bytes(message: Message) -> bytes:
    """What the sender's signature of `message` covers.

    Of offers, joins and rosters it is computed once for each object: every member of a round checks the same ones.
    """
    if not isinstance(message, Offer | Join | Roster):
        return _signed_bytes(message)
    known: dict[str, bytes] = message.__dict__
    if "_signed_bytes" not in known:  # of fields that never change: bytes, numbers, and tuples of such
        known["_signed_bytes"] = _signed_bytes(message)
    return known["_signed_bytes"]


def _signed_bytes(message: Message) -> bytes:
    tag = _TAGS[type(message)].ljust(32, b"\0")
    return tag + header_bytes(message.header) + _body(message)


def signed(unsigned: M, identity: Identity) -> M:
    """The message with its sender's signature in place of an empty one."""
    return replace(unsigned, signature=identity.sign_for_roles(signed_bytes(unsigned)))


def message_hash(message: Message) -> bytes:
    """SHA-256 of the signed bytes: the name of a message in what follows it."""
    return hashlib.sha256(signed_bytes(message)).digest()


def _body(message: Message) -> bytes:
    match message:
        case Offer():
            # The public key itself is in header.key.
            body = struct.pack("<I", message.quorum) + _wide(message.agreement_key, KEY_BYTES)
            if not isinstance(message, RobustOffer):
                return body
            return body + message.sketch_key.digest + _wide(message.commitment, HASH_BYTES) + _wide(message.rule, RULE)
        case Join():
            keys = _wide(message.agreement_key, KEY_BYTES) + _wide(message.sealed_seed, SEAL_BYTES)
            body = keys + seen_bytes(message.seen)
            return body + _wide(message.sketch_hash, HASH_BYTES) if isinstance(message, RobustJoin) else body
        case Roster():
            body = struct.pack("<I", len(message.entries)) + b"".join(map(entry_bytes, message.entries))
            return body + left_out_bytes(message.left_out) if isinstance(message, RobustRoster) else body
        case Contribution():
            return _wide(message.payload_hash, HASH_BYTES)
        case EncryptedSum():
            body = _wide(message.payload_hash, HASH_BYTES) + parts_hash(message.parts)
            return body + _wide(message.sketches_hash, HASH_BYTES) if isinstance(message, RobustSum) else body
        case Intake():
            return _wide(message.agreement_key, KEY_BYTES)
        case Sketch():
            keys = _wide(message.agreement_key, KEY_BYTES) + _wide(message.payload_hash, HASH_BYTES)
            return struct.pack("<I", message.number) + keys
        case Products():
            body = struct.pack("<I", message.number) + sketch_parts_hash(message.parts)
            return body + _wide(message.payload_hash, HASH_BYTES)
        case Tally():
            return struct.pack("<I", len(message.parts)) + parts_hash(message.parts)
        case LateSeed():
            hashes = b"".join(_wide(each, HASH_BYTES) for each in message.hashes)
            return _wide(message.secret, HASH_BYTES) + struct.pack("<I", len(message.hashes)) + hashes
        case Release():
            return struct.pack("<IQ", message.contributors, message.total_weight) + sums_hash(message.sums)
        case Abort():
            return struct.pack("<I", int(message.reason))


def entry_bytes(entry: RosterEntry) -> bytes:
    """A roster entry in 257 bytes, of a robust round in 289."""
    sketch = _wide(entry.sketch_hash, HASH_BYTES) if isinstance(entry, RobustEntry) else b""
    return (
        _wide(entry.sender, KEY_BYTES)
        + _wide(entry.agreement_key, KEY_BYTES)
        + _wide(entry.sealed_seed, SEAL_BYTES)
        + seen_bytes(entry.seen)
        + _wide(entry.signature, SIGNATURE_BYTES)
        + sketch
    )


def left_out_bytes(senders: tuple[bytes, ...]) -> bytes:
    """Their number, and their keys."""
    return struct.pack("<I", len(senders)) + b"".join(_wide(sender, KEY_BYTES) for sender in senders)


def entry_join(entry: RosterEntry, roster: Roster) -> Join:
    """The join that an entry stands for, with everything its signature covers."""
    header = roster.header.reply(entry.sender, previous=roster.header.previous)
    if isinstance(entry, RobustEntry):
        return RobustJoin(
            header, entry.agreement_key, entry.sealed_seed, entry.seen, entry.signature, entry.sketch_hash
        )
    return Join(header, entry.agreement_key, entry.sealed_seed, entry.seen, entry.signature)


def roster_joins(roster: Roster) -> tuple[Join, ...]:
    """The joins that the entries stand for, in their order; made once for each roster."""
    known: dict[str, tuple[Join, ...]] = roster.__dict__
    if "_joins" not in known:
        known["_joins"] = tuple(entry_join(entry, roster) for entry in roster.entries)
    return known["_joins"]


def parts_hash(parts: tuple[SignedHash, ...]) -> bytes:
    """SHA-256 over all signed hashes in roster order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_wide(part.payload_hash, HASH_BYTES) + _wide(part.signature, SIGNATURE_BYTES))
    return digest.digest()


def sketch_parts_hash(parts: tuple[SketchPart, ...]) -> bytes:
    """SHA-256 over all named sketches in ascending order of their senders."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_wide(part.sender, KEY_BYTES) + _wide(part.payload_hash, HASH_BYTES))
        digest.update(_wide(part.signature, SIGNATURE_BYTES))
    return digest.digest()


def hashes_hash(hashes: tuple[bytes, ...]) -> bytes:
    """SHA-256 over the payload hashes of all contributions in roster order: what the late seed depends on."""
    return hashlib.sha256(b"".join(_wide(each, HASH_BYTES) for each in hashes)).digest()


def _wide(value: bytes, width: int) -> bytes:
    """`value`, if it has `width` bytes: struct would cut or pad others, and bytes could move into the next field."""
    if len(value) != width:
        raise MalformedMessage(f"expected a field of {width} bytes, got {len(value)}")
    return value


def sums_hash(sums: I64) -> bytes:
    """BLAKE3 over the sums as little-endian int64."""
    return large_hash(np.ascontiguousarray(sums, dtype="<i8"))


def public_key_hash(key: PublicKey) -> bytes:
    """BLAKE3 over the residues as little-endian uint64, in the order of `PublicKey.residues`."""
    return key.digest
