"""Packed ciphertext blocks: the one canonical byte form of residues, 30 bits each, and its checks.

A payload is the concatenation of all blocks; a block is uint32[2, primes, N] in SEAL's transformed order, packed as a
little-endian bit stream of 30 bits per residue. Every residue is below its prime, so a ciphertext has exactly one
payload, and a hash of the payload is a hash of the ciphertext. Untrusted payloads are checked here and never reach
native deserialisers.
"""

from __future__ import annotations

import hashlib

import numpy as np

from secagg import kernels
from secagg.arrays import U8, U32
from secagg.errors import ResidueOutOfRange, TransparentCiphertext, TruncatedMessage
from secagg.parameters import ParameterSet
from secagg.ring import ring_of

Payload = bytes | bytearray | memoryview


def empty_block(params: ParameterSet) -> U32:
    """An uninitialised array for one block: uint32[2, primes, N]."""
    return np.empty((2, len(params.primes), params.degree), dtype=np.uint32)


def write_block(block: U32, index: int, params: ParameterSet, payload: U8) -> None:
    """Pack `block` into its place in a writable uint8 payload."""
    size = params.ciphertext_bytes
    kernels.pack30(block, payload[index * size : (index + 1) * size])


def read_block(payload: Payload, index: int, params: ParameterSet, out: U32) -> None:
    """Unpack and check block `index` into `out`.

    Raises `TruncatedMessage`, `ResidueOutOfRange` or `TransparentCiphertext` (c1 zero modulo any prime).
    """
    require_length(payload, index, params)
    size = params.ciphertext_bytes
    packed = np.frombuffer(payload, dtype=np.uint8, count=size, offset=index * size)
    kernels.unpack30(packed, out)
    if not ring_of(params).in_range(out):
        raise out_of_range(index)
    if not out[1].any(axis=-1).all():
        raise transparent(index)


def require_length(payload: Payload, index: int, params: ParameterSet) -> None:
    """Raise `TruncatedMessage` unless the payload holds block `index`."""
    end = (index + 1) * params.ciphertext_bytes
    if len(payload) < end:
        raise TruncatedMessage(f"block {index}: expected {end} bytes up to its end, got {len(payload)}")


def out_of_range(index: int) -> ResidueOutOfRange:
    """The error of block `index` with such a residue."""
    return ResidueOutOfRange(f"block {index} holds a residue that is not below its prime: refuse this sender")


def transparent(index: int) -> TransparentCiphertext:
    """The error of block `index` without a c1."""
    return TransparentCiphertext(f"block {index} has c1 = 0 and would decrypt without a key: refuse this sender")


def read_polynomial(packed: U8, params: ParameterSet) -> U32:
    """Unpack and check one second polynomial: uint32[primes, N].

    Raises `ResidueOutOfRange` or `TransparentCiphertext` (zero modulo any prime).
    """
    found = np.empty((len(params.primes), params.degree), dtype=np.uint32)
    kernels.unpack30(packed, found)
    if not ring_of(params).in_range(found):
        raise ResidueOutOfRange("a polynomial holds a residue that is not below its prime: refuse this sender")
    if not found.any(axis=-1).all():
        raise TransparentCiphertext("a second polynomial is zero and hides nothing: refuse this sender")
    return found


def payload_hash(payload: Payload) -> bytes:
    """SHA-256 of the canonical payload, 32 bytes."""
    return hashlib.sha256(payload).digest()
