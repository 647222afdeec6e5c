"""From an encrypted sum to exact integers: the seed masks come off, SEAL decrypts, every coefficient is checked.

Called by the key holder once the step is consumed; nothing here decides whether a sum may be opened.

# Strategy: SEAL's binding holds the interpreter lock while it works, longest while it saves a plaintext. Another thread
decompresses and unpacks the block before, in compiled calls that do not need the lock. It needs it for a moment between
the two; SEAL therefore starts to save only once the other thread is past that moment. The last block has nobody to run
beside and is unpacked on both threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event

from secagg import masks, packing
from secagg.blocks import Payload, empty_block, read_block
from secagg.ckks import SecretKey
from secagg.kernels_numpy import U64
from secagg.plan import RoundPlan
from secagg.stages import StageClock
from secagg.workers import Workers

_WAITING = 3  # blocks that may wait for their unpacking


def open_sum(
    payload: Payload,
    secret_key: SecretKey,
    seed_terms: Sequence[masks.MaskTerm],
    plan: RoundPlan,
    clients: int,
    threads: int | None,
    clock: StageClock,
) -> packing.IntegerSums:
    """The sums of `clients` contributions. seed_terms: the members' own masks, taken off; none where masking is off.

    Raises `SumRefused` for a sum that is not well formed, and what `read_block` raises for a payload that is not.
    """
    decoder = packing.Decoder(plan, clients)
    stream = masks.MaskStream(seed_terms, plan.params)
    block = empty_block(plan.params)
    with Workers(threads, plan.residue_bytes, most=2) as workers:  # no more: blocks are unpacked in order
        waiting: deque[Callable[[], None]] = deque()
        before: _Unpacking | None = None
        for index in range(plan.blocks):
            read_block(payload, index, plan.params, block)
            with clock.stage("verify", "seed masks"):
                stream.apply(index, block[0], inverse=True)
            with clock.stage("decrypt") as stage:
                decrypted = secret_key.begin_decrypt(block)
                if before is not None and workers.threads > 1:
                    before.begun.wait()
                before = _Unpacking(decoder, index, decrypted.take_out())
                stage.bytes += block[0].nbytes
            if index < plan.blocks - 1:
                waiting.append(workers.start(before))
            limit = _WAITING if workers.threads > 1 and index < plan.blocks - 1 else 1
            while len(waiting) >= limit:
                with clock.stage("unpack", "checks of the sum"):
                    waiting.popleft()()
        assert before is not None  # a plan has at least one block
        with clock.stage("unpack", "checks of the sum") as stage:
            before(workers)
            stage.bytes += plan.blocks * block[0].nbytes
    with clock.stage("unpack"):
        return decoder.sums()


class _Unpacking:
    """Takes one decrypted block apart, on any thread. begun: set once that no longer needs the interpreter."""

    def __init__(self, decoder: packing.Decoder, index: int, read: Callable[[], U64]) -> None:
        self._decoder, self._index, self._read = decoder, index, read
        self.begun = Event()

    def __call__(self, workers: Workers | None = None) -> None:
        try:
            words = self._read()
        finally:
            self.begun.set()
        self._decoder.add_transformed(self._index, words, workers)
