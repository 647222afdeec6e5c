"""What the rounds of a run cost, from their records: aggregation beside training, and banks that exceeded a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl.rounds.limits import ResourceChoice
from fl.rounds.play import RoundRecord


def overhead(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cost of aggregation over all rounds and banks, without training."""
    train = sum(record["train_seconds"] for record in records)
    aggregate = sum(record["aggregate_seconds"] for record in records)
    stages: dict[str, float] = {}
    for record in records:
        for name, seconds in record["stage_seconds"].items():
            stages[name] = stages.get(name, 0.0) + seconds
    return {
        "encryption_share": aggregate / (train + aggregate) if records else 0.0,
        "bytes_up": sum(record["bytes_up"] for record in records),
        "bytes_down": sum(record["bytes_down"] for record in records),
        "seconds": {"training": train, "aggregation": aggregate, **stages},
        "preparation_seconds": sum(record.get("prepare_seconds", 0.0) for record in records),
        "max_abs_error": max((record["max_abs_error"] for record in records), default=0.0),
        "error_bound": max((record["error_bound"] for record in records), default=0.0),
        "clipped": sum(sum(record["clipped"]) for record in records),
        "attempts": sum(record["attempts"] for record in records),
        "left_out": sum(len(record["left_out"]) for record in records),
    }


def over_limits(choice: ResourceChoice, record: RoundRecord) -> tuple[str, ...]:
    """Banks whose time limit a round exceeded, measured on this machine and scaled by their speed."""
    sealing = sum(record.aggregate.stages.get(name, 0.0) for name in ("pack", "encrypt", "mask", "serialize"))
    late = []
    for bank in record.members:
        limit = choice.limits[bank]
        taken = (record.bank_seconds.get(bank, 0.0) + sealing / len(record.members)) / limit.speed
        if limit.seconds is not None and taken > limit.seconds:
            late.append(bank)
    return tuple(late)
