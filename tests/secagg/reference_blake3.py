"""BLAKE3 in plain Python, written from the paper (section 2), to compare the package's payload hashes with.

    python tests/secagg/reference_blake3.py        writes tests/vectors/payload_hashes.json

Source: O'Connor, Aumasson, Neves and Wilcox-O'Hearn, "BLAKE3: one function, fast everywhere" (2021).
"""

from __future__ import annotations

import json
from pathlib import Path

CHUNK, BLOCK = 1024, 64
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)  # table 2: how message words move between rounds
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
MASK = 2**32 - 1

# Lengths of the pattern 0, 1, ..., 250, 0, 1, ... that the vectors hash: edges of words, blocks, chunks and trees, and
# payloads of one block of N4096x2 and of a byte more and less.
LENGTHS = (0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 4096, 5121, 61_439, 61_440, 61_441)


def pattern(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def _rotated(value: int, places: int) -> int:
    return (value >> places | value << (32 - places)) & MASK


def _compress(chaining: tuple[int, ...], block: bytes, counter: int, flags: int) -> tuple[int, ...]:
    words = [int.from_bytes(block[i : i + 4].ljust(4, b"\0"), "little") for i in range(0, BLOCK, 4)]
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, len(block), flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(QUARTERS):
            for word, first, second in ((words[2 * number], 16, 12), (words[2 * number + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & MASK
                v[d] = _rotated(v[d] ^ v[a], first)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = _rotated(v[b] ^ v[c], second)
        words = [words[i] for i in ORDER]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def _chunk(data: bytes, counter: int, root: int) -> tuple[int, ...]:
    blocks = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)] or [b""]
    chaining: tuple[int, ...] = IV
    for number, block in enumerate(blocks):
        flags = CHUNK_START * (number == 0)
        if number == len(blocks) - 1:
            flags |= CHUNK_END | root
        chaining = _compress(chaining, block, counter, flags)
    return chaining


def _node(data: bytes, counter: int, root: int) -> tuple[int, ...]:
    if len(data) <= CHUNK:
        return _chunk(data, counter, root)
    left = CHUNK  # the largest power of two of chunks that leaves at least one byte for the right
    while 2 * left < len(data):
        left *= 2
    children = _node(data[:left], counter, 0) + _node(data[left:], counter + left // CHUNK, 0)
    return _compress(IV, words_bytes(children), 0, PARENT | root)


def words_bytes(words: tuple[int, ...]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def blake3(data: bytes) -> bytes:
    """The hash, 32 bytes."""
    return words_bytes(_node(data, 0, ROOT))


def inner_node(data: bytes, counter: int = 0) -> bytes:
    """The chaining value of a subtree that begins at chunk `counter`, 32 bytes."""
    return words_bytes(_node(data, counter, 0))


VECTORS = Path(__file__).parents[1] / "vectors" / "payload_hashes.json"


def vectors() -> dict[str, object]:
    return {
        "provenance": "python tests/secagg/reference_blake3.py: plain Python integers, independent of the package",
        "input": "the bytes 0, 1, ..., 250, 0, 1, ... up to the length",
        "cases": [{"length": length, "hash": blake3(pattern(length)).hex()} for length in LENGTHS],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
