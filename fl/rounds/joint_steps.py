"""DP-SGD with one noise for all banks: each adds a share of it to its clipped gradients before it encrypts.

What it does: one bank's sum of clipped row gradients (`clipped_gradient_sum`), that sum as integers with a share of the
noise (`noised_integers`), and the mean gradient of all banks out of one encrypted sum (`shared_gradient`).

What it leaves to others: what a step costs (`fl.privacy.mechanisms.SharedSteps`), the encrypted sum
(`fl.secure.session`), the order of the steps (`fl.rounds.joint_rounds`).

    bank k:  G_k = sum over its rows of clip(gradient of a row, C)      every row, every step: no sampling
             X_k = round(G_k / step) + discrete Gaussian share          integers, step = C / 2048
    all:     g   = -(sum over k of X_k) * step / divisor                divisor: a public constant

Where every bank protects its rows by noise of its own (`fl.learning.training.train_private`), n banks put n times that
noise into their mean. Here the n - t shares that no coalition of t banks knows make up one noise for everybody's rows.
The price is trust: a bank's rows are protected as long as the masked sum is, and at most t banks collude (with
aggregator and key holder, and counting whoever looks at the model); noise of one's own needs neither.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation" (ICML 2021), with a row as the unit, full batches instead of amplification by sampling, and plain rounding
instead of rotation and randomised rounding. One row moves G_k by at most C in L2, and its rounded form by at most
sqrt(d) grid units more, for d values: each of the two roundings errs by at most 1/2 per coordinate.

Gradients are summed in float64: a float32 sum of thousands of rows could move by more than C when one row is added.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fl.data.federation import Rows
from fl.errors import AggregationError, BudgetError
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.mechanisms import SharedSteps
from fl.privacy.noise_shares import tail_bound
from fl.privacy.randomness import Entropy
from fl.secure.session import Aggregate, Draw, Integers, noisy_sum

GRID = 2**11  # grid units in the clipping norm, before noise
MOST_ROWS = 2**16  # clipped gradients that may add up in one coordinate; what is beyond is cut
FLOAT_SLACK = 1e-6  # of the clipping norm: float64 sums of up to 10^8 rows err by far less
PHYSICAL_BATCH = 4096  # rows whose gradients are in memory at once; changes nothing else

Gradient = NDArray[np.float64]


@dataclass(frozen=True)
class SharedStepPlan:
    """What every bank does alike in every step. All of it is public."""

    max_grad_norm: float  # L2 bound C of one row's gradient
    divisor: float  # rows of all banks together: a public constant, never their number
    dimension: int
    banks: int
    pieces: int  # discrete Gaussians that make one bank's share: the exact sampler has a largest variance
    once: SharedSteps  # what one step costs: the noise of every piece that nobody in the coalition knows

    def __post_init__(self) -> None:
        if not (self.max_grad_norm > 0 and self.divisor > 0):
            raise BudgetError(
                f"expected a positive clipping norm and divisor, got {self.max_grad_norm} and {self.divisor}"
            )
        if self.once.sensitivity < sensitivity(self.dimension) or self.once.dimension != self.dimension:
            raise BudgetError(f"the noise was planned for another model than one of {self.dimension} values")

    @property
    def grid(self) -> float:
        """Width of a grid unit, in the unit of a gradient."""
        return self.max_grad_norm / GRID

    @property
    def variance(self) -> Fraction:
        return Fraction(self.once.share_variance)

    @property
    def largest(self) -> int:
        """Largest integer that a bank contributes: a full sum, and noise within its tail bound."""
        return GRID * MOST_ROWS + self.pieces * tail_bound(self.variance, self.pieces * self.dimension)

    @property
    def released_sigma(self) -> float:
        """Standard deviation of all the noise in one released sum, in units of the clipping norm."""
        return math.sqrt(self.banks * self.pieces * self.once.share_variance) / GRID


def sensitivity(dimension: int) -> float:
    """Furthest that one row, added or removed, moves a bank's rounded sum of `dimension` values: L2, grid units."""
    return GRID * (1 + FLOAT_SLACK) + math.sqrt(dimension)


def clipped_gradient_sum(
    module: nn.Module, rows: Rows, *, max_grad_norm: float, pos_weight: float, device: torch.device
) -> Gradient:
    """float64[length]: the sum over `rows` of every row's gradient, each clipped to L2 norm `max_grad_norm`.

    In the order of `module.parameters()`. Dropout is off. The module is left as it was. Plaintext: never log it.
    """
    wide = copy.deepcopy(module).double()
    for layer in wide.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    norms = GradSampleModuleFastGradientClipping(wide, loss_reduction="sum", max_grad_norm=max_grad_norm)
    x, y = torch.from_numpy(rows.x).to(device).double(), torch.from_numpy(rows.y).to(device).double()
    weight = torch.tensor(pos_weight, device=device, dtype=torch.float64)
    total = torch.zeros(sum(parameter.numel() for parameter in wide.parameters()), dtype=torch.float64, device=device)
    norms.train()  # Opacus watches gradients in training mode only
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        for start in range(0, len(rows), PHYSICAL_BATCH):
            part = slice(start, start + PHYSICAL_BATCH)
            logits = norms(x[part]).reshape(-1)
            losses = binary_cross_entropy_with_logits(logits, y[part], pos_weight=weight, reduction="none")
            # Ghost clipping (Li et al., ICLR 2022): the first pass gives every row's norm without its gradient, the
            # second the sum of gradients, each scaled by what its norm allows.
            losses.sum().backward(retain_graph=True)
            scale = norms.get_clipping_coef()
            norms.disable_hooks()
            wide.zero_grad()
            (scale * losses).sum().backward()
            norms.enable_hooks()
            total += torch.cat([_gradient_of(parameter) for parameter in wide.parameters()])
            norms.zero_grad()
    summed: Gradient = total.cpu().numpy()
    return summed


def _gradient_of(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.reshape(-1)


def noised_integers(
    gradient: Gradient, plan: SharedStepPlan, roster: int, *, entropy: Entropy = os.urandom
) -> Integers:
    """int64[dimension]: a bank's clipped sum in grid units with its share of the noise. `entropy`: for tests only.

    Raises `AggregationError` for another roster than planned, another length, or a sum that is not finite.
    """
    if roster != plan.banks:
        raise AggregationError(f"noise was planned for {plan.banks} banks and the roster holds {roster}: plan anew")
    if gradient.shape != (plan.dimension,) or not np.isfinite(gradient).all():
        raise AggregationError(f"gradient: expected {plan.dimension} finite values, got {gradient.shape} or others")
    # Cutting is a projection: it moves two neighbouring sums no further apart.
    reach = GRID * MOST_ROWS
    integers = np.rint(np.clip(gradient / plan.grid, -reach, reach)).astype(np.int64)
    for _ in range(plan.pieces):
        integers += discrete_gaussian(plan.dimension, plan.variance, entropy=entropy)
    noised: Integers = np.clip(integers, -plan.largest, plan.largest)
    return noised


def shared_gradient(
    gradients: Sequence[Gradient], plan: SharedStepPlan, *, model_hash: str, engine: str | None = "auto"
) -> Aggregate:
    """The noisy mean gradient: sum over banks / `plan.divisor`, float64[dimension], and what it cost.

    `gradients`: one clipped sum per bank. The caller has recorded the spend. `engine`: None adds in plain sight, where
    a bank's share hides its rows as far as a share alone can: a baseline. `error_bound` is that of the noise per
    coordinate, but for a probability of 2^-100.
    """

    def draw_for(gradient: Gradient) -> Draw:
        return lambda roster: noised_integers(gradient, plan, roster)

    unit = plan.grid / plan.divisor
    tail = plan.pieces * tail_bound(plan.variance, plan.pieces * plan.dimension) + 0.5
    return noisy_sum(
        [draw_for(gradient) for gradient in gradients],
        length=plan.dimension,
        largest=plan.largest,
        unit=unit,
        error_bound=len(gradients) * tail * unit,
        clipped=(0,) * len(gradients),
        model_hash=model_hash,
        engine=engine,
    )
