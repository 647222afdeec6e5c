"""Turns an encrypted sum into exact integers: subtracts the seed masks, decrypts, checks every coefficient.

The key holder calls it once the step is consumed. Nothing here decides whether a sum may be opened. The key decides how
it is decrypted: in the fast engine's compiled loops (`opening_fast.py`) or in SEAL, here. Both give the same integers,
and refuse the same sums.

# Strategy: SEAL's binding holds the GIL while it works, longest while it saves a plaintext. Meanwhile another thread
unpacks the previous block: decompressing it and one compiled call need no GIL. Between the two the thread needs the GIL
for a moment. So SEAL starts to save only once that block is decompressed, and the thread usually gets the GIL before
SEAL does. Nothing is decrypted beside the last block, so both threads unpack it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event
from typing import TYPE_CHECKING

from secagg import masks, packing
from secagg.arrays import U64
from secagg.blocks import Payload, empty_block, read_block
from secagg.ckks import SecretKey
from secagg.plan import RoundPlan
from secagg.secrecy import Secret
from secagg.stages import StageClock
from secagg.workers import Workers

if TYPE_CHECKING:
    from secagg.ckks_fast import FastSecretKey  # loads numba


def open_sum(
    payload: Payload,
    secret_key: SecretKey | FastSecretKey,
    seed_terms: Sequence[masks.MaskTerm],
    plan: RoundPlan,
    clients: int,
    threads: int | None,
    clock: StageClock,
) -> packing.IntegerSums:
    """The sums of `clients` contributions.

    seed_terms: the members' own masks, which are subtracted; none where masking is off. Raises `SumRefused` for a sum
    that is not well formed, and what `read_block` raises for a payload that is not.
    """
    decoder = packing.Decoder(plan, clients)
    stream = masks.MaskStream(seed_terms, plan.params)
    if isinstance(secret_key, SecretKey):
        _add_blocks(payload, secret_key, stream, plan, decoder, threads, clock)
        with clock.stage("unpack"):
            return decoder.sums()
    from secagg.opening_fast import add_blocks  # loads numba, which made this key

    add_blocks(payload, secret_key, stream, plan, decoder, threads, clock)
    with clock.stage("decrypt"):
        return decoder.sums()


def _add_blocks(
    payload: Payload,
    secret_key: SecretKey,
    stream: masks.MaskStream,
    plan: RoundPlan,
    decoder: packing.Decoder,
    threads: int | None,
    clock: StageClock,
) -> None:
    """Decrypt every block in SEAL and hand it to the decoder."""
    block = empty_block(plan.params)
    with Workers(threads, plan.residue_bytes, most=2) as workers:  # no more: blocks are unpacked in order
        beside = workers.threads > 1
        waiting: deque[Callable[[], None]] = deque()
        before: _Unpacking | None = None
        for index in range(plan.blocks):
            read_block(payload, index, plan.params, block)
            with clock.stage("verify", "seed masks"):
                stream.apply(index, block[0], inverse=True)
            with clock.stage("decrypt") as stage:
                decrypted = secret_key.begin_decrypt(block)
                stage.bytes += block[0].nbytes
            if before is not None and beside:
                with clock.stage("unpack"):
                    before.decompressed.wait()
            with clock.stage("decrypt"):
                before = _Unpacking(decoder, index, decrypted.take_out())
            if index < plan.blocks - 1:
                waiting.append(workers.start(before))
            while len(waiting) > (1 if beside and index < plan.blocks - 1 else 0):
                with clock.stage("unpack", "checks of the sum"):
                    waiting.popleft()()
        assert before is not None  # a plan has at least one block
        with clock.stage("unpack", "checks of the sum") as stage:
            before(workers)
            stage.bytes += plan.blocks * block[0].nbytes


class _Unpacking(Secret):
    """Unpacks one decrypted block, on any thread. decompressed: set once decompression has ended or failed."""

    def __init__(self, decoder: packing.Decoder, index: int, read: Callable[[], U64]) -> None:
        self._decoder, self._index, self._read = decoder, index, read
        self.decompressed = Event()

    def __call__(self, workers: Workers | None = None) -> None:
        try:
            words = self._read()
        finally:
            self.decompressed.set()
        self._decoder.add_transformed(self._index, words, workers)

    def __repr__(self) -> str:
        return f"_Unpacking(block {self._index}, OMITTED)"
