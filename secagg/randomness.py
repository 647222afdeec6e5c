"""The random bytes of one encryption: AES-256 in counter mode under a fresh key, a range of the counter for each part.

`ckks_fast.py` and `sketchkey.py` turn them into ternary digits and errors, in compiled loops and in numpy. Both get the
same integers from the same key (tested).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg.arrays import U8

KEY_BYTES = 32
TERNARY_SPARE = 512  # bytes drawn beyond N: 1 in 256 is rejected; more are needed with probability 2**-100
_RANGES = {"u": 0, "e0": 1, "e1": 2}  # the counter's upper 64 bits: 2**64 AES blocks apart


def stream(key: bytes, which: str) -> Any:
    """The bytes of one part, "u", "e0" or "e1", from the beginning. key: 32 bytes, of this encryption alone."""
    counter = _RANGES[which].to_bytes(8, "big") + bytes(8)
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def draw(source: Any, count: int) -> U8:
    """The next bytes of a stream: uint8[count]."""
    return np.frombuffer(source.update(bytes(count)), dtype=np.uint8)
