"""The derivations of the masks, slowly and without any library: the other side of tests/vectors/masks.json.

Written from the specification (design of the masked round; the docstrings of `secagg.masks`) and from the standards it
names, in plain Python integers and `hashlib` alone: X25519 RFC 7748, HMAC RFC 2104, HKDF RFC 5869, AES FIPS 197, CTR
and GCM NIST SP 800-38A and 800-38D. It imports nothing of the package. `python -m tests.reference_masks` writes the
vectors; a test runs it again and compares.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

DEGREE, SHORTEST = 4096, (1073668097, 1073692673)  # the smallest ring of the package and its shortest modulus
VECTORS = Path(__file__).parent / "vectors" / "masks.json"

# --- HMAC and HKDF with SHA-256 -------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hmac(key: bytes, data: bytes) -> bytes:
    key = (sha256(key) if len(key) > 64 else key).ljust(64, b"\0")
    inner = sha256(bytes(b ^ 0x36 for b in key) + data)
    return sha256(bytes(b ^ 0x5C for b in key) + inner)


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    return hmac(salt, secret)


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    out, last, counter = b"", b"", 1
    while len(out) < length:
        last = hmac(key, last + info + bytes([counter]))
        out, counter = out + last, counter + 1
    return out[:length]


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return hkdf_expand(hkdf_extract(salt, secret), info, length)


# --- X25519 ---------------------------------------------------------------------------------------------------------

P = 2**255 - 19


def x25519(scalar: bytes, u: bytes) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    k = (int.from_bytes(scalar, "little") & ~7 & (2**255 - 1) & ~(1 << 254)) | (1 << 254)
    x1 = int.from_bytes(u, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for bit in reversed(range(255)):
        now = k >> bit & 1
        if swap ^ now:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = now
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def x25519_public(scalar: bytes) -> bytes:
    return x25519(scalar, (9).to_bytes(32, "little"))


# --- AES-256 --------------------------------------------------------------------------------------------------------


def _times(a: int, b: int) -> int:
    """In GF(2**8) with x**8 + x**4 + x**3 + x + 1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _sbox() -> list[int]:
    box = []
    for value in range(256):
        inverse = next((x for x in range(256) if _times(value, x) == 1), 0)
        rotated = inverse
        result = inverse
        for _ in range(4):
            rotated = (rotated << 1 | rotated >> 7) & 0xFF
            result ^= rotated
        box.append(result ^ 0x63)
    return box


SBOX = _sbox()
DOUBLE = [_times(value, 2) for value in range(256)]


def aes256_round_keys(key: bytes) -> list[bytes]:
    words, constant = [key[i : i + 4] for i in range(0, 32, 4)], 1
    while len(words) < 60:
        word = words[-1]
        if len(words) % 8 == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _times(constant, 2)
        elif len(words) % 8 == 4:
            word = bytes(SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[-8], word, strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def aes256_block(round_keys: list[bytes], block: bytes) -> bytes:
    state = [a ^ b for a, b in zip(block, round_keys[0], strict=True)]
    for number in range(1, 15):
        state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]  # substitute, shift rows
        if number < 14:
            mixed = []
            for column in range(0, 16, 4):
                a = state[column : column + 4]
                every = a[0] ^ a[1] ^ a[2] ^ a[3]
                mixed += [a[i] ^ every ^ DOUBLE[a[i] ^ a[(i + 1) % 4]] for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, round_keys[number], strict=True)]
    return bytes(state)


def aes256_ctr(key: bytes, length: int, counter: int = 0) -> bytes:
    """Keystream from a 128-bit big-endian counter."""
    round_keys, out = aes256_round_keys(key), bytearray()
    while len(out) < length:
        out += aes256_block(round_keys, (counter % 2**128).to_bytes(16, "big"))
        counter += 1
    return bytes(out[:length])


# --- AES-256-GCM ----------------------------------------------------------------------------------------------------


def _ghash(h: int, data: bytes) -> int:
    value = 0
    for start in range(0, len(data), 16):
        value ^= int.from_bytes(data[start : start + 16], "big")
        product, shifted = 0, h
        for bit in range(127, -1, -1):
            product ^= shifted if value >> bit & 1 else 0
            shifted = shifted >> 1 ^ (0xE1 << 120 if shifted & 1 else 0)
        value = product
    return value


def aes256_gcm(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Ciphertext and 16-byte tag; nonce of 12 bytes."""
    round_keys = aes256_round_keys(key)
    first = int.from_bytes(nonce + b"\0\0\0\1", "big")
    stream = aes256_ctr(key, len(plaintext), first + 1)
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream, strict=True))
    hashed = b"".join(part + bytes(-len(part) % 16) for part in (associated, ciphertext))
    hashed += struct.pack(">QQ", 8 * len(associated), 8 * len(ciphertext))
    tag = _ghash(int.from_bytes(aes256_block(round_keys, bytes(16)), "big"), hashed)
    return ciphertext + (tag ^ int.from_bytes(aes256_block(round_keys, nonce + b"\0\0\0\1"), "big")).to_bytes(16, "big")


# --- the derivations of the masked round ----------------------------------------------------------------------------


def sealing_key(shared: bytes, offer: bytes) -> bytes:
    return hkdf(shared, offer, b"secagg v1 sealed seed", 32)


def sealed_seed(seed: bytes, scalar: bytes, recipient: bytes, offer: bytes, sender: bytes) -> bytes:
    """AES-256-GCM under the agreement with the offer's key; associated data: offer, sender, ephemeral key."""
    key = sealing_key(x25519(scalar, recipient), offer)
    return aes256_gcm(key, bytes(12), seed, offer + sender + x25519_public(scalar))


def pair_key(shared: bytes, offer: bytes, roster: bytes, one: bytes, other: bytes) -> bytes:
    low, high = min(one, other), max(one, other)
    return hkdf(shared, offer + roster, b"secagg v1 pair" + low + high, 32)


def residues(
    key: bytes, block: int, primes: Sequence[int], degree: int, keystream: Callable[[bytes, int], bytes] = aes256_ctr
) -> tuple[list[list[int]], int]:
    """PRG(key) in a block: `degree` residues modulo each prime, and how many words they took.

    The words follow each other without a gap: those of the second prime after those that the first one took.
    keystream: of AES-256-CTR from counter 0; tests of long streams pass a faster one.
    """
    stream_key = hkdf_expand(key, b"secagg v4 prg" + struct.pack("<Q", block), 32)
    words, used = len(primes) * degree * 65 // 64 + 64, 0
    stream = keystream(stream_key, 4 * words)
    rows: list[list[int]] = []
    for prime in primes:
        found: list[int] = []
        while len(found) < degree:
            word = int.from_bytes(stream[4 * used : 4 * used + 4], "little") & (2**30 - 1)
            used += 1
            if word < prime:
                found.append(word)
        rows.append(found)
    return rows, used


def neighbours_needed(members: int, colluding: float = 1 / 3) -> int:
    """The least even k with n**2 / 2 * colluding**k <= 2**-120, beyond 128 members; found by trying."""
    if members <= 128:
        return members - 1
    k = 2
    while 2 * math.log2(members) - 1 + k * math.log2(colluding) > -120:
        k += 2
    return min(k, members - 1)


def peers(member: bytes, roster: list[bytes], roster_hash: bytes) -> list[bytes]:
    k = neighbours_needed(len(roster))
    if k == len(roster) - 1:
        return sorted(set(roster) - {member})
    circle = sorted(roster, key=lambda key: sha256(b"secagg v1 circle" + roster_hash + key))
    place, found = circle.index(member), set()
    for distance in range(1, k // 2 + 1):
        found |= {circle[(place + distance) % len(circle)], circle[place - distance]}
    return sorted(found)


# --- the vectors ----------------------------------------------------------------------------------------------------


def bytes32(label: str) -> bytes:
    """Fixed inputs that nobody chose."""
    return sha256(b"secagg masks vectors 1: " + label.encode())


def vectors() -> dict[str, object]:
    """Everything in masks.json."""
    return {
        "provenance": "tests/reference_masks.py, which imports nothing of the package",
        "residues": [
            _residues_vector(label, block, primes)
            for label, block, primes in (
                ("a seed", 0, SHORTEST),
                ("a seed", 1, SHORTEST),
                ("another seed", 0, SHORTEST),
                ("a seed", 2**40, (1073651713, *SHORTEST)),
            )
        ],
        "sealed_seeds": _sealed_vectors(),
        "pair_keys": _pair_vectors(),
        "graphs": [_graph_vector(members) for members in (2, 5, 128, 129, 200, 1_000)],
        "neighbours_needed": {str(n): neighbours_needed(n) for n in (2, 3, 127, 128, 129, 1_000, 10_000, 65_536)},
    }


def _residues_vector(label: str, block: int, primes: Sequence[int]) -> dict[str, object]:
    rows, used = residues(bytes32(label), block, primes, DEGREE)
    packed = b"".join(value.to_bytes(4, "little") for row in rows for value in row)
    return {
        "key": bytes32(label).hex(),
        "block": block,
        "primes": list(primes),
        "degree": DEGREE,
        "rejected": used - len(primes) * DEGREE,
        "first": [row[:4] for row in rows],
        "sha256": sha256(packed).hex(),
    }


def _sealed_vectors() -> list[dict[str, object]]:
    own, holder, offer, sender = (bytes32(name) for name in ("client scalar", "holder scalar", "offer", "sender"))
    seed = bytes32("t")
    sealed = sealed_seed(seed, own, x25519_public(holder), offer, sender)
    right = {
        "seed": seed.hex(),
        "own_scalar": own.hex(),
        "own_public": x25519_public(own).hex(),
        "recipient_scalar": holder.hex(),
        "recipient_public": x25519_public(holder).hex(),
        "offer": offer.hex(),
        "sender": sender.hex(),
        "sealed": sealed.hex(),
        "opens": True,
    }
    flipped = bytes([sealed[0] ^ 1]) + sealed[1:]
    cut_tag = sealed[:-1] + bytes([sealed[-1] ^ 0x80])
    return [
        right,
        {**right, "sealed": flipped.hex(), "opens": False, "why": "one bit of the seed"},
        {**right, "sealed": cut_tag.hex(), "opens": False, "why": "one bit of the tag"},
        {**right, "offer": bytes32("another offer").hex(), "opens": False, "why": "another offer"},
        {**right, "sender": bytes32("another sender").hex(), "opens": False, "why": "another sender's name"},
        {**right, "own_public": x25519_public(bytes32("?")).hex(), "opens": False, "why": "another ephemeral key"},
        {**right, "recipient_scalar": bytes32("?").hex(), "opens": False, "why": "another recipient"},
        {**right, "own_public": bytes(32).hex(), "opens": False, "why": "agreement gives zero"},
        {**right, "sealed": sealed[:-1].hex(), "opens": False, "why": "a byte missing"},
    ]


def _pair_vectors() -> list[dict[str, object]]:
    scalars = [bytes32("i"), bytes32("j")]
    shared = x25519(scalars[0], x25519_public(scalars[1]))
    names = [bytes32("identity i"), bytes32("identity j")]
    made = []
    for offer, roster in (("offer", "roster"), ("another offer", "roster"), ("offer", "another roster")):
        key = pair_key(shared, bytes32(offer), bytes32(roster), *names)
        made.append(
            {
                "scalars": [scalar.hex() for scalar in scalars],
                "publics": [x25519_public(scalar).hex() for scalar in scalars],
                "shared": shared.hex(),
                "identities": [name.hex() for name in names],
                "offer": bytes32(offer).hex(),
                "roster": bytes32(roster).hex(),
                "key": key.hex(),
            }
        )
    return made


def _graph_vector(members: int) -> dict[str, object]:
    """Members are bytes32("member i"); the peers of three of them, by number, and a hash over those of all."""
    roster, roster_hash = [bytes32(f"member {i}") for i in range(members)], bytes32(f"roster of {members}")
    number = {key: i for i, key in enumerate(roster)}
    everyone = [sorted(number[key] for key in peers(member, roster, roster_hash)) for member in roster]
    return {
        "members": members,
        "roster_hash": roster_hash.hex(),
        "degree": len(everyone[0]),
        "peers_of_0": everyone[0],
        "peers_of_last": everyone[-1],
        "sha256": sha256(json.dumps(everyone).encode()).hex(),
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
