"""Messages as bytes and back. Every byte from outside passes through `decode` before anything else sees it.

    frame = "SAGG" | version u16 | kind u16 | body length u64 | body | digest
    body  = header (234 bytes: session, round id, step, sender, plan, ...) | fields of fixed width | payload
    digest = SHA-256(frame up to the payload | SHA-256(payload))

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
from itertools import pairwise

import numpy as np

from secagg import kernels
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
from secagg.identity import KEY_BYTES, SIGNATURE_BYTES
from secagg.messages import (
    Abort,
    AbortReason,
    Contribution,
    EncryptedSum,
    Header,
    Join,
    Message,
    Offer,
    Release,
    Roster,
    RosterEntry,
    SignedHash,
)
from secagg.plan import RoundPlan
from secagg.publickey import PublicKey
from secagg.transcript import (
    HEADER,
    SEAL_BYTES,
    SEEN,
    VERSION,
    entry_bytes,
    header_bytes,
    parse_header,
    parse_seen,
    public_key_hash,
    seen_bytes,
)

_FRAME = struct.Struct("<4sHHQ")
_MAGIC = b"SAGG"
_DIGEST_BYTES = 32
_ENTRY_BYTES = KEY_BYTES + 32 + SEAL_BYTES + SEEN.size + SIGNATURE_BYTES
_SPECIAL_BYTES = 6  # a residue of the special prime, below 2**48
_KINDS: dict[type, int] = {Offer: 1, Join: 2, Roster: 3, Contribution: 4, EncryptedSum: 5, Release: 6, Abort: 7}
_NAMED_HASH = {Contribution: HEADER.size, EncryptedSum: HEADER.size + 4}  # where a body names its payload's hash

_AT_ONCE = 1 << 15  # released sums written or read at once: they fit the cache

assert SESSION_BYTES == 16  # HEADER spells it out


def encode(message: Message, plan: RoundPlan) -> bytes:
    """The bytes of a message of a round under `plan`. Large payloads are copied once; `encode_parts` copies nothing."""
    return b"".join(encode_parts(message, plan))


def encode_parts(message: Message, plan: RoundPlan) -> tuple[bytes, Payload, bytes]:
    """The bytes of a message in three pieces to send one after the other: head, payload, digest."""
    fields, payload = _fields(message, plan)
    body_length = HEADER.size + len(fields) + len(payload)
    frame = _FRAME.pack(_MAGIC, VERSION, _KINDS[type(message)], body_length)
    head = frame + header_bytes(message.header) + fields
    # Contributions and sums carry the hash of their payload already; it is not computed a second time.
    known = message.payload_hash if isinstance(message, (Contribution, EncryptedSum)) else payload_hash(payload)
    return head, payload, hashlib.sha256(head + known).digest()


def decode(data: Payload, plan: RoundPlan) -> Message:
    """The message in `data`, or a `PeerError` that says what is wrong with the bytes.

    Payloads are views into `data`: keep it unchanged. Raises `TruncatedMessage`, `OversizedMessage`,
    `UnsupportedVersion`, `DigestMismatch`, `WrongPlan`, `MalformedMessage` or `WrongKey`.
    """
    view = memoryview(data).cast("B")
    kind, body = _unframe(view, plan)
    header = _header(bytes(body[: HEADER.size]), plan)
    return _READERS[kind](header, body[HEADER.size :], plan)


def message_bytes(kind: type, plan: RoundPlan, members: int = 0) -> int:
    """Length of a message of this kind on the wire; `members`: size of the roster, for rosters and sums."""
    fixed, payload = _sizes(kind, plan, members)
    return _FRAME.size + HEADER.size + fixed + payload + _DIGEST_BYTES


def release_width(plan: RoundPlan) -> int:
    """Bytes of one released sum: at most 6, since a lane is below 2**47 (`plan.MAX_RADIX`)."""
    return -(-(2 * plan.max_lane).bit_length() // 8)


# --- writing --------------------------------------------------------------------------------------------------------


def _fields(message: Message, plan: RoundPlan) -> tuple[bytes, Payload]:
    """Fields of fixed width, and the payload."""
    match message:
        case Offer():
            head = struct.pack("<I", message.quorum) + message.agreement_key + message.signature
            return head, _public_key_payload(message.public_key)
        case Join():
            return message.agreement_key + message.sealed_seed + seen_bytes(message.seen) + message.signature, b""
        case Roster():
            count = struct.pack("<I", len(message.entries))
            return count + message.signature + b"".join(map(entry_bytes, message.entries)), b""
        case Contribution():
            return message.payload_hash + message.signature, message.payload
        case EncryptedSum():
            parts = b"".join(part.payload_hash + part.signature for part in message.parts)
            count = struct.pack("<I", len(message.parts))
            return count + message.payload_hash + message.signature + parts, message.payload
        case Release():
            head = struct.pack("<IQ", message.contributors, message.total_weight) + message.signature
            return head, _sums_payload(message.sums, plan)
        case Abort():
            return struct.pack("<I", int(message.reason)) + message.signature, b""


def _public_key_payload(key: PublicKey) -> bytes:
    data = np.ascontiguousarray(key.residues[:, :-1, :], dtype=np.uint32)
    packed = np.empty(data.size * 30 // 8, dtype=np.uint8)
    kernels.pack30(data, packed)
    special = np.ascontiguousarray(key.residues[:, -1, :], dtype="<u8")
    return packed.tobytes() + special.view(np.uint8).reshape(-1, 8)[:, :_SPECIAL_BYTES].tobytes()


def _sums_payload(sums: I64, plan: RoundPlan) -> Payload:
    packed = np.empty((sums.shape[0], release_width(plan)), dtype=np.uint8)
    for start in range(0, sums.shape[0], _AT_ONCE):
        shifted = (sums[start : start + _AT_ONCE] + plan.max_lane).astype("<i8", copy=False)
        packed[start : start + _AT_ONCE] = shifted.view(np.uint8).reshape(-1, 8)[:, : packed.shape[1]]
    return packed.reshape(-1).data


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
    members = _declared_members(kind, body, plan)
    cls = next(cls for cls, number in _KINDS.items() if number == kind)
    fixed, payload = _sizes(cls, plan, members)
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


def _declared_members(kind: int, body: memoryview, plan: RoundPlan) -> int:
    if kind not in (_KINDS[Roster], _KINDS[EncryptedSum]):
        return 0
    if len(body) < HEADER.size + 4:
        raise TruncatedMessage("the message ends inside its number of members: ask for it again")
    (members,) = struct.unpack_from("<I", body, HEADER.size)
    if not 1 <= members <= plan.max_clients:
        raise MalformedMessage(f"expected 1..{plan.max_clients} members, got {members}")
    return int(members)


def _sizes(kind: type, plan: RoundPlan, members: int) -> tuple[int, int]:
    """(bytes of fixed fields after the header, bytes of payload)."""
    degree = plan.params.degree
    key_bytes = plan.params.ciphertext_bytes + 2 * degree * _SPECIAL_BYTES
    sizes: dict[type, tuple[int, int]] = {
        Offer: (4 + 32 + SIGNATURE_BYTES, key_bytes),
        Join: (32 + SEAL_BYTES + SEEN.size + SIGNATURE_BYTES, 0),
        Roster: (4 + SIGNATURE_BYTES + members * _ENTRY_BYTES, 0),
        Contribution: (32 + SIGNATURE_BYTES, plan.residue_bytes),
        EncryptedSum: (4 + 32 + SIGNATURE_BYTES + members * (32 + SIGNATURE_BYTES), plan.residue_bytes),
        Release: (4 + 8 + SIGNATURE_BYTES, plan.length * release_width(plan)),
        Abort: (4 + SIGNATURE_BYTES, 0),
    }
    return sizes[kind]


def _header(data: bytes, plan: RoundPlan) -> Header:
    header = parse_header(data)
    if header.plan != plan.fingerprint:
        raise WrongPlan(
            f"expected plan {plan.fingerprint.hex()[:16]}, got {header.plan.hex()[:16]}: agree on plan_round's inputs"
        )
    return header


def _cut(data: memoryview, *sizes: int) -> list[bytes]:
    """The leading fields of `data`, as bytes."""
    fields, start = [], 0
    for size in sizes:
        fields.append(bytes(data[start : start + size]))
        start += size
    return fields


def _read_offer(header: Header, body: memoryview, plan: RoundPlan) -> Offer:
    quorum, agreement_key, signature = _cut(body, 4, 32, SIGNATURE_BYTES)
    key = _read_public_key(body[4 + 32 + SIGNATURE_BYTES :], plan)
    if public_key_hash(key) != header.key:
        raise MalformedMessage("the offer's key is not the one that its header names")
    return Offer(header, int.from_bytes(quorum, "little"), agreement_key, key, signature)


def _read_public_key(payload: memoryview, plan: RoundPlan) -> PublicKey:
    params = plan.params
    residues = np.zeros((2, len(params.primes) + 1, params.degree), dtype="<u8")
    data = np.empty((2, len(params.primes), params.degree), dtype=np.uint32)
    kernels.unpack30(np.frombuffer(payload, dtype=np.uint8, count=params.ciphertext_bytes), data)
    residues[:, :-1, :] = data
    special = np.frombuffer(payload, dtype=np.uint8, offset=params.ciphertext_bytes).reshape(-1, _SPECIAL_BYTES)
    wide = np.zeros((special.shape[0], 8), dtype=np.uint8)
    wide[:, :_SPECIAL_BYTES] = special
    residues[:, -1, :] = wide.view("<u8").reshape(2, params.degree)
    native = residues.astype(np.uint64, copy=False)
    native.flags.writeable = False
    key = PublicKey(params, native)
    key.check()
    return key


def _read_join(header: Header, body: memoryview, plan: RoundPlan) -> Join:
    agreement_key, sealed_seed, seen, signature = _cut(body, 32, SEAL_BYTES, SEEN.size, SIGNATURE_BYTES)
    return Join(header, agreement_key, sealed_seed, parse_seen(seen), signature)


def _read_roster(header: Header, body: memoryview, plan: RoundPlan) -> Roster:
    _, signature = _cut(body, 4, SIGNATURE_BYTES)
    rest = body[4 + SIGNATURE_BYTES :]
    entries = tuple(_read_entry(rest[start : start + _ENTRY_BYTES]) for start in range(0, len(rest), _ENTRY_BYTES))
    if any(a.sender >= b.sender for a, b in pairwise(entries)):
        raise MalformedMessage("roster entries are not strictly ascending by sender")
    return Roster(header, entries, signature)


def _read_entry(data: memoryview) -> RosterEntry:
    sender, key, sealed_seed, seen, signature = _cut(data, KEY_BYTES, 32, SEAL_BYTES, SEEN.size, SIGNATURE_BYTES)
    return RosterEntry(sender, key, sealed_seed, parse_seen(seen), signature)


def _read_contribution(header: Header, body: memoryview, plan: RoundPlan) -> Contribution:
    digest, signature = _cut(body, 32, SIGNATURE_BYTES)
    return Contribution(header, digest, body[32 + SIGNATURE_BYTES :], signature)


def _read_sum(header: Header, body: memoryview, plan: RoundPlan) -> EncryptedSum:
    count, digest, signature = _cut(body, 4, 32, SIGNATURE_BYTES)
    members = int.from_bytes(count, "little")
    start, size = 4 + 32 + SIGNATURE_BYTES, 32 + SIGNATURE_BYTES
    parts = tuple(
        SignedHash(*_cut(body[start + i * size : start + (i + 1) * size], 32, SIGNATURE_BYTES)) for i in range(members)
    )
    return EncryptedSum(header, parts, digest, body[start + members * size :], signature)


def _read_release(header: Header, body: memoryview, plan: RoundPlan) -> Release:
    contributors, total_weight = struct.unpack_from("<IQ", body)
    signature = bytes(body[12 : 12 + SIGNATURE_BYTES])
    packed = np.frombuffer(body, dtype=np.uint8, offset=12 + SIGNATURE_BYTES).reshape(-1, release_width(plan))
    sums = np.empty(packed.shape[0], dtype=np.int64)
    wide = np.zeros((_AT_ONCE, 8), dtype=np.uint8)
    for start in range(0, packed.shape[0], _AT_ONCE):
        part = packed[start : start + _AT_ONCE]
        wide[: part.shape[0], : part.shape[1]] = part
        shifted = wide[: part.shape[0]].reshape(-1).view("<i8")
        if int(shifted.max()) > 2 * plan.max_lane:
            raise MalformedMessage("a released sum is larger than the plan allows: refuse it")
        np.subtract(shifted, plan.max_lane, out=sums[start : start + _AT_ONCE])
    if not 1 <= contributors <= plan.max_clients or total_weight > contributors * plan.max_weight:
        raise MalformedMessage("release: more contributors or weight than the plan allows: refuse it")
    return Release(header, contributors, total_weight, sums, signature)


def _read_abort(header: Header, body: memoryview, plan: RoundPlan) -> Abort:
    reason, signature = _cut(body, 4, SIGNATURE_BYTES)
    try:
        named = AbortReason(int.from_bytes(reason, "little"))
    except ValueError as error:
        raise MalformedMessage("abort: expected a known reason, got another: refuse it") from error
    return Abort(header, named, signature)


_READERS: dict[int, Callable[[Header, memoryview, RoundPlan], Message]] = {
    1: _read_offer,
    2: _read_join,
    3: _read_roster,
    4: _read_contribution,
    5: _read_sum,
    6: _read_release,
    7: _read_abort,
}
