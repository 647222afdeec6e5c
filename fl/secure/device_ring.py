"""Residues on a torch device: the negacyclic transform of `secagg.ring`, and the 30-bit words of `secagg.blocks`.

What it does: transforms int64 tensors between coefficients and SEAL's transformed order, modulo the primes of a
parameter set, and converts between residues and the bytes of a payload. The results equal those of the compiled loops
residue by residue (tested on CPU tensors; a device computes with the same integers).

What it leaves to others: what the residues mean. No secret stays here.

The transform is that of Longa and Naehrig, ePrint 2016/504, algorithms 1 and 2. Everything is integer arithmetic of
torch in int64. A residue is below 2^30, so a product with a root fits while the other factor is within 8 primes of
zero: values are signed and reduced lazily, and `fmod` (C's remainder, exact) brings a product back within one prime.

# Strategy: a stage of the transform combines elements that are half a group apart. The tensor is kept transposed, with
# the place inside a group before the group, so the two halves of every group are the two halves of the tensor. Every
# stage is then the same four calls on large regular views, whatever the size of its groups. There is no custom kernel.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from secagg.arrays import U32
from secagg.parameters import ParameterSet
from secagg.ring import ring_of

LAZY = 8  # primes that |x| may reach where x is multiplied by a residue: 8 * 2^30 * 2^30 is 2^63
_MASK = (1 << 30) - 1
_GROUP = 15  # bytes of four residues


class DeviceRing:
    """Tables of one parameter set on a device; get it with `device_ring`. primes: int64[primes, 1]."""

    def __init__(self, params: ParameterSet, device: torch.device) -> None:
        ring = ring_of(params)
        self.params, self.device = params, device
        self.primes = self._table(ring.primes).unsqueeze(-1)
        self._roots = self._table(ring.roots)
        self._inverse_roots = self._table(ring.inverse_roots)
        self._inverse_degree = self._table(ring.inverse_degree).unsqueeze(-1)

    def to_ntt(self, coefficients: torch.Tensor) -> torch.Tensor:
        """int64[..., primes, N], |x| <= 2 primes, to SEAL's transformed order, 0 <= x < prime. The argument stays."""
        leading, degree = coefficients.shape[:-1], self.params.degree
        primes = self.primes.unsqueeze(-1)
        view, bound, groups = coefficients.unsqueeze(-1), 2, 1
        while groups < degree:
            if bound > LAZY:
                view.fmod_(primes)
                bound = 1
            half = degree // (2 * groups)
            upper, lower = view[..., :half, :], view[..., half:, :]
            product = lower * self._roots[:, None, groups : 2 * groups]
            product.fmod_(primes)
            both = torch.empty((*leading, half, groups, 2), dtype=torch.int64, device=self.device)
            torch.add(upper, product, out=both[..., 0])
            torch.sub(upper, product, out=both[..., 1])
            groups, bound = 2 * groups, bound + 1
            view = both.view(*leading, half, groups)
        return view.squeeze(-2).remainder_(self.primes)

    def from_ntt(self, transformed: torch.Tensor) -> torch.Tensor:
        """Inverse of `to_ntt`: int64[..., primes, N], 0 <= x < prime on both sides. The argument stays."""
        leading, degree = transformed.shape[:-1], self.params.degree
        primes = self.primes.unsqueeze(-1)
        view, bound, groups = transformed.unsqueeze(-2), 1, degree // 2
        while groups >= 1:
            if 2 * bound > LAZY:
                view.fmod_(primes)
                bound = 1
            half = degree // (2 * groups)
            pairs = view.reshape(*leading, half, groups, 2)
            first, second = pairs[..., 0], pairs[..., 1]
            view = torch.empty((*leading, 2 * half, groups), dtype=torch.int64, device=self.device)
            torch.add(first, second, out=view[..., :half, :])
            lower = view[..., half:, :]
            torch.sub(first, second, out=lower)
            lower.mul_(self._inverse_roots[:, None, groups : 2 * groups]).fmod_(primes)
            groups, bound = groups // 2, 2 * bound
        return view.squeeze(-1).mul_(self._inverse_degree).remainder_(self.primes)

    def residues(self, array: U32) -> torch.Tensor:
        """uint32[...] below 2^30 in memory as int64[...] on the device."""
        return self._table(array)

    def _table(self, array: U32) -> torch.Tensor:
        narrow = array.astype("i4")  # a copy: tables are read-only, and torch warns of such arrays
        return torch.from_numpy(narrow).to(self.device).to(torch.int64)


@lru_cache(maxsize=8)
def device_ring(params: ParameterSet, device: torch.device) -> DeviceRing:
    """The ring of a parameter set on a device; the tables are moved there once per process."""
    return DeviceRing(params, device)


def pack30(residues: torch.Tensor) -> torch.Tensor:
    """int64[blocks, ...] below 2^30 as uint8[blocks, bytes]: 30 bits a residue, as `blocks.write_block` writes them."""
    r = residues.reshape(residues.shape[0], -1, 4)
    words = torch.empty((*r.shape[:-1], 2), dtype=torch.int64, device=r.device)
    torch.bitwise_or(r[..., 0] | (r[..., 1] << 30), r[..., 2] << 60, out=words[..., 0])
    torch.bitwise_or(r[..., 2] >> 4, r[..., 3] << 26, out=words[..., 1])
    octets = words.view(torch.uint8).view(*r.shape[:-1], 16)
    return octets[..., :_GROUP].reshape(r.shape[0], -1)


def unpack30(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of `pack30`: uint8[blocks, bytes] as int64[blocks, residues] below 2^30."""
    grouped = packed.reshape(packed.shape[0], -1, _GROUP)
    octets = torch.zeros((*grouped.shape[:-1], 16), dtype=torch.uint8, device=packed.device)
    octets[..., :_GROUP] = grouped
    words = octets.view(torch.int64)
    low, high = words[..., 0], words[..., 1]
    r = torch.empty((*low.shape, 4), dtype=torch.int64, device=packed.device)
    torch.bitwise_and(low, _MASK, out=r[..., 0])
    torch.bitwise_and(low >> 30, _MASK, out=r[..., 1])
    torch.bitwise_and(((low >> 60) & 15) | (high << 4), _MASK, out=r[..., 2])
    torch.bitwise_and(high >> 26, _MASK, out=r[..., 3])
    return r.view(packed.shape[0], -1)
