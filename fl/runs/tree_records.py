"""The record of each sum of a training of trees: what it cost, and what its histograms tell.

A cell of a histogram is a bin or category of one column at one node. Where it holds a single row, the sum of gradients
in it is that row's own, and says whether it is a fraud. Sums over several banks do not say whose row it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.trees.progress import Progress

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Told:
    """`filled`: cells with at least one row of the nodes of a level; `single`: those with one row alone."""

    filled: int
    single: int


@dataclass(frozen=True)
class SumRecord:
    """Of one sum. `number`: from 1. `tree`, `level`: from 1 and 0; 0 and 0 of a sum that is no histogram.

    `values`: integers of each bank.
    """

    number: int
    kind: str
    tree: int
    level: int
    values: int
    told: Told
    seconds: float
    preparation: float
    banks_seconds: float
    bytes_up: int
    bytes_down: int
    stages: Mapping[str, float]
    members: int

    def as_json(self) -> dict[str, Any]:
        """This record as one line of metrics.jsonl, with the names that the records of rounds have."""
        return {
            "kind": self.kind,
            "tree": self.tree,
            "level": self.level,
            "values": self.values,
            "filled_cells": self.told.filled,
            "single_row_cells": self.told.single,
            "train_seconds": self.banks_seconds,
            "aggregate_seconds": self.seconds,
            "prepare_seconds": self.preparation,
            "stage_seconds": dict(self.stages),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "clipped": [],
            "error_bound": 0.0,
            "max_abs_error": 0.0,
            "left_out": [],
            "attempts": 1,
        }


def told_by(before: Progress, totals: Integers) -> Told:
    """What the sum `totals` tells about single rows, the histograms that follow by subtraction included."""
    growing = before.growing
    if growing is None:
        return Told(0, 0)
    cells = growing.cells.count
    values = totals[1:] if before.asks_for_loss else totals
    rows = list(values.reshape(len(growing.build), cells, 3)[:, :, 2])
    for place, summed in zip(growing.build, tuple(rows), strict=True):
        if growing.depth:
            rows.append(growing.histograms[growing.parents[place]][:, 2] - summed)
    held = np.stack(rows)
    return Told(int((held > 0).sum()), int((held == 1).sum()))


def told_in(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Over all trees, at the root and at the deepest level: the share of filled cells that hold one row.

    None before the first tree.
    """
    levels = [record for record in records if record["kind"] == "level"]
    if not levels:
        return None
    deepest = max(record["level"] for record in levels)

    def at(level: int) -> dict[str, Any]:
        chosen = [record for record in levels if record["level"] == level]
        filled = sum(record["filled_cells"] for record in chosen)
        single = sum(record["single_row_cells"] for record in chosen)
        return {"level": level, "cells": filled, "single": single, "share": single / filled if filled else 0.0}

    return {"root": at(0), "deepest": at(deepest)}
