"""The average of the banks' updates: encrypted through `secagg`, or in plain sight for comparison.

What it does: plans a round for a vector, aggregates, and says what that cost. The only module of `fl` that
imports `secagg`.

What it leaves to others: what the vector means (`fl.model`), applying the average (`fl.rounds`), every
promise about who learns what (`secagg`, docs/threat-model.md).

Plain aggregation clips each coordinate exactly as the encrypted one does, so that the two differ by
quantisation alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.errors import AggregationError

QUORUM = 3  # with two, each learns the other's update from the average

Update = NDArray[np.float32]


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
    result = secagg.run_round(
        updates, plan=plan, quorum=len(updates), engine=engine, model=bytes.fromhex(model_hash)
    )
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


def plain_average(updates: Sequence[Update], *, clip: float) -> Aggregate:
    """Average `updates` in plain sight: float64 mean of the updates clipped to [-clip, clip] per
    coordinate.
    """
    start = time.perf_counter()
    stacked = np.stack([np.asarray(update, dtype=np.float64) for update in updates])
    average = np.clip(stacked, -clip, clip).mean(axis=0)
    clipped = tuple(int(count) for count in (np.abs(stacked) > clip).sum(axis=1))
    return Aggregate(average, 0.0, clipped, {}, 0, 0, time.perf_counter() - start)
