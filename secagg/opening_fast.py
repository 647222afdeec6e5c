"""Decrypts an encrypted sum in the fast engine's compiled loops: the same integers and refusals as through SEAL.

Per group of blocks, four passes over all cores: c0 is read, a row of a prime at a time; the seed masks come off, a
block at a time; c1 is read, multiplied by the secret key, added and transformed back, a row at a time; columns are
reconstructed, split into lanes and checked, a tile at a time. Rows are read and checked here once more, because a
payload may change between the key holder's checks and this. The passes release the GIL. The first two count as the
stage "verify", the others as "decrypt" (`stages.py`).

Source of the arithmetic: CKKS, Cheon et al. 2017, section 3.2 (c0 + c1*s); mixed-radix reconstruction after Garner.
"""

from __future__ import annotations

import numpy as np

from secagg import kernels_fast, masks, packing
from secagg.arrays import U8, U32
from secagg.blocks import Payload, out_of_range, require_length, transparent
from secagg.ckks_fast import FastSecretKey
from secagg.plan import RoundPlan
from secagg.stages import StageClock
from secagg.workers import Workers, blocks_at_once, rows_of_blocks


def add_blocks(
    payload: Payload,
    secret_key: FastSecretKey,
    stream: masks.MaskStream,
    plan: RoundPlan,
    decoder: packing.Decoder,
    threads: int | None,
    clock: StageClock,
) -> None:
    """Decrypt every block and hand it to the decoder. Raises what `blocks.read_block` raises."""
    params = plan.params
    with Workers(threads, plan.residue_bytes) as workers:
        size = blocks_at_once(plan, workers)
        residues = np.empty((size, len(params.primes), params.degree), dtype=np.uint32)
        for first in range(0, plan.blocks, size):
            group = residues[: min(size, plan.blocks - first)]
            packed = _packed(payload, first, group.shape[0], plan)
            with clock.stage("verify", "seed masks"):
                _take_masks_off(packed[:, 0], stream, first, group, workers)
            with clock.stage("decrypt") as stage:
                _decrypt(packed[:, 1], secret_key, first, group, workers)
                decoder.add_blocks(first, group, workers)
                stage.bytes += group.nbytes


def _packed(payload: Payload, first: int, count: int, plan: RoundPlan) -> U8:
    """A view of `count` packed blocks: uint8[count, 2, primes, 15N/4]. Raises `TruncatedMessage`."""
    params = plan.params
    size = params.ciphertext_bytes
    for index in range(first, first + count):
        require_length(payload, index, params)
    packed = np.frombuffer(payload, dtype=np.uint8, count=count * size, offset=first * size)
    packed.flags.writeable = False  # as of `bytes`: the loops are compiled for this kind of array alone
    return packed.reshape(count, 2, len(params.primes), -1)


def _take_masks_off(packed: U8, stream: masks.MaskStream, first: int, group: U32, workers: Workers) -> None:
    """Read c0 of a group of blocks into `group` and subtract the seed masks. packed: uint8[blocks, primes, 15N/4]."""
    blocks, count, _ = group.shape

    def some_rows(start: int, stop: int) -> None:
        for block, indexes in rows_of_blocks(start, stop, count):
            if not kernels_fast.read_rows(packed[block, indexes], stream.primes[indexes], group[block, indexes]):
                raise out_of_range(first + block)

    workers.over(blocks * count, some_rows)
    stream.apply_all(first, group, workers, inverse=True)


def _decrypt(packed: U8, secret_key: FastSecretKey, first: int, group: U32, workers: Workers) -> None:
    """Add c1*s to `group` and transform it back to coefficients. packed: uint8[blocks, primes, 15N/4], c1."""
    blocks, count, _ = group.shape

    def some_rows(start: int, stop: int) -> None:
        for block, indexes in rows_of_blocks(start, stop, count):
            fault = secret_key.decrypt_rows(packed[block, indexes], indexes, group[block, indexes])
            if fault & kernels_fast.OUT_OF_RANGE:
                raise out_of_range(first + block)
            if fault & kernels_fast.TRANSPARENT:
                raise transparent(first + block)

    workers.over(blocks * count, some_rows)
