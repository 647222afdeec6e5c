"""Add one noise for all banks: each bank adds a share of it to its contribution, inside the encrypted sum.

    bank k:  X_k = round(v_k / unit) + discrete Gaussian share      integers, unit = clipping norm / GRID
    all:     (sum over k of X_k) * unit / divisor                   divisor: a public constant

`v_k` is the bank's whole update, shortened to the clipping norm (`ClientRounds`: the unit of privacy is the bank), or
the sum of its clipped row gradients (`SharedSteps`: the unit is a training row; `fl.rounds.joint_steps`). Shares are
drawn after the roster has closed. `fl.privacy.mechanisms` accounts for the cost of a sum.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation" (ICML 2021), with plain rounding instead of rotation and randomised rounding. Rounding errs by at most 1/2
per coordinate: it adds sqrt(d) / 2 grid units to the L2 length of an update of d values, and sqrt(d) to the distance of
two sums that differ in one row. The grid is so fine that this adds a few per cent.

The promise is differential privacy: whoever sees every released sum cannot tell whether a bank contributed its update
or zeros, or whether a row was used. It holds against coalitions of the planned number of colluding banks together with
aggregator and key holder, as long as the masked sum protects the shares. The noise relative to the mean shrinks with
the number of banks, not with the number of rows: for whole updates of ten banks it is large.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fl.errors import AggregationError, BudgetError
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.mechanisms import ClientRounds, SharedSteps
from fl.privacy.noise_shares import tail_bound
from fl.privacy.randomness import Entropy
from fl.secure.cost import bits_for
from fl.secure.session import Aggregate, Draw, Integers, IntegerSum, Joined, encrypted_sum

GRID = 2**11  # grid units in the clipping norm, before noise
MOST_ROWS = 2**16  # clipped gradients that may add up in one coordinate; a larger value is cut
FLOAT_SLACK = 1e-6  # of the clipping norm: float64 sums of up to 10^8 rows err by far less


def update_sensitivity(dimension: int) -> float:
    """L2 length, in grid units, of any shortened and rounded update of `dimension` values."""
    return GRID + math.sqrt(dimension) / 2


def row_sensitivity(dimension: int, reports: int = 1) -> float:
    """Largest L2 change of the rounded sums of `dimension` values by one row, in grid units.

    `reports`: how many banks report one transaction. It is a row of each of them, and each rounds its own sum.
    """
    return reports * (GRID * (1 + FLOAT_SLACK) + math.sqrt(dimension))


@dataclass(frozen=True)
class JointNoise:
    """The settings by which every bank treats its vector. All of them are public."""

    clip_norm: float  # L2 bound of an update, or of one row's gradient
    divisor: float  # of the sum: banks, or rows of all banks together; a public constant, never a count of rows
    banks: int  # number of banks of the roster, none of which may be missing
    once: ClientRounds | SharedSteps  # privacy cost of one sum, from the noise that the planned coalition does not know
    pieces: int = 1  # discrete Gaussians per share, because the exact sampler has a largest variance

    def __post_init__(self) -> None:
        if not (self.clip_norm > 0 and self.divisor > 0):
            raise BudgetError(f"expected a positive clipping norm and divisor, got {self.clip_norm} and {self.divisor}")
        least = update_sensitivity if self.of_updates else row_sensitivity
        if self.once.sensitivity < least(self.dimension):
            raise BudgetError(f"expected noise for a model of {self.dimension} values, got noise for another model")

    @property
    def of_updates(self) -> bool:
        """Whether the vectors are whole updates; otherwise they are sums of row gradients."""
        return isinstance(self.once, ClientRounds)

    @property
    def dimension(self) -> int:
        return self.once.dimension

    @property
    def unit(self) -> float:
        """Width of a grid unit, in the unit of the vectors."""
        return self.clip_norm / GRID

    @property
    def variance(self) -> Fraction:
        return Fraction(self.once.share_variance)

    @property
    def tail(self) -> int:
        """A bound of a bank's share, in grid units; a coordinate exceeds it with probability at most 2^-100."""
        return self.pieces * tail_bound(self.variance, self.pieces * self.dimension)

    @property
    def reach(self) -> int:
        """Largest coordinate before noise, in grid units."""
        return GRID + 1 if self.of_updates else GRID * MOST_ROWS

    @property
    def largest(self) -> int:
        """Largest integer that a bank contributes."""
        return self.reach + self.tail

    @property
    def released_sigma(self) -> float:
        """Standard deviation of all the noise in one released sum, in units of the clipping norm."""
        return math.sqrt(self.banks * self.pieces * self.once.share_variance) / GRID

    def integers(self, vector: NDArray[np.floating], roster: int, *, entropy: Entropy = os.urandom) -> Integers:
        """int64[dimension]: `vector` in grid units with a bank's share of the noise. `entropy`: for tests only.

        Raises `AggregationError` for another roster than planned, another length, or a vector that is not finite.
        """
        if roster != self.banks:
            raise AggregationError(f"noise is planned for {self.banks} banks, got a roster of {roster}: plan anew")
        if vector.shape != (self.dimension,) or not np.isfinite(vector).all():
            raise AggregationError(f"expected {self.dimension} finite values, got shape {vector.shape} or NaN")
        values = vector.astype(np.float64)
        if self.of_updates:
            values *= min(1.0, self.clip_norm / max(float(np.linalg.norm(values)), 1e-300))
        # Cutting is a projection: it does not increase the distance of two neighbouring sums.
        noised: Integers = np.rint(np.clip(values / self.unit, -self.reach, self.reach)).astype(np.int64)
        drawn = discrete_gaussian(self.pieces * self.dimension, self.variance, entropy=entropy)
        noised += drawn.reshape(self.pieces, -1).sum(axis=0)
        return np.clip(noised, -self.largest, self.largest)

    def averaged(self, totals: Integers) -> NDArray[np.float64]:
        """float64[dimension]: the sum of all banks' `integers`, in the unit of the vectors, over `divisor`."""
        average: NDArray[np.float64] = totals.astype(np.float64) * (self.unit / self.divisor)
        return average

    def average(self, joined: Joined, *, engine: str | None = "auto") -> Aggregate:
        """The sum of the banks' vectors over `divisor`, with the noise of all banks in it.

        The caller has recorded the spend. `engine`: None adds without encryption, where only its own noise share hides
        a bank's vector: a baseline. `error_bound` is that of the noise, with probability 1 - 2^-100. `clipped`
        counts 1 for a bank whose update was longer than the clipping norm; it stays at the bank in a deployment.
        """
        start, noise_seconds = time.perf_counter(), 0.0
        entered: list[Integers] = []

        def draw_of(vector: NDArray[np.floating]) -> Draw:
            def draw(roster: int) -> Integers:
                nonlocal noise_seconds
                begun = time.perf_counter()
                entered.append(self.integers(vector, roster))
                noise_seconds += time.perf_counter() - begun
                return entered[-1]

            return draw

        draws = [draw_of(vector) for vector in joined.updates]
        if engine is None:
            totals: Integers = np.sum([draw(len(draws)) for draw in draws], axis=0)
            summed = IntegerSum(totals, bytes_up=0, bytes_down=0, seconds=0.0, value_bits=bits_for(self.largest))
        else:
            summed = encrypted_sum(
                draws, length=self.dimension, largest=self.largest, model_hash=joined.model_hash, engine=engine
            )
        return Aggregate(
            average=self.averaged(summed.totals),
            error_bound=len(draws) * (self.tail + 0.5) * (self.unit / self.divisor),
            clipped=tuple(int(self.of_updates and _length(vector) > self.clip_norm) for vector in joined.updates),
            stages={"noise": noise_seconds, **summed.stages},
            bytes_up=summed.bytes_up,
            bytes_down=summed.bytes_down,
            seconds=time.perf_counter() - start - summed.preparation,
            total_weight=len(draws),
            value_bits=summed.value_bits,
            entered=self.averaged(np.sum(entered, axis=0)),
            preparation=summed.preparation,
        )


def _length(vector: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))
