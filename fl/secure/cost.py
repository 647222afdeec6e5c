"""The plan of an encrypted round and what it costs a bank, known from public figures before anyone trains.

What it does: `sealing_cost` prices an average, `cost_of_integers` an exact sum, and `most_bits` says how finely an
average can be quantised. Nothing here sees an update.

What it leaves to others: playing the rounds (`fl.secure.session`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import secagg
from fl.errors import AggregationError
from secagg.engines import resolve_engine
from secagg.errors import PlanError
from secagg.messages import Contribution, Join
from secagg.wire import message_bytes

FEWEST_BITS = 2  # of a quantised value
LARGEST_VALUE = 2**39 - 1  # of one bank in one lane of an encrypted sum of integers: 40 bits, the most of a plan


def plan_for(length: int, clients: int, clip: float, value_bits: int, max_weight: int = 1) -> secagg.RoundPlan:
    """The plan of a round; all arguments are public. Raises `secagg.errors.PlanError`."""
    return secagg.plan_round(
        length=length, max_clients=clients, clip=clip, value_bits=value_bits, max_weight=max_weight
    )


def most_bits(lengths: Iterable[int], clients: int, clip: float, value_bits: int, max_weight: int = 1) -> int | None:
    """The most bits, up to `value_bits`, at which averages of vectors of all `lengths` can be planned.

    None where not even those of the smallest number of bits can be.
    """
    sizes = set(lengths)
    for bits in range(value_bits, FEWEST_BITS - 1, -1):
        try:
            for length in sizes:
                plan_for(length, clients, clip, bits, max_weight)
        except PlanError:
            continue
        return bits
    return None


def require_engine(name: str) -> None:
    """Raise `secagg.errors.EngineUnavailable` where this machine does not have the engine `name`."""
    resolve_engine(name)


@dataclass(frozen=True)
class SealingCost:
    """The cost of an encrypted round for one bank.

    `blocks`: ciphertexts, of degree `degree`. `bytes_up`: sent. `chunk_bytes`: of the largest contribution at once.
    `block_bytes`: of one ciphertext in memory. `key_bytes`: of the offer's key.
    """

    blocks: int
    degree: int
    bytes_up: int
    chunk_bytes: int
    block_bytes: int
    key_bytes: int

    def payload_bytes(self, blocks: int) -> int:
        """Bytes needed to seal and frame a contribution: it, its frame, the key, and `blocks` blocks of scratch."""
        return 2 * self.chunk_bytes + self.key_bytes + blocks * self.block_bytes


@lru_cache(maxsize=1024)
def sealing_cost(
    length: int, *, clients: int, clip: float, value_bits: int, max_weight: int = 1, chunk: int | None = None
) -> SealingCost:
    """The cost of a round for `length` coordinates, at most `chunk` of them at once (all when None)."""
    sizes = chunk_sizes(length, chunk)
    by_size = {size: plan_for(size, clients, clip, value_bits, max_weight) for size in set(sizes)}
    plans = [by_size[size] for size in sizes]
    params = plans[0].params
    return SealingCost(
        blocks=sum(plan.blocks for plan in plans),
        degree=params.degree,
        bytes_up=sum(message_bytes(Join, plan) + message_bytes(Contribution, plan) for plan in plans),
        chunk_bytes=max(plan.residue_bytes for plan in plans),
        block_bytes=2 * len(params.primes) * params.degree * 4,
        key_bytes=2 * (len(params.primes) + 1) * params.degree * 8,
    )


def chunk_sizes(length: int, chunk: int | None) -> list[int]:
    """How `length` coordinates are divided: as few pieces of at most `chunk` as possible, of nearly equal size."""
    pieces = 1 if chunk is None else -(-length // chunk)
    return [length // pieces + (i < length % pieces) for i in range(pieces)]


def bits_for(largest: int) -> int:
    """The `value_bits` under which integers within +-`largest` are summed exactly. Raises `AggregationError`."""
    if not 0 < largest <= LARGEST_VALUE:
        raise AggregationError(
            f"largest: expected at most {LARGEST_VALUE} per bank, got {largest}: share shorter periods"
        )
    return max(math.ceil(math.log2(largest + 1)) + 1, 2)


def clip_for(bits: int) -> float:
    """The largest quantised value of so many bits: with it as the clip, the quantisation step is 1."""
    return 2.0 ** (bits - 1) - 1


def cost_of_integers(length: int, largest: int, clients: int) -> SealingCost:
    """The cost for one bank of an `encrypted_sum` of `length` integers of `clients` banks, without making it.

    Raises `AggregationError` where there can be no such sum.
    """
    bits = bits_for(largest)
    try:
        return sealing_cost(length, clients=clients, clip=clip_for(bits), value_bits=bits)
    except PlanError as fault:
        raise AggregationError(
            f"an encrypted sum of {length:,} integers up to {largest:,} from {clients} banks cannot be made: {fault}"
        ) from fault
