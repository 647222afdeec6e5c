"""Sums of ciphertext residues on a torch device, for an aggregator whose contributions are on a GPU.

What it does: keeps a running sum of residues modulo 30-bit primes as one torch tensor on a device, takes contributions
one at a time or several stacked, and returns the sum as residues of `secagg`. Moving a contribution to the device is a
separate call, so that transfers can be measured, and overlapped, apart from sums. `DeviceBlocks` offers the same sum
with the interface that an aggregator of whole rounds expects.

What it leaves to others: checking contributions (shape and range are checked again here, signatures and hashes are
`secagg.Aggregator`'s), and what the residues mean.

A residue is below 2^30, so it crosses as int32 unchanged (torch has few operations on uint32). The running sum is
int64 and reduced lazily: it holds 2^33 residues before it could overflow, a contribution costs one read of 4 bytes and
one read and write of 8, and a stack of k contributions is added at once, so that the 16 bytes of the running sum are
moved once for all k. On a CUDA device one kernel does this in one pass where Triton is installed
(`fl.secure.device_kernels`); everything else, and everything elsewhere, is torch's calls.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fl.errors import AggregationError

Residues = NDArray[np.uint32]

PRIME_LIMIT = 1 << 30
LARGEST_COUNT = 1 << 33  # contributions whose lazily reduced sum fits int64

Kernel = Literal["auto", "triton", "torch"]


class DeviceAccumulator:
    """A running sum of uint32[blocks, 2, primes, N] residues on `device`.

    primes: the moduli along the third axis, each below 2^30. kernel: what adds a stack, "triton" (on a CUDA device that
    has it) or "torch"; "auto" is the first where it runs. The attribute `kernel` says which it is. Both add the same.
    Raises `AggregationError` for anything else.
    """

    def __init__(
        self, blocks: int, primes: tuple[int, ...], degree: int, device: torch.device, kernel: Kernel = "auto"
    ) -> None:
        if not primes or any(not 2 <= prime < PRIME_LIMIT for prime in primes):
            raise AggregationError(f"primes: expected moduli in 2..2^30, got {primes}")
        self.kernel, self._add_stack = _adder(kernel, device)
        self.shape = (blocks, 2, len(primes), degree)
        device = torch.empty(0, device=device).device  # "cuda" becomes what tensors report, "cuda:0"
        self.device = device
        self.count = 0
        self._limits = torch.tensor(primes, dtype=torch.int64, device=device).reshape(1, 1, -1, 1)
        self._total = torch.zeros(self.shape, dtype=torch.int64, device=device)

    def room(self, contributions: int) -> torch.Tensor:
        """An uninitialised stack on the device: int32[contributions, blocks, 2, primes, N]. It can be reused."""
        return torch.empty((contributions, *self.shape), dtype=torch.int32, device=self.device)

    def to_device(self, residues: Residues, into: torch.Tensor) -> None:
        """Move a contribution into one place of a stack. On CUDA it may return early: synchronise to measure its time.

        Raises `AggregationError` for another dtype or shape.
        """
        if residues.dtype != np.uint32 or residues.shape != self.shape:
            raise AggregationError(f"residues: expected uint32{self.shape}, got {residues.dtype}{residues.shape}")
        self._require(into, self.shape, 0)
        into.copy_(torch.from_numpy(np.ascontiguousarray(residues).view(np.int32)), non_blocking=True)

    def in_range(self, residues: torch.Tensor) -> bool:
        """Whether every residue of a contribution on the device is in 0..prime - 1. Waits for the device."""
        sound = (residues >= 0) & (residues < self._limits)
        return bool(sound.all())

    def add(self, stack: torch.Tensor) -> None:
        """Add k contributions at once: int32[k, blocks, 2, primes, N] on the device, residues in range.

        Raises `AggregationError` for another dtype, shape or device, and beyond LARGEST_COUNT contributions.
        """
        contributions = stack.shape[0]
        self._require(stack, (contributions, *self.shape), contributions)
        self._add_stack(self._total, stack)
        self.count += contributions

    def residues(self) -> Residues:
        """The sum so far modulo each prime, back in memory as uint32[blocks, 2, primes, N]."""
        reduced = torch.remainder(self._total, self._limits).to(torch.int32)
        result: Residues = reduced.cpu().numpy().view(np.uint32)
        return result

    def add_block(self, index: int, block: Residues, times: int = 1) -> None:
        """Add `times` (1, or -1 to take out again) one block of a contribution: uint32[2, primes, N], in range."""
        if block.dtype != np.uint32 or block.shape != self.shape[1:]:
            raise AggregationError(f"block: expected uint32{self.shape[1:]}, got {block.dtype}{block.shape}")
        moved = torch.from_numpy(np.ascontiguousarray(block).view(np.int32)).to(self.device)
        self._total[index].add_(moved, alpha=times)

    def block(self, index: int) -> Residues:
        """The sum of one block modulo each prime, back in memory as uint32[2, primes, N]."""
        reduced = torch.remainder(self._total[index], self._limits[0]).to(torch.int32)
        result: Residues = reduced.cpu().numpy().view(np.uint32)
        return result

    def _require(self, tensor: torch.Tensor, shape: tuple[int, ...], more: int) -> None:
        if tensor.dtype != torch.int32 or tuple(tensor.shape) != shape or tensor.device != self.device:
            raise AggregationError(
                f"residues on the device: expected int32{shape} on {self.device}, got {tensor.dtype}"
                f"{tuple(tensor.shape)} on {tensor.device}; use room and to_device"
            )
        if not tensor.is_contiguous():
            raise AggregationError("residues on the device: expected a tensor without gaps; use room and to_device")
        if self.count + more > LARGEST_COUNT:
            raise AggregationError(
                f"a sum holds at most {LARGEST_COUNT} contributions: read its residues and make a new sum"
            )


def _adder(kernel: Kernel, device: torch.device) -> tuple[str, Callable[[torch.Tensor, torch.Tensor], None]]:
    """What adds a stack on a device, and its name."""
    if kernel not in ("auto", "triton", "torch"):
        raise AggregationError(f"kernel: expected auto, triton or torch, got {kernel!r}")
    here = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    if kernel == "triton" and not here:
        raise AggregationError(f"kernel: triton needs a CUDA device and the package triton, got {device}; use auto")
    if kernel == "torch" or not here:
        return "torch", _add_with_torch
    from fl.secure.device_kernels import add_stack

    return "triton", add_stack


def _add_with_torch(total: torch.Tensor, stack: torch.Tensor) -> None:
    contributions = stack.shape[0]
    if contributions > 2 and stack.device.type != "cpu":
        total += torch.sum(stack, dim=0, dtype=torch.int64)
        return
    # The sum of two residues fits int32, which saves a widening pass over the stack. On a CPU, torch's reduction along
    # the first axis reached 6 % of the bandwidth of a copy (docs/benchmarks.md).
    for first in range(0, contributions - 1, 2):
        total += stack[first] + stack[first + 1]
    if contributions % 2:
        total += stack[-1]


class DeviceBlocks:
    """The same sum with the interface `secagg.accumulator.Accumulator`, for `secagg.Aggregator`: one block at a time.

    A round has fewer clients than LARGEST_COUNT, so it never overflows. Raises as `DeviceAccumulator`.
    """

    def __init__(self, blocks: int, primes: tuple[int, ...], degree: int, device: torch.device) -> None:
        self._total = DeviceAccumulator(blocks, primes, degree, device)

    def add(self, index: int, block: Residues) -> None:
        """Add uint32[2, primes, N], in range, to block `index`."""
        self._total.add_block(index, block)

    def subtract(self, index: int, block: Residues) -> None:
        """Take it out again."""
        self._total.add_block(index, block, times=-1)

    def block(self, index: int) -> Residues:
        """The sum of block `index` modulo each prime, in memory."""
        return self._total.block(index)
