"""The recursion of the filter: day after day, the probability of every state of every entity.

What it does: `run` carries the probabilities through the days, takes in what each day shows, and returns the
likelihood and the predictions. The forward recursion of a hidden semi-Markov model (Rabiner 1989, sections III.A and
IV.D), scaled at every observation (section V.A).

States of an entity on a day: compromised for a = 1, 2, ... days (the last age stands for all older ones), or clean,
with k = 0, 1, ... compromised days in the block that is open. k makes the count of a block exact for an episode that
ended within it. When a block has ended, k is 0 again. An entity becomes compromised at most once a block for the count;
an episode on the day after another's end does not occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.counts.durations import surviving

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TOGETHER = 2048  # slots whose states are carried at a time: about a megabyte, which the caches hold


@dataclass(frozen=True)
class Chain:
    """How states follow each other. onset: probability a day.  ends: float64[ages], of `durations.ending`."""

    onset: float
    ends: Floats = field(repr=False)

    def stationary(self) -> tuple[float, Floats]:
        """(clean, float64[ages]): probabilities of the states of an entity of which nothing is known."""
        ages = surviving(self.ends)[:-1]
        ages[-1] /= self.ends[-1]
        clean = 1.0 / (1.0 + self.onset * ages.sum())
        return clean, self.onset * clean * ages

    def ahead(self, days: int) -> tuple[float, Floats]:
        """(clean, float64[ages]): probability of being compromised `days` days later, by today's state."""
        clean, ages = 0.0, np.ones(len(self.ends))
        for _ in range(days):
            older = np.append(ages[1:], ages[-1])
            clean, ages = (
                (1 - self.onset) * clean + self.onset * float(ages[0]),
                (1 - self.ends) * older + self.ends * clean,
            )
        return clean, ages


@dataclass(frozen=True)
class Shown:
    """What the days show of the slots, with `days` days from the first on.

    elapsed: int64[days], the place (1, 2, ...) of a day in its block, 0 for a day in no block.  closes: int64[days],
    the block that ends with a day, or -1.  kind: int64[blocks], of each block, which table is its.  code:
    int64[blocks, slots], column of that table.  plain: one float64[codes] a kind, log-likelihood of a clean block.
    ratio: one float64[length + 1, codes] a kind: likelihood with k compromised days over that of a clean block.  own:
    float64[days, slots], likelihood ratio of a bank's own labels of a day, or None.
    """

    elapsed: Integers = field(repr=False)
    closes: Integers = field(repr=False)
    kind: Integers = field(repr=False)
    code: Integers = field(repr=False)
    plain: Sequence[Floats] = field(repr=False)
    ratio: Sequence[Floats] = field(repr=False)
    own: Floats | None = field(repr=False)
    slots: int


def run(chain: Chain, shown: Shown, wanted: Integers, ahead: int) -> tuple[Floats, Floats]:
    """(float64[len(wanted), slots], float64[slots]): predictions, and log-likelihoods of all that is shown.

    wanted: int64, ascending places of days; after each of these days the probability of being compromised `ahead` days
    later is written. A place of -1 is before the first day. The likelihood leaves out `own` of clean days.
    """
    predicted = np.empty((len(wanted), shown.slots))
    likelihood = np.empty(shown.slots)
    for start in range(0, shown.slots, TOGETHER):
        part = slice(start, min(start + TOGETHER, shown.slots))
        _run(chain, shown, wanted, ahead, part, predicted[:, part], likelihood[part])
    return predicted, likelihood


def _run(
    chain: Chain, shown: Shown, wanted: Integers, ahead: int, part: slice, predicted: Floats, likelihood: Floats
) -> None:
    width, longest = predicted.shape[1], int(shown.elapsed.max(initial=0))
    stay = (1.0 - chain.ends)[:, None]
    endings = [_endings(chain.ends, before) for before in range(max(longest, 1))]
    clean_now, age_now = chain.stationary()
    later_clean, later_age = chain.ahead(ahead)
    age = np.repeat(age_now[:, None], width, axis=1)
    older = np.empty_like(age)
    clean = np.zeros((longest + 1, width))
    clean[0] = clean_now
    likelihood[:] = 0.0
    row = int(np.count_nonzero(wanted < 0))
    predicted[:row] = later_clean * clean_now + later_age @ age_now
    for day in range(len(shown.elapsed)):
        # One day older. What ends today cannot begin again today.
        before = max(int(shown.elapsed[day]) - 1, 0)  # days of the block that have passed
        ended = endings[before] @ age
        np.multiply(age[:-1], stay[:-1], out=older[1:])
        older[-1] += age[-1] * stay[-1]
        np.multiply(clean[: before + 1].sum(axis=0), chain.onset, out=older[0])
        age, older = older, age
        clean[: before + 1] *= 1.0 - chain.onset
        clean[: before + 1] += ended
        # What the day shows. Ages from the block's length on have filled it and share one factor.
        block = int(shown.closes[day])
        if block >= 0:
            kind, code = int(shown.kind[block]), shown.code[block, part]
            ratio = shown.ratio[kind][:, code]
            filled = len(ratio) - 2
            age[:filled] *= ratio[1:-1]
            clean[0] += (clean[1 : before + 1] * ratio[1 : before + 1]).sum(axis=0)
            clean[1 : before + 1] = 0.0
            likelihood += shown.plain[kind][code]
            times = ratio[-1]
        else:
            filled, times = 0, np.ones(width)
        if shown.own is not None:
            times = times * shown.own[day, part]
            age[:filled] *= shown.own[day, part]
        elif block < 0:
            times = None
        if times is not None:
            total = clean[: before + 1].sum(axis=0) + age[:filled].sum(axis=0) + times * age[filled:].sum(axis=0)
            likelihood += np.log(total)
            age[:filled] /= total
            age[filled:] *= times / total
            clean[: before + 1] /= total
        while row < len(wanted) and wanted[row] == day:
            predicted[row] = later_clean * clean.sum(axis=0) + later_age @ age
            row += 1


def _endings(ends: Floats, before: int) -> Floats:
    """float64[before + 1, ages]: what of each age ends, by the compromised days of the open block, of which `before`
    days have passed.
    """
    table = np.zeros((before + 1, len(ends)))
    table[np.minimum(np.arange(1, len(ends) + 1), before), np.arange(len(ends))] = ends
    return table
