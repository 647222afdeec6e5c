"""Values and lanes on a torch device: quantising and packing an update, and splitting sums into their digits.

What it does: the arithmetic of `secagg.packing` on int64 tensors, for several blocks at once. The results equal those
of the compiled loops, integer by integer (tested on CPU tensors).

What it leaves to others: `secagg.packing.Decoder` judges what is unpacked here.

Quantising multiplies and rounds float64 values, each exactly as IEEE 754 says, half to even; it is the only use of
floating point. Reconstruction is Garner's mixed-radix conversion (Knuth, TAOCP vol. 2, section 4.3.2), and digits come
from schoolbook division in integers, where the compiled loops estimate quotients in float64 and correct them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from fl.secure.device_ring import DeviceRing
from secagg.packing import lane_factors, lanes_per_row
from secagg.plan import RoundPlan
from secagg.ring import ring_of

LIMB_BITS = 30  # of a limb at most: a limb times a prime, plus a carry, fits int64


class DevicePacker:
    """Turns the values of some blocks into coefficients modulo each prime."""

    def __init__(self, plan: RoundPlan, ring: DeviceRing) -> None:
        self._plan, self._ring = plan, ring
        self._joined = lanes_per_row(plan)
        rows = np.ascontiguousarray(lane_factors(plan)[:, :: self._joined].T)
        self._factors = ring.residues(rows).unsqueeze(-1)  # [rows, primes, 1]

    def coefficients(
        self, values: torch.Tensor, first: int, blocks: int, weight: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks first..first + blocks - 1 of an update.

        values: float32 or float64 [plan.length], finite, on the device. Returns int64[blocks, primes, N], the packed
        coefficients within one prime of zero, and how many of these values lie outside [-clip, clip], int64[1].
        """
        plan, primes = self._plan, self._ring.primes
        integers, clipped = self._quantised(values, first * plan.values_per_block, blocks * plan.values_per_block)
        integers *= weight
        lanes = integers.view(blocks, plan.lanes, plan.params.degree)
        packed: torch.Tensor | None = None
        for row, factors in enumerate(self._factors):
            joined = lanes[:, row * self._joined]
            for place, lane in enumerate(range(row * self._joined + 1, min((row + 1) * self._joined, plan.lanes)), 1):
                joined = torch.add(joined, lanes[:, lane], alpha=plan.radix**place)
            term = torch.fmod(joined.unsqueeze(1), primes).mul_(factors)
            packed = term if packed is None else packed.fmod_(primes).add_(term)
        assert packed is not None  # a plan has at least one lane
        return packed.fmod_(primes), clipped

    def _quantised(self, values: torch.Tensor, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """int64[size] from value `start` on, with a 1 in the place of the weight and zeros behind it."""
        plan = self._plan
        part = values[start : start + size].to(torch.float64)
        clipped = torch.count_nonzero(part.abs() > plan.clip).unsqueeze(0)
        integers = torch.zeros(size, dtype=torch.int64, device=values.device)
        integers[: part.shape[0]] = part.clamp(-plan.clip, plan.clip).mul_(1.0 / plan.step).round_()
        if 0 <= plan.length - start < size:
            integers[plan.length - start] = 1
        return integers, clipped


@dataclass(frozen=True)
class Unpacked:
    """Some blocks of a sum, on the device.

    values: int64[blocks, lanes * N]. extremes: int64[4], of all of them: largest |noise|, highest and lowest sum (zero
    among them, values behind the update's last one not), and whether anything is above the highest digit.
    """

    values: torch.Tensor = field(repr=False)
    extremes: torch.Tensor = field(repr=False)


class DeviceUnpacker:
    """Splits the coefficients of a decrypted sum into noise and lanes."""

    def __init__(self, plan: RoundPlan, ring: DeviceRing) -> None:
        self._plan, self._ring = plan, ring
        self._primes = plan.params.primes
        self._inverses = ring.residues(ring_of(plan.params).garner_inverses)
        self._offset = (plan.span * plan.radix**plan.lanes - 1) // 2
        offsets = np.array([self._offset % p for p in self._primes], dtype=np.uint32)
        self._offsets = ring.residues(offsets).unsqueeze(-1)
        self._divisors = [plan.span] + [plan.radix] * plan.lanes
        self._limb_bits = min(LIMB_BITS, 63 - max(self._divisors).bit_length())

    def unpack(self, coefficients: torch.Tensor, first: int) -> Unpacked:
        """Blocks from number `first` on: int64[blocks, primes, N], coefficients, 0 <= x < prime."""
        plan = self._plan
        digits, above = self._digits(self._limbs(self._garner(coefficients)))
        noise = (digits[0] - (plan.span - 1) // 2).abs().max()
        values = torch.stack(digits[1:], dim=1).sub_(plan.max_lane).view(coefficients.shape[0], -1)
        inside = values.view(-1)[: max(plan.length - first * plan.values_per_block, 0)]
        zero = torch.zeros((), dtype=torch.int64, device=values.device)
        highest, lowest = (inside.max(), inside.min()) if inside.numel() else (zero, zero)
        extremes = torch.stack([noise, highest.clamp(min=0), lowest.clamp(max=0), above])
        return Unpacked(values, extremes)

    def _garner(self, coefficients: torch.Tensor) -> list[torch.Tensor]:
        """Mixed-radix digits of V + offset, lowest first: int64[blocks, N] for each prime."""
        primes = self._ring.primes
        left = torch.remainder(coefficients + self._offsets, primes)
        digits = []
        for i in range(len(self._primes)):
            digits.append(left[:, 0].clone())  # a view would keep all of `left`
            left = left[:, 1:] - left[:, :1]
            left = left.mul_(self._inverses[i, i + 1 :, None]).remainder_(primes[i + 1 :])
        return digits

    def _limbs(self, garner: list[torch.Tensor]) -> list[torch.Tensor]:
        """The same number in limbs of `_limb_bits` bits, lowest first (Horner's rule)."""
        bits, mask = self._limb_bits, (1 << self._limb_bits) - 1
        limbs: list[torch.Tensor] = []
        largest = 0
        for digit, prime in zip(reversed(garner), reversed(self._primes), strict=True):
            largest = largest * prime + prime - 1
            carry = digit
            for place, limb in enumerate(limbs):
                grown = torch.add(carry, limb, alpha=prime)
                limbs[place], carry = grown & mask, grown >> bits
            while len(limbs) < _limbs_of(largest, bits):
                limbs.append(carry & mask)
                carry = carry >> bits
        return limbs

    def _digits(self, limbs: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Remainders by each divisor in turn, lowest first, and 1 where something is left of any number, else 0."""
        bits, largest = self._limb_bits, self._plan.params.modulus - 1
        digits = []
        for divisor in self._divisors:
            remainder: torch.Tensor | None = None
            for place in range(len(limbs) - 1, -1, -1):
                limb = limbs[place]
                dividend = limb if remainder is None else torch.add(limb, remainder, alpha=1 << bits)
                limbs[place] = torch.div(dividend, divisor, rounding_mode="trunc")
                remainder = torch.sub(dividend, limbs[place], alpha=divisor)
            assert remainder is not None
            digits.append(remainder)
            largest //= divisor
            limbs = limbs[: max(_limbs_of(largest, bits), 1)]
        left = torch.stack([(limb != 0).any() for limb in limbs]).any()
        return digits, left.to(torch.int64)


def _limbs_of(largest: int, bits: int) -> int:
    """Limbs that a number up to `largest` has."""
    return -(-largest.bit_length() // bits)
