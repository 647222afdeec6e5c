"""Exact samples of the discrete Gaussian: integers x with probability proportional to exp(-x^2 / (2 sigma^2)).

What it does: Algorithms 1 to 3 of Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy"
(NeurIPS 2020), vectorised: a discrete Laplace proposal, accepted with probability exp(-gamma) for a rational
gamma, decided by comparing uniform integers. No logarithm, exponential or rounding of a float decides anything,
so that the samples have exactly the distribution that the accountant is told of, and none of the low-bit
attacks on floating-point noise (Mironov, CCS 2012) has anything to hold on to.

Randomness comes from the operating system; `entropy` is a parameter for tests only. The time that sampling takes
depends on the samples, as with every rejection sampler; who can time a bank's sampling is not defended against.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fl.errors import BudgetError
from fl.privacy.randomness import Entropy

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

FINE_VARIANCE = 2**20  # below it variances are multiples of 1/256, above it whole numbers
LARGEST_VARIANCE = 2**28  # sigma 16,384: beyond it the fractions would not fit 64 bits
BATCH = 1 << 18  # proposals at once


def exact_variance(variance: float) -> Fraction:
    """`variance` rounded up to one that `discrete_gaussian` can sample exactly.

    Raises `BudgetError` unless 0 < variance <= `LARGEST_VARIANCE`.
    """
    if not 0.0 < variance <= LARGEST_VARIANCE:
        raise BudgetError(
            f"noise: expected a variance in (0, {LARGEST_VARIANCE}] of integer noise, got {variance}; "
            "lower the resolution of the integers"
        )
    parts = 256 if variance <= FINE_VARIANCE else 1
    return Fraction(math.ceil(variance * parts), parts)


def discrete_gaussian(count: int, variance: Fraction, *, entropy: Entropy = os.urandom) -> Integers:
    """int64[count], independent, of mean 0 and parameter sigma^2 = `variance` (one of `exact_variance`).

    The variance of the samples is at most `variance` (Canonne et al., Corollary 9). Raises `BudgetError`.
    """
    if exact_variance(float(variance)) != variance:
        raise BudgetError(f"noise: {variance} is no variance that can be sampled: use exact_variance")
    p, q = variance.numerator, variance.denominator
    scale = math.isqrt(p // q) + 1
    filled, samples = 0, np.empty(count, np.int64)
    while filled < count:
        proposal = _laplace(min(BATCH, 2 * (count - filled) + 64), scale, entropy)
        # gamma = (|y| - sigma^2 / scale)^2 / (2 sigma^2), as a fraction of integers.
        distance = np.abs(np.abs(proposal) * (scale * q) - p)
        accepted = proposal[_bernoulli_exp_square(distance, 2 * p * q * scale * scale, entropy)]
        taken = accepted[: count - filled]
        samples[filled : filled + len(taken)] = taken
        filled += len(taken)
    return samples


def _laplace(count: int, scale: int, entropy: Entropy) -> Integers:
    """At most `count` samples with probability proportional to exp(-|y| / scale) (their Algorithm 2)."""
    low = _below(np.full(count, scale, np.uint64), entropy)
    low = low[_bernoulli_exp(low, scale, entropy)]
    whole = np.zeros(len(low), np.int64)
    alive = np.arange(len(low))
    while len(alive):
        alive = alive[_bernoulli_exp(np.ones(len(alive), np.int64), 1, entropy)]
        whole[alive] += 1
    magnitude = low + scale * whole
    negative = _below(np.full(len(low), 2, np.uint64), entropy) == 1
    keep = ~(negative & (magnitude == 0))  # zero has one sign
    signed: Integers = np.where(negative, -magnitude, magnitude)[keep]
    return signed


def _bernoulli_exp_square(distance: Integers, denominator: int, entropy: Entropy) -> Flags:
    """bool[n]: true with probability exp(-distance^2 / denominator), exactly."""
    squares = [int(d) ** 2 for d in distance[distance >= 2**31]]
    whole = np.zeros(len(distance), np.int64)
    rest = np.zeros(len(distance), np.int64)
    small = distance < 2**31
    whole[small], rest[small] = np.divmod(distance[small] ** 2, denominator)
    whole[~small] = [min(s // denominator, 2**62) for s in squares]
    rest[~small] = [s % denominator for s in squares]
    alive = np.flatnonzero(_bernoulli_exp(rest, denominator, entropy))
    passed = np.zeros(len(distance), bool)
    while len(alive):
        done = whole[alive] == 0
        passed[alive[done]] = True
        alive = alive[~done]
        whole[alive] -= 1
        alive = alive[_bernoulli_exp(np.ones(len(alive), np.int64), 1, entropy)]
    return passed


def _bernoulli_exp(numerator: Integers, denominator: int, entropy: Entropy) -> Flags:
    """bool[n]: true with probability exp(-numerator / denominator), both exact, 0 <= numerator <= denominator.

    Their Algorithm 1: trials with probability gamma / k for k = 1, 2, ... until one fails; true when that k is
    odd. A trial of gamma / k is one of gamma and one of 1 / k, which keeps the integers small.
    """
    result = np.zeros(len(numerator), bool)
    alive = np.arange(len(numerator))
    k = 1
    while len(alive):
        goes_on = np.ones(len(alive), bool)
        if k > 1:
            goes_on = _below(np.full(len(alive), k, np.uint64), entropy) == 0
        trying = alive[goes_on]
        if denominator > 1:
            drawn = _below(np.full(len(trying), denominator, np.uint64), entropy)
            goes_on[goes_on] = drawn < numerator[trying]
        elif len(trying):
            goes_on[goes_on] = numerator[trying] == 1
        result[alive[~goes_on]] = k % 2 == 1
        alive = alive[goes_on]
        k += 1
    return result


def _below(bound: NDArray[np.uint64], entropy: Entropy) -> Integers:
    """int64[n], each uniform in [0, bound): 64-bit words, rejected where the last multiple of the bound ends."""
    drawn = np.empty(len(bound), np.int64)
    waiting = np.arange(len(bound))
    while len(waiting):
        words = np.frombuffer(entropy(8 * len(waiting)), dtype="<u8")
        limits = bound[waiting]
        # 2^64 mod bound, without leaving 64 bits; words below it would be counted once too often.
        excess = (np.uint64(0) - limits) % limits
        kept = words >= excess
        drawn[waiting[kept]] = (words[kept] % limits[kept]).astype(np.int64)
        waiting = waiting[~kept]
    return drawn
