"""The operating system's generator, replaced: attacks and statistics that come out the same each time."""

from __future__ import annotations

import hashlib


class FixedGenerator:
    """Stands for the module `os`: its `urandom` is SHAKE-256 of a seed and the number of the call."""

    def __init__(self, seed: bytes) -> None:
        self._seed, self._calls = seed, 0

    def urandom(self, count: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(self._seed + self._calls.to_bytes(8, "little")).digest(count)
