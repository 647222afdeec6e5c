"""Numerical composition of DP-SGD with noisy counts: the privacy loss of a discrete Gaussian, beside Opacus' own.

What it does: `composed_loss` convolves the privacy losses of Poisson-subsampled Gaussian steps (Opacus) with
those of counts under discrete Gaussian noise, which are exact: a discrete distribution with known weights.

Source: Gopi, Lee, Wutschitz, "Numerical Composition of Differential Privacy" (NeurIPS 2021), whose error bounds
hold for any privacy loss that is rounded to the grid with its mean restored; Opacus implements it for one family
and is extended here by another.

The range in which a figure is given. Their Theorem 5.5 bounds what the grid does (`EPSILON_ERROR`, and a thousandth of
delta), for exact arithmetic. Float64 adds an error that does not shrink with delta and in the end replaces it: at rate
0.00033, noise 4 and 10,000 steps the same formulas gave 0.477 at delta 1e-12 beside 0.058 at 1e-11
(github.com/microsoft/prv_accountant, issue 17, saw the like). So the rounding is bounded, too: a sum over a tail of the
composed loss is wrong by at most `_rounding`, which is taken off delta as the paper's error is. Where that would be
more than `MOST_ROUNDING` of delta, and where the grid would not fit in memory, there is no figure, and
`fl.privacy.accounting` counts in Renyi DP instead, by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

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
DELTA_ERROR = 1e-3  # of delta: the composition's other error
MOST_ROUNDING = 0.1  # of delta: what float64 may add
MOST_POINTS = 2**24  # of the grid: more would take gigabytes
FAR = 40.0  # standard deviations: beyond lies less than 2^-1000


@dataclass(frozen=True)
class CountLoss:
    """The privacy loss of one count that an event moves by `resolution` grid units.

    The count is under discrete Gaussian noise of variance `shares` * `share_variance`.

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

    @property
    def reach(self) -> int:
        """Noise that is looked at on either side of zero, in grid units."""
        return math.ceil(FAR * math.sqrt(self.shares * self.share_variance)) + 1

    def on_grid(self, domain: Domain) -> DiscretePRV:
        """Rounded to the nearest grid points, then shifted so that the mean is exact."""
        variance = self.shares * self.share_variance
        noise = np.arange(-self.reach, self.reach + 1, dtype=np.float64)
        weight = np.exp(-(noise**2) / (2 * variance))
        loss = (self.resolution**2 - 2 * self.resolution * noise) / (2 * variance)
        within = (loss >= domain.t_min) & (loss <= domain.t_max)
        weight, loss = weight[within] / weight[within].sum(), loss[within]
        place = np.rint((loss - domain.t_min) / domain.dt).astype(np.int64)
        mass: NDArray[np.float64] = np.bincount(place, weights=weight, minlength=domain.size).astype(np.float64)
        shift = float(weight @ loss - mass @ domain.ts)
        return DiscretePRV(pmf=mass, domain=domain.shift_right(shift))


@dataclass(frozen=True)
class ComposedLoss:
    """The privacy loss of training steps and counts together: masses on a grid, and what they may be wrong by.

    The loss is within `EPSILON_ERROR` of that of the grid, but for a probability of `slack`.
    """

    value: NDArray[np.float64] = field(repr=False)  # ascending
    mass: NDArray[np.float64] = field(repr=False)
    slack: float

    def deltas(self, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
        """Upper bounds of delta at each of `epsilons`, which may be negative, for both orders of two neighbours.

        The grid holds the order that Opacus takes for the dearer one at epsilon >= 0, a row removed. Below zero it can
        be the other, whose delta at -x is 1 - exp(-x) (1 - delta(x)).
        """
        return np.array([self._delta(float(epsilon)) for epsilon in np.ravel(epsilons)]).reshape(np.shape(epsilons))

    def _delta(self, epsilon: float) -> float:
        found = self._of_grid(epsilon)
        if epsilon < 0:
            found = max(found, -math.expm1(epsilon) + math.exp(epsilon) * self._of_grid(-epsilon))
        return min(found, 1.0)

    def _of_grid(self, epsilon: float) -> float:
        least = epsilon - EPSILON_ERROR
        first = int(np.searchsorted(self.value, least, side="right"))
        return float(self.mass[first:] @ -np.expm1(least - self.value[first:])) + self.slack


def composed_loss(
    trained: Sequence[tuple[float, float, int]], counted: Sequence[tuple[CountLoss, int]], delta: float
) -> ComposedLoss | None:
    """The privacy loss of training steps and counts together, as precise as `delta` asks for.

    A training step is (noise multiplier, sampling rate, steps); a count is (loss, how many of them an event moves). At
    least one of the two is not empty. None outside the range of this accountant.
    """
    steps = [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in trained]
    times = [count for *_, count in trained] + [count for _, count in counted]
    delta_error = delta * DELTA_ERROR
    if not delta_error / (8 * sum(times)) > 0.0:  # a delta so small that its parts are no numbers
        return None
    reach = compute_safe_domain_size(
        prvs=[*steps, *(loss for loss, _ in counted)],
        max_self_compositions=times,
        eps_error=EPSILON_ERROR,
        delta_error=delta_error,
    )
    mesh = EPSILON_ERROR / math.sqrt(sum(times) * math.log(12 / delta_error) / 2)
    # The count's own range of noise is laid out before it is placed on the grid.
    if not max(2 * reach / mesh, *(2 * loss.reach for loss, _ in counted), 0.0) < MOST_POINTS:
        return None
    domain = Domain.create_aligned(-reach, reach, mesh)
    try:
        parts = [discretize(TruncatedPrivacyRandomVariable(prv, domain.t_min, domain.t_max), domain) for prv in steps]
    except RuntimeError:  # Opacus finds that it could not integrate the mean, which the theorem asks for
        return None
    parts += [loss.on_grid(domain) for loss, _ in counted]
    rounding = _rounding(parts, times)
    if not rounding <= MOST_ROUNDING * delta:
        return None
    composed = compose_heterogeneous(dprvs=parts, num_self_compositions=times)
    return ComposedLoss(composed.domain.ts, composed.pmf, delta_error + rounding)


def composed_epsilon(
    trained: Sequence[tuple[float, float, int]], counted: Sequence[tuple[CountLoss, int]], delta: float
) -> float | None:
    """An upper bound of epsilon at `delta` of training steps and counts together, as `composed_loss` takes them."""
    composed = composed_loss(trained, counted, delta)
    return None if composed is None else max(_at(composed, delta - composed.slack) + EPSILON_ERROR, 0.0)


def _rounding(parts: Sequence[DiscretePRV], times: Sequence[int]) -> float:
    """Most by which float64 changes a sum over a tail of the composed distribution.

    First, masses are differences of a distribution function. Its rounding cancels in sums, but for the edges: those of
    neighbouring cells differ in the last digit of t, so that the mass in between is counted twice or not at all.
    Second, a Fourier transform of n values errs by log2(n) * eta of their L2 length, eta below 8 units of rounding
    (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., Theorem 24.2); the k-th power multiplies that
    by k, and a sum over n values is at most sqrt(n) times their length.
    """
    unit = float(np.finfo(np.float64).eps) / 2
    n = 2 * max(len(part) for part in parts)  # padded when two are convolved
    edges: float = sum(
        k * (4.0 + float(part.pmf @ np.abs(part.domain.ts)) / part.domain.dt)
        for part, k in zip(parts, times, strict=True)
    )
    powers: float = sum(k * float(np.linalg.norm(part.pmf)) for part, k in zip(parts, times, strict=True))
    lengths = powers + 4 * len(parts)  # and of the way back, and of convolving them
    return unit * (edges + 8 * math.log2(n) * math.sqrt(n) * lengths)


def _at(composed: ComposedLoss, delta: float) -> float:
    """The epsilon at which the discrete loss `composed` has exactly `delta`.

    It is -1 where that epsilon is below -1: nobody asks how far below zero it is.
    """
    t, mass = composed.value, composed.mass
    above = t > -1.0
    t, mass = t[above], mass[above]
    # delta(epsilon) = sum over t > epsilon of mass * (1 - exp(epsilon - t)): falling in epsilon.
    tail = np.flip(np.flip(mass).cumsum())
    weighted = np.flip(np.flip(mass * np.exp(-t)).cumsum())
    with np.errstate(over="ignore", invalid="ignore"):
        deltas = np.nan_to_num(tail - np.exp(t) * weighted, nan=0.0)  # beyond exp's range nothing is left
    within = np.flatnonzero(deltas <= delta)
    first = int(within[0]) if len(within) else len(t) - 1
    if first == 0 or not tail[first] > delta:
        return -1.0 if first == 0 else float(t[first])
    return float(np.log((tail[first] - delta) / weighted[first]))
