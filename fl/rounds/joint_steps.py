"""DP-SGD with one noise for all banks: a round is one step that all banks take together.

    bank k:  G_k = sum over its rows of clip(gradient of a row, C)      every row, every step: no sampling
    all:     g_t = (sum over k of G_k, noise included) / divisor        `fl.rounds.joint_noise`
             v_t = momentum * v_(t-1) + g_t                             float64, part of the checkpoint
             w_t = w_(t-1) - learning_rate * v_t

The last two lines are SGD with momentum (Polyak 1964) on released values only, as in DP-SGD (Abadi et al., CCS 2016).
Every bank computes them itself.

Where every bank protects its rows with its own noise (`fl.learning.training.train_private`), the sum of n banks has n
times that noise. Here the n - t shares that no coalition of t banks knows are together one noise for the rows of all
banks. This needs trust: a bank's rows are protected only while the masked sum is protected, and while at most t banks
collude (with aggregator and key holder, and including the observer of the model). A bank's own noise needs neither.

Gradients are summed in float64: a float32 sum of thousands of rows could move by more than C when one row is added.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fl.data.federation import Rows
from fl.learning.training import LocalTraining
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import ReleasedAverage, State, Timetable, Vector
from fl.secure.session import Update

PHYSICAL_BATCH = 4096  # rows whose gradients are in memory at once; it does not change the result
VELOCITY = "velocity"

Gradient = NDArray[np.float64]


@dataclass(frozen=True)
class JointSteps(FedAvg):
    """`max_grad_norm`: L2 bound C of one row's gradient. `local`: learning rate, momentum and the weight of a fraud."""

    name: ClassVar[str] = "joint steps"
    timetable: Timetable
    max_grad_norm: float
    local: LocalTraining

    def begin(self, first: Vector) -> State:
        return State(first, {VELOCITY: np.zeros(first.shape)})

    def contribution(self, module: nn.Module, rows: Rows, train: Callable[[], None]) -> Update:
        return clipped_gradient_sum(module, rows, max_grad_norm=self.max_grad_norm, pos_weight=self.local.pos_weight)

    def apply(self, state: State, released: ReleasedAverage) -> State:
        velocity = self.local.momentum * state.memory[VELOCITY] + released.average
        return State((state.model - self.local.learning_rate * velocity).astype(np.float32), {VELOCITY: velocity})


def clipped_gradient_sum(module: nn.Module, rows: Rows, *, max_grad_norm: float, pos_weight: float) -> Gradient:
    """float64[length]: the sum over `rows` of every row's gradient, each clipped to L2 norm `max_grad_norm`.

    In the order of `module.parameters()`. Dropout is off. The module is not changed. The result is plaintext: never log
    it.
    """
    wide = copy.deepcopy(module).double()
    device = next(wide.parameters()).device
    for layer in wide.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    norms = GradSampleModuleFastGradientClipping(wide, loss_reduction="sum", max_grad_norm=max_grad_norm)
    x, y = torch.from_numpy(rows.x).to(device).double(), torch.from_numpy(rows.y).to(device).double()
    weight = torch.tensor(pos_weight, device=device, dtype=torch.float64)
    total = torch.zeros(sum(parameter.numel() for parameter in wide.parameters()), dtype=torch.float64, device=device)
    norms.train()  # Opacus computes per-row gradients in training mode only
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        for start in range(0, len(rows), PHYSICAL_BATCH):
            part = slice(start, start + PHYSICAL_BATCH)
            logits = norms(x[part]).reshape(-1)
            losses = binary_cross_entropy_with_logits(logits, y[part], pos_weight=weight, reduction="none")
            # Ghost clipping (Li et al., ICLR 2022): the first pass computes every row's norm without its gradient, the
            # second the sum of the gradients, each scaled to the clipping norm.
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
