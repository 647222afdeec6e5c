"""Measures the time and bytes of a round by stage. Measuring is part of a role's interface and changes no round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

STAGES = ("keygen", "pack", "encrypt", "mask", "serialize", "check", "sum", "verify", "decrypt", "unpack")
"""keygen; pack: clip, quantise, lanes, transform; encrypt; mask: key agreement and expansion; serialize: residues to
30 bits, hash, frame; check: digests, signatures and residue ranges at the receivers; sum; verify: signatures, hash and
residue ranges at the key holder, seed masks taken off; decrypt: c0 + c1*s; unpack: read the plaintext, reconstruct,
check every digit, divide. In SEAL, with several threads, unpacking runs beside decrypting; then only the wait for it
counts. The fast engine does both in the same loops: then all of it counts as decrypt, and of unpack only the division
by the sum of weights is left, which is a client's."""


@dataclass
class Stage:
    """seconds: wall time. bytes: data that the stage produced, over all clients."""

    seconds: float = 0.0
    bytes: int = 0


class StageClock:
    """Adds up seconds and bytes per stage."""

    def __init__(self) -> None:
        self._stages = {name: Stage() for name in STAGES}
        self._parts: dict[str, Stage] = {}

    @property
    def stages(self) -> Mapping[str, Stage]:
        return self._stages

    @property
    def parts(self) -> Mapping[str, Stage]:
        """Named parts of stages, such as "seed masks" of verify. Their seconds count in the stage as well."""
        return self._parts

    @contextmanager
    def stage(self, name: str, part: str | None = None) -> Iterator[Stage]:
        """Time a piece of work; add its bytes to the yielded stage."""
        stage = self._stages[name]
        start = time.perf_counter()
        try:
            yield stage
        finally:
            seconds = time.perf_counter() - start
            stage.seconds += seconds
            if part is not None:
                self._parts.setdefault(part, Stage()).seconds += seconds
