"""The random bytes of one encryption: AES-256 in counter mode under a fresh key, a range of the counter for each part.

Ternary digits come from bytes by rejection: 255 is rejected, the rest taken modulo 3. Errors are centred binomial of
variance 10.5: 21 bits minus 21 bits, of a word each. `kernels.py` has the loops, compiled and in numpy; both make the
same integers of the same bytes (tested).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg import kernels
from secagg.arrays import I8, U8
from secagg.workers import Workers

KEY_BYTES = 32
TERNARY_SPARE = 512  # bytes drawn beyond N: 1 in 256 is rejected; more are needed with probability 2**-100
_RANGES = {"u": 0, "e0": 1, "e1": 2}  # the counter's upper 64 bits: 2**64 AES blocks apart


def parts(key: bytes, degree: int) -> tuple[I8, I8, I8]:
    """(u, e0, e1) of one encryption: int8[degree] each. key: 32 bytes, of this encryption alone."""
    e0, e1 = (binomial(stream(key, which), degree) for which in ("e0", "e1"))
    return ternary(stream(key, "u"), degree), e0, e1


def fresh(blocks: int, degree: int, workers: Workers) -> tuple[I8, I8, I8]:
    """(u, e0, e1) of several encryptions: int8[blocks, degree] each. Each has a key from the operating system."""
    u, e0, e1 = (np.empty((blocks, degree), dtype=np.int8) for _ in range(3))

    def some_blocks(start: int, stop: int) -> None:
        for block in range(start, stop):
            u[block], e0[block], e1[block] = parts(os.urandom(KEY_BYTES), degree)

    workers.over(blocks, some_blocks)
    return u, e0, e1


def stream(key: bytes, which: str) -> Any:
    """The bytes of one part, "u", "e0" or "e1", from the beginning. key: 32 bytes, of this encryption alone."""
    counter = _RANGES[which].to_bytes(8, "big") + bytes(8)
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def draw(source: Any, count: int) -> U8:
    """The next bytes of a stream: uint8[count]."""
    return np.frombuffer(source.update(bytes(count)), dtype=np.uint8)


def ternary(source: Any, count: int) -> I8:
    """int8[count], uniform on {-1, 0, 1}, from a stream."""
    out, filled = np.empty(count, dtype=np.int8), 0
    while filled < count:
        filled = kernels.fill_ternary(draw(source, count - filled + TERNARY_SPARE), out, filled)
    return out


def binomial(source: Any, count: int) -> I8:
    """int8[count], centred binomial, from a stream."""
    out = np.empty(count, dtype=np.int8)
    kernels.fill_binomial(draw(source, 8 * count).view("<u8"), out)
    return out
