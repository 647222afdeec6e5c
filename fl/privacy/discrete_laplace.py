"""Discrete Laplace noise that no party draws alone: pure epsilon for counts that an event moves by one.

What it does: decides the shares of one release (`LaplacePlan`), draws a share (`laplace_share`), and gives the law of
any number of them.

Each bank adds X - X' to its counts, where X and X' have the negative binomial law NB(r, 1 - q) with r = 1 / (n - t):

    P(X = k) = (k + r - 1 over k) (1 - q)^r q^k,  k = 0, 1, 2, ...

Negative binomial variables add up in r. So n - t shares, those that no coalition of t banks knows, are together the
difference of two geometric variables: the discrete Laplace law P(x) = (1 - q) / (1 + q) q^|x|. At q = exp(-epsilon) a
count that moves by one changes no probability by more than a factor exp(epsilon). The shares of the other t banks are
further noise, which changes no promise.

Sources: the discrete Laplace law is the geometric mechanism of Ghosh, Roughgarden, Sundararajan, "Universally
Utility-Maximizing Privacy Mechanisms" (STOC 2009). Shares of it, and what a sum costs that holds too few of them:
Harrison, Manurangsi, "Infinitely Divisible Noise for Differential Privacy" (FORC 2025), Section 3 (the generalised
discrete Laplace law).

Precision: q is a rational number that is at least exp(-epsilon). X is drawn by comparing uniform integers with a table
of cumulative probabilities in units of 2^-128, computed in integers. `LaplacePlan.distance` bounds the statistical
distance between a share drawn so and its law; it is charged to delta. No float decides anything.

Randomness comes from the operating system; `entropy` is a parameter for tests only.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fl import options
from fl.errors import BudgetError
from fl.privacy.noise_shares import TAIL_LOG2, require_coalition
from fl.privacy.randomness import Entropy

EPSILON = options.Real(0.01, 32, "for one event that moves one count by one")
TABLE_BITS = 128  # of a cumulative probability
WORK_BITS = 256  # of a weight while the table is made
LAW_LOG2 = -60.0  # of the mass that `LaplacePlan.pmf` leaves out on either side: float64 cannot add less to 1
PART_LOG2 = -120.0  # of the mass of X that is left out on the way there, so that the smallest values are right, too


@dataclass(frozen=True)
class LaplacePlan:
    """Who adds how much noise to the counts of one release. All of it is public.

    epsilon: what n - t shares charge one event that moves one count by one.  Raises `BudgetError` for an impossible
    epsilon or coalition.
    """

    epsilon: Annotated[float, EPSILON]
    banks: Annotated[int, options.BANKS]  # n: the roster
    colluders: Annotated[int, options.BANKS]  # t: the observing bank and those it colludes with

    resolution = 1  # grid units per event, as `fl.privacy.noise_shares.NoisePlan` has it

    def __post_init__(self) -> None:
        options.check(self, BudgetError)
        require_coalition(self.banks, self.colluders)

    @property
    def honest(self) -> int:
        """n - t: shares that no coalition of the planned size knows."""
        return self.banks - self.colluders

    def by_one_bank(self) -> LaplacePlan:
        """The plan by which one bank alone draws, in one share, all the noise that n - t banks add together."""
        return replace(self, banks=self.colluders + 1)

    @property
    def q(self) -> Fraction:
        """Ratio of neighbouring probabilities, rounded up: at least exp(-epsilon), so that epsilon is never exceeded.

        `math.exp` errs by less than a unit in the last place (2^-52), which the factor more than makes up for.
        """
        return Fraction(math.exp(-self.epsilon) * (1 + 2.0**-50))

    @property
    def released_variance(self) -> float:
        """Variance, in events squared, of all the noise in a released count."""
        q = float(self.q)
        return self.banks / self.honest * 2 * q / (1 - q) ** 2

    @property
    def released_sigma(self) -> float:
        """Standard deviation, in events, of all the noise in a released count."""
        return math.sqrt(self.released_variance)

    @property
    def distance(self) -> float:
        """A bound on the statistical distance between a share that is drawn and the law of a share.

        Of X: the table has k entries, each rounded by less than 2^-128, which moves less than k 2^-128; what lies
        beyond the table is at most 2^-128; the integers it is made of err by far less. Twice that for X - X'.
        """
        return 2 * (len(_table(self.q, self.honest)) + 4) * 2.0**-TABLE_BITS

    def tail(self, draws: int) -> int:
        """T with P(any of `draws` shares lies outside +-T) <= 2^-100, in events.

        P(X > T) <= q^(T + 1) / (1 - q), since the binomial coefficient is at most 1 for r <= 1, and (1 - q)^r <= 1;
        |X - X'| is at most the larger of two.
        """
        q = float(self.q)
        log = math.log(2 * draws) - TAIL_LOG2 * math.log(2) - math.log1p(-q)
        return math.ceil(log / -math.log(q))

    def pmf(self, shares: int | None = None) -> NDArray[np.float64]:
        """float64[2 * reach + 1]: the law of the sum of `shares` shares (default: all n) on the integers -reach..reach.

        Symmetric, of sum 1. What lies beyond the reach, at most 2^-60 on either side, is left out. Raises `BudgetError`
        for less than one share.
        """
        shares = self.banks if shares is None else shares
        if shares < 1:
            raise BudgetError(f"noise: expected at least one share, got {shares}")
        return _law(self.q, Fraction(shares, self.honest)).copy()

    @property
    def reach(self) -> int:
        """Of `pmf()`: the largest noise, in events, that the law of a released count speaks of."""
        return len(_law(self.q, Fraction(self.banks, self.honest))) // 2


def plan_laplace(epsilon: float, banks: int, colluders: int) -> LaplacePlan:
    """Shares of which n - t charge `epsilon`. Raises `BudgetError` for an impossible epsilon or t."""
    return LaplacePlan(epsilon, banks, colluders)


def cost_with(plan: LaplacePlan, honest_present: int) -> float:
    """What an event that moves one count by one pays when only `honest_present` honest shares are in the sum.

    epsilon + ln((n - t) / k) for k < n - t, and epsilon from there on: then the others are further noise.

    Why: with r = k / (n - t) <= 1 the probabilities a_j of X have the ratios a_(j+1) / a_j = q (j + r) / (j + 1), which
    lie between r q and q. Hence P(s) = sum over j of a_(j+s) a_j obeys r q P(s) <= P(s + 1) <= q P(s) for s >= 0, and
    P(-s) = P(s). Raises `BudgetError` without any honest share: nothing is hidden then.
    """
    if honest_present < 1:
        raise BudgetError(f"noise: expected at least one honest share in the sum, got {honest_present}")
    return plan.epsilon + math.log(max(plan.honest / honest_present, 1.0))


def laplace_share(count: int, plan: LaplacePlan, *, entropy: Entropy = os.urandom) -> NDArray[np.int64]:
    """int64[count]: one bank's share of the noise of `count` counts, independent, X - X' as the module says."""
    table = _table(plan.q, plan.honest)
    return _drawn(count, table, entropy) - _drawn(count, table, entropy)


def _drawn(count: int, table: tuple[int, ...], entropy: Entropy) -> NDArray[np.int64]:
    """int64[count]: for uniform integers u of 128 bits, how many entries of `table` are at most u.

    The upper 64 bits decide unless they are those of an entry; only then the lower ones are drawn.
    """
    upper = np.array([entry >> 64 for entry in table], np.uint64)
    words = np.frombuffer(entropy(8 * count), dtype="<u8")
    drawn = np.searchsorted(upper, words, side="right").astype(np.int64)
    for i in np.flatnonzero((upper[np.maximum(drawn - 1, 0)] == words) & (drawn > 0)):
        lower = int.from_bytes(entropy(8), "little")
        drawn[i] = bisect_right(table, int(words[i]) << 64 | lower)
    return drawn


@lru_cache(maxsize=64)
def _table(q: Fraction, honest: int) -> tuple[int, ...]:
    """P(X <= k) in units of 2^-128 for k = 0, 1, ..., rounded down; the last k, at which it is 2^128, is left out.

    Weights follow from one another by (k + r) q / (k + 1), a ratio that is below q. So at most w q / (1 - q) lies
    beyond the weight w, and the table ends where that is 2^-128 of the first weight.
    """
    weights = [1 << WORK_BITS]
    up, down = q.numerator, q.denominator
    while weights[-1] * up << TABLE_BITS > weights[0] * (down - up):
        k = len(weights) - 1
        weights.append(weights[-1] * up * (k * honest + 1) // (down * honest * (k + 1)))
    total, below, table = sum(weights), 0, []
    for weight in weights[:-1]:
        below += weight
        table.append((below << TABLE_BITS) // total)
    return tuple(table)


@lru_cache(maxsize=64)
def _law(q: Fraction, r: Fraction) -> NDArray[np.float64]:
    """float64[2 * reach + 1]: the law of X - X' for X, X' ~ NB(r, 1 - q)."""
    ratio, times = float(q), float(r)
    # P(X > T) <= 2^r exp(-T epsilon / 2): Markov's inequality for exp(X epsilon / 2).
    most = math.ceil(2 * math.log(2) * (times - PART_LOG2) / -math.log(ratio))
    k = np.arange(most, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(math.log(ratio) + np.log((k + times) / (k + 1)))])
    one = np.exp(times * math.log1p(-ratio) + logs)
    one = one[: _kept(one, PART_LOG2)]
    both = np.convolve(one, one[::-1])
    middle = len(one) - 1
    reach = _kept(both[middle:], LAW_LOG2) - 1
    law: NDArray[np.float64] = both[middle - reach : middle + reach + 1]
    law = (law + law[::-1]) / 2  # its symmetry is exact, whatever the order in which a convolution adds
    whole: NDArray[np.float64] = law / law.sum()
    return whole


def _kept(masses: NDArray[np.float64], log2: float) -> int:
    """How many of the first `masses` leave out at most 2^`log2`."""
    left_out = np.cumsum(masses[::-1])[::-1]
    return max(int(np.searchsorted(-left_out, -(2.0**log2))), 1)
