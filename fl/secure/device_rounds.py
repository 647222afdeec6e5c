"""The arithmetic of a client and of a key holder on a torch device: `secagg.device.Device`.

What it does: a client's tensor becomes a payload, and a payload of a sum becomes exact integers, with everything
between on the device: quantising, lanes, transforms, encryption and 30-bit words on the way out; words, decryption,
inverse transform, reconstruction and lanes on the way back. Residues, sums and refusals equal those of `secagg` on this
machine's processor, bit for bit, for the same randomness (tested on CPU tensors).

What it leaves to others: keys, signatures, hashes, the journal and the ledger are the roles'. Randomness and masks are
expanded on the processor by the operating system's AES, as ever, and copied: 3 bytes per coefficient, and 4 bytes per
residue of c0 whatever the number of masks. `secagg.packing.Decoder` judges the sums.

Encryption is that of `secagg.ckks_fast` (CKKS: Cheon, Kim, Kim, Song, ASIACRYPT 2017, section 3.2), decryption is
c0 + c1 s modulo each data prime, which is what SEAL computes. The secret's residues are on the device while one sum is
opened, and are overwritten with zeros after that. A device's memory is no safer than this machine's.

# Strategy: blocks go in batches that fit `memory` bytes, whatever the length of the update. While the device works on
# one batch the processor expands the masks and draws the randomness of the next, so the device's work is waited for as
# late as possible, and stages say what the round waited for (docs/benchmarks.md, "On a GPU").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fl.errors import AggregationError
from fl.secure.device_packing import DevicePacker, DeviceUnpacker, Unpacked
from fl.secure.device_ring import DeviceRing, device_ring, pack30, unpack30
from secagg.arrays import I8, U32, Extremes
from secagg.blocks import Payload
from secagg.device import Update
from secagg.engines import DecryptionKey, residues_of
from secagg.errors import ResidueOutOfRange, TransparentCiphertext, TruncatedMessage, UpdateTypeUnsupported
from secagg.masks import MaskStream, MaskTerm
from secagg.packing import Decoder, IntegerSums
from secagg.plan import RoundPlan
from secagg.publickey import PublicKey
from secagg.randomness import fresh
from secagg.secrecy import Secret
from secagg.stages import StageClock
from secagg.workers import Workers

MEMORY = {"cpu": 32 << 20, "cuda": 1 << 30}
"""Bytes that the blocks of one batch may take, by type of device. On a processor, what its caches hold is fastest."""

_POLYNOMIALS = 12  # int64[primes, N] that a block has at most at any time: three being transformed, and copies of them
_TENSORS = (torch.Tensor, torch.nn.Parameter)


class TorchDevice:
    """Arithmetic on `device`, for `secagg.Client(..., device=...)` and `secagg.KeyHolder(..., device=...)`.

    memory: bytes that the blocks of one batch may take there, beside an update and a payload; by type of device when
    None. One block is the least. Raises `AggregationError` for a device that torch does not have, or less than 1 byte.
    """

    def __init__(self, device: torch.device | str, memory: int | None = None) -> None:
        try:
            # An allocation also turns "cuda" into the device that tensors report, "cuda:0".
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise AggregationError(f"device: torch cannot use {str(device)!r} here ({error})") from error
        if memory is not None and memory < 1:
            raise AggregationError(f"memory: expected bytes of a batch, 1 or more, got {memory}")
        self._memory = MEMORY.get(self.device.type, MEMORY["cuda"]) if memory is None else memory

    def in_memory(self, update: Update) -> NDArray[np.floating]:
        """The values of an update as a numpy array; a numpy array is returned as it is.

        update: a tensor on this device, float32 or float64, of one dimension. Raises `UpdateTypeUnsupported`.
        """
        if isinstance(update, np.ndarray):
            return update
        if type(update) not in _TENSORS or update.dtype not in (torch.float32, torch.float64) or update.ndim != 1:
            got = f"{update.dtype}{tuple(update.shape)}" if isinstance(update, torch.Tensor) else type(update).__name__
            raise UpdateTypeUnsupported(f"update: expected a float32 or float64 tensor of one dimension, got {got}")
        if update.device != self.device:
            raise UpdateTypeUnsupported(f"update: expected a tensor on {self.device}, got one on {update.device}")
        values: NDArray[np.floating] = update.detach().cpu().numpy()
        return values

    def seal(
        self,
        update: Update,
        weight: int,
        public_key: PublicKey,
        terms: Sequence[MaskTerm],
        plan: RoundPlan,
        clock: StageClock,
    ) -> tuple[bytearray, int]:
        """See `secagg.device.Device`."""
        sealing = _Sealing(self._values(update), weight, public_key, plan, self.device)
        stream = MaskStream(terms, plan.params)
        payload = bytearray(plan.residue_bytes)
        rows = np.frombuffer(payload, dtype=np.uint8).reshape(plan.blocks, -1)
        waiting: tuple[int, int, torch.Tensor] | None = None
        clipped = []
        for first, count in self._batches(plan):
            with clock.stage("encrypt"):
                randomness = fresh(count, plan.params.degree, Workers(1))
            masks = None
            if terms:
                with clock.stage("mask", "mask expansion") as stage:
                    masks = _expanded(stream, first, count, plan)
                    stage.bytes += len(terms) * masks.nbytes
            with clock.stage("encrypt") as stage:
                _collect(waiting, rows)
                waiting = None  # its memory is the next batch's
                packed, outside = sealing.batch(first, count, randomness, masks)
                clipped.append(outside)
                waiting = first, count, packed
                stage.bytes += 8 * count * len(plan.params.primes) * plan.params.degree
        with clock.stage("encrypt"):
            _collect(waiting, rows)
        return payload, int(torch.cat(clipped).sum())

    def open_sum(
        self,
        payload: Payload,
        secret_key: DecryptionKey,
        seed_terms: Sequence[MaskTerm],
        plan: RoundPlan,
        clients: int,
        clock: StageClock,
    ) -> IntegerSums:
        """See `secagg.device.Device`. Raises `SumRefused`, and what `secagg.blocks.read_block` raises."""
        if len(payload) < plan.residue_bytes:
            raise TruncatedMessage(f"payload: expected {plan.residue_bytes} bytes, got {len(payload)}")
        decoder, stream = Decoder(plan, clients), MaskStream(seed_terms, plan.params)
        with clock.stage("decrypt"):
            opening = _Opening(secret_key, plan, self.device)
        waiting: _Opened | None = None
        try:
            for first, count in self._batches(plan):
                masks = None
                if seed_terms:
                    with clock.stage("verify", "seed masks"):
                        masks = _expanded(stream, first, count, plan)
                if waiting is not None:
                    with clock.stage("unpack", "checks of the sum"):
                        waiting.give(decoder)
                        waiting = None  # its memory is the next batch's
                with clock.stage("decrypt") as stage:
                    waiting = opening.batch(payload, first, count, masks)
                    stage.bytes += 4 * count * len(plan.params.primes) * plan.params.degree
            assert waiting is not None  # a plan has at least one block
            with clock.stage("unpack", "checks of the sum"):
                waiting.give(decoder)
        finally:
            opening.forget()
        with clock.stage("unpack"):
            return decoder.sums()

    def __repr__(self) -> str:
        return f"TorchDevice({str(self.device)!r})"

    def _batches(self, plan: RoundPlan) -> list[tuple[int, int]]:
        """(first block, number of blocks) of every batch."""
        most = max(1, self._memory // (8 * _POLYNOMIALS * len(plan.params.primes) * plan.params.degree))
        return [(first, min(most, plan.blocks - first)) for first in range(0, plan.blocks, most)]

    def _values(self, update: Update) -> torch.Tensor:
        if isinstance(update, np.ndarray):  # torch takes no negative strides, and warns of arrays it must not write to
            update = torch.from_numpy(np.require(update, requirements=("C", "W")))
        moved: torch.Tensor = update.detach().to(self.device)
        return moved


class _Sealing:
    """One client's update, on its way from values to payload bytes."""

    def __init__(
        self, values: torch.Tensor, weight: int, public_key: PublicKey, plan: RoundPlan, device: torch.device
    ) -> None:
        public_key.check()
        self._values, self._weight = values, weight
        self._ring = device_ring(plan.params, device)
        self._packer = DevicePacker(plan, self._ring)
        data = np.ascontiguousarray(public_key.residues[:, : len(plan.params.primes)], dtype=np.uint32)
        self._key = self._ring.residues(data)

    def batch(
        self, first: int, count: int, randomness: tuple[I8, I8, I8], masks: U32 | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Start a batch: its bytes, uint8[count, bytes], and how many values were clipped, int64[1], on the device."""
        plaintext, clipped = self._packer.coefficients(self._values, first, count, self._weight)
        block = encrypted(plaintext, randomness, self._key, self._ring)
        if masks is not None:
            block[:, 0] += self._ring.residues(masks)
            block[:, 0].remainder_(self._ring.primes)
        return pack30(block), clipped


def encrypted(
    plaintext: torch.Tensor, randomness: tuple[I8, I8, I8], key: torch.Tensor, ring: DeviceRing
) -> torch.Tensor:
    """c0 = b*u + e0 + m and c1 = a*u + e1, transformed, of several blocks: int64[blocks, 2, primes, N].

    plaintext: int64[blocks, primes, N], coefficients within one prime of zero. randomness: (u, e0, e1), int8[blocks, N]
    each. key: (b, a), int64[2, primes, N], transformed.
    """
    u, e0, e1 = (torch.from_numpy(each).to(ring.device).to(torch.int64).unsqueeze(1) for each in randomness)
    parts = torch.empty((plaintext.shape[0], 3, *plaintext.shape[1:]), dtype=torch.int64, device=ring.device)
    parts[:, 0] = u
    torch.add(plaintext, e0, out=parts[:, 1])
    parts[:, 2] = e1
    transformed = ring.to_ntt(parts)
    block = transformed[:, :1] * key
    block += transformed[:, 1:]
    return block.remainder_(ring.primes)


class _Opening(Secret):
    """One sum, on its way from payload bytes to values."""

    def __init__(self, secret_key: DecryptionKey, plan: RoundPlan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._ring = device_ring(plan.params, device)
        self._unpacker = DeviceUnpacker(plan, self._ring)
        residues = residues_of(secret_key, plan.params)
        narrow = torch.from_numpy(residues.view(np.int32)).to(device)
        self._secret = narrow.to(torch.int64)
        narrow.zero_()
        residues.fill(0)

    def batch(self, payload: Payload, first: int, count: int, masks: U32 | None) -> _Opened:
        """Start a batch: decrypt and unpack it."""
        plan, primes = self._plan, self._ring.primes
        size = plan.params.ciphertext_bytes
        octets = np.frombuffer(payload, dtype=np.uint8, count=count * size, offset=first * size).copy()
        moved = torch.from_numpy(octets).to(self._device).view(count, size)
        block = unpack30(moved).view(count, 2, len(plan.params.primes), plan.params.degree)
        faults = torch.stack([(block >= primes).any(), (block[:, 1] == 0).all(dim=-1).any()]).to(torch.int64)
        plain = (block[:, 1] * self._secret).add_(block[:, 0])
        if masks is not None:
            plain -= self._ring.residues(masks)
        coefficients = self._ring.from_ntt(plain.remainder_(primes))
        return _Opened(first, self._unpacker.unpack(coefficients, first), faults)

    def forget(self) -> None:
        """Overwrite the secret on the device."""
        self._secret.zero_()

    def __repr__(self) -> str:
        return "_Opening(OMITTED)"


@dataclass(frozen=True, repr=False, eq=False)
class _Opened(Secret):
    """An opened batch that is still on the device. faults: residues out of range, a c1 of zero; int64[2]."""

    first: int
    unpacked: Unpacked = field(repr=False)
    faults: torch.Tensor = field(repr=False)

    def give(self, decoder: Decoder) -> None:
        """Wait for the batch and hand it to the decoder."""
        found = torch.cat([self.unpacked.extremes, self.faults]).tolist()
        noise, highest, lowest, above, beyond, transparent = found
        if beyond:
            raise ResidueOutOfRange("the sum holds a residue that is not below its prime: refuse this sender")
        if transparent:
            raise TransparentCiphertext("the sum has a c1 of 0 and would decrypt without a key: refuse this sender")
        values = self.unpacked.values.cpu().numpy()
        decoder.add_values(self.first, values, Extremes(noise, highest, lowest, bool(above)))


def _expanded(stream: MaskStream, first: int, count: int, plan: RoundPlan) -> U32:
    """The sums of all masks of some blocks modulo each prime: uint32[count, primes, N], expanded on all cores."""
    sums: U32 = np.zeros((count, len(plan.params.primes), plan.params.degree), dtype=np.uint32)
    with Workers(None, sums.nbytes) as workers:
        stream.apply_all(first, sums, workers)
    return sums


def _collect(batch: tuple[int, int, torch.Tensor] | None, rows: NDArray[np.uint8]) -> None:
    """Wait for a batch of sealed blocks and copy its bytes to their place."""
    if batch is not None:
        first, count, packed = batch
        torch.from_numpy(rows[first : first + count]).copy_(packed)
