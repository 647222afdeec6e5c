"""Counts and means over the past of a row's own group, with no look ahead: sorted groups, binary search.

For a row at time t a window is an interval of time that ends at or before t. The rows of a group are
contiguous after one stable sort, so a window is a range of positions, found by binary search: O(n log n) per
window and no Python loop over rows. A count is a difference of prefix sums, which is exact in integers. A mean
is not: what the prefix lost to rounding, or to an overflow, before the window began would stay lost. It adds
sums of 1, 2, 4, ... rows that lie within the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

ROOM = 2.0**-40  # values are summed times this, so that no sum of fewer than 2**40 of them overflows


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
            # Across the border of two groups a block means nothing, and no window asks for it.
            block[length:] = block[length:] + block[:-length]
            length *= 2
        most = np.finfo(np.float64).max
        with np.errstate(over="ignore"):  # the last bit of a mean of the largest numbers may round beyond them
            return [np.clip(total / count / ROOM, -most, most) for total, count in zip(sums, counts, strict=True)]

    def in_asked_order(self, columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """float64[asked rows, columns], in the order in which the rows were asked about."""
        return np.stack([column[self.asked_order] for column in columns], axis=1)
