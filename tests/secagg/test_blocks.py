"""The canonical byte form of ciphertext blocks, and the residues that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import exact_reference as exact
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import errors
from secagg.blocks import empty_block, read_block, write_block
from secagg.parameters import ALLOWED, ParameterSet

VECTORS = json.loads((exact.VECTORS / "blocks.json").read_text(encoding="utf-8"))
PARAMS = ALLOWED[0]


def random_block(params: ParameterSet, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, p, (2, params.degree), dtype=np.uint32) for p in params.primes]
    return np.stack(rows, axis=1)


def packed(*blocks: np.ndarray, params: ParameterSet = PARAMS) -> np.ndarray:
    payload = np.zeros(len(blocks) * params.ciphertext_bytes, dtype=np.uint8)
    for index, block in enumerate(blocks):
        write_block(block, index, params, payload)
    return payload


@pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)
def test_blocks_come_back_from_their_places(params: ParameterSet) -> None:
    blocks = [random_block(params, seed) for seed in range(3)]
    payload = packed(*blocks, params=params)
    out = empty_block(params)
    for index in (2, 0, 1):
        read_block(payload.tobytes(), index, params, out)
        np.testing.assert_array_equal(out, blocks[index])


def test_a_payload_is_one_stream_of_thirty_bits_a_residue() -> None:
    block = random_block(PARAMS)
    assert packed(block).tobytes() == exact.packed_30_bits(block.reshape(-1).tolist())


@given(st.integers(0, PARAMS.ciphertext_bytes * 8 - 1))
@settings(max_examples=60, deadline=None)
def test_every_bit_of_a_payload_matters(bit: int) -> None:
    """No two payloads stand for one ciphertext: a flipped bit changes a residue or is refused."""
    block = random_block(PARAMS)
    payload = packed(block)
    payload[bit // 8] ^= 1 << (bit % 8)
    out = empty_block(PARAMS)
    try:
        read_block(payload.tobytes(), 0, PARAMS, out)
    except errors.ResidueOutOfRange:
        return
    assert not np.array_equal(out, block)
    np.testing.assert_array_equal(packed(out), payload)


@given(st.binary(min_size=64, max_size=64))
@settings(max_examples=60, deadline=None)
def test_whatever_is_read_is_written_back_byte_for_byte(noise: bytes) -> None:
    payload = packed(random_block(PARAMS))
    payload[1000:1064] = np.frombuffer(noise, dtype=np.uint8)
    out = empty_block(PARAMS)
    try:
        read_block(payload.tobytes(), 0, PARAMS, out)
    except errors.ResidueOutOfRange:
        return
    np.testing.assert_array_equal(packed(out), payload)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "residue [1][0][17] becomes its prime": lambda b: _with(b, (1, 0, 17), PARAMS.primes[0]),
    "residue [0][1][0] becomes 2**30 - 1": lambda b: _with(b, (0, 1, 0), 2**30 - 1),
    "c1 becomes zero modulo the first prime": lambda b: _with(b, (1, 0), 0),
    "c1 becomes zero modulo every prime": lambda b: _with(b, (1,), 0),
    "the last byte is missing": lambda b: packed(b)[:-1],
}


def _with(block: np.ndarray, where: tuple[int, ...], value: int) -> np.ndarray:
    block[where] = value
    return packed(block)


@pytest.mark.parametrize("case", VECTORS["refusals"], ids=lambda case: case["change"])
def test_what_no_encryption_yields_is_refused_by_name(case: dict[str, str]) -> None:
    block, out = random_block(PARAMS), empty_block(PARAMS)
    read_block(packed(block), 0, PARAMS, out)
    payload = CHANGES[case["change"]](block)
    with pytest.raises(getattr(errors, case["error"])) as refusal:
        read_block(payload.tobytes(), 0, PARAMS, out)
    assert isinstance(refusal.value, errors.PeerError)
    assert "block 0" in str(refusal.value)


def test_the_largest_admissible_residues_are_taken() -> None:
    block, out = random_block(PARAMS), empty_block(PARAMS)
    block[:] = np.array(PARAMS.primes, dtype=np.uint32)[:, None] - np.uint32(1)
    read_block(packed(block), 0, PARAMS, out)
    np.testing.assert_array_equal(out, block)


def test_a_zero_c0_is_no_transparent_ciphertext() -> None:
    block, out = random_block(PARAMS), empty_block(PARAMS)
    block[0] = 0
    read_block(packed(block), 0, PARAMS, out)


def test_a_block_past_the_end_is_truncated() -> None:
    payload = packed(random_block(PARAMS))
    with pytest.raises(errors.TruncatedMessage, match="block 1"):
        read_block(payload, 1, PARAMS, empty_block(PARAMS))
