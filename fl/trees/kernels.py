"""The loops over rows, compiled by numba (extra `trees`): histograms of integers, and the way of rows down a tree.

Everything here is integer arithmetic, so that no order of additions matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.trees.compiled import jit

Integers = NDArray[np.int64]
# The column that a node splits by or -1, its left child, and by code whether a row goes right: bool[nodes, codes]
Routes = tuple[Integers, Integers, NDArray[np.bool_]]


def positions(codes: NDArray[np.uint16], column: Integers, left: Integers, goes_right: NDArray[np.bool_]) -> Integers:
    """int64[n]: the node without a split at which each coded row ends."""
    ends: Integers = _positions(codes, column, left, goes_right)
    return ends


def histograms(
    codes: NDArray[np.uint16],
    slots: Integers,
    gradients: Integers,
    hessians: Integers,
    columns: Integers,
    starts: Integers,
    shape: tuple[int, int],
) -> Integers:
    """int64[slots, cells, 3]: sums of gradients, of hessians, and rows, by slot and by cell.

    `slots`: int64[n], of each row; negative: the row is not counted. `columns`: that are counted. `starts`: the first
    cell of each of them. `shape`: slots and cells.
    """
    sums = np.zeros((*shape, 3), np.int64)
    _add(codes, slots, gradients, hessians, columns, starts, sums)
    return sums


@jit
def _positions(codes: Any, column: Any, left: Any, goes_right: Any) -> Any:
    ends = np.zeros(codes.shape[0], np.int64)
    for row in range(codes.shape[0]):
        node = 0
        while column[node] >= 0:
            right = goes_right[node, codes[row, column[node]]]
            node = left[node] + (1 if right else 0)
        ends[row] = node
    return ends


@jit
def _add(codes: Any, slots: Any, gradients: Any, hessians: Any, columns: Any, starts: Any, sums: Any) -> None:
    for row in range(codes.shape[0]):
        slot = slots[row]
        if slot < 0:
            continue
        gradient, hessian = gradients[row], hessians[row]
        for place in range(columns.shape[0]):
            cell = starts[place] + codes[row, columns[place]]
            sums[slot, cell, 0] += gradient
            sums[slot, cell, 1] += hessian
            sums[slot, cell, 2] += 1
