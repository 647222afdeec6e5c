"""The privacy loss of counts and of unsampled Gaussian steps, exactly: delta at any epsilon, from closed forms.

What it does: `exact_loss` turns releases about one unit into a `Loss`, whose `delta` says what an epsilon costs;
`Loss.epsilon` reads it the other way round.

- A count under discrete Laplace noise that moves by one is randomised response: the loss is +epsilon with probability
  1 / (1 + exp(-epsilon)), and -epsilon otherwise. A count under discrete Gaussian noise has a loss at every integer.
  Both are lists of values with probabilities (`Losses`), and those of several releases are added up.
- Steps of the Gaussian mechanism, every row in each of them, are together one Gaussian with mu^2 = the sum of
  (sensitivity / sigma)^2, whose curve is that of Balle, Wang, "Improving the Gaussian Mechanism for Differential
  Privacy" (ICML 2018), Theorem 8.
- Together they have delta(epsilon) = the mean over the listed losses l of delta_Gauss(epsilon - l), by the definition
  of the privacy loss (Gopi, Lee, Wutschitz, NeurIPS 2021, Section 3). Below zero delta_Gauss(-x) =
  1 - exp(-x) (1 - delta_Gauss(x)): the two neighbours change places, and a Gaussian does not mind.

Steps under shared noise are sums of *discrete* Gaussians. They are compared with a Gaussian that is rounded to
integers, which is as private as before it was rounded. The log-ratio of the two probabilities of an integer x is that
of the mean of exp(-x u / sigma^2 - u^2 / (2 sigma^2)) over |u| <= 1/2. It lies between -1 / (24 sigma^2), by Jensen's
inequality, and x^2 / (24 sigma^4), since sinh(a) / a <= exp(a^2 / 6): at most 3.375 / sigma^2 for |x| <= 9 sigma. The
comparison is made twice, there and back, for every step and coordinate; what lies beyond 9 sigma goes to delta
(`Charge`). A sum of shares differs from one discrete Gaussian by tau (`fl.privacy.noise_shares`), charged likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from fl.privacy.mechanisms import LaplaceCounts, Mechanism, NoisyCounts, SharedGaussian
from fl.privacy.noise_shares import sum_correction

Floats = NDArray[np.float64]

WIDTHS = (9.0, 12.0)  # standard deviations within which a discrete Gaussian is compared; the second for a small delta
COUNT_WIDTH = 12.0  # standard deviations of a count's noise whose losses are listed
MOST_LOSSES = 2**17  # listed at once
MOST_TIMES = 64  # counts that one event moves in one release, of which each is listed on its own
ROUNDING = 1e-9  # of delta: float64 errs by far less in the sums below
LEAST_VARIANCE = 4.0  # of a sum of discrete Gaussians that is compared with a rounded one
HOPELESS_EPSILON = 1000.0  # no larger figure helps anybody


class Curve(Protocol):
    """A privacy loss as its curve. An upper bound of delta, for both orders of the two neighbours."""

    def deltas(self, epsilons: Floats) -> Floats:
        """The delta at each of `epsilons`, which may be negative."""


@dataclass(frozen=True)
class Gaussian:
    """The loss of a Gaussian whose mean moves by `mu` standard deviations. 0: nothing is released."""

    mu: float

    def deltas(self, epsilons: Floats) -> Floats:
        """Balle and Wang's curve. At mu = 0 it is that of two equal distributions: 1 - exp(epsilon) below zero."""
        there = np.abs(epsilons)
        above: Floats = np.zeros_like(there)
        if self.mu > 0:
            with np.errstate(over="ignore"):
                high, low = self.mu / 2 - there / self.mu, -self.mu / 2 - there / self.mu
                above = np.maximum(ndtr(high) - np.exp(there + log_ndtr(low)), 0.0)
        below = np.minimum(epsilons, 0.0)
        return np.where(epsilons >= 0, above, -np.expm1(below) + np.exp(below) * above)


@dataclass(frozen=True)
class Losses:
    """A privacy loss with finitely many values: float64[k] each, `mass` of sum 1; it is infinite with `left_out`."""

    value: Floats = field(repr=False)
    mass: Floats = field(repr=False)
    left_out: float = 0.0

    def beside(self, other: Losses) -> Losses:
        """The loss of two releases whose noises are independent."""
        value = (self.value[:, None] + other.value).ravel()
        return Losses(value, (self.mass[:, None] * other.mass).ravel(), self.left_out + other.left_out)


NONE = Losses(np.zeros(1), np.ones(1))


@dataclass(frozen=True)
class Charge:
    """What a comparison of the noise with one that is easier to reckon costs.

    `log_ratio`: of the probabilities, all steps and coordinates together. `beyond`: probability of what is not
    compared. With P and Q the real laws and P', Q' the others, P <= exp(c) P' + b, P' <= exp(e) Q' + delta(e) and
    Q' <= exp(c) Q + b give P <= exp(e + 2 c) Q + exp(c) delta(e) + b (1 + exp(e + c)).
    """

    log_ratio: float = 0.0
    beyond: float = 0.0


@dataclass(frozen=True)
class Loss:
    """The privacy loss of everything that is released about a unit.

    `charges`: ways to compare the noise, of which each is valid alone. `distance`: a statistical distance between what
    is released and what `discrete` and `rest` speak of, under either neighbour.
    """

    discrete: Losses
    rest: Curve
    charges: Sequence[Charge] = (Charge(),)
    distance: float = 0.0

    def delta(self, epsilon: float) -> float:
        """An upper bound of delta at `epsilon` >= 0; at 0 it is the total variation distance of the two neighbours."""
        return min(self._delta(epsilon, charge) for charge in self.charges)

    def _delta(self, epsilon: float, charge: Charge) -> float:
        if charge.beyond >= 1:  # nothing is compared
            return 1.0
        c = charge.log_ratio
        deltas = self.rest.deltas(epsilon - 2 * c - self.discrete.value)
        compared = float(self.discrete.mass @ deltas) * (1 + ROUNDING) + self.discrete.left_out
        paid = _times_exp(compared, c) + charge.beyond + _times_exp(charge.beyond, epsilon - c)
        return min(paid + self.distance + _times_exp(self.distance, epsilon), 1.0)

    def exceeded_with(self, probability: float) -> float | None:
        """A privacy loss that is exceeded with at most `probability`, when the unit was there; None if not known.

        That is more than the epsilon at delta = `probability`: delta(e) is the mean of (1 - exp(e - loss)) where the
        loss exceeds e, and so less than the probability that it does. Discrete and rounded noise are compared as
        `Charge` says, and `distance` is paid, both out of `probability`.
        """
        if not isinstance(self.rest, Gaussian):
            return None
        return min(self._exceeded_with(self.rest.mu, probability, charge) for charge in self.charges)

    def _exceeded_with(self, mu: float, probability: float, charge: Charge) -> float:
        left = probability - charge.beyond - self.distance - self.discrete.left_out

        def beyond(loss: float) -> float:
            over = loss - self.discrete.value
            tails = ndtr((mu * mu / 2 - over) / mu) if mu > 0 else (over < 0).astype(np.float64)
            return _times_exp(float(self.discrete.mass @ tails), charge.log_ratio)

        low, high = 0.0, HOPELESS_EPSILON
        if left <= 0 or beyond(high) > left:
            return math.inf
        while high - low > 1e-9 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if beyond(middle) <= left else (middle, high)
        return high + 2 * charge.log_ratio

    def epsilon(self, delta: float) -> float:
        """The least epsilon >= 0 found at which delta is at most `delta`; infinite beyond `HOPELESS_EPSILON`."""
        return min(self._epsilon(delta, charge) for charge in self.charges)

    def _epsilon(self, delta: float, charge: Charge) -> float:
        # What is charged to delta grows with epsilon. Up to `high` it is a small part, and delta as good as falls;
        # `high` has enough in any case, so that what is found holds whatever the shape of the curve.
        low, high = 0.0, HOPELESS_EPSILON
        if (extra := charge.beyond + self.distance) > 0:
            high = min(high, math.log(delta) - math.log(1e3 * extra))
        if high <= 0 or self._delta(high, charge) > delta:
            return math.inf
        if self._delta(low, charge) <= delta:
            return 0.0
        while high - low > 1e-9 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self._delta(middle, charge) <= delta else (middle, high)
        return high


def listed(counts: Iterable[LaplaceCounts | NoisyCounts], frauds: int = 1) -> Losses | None:
    """The losses of releases of counts, for `frauds` events in the same cells; None when they are too many to list."""
    laplace: dict[float, int] = {}
    gaussian: dict[tuple[int, float], int] = {}
    for entry in counts:
        if isinstance(entry, LaplaceCounts):
            laplace[entry.epsilon] = laplace.get(entry.epsilon, 0) + entry.moved
        else:
            key = (entry.resolution, entry.shares * entry.share_variance)
            gaussian[key] = gaussian.get(key, 0) + entry.columns
    parts = []
    for (resolution, variance), moved in sorted(gaussian.items()):
        if (part := _of_gaussian(frauds * resolution, variance, moved)) is None:
            return None
        parts.append(part)
    parts += [_of_laplace(epsilon, moved, frauds) for epsilon, moved in sorted(laplace.items())]
    if math.prod(len(part.value) for part in parts) > MOST_LOSSES:
        parts = [part for part in parts if part.left_out > 0]
        parts.append(_summed(laplace, frauds))
    if math.prod(len(part.value) for part in parts) > MOST_LOSSES:
        return None
    return reduce(Losses.beside, parts, NONE)


def gaussian_steps(entries: Iterable[Mechanism | SharedGaussian], rows: int = 1) -> Gaussian:
    """The loss of steps that see every row, when `rows` rows are added or removed at once."""
    squares = 0.0
    for entry in entries:
        if isinstance(entry, Mechanism):
            squares += entry.steps / entry.noise_multiplier**2
        else:
            squares += entry.rounds * entry.sensitivity**2 / (entry.shares * entry.share_variance)
    return Gaussian(rows * math.sqrt(squares))


def charges_of(shared: Sequence[SharedGaussian], counts: Iterable[NoisyCounts]) -> tuple[Charge, ...]:
    """What it costs to take sums of discrete Gaussians for what `gaussian_steps` and `listed` speak of."""
    of_sums = sum(entry.columns * sum_correction(entry.share_variance, entry.shares) for entry in counts)
    of_sums += sum(
        entry.rounds * entry.dimension * sum_correction(entry.share_variance, entry.shares) for entry in shared
    )
    values = sum(entry.rounds * entry.dimension for entry in shared)
    if not values:
        return (Charge(of_sums),)
    if min(entry.shares * entry.share_variance for entry in shared) < LEAST_VARIANCE:
        return (Charge(math.inf, 1.0),)
    ratios = sum(entry.rounds * entry.dimension / (24 * entry.shares * entry.share_variance) for entry in shared)
    # A discrete Gaussian leaves `width` with at most 2 exp(-width^2 / 2) (Canonne, Kamath, Steinke, NeurIPS 2020,
    # Proposition 25). So does a rounded one: an edge that is 1/2 further in is less than Mills' ratio leaves room for.
    return tuple(Charge(of_sums + width**2 * ratios, 2 * values * math.exp(-(width**2) / 2)) for width in WIDTHS)


def exact_loss(
    steps: Sequence[Mechanism | SharedGaussian], counts: Sequence[LaplaceCounts | NoisyCounts], frauds: int = 1
) -> Loss | None:
    """The loss of steps that see every row and of counts, when `frauds` rows are added or removed at once.

    The rows are taken to lie in the same cells of the counts. None when the losses are too many to list.
    """
    discrete = listed(counts, frauds)
    if discrete is None:
        return None
    shared = [entry for entry in steps if isinstance(entry, SharedGaussian)]
    charges = charges_of(shared, [entry for entry in counts if isinstance(entry, NoisyCounts)])
    return Loss(discrete, gaussian_steps(steps, frauds), charges, distance_of(counts))


def distance_of(counts: Iterable[LaplaceCounts | NoisyCounts]) -> float:
    """Statistical distance of the releases from what their losses speak of."""
    return sum(entry.distance for entry in counts if isinstance(entry, LaplaceCounts))


def _of_laplace(epsilon: float, moved: int, frauds: int) -> Losses:
    """`moved` counts that `frauds` events move by `frauds` each: noise x has the loss epsilon (|x - f| - |x|).

    Noise of a larger q than exp(-epsilon), or two reports of an event under noise of sqrt(q), can be made of this one
    without knowing the counts, so that it costs no more: three consecutive probabilities a, b, c of an outcome obey
    (1 + q^2) b >= q (a + c), which is the condition of Gupte, Sundararajan, "Universally Optimal Privacy Mechanisms for
    Minimax Agents" (PODS 2010).
    """
    if moved > MOST_TIMES:
        return _summed({epsilon: moved}, frauds)
    q = math.exp(-epsilon)
    between = np.arange(1, frauds)
    mass = np.concatenate([[1.0], (1 - q) * q**between, [q**frauds]]) / (1 + q)  # of x <= 0, 1 .. f - 1, x >= f
    return _repeated(frauds * epsilon, -2 * epsilon, mass, moved)


def _summed(laplace: dict[float, int], frauds: int) -> Losses:
    """Randomised response of the summed epsilon, than which no mechanism of that epsilon costs more.

    Every such mechanism can be made of it: Kairouz, Oh, Viswanath, "The Composition Theorem for Differential Privacy"
    (ICML 2015).
    """
    total = frauds * sum(epsilon * moved for epsilon, moved in laplace.items())
    often = 1 / (1 + math.exp(-total)) if total < HOPELESS_EPSILON else 1.0
    return Losses(np.array([total, -total]), np.array([often, 1 - often]))


def _of_gaussian(distance: int, variance: float, moved: int) -> Losses | None:
    """`moved` counts that move by `distance` grid units each: noise x has the loss (d^2 - 2 d x) / (2 variance)."""
    reach = math.ceil(COUNT_WIDTH * math.sqrt(variance))
    if moved > MOST_TIMES or (2 * reach + 1) * moved > MOST_LOSSES:
        return None
    noise = np.arange(-reach, reach + 1, dtype=np.float64)
    weight = np.exp(-(noise**2) / (2 * variance))
    highest = (distance**2 + 2 * distance * reach) / (2 * variance)  # at the noise -reach
    found = _repeated(highest, -distance / variance, weight / weight.sum(), moved)
    return Losses(found.value, found.mass, moved * 2 * math.exp(-(COUNT_WIDTH**2) / 2))


def _repeated(first: float, step: float, mass: Floats, times: int) -> Losses:
    """The loss of `times` releases: each has the losses first, first + step, ... with the probabilities `mass`."""
    together: Floats = np.ones(1)
    for _ in range(times):
        together = np.convolve(together, mass)
    return Losses(times * first + step * np.arange(len(together), dtype=np.float64), together)


def _times_exp(value: float, exponent: float) -> float:
    """`value` * exp(`exponent`), infinite where that is no number."""
    return value * math.exp(exponent) if exponent < 700 else math.inf if value > 0 else 0.0
