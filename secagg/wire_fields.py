"""The fields and payloads of each kind of message, as bytes and back: what stands between header and digest.

`wire.py` frames them and checks lengths before anything here reads a byte. `wire_robust.py` has the kinds that only
robust rounds send.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from secagg import kernels
from secagg.arrays import I64
from secagg.blocks import Payload
from secagg.errors import MalformedMessage
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
from secagg.transcript import SEAL_BYTES, SEEN, entry_bytes, parse_seen, public_key_hash, seen_bytes

ENTRY_BYTES = KEY_BYTES + 32 + SEAL_BYTES + SEEN.size + SIGNATURE_BYTES
SIGNED_HASH_BYTES = 32 + SIGNATURE_BYTES
_SPECIAL_BYTES = 6  # a residue of the special prime, below 2**48


def release_width(plan: RoundPlan) -> int:
    """Bytes of one released sum: at most 6, since a lane is below 2**47 (`plan.MAX_RADIX`)."""
    return -(-(2 * plan.max_lane).bit_length() // 8)


# --- writing --------------------------------------------------------------------------------------------------------


def fields(message: Message, plan: RoundPlan) -> tuple[bytes, Payload]:
    """Fields of fixed width, and the payload."""
    match message:
        case Offer():
            head = struct.pack("<I", message.quorum) + message.agreement_key + message.signature
            return head, public_key_payload(message.public_key)
        case Join():
            return message.agreement_key + message.sealed_seed + seen_bytes(message.seen) + message.signature, b""
        case Roster():
            count = struct.pack("<I", len(message.entries))
            return count + message.signature + b"".join(map(entry_bytes, message.entries)), b""
        case Contribution():
            return message.payload_hash + message.signature, message.payload
        case EncryptedSum():
            count = struct.pack("<I", len(message.parts))
            return count + message.payload_hash + message.signature + signed_hashes(message.parts), message.payload
        case Release():
            return release_fields(message), sums_payload(message.sums, plan)
        case Abort():
            return struct.pack("<I", int(message.reason)) + message.signature, b""
        case _:
            raise TypeError(f"{type(message).__name__} is not a kind of this module")


def signed_hashes(parts: Sequence[SignedHash]) -> bytes:
    return b"".join(part.payload_hash + part.signature for part in parts)


def public_key_payload(key: PublicKey) -> bytes:
    data = np.ascontiguousarray(key.residues[:, :-1, :], dtype=np.uint32)
    packed = np.empty(data.size * 30 // 8, dtype=np.uint8)
    kernels.pack30(data, packed)
    special = np.ascontiguousarray(key.residues[:, -1, :], dtype="<u8")
    return packed.tobytes() + special.view(np.uint8).reshape(-1, 8)[:, :_SPECIAL_BYTES].tobytes()


def release_fields(release: Release) -> bytes:
    return struct.pack("<IQ", release.contributors, release.total_weight) + release.signature


def sums_payload(sums: I64, plan: RoundPlan) -> Payload:
    packed = np.empty((sums.shape[0], release_width(plan)), dtype=np.uint8)
    kernels.pack_sums(sums, plan.max_lane, packed)
    return packed.reshape(-1).data


def sizes(kind: type, plan: RoundPlan, members: int) -> tuple[int, int]:
    """(bytes of fixed fields after the header, bytes of payload)."""
    degree = plan.params.degree
    key_bytes = plan.params.ciphertext_bytes + 2 * degree * _SPECIAL_BYTES
    found: dict[type, tuple[int, int]] = {
        Offer: (4 + 32 + SIGNATURE_BYTES, key_bytes),
        Join: (32 + SEAL_BYTES + SEEN.size + SIGNATURE_BYTES, 0),
        Roster: (4 + SIGNATURE_BYTES + members * ENTRY_BYTES, 0),
        Contribution: (32 + SIGNATURE_BYTES, plan.residue_bytes),
        EncryptedSum: (4 + 32 + SIGNATURE_BYTES + members * SIGNED_HASH_BYTES, plan.residue_bytes),
        Release: (4 + 8 + SIGNATURE_BYTES, plan.length * release_width(plan)),
        Abort: (4 + SIGNATURE_BYTES, 0),
    }
    return found[kind]


# --- reading --------------------------------------------------------------------------------------------------------


def cut(data: memoryview, *sizes: int) -> list[bytes]:
    """The leading fields of `data`, as bytes."""
    fields, start = [], 0
    for size in sizes:
        fields.append(bytes(data[start : start + size]))
        start += size
    return fields


def read_offer(header: Header, body: memoryview, plan: RoundPlan) -> Offer:
    quorum, agreement_key, signature = cut(body, 4, 32, SIGNATURE_BYTES)
    key = read_public_key(body[4 + 32 + SIGNATURE_BYTES :], plan)
    if public_key_hash(key) != header.key:
        raise MalformedMessage("the offer's key is not the one that its header names")
    return Offer(header, int.from_bytes(quorum, "little"), agreement_key, key, signature)


def read_public_key(payload: memoryview, plan: RoundPlan) -> PublicKey:
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


def read_join(header: Header, body: memoryview, plan: RoundPlan) -> Join:
    agreement_key, sealed_seed, seen, signature = cut(body, 32, SEAL_BYTES, SEEN.size, SIGNATURE_BYTES)
    return Join(header, agreement_key, sealed_seed, parse_seen(seen), signature)


def read_roster(header: Header, body: memoryview, plan: RoundPlan) -> Roster:
    _, signature = cut(body, 4, SIGNATURE_BYTES)
    rest = body[4 + SIGNATURE_BYTES :]
    entries = tuple(read_entry(rest[start : start + ENTRY_BYTES]) for start in range(0, len(rest), ENTRY_BYTES))
    check_ascending([entry.sender for entry in entries])
    return Roster(header, entries, signature)


def check_ascending(senders: Sequence[bytes]) -> None:
    """Raise `MalformedMessage` unless no sender stands twice and all are in order."""
    if any(a >= b for a, b in pairwise(senders)):
        raise MalformedMessage("roster entries are not strictly ascending by sender")


def read_entry(data: memoryview) -> RosterEntry:
    sender, key, sealed_seed, seen, signature = cut(data, KEY_BYTES, 32, SEAL_BYTES, SEEN.size, SIGNATURE_BYTES)
    return RosterEntry(sender, key, sealed_seed, parse_seen(seen), signature)


def read_contribution(header: Header, body: memoryview, plan: RoundPlan) -> Contribution:
    digest, signature = cut(body, 32, SIGNATURE_BYTES)
    return Contribution(header, digest, body[32 + SIGNATURE_BYTES :], signature)


def read_sum(header: Header, body: memoryview, plan: RoundPlan) -> EncryptedSum:
    count, digest, signature = cut(body, 4, 32, SIGNATURE_BYTES)
    members, rest = int.from_bytes(count, "little"), body[4 + 32 + SIGNATURE_BYTES :]
    parts = read_signed_hashes(rest, members)
    return EncryptedSum(header, parts, digest, rest[members * SIGNED_HASH_BYTES :], signature)


def read_signed_hashes(data: memoryview, count: int) -> tuple[SignedHash, ...]:
    """The first `count` of them."""
    starts = range(0, count * SIGNED_HASH_BYTES, SIGNED_HASH_BYTES)
    return tuple(SignedHash(*cut(data[start:], 32, SIGNATURE_BYTES)) for start in starts)


def read_release(header: Header, body: memoryview, plan: RoundPlan) -> Release:
    contributors, total_weight = struct.unpack_from("<IQ", body)
    signature = bytes(body[12 : 12 + SIGNATURE_BYTES])
    packed = np.frombuffer(body, dtype=np.uint8, offset=12 + SIGNATURE_BYTES).reshape(-1, release_width(plan))
    packed.flags.writeable = False  # as of `bytes`: the loop is compiled for this kind of array alone
    sums = np.empty(packed.shape[0], dtype=np.int64)
    if kernels.unpack_sums_of(packed, plan.max_lane, sums) > 2 * plan.max_lane:
        raise MalformedMessage("a released sum is larger than the plan allows: refuse it")
    if not 1 <= contributors <= plan.max_clients or total_weight > contributors * plan.max_weight:
        raise MalformedMessage("release: more contributors or weight than the plan allows: refuse it")
    return Release(header, contributors, total_weight, sums, signature)


def read_abort(header: Header, body: memoryview, plan: RoundPlan) -> Abort:
    reason, signature = cut(body, 4, SIGNATURE_BYTES)
    try:
        named = AbortReason(int.from_bytes(reason, "little"))
    except ValueError as error:
        raise MalformedMessage("abort: expected a known reason, got another: refuse it") from error
    return Abort(header, named, signature)


READERS: dict[int, Callable[[Header, memoryview, RoundPlan], Message]] = {
    1: read_offer,
    2: read_join,
    3: read_roster,
    4: read_contribution,
    5: read_sum,
    6: read_release,
    7: read_abort,
}
