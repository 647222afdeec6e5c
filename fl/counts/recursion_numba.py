"""The loop over days compiled by numba (extra `fast`): the same as `recursion_numpy.py`, bit for bit.

A few slots are carried at a time, so that their states stay in the first-level cache, and each state is read and
written once a day: the factor of one day's evidence is applied while the next day's ages are shifted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fl.counts.layout import Days, Floats, Transitions
from secagg.compiled import compiled

TILE = 64  # slots: 50 ages of them are 25 KiB


def advance(chain: Transitions, days: Days, predicted: Floats, totals: Floats) -> None:
    """As `fl.counts.recursion.Recursion` says."""
    sizes = np.array([each.size for each in days.ratio], np.int64)
    codes = np.array([each.shape[1] for each in days.ratio], np.int64)
    lengths = np.array([len(each) - 1 for each in days.ratio], np.int64)
    starts = np.cumsum(sizes) - sizes
    flat = np.concatenate([np.ascontiguousarray(each).reshape(-1) for each in days.ratio] or [np.empty(0)])
    own = np.empty((0, 0)) if days.own is None else np.ascontiguousarray(days.own)
    _advance(
        (chain.onset, chain.clean, chain.later_clean),
        chain.ends,
        chain.age,
        chain.later_age,
        days.elapsed,
        days.closes,
        starts[days.kind],
        codes[days.kind],
        lengths[days.kind],
        flat,
        np.ascontiguousarray(days.code),
        days.own is not None,
        own,
        days.wanted,
        days.longest,
        predicted,
        totals,
    )


@compiled(error_model="numpy")
def _advance(
    rates: Any,
    ends: Any,
    first_age: Any,
    later_age: Any,
    elapsed: Any,
    closes: Any,
    start: Any,
    codes: Any,
    length: Any,
    ratio: Any,
    code: Any,
    has_own: Any,
    own: Any,
    wanted: Any,
    longest: Any,
    predicted: Any,
    totals: Any,
) -> None:
    onset, first_clean, later_clean = rates
    ages, slots = len(ends), predicted.shape[1]
    age = np.empty((ages, TILE))
    clean = np.empty((longest + 1, TILE))
    ended = np.empty((longest + 1, TILE))
    carried, times, scale = np.empty(TILE), np.empty(TILE), np.ones((2, TILE))
    young, old, all_clean = np.empty(TILE), np.empty((2, TILE)), np.empty(TILE)
    stay = 1.0 - ends
    for left in range(0, slots, TILE):
        width = min(TILE, slots - left)
        age[:] = 0.0
        for a in range(ages):
            age[a, :width] = first_age[a]
        clean[:] = 0.0
        clean[0, :width] = first_clean
        scale[1] = 1.0
        scaled_from = ages  # ages from here on still have to be multiplied by `scale`
        row = 0
        for day in range(-1, len(elapsed)):
            if day >= 0:
                before = max(elapsed[day] - 1, 0)
                block = closes[day]
                filled = length[block] - 1 if block >= 0 else 0
                all_clean[:] = clean[0]
                for k in range(1, before + 1):
                    for s in range(TILE):
                        all_clean[s] += clean[k, s]
                for s in range(TILE):
                    carried[s] = onset * all_clean[s]
                # One day older, age after age.
                ended[: before + 1] = 0.0
                old[:] = 0.0
                for a in range(ages - 1):
                    bucket, end, remain = min(a + 1, before), ends[a], stay[a]
                    late, counted = int(a >= scaled_from), int(a >= filled)
                    for s in range(TILE):
                        now = age[a, s] * scale[late, s]
                        ended[bucket, s] += end * now
                        older = carried[s]
                        age[a, s] = older
                        old[counted, s] += older
                        carried[s] = now * remain
                a = ages - 1
                for s in range(TILE):
                    now = age[a, s] * scale[int(a >= scaled_from), s]
                    ended[before, s] += ends[a] * now
                    age[a, s] = carried[s] + now * stay[a]
                    old[1, s] += age[a, s]
                for k in range(before + 1):
                    for s in range(TILE):
                        clean[k, s] = clean[k, s] * (1.0 - onset) + ended[k, s]
                # What the day shows.
                scaled_from = ages
                if block >= 0:
                    at, number = start[block], codes[block]
                    for s in range(width):
                        value = code[block, left + s]
                        for a in range(filled):
                            age[a, s] *= ratio[at + (a + 1) * number + value]
                        if before > 0:
                            within = clean[1, s] * ratio[at + number + value]
                            for k in range(2, before + 1):
                                within += clean[k, s] * ratio[at + k * number + value]
                            clean[0, s] += within
                        times[s] = ratio[at + (filled + 1) * number + value]
                    clean[1 : before + 1] = 0.0
                    if has_own:
                        for s in range(width):
                            times[s] *= own[day, left + s]
                elif has_own:
                    for s in range(width):
                        times[s] = own[day, left + s]
                if block >= 0 or has_own:
                    if has_own:
                        for a in range(filled):
                            for s in range(width):
                                age[a, s] *= own[day, left + s]
                    young[:] = 0.0
                    for a in range(filled):
                        for s in range(width):
                            young[s] += age[a, s]
                    all_clean[:] = clean[0]
                    for k in range(1, before + 1):
                        for s in range(width):
                            all_clean[s] += clean[k, s]
                    for s in range(width):
                        total = all_clean[s] + young[s] + times[s] * old[1, s]
                        totals[day, left + s] = total
                        inverse = 1.0 / total
                        scale[1, s] = times[s] * inverse
                        young[s] = inverse
                    for a in range(filled):
                        for s in range(width):
                            age[a, s] *= young[s]
                    for k in range(before + 1):
                        for s in range(width):
                            clean[k, s] *= young[s]
                    scaled_from = filled
                else:
                    totals[day, left : left + width] = 1.0
            while row < len(wanted) and wanted[row] <= day:
                all_clean[:] = clean[0]
                for k in range(1, longest + 1):
                    for s in range(width):
                        all_clean[s] += clean[k, s]
                old[:] = 0.0
                for a in range(ages):
                    for s in range(width):
                        now = age[a, s] * scale[int(a >= scaled_from), s]
                        old[1, s] += later_age[a] * now
                for s in range(width):
                    predicted[row, left + s] = later_clean * all_clean[s] + old[1, s]
                row += 1
