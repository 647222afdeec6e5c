"""Transforms and 30-bit words on a torch device equal those of the compiled loops.

On CPU tensors, with the code that runs on CUDA; on CUDA where there is a device.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl.secure.device_ring import device_ring, pack30, unpack30
from secagg.blocks import empty_block, read_block, write_block
from secagg.parameters import ALLOWED, ParameterSet
from secagg.ring import ring_of

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
SMALL, MIDDLE, LARGE = ALLOWED[1], ALLOWED[5], ALLOWED[-1]  # one of each degree: 12, 13 and 14 stages
every_degree = pytest.mark.parametrize("params", [SMALL, MIDDLE, LARGE], ids=lambda params: params.name)


def residues(params: ParameterSet, blocks: int, fill: str = "random") -> np.ndarray:
    """uint32[blocks, primes, N], with the edges 0, 1 and prime - 1 in every row of random ones."""
    primes = np.array(params.primes, dtype=np.uint32)[:, None]
    shape = (blocks, len(params.primes), params.degree)
    if fill != "random":
        return np.broadcast_to(np.uint32(0) if fill == "zero" else primes - np.uint32(1), shape).copy()
    rng = np.random.default_rng(params.degree + len(params.primes))
    found = rng.integers(0, primes, shape, dtype=np.uint32)
    places = rng.permutation(params.degree)[:30]
    found[..., places[:10]], found[..., places[10:20]], found[..., places[20:]] = 0, 1, primes - np.uint32(1)
    return found


@every_degree
@pytest.mark.parametrize("fill", ["random", "zero", "top"])
def test_both_transforms_equal_the_compiled_ones_and_leave_their_argument(params: ParameterSet, fill: str) -> None:
    ring, device = ring_of(params), device_ring(params, DEVICE)
    coefficients = residues(params, 2, fill)
    expected = coefficients.copy()
    for block in expected:
        ring.to_ntt(block)
    given = device.residues(coefficients)
    transformed = device.to_ntt(given)
    assert np.array_equal(transformed.cpu().numpy(), expected)
    assert np.array_equal(device.from_ntt(transformed).cpu().numpy(), coefficients)
    assert np.array_equal(transformed.cpu().numpy(), expected)
    assert np.array_equal(given.cpu().numpy(), coefficients)


@every_degree
@pytest.mark.parametrize("sign", [1, -1])
def test_signed_coefficients_up_to_two_primes_transform_like_their_residues(params: ParameterSet, sign: int) -> None:
    device = device_ring(params, DEVICE)
    primes = device.primes
    wide = torch.broadcast_to(sign * (2 * primes), (len(params.primes), params.degree)).clone()
    wide[:, ::3] -= sign * (primes // 3)
    assert torch.equal(device.to_ntt(wide), device.to_ntt(torch.remainder(wide, primes)))


def test_several_polynomials_of_several_blocks_transform_together() -> None:
    params = SMALL
    device = device_ring(params, DEVICE)
    stack = device.residues(residues(params, 6)).view(3, 2, len(params.primes), params.degree)
    together = device.to_ntt(stack)
    for block, polynomials in zip(stack, together, strict=True):
        for one, found in zip(block, polynomials, strict=True):
            assert torch.equal(device.to_ntt(one), found)
    assert torch.equal(device.from_ntt(together), stack)


@every_degree
@pytest.mark.parametrize("fill", ["random", "zero", "top"])
def test_blocks_become_the_bytes_that_the_payload_has_and_come_back(params: ParameterSet, fill: str) -> None:
    blocks = residues(params, 4, fill).reshape(2, 2, len(params.primes), params.degree)
    payload = np.empty(2 * params.ciphertext_bytes, dtype=np.uint8)
    for index, block in enumerate(blocks):
        write_block(block, index, params, payload)
    packed = pack30(torch.from_numpy(blocks.astype(np.int64)).to(DEVICE))
    assert np.array_equal(packed.cpu().numpy().reshape(-1), payload)
    assert np.array_equal(unpack30(packed).cpu().numpy(), blocks.reshape(2, -1))
    if fill == "random":
        again = empty_block(params)
        read_block(payload.tobytes(), 1, params, again)
        assert np.array_equal(again, blocks[1])


def test_words_of_thirty_ones_come_back_although_they_are_no_residues() -> None:
    packed = torch.full((1, 30), 255, dtype=torch.uint8, device=DEVICE)
    assert unpack30(packed).tolist() == [[2**30 - 1] * 8]
