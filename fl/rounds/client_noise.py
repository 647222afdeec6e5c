"""Client-level differential privacy: one bank's whole update is the unit, and the noise is inside the encrypted sum.

What it does: clips an update in L2, rounds it to an integer grid, adds a discrete Gaussian share drawn after the
roster closed, and turns the encrypted sum into the average.

What it leaves to others: what rounds cost (`fl.privacy.mechanisms.ClientRounds`), the encrypted sum
(`fl.secure.session`), training, which needs no noise of its own here.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation" (ICML 2021), with plain rounding instead of rotation and randomised rounding: rounding moves an update
of d values by at most sqrt(d) / 2 grid units, which is added to the sensitivity. The grid is so fine that this is a
few per cent.

The promise: whoever sees every average cannot tell whether a bank contributed its update or zeros. It holds against
coalitions of `colluders` banks together with aggregator and key holder. The noise of a sum does not shrink with the
number of rows but with the number of banks: with ten banks it is large.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fl.errors import AggregationError, BudgetError
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.mechanisms import ClientRounds
from fl.privacy.noise_shares import tail_bound
from fl.privacy.randomness import Entropy
from fl.secure.session import Aggregate, Draw, Integers, Update, noisy_sum

CLIP_STEPS = 2**11  # grid units in the clipping norm, before noise


@dataclass(frozen=True)
class ClientPlan:
    """What every bank does to its update. All of it is public."""

    clip_norm: float  # L2 bound of an update
    dimension: int
    banks: int
    once: ClientRounds  # what one round costs: the noise of every share

    def __post_init__(self) -> None:
        if not self.clip_norm > 0:
            raise BudgetError(f"clip norm of an update: expected > 0, got {self.clip_norm}")

    @property
    def step(self) -> float:
        """Width of a grid unit, in the unit of the update."""
        return self.clip_norm / CLIP_STEPS

    @property
    def variance(self) -> Fraction:
        return Fraction(self.once.share_variance)

    @property
    def largest(self) -> int:
        """Largest integer that a bank contributes: a clipped coordinate and noise within its tail bound."""
        return CLIP_STEPS + 1 + tail_bound(self.variance, self.dimension)


def sensitivity(dimension: int) -> float:
    """L2 length, in grid units, of any clipped and rounded update of `dimension` values."""
    return CLIP_STEPS + math.sqrt(dimension) / 2


def private_integers(update: Update, plan: ClientPlan, roster: int, *, entropy: Entropy = os.urandom) -> Integers:
    """int64[dimension]: clipped, rounded, and with this bank's share of the noise. `entropy`: for tests only.

    Raises `AggregationError` for another roster than planned, another length, or an update that is not finite.
    """
    if roster != plan.banks:
        raise AggregationError(f"noise was planned for {plan.banks} banks and the roster holds {roster}: plan anew")
    if update.shape != (plan.dimension,) or not np.isfinite(update).all():
        raise AggregationError(f"update: expected {plan.dimension} finite values, got shape {update.shape} or others")
    values = update.astype(np.float64)
    values *= min(1.0, plan.clip_norm / max(float(np.linalg.norm(values)), 1e-300))
    grid = np.rint(values / plan.step).astype(np.int64)
    share = discrete_gaussian(plan.dimension, plan.variance, entropy=entropy)
    noised: Integers = np.clip(grid + share, -plan.largest, plan.largest)
    return noised


def private_average(updates: Sequence[Update], plan: ClientPlan, *, model_hash: str, engine: str = "auto") -> Aggregate:
    """Average `updates` (one float32[dimension] per bank) under encryption, with everybody's noise in the sum.

    `error_bound` is that of the noise, with probability 1 - 2^-100. `clipped` counts 1 for a bank whose
    update was longer than the clipping norm; it stays at the bank in a deployment. The caller has recorded the spend.
    """

    def draw_for(update: Update) -> Draw:
        return lambda roster: private_integers(update, plan, roster)

    return noisy_sum(
        [draw_for(update) for update in updates],
        length=plan.dimension,
        largest=plan.largest,
        unit=plan.step / len(updates),
        error_bound=plan.step * (tail_bound(plan.variance, plan.dimension) + 0.5),
        clipped=tuple(int(np.linalg.norm(update.astype(np.float64)) > plan.clip_norm) for update in updates),
        model_hash=model_hash,
        engine=engine,
    )
