"""Turns an update into the bytes of a contribution: packed, encrypted and masked, a group of blocks at a time.

A client calls it once its journal holds the round. Each stage takes all blocks of a group before the next begins, and
threads share its blocks, or the rows of its blocks. A thread then works for milliseconds before it waits for another:
handing work over after every block cost more than a second core gave (ADR 0033).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secagg import masks, packing
from secagg.arrays import U8, U32
from secagg.blocks import write_block
from secagg.engines import encryptor
from secagg.plan import RoundPlan
from secagg.publickey import PublicKey
from secagg.stages import StageClock
from secagg.workers import Workers, blocks_at_once


def seal(
    encoder: packing.Encoder,
    engine: str,
    public_key: PublicKey,
    terms: Sequence[masks.MaskTerm],
    plan: RoundPlan,
    threads: int | None,
    clock: StageClock,
) -> bytearray:
    """The payload (`blocks.py`) of a fresh encryption with all masks on it.

    engine: by name (`engines.py`). terms: the masks of this client, none where masking is off. threads: all usable
    cores when None. Raises `WrongKey` for a public key that is not well formed.
    """
    params, stream = plan.params, masks.MaskStream(terms, plan.params)
    payload = bytearray(plan.residue_bytes)
    packed: U8 = np.frombuffer(payload, dtype=np.uint8)
    with Workers(threads, plan.residue_bytes) as workers:
        with clock.stage("encrypt"):
            encrypting = encryptor(engine, public_key)
        size = blocks_at_once(plan, workers)
        plaintexts: U32 = np.empty((size, len(params.primes), params.degree), dtype=np.uint32)
        blocks: U32 = np.empty((size, 2, len(params.primes), params.degree), dtype=np.uint32)
        for first in range(0, plan.blocks, size):
            count = min(size, plan.blocks - first)
            plain, group = plaintexts[:count], blocks[:count]
            with clock.stage("pack") as stage:
                encoder.pack(first, plain, workers)
                stage.bytes += plain.nbytes
            with clock.stage("encrypt") as stage:
                encrypting.encrypt_blocks(plain, group, workers)
                stage.bytes += group.nbytes
            if terms:
                with clock.stage("mask", "mask expansion") as stage:
                    stream.apply_all(first, group[:, 0], workers)
                    stage.bytes += len(terms) * group[:, 0].nbytes
            with clock.stage("serialize"):
                _write(group, first, plan, packed, workers)
    return payload


def _write(group: U32, first: int, plan: RoundPlan, packed: U8, workers: Workers) -> None:
    def some_blocks(start: int, stop: int) -> None:
        for place in range(start, stop):
            write_block(group[place], first + place, plan.params, packed)

    workers.over(group.shape[0], some_blocks)
