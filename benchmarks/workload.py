"""The vectors that every case averages: seeded, equal for all cases, and made when they are needed.

An update is made in chunks, each from its own seed, so any part of any client's update can be computed again. To check
a sum over 1e8 values then needs one chunk per client, not one vector per client.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLIP = 1.0  # all cases clip to [-CLIP, CLIP]; no generated value lies outside, so that clipping changes nothing
SPREAD = 0.1  # standard deviation of the generated values
CHUNK = 1 << 20  # values made from one seed
KEEP = 512 << 20  # bytes of updates that are kept rather than made again

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """One point of a sweep.

    length: values per update.  clients: contributions that are summed.  value_bits: bits of a quantised value, for the
    cases that quantise.  encrypting: how many clients make a contribution of their own; 0 means all of them. In a slow
    case fewer clients may encrypt, and the server takes each contribution several times. This does not change costs per
    client and per contribution.
    """

    length: int
    clients: int = 8
    value_bits: int = 16
    encrypting: int = 0
    seed: int = 0

    @property
    def fresh(self) -> int:
        """Clients that encrypt."""
        return min(self.encrypting or self.clients, self.clients)

    @property
    def point(self) -> tuple[int, int, int]:
        """(length, clients, value_bits). Measurements at the same point are compared."""
        return self.length, self.clients, self.value_bits

    def contribution_of(self, arrival: int) -> int:
        """The client whose contribution arrives as number `arrival`, 0 <= arrival < clients."""
        return arrival % self.fresh

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Workload:
        return cls(**{name: int(fields[name]) for name in ("length", "clients", "value_bits", "encrypting", "seed")})


class Vectors:
    """The updates of a workload."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        keep = 4 * workload.length * workload.fresh <= KEEP
        self._kept = [self._make(client) for client in range(workload.fresh)] if keep else None
        self._exact = list(self._mean_chunks()) if keep else None

    def update(self, client: int) -> F32:
        """Client `client`'s update, float32[length], |x| <= CLIP. The caller must not change it."""
        return self._make(client) if self._kept is None else self._kept[client]

    def exact_mean(self) -> Iterator[tuple[int, F64]]:
        """(start, float64 mean of the values from there on), chunk by chunk, each of CHUNK values but the last."""
        return self._mean_chunks() if self._exact is None else iter(self._exact)

    def arrivals(self) -> list[int]:
        """How often each encrypting client's contribution is summed."""
        arrived = [self.workload.contribution_of(i) for i in range(self.workload.clients)]
        return [arrived.count(client) for client in range(self.workload.fresh)]

    def chunk(self, client: int, start: int) -> F32:
        """The values of one client from `start` (a multiple of CHUNK) on."""
        if self._kept is not None:
            return self._kept[client][start : start + CHUNK]
        return _chunk(self.workload, client, start)

    def _mean_chunks(self) -> Iterator[tuple[int, F64]]:
        workload = self.workload
        counts = self.arrivals()
        for start in range(0, workload.length, CHUNK):
            total = np.zeros(min(CHUNK, workload.length - start), dtype=np.float64)
            for client, count in enumerate(counts):
                total += count * self.chunk(client, start).astype(np.float64)
            yield start, total / workload.clients

    def _make(self, client: int) -> F32:
        update = np.empty(self.workload.length, dtype=np.float32)
        for start in range(0, self.workload.length, CHUNK):
            update[start : start + CHUNK] = _chunk(self.workload, client, start)
        return update


def _chunk(workload: Workload, client: int, start: int) -> F32:
    rng = np.random.default_rng((workload.seed, client, start // CHUNK))
    size = min(CHUNK, workload.length - start)
    values = rng.standard_normal(size, dtype=np.float32)
    values *= np.float32(SPREAD)
    return np.clip(values, -CLIP, CLIP, out=values)
