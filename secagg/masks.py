"""Pairwise masks of a closed roster. With them, everything but the sum over the whole roster is random.

Member i adds to its c0, in every block and modulo every prime,  PRG(t_i) + sum over its peers j of +-PRG(k_ij):  the
pair terms cancel in the sum over the roster and in no other, and the key holder, who alone knows the seeds t_i,
subtracts the seed terms.  c1 stays as it is: the message appears nowhere else.

Sources: Bonawitz et al., CCS 2017, section 4 (pairwise masks); Bell et al., CCS 2020, section 3 (sparse graphs);
X25519 RFC 7748, HKDF RFC 5869, AES-GCM NIST SP 800-38D, AES-CTR NIST SP 800-38A.  docs/threat-model.md says what
follows from it and what does not; tests/vectors/masks.json pins every derivation.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg import kernels
from secagg.arrays import U32
from secagg.errors import BadSeal
from secagg.ownership import Owner
from secagg.parameters import ParameterSet
from secagg.secrecy import Secret
from secagg.workers import Workers

SEED_BYTES = 32
COMPLETE_GRAPH_UP_TO = 128  # members; beyond it, each has `neighbours_needed` peers
COLLUDING_FRACTION = 1 / 3  # of a roster with a sparse graph: largest share of colluding members that it withstands
GRAPH_FAILURE_LOG2 = -120  # log2 of the probability that the honest members' graph is not connected

_ZEROS = memoryview(bytes(1 << 19))  # what one call of the cipher encrypts at most: half of a second-level cache
_CIPHER_SPARE = 16  # bytes: the cipher's binding asks for room for one more block
_FROM_ZERO = modes.CTR(bytes(16))
_SINGLE_USE_NONCE = bytes(12)  # the sealing key comes from an ephemeral key and seals exactly one message


class MaskingDisabledWarning(UserWarning):
    """Warns that masks are off: the aggregator is trusted, and the key holder's key opens every single update."""


def warn_disabled() -> None:
    """Warn that a role was made without masks. The role's constructor calls this."""
    warnings.warn(
        "masking is off: the aggregator must be honest, and the holder of the decryption key can decrypt every update",
        MaskingDisabledWarning,
        stacklevel=3,
    )


class AgreementKey(Secret):
    """An ephemeral X25519 key pair, in memory for one round of one process. Cannot be pickled; `repr` omits it."""

    def __init__(self) -> None:
        self._owner = Owner("an agreement key")
        self._private_key = X25519PrivateKey.generate()
        self.public = self._private_key.public_key().public_bytes_raw()

    def shared_with(self, public: bytes) -> bytes:
        """The X25519 secret with another party. Raises `BadSeal` when it is zero (RFC 7748, section 6.1)."""
        self._owner.require()
        try:
            return self._private_key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise BadSeal("key agreement with this public key gives zero: refuse its sender") from error

    def __repr__(self) -> str:
        return "AgreementKey(OMITTED)"


# --- the sealed seed ------------------------------------------------------------------------------------------------


def new_seed() -> bytes:
    """A seed t_i, 32 bytes from the operating system."""
    return os.urandom(SEED_BYTES)


def seal_seed(seed: bytes, own: AgreementKey, recipient: bytes, offer: bytes, sender: bytes) -> bytes:
    """Seal a seed to the offer's agreement key: AES-256-GCM, 48 bytes."""
    key = _sealing_key(own.shared_with(recipient), offer)
    return AESGCM(key).encrypt(_SINGLE_USE_NONCE, seed, offer + sender + own.public)


def open_seed(sealed: bytes, own: AgreementKey, sender_agreement: bytes, offer: bytes, sender: bytes) -> bytes:
    """Open a sealed seed at the key holder. Raises `BadSeal`."""
    key = _sealing_key(own.shared_with(sender_agreement), offer)
    try:
        return AESGCM(key).decrypt(_SINGLE_USE_NONCE, sealed, offer + sender + sender_agreement)
    except InvalidTag as error:
        raise BadSeal(f"the sealed seed of {sender.hex()[:16]} does not open: refuse this join") from error


def seal_sketch(
    payload: bytes | bytearray, own: AgreementKey, recipient: bytes, offer: bytes, sender: bytes, number: int
) -> bytes:
    """Seal an encrypted sketch to the aggregator: AES-256-GCM, 16 bytes longer. number: 1 or 2, of the look.

    The key holder can decrypt a sketch, so it must not be able to pick one up on its way (ADR 0023).
    """
    key = _sketch_key(own.shared_with(recipient), offer, number)
    return AESGCM(key).encrypt(_SINGLE_USE_NONCE, bytes(payload), offer + sender + own.public)


def open_sketch(
    sealed: bytes | bytearray | memoryview,
    own: AgreementKey,
    sender_agreement: bytes,
    offer: bytes,
    sender: bytes,
    number: int,
) -> bytes:
    """Open a sealed sketch at the aggregator. Raises `BadSeal`."""
    key = _sketch_key(own.shared_with(sender_agreement), offer, number)
    try:
        return AESGCM(key).decrypt(_SINGLE_USE_NONCE, bytes(sealed), offer + sender + sender_agreement)
    except InvalidTag as error:
        raise BadSeal(f"the sealed sketch of {sender.hex()[:16]} does not open: refuse it") from error


def _sketch_key(shared: bytes, offer: bytes, number: int) -> bytes:
    return HKDF(SHA256(), 32, salt=offer, info=b"secagg v2 sealed sketch" + bytes([number])).derive(shared)


def _sealing_key(shared: bytes, offer: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=offer, info=b"secagg v1 sealed seed").derive(shared)


# --- who masks with whom --------------------------------------------------------------------------------------------


def neighbours_needed(members: int, colluding_fraction: float = COLLUDING_FRACTION) -> int:
    """Peers of each member: all up to 128 members, beyond that the even k with failure probability <= 2**-120.

    Members stand on a circle in an order that the roster hash decides, and each is joined to the k/2 nearest on
    either side (Bell et al. 2020, section 3, on a random permutation). The graph of the honest ones is disconnected
    only if two runs of k/2 neighbours all collude. There are fewer than n**2 / 2 pairs of runs, and each colludes with
    probability at most fraction**k.  The bound holds for a roster hash that nobody chose. The last member to join can
    try several, so "all but two may collude" is promised for the complete graph only (docs/threat-model.md).
    """
    if members <= COMPLETE_GRAPH_UP_TO:
        return members - 1
    needed = (2 * math.log2(members) - 1 - GRAPH_FAILURE_LOG2) / -math.log2(colluding_fraction)
    return min(members - 1, 2 * math.ceil(needed / 2))


def peers_of(member: bytes, roster: Sequence[bytes], roster_hash: bytes) -> tuple[bytes, ...]:
    """The members with which `member` shares a mask; symmetric. roster: all senders, in any order."""
    degree = neighbours_needed(len(roster))
    if degree == len(roster) - 1:
        return tuple(sorted(key for key in roster if key != member))
    circle = sorted(roster, key=lambda key: hashlib.sha256(b"secagg v1 circle" + roster_hash + key).digest())
    place = circle.index(member)
    offsets = [offset for distance in range(1, degree // 2 + 1) for offset in (distance, -distance)]
    return tuple(sorted(circle[(place + offset) % len(circle)] for offset in offsets))


def pair_key(shared: bytes, offer: bytes, roster: bytes, one: bytes, other: bytes) -> bytes:
    """k_ij, 32 bytes, the same on both sides: HKDF over the agreement, bound to offer, roster and pair."""
    low, high = sorted((one, other))
    return HKDF(SHA256(), 32, salt=offer + roster, info=b"secagg v1 pair" + low + high).derive(shared)


# --- the pseudo-random residues -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskTerm(Secret):
    """One PRG and its sign."""

    key: bytes = field(repr=False)
    negative: bool


class MaskStream(Secret):
    """All mask terms of one party, expanded block by block.

    PRG(k) in block b: AES-256-CTR from counter 0 under HKDF-Expand(k, label | b), read as little-endian uint32, masked
    to 30 bits. The words give N residues modulo the first prime, the following ones N residues modulo the second, and
    so on. A word that is not below the prime at hand is rejected.
    """

    def __init__(self, terms: Sequence[MaskTerm], params: ParameterSet) -> None:
        self._terms = tuple(terms)
        self._params = params
        self.primes: U32 = np.array(params.primes, dtype=np.uint32)

    def apply(self, block: int, c0: U32, inverse: bool = False, keystream: Keystream | None = None) -> None:
        """Add all terms of block number `block` to `c0`, uint32[primes, N], in place; subtract with `inverse`.

        keystream: room of the calling thread, to use again for the next block.
        """
        keystream = keystream or Keystream(c0.size)
        for term in self._terms:
            keystream.fold(c0, expand_key(term.key, _label(block)), self.primes, term.negative != inverse)

    def apply_all(self, first: int, c0: U32, workers: Workers, inverse: bool = False) -> None:
        """As `apply`, of several blocks on several threads: uint32[blocks, primes, N], from number `first` on."""
        if not self._terms:
            return

        def some_blocks(start: int, stop: int) -> None:
            keystream = Keystream(c0[0].size)
            for place in range(start, stop):
                self.apply(first + place, c0[place], inverse, keystream)

        workers.over(c0.shape[0], some_blocks)

    def __repr__(self) -> str:
        return f"MaskStream({len(self._terms)} terms, OMITTED)"


class Keystream(Secret):
    """Room for the keystream of a number of residues, used again for each key. One thread uses it at a time.

    A call of the cipher and a compiled call take it in turn, and both release the GIL. They work on many kilobytes at
    a time, because two threads that hand the GIL to each other every few microseconds are slower than one (ADR 0033).
    """

    def __init__(self, residues: int) -> None:
        room = bytearray(min(len(_ZEROS), _keystream_bytes(residues)) + _CIPHER_SPARE)
        self._room = room
        self._words = np.frombuffer(room, dtype="<u4", count=(len(room) - _CIPHER_SPARE) // 4)

    def fold(self, rows: U32, key: bytes, primes: U32, negative: bool) -> None:
        """Add (or subtract) the residue stream of an AES-256 key to uint32[primes, N], in place."""
        stream = Cipher(algorithms.AES(key), _FROM_ZERO).encryptor()
        filled = 0
        while filled < rows.size:
            size = min(4 * self._words.shape[0], _keystream_bytes(rows.size - filled))
            stream.update_into(_ZEROS[:size], self._room)
            words = self._words[: size // 4].astype(np.uint32, copy=False)
            filled = kernels.fold_words(rows, filled, words, primes, negative)

    def __repr__(self) -> str:
        return "Keystream(OMITTED)"


def _label(block: int) -> bytes:
    return b"secagg v4 prg" + struct.pack("<Q", block)


def _keystream_bytes(missing: int) -> int:
    """Bytes of keystream for `missing` residues: whole AES blocks, and more than are rejected in nearly all blocks.

    Primes are above 0.995 * 2**30: one word in 200 is rejected.
    """
    return (4 * missing + missing // 32 + 79) & ~15


def expand_key(key: bytes, info: bytes) -> bytes:
    """HKDF-Expand to 32 bytes, RFC 5869 section 2.3: one block of HMAC-SHA-256, T(1) = HMAC(key, info | 0x01)."""
    return hmac.digest(key, info + b"\x01", "sha256")


def add_residues(row: U32, key: bytes, prime: int, negative: bool) -> None:
    """Add (or subtract) the residue stream of an AES-256 key to `row`, uint32[N], modulo `prime`, in place."""
    Keystream(row.shape[0]).fold(row[None, :], key, np.array([prime], dtype=np.uint32), negative)
