"""The loops over rows and fields, compiled by numba (extra `trees`): histograms of integers, the way of rows down a
tree, and fields of bits in integers of equal size.

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


def join_fields(values: Integers, widths: Integers, cut: int, packed: Integers) -> None:
    """Write fields of these widths one after the other into `packed`, zeros before, `cut` bits of each integer."""
    _join_fields(values, widths, cut, packed)


def part_fields(sums: Integers, widths: Integers, cut: int, values: Integers) -> int:
    """Read the fields of a sum of packed integers into `values`. What an integer's sum carries belongs to the next.

    Returns what is left behind the last field: not 0 where the sums are too large for their fields.
    """
    return int(_part_fields(sums, widths, cut, values))


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


@jit
def _join_fields(values: Any, widths: Any, cut: Any, packed: Any) -> None:
    at, used = 0, 0  # the integer that is being filled, and its bits that are taken
    for field in range(values.shape[0]):
        left, wide = values[field], widths[field]
        while wide > 0:
            taken = min(wide, cut - used)
            packed[at] |= (left & ((np.int64(1) << taken) - 1)) << used
            left >>= taken
            wide -= taken
            used += taken
            if used == cut:
                at, used = at + 1, 0


@jit
def _part_fields(sums: Any, widths: Any, cut: Any, values: Any) -> Any:
    carry, held, bits, at = np.int64(0), np.int64(0), 0, 0  # `bits` of `held` are not yet read
    for field in range(values.shape[0]):
        wide, done = widths[field], 0
        while wide > 0:
            if bits == 0:
                whole = sums[at] + carry
                held, carry = whole & ((np.int64(1) << cut) - 1), whole >> cut
                bits, at = cut, at + 1
            taken = min(wide, bits)
            values[field] |= (held & ((np.int64(1) << taken) - 1)) << done
            held >>= taken
            bits -= taken
            done += taken
            wide -= taken
    return carry | held
