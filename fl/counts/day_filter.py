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

from fl.counts.durations import surviving
from fl.counts.layout import Days, Floats, Integers, Transitions
from fl.counts.recursion import recursion

TOGETHER = 2048  # slots whose states are carried at a time: in numpy about a megabyte, which the caches hold


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

    def of(self, part: slice, wanted: Integers) -> Days:
        """What the inner loop reads of some slots."""
        own = None if self.own is None else self.own[:, part]
        return Days(self.elapsed, self.closes, self.kind, self.code[:, part], tuple(self.ratio), own, wanted)


def run(chain: Chain, shown: Shown, wanted: Integers, ahead: int) -> tuple[Floats, Floats]:
    """(float64[len(wanted), slots], float64[slots]): predictions, and log-likelihoods of all that is shown.

    wanted: int64, ascending places of days; after each of these days the probability of being compromised `ahead` days
    later is written. A place of -1 is before the first day. The likelihood leaves out `own` of clean days.
    """
    states = Transitions(chain.onset, chain.ends, *chain.stationary(), *chain.ahead(ahead))
    predicted, likelihood = np.empty((len(wanted), shown.slots)), np.zeros(shown.slots)
    for start in range(0, shown.slots, TOGETHER):
        part = slice(start, min(start + TOGETHER, shown.slots))
        days = shown.of(part, wanted)
        found, totals = np.empty((len(wanted), part.stop - start)), np.empty((len(shown.elapsed), part.stop - start))
        recursion().advance(states, days, found, totals)
        predicted[:, part] = found
        # One block or day after the other, as in the recursion.
        for block in days.closes[days.closes >= 0]:
            likelihood[part] += shown.plain[int(shown.kind[block])][days.code[block]]
        likelihood[part] += np.log(totals if shown.own is not None else totals[days.closes >= 0]).sum(axis=0)
    return predicted, likelihood
