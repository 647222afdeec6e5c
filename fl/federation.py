"""What a federation of banks trains and is tested on: one frozen table of features per bank and period.

Leaves to others: reading files (`data`), computing features (`features`), choosing periods (`split`),
assigning rows to banks (`partition`), everything that learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.schema import Schema


@dataclass(frozen=True)
class Rows:
    """`n` transactions of one period as a model sees them. The repr shows sizes, never rows.

    `x`: float32[n, d], publicly scaled, within +-`schema.bound`; `y`: float32[n], 0 or 1; `day`:
    int32[n], days since 1970-01-01 (since 0 where the schema's time has no date, all 0 where it has no
    time); `customer`: int64[n], a code per customer, the same in all banks and periods of one load (the
    row's own index where the schema names no customer); `index`: int64[n], 0-based position of the
    transaction in its source, header not counted.
    """

    x: NDArray[np.float32] = field(repr=False)
    y: NDArray[np.float32] = field(repr=False)
    day: NDArray[np.int32] = field(repr=False)
    customer: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Rows(rows={len(self)}, features={self.x.shape[1]})"


@dataclass(frozen=True)
class BankData:
    """What one bank holds: `train`, `validation` (other customers, same days) and one `test` table per test
    window.
    """

    name: str
    train: Rows
    validation: Rows
    test: tuple[Rows, ...]


@dataclass(frozen=True)
class Federation:
    """All banks of one experiment. `description` holds counts and dates only, for the run's manifest."""

    banks: tuple[BankData, ...]
    feature_names: tuple[str, ...]
    schema: Schema
    description: dict[str, Any]
