"""Where a round's time and bytes go. Measuring is part of a role's interface; it changes nothing about the round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

STAGES = ("keygen", "pack", "encrypt", "mask", "serialize", "check", "sum", "verify", "decrypt", "unpack")
"""keygen, pack (clip, quantise, lanes, transform), encrypt, mask (key agreement and expansion), serialize (pack to 30
bits, hash, frame), check (hash, signatures, residue ranges at the aggregator), sum, verify (signatures and hash at the
key holder), decrypt (remove seed masks, decrypt), unpack (reconstruct, check every digit, divide)."""


@dataclass
class Stage:
    """seconds: wall time. bytes: data that the stage produced, over all clients."""

    seconds: float = 0.0
    bytes: int = 0


class StageClock:
    """Adds up seconds and bytes per stage."""

    def __init__(self) -> None:
        self._stages = {name: Stage() for name in STAGES}

    @property
    def stages(self) -> Mapping[str, Stage]:
        return self._stages

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a piece of work; add its bytes to the yielded stage."""
        stage = self._stages[name]
        start = time.perf_counter()
        try:
            yield stage
        finally:
            stage.seconds += time.perf_counter() - start
