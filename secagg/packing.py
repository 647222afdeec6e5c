"""Turns an update into exact integers in lanes of ring coefficients, and exact integer sums back into an average.

Encoding is not encryption (as in python-paillier): nothing here is secret-dependent beyond the caller's own update,
and the law is  decode(sum of encode(u_i, w_i)) = (sum of w_i * quantise(u_i), sum of w_i),  exactly, for any updates
and weights that the plan admits.  Value i stands in block i // (lanes * N), lane (i // N) % lanes, coefficient i % N;
the value after the update's last one is the client's weight; what follows is zero and must be zero in the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secagg import kernels
from secagg.arrays import F64, I64, U8, U32, U64, Extremes, Inverse, Lanes
from secagg.counts import count
from secagg.errors import (
    MalformedMessage,
    PlanError,
    SumRefused,
    UpdateLengthMismatch,
    UpdateNotFinite,
    UpdateTypeUnsupported,
    WeightOutOfRange,
    WrongState,
)
from secagg.plan import RoundPlan
from secagg.ring import ring_of
from secagg.workers import Workers

_SCAN = 1 << 20  # values checked at once
SCAN = 1 << 16  # values quantised at once outside the encoder: they fit the cache


def check_update(update: NDArray[np.floating], plan: RoundPlan) -> None:
    """Refuse what cannot be encoded: float32 or float64, shape (plan.length,), no NaN, no infinity.

    Subclasses of numpy's array are refused, because their checks may not see their memory (a masked array hides a NaN
    that would be encrypted). Raises `UpdateTypeUnsupported`, `UpdateLengthMismatch` or `UpdateNotFinite`.
    """
    if isinstance(update, np.ndarray) and type(update) is not np.ndarray:
        raise UpdateTypeUnsupported(
            f"update: expected a plain numpy array, got a {type(update).__name__}; pass numpy.asarray(update), or for "
            "a masked array update.filled(value)"
        )
    if not isinstance(update, np.ndarray) or update.dtype not in (np.float32, np.float64) or update.ndim != 1:
        got = f"{update.dtype} {update.shape}" if isinstance(update, np.ndarray) else type(update).__name__
        raise UpdateTypeUnsupported(f"update: expected a float32 or float64 array of shape ({plan.length},), got {got}")
    if update.shape[0] != plan.length:
        raise UpdateLengthMismatch(
            f"update: expected {plan.length} values, got {update.shape[0]}; plan the round for this length"
        )
    for start in range(0, plan.length, _SCAN):
        finite = np.isfinite(update[start : start + _SCAN])
        if not finite.all():
            position = start + int(np.argmin(finite))
            raise UpdateNotFinite(f"update: value {position} is NaN or infinite; drop this update or correct training")


def check_weight(weight: int, plan: RoundPlan) -> int:
    """The weight as a Python integer. Refuses all but integers in 1..plan.max_weight with `WeightOutOfRange`."""
    return count("weight", weight, 1, plan.max_weight, WeightOutOfRange)


class Encoder:
    """Encodes one client's update block by block; `clipped` counts the values outside [-clip, clip] so far.

    Lanes that fit 62 bits together are joined in one int64 first, so that each row of `_rows` is reduced modulo every
    prime once rather than once per lane. checked: the caller's own update, which `check_update` has already seen.
    """

    def __init__(self, update: NDArray[np.floating], weight: int, plan: RoundPlan, *, checked: bool = False) -> None:
        if not checked:
            check_update(update, plan)
        self._update = update
        self._weight = check_weight(weight, plan)
        self._plan = plan
        self._joined = lanes_per_row(plan)
        self._factors = lane_factors(plan)[:, :: self._joined].copy()
        self._primes = ring_of(plan.params).primes
        self.clipped = 0

    def blocks(self) -> Iterator[U32]:
        """Per block uint32[primes, N]: the plaintext's coefficients modulo each prime. The array is reused."""
        self.clipped = 0
        residues = np.empty((1, self._primes.shape[0], self._plan.params.degree), dtype=np.uint32)
        for block in range(self._plan.blocks):
            self.pack(block, residues, Workers(1))
            yield residues[0]

    def pack(self, first: int, out: U32, workers: Workers) -> None:
        """Write the coefficients of several blocks, from number `first` on, to uint32[blocks, primes, N].

        Threads share the blocks. Counts what is clipped in them, each time.
        """
        clipped = [0] * out.shape[0]

        def some_blocks(start: int, stop: int) -> None:
            rows = np.empty((self._factors.shape[1], self._plan.params.degree), dtype=np.int64)
            for place in range(start, stop):
                clipped[place] = self._fill(first + place, rows)
                kernels.pack_lanes(rows, self._factors, self._primes, out[place])

        workers.over(out.shape[0], some_blocks)
        self.clipped += sum(clipped)

    def _fill(self, block: int, rows: I64) -> int:
        """Quantise the lanes of a block, each times its place within its row; returns how many values are clipped."""
        plan, degree = self._plan, self._plan.params.degree
        inverse_step, clipped = 1.0 / plan.step, 0
        for row in range(rows.shape[0]):
            rows[row] = 0
            lanes = range(row * self._joined, min((row + 1) * self._joined, plan.lanes))
            for place, lane in enumerate(lanes):
                factor = plan.radix**place
                start = block * plan.values_per_block + lane * degree
                values = self._update[start : max(min(start + degree, plan.length), start)]
                clipped += kernels.quantise_onto(
                    values, plan.clip, inverse_step, self._weight * factor, rows[row, : values.shape[0]]
                )
                if start <= plan.length < start + degree:
                    rows[row, plan.length - start] += self._weight * factor
        return clipped


def quantised(update: NDArray[np.floating], plan: RoundPlan) -> Iterator[I64]:
    """The integers that `Encoder` encrypts, before the weight, `SCAN` at a time. The array is reused."""
    room = np.empty(min(SCAN, plan.length), dtype=np.int64)
    inverse_step = 1.0 / plan.step
    for start in range(0, plan.length, SCAN):
        values = update[start : start + SCAN]
        integers = room[: values.shape[0]]
        integers[:] = 0
        kernels.quantise_onto(values, plan.clip, inverse_step, 1, integers)
        yield integers


@dataclass(frozen=True, repr=False, eq=False)
class IntegerSums:
    """The exact sums of a round. sums: int64[length], of w * quantised update; total_weight: sum of w."""

    sums: I64
    total_weight: int


class Decoder:
    """Collects decrypted blocks into exact sums and checks every digit of every coefficient.

    The key holder makes these checks before it releases a sum: the noise of each coefficient within the bound for
    `clients` contributions, headroom and unused lanes zero, every lane within +-(sum of weights * max_value), the sum
    of weights in clients..clients * max_weight.  They are all carried out before `sums()` gives one verdict.  Noise
    that passes fills less than half of its digit: what was added to a sum then moves its lanes alike, whatever the
    noise is (docs/parameters.md, "What a release may carry").

    clients: how many contributions the sum holds, 1..plan.max_clients; `PlanError` otherwise.
    """

    def __init__(self, plan: RoundPlan, clients: int) -> None:
        if not 1 <= clients <= plan.max_clients:
            raise PlanError(f"clients: expected 1..{plan.max_clients}, got {clients}; plan for more max_clients")
        self._plan = plan
        self._clients = clients
        self._ring = ring_of(plan.params)
        self._lanes = lanes_of(plan)
        self._sums = np.empty(plan.length, dtype=np.int64)
        self._total_weight = 0
        self._highest = self._lowest = 0  # of all sums so far
        self._sound = True
        self._next = 0
        self.largest_noise = 0

    def add(self, block: int, residues: U32, workers: Workers | None = None) -> None:
        """Take block number `block`: uint32[primes, N], coefficients modulo each prime.

        Blocks come in order, each once; raises `WrongState` otherwise.
        """
        self.add_blocks(block, residues[None], workers)

    def add_blocks(self, first_block: int, residues: U32, workers: Workers | None = None) -> None:
        """As `add`, of several blocks: uint32[blocks, primes, N], from number `first_block` on."""
        degree = self._plan.params.degree
        rooms = [self._room(first_block + index) for index in range(residues.shape[0])]
        found: list[list[Extremes]] = [[] for _ in rooms]

        def some_columns(first: int, last: int) -> None:
            for index in range(first // degree, -(-last // degree)):
                start, stop = max(first - index * degree, 0), min(last - index * degree, degree)
                sums, rest = rooms[index]
                found[index].append(kernels.unpack_sums(residues[index], self._lanes, sums, rest, start, stop))

        (workers or Workers(1)).over(residues.shape[0] * degree, some_columns)
        for index, (_, rest) in enumerate(rooms):
            self._take(first_block + index, rest, found[index])

    def add_transformed(self, block: int, residues: U64, workers: Workers | None = None) -> None:
        """As `add`, from uint64[primes, N] in SEAL's transformed order.

        Without `workers`, one compiled call that needs no interpreter, for a thread beside one that holds it.
        """
        ring = self._ring
        if workers is not None and workers.threads > 1:
            narrow = np.empty(residues.shape, dtype=np.uint32)

            def some_primes(start: int, stop: int) -> None:
                narrow[start:stop] = residues[start:stop]
                ring.from_ntt(narrow[start:stop], slice(start, stop))

            workers.over(residues.shape[0], some_primes)
            self.add(block, narrow, workers)
            return
        sums, rest = self._room(block)
        found = kernels.unpack_transformed(
            residues,
            Inverse(ring.inverse_roots, ring.inverse_root_quotients, ring.inverse_degree),
            self._lanes,
            sums,
            rest,
        )
        self._take(block, rest, [found])

    def add_values(self, block: int, values: I64, found: Extremes) -> None:
        """As `add`, for blocks that were unpacked elsewhere: int64[blocks, lanes * N], from number `block` on.

        found: the extremes of all of them, `highest` and `lowest` over the values of the update alone.
        """
        for number, row in enumerate(values, block):
            sums, rest = self._room(number)
            sums[:], rest[:] = row[: sums.shape[0]], row[sums.shape[0] :]
            self._take(number, rest, [found])

    def _room(self, block: int) -> tuple[I64, I64]:
        """The arrays for the values of the next block: those of the update, and those behind its last value."""
        if block != self._next or block == self._plan.blocks:
            raise WrongState(f"block: expected number {self._next} of {self._plan.blocks}, counted from 0, got {block}")
        self._next += 1
        start, size = block * self._plan.values_per_block, self._plan.values_per_block
        sums = self._sums[start : start + size]
        return sums, np.empty(size - sums.shape[0], dtype=np.int64)

    def _take(self, block: int, rest: I64, parts: list[Extremes]) -> None:
        """Check the values of a block. rest: the values behind the update's last one, the sum of weights first."""
        plan = self._plan
        noise = max(part.noise for part in parts)
        self.largest_noise = max(self.largest_noise, noise)
        self._sound &= noise <= plan.noise_limit(self._clients) and not any(part.above for part in parts)
        self._highest = max(self._highest, *(part.highest for part in parts))
        self._lowest = min(self._lowest, *(part.lowest for part in parts))
        if 0 <= plan.length - block * plan.values_per_block < plan.values_per_block:
            self._total_weight, rest = int(rest[0]), rest[1:]
        self._sound &= not rest.any()

    def sums(self) -> IntegerSums:
        """The sums, if all blocks passed their checks.

        Raises `SumRefused`, which by design does not say which check failed, or `WrongState` while blocks are missing.
        """
        plan = self._plan
        if self._next != plan.blocks:
            raise WrongState(f"expected {plan.blocks} blocks before `sums` is called, got {self._next}: add the others")
        limit = self._total_weight * plan.max_value
        sound = self._sound
        sound &= self._clients <= self._total_weight <= self._clients * plan.max_weight
        sound &= self._highest <= limit and self._lowest >= -limit
        if not sound:
            raise SumRefused("refused")
        return IntegerSums(self._sums, self._total_weight)


def lanes_of(plan: RoundPlan) -> Lanes:
    """The constants with which a coefficient of a sum under `plan` comes apart into noise and lanes."""
    ring = ring_of(plan.params)
    offset = (plan.span * plan.radix**plan.lanes - 1) // 2
    return Lanes(
        ring.primes,
        ring.garner_inverses,
        np.array([offset % p for p in plan.params.primes], dtype=np.uint32),
        np.array([plan.span] + [plan.radix] * plan.lanes, dtype=np.int64),
        (plan.span - 1) // 2,
        plan.max_lane,
    )


def digits_of(residues: U32, plan: RoundPlan) -> tuple[I64, U8]:
    """A block's coefficients, uint32[primes, N], as integers, unchecked; for attacks, see `Decoder`.

    Returns int64[1 + lanes, N], the noise and the lanes, and uint8[N], 1 where something is left above the top lane.
    """
    lanes = lanes_of(plan)
    digits = np.empty((plan.lanes + 1, residues.shape[1]), dtype=np.int64)
    left = kernels.unpack_lanes(residues, lanes.primes, lanes.inverses, lanes.offsets, lanes.divisors, digits)
    digits[0] -= lanes.noise_centre
    digits[1:] -= lanes.max_lane
    return digits, left


def checked_average(sums: IntegerSums, plan: RoundPlan, contributors: int) -> F64:
    """`average` of released sums that `contributors` clients can have, in one pass. Raises `MalformedMessage`."""
    weight = sums.total_weight
    limit = weight * plan.max_value
    if sums.sums.shape != (plan.length,) or not 0 < contributors <= weight <= contributors * plan.max_weight:
        raise MalformedMessage("released sums: this round cannot have their shape or their sum of weights: refuse them")
    result = np.empty(plan.length, dtype=np.float64)
    highest, lowest = kernels.scale_sums(sums.sums, plan.step / weight, result)
    if highest > limit or lowest < -limit:
        raise MalformedMessage("released sums: a value is larger than the sum of weights allows: refuse them")
    return result


def lanes_per_row(plan: RoundPlan) -> int:
    """How many neighbouring lanes of one client fit one int64 and leave one bit unused."""
    return max(1, min(plan.lanes, int(62 // math.log2(plan.radix))))


@lru_cache(maxsize=32)
def lane_factors(plan: RoundPlan) -> U32:
    """uint32[primes, lanes]: the place value span * radix**lane modulo each prime. Read-only; made once for a plan."""
    factors = np.array(
        [[plan.span * pow(plan.radix, lane, p) % p for lane in range(plan.lanes)] for p in plan.params.primes],
        dtype=np.uint32,
    )
    factors.setflags(write=False)
    return factors


def average(sums: IntegerSums, plan: RoundPlan) -> F64:
    """float64[length]: the weighted mean of the quantised updates, in the unit of the update."""
    result: F64 = np.multiply(sums.sums, plan.step / sums.total_weight, dtype=np.float64)
    return result


def error_bound(plan: RoundPlan) -> float:
    """Bound of |average - exact weighted mean of the clipped updates| for any weights.

    Each quantised value is within half a step of its clipped value, weights multiply both alike, and the division by
    the sum of weights takes them away again: the bound of the unweighted mean holds for every weighting.
    """
    return plan.max_error
