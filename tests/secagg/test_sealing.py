"""What a client seals opens to the integers that it packed, whatever the engine, the threads and the groups."""

from __future__ import annotations

import numpy as np
import pytest

from secagg import packing, workers
from secagg.ckks import generate_keys
from secagg.engines import available_engines
from secagg.masks import MaskTerm
from secagg.opening import open_sum
from secagg.parameters import ALLOWED
from secagg.plan import plan_round
from secagg.sealing import seal
from secagg.stages import StageClock

ONE = plan_round(1, 3, max_weight=2, value_bits=8, params=ALLOWED[0])
PLAN = plan_round(4 * ONE.values_per_block - 5, 3, max_weight=2, value_bits=8, params=ALLOWED[0])
SEED, PAIR = MaskTerm(b"\x01" * 32, False), MaskTerm(b"\x02" * 32, True)


@pytest.fixture(scope="module")
def keys():
    return generate_keys(PLAN.params)


@pytest.mark.parametrize("engine", available_engines())
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("group", [1, 2 * 4 * 2 * 4096, 1 << 30], ids=["few at once", "in pairs", "together"])
def test_a_payload_opens_to_what_was_packed(keys, monkeypatch, engine, threads, group) -> None:
    public, secret = keys
    monkeypatch.setattr(workers, "GROUP", group)
    monkeypatch.setattr(workers, "ALONE_BELOW", 0)
    update = np.random.default_rng(threads).normal(0, 0.6, PLAN.length).astype(np.float32)
    encoder = packing.Encoder(update, 2, PLAN)
    clock = StageClock()
    payload = seal(encoder, engine, public, [SEED, PAIR], PLAN, threads, clock)
    assert len(payload) == PLAN.residue_bytes
    assert encoder.clipped == np.count_nonzero(np.abs(update) > PLAN.clip) > 0
    assert all(clock.stages[name].bytes > 0 for name in ("pack", "encrypt", "mask"))
    opened = open_sum(payload, secret, [SEED, PAIR], PLAN, 1, threads, StageClock())
    assert opened.total_weight == 2
    expected = 2 * np.concatenate([piece.copy() for piece in packing.quantised(update, PLAN)])
    np.testing.assert_array_equal(opened.sums, expected)


def test_every_block_of_every_payload_has_randomness_of_its_own(keys) -> None:
    public, _ = keys
    update = np.zeros(PLAN.length, dtype=np.float32)
    seconds = set()
    for _ in range(2):
        payload = seal(packing.Encoder(update, 1, PLAN), "auto", public, [], PLAN, 3, StageClock())
        blocks = np.frombuffer(payload, dtype=np.uint8).reshape(PLAN.blocks, 2, -1)
        seconds |= {block[1].tobytes() for block in blocks}
    assert len(seconds) == 2 * PLAN.blocks == 8
