"""Derive the seeds of models, batch order and public schedules from the seed of a run.

Keys, sampling and noise under privacy are never seeded (`fl.privacy.randomness`).
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """A seed in [0, 2^63) for one purpose, such as ("batches", bank, round).

    A round's seeds do not depend on earlier rounds.

    That is what lets a killed run continue to the same result.
    """
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
