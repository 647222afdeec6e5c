"""Turn rows into small integers: the bin of each number, the category, or the code of what is missing.

Numbers are cast to float32 before they are compared with an edge, as XGBoost does, so that both put a row in the same
bin. The codes of a column with B bins or categories are 0 to B - 1, then B for a missing value, and B + 1 for a
category that the training did not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.trees.settings import Column

Values = NDArray[np.float32]
Codes = NDArray[np.uint16]

LARGEST = 2.0**127  # beyond it a split at the end of float32 could not tell a number from infinity


def checked_values(x: NDArray[np.floating], columns: Sequence[Column]) -> Values:
    """float32[n, columns] of `x`, NaN where a value is missing. Raises `TreesError` for what is no number or category.

    A category is an integer from 0; one that is not below `categories` is unknown.
    """
    if x.ndim != 2 or x.shape[1] != len(columns):
        raise TreesError(f"rows: expected {len(columns)} columns, got an array of shape {x.shape}")
    with np.errstate(over="ignore"):
        values: Values = x.astype(np.float32)
    for place, column in enumerate(columns):
        each = values[:, place]
        if (np.abs(each) >= LARGEST).any():
            raise TreesError(f"column {column.name!r}: expected numbers within +-2^127, got an infinite or larger one")
        if column.categories:
            present = each[~np.isnan(each)]
            if (present < 0).any() or (present != np.floor(present)).any() or (present >= 2**24).any():
                raise TreesError(
                    f"column {column.name!r}: expected categories as integers from 0, got another number: give each "
                    "word its number before"
                )
    return values


def require_known(values: Values, columns: Sequence[Column]) -> None:
    """Raise `TreesError` where a training row has a category that its column does not."""
    for place, column in enumerate(columns):
        if column.categories and (values[:, place] >= column.categories).any():
            raise TreesError(
                f"column {column.name!r}: expected categories below {column.categories}, got "
                f"{np.nanmax(values[:, place]):.0f}: give unknown words a category of their own before training"
            )


def codes_of(values: Values, columns: Sequence[Column], edges: Sequence[tuple[float, ...]]) -> Codes:
    """uint16[n, columns]: the codes of checked `values`, in C order. `edges`: by column; none of a categorical one."""
    codes = np.empty(values.shape, np.uint16)
    for place, column in enumerate(columns):
        each = values[:, place]
        missing = np.isnan(each)
        if column.categories:
            known = np.where(missing, 0, np.minimum(each, column.categories)).astype(np.int64)
            codes[:, place] = np.where(known < column.categories, known, column.categories + 1)
            codes[missing, place] = column.categories
        else:
            codes[:, place] = np.searchsorted(np.array(edges[place], np.float32), each, side="left")
            codes[missing, place] = len(edges[place]) + 1
    return codes
