"""The one custom kernel of a torch device: adding a stack of contributions to a running sum in one pass over memory.

What it does: reads k contributions of int32 residues and the int64 running sum, and writes the running sum. This moves
4 k + 16 bytes a residue, which is the least. Torch's own reduction first converts the whole stack to int64.

What it leaves to others: when to use it (`fl.secure.device_sum`), and all else that a device does, which is torch's.

Written in Triton (Tillet, Kung, Cox, MAPL 2019), which torch's wheels for CUDA bring along and others do not. Importing
this module without it raises `ImportError`. Integer addition has no rounding, so the order of the sum is of no account.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

ELEMENTS = 1024  # residues of one program: eight for each thread of four warps, in loads of 16 bytes
LARGEST_STACK = 32  # contributions of one launch; the loop over them is unrolled when the kernel is compiled


# Triton has no types: its arguments are tensors of the language that it compiles.
@triton.jit  # type: ignore[untyped-decorator]
def _add_stack(total, stack, size, CONTRIBUTIONS: tl.constexpr, ELEMENTS: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = place < size
    added = tl.load(total + place, mask=inside, other=0)
    for _ in tl.static_range(CONTRIBUTIONS):
        added += tl.load(stack + place, mask=inside, other=0).to(tl.int64)
        stack += size
    tl.store(total + place, added, mask=inside)


def add_stack(total: torch.Tensor, stack: torch.Tensor) -> None:
    """Add int32[k, ...] to int64[...], both contiguous and on one device. Shapes and devices are the caller's care."""
    size = total.numel()
    grid = (triton.cdiv(size, ELEMENTS),)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device(total.device) if total.is_cuda else nullcontext():
        for first in range(0, stack.shape[0], LARGEST_STACK):
            part = stack[first : first + LARGEST_STACK]
            _add_stack[grid](total, part, size, CONTRIBUTIONS=part.shape[0], ELEMENTS=ELEMENTS)
