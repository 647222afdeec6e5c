"""Train a model locally at one bank: from the global model of a round, on the bank's own rows.

What it does: seeded mini-batch training (`train_seeded`), DP-SGD (`train_private`), prediction, and the
choice of device.

Sources: DP-SGD, Abadi et al., CCS 2016, Algorithm 1, with per-row gradients and clipping by Opacus; FedProx'
term from `fl.learning.proximal`. A weighted loss corrects class imbalance. Resampling would change the sampling
rate that the accountant uses.

A privacy proof needs four properties, and this module provides them as follows:

- Batches are Poisson samples at a public rate and are drawn by the operating system's generator.
- The divisor of a noisy gradient is a public constant, not a function of how many rows the bank holds
  (arXiv 2605.15648).
- An empty batch still takes its noisy step.
- Dropout masks are seeded from the operating system. A row's mask depends on its position in the batch. With a *known*
  seed, removing one row would change the masks of later rows, and thus more than one clipped gradient. Masks that are
  independent and unknown are exchangeable, and the usual sensitivity argument holds for every fixed assignment.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fl import options
from fl.data.federation import Rows
from fl.errors import DeviceError, TrainingError
from fl.learning.proximal import add_proximal_gradient, anchor_of
from fl.privacy.randomness import Entropy, normals, poisson_sample
from fl.seeds import derive_seed as derive_seed

PHYSICAL_BATCH = 1024  # rows in memory at once, if no smaller number is set
PREDICTION_BATCH = 65_536  # rows


@dataclass(frozen=True)
class LocalTraining:
    """The settings that all banks share in a round. All of them are public."""

    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: Annotated[float, options.RATE_OR_BY_NOISE] = 3e-3
    momentum: Annotated[float, options.MOMENTUM] = 0.0  # of sgd
    # Weight of a fraud's loss: a public constant, never a count of frauds.
    pos_weight: Annotated[float, options.POS_WEIGHT] = 4.0
    epochs: Annotated[int, options.EPOCHS] = 1  # passes over the bank's rows per round (without DP)
    batch_size: Annotated[int, options.BATCH_SIZE] = 128  # rows (without DP)

    def __post_init__(self) -> None:
        options.check(self, TrainingError)


@dataclass(frozen=True)
class PrivateSteps:
    """The noisy steps of one round, as the accountant counts them. All of them are public."""

    sample_rate: Annotated[float, options.SAMPLE_RATE]  # probability of a row being in a batch
    noise_multiplier: Annotated[float, options.NOISE_MULTIPLIER]  # noise standard deviation / max_grad_norm
    steps: Annotated[int, options.STEPS]  # optimiser steps per round
    max_grad_norm: Annotated[float, options.MAX_GRAD_NORM]  # L2 bound of one row's gradient
    expected_batch: Annotated[float, options.EXPECTED_BATCH]  # rows: the public divisor of a summed gradient

    def __post_init__(self) -> None:
        options.check(self, TrainingError)


def pick_device(name: str) -> torch.device:
    """The torch device called `name` ("cpu" or "cuda"). Raises `DeviceError` when this machine has none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("expected a CUDA device for --device cuda, torch found none: use --device cpu")
    if name not in ("cpu", "cuda"):
        raise DeviceError(f"device must be cpu or cuda, got {name!r}")
    return torch.device(name)


def train_seeded(
    module: nn.Module,
    rows: Rows,
    local: LocalTraining,
    *,
    seed: int,
    device: torch.device,
    proximal: float = 0.0,
    at_once: int = PHYSICAL_BATCH,
) -> None:
    """Train `module` in place for `local.epochs` passes over `rows`.

    The same seed and thread count give the same weights. `proximal`: FedProx' mu. `at_once`: rows whose activations are
    in memory together; a larger batch is added up in pieces, with dropout masks drawn per piece.

    Raises `TrainingError` when there are no rows or the weights stop being finite.
    """
    if len(rows) == 0:
        raise TrainingError("there are no training rows: check the partition and the training period")
    anchor = anchor_of(module)
    optimiser = optimiser_of(module, local)
    x, y = _tensors(rows, device)
    module.train()
    with torch.random.fork_rng(devices=_cuda_index(device)):
        torch.manual_seed(seed)
        for _ in range(local.epochs):
            order = torch.randperm(len(y)).to(device)
            for batch in torch.split(order, local.batch_size):
                optimiser.zero_grad()
                for part in torch.split(batch, at_once):
                    # Each piece adds its share of the batch's mean.
                    loss = weighted_loss(module, x[part], y[part], local.pos_weight, "mean")
                    share = loss if len(part) == len(batch) else loss * (len(part) / len(batch))
                    share.backward()
                add_proximal_gradient(module, anchor, proximal)
                optimiser.step()
    require_finite(module)


def train_private(
    module: nn.Module,
    rows: Rows,
    local: LocalTraining,
    private: PrivateSteps,
    *,
    device: torch.device,
    proximal: float = 0.0,
    at_once: int = PHYSICAL_BATCH,
    entropy: Entropy = os.urandom,
) -> None:
    """Train `module` in place with `private.steps` steps of DP-SGD over `rows`.

    The caller has recorded the spend before calling (`fl.privacy.budget.BudgetLedger.spend`). `at_once`: rows whose
    gradients are in memory together. `entropy` is a parameter for tests only: anything but `os.urandom` voids the
    guarantee. Nothing about the rows is returned or logged, not even the loss.

    Raises `TrainingError` when the weights stop being finite.
    """
    anchor = anchor_of(module)
    x, y = _tensors(rows, device)
    module.train()
    per_row = GradSampleModule(module, loss_reduction="sum")
    optimiser = SystemNoiseOptimizer(optimiser_of(module, local), private, entropy)
    try:
        with torch.random.fork_rng(devices=_cuda_index(device)), warnings.catch_warnings():
            # Opacus hooks the first layer, whose input needs no gradient; its per-row gradients are correct.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.manual_seed(int.from_bytes(entropy(8), "little") >> 1)  # dropout: see the module docstring
            for _ in range(private.steps):
                batch = torch.from_numpy(poisson_sample(len(rows), private.sample_rate, entropy=entropy)).to(device)
                _sum_clipped_gradients(per_row, optimiser, x[batch], y[batch], local.pos_weight, at_once)
                optimiser.pre_step()
                # The proximal term depends on no row, so it is added after the noise and is neither clipped
                # nor divided.
                add_proximal_gradient(module, anchor, proximal)
                optimiser.original_optimizer.step()
                optimiser.zero_grad()
    finally:
        per_row.to_standard_module()
    require_finite(module)


class SystemNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus has no types
    """Opacus' DPOptimizer (clip per row, sum, add noise, divide) with noise from the operating system's generator."""

    def __init__(self, optimiser: torch.optim.Optimizer, private: PrivateSteps, entropy: Entropy = os.urandom) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=private.noise_multiplier,
            max_grad_norm=private.max_grad_norm,
            expected_batch_size=private.expected_batch,
            loss_reduction="mean",
        )
        self._entropy = entropy

    def add_noise(self) -> None:
        """Gradient = sum of clipped row gradients + N(0, (noise_multiplier * max_grad_norm)^2), added in float64."""
        std = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = torch.from_numpy(std * normals(p.numel(), entropy=self._entropy)).to(p.device)
            noisy = p.summed_grad.double() + noise.view_as(p)
            p.grad = noisy.to(p.dtype)
            p.summed_grad._processed = True  # Opacus refuses to use a summed gradient twice


def predict(module: nn.Module, x: NDArray[np.float32], *, device: torch.device) -> NDArray[np.float64]:
    """Fraud probability of each row of `x` (float32[n, inputs]): float64[n] in [0, 1]."""
    module.eval()
    parts = [np.empty(0)]
    with torch.no_grad():
        for start in range(0, len(x), PREDICTION_BATCH):
            part = torch.from_numpy(np.ascontiguousarray(x[start : start + PREDICTION_BATCH])).to(device)
            # Sigmoid in float64: in float32 the probabilities of all logits above 17 would be 1.
            parts.append(torch.sigmoid(module(part).reshape(-1).double()).cpu().numpy())
    return np.concatenate(parts)


def _sum_clipped_gradients(
    per_row: nn.Module,
    optimiser: SystemNoiseOptimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    pos_weight: float,
    at_once: int,
) -> None:
    """Clip and sum the gradients of a Poisson batch, `at_once` rows at a time; the step processes the last chunk."""
    chunks = range(0, max(len(y), 1), at_once)  # an empty batch is one empty chunk
    for start in chunks:
        part = slice(start, start + at_once)
        weighted_loss(per_row, x[part], y[part], pos_weight, "sum").backward()
        if start != chunks[-1]:
            optimiser.signal_skip_step(True)
            optimiser.pre_step()
            optimiser.zero_grad()
    optimiser.signal_skip_step(False)


def weighted_loss(
    module: nn.Module, x: torch.Tensor, y: torch.Tensor, pos_weight: float, reduction: str
) -> torch.Tensor:
    """Binary cross-entropy of `module`'s logits for `x` against `y`, in which a fraud has the weight `pos_weight`."""
    weight = torch.tensor(pos_weight, device=y.device)
    return binary_cross_entropy_with_logits(module(x).reshape(-1), y, pos_weight=weight, reduction=reduction)


def optimiser_of(module: nn.Module, local: LocalTraining) -> torch.optim.Optimizer:
    """The optimiser that `local` names, over all of `module`'s parameters."""
    if local.optimiser == "adam":
        return torch.optim.Adam(module.parameters(), lr=local.learning_rate)
    return torch.optim.SGD(module.parameters(), lr=local.learning_rate, momentum=local.momentum)


def _tensors(rows: Rows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(rows.x).to(device), torch.from_numpy(rows.y).to(device)


def _cuda_index(device: torch.device) -> list[Any]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []


def require_finite(module: nn.Module) -> None:
    """Raise `TrainingError` where a weight is NaN or infinite."""
    for name, p in module.named_parameters():
        if not bool(torch.isfinite(p).all()):
            raise TrainingError(f"training diverged: {name} is NaN or infinite; lower --learning-rate")
