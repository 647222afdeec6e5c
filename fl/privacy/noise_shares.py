"""Noise that no party draws alone: every bank adds a discrete Gaussian share before it encrypts.

What it does: decides the shares of one release (`NoisePlan`), bounds how far their sum is from one discrete
Gaussian, and how much of it lies outside the lane of an encrypted sum.

Shares are drawn after the roster has closed, when the number n of banks is known. Of the n shares, t may be known
to an observer: its own, and those of banks that collude with it. The remaining n - t carry the promise, so each
share has variance sigma^2 / (n - t), and the released sum has n / (n - t) of the variance that is accounted. A
coalition of "all but two" means t = n - 2.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation" (ICML 2021). A sum of discrete Gaussians is no discrete Gaussian, but its probabilities differ from
one's by factors within exp(+-tau) per coordinate, tau = 10 * sum_(k=1)^(m-1) exp(-2 pi^2 s^2 k / (k+1)) for m
shares of variance s^2 (their Theorem 9). `PER_SHARE` keeps s so large that tau is far below 2^-53.

Counts are multiplied by `resolution` before noise is added: noise of a share then spans several grid points
however little noise the sum needs, and dividing the released sums undoes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fl.errors import BudgetError
from fl.privacy.discrete_gaussian import exact_variance

PER_SHARE = 2.0  # least sigma of one share in grid units; at 1 the correction would still be 5e-4
TAIL_LOG2 = -100.0  # of the probability that any share leaves its lane; counted into delta
LAW_WIDTH = 9.0  # standard deviations of noise that `NoisePlan.pmf` speaks of: less than 2^-60 lies beyond


@dataclass(frozen=True)
class NoisePlan:
    """Who adds how much noise to the counts of one release. All of it is public.

    sigma: standard deviation, in events, of the noise that n - t shares make.  share_variance: of one share, in
    squared grid units.  resolution: grid units per event.
    """

    sigma: float
    banks: int  # n: the roster
    colluders: int  # t: the observing bank and those it colludes with
    resolution: int
    share_variance: Fraction

    @property
    def honest(self) -> int:
        """n - t: shares that no coalition of the planned size knows."""
        return self.banks - self.colluders

    @property
    def released_sigma(self) -> float:
        """Standard deviation, in events, of all the noise in a released sum."""
        return math.sqrt(self.banks * float(self.share_variance)) / self.resolution

    def tail(self, draws: int) -> int:
        """T with P(any of `draws` shares lies outside +-T) <= 2^-100, in grid units."""
        return tail_bound(self.share_variance, draws)

    def pmf(self) -> NDArray[np.float64]:
        """float64[2 * reach + 1]: the law of all the noise in a released sum on the grid units -reach..reach, of sum 1.

        That of one discrete Gaussian, from which it differs by factors within exp(+-tau). What lies beyond
        `LAW_WIDTH` standard deviations is left out.
        """
        variance = self.banks * float(self.share_variance)
        noise = np.arange(-self.reach, self.reach + 1, dtype=np.float64)
        weight = np.exp(-(noise**2) / (2 * variance))
        law: NDArray[np.float64] = weight / weight.sum()
        return law

    @property
    def reach(self) -> int:
        """Of `pmf()`: the largest noise, in grid units, that the law of a released sum speaks of."""
        return math.ceil(LAW_WIDTH * math.sqrt(self.banks * float(self.share_variance)))


def plan_noise(sigma: float, banks: int, colluders: int) -> NoisePlan:
    """Shares whose honest part has at least `sigma` (in events). Raises `BudgetError` for an impossible t."""
    require_coalition(banks, colluders)
    if not (sigma > 0 and math.isfinite(sigma)):
        raise BudgetError(f"noise: expected a positive sigma, got {sigma}")
    honest = banks - colluders
    resolution = max(1, math.ceil(PER_SHARE * math.sqrt(honest) / sigma))
    return NoisePlan(sigma, banks, colluders, resolution, exact_variance((resolution * sigma) ** 2 / honest))


def require_coalition(banks: int, colluders: int) -> None:
    """Raise `BudgetError` unless 1 <= t < n."""
    if not 1 <= colluders <= banks - 1:
        raise BudgetError(
            f"colluders: expected 1 (the observing bank itself) to {banks - 1} of {banks} banks, got {colluders}; "
            "with all banks colluding there is nobody left to protect"
        )


def sum_correction(share_variance: float, shares: int) -> float:
    """tau: |log ratio| per coordinate between a sum of `shares` discrete Gaussians and the one it stands for."""
    if share_variance < 0.5:
        raise BudgetError(f"noise: shares need a variance of at least 1/2 grid units, got {share_variance}")
    exponents = (-2 * math.pi**2 * share_variance * k / (k + 1) for k in range(1, shares))
    return 10 * sum(math.exp(x) for x in exponents)


def tail_bound(share_variance: Fraction, draws: int) -> int:
    """T with P(any of `draws` shares lies outside +-T) <= 2^`TAIL_LOG2`.

    Discrete Gaussians are sub-Gaussian (Canonne et al., Proposition 25).
    """
    log = math.log(2 * draws) - TAIL_LOG2 * math.log(2)
    return math.ceil(math.sqrt(2 * float(share_variance) * log))
