"""Quantising, packing and unpacking on a torch device equal the compiled loops, integer by integer, under any plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fl.secure.device_packing import DevicePacker, DeviceUnpacker, Unpacked
from fl.secure.device_ring import device_ring
from secagg import kernels
from secagg.arrays import Extremes
from secagg.errors import PlanError
from secagg.packing import Encoder
from secagg.parameters import ALLOWED
from secagg.plan import RoundPlan, plan_round
from secagg.ring import ring_of

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
LONGEST = 300_000  # values, so that an example takes milliseconds
SETS = (ALLOWED[0], ALLOWED[1], ALLOWED[2], ALLOWED[5], ALLOWED[7], ALLOWED[-1])  # of 2 to 13 primes, every degree


@st.composite
def few_blocks(draw: st.DrawFn) -> RoundPlan:
    """A plan of up to four blocks: any bits, weights and numbers of clients that a parameter set holds."""
    params, value_bits = draw(st.sampled_from(SETS)), draw(st.integers(2, 40))
    clients, weight = (2 ** draw(st.integers(0, 16)) for _ in range(2))
    clip = draw(st.sampled_from([1e-30, 0.3, 1.0, 1e30]))
    try:
        size = plan_round(1, clients, clip, value_bits, weight, params).values_per_block
        edge = st.sampled_from([1, size - 1, size, size + 1, 2 * size - 1, 2 * size])
        length = min(draw(st.one_of(edge, st.integers(1, 3 * size))), LONGEST)
        return plan_round(length, clients, clip, value_bits, weight, params)
    except PlanError:
        assume(False)
        raise


def updates(plan: RoundPlan, seed: int, dtype: type) -> np.ndarray:
    """Values within, at and beyond the clip, halves of a step among them."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-2 * plan.max_value, 2 * plan.max_value + 1, plan.length) / 2
    values = np.where(rng.random(plan.length) < 0.3, steps * plan.step, rng.normal(0, 0.7 * plan.clip, plan.length))
    edges = np.array([plan.clip, -plan.clip, np.nextafter(plan.clip, np.inf), 0.0, -0.0, plan.clip / 3])
    values[rng.integers(0, plan.length, 6)] = edges
    return values.astype(dtype)


@settings(max_examples=40)
@given(few_blocks(), st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]), st.data())
def test_packed_coefficients_and_clipped_counts_equal_those_in_memory(
    plan: RoundPlan, seed: int, dtype: type, data: st.DataObject
) -> None:
    weight = data.draw(st.sampled_from([1, plan.max_weight]))
    values = updates(plan, seed, dtype)
    encoder = Encoder(values, weight, plan)
    expected = [block.copy() for block in encoder.blocks()]
    ring = device_ring(plan.params, DEVICE)
    packer = DevicePacker(plan, ring)
    cut = data.draw(st.integers(1, plan.blocks))
    parts = [(0, cut), (cut, plan.blocks - cut)] if cut < plan.blocks else [(0, cut)]
    found = [packer.coefficients(torch.from_numpy(values).to(DEVICE), first, count, weight) for first, count in parts]
    coefficients = torch.cat([each for each, _ in found])
    assert bool((coefficients.abs() < ring.primes).all())
    assert np.array_equal(torch.remainder(coefficients, ring.primes).cpu().numpy(), np.stack(expected))
    assert sum(int(clipped) for _, clipped in found) == encoder.clipped


def unpacked_in_memory(plan: RoundPlan, residues: np.ndarray, first: int) -> tuple[np.ndarray, Extremes]:
    """What `packing.Decoder` makes of these blocks: every value, and the extremes of those of the update."""
    ring, degree = ring_of(plan.params), plan.params.degree
    offset = (plan.span * plan.radix**plan.lanes - 1) // 2
    offsets = np.array([offset % p for p in plan.params.primes], dtype=np.uint32)
    divisors = np.array([plan.span] + [plan.radix] * plan.lanes, dtype=np.int64)
    digits, values = np.empty((plan.lanes + 1, degree), dtype=np.int64), []
    noise, above = 0, False
    for block in residues:
        left = kernels.unpack_lanes(block, ring.primes, ring.garner_inverses, offsets, divisors, digits)
        noise = max(noise, int(np.abs(digits[0] - (plan.span - 1) // 2).max()))
        above |= bool(left.any())
        values.append((digits[1:] - plan.max_lane).reshape(-1))
    whole = np.stack(values)
    inside = whole.reshape(-1)[: max(plan.length - first * plan.values_per_block, 0)]
    return whole, Extremes(noise, int(inside.max(initial=0)), int(inside.min(initial=0)), above)


def extremes_of(found: Unpacked) -> Extremes:
    noise, highest, lowest, above = found.extremes.tolist()
    return Extremes(noise, highest, lowest, bool(above))


@settings(max_examples=40)
@given(few_blocks(), st.integers(0, 2**32 - 1), st.sampled_from(["random", "zero", "top", "honest"]))
def test_digits_sums_and_extremes_equal_those_in_memory_for_any_residues(plan: RoundPlan, seed: int, fill: str) -> None:
    rng = np.random.default_rng(seed)
    count, first = min(plan.blocks, 2), plan.blocks - min(plan.blocks, 2)
    primes = np.array(plan.params.primes, dtype=np.uint32)[:, None]
    residues = rng.integers(0, primes, (count, len(primes), plan.params.degree), dtype=np.uint32)
    if fill == "honest":
        encoder = Encoder(updates(plan, seed, np.float64), 1, plan)
        residues = np.stack([block.copy() for block in encoder.blocks()])[first:]
    elif fill != "random":
        residues[:] = 0 if fill == "zero" else primes - np.uint32(1)
    values, extremes = unpacked_in_memory(plan, residues, first)
    ring = device_ring(plan.params, DEVICE)
    found = DeviceUnpacker(plan, ring).unpack(ring.residues(residues), first)
    assert np.array_equal(found.values.cpu().numpy(), values)
    assert extremes_of(found) == extremes


@pytest.mark.parametrize("value_bits", [2, 16, 40])
def test_the_smallest_and_the_largest_digits_of_a_coefficient_come_back(value_bits: int) -> None:
    """Every combination of extreme lanes and noise, from Python's integers: no compiled loop is asked."""
    plan = plan_round(100, 64 if value_bits < 40 else 3, value_bits=value_bits, params=ALLOWED[5])
    rng = np.random.default_rng(value_bits)
    ends = rng.integers(0, 2, (plan.lanes, plan.params.degree)) * 2 - 1
    noise = (rng.integers(0, 2, plan.params.degree) * 2 - 1) * plan.noise_bound
    lanes = (ends * plan.max_lane).astype(object)
    total = noise.astype(object) + plan.span * sum(lane * plan.radix**place for place, lane in enumerate(lanes))
    residues = np.stack([(total % p).astype(np.uint32) for p in plan.params.primes])[None]
    ring = device_ring(plan.params, DEVICE)
    found = DeviceUnpacker(plan, ring).unpack(ring.residues(residues), 0)
    assert np.array_equal(found.values.cpu().numpy().reshape(plan.lanes, -1), (ends * plan.max_lane))
    assert extremes_of(found).noise == plan.noise_bound
    assert extremes_of(found).above is False
