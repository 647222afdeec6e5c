"""The average of the banks' updates, and exact sums of their integers: encrypted through `secagg`, or in plain
sight for comparison.

What it does: plans a round for a vector, aggregates, and says what that cost. The only module of `fl` that
imports `secagg`.

What it leaves to others: what the vector means (`fl.model`), applying the average (`fl.rounds`), every
promise about who learns what (`secagg`, docs/threat-model.md).

Plain aggregation clips each coordinate exactly as the encrypted one does, so that the two differ by
quantisation alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.errors import AggregationError

QUORUM = 3  # with two, each learns the other's update from the average

LARGEST_VALUE = 2**31 - 1  # of one bank in one lane of an encrypted sum of integers

Update = NDArray[np.float32]
Integers = NDArray[np.int64]
Draw = Callable[[int], Integers]  # banks in the closed roster -> a bank's integers, noise shares included


@dataclass(frozen=True)
class Aggregate:
    """The average of a round, float64[length], and what it cost.

    `error_bound`: |average - exact mean of the clipped updates| per coordinate. `clipped`: per bank, how
    many coordinates were clipped. `stages`: seconds by stage over all parties. `bytes_up`, `bytes_down`:
    all banks together; 0 in plain sight, where nothing is sent.
    """

    average: NDArray[np.float64] = field(repr=False)
    error_bound: float
    clipped: tuple[int, ...]
    stages: Mapping[str, float]
    bytes_up: int
    bytes_down: int
    seconds: float


def plan_for(length: int, clients: int, clip: float, value_bits: int) -> secagg.RoundPlan:
    """The plan of every round of a run; all arguments are public. Raises `secagg.errors.PlanError`."""
    return secagg.plan_round(length=length, max_clients=clients, clip=clip, value_bits=value_bits)


def encrypted_average(
    updates: Sequence[Update], *, plan: secagg.RoundPlan, model_hash: str, engine: str = "auto"
) -> Aggregate:
    """Average `updates` (one float32[plan.length] per bank, equal weights) without anyone seeing one of them.

    `model_hash`: of the model the updates refer to, 64 hexadecimal digits, bound into every contribution.
    All banks are needed: the quorum is their number. Raises `AggregationError` for fewer than three banks,
    `secagg.errors.SecAggError` otherwise.
    """
    if len(updates) < QUORUM:
        raise AggregationError(
            f"an encrypted average of {len(updates)} banks would show each the others' sum: at least "
            f"{QUORUM} are needed"
        )
    start = time.perf_counter()
    result = secagg.run_round(updates, plan=plan, quorum=len(updates), engine=engine, model=bytes.fromhex(model_hash))
    seconds = time.perf_counter() - start
    size = result.wire_bytes
    return Aggregate(
        average=result.average,
        error_bound=result.error_bound,
        clipped=result.clipped,
        stages={name: stage.seconds for name, stage in result.stages.items()},
        bytes_up=len(updates) * (size["join"] + size["contribution"]),
        bytes_down=len(updates) * (size["offer"] + size["roster"] + size["release"]),
        seconds=seconds,
    )


@dataclass(frozen=True)
class IntegerSum:
    """The exact sum of a round, int64[length], and what it cost; as in `Aggregate`."""

    totals: Integers = field(repr=False)
    bytes_up: int
    bytes_down: int
    seconds: float
    value_bits: int


def bits_for(largest: int) -> int:
    """The `value_bits` under which integers within +-`largest` are summed exactly. Raises `AggregationError`."""
    if not 0 < largest <= LARGEST_VALUE:
        raise AggregationError(
            f"an encrypted sum holds integers of up to {LARGEST_VALUE} per bank, got {largest}: share shorter periods"
        )
    return max(math.ceil(math.log2(largest + 1)) + 1, 2)


def encrypted_sum(
    draws: Sequence[Draw], *, length: int, largest: int, bound_to: bytes, engine: str = "auto"
) -> IntegerSum:
    """Sum one int64[length] per bank, |value| <= `largest`, without anyone seeing one of them.

    Every bank's `draws[i]` is called with the roster's size once the roster has closed, and its result enters
    that roster alone. `bound_to`: 32 bytes that name what is summed, bound into every contribution. The clip is
    the largest quantised value, so that the quantisation step is 1 and the sum exact. Raises `AggregationError`
    for fewer than three banks or integers beyond `largest`, `secagg.errors.SecAggError` otherwise.
    """
    if len(draws) < QUORUM:
        raise AggregationError(f"an encrypted sum needs at least {QUORUM} banks, got {len(draws)}")
    start, bits = time.perf_counter(), bits_for(largest)
    plan = secagg.plan_round(length=length, max_clients=len(draws), clip=2.0 ** (bits - 1) - 1, value_bits=bits)
    identities = [secagg.Identity.generate(f"bank {i}") for i in range(len(draws))]
    authority, server = secagg.Identity.generate("key holder"), secagg.Identity.generate("aggregator")
    enrolment = secagg.Enrolment.of(authority.member, server.member, tuple(i.member for i in identities))
    key_holder = secagg.KeyHolder(authority, enrolment, plan, len(draws))
    aggregator = secagg.Aggregator(server, enrolment, plan)
    banks = [secagg.Client(i, enrolment, plan, len(draws), engine=engine) for i in identities]

    offer = key_holder.open(step=1, model=bound_to)
    for bank in banks:
        key_holder.receive_join(bank.join(offer, bound_to))
    roster = key_holder.close_roster()
    aggregator.open(offer, roster)
    for bank, draw in zip(banks, draws, strict=True):
        values = draw(len(roster.entries))
        if values.shape != (length,) or int(np.abs(values).max(initial=0)) > largest:
            raise AggregationError(f"a bank's integers: expected shape ({length},) within +-{largest}, got others")
        aggregator.receive(bank.contribute(roster, values.astype(np.float64)))
    release = key_holder.release(aggregator.close())
    for bank in banks:
        bank.accept(release)
    return IntegerSum(
        release.sums,
        bytes_up=len(draws) * plan.residue_bytes,
        bytes_down=len(draws) * release.sums.nbytes,
        seconds=time.perf_counter() - start,
        value_bits=bits,
    )


def plain_average(updates: Sequence[Update], *, clip: float) -> Aggregate:
    """Average `updates` in plain sight: float64 mean of the updates clipped to [-clip, clip] per
    coordinate.
    """
    start = time.perf_counter()
    stacked = np.stack([np.asarray(update, dtype=np.float64) for update in updates])
    average = np.clip(stacked, -clip, clip).mean(axis=0)
    clipped = tuple(int(count) for count in (np.abs(stacked) > clip).sum(axis=1))
    return Aggregate(average, 0.0, clipped, {}, 0, 0, time.perf_counter() - start)
