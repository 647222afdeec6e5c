"""Sums of residues on a torch device, on CPU tensors: the same code that runs on CUDA."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.errors import AggregationError
from fl.secure.device_sum import DeviceAccumulator, DeviceBlocks

PRIMES = (1073692673, 1073668097, 12289)
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
SHAPE = (2, 2, len(PRIMES), 8)


def contributions(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    limits = np.array(PRIMES, dtype=np.uint32)[None, None, :, None]
    return [rng.integers(0, limits, size=SHAPE, dtype=np.uint32) for _ in range(count)]


def added(parts: list[np.ndarray], stacked: int) -> np.ndarray:
    total = DeviceAccumulator(SHAPE[0], PRIMES, SHAPE[-1], DEVICE)
    for first in range(0, len(parts), stacked):
        chosen = parts[first : first + stacked]
        stack = total.room(len(chosen))
        for place, part in enumerate(chosen):
            total.to_device(part, stack[place])
        assert total.in_range(stack)
        total.add(stack)
    assert total.count == len(parts)
    return total.residues()


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 40), stacked=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_the_sum_is_that_of_exact_integers_however_contributions_are_stacked(
    count: int, stacked: int, seed: int
) -> None:
    parts = contributions(count, seed)
    exact = sum(part.astype(object) for part in parts) % np.array(PRIMES, dtype=object)[None, None, :, None]
    assert np.array_equal(added(parts, stacked), exact.astype(np.uint32))


@pytest.mark.parametrize("stacked", [1, 2, 3, 64])
def test_the_largest_residues_do_not_overflow(stacked: int) -> None:
    largest = np.broadcast_to(np.array(PRIMES, dtype=np.uint32)[None, None, :, None] - np.uint32(1), SHAPE).copy()
    parts = [largest] * 192
    expected = (192 * (np.array(PRIMES, dtype=np.int64) - 1)) % np.array(PRIMES)
    assert np.array_equal(added(parts, stacked), np.broadcast_to(expected[None, None, :, None], SHAPE))


def test_it_adds_what_the_aggregator_of_the_core_adds() -> None:
    from secagg.parameters import ALLOWED
    from secagg.ring import ring_of

    params = ALLOWED[0]
    shape = (1, 2, len(params.primes), params.degree)
    rng = np.random.default_rng(3)
    limits = np.array(params.primes, dtype=np.uint32)[None, None, :, None]
    parts = [rng.integers(0, limits, size=shape, dtype=np.uint32) for _ in range(5)]
    expected = np.zeros(shape[1:], dtype=np.uint32)
    total = DeviceAccumulator(1, params.primes, params.degree, DEVICE)
    stack = total.room(1)
    for part in parts:
        ring_of(params).add(expected, part[0])
        total.to_device(part, stack[0])
        total.add(stack)
    assert np.array_equal(total.residues()[0], expected)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.booleans()), max_size=30))
def test_blocks_on_a_device_add_and_take_out_what_blocks_in_memory_do(calls: list[tuple[int, int, bool]]) -> None:
    from secagg.accumulator import InMemory
    from secagg.parameters import ALLOWED
    from secagg.plan import plan_round

    one = plan_round(1, 3, value_bits=8, params=ALLOWED[0])
    plan = plan_round(one.values_per_block, 3, value_bits=8, params=ALLOWED[0])
    params = plan.params
    rng = np.random.default_rng(4)
    limits = np.array(params.primes, dtype=np.uint32)[None, :, None]
    blocks = [rng.integers(0, limits, size=(2, len(params.primes), params.degree), dtype=np.uint32) for _ in range(6)]
    memory, device = InMemory(plan), DeviceBlocks(plan.blocks, params.primes, params.degree, DEVICE)
    for index, which, out in calls:
        for total in (memory, device):
            (total.subtract if out else total.add)(index, blocks[which])
    for index in range(plan.blocks):
        assert np.array_equal(memory.block(index), device.block(index))


def test_encrypted_rounds_add_on_a_device_what_they_add_in_memory() -> None:
    from fl.secure.session import InProcessRounds, Joined

    names = ("a", "b", "c")
    updates = tuple(np.random.default_rng(i).normal(0, 0.1, 20_000).astype(np.float32) for i in range(3))
    averages = [
        InProcessRounds(names, clip=1.0, quorum=3, device=device)
        .average(Joined(names, updates, (1, 1, 1), "00" * 32), 16)
        .average
        for device in (None, str(DEVICE))
    ]
    assert np.array_equal(averages[0], averages[1])


@pytest.mark.parametrize("wrong", ["dtype", "shape"])
def test_a_block_of_another_form_is_refused(wrong: str) -> None:
    total = DeviceBlocks(SHAPE[0], PRIMES, SHAPE[-1], DEVICE)
    block = contributions(1, 0)[0][0]
    with pytest.raises(AggregationError, match="block: expected uint32"):
        total.add(0, block.astype(np.int32) if wrong == "dtype" else block[:1])  # type: ignore[arg-type]
    assert not total.block(0).any()


def test_a_residue_that_is_not_below_its_prime_is_seen() -> None:
    total = DeviceAccumulator(SHAPE[0], PRIMES, SHAPE[-1], DEVICE)
    stack = total.room(1)
    for value in (PRIMES[2], 2**31, 2**32 - 1):
        part = contributions(1, 0)[0]
        part[0, 0, 2, 0] = value
        total.to_device(part, stack[0])
        assert not total.in_range(stack)


@pytest.mark.parametrize("wrong", ["dtype", "shape", "stack"])
def test_residues_of_another_form_are_refused_and_change_nothing(wrong: str) -> None:
    total = DeviceAccumulator(SHAPE[0], PRIMES, SHAPE[-1], DEVICE)
    part = contributions(1, 0)[0]
    with pytest.raises(AggregationError, match="expected"):
        if wrong == "dtype":
            total.to_device(part.astype(np.uint64), total.room(1)[0])  # type: ignore[arg-type]
        elif wrong == "shape":
            total.to_device(part[:1], total.room(1)[0])
        else:
            total.add(total.room(1).to(torch.int64))
    assert total.count == 0
    assert not total.residues().any()


@pytest.mark.parametrize("primes", [(), (1,), (2**30,)])
def test_moduli_that_do_not_fit_the_arithmetic_are_refused(primes: tuple[int, ...]) -> None:
    with pytest.raises(AggregationError, match="primes"):
        DeviceAccumulator(1, primes, 8, DEVICE)


def test_a_kernel_that_does_not_run_here_is_refused_and_none_is_used_unsaid() -> None:
    with pytest.raises(AggregationError, match="kernel: expected auto, triton or torch"):
        DeviceAccumulator(1, PRIMES, 8, DEVICE, "cuda")  # type: ignore[arg-type]
    assert DeviceAccumulator(1, PRIMES, 8, DEVICE, "torch").kernel == "torch"
    if DEVICE.type == "cpu":
        assert DeviceAccumulator(1, PRIMES, 8, DEVICE).kernel == "torch"
        with pytest.raises(AggregationError, match="a CUDA device and the package triton"):
            DeviceAccumulator(1, PRIMES, 8, DEVICE, "triton")


@pytest.mark.parametrize(("count", "size"), [(1, 5_000), (2, 4_096), (7, 3_001), (32, 2_048), (33, 1_025), (64, 1)])
def test_the_kernel_adds_what_torch_adds(count: int, size: int) -> None:
    """On a CUDA device the compiled kernel; on a CPU, Triton's interpreter of the same source, in its own process."""
    pytest.importorskip("triton", reason="Triton comes with torch's wheels for CUDA")
    program = f"""
import torch
from fl.secure.device_kernels import add_stack
torch.manual_seed({count})
device = {DEVICE.type!r}
stack = torch.randint(0, 2**30, ({count}, {size}), dtype=torch.int32, device=device)
total = torch.randint(0, 2**60, ({size},), dtype=torch.int64, device=device)
expected = total + stack.to(torch.int64).sum(dim=0)
add_stack(total, stack)
assert torch.equal(total, expected)
"""
    environment = dict(os.environ) | ({"TRITON_INTERPRET": "1"} if DEVICE.type == "cpu" else {})
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
