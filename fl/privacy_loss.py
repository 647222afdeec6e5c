"""Numerical composition of DP-SGD with noisy counts: the privacy loss of a discrete Gaussian, beside Opacus' own.

What it does: `composed_epsilon` convolves the privacy losses of Poisson-subsampled Gaussian steps (Opacus) with
those of counts under discrete Gaussian noise, which are exact: a discrete distribution with known weights.

What it leaves to others: which releases one transaction is part of, and all other accounting (`fl.privacy`).

Source: Gopi, Lee, Wutschitz, "Numerical Composition of Differential Privacy" (NeurIPS 2021), whose error bounds
hold for any privacy loss that is rounded to the grid with its mean restored; Opacus implements it for one family
and is extended here by another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opacus.accountants.analysis.prv import (
    DiscretePRV,
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    compute_safe_domain_size,
    discretize,
)

EPSILON_ERROR = 0.01  # of the composition; added to what is reported
FAR = 40.0  # standard deviations: beyond lies less than 2^-1000


@dataclass(frozen=True)
class CountLoss:
    """The privacy loss of one count that an event moves by `resolution` grid units, under discrete Gaussian noise
    of variance `shares` * `share_variance`.

    At noise x the loss is (r^2 - 2 r x) / (2 sigma^2), the log-ratio of the weights of x and x - r; it is the
    same for an event added and an event removed.
    """

    resolution: int
    share_variance: float
    shares: int

    sample_rate = 1.0  # as Opacus asks when it chooses a grid: every row is looked at

    @property
    def noise_multiplier(self) -> float:
        """Of the Gaussian whose Renyi divergences bound this one's."""
        return math.sqrt(self.shares * self.share_variance) / self.resolution

    def on_grid(self, domain: Domain) -> DiscretePRV:
        """Rounded to the nearest grid points, then shifted so that the mean is exact."""
        variance = self.shares * self.share_variance
        reach = math.ceil(FAR * math.sqrt(variance)) + 1
        noise = np.arange(-reach, reach + 1, dtype=np.float64)
        weight = np.exp(-(noise**2) / (2 * variance))
        loss = (self.resolution**2 - 2 * self.resolution * noise) / (2 * variance)
        within = (loss >= domain.t_min) & (loss <= domain.t_max)
        weight, loss = weight[within] / weight[within].sum(), loss[within]
        place = np.rint((loss - domain.t_min) / domain.dt).astype(np.int64)
        mass: NDArray[np.float64] = np.bincount(place, weights=weight, minlength=domain.size).astype(np.float64)
        shift = float(weight @ loss - mass @ domain.ts)
        return DiscretePRV(pmf=mass, domain=domain.shift_right(shift))


def composed_epsilon(
    trained: Sequence[tuple[float, float, int]], counted: Sequence[tuple[CountLoss, int]], delta: float
) -> float:
    """An upper bound of epsilon at `delta` of training steps (noise multiplier, sampling rate, steps) and counts
    (loss, how many of them an event moves) together. At least one of the two is not empty.
    """
    steps = [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in trained]
    times = [count for *_, count in trained] + [count for _, count in counted]
    delta_error = delta / 1000
    reach = compute_safe_domain_size(
        prvs=[*steps, *(loss for loss, _ in counted)],
        max_self_compositions=times,
        eps_error=EPSILON_ERROR,
        delta_error=delta_error,
    )
    mesh = EPSILON_ERROR / math.sqrt(sum(times) * math.log(12 / delta_error) / 2)
    domain = Domain.create_aligned(-reach, reach, mesh)
    parts = [discretize(TruncatedPrivacyRandomVariable(prv, domain.t_min, domain.t_max), domain) for prv in steps]
    parts += [loss.on_grid(domain) for loss, _ in counted]
    composed = compose_heterogeneous(dprvs=parts, num_self_compositions=times)
    _, _, upper = composed.compute_epsilon(delta, delta_error, EPSILON_ERROR)
    return float(upper)
