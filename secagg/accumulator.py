"""The running sum of one round's residues, to which the aggregator adds each contribution.

The sum is in memory by default. An aggregator that adds elsewhere, for instance on a GPU, is given another factory
(`fl.secure.session.sums_on`). The aggregator itself keeps the checks, the order and the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from secagg.arrays import U32
from secagg.plan import RoundPlan
from secagg.ring import ring_of


class Accumulator(Protocol):
    """Sums of checked blocks, uint32[2, primes, N] with every residue below its prime. All sums start at zero."""

    def add(self, index: int, block: U32) -> None:
        """Add a contribution's block number `index`, from 0. The caller owns `block` and reuses it."""

    def subtract(self, index: int, block: U32) -> None:
        """Subtract a block that was added before. The result is exact."""

    def block(self, index: int) -> U32:
        """The sum of block `index` modulo each prime."""


MakeAccumulator = Callable[[RoundPlan], Accumulator]


class InMemory:
    """Keeps the sum in one array and adds in place: memory does not depend on the number of clients."""

    def __init__(self, plan: RoundPlan) -> None:
        self._ring = ring_of(plan.params)
        self._total: U32 = np.zeros((plan.blocks, 2, len(plan.params.primes), plan.params.degree), dtype=np.uint32)

    def add(self, index: int, block: U32) -> None:
        """See `Accumulator`."""
        self._ring.add(self._total[index], block)

    def subtract(self, index: int, block: U32) -> None:
        """See `Accumulator`."""
        self._ring.subtract(self._total[index], block)

    def block(self, index: int) -> U32:
        """See `Accumulator`; a view."""
        view: U32 = self._total[index]
        return view
