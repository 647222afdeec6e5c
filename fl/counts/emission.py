"""What a block's released count says about how many of its days were compromised.

The frauds of a block of B days, k of them compromised, at an entity with the traffic r a day are Poisson with mean
r (p k + b (B - k)); p and b are the shares of fraud on compromised and clean days. A released count adds the noise,
whose law is public, so its likelihood is the convolution of both.

Entities differ in their traffic. A part `BUSY_SHARE` of every Poisson law is replaced by a geometric law of
`BUSY_TIMES` its mean, so that a count far above all means keeps favouring the state with the highest mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BUSY_SHARE = 0.02
BUSY_TIMES = 4.0
LEAST = 1e-30  # likelihood of what no state explains; the same in all states, so that it decides nothing


@dataclass(frozen=True)
class Observed:
    """The counts of all blocks of one kind (length, and the others' share of the traffic).

    values: int64[codes], distinct counts in steps, ascending.  law: float64[codes, events], the probability of each
    value when the block has 0, 1, ... frauds.
    """

    length: int
    share: float
    values: Integers = field(repr=False)
    law: Floats = field(repr=False)

    def likelihoods(self, per_day: float, base_per_day: float) -> Floats:
        """float64[length + 1, codes]: by the number k = 0, 1, ... of compromised days.

        per_day, base_per_day: expected frauds on a compromised and on a clean day.
        """
        days = np.arange(self.length + 1)
        means = self.share * (per_day * days + base_per_day * (self.length - days))
        found = np.zeros((len(means), len(self.values)))
        # One event after the other: a product of matrices would round the likelihood of a value by what other values
        # there are, and features of a day would depend on later counts in their last bit.
        for known, given in zip(frauds(means, self.law.shape[1]).T, self.law.T, strict=True):
            found += known[:, None] * given
        return np.maximum(found, LEAST)


def observed(length: int, share: float, values: Integers, noise: Floats | None, resolution: int) -> Observed:
    """The law of each of `values` (in steps of 1 / `resolution` events) by the number of frauds."""
    reach = 0 if noise is None else len(noise) // 2
    law = np.array([1.0]) if noise is None else noise
    most = max((int(values.max(initial=0)) + reach) // resolution, 0)
    places = values[:, None] - np.arange(most + 1)[None] * resolution + reach
    inside = (places >= 0) & (places < len(law))
    return Observed(length, share, values, np.where(inside, law[np.clip(places, 0, len(law) - 1)], 0.0))


def frauds(means: Floats, count: int) -> Floats:
    """float64[len(means), count]: probabilities of 0 to count - 1 frauds."""
    events, mean = np.arange(count), means[:, None]
    poisson = np.exp(xlogy(events, mean) - mean - gammaln(events + 1))
    more = BUSY_TIMES * mean
    geometric = np.exp(xlogy(events, more / (1 + more)) - np.log1p(more))
    both: Floats = (1 - BUSY_SHARE) * poisson + BUSY_SHARE * geometric
    return both
