"""What a customer has paid before: number, mean and spread of the amounts of earlier rows, without a window.

What it does: `before_rows` gives, for every asked row, the moments of its customer's amounts in the rows before it.
`AmountMoments` keeps the moments of rows that a stream no longer holds, three numbers a customer.

Moments of two parts of a history make those of the whole by the pairwise update of Chan, Golub and LeVeque, "Algorithms
for Computing the Sample Variance" (The American Statistician, 1983), equation 2.1. Within a table, amounts are counted
from the customer's first one there, so that a variance is not the small difference of two large squares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.data.reading import Transactions
from fl.data.windows import GroupWindows, Positions

LARGEST = 1e15  # amounts beyond it, in the column's currency, count as it: their squares must stay finite

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """`count`: float64[n], of amounts; `mean`: float64[n]; `deviations`: float64[n], sum of squares about the mean.

    0 in all three where there is no amount.
    """

    count: Floats = field(repr=False)
    mean: Floats = field(repr=False)
    deviations: Floats = field(repr=False)

    def together(self, other: Moments) -> Moments:
        """Of the amounts of both, element by element."""
        count = self.count + other.count
        some = np.maximum(count, 1.0)
        apart = other.mean - self.mean
        return Moments(
            count,
            (self.count * self.mean + other.count * other.mean) / some,
            self.deviations + other.deviations + apart**2 * self.count * other.count / some,
        )

    def at(self, positions: NDArray[np.int64]) -> Moments:
        return Moments(self.count[positions], self.mean[positions], self.deviations[positions])


@dataclass(frozen=True)
class AmountMoments:
    """Moments of the amounts of earlier rows by customer. `place`: where each customer stands in `moments`."""

    place: dict[str, int] = field(default_factory=dict, repr=False)
    moments: Moments = field(default_factory=lambda: _none(0), repr=False)

    def of(self, customers: NDArray[np.object_]) -> Moments:
        """Of these customers, object[n]; of one who is not known, those of no amount."""
        known = _joined(self.moments, _none(1))  # the last place is nobody's
        nobody = len(self.place)
        return known.at(np.array([self.place.get(str(name), nobody) for name in customers], np.int64))

    def with_rows(self, table: Transactions) -> AmountMoments:
        """With the amounts of `table`'s rows too, which come after all those that are in it."""
        if len(table) == 0:
            return self
        assert table.customer is not None
        used, last = np.unique(table.customer.code[::-1], return_index=True)  # a customer's last row
        customers = table.customer.ids[used]
        moments = before_rows(table, len(table) - 1 - last.astype(np.int64), self, with_row=True)
        place = dict(self.place)
        for name in customers:
            place.setdefault(str(name), len(place))
        at = np.array([place[str(name)] for name in customers], np.int64)
        whole = _joined(self.moments, _none(len(place) - len(self.place)))
        for kept, new in (
            (whole.count, moments.count),
            (whole.mean, moments.mean),
            (whole.deviations, moments.deviations),
        ):
            kept[at] = new
        return AmountMoments(place, whole)


def before_rows(
    table: Transactions, rows: Positions, earlier: AmountMoments | None = None, *, with_row: bool = False
) -> Moments:
    """Of each of `rows` (int64[m], positions in `table`): moments of its customer's amounts before it.

    Those are `earlier`, of rows before the table, and the table's rows above it. `with_row`: and its own.
    """
    assert table.customer is not None and table.time is not None and table.amount is not None
    windows = GroupWindows.of(table.customer.code, table.time, rows)
    amount = np.clip(table.amount, -LARGEST, LARGEST)[windows.order]
    start, end = windows.first, windows.after() if with_row else windows.at
    count = end - start
    filled = np.where(count > 0, end, end + 1)  # a mean of no row is not asked for, and not used
    origin = amount[np.searchsorted(windows.group, windows.group)]  # the customer's first amount in the table
    apart = np.empty_like(amount)
    apart[windows.order] = amount - origin
    ((mean,), (square,)) = (windows.means(values, [start], filled) for values in (apart, apart**2))
    some = count > 0
    mean, variance = np.where(some, mean, 0.0), np.where(some, np.maximum(square - mean**2, 0.0), 0.0)
    columns = [count.astype(np.float64), np.where(some, mean + origin[windows.at], 0.0), variance * count]
    within = Moments(*windows.in_asked_order(columns).T)
    if earlier is None:
        return within
    customers = earlier.of(table.customer.ids)
    return customers.at(table.customer.code[rows]).together(within)


def _none(count: int) -> Moments:
    return Moments(np.zeros(count), np.zeros(count), np.zeros(count))


def _joined(first: Moments, then: Moments) -> Moments:
    return Moments(
        np.concatenate([first.count, then.count]),
        np.concatenate([first.mean, then.mean]),
        np.concatenate([first.deviations, then.deviations]),
    )
