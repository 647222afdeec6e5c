"""Messages as bytes and back. Every byte from outside passes through `decode` before anything else sees it.

    frame = "SAGG" | version u16 | kind u16 | body length u64 | body | digest
    body  = header (234 bytes: session, round id, step, sender, plan, ...) | fields of fixed width | payload
    digest = SHA-256(frame up to the payload | BLAKE3(payload))

A contribution and a sum name the hash of their payload in a signed field. Their digest is computed with that hash, when
writing and when reading: the role that checks the signature hashes the payload itself, once. So `decode` checks only a
payload's length and not its bytes. Little-endian throughout, no padding, no trailing bytes; the plan fixes the length
of every message, so a peer cannot make a receiver allocate more than the round needs. Decoding raises subclasses of
`PeerError` only. Whether residues are below their primes is checked where payloads are read (`blocks.py`), signatures
by the roles.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from secagg import wire_fields, wire_robust
from secagg.arrays import I64
from secagg.blocks import Payload, payload_hash
from secagg.enrolment import SESSION_BYTES
from secagg.errors import (
    DigestMismatch,
    MalformedMessage,
    OversizedMessage,
    TruncatedMessage,
    UnsupportedVersion,
    WrongPlan,
)
from secagg.messages import (
    Abort,
    Contribution,
    EncryptedSum,
    Header,
    Join,
    Message,
    Offer,
    Products,
    Release,
    RobustRoster,
    RobustSum,
    Roster,
)
from secagg.plan import RoundPlan
from secagg.transcript import HEADER, VERSION, header_bytes, parse_header

_FRAME = struct.Struct("<4sHHQ")
_MAGIC = b"SAGG"
_DIGEST_BYTES = 32
_KINDS: dict[type, int] = {
    Offer: 1,
    Join: 2,
    Roster: 3,
    Contribution: 4,
    EncryptedSum: 5,
    Release: 6,
    Abort: 7,
    **wire_robust.KINDS,
}
_READERS: dict[int, Callable[[Header, memoryview, RoundPlan], Message]] = wire_fields.READERS | wire_robust.READERS
_COUNTED = (Roster, EncryptedSum, *wire_robust.COUNTED)  # bodies that begin with a number of members
_NAMED_HASH = {  # where a body names its payload's hash
    Contribution: HEADER.size,
    EncryptedSum: HEADER.size + 4,
    RobustSum: HEADER.size + 4,
    Products: HEADER.size + 4,
}

assert SESSION_BYTES == 16  # HEADER spells it out


def encode(message: Message, plan: RoundPlan) -> bytes:
    """The bytes of a message of a round under `plan`. Large payloads are copied once; `encode_parts` copies nothing."""
    return b"".join(encode_parts(message, plan))


@dataclass(frozen=True, eq=False)
class Hashed:
    """A payload and its hash (`blocks.payload_hash`), 32 bytes."""

    payload: Payload = field(repr=False)
    hash: bytes


def encode_parts(message: Message, plan: RoundPlan) -> tuple[bytes, Payload, bytes]:
    """The bytes of a message in three pieces to send one after the other: head, payload, digest."""
    write = wire_robust.fields if type(message) in wire_robust.KINDS else wire_fields.fields
    fields, payload = write(message, plan)
    # These carry the hash of their payload already; it is not computed a second time.
    known = (
        message.payload_hash if isinstance(message, (Contribution, EncryptedSum, Products)) else payload_hash(payload)
    )
    head, digest = _around(message, fields, Hashed(payload, known))
    return head, payload, digest


def release_payload(sums: I64, plan: RoundPlan) -> Hashed:
    """The payload of a release of these sums, before there is a signature."""
    payload = wire_fields.sums_payload(sums, plan)
    return Hashed(payload, payload_hash(payload))


def around_release(release: Release, payload: Hashed) -> tuple[bytes, bytes]:
    """What stands before and behind the payload in the bytes of a release; `release_payload` made the payload."""
    return _around(release, wire_fields.release_fields(release), payload)


def _around(message: Message, fields: bytes, payload: Hashed) -> tuple[bytes, bytes]:
    """Head and digest of a message. fields: those of fixed width."""
    body_length = HEADER.size + len(fields) + len(payload.payload)
    frame = _FRAME.pack(_MAGIC, VERSION, _KINDS[type(message)], body_length)
    head = frame + header_bytes(message.header) + fields
    return head, hashlib.sha256(head + payload.hash).digest()


def decode(data: Payload, plan: RoundPlan) -> Message:
    """The message in `data`, or a `PeerError` that says what is wrong with the bytes.

    Payloads are views into `data`: keep it unchanged. Raises `TruncatedMessage`, `OversizedMessage`,
    `UnsupportedVersion`, `DigestMismatch`, `WrongPlan`, `MalformedMessage` or `WrongKey`.
    """
    view = memoryview(data).cast("B")
    kind, body = _unframe(view, plan)
    header = _header(bytes(body[: HEADER.size]), plan)
    return _READERS[kind](header, body[HEADER.size :], plan)


def message_bytes(kind: type, plan: RoundPlan, members: int = 0, left_out: int = 0) -> int:
    """Length of a message of this kind on the wire.

    members: size of the roster, for rosters and sums. left_out: clients that a robust roster leaves out.
    """
    fixed, payload = _sizes(kind, plan, members, left_out)
    return _FRAME.size + HEADER.size + fixed + payload + _DIGEST_BYTES


# --- reading --------------------------------------------------------------------------------------------------------


def _unframe(view: memoryview, plan: RoundPlan) -> tuple[int, memoryview]:
    smallest = _FRAME.size + HEADER.size + _DIGEST_BYTES
    if len(view) < smallest:
        raise TruncatedMessage(f"expected at least {smallest} bytes, got {len(view)}")
    magic, version, kind, length = _FRAME.unpack_from(view)
    if magic != _MAGIC:
        raise MalformedMessage(f"expected a message that starts with {_MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise UnsupportedVersion(f"expected version {VERSION}, got {version}: update one of the parties")
    if kind not in _READERS:
        raise MalformedMessage(f"kind: expected a known kind of message, got {kind}: refuse it")
    have = len(view) - _FRAME.size - _DIGEST_BYTES
    if length != have:
        error = TruncatedMessage if have < length else OversizedMessage
        raise error(f"body: expected {length} bytes, as the message declares, got {have}")
    body = view[_FRAME.size : _FRAME.size + have]
    cls = next(cls for cls, number in _KINDS.items() if number == kind)
    fixed, payload = _sizes(cls, plan, *_declared(cls, body, plan))
    expected = HEADER.size + fixed + payload
    if have != expected:
        error = TruncatedMessage if have < expected else OversizedMessage
        raise error(f"{cls.__name__}: expected {expected} bytes of body under this plan, got {have}")
    split = len(view) - _DIGEST_BYTES - payload
    named = _NAMED_HASH.get(cls)
    known = payload_hash(view[split:-_DIGEST_BYTES]) if named is None else bytes(body[named : named + _DIGEST_BYTES])
    digest = hashlib.sha256(bytes(view[:split]) + known).digest()
    if digest != bytes(view[-_DIGEST_BYTES:]):
        raise DigestMismatch("the digest does not match, so the bytes changed on the way; ask for the same bytes again")
    return kind, body


def _declared(kind: type, body: memoryview, plan: RoundPlan) -> tuple[int, int]:
    """(members, clients left out) that a body declares."""
    words = 2 if kind is RobustRoster else 1 if kind in _COUNTED else 0
    if len(body) < HEADER.size + 4 * words:
        raise TruncatedMessage("the message ends inside its number of members: ask for it again")
    members, left_out = (*struct.unpack_from(f"<{words}I", body, HEADER.size), 0, 0)[:2]
    if words and not (1 <= members <= plan.max_clients and members + left_out <= plan.max_clients):
        raise MalformedMessage(f"expected 1..{plan.max_clients} members, got {members}, and {left_out} left out")
    return int(members), int(left_out)


def _sizes(kind: type, plan: RoundPlan, members: int, left_out: int = 0) -> tuple[int, int]:
    """(bytes of fixed fields after the header, bytes of payload)."""
    if kind in wire_robust.KINDS:
        return wire_robust.sizes(kind, plan, members, left_out)
    return wire_fields.sizes(kind, plan, members)


def _header(data: bytes, plan: RoundPlan) -> Header:
    header = parse_header(data)
    if header.plan != plan.fingerprint:
        raise WrongPlan(
            f"expected plan {plan.fingerprint.hex()[:16]}, got {header.plan.hex()[:16]}: agree on plan_round's inputs"
        )
    return header
