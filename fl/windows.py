"""Sums over the past of a row's own group, with no look ahead: sorted groups, prefix sums, binary search.

For a row at time t a window is an interval of time that ends at or before t. The rows of a group are
contiguous after one stable sort, so a window is a range of positions, found by binary search, and a sum over
it is a difference of prefix sums: O(n log n) per window and no Python loop.

Leaves to others: which windows mean something (`features`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class GroupWindows:
    """Windows that end at some rows ("asked") of a time-ordered table whose rows are sorted by group.

    All methods speak of sorted positions, and of the asked rows in that order: ascending binary searches
    stay in cache. `in_asked_order` undoes it at the end.

    Times enter as ranks among the distinct times: group * ranks + rank fits 64 bits for every table that
    fits memory, where group * microseconds does not.
    """

    order: Positions = field(repr=False)  # table position of each sorted position
    group: NDArray[np.int64] = field(repr=False)  # of each sorted position, ascending
    key: NDArray[np.int64] = field(repr=False)  # group and rank of time of each sorted position, ascending
    moments: NDArray[np.int64] = field(repr=False)  # distinct times, ascending
    at: Positions = field(repr=False)  # sorted positions of the asked rows, ascending
    time: NDArray[np.int64] = field(repr=False)  # of the asked rows
    first: Positions = field(repr=False)  # where each asked row's group begins
    asked_order: Positions = field(repr=False)  # place of each asked row among the sorted ones

    @staticmethod
    def of(group: NDArray[np.int64], time: NDArray[np.int64], rows: Positions) -> GroupWindows:
        """Sort a table (`group`: int64[n] >= 0, `time`: int64[n] ascending); ask about its positions `rows`.

        Rows of equal group and time keep their order.
        """
        order = np.argsort(group, kind="stable")
        sorted_position = np.empty_like(order)
        sorted_position[order] = np.arange(len(order))
        begins_moment = np.concatenate(([True], np.diff(time) > 0))[: len(time)]
        moments = time[begins_moment]
        sorted_group = group[order]
        key = sorted_group * (len(moments) + 1) + (np.cumsum(begins_moment) - 1)[order]
        asked = sorted_position[rows]
        by_position = np.argsort(asked, kind="stable")
        asked_order = np.empty_like(by_position)
        asked_order[by_position] = np.arange(len(rows))
        at = asked[by_position]
        return GroupWindows(
            order=order,
            group=sorted_group,
            key=key,
            moments=moments,
            at=at,
            time=time[order[at]],
            first=np.searchsorted(sorted_group, sorted_group[at]),
            asked_order=asked_order,
        )

    def after(self) -> Positions:
        """The position just behind each asked row: a window that ends there ends with the row itself."""
        return self.at + 1

    def later_than(self, age: int, *, or_at: bool = False) -> Positions:
        """The first position of the group later than (`or_at`) `age` before the row."""
        moment = np.searchsorted(self.moments, self.time - age, side="left" if or_at else "right")
        return np.searchsorted(self.key, self.group[self.at] * (len(self.moments) + 1) + moment)

    def count(self, flags: NDArray[np.bool_], start: Positions, end: Positions) -> NDArray[np.int64]:
        """How many flagged rows (bool[n], table order) stand in each window; exact."""
        prefix = np.concatenate(([0], np.cumsum(flags[self.order], dtype=np.int64)))
        return prefix[end] - prefix[start]

    def running(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Prefix sums of `values` (float64[n], table order), for `total`.

        They run within a group, never across: otherwise one group's future would round another's past.
        """
        by_group = pd.Series(values[self.order]).groupby(self.group, sort=False)
        running: NDArray[np.float64] = by_group.cumsum().to_numpy(np.float64)
        return running

    def total(self, running: NDArray[np.float64], start: Positions, end: Positions) -> NDArray[np.float64]:
        """The sum of the values behind `running` in each window."""
        upto = np.where(end > self.first, running[end - 1], 0.0)
        return upto - np.where(start > self.first, running[start - 1], 0.0)

    def in_asked_order(self, columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """float64[asked rows, columns], in the order in which the rows were asked about."""
        return np.stack([column[self.asked_order] for column in columns], axis=1)
