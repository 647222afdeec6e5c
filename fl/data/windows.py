"""Compute counts and means over windows of the past of a row's group, by sorting groups and binary search.

For a row at time t a window is an interval of time that ends at or before t. The rows of a group are
contiguous after one stable sort, so a window is a range of positions, found by binary search: O(n log n) per
window and no Python loop over rows. A count is a difference of prefix sums, which is exact in integers. A mean
would not be exact: it would keep the rounding or overflow of prefix sums from before the window. A mean
adds sums of 1, 2, 4, ... rows that lie within the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

ROOM = 2.0**-40  # factor of all values, so that no sum of fewer than 2**40 of them overflows


@dataclass(frozen=True)
class GroupWindows:
    """Windows that end at some rows ("asked") of a time-ordered table whose rows are sorted by group.

    All methods use sorted positions, and the asked rows in that order, because ascending binary searches
    stay in cache. `in_asked_order` restores the order of the question.

    Times are ranks among the distinct times: group * ranks + rank fits 64 bits for every table that fits
    memory, and group * microseconds does not.
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
        """The position after each asked row: a window that ends there includes the row."""
        return self.at + 1

    def later_than(self, age: int, *, or_at: bool = False) -> Positions:
        """The first position of the group later than (`or_at`) `age` before the row."""
        moment = np.searchsorted(self.moments, self.time - age, side="left" if or_at else "right")
        return np.searchsorted(self.key, self.group[self.at] * (len(self.moments) + 1) + moment)

    def count(self, flags: NDArray[np.bool_], start: Positions, end: Positions) -> NDArray[np.int64]:
        """The exact number of flagged rows (bool[n], table order) in each window."""
        prefix = np.concatenate(([0], np.cumsum(flags[self.order], dtype=np.int64)))
        return prefix[end] - prefix[start]

    def means(
        self, values: NDArray[np.float64], starts: Sequence[Positions], end: Positions
    ) -> list[NDArray[np.float64]]:
        """The mean of `values` (float64[n], table order, finite) in each window, for each of `starts`.

        No window is empty.

        Within 2 log2(count) * 2**-53 * the mean of the absolute values in the window (values below 2**-980 aside),
        never infinite, and a function of the window's own values alone.
        """
        block = values[self.order] * ROOM  # the sum of the `length` rows that end at each position
        counts = [end - start for start in starts]
        sums = [np.zeros(len(end)) for _ in starts]
        last = [end - 1 for _ in starts]
        longest = max((int(count.max(initial=0)) for count in counts), default=0)
        length = 1
        while length <= longest:
            for count, total, upto in zip(counts, sums, last, strict=True):
                taken = np.flatnonzero(count & length)
                total[taken] += block[upto[taken]]
                upto[taken] -= length
            # No window uses a block that crosses the border of two groups.
            block[length:] = block[length:] + block[:-length]
            length *= 2
        most = np.finfo(np.float64).max
        with np.errstate(over="ignore"):  # the mean of the largest numbers may round to infinity
            return [np.clip(total / count / ROOM, -most, most) for total, count in zip(sums, counts, strict=True)]

    def in_asked_order(self, columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """float64[asked rows, columns], in the order in which the rows were asked about."""
        return np.stack([column[self.asked_order] for column in columns], axis=1)
