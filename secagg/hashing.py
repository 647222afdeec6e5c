"""The hash of large payloads: BLAKE3 on all cores. Everything short is hashed by SHA-256, where it is made.

BLAKE3 is a tree over chunks of 1,024 bytes. Flags keep its chunks, inner nodes and root apart, each chunk is hashed
with its number, and the shape of the tree follows from the length of the input. So no node stands for another input,
and pieces cannot be moved, added or left out. Source: O'Connor, Aumasson, Neves and Wilcox-O'Hearn, "BLAKE3: one
function, fast everywhere" (2021), sections 2.1 (tree), 2.4 and 2.5 (chunks, parents) and 4.3 (why that is sound).

# Strategy: the package's shared pool of threads (`AUTO`) does not survive a fork: a child that hashes waits for ever.
# A number of threads makes a pool for one hash instead. That costs as much as hashing half a megabyte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from secagg.workers import usable_cores

HASH_BYTES = 32

_ALONE_BELOW = 1 << 22  # bytes: for less, starting threads costs more than they save


def large_hash(data: bytes | bytearray | memoryview | NDArray[Any], threads: int | None = None) -> bytes:
    """BLAKE3 of contiguous bytes, 32 bytes. threads: all usable cores when None. Runs without the GIL."""
    octets = data.data.cast("B") if isinstance(data, np.ndarray) else data
    alone = len(octets) < _ALONE_BELOW
    return blake3(octets, max_threads=1 if alone else threads or usable_cores()).digest()
