"""The loop over days in numpy: the definition. `recursion_numba.py` computes the same, bit for bit.

Every sum over ages or over compromised days is taken one term after the other, so that both have one order of
operations, and the result of a slot does not depend on the slots beside it.
"""

from __future__ import annotations

import numpy as np

from fl.counts.layout import Days, Floats, Transitions


def advance(chain: Transitions, days: Days, predicted: Floats, totals: Floats) -> None:
    """As `fl.counts.recursion.Recursion` says."""
    if predicted.shape[1] == 1:  # numpy adds up a single column in pairs, and two columns row by row
        twice = Days(
            days.elapsed,
            days.closes,
            days.kind,
            np.repeat(days.code, 2, axis=1),
            days.ratio,
            None if days.own is None else np.repeat(days.own, 2, axis=1),
            days.wanted,
        )
        both = np.empty((len(predicted), 2)), np.empty((len(totals), 2))
        _advance(chain, twice, *both)
        predicted[:], totals[:] = both[0][:, :1], both[1][:, :1]
    else:
        _advance(chain, days, predicted, totals)


def _advance(chain: Transitions, days: Days, predicted: Floats, totals: Floats) -> None:
    width, ends = predicted.shape[1], chain.ends[:, None]
    stay = 1.0 - ends
    age = np.repeat(chain.age[:, None], width, axis=1)
    older, scratch = np.empty_like(age), np.empty_like(age)
    clean = np.zeros((days.longest + 1, width))
    clean[0] = chain.clean
    row = int(np.count_nonzero(days.wanted < 0))

    def prediction() -> Floats:
        later: Floats = chain.later_clean * clean.sum(axis=0)
        later += np.multiply(age, chain.later_age[:, None], out=scratch).sum(axis=0)
        return later

    predicted[:row] = prediction()
    for day in range(len(days.elapsed)):
        # One day older. What ends today cannot begin again today.
        before = max(int(days.elapsed[day]) - 1, 0)  # days of the block that have passed
        begun, first = clean[: before + 1], max(before - 1, 0)
        np.multiply(age, ends, out=scratch)
        np.multiply(age[:-1], stay[:-1], out=older[1:])
        older[-1] += age[-1] * stay[-1]
        np.multiply(begun.sum(axis=0), chain.onset, out=older[0])
        age, older = older, age
        begun *= 1.0 - chain.onset
        begun[1:before] += scratch[:first]  # what ended after k = 1, 2, ... days within this block
        begun[before] += scratch[first:].sum(axis=0)
        # What the day shows. Ages from the block's length on have filled it and share one factor.
        block = int(days.closes[day])
        filled, times = 0, None
        if block >= 0:
            code = days.code[block]
            ratio = days.ratio[int(days.kind[block])][:, code]
            filled, times = len(ratio) - 2, ratio[-1]
            age[:filled] *= ratio[1:-1]
            begun[0] += (begun[1:] * ratio[1 : before + 1]).sum(axis=0)
            begun[1:] = 0.0
        if days.own is not None:
            times = days.own[day] if times is None else times * days.own[day]
            age[:filled] *= days.own[day]
        if times is None:
            totals[day] = 1.0
        else:
            total = begun.sum(axis=0) + age[:filled].sum(axis=0) + times * age[filled:].sum(axis=0)
            inverse = 1.0 / total
            age[:filled] *= inverse
            age[filled:] *= times * inverse
            begun *= inverse
            totals[day] = total
        while row < len(days.wanted) and days.wanted[row] == day:
            predicted[row] = prediction()
            row += 1
