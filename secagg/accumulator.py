"""The running sum of one round's residues, to which the aggregator adds each contribution.

The sum is in memory by default: one pass over a contribution unpacks its residues, compares them with their primes and
adds them, in rows that cores share. An aggregator that adds elsewhere, for instance on a GPU, is given another factory
(`fl.secure.session.sums_on`), and gets checked blocks one after the other. The aggregator itself keeps the other
checks, the order and the protocol.

# Strategy: adding before the verdict is safe because it can be undone exactly (`kernels_numpy.fold_packed`), also after
# an interruption: the compiled loop itself notes which rows it has added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secagg import kernels
from secagg.arrays import U8, U32
from secagg.blocks import Payload, empty_block, out_of_range, read_block, transparent
from secagg.errors import MalformedMessage
from secagg.plan import RoundPlan
from secagg.ring import ring_of
from secagg.workers import Workers

_NOT_ADDED = np.uint32(2**32 - 1)  # no residue of 30 bits


class Accumulator(Protocol):
    """Sums of checked blocks, uint32[2, primes, N] with every residue below its prime. All sums start at zero."""

    def add(self, index: int, block: U32) -> None:
        """Add a contribution's block number `index`, from 0. The caller owns `block` and reuses it."""

    def subtract(self, index: int, block: U32) -> None:
        """Subtract a block that was added before. The result is exact."""

    def block(self, index: int) -> U32:
        """The sum of block `index` modulo each prime."""


MakeAccumulator = Callable[[RoundPlan], Accumulator]


def fold(total: Accumulator, payload: Payload, plan: RoundPlan, workers: Workers) -> None:
    """Check every residue of a contribution and add it.

    Raises `ResidueOutOfRange` or `TransparentCiphertext` for the first bad block, and `MalformedMessage` for a payload
    of another length than plan.residue_bytes. After any error, an interruption among them, `total` is what it was.
    """
    if len(payload) != plan.residue_bytes:
        raise MalformedMessage(f"payload: expected {plan.residue_bytes} bytes, got {len(payload)}")
    if isinstance(total, InMemory):
        total.fold(payload, workers)
        return
    scratch, added = empty_block(plan.params), 0
    try:
        for index in range(plan.blocks):
            read_block(payload, index, plan.params, scratch)
            total.add(index, scratch)
            added += 1
    except BaseException:
        for index in range(added):
            read_block(payload, index, plan.params, scratch)
            total.subtract(index, scratch)
        raise


class InMemory:
    """Keeps the sum in one array and adds in place: memory does not depend on the number of clients."""

    def __init__(self, plan: RoundPlan) -> None:
        self._ring = ring_of(plan.params)
        self._total: U32 = np.zeros((plan.blocks, 2, len(plan.params.primes), plan.params.degree), dtype=np.uint32)
        self._row_bytes = plan.params.degree * 30 // 8

    def fold(self, payload: Payload, workers: Workers) -> None:
        """See the function `fold`."""
        packed: U8 = np.frombuffer(payload, dtype=np.uint8)
        primes = self._ring.primes
        rows: U32 = self._total.reshape(-1, primes.shape[0], self._total.shape[-1])  # a view: one half of a block each
        largest = np.full(rows.shape[:2], _NOT_ADDED, dtype=np.uint32)

        def add(first: int, last: int) -> None:
            for half in range(first, last):
                kernels.fold_packed(self._bytes_of(packed, half), primes, rows[half], largest[half])

        try:
            workers.over(rows.shape[0], add)
            self._judge(largest)
        except BaseException:
            self._take_out(packed, rows, np.argwhere(largest != _NOT_ADDED))
            raise

    def _bytes_of(self, packed: U8, half: int) -> U8:
        width = self._ring.primes.shape[0] * self._row_bytes
        return packed[half * width : (half + 1) * width]

    def _judge(self, largest: U32) -> None:
        """Raise for the first block with a residue out of range, or with a c1 that is zero modulo a prime."""
        halves = largest.reshape(-1, 2, largest.shape[1])
        if np.all(halves < self._ring.primes) and np.all(halves[:, 1]):
            return
        for index, half in enumerate(halves):
            if np.any(half >= self._ring.primes):
                raise out_of_range(index)
            if not np.all(half[1]):
                raise transparent(index)

    def _take_out(self, packed: U8, rows: U32, added: NDArray[np.intp]) -> None:
        """Subtract the rows that were added, whatever is in them: pairs of half block and prime."""
        row = np.empty((1, rows.shape[2]), dtype=np.uint32)
        for half, i in added.tolist():
            start = i * self._row_bytes
            kernels.unpack30(self._bytes_of(packed, half)[start : start + self._row_bytes], row)
            kernels.subtract_modular(rows[half, i : i + 1], row, self._ring.primes[i : i + 1])

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
