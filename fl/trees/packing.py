"""Fields of different widths in one row of bits, cut into integers of equal size, and their sum taken apart again.

A field is as wide as the sum over all banks needs. Then the sum of the rows of bits, as large numbers, is the row of
bits of the sums, and where it is cut does not matter: what a cut integer's sum carries belongs to the next one.
So a small node's fields are narrow, whatever width the encrypted sum was planned for. A field has at most 62 bits and a
cut integer at most 40.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl.errors import AggregationError
from fl.trees import kernels

Integers = NDArray[np.int64]


def packed_length(widths: Integers, cut: int) -> int:
    """How many integers of `cut` bits the fields need."""
    return -(-int(widths.sum()) // cut)


def pack(values: Integers, widths: Integers, cut: int) -> Integers:
    """int64[packed_length]: `values`, each at least 0 and of at most its width in bits, in integers below 2^cut.

    Raises `AggregationError` for a value that does not fit its field.
    """
    if values.shape != widths.shape or (values < 0).any() or (values >> widths).any():
        raise AggregationError(f"expected {len(widths)} values that fit their fields, got others")
    packed = np.zeros(packed_length(widths, cut), np.int64)
    kernels.join_fields(values, widths, cut, packed)
    return packed


def unpack(sums: Integers, widths: Integers, cut: int) -> Integers:
    """int64[fields]: the sums of the fields, from the sums of the packed integers.

    Raises `AggregationError` for sums that no rows of these fields have.
    """
    if sums.shape != (packed_length(widths, cut),) or (sums < 0).any():
        raise AggregationError(f"expected {packed_length(widths, cut)} sums of packed integers, got others")
    values = np.zeros_like(widths)
    if kernels.part_fields(sums, widths, cut, values):
        raise AggregationError("the sum of packed integers is too large for its fields: a bank sent other fields")
    return values
