"""Train a network on rows that lie in one place, for the baselines of a run: as a bank does in a round, and faster.

What it does: `train_centrally` makes the passes of `fl.learning.training.train_seeded`. For a chain of linear layers,
ReLU and dropout on the CPU it leaves out the bookkeeping of autograd, and draws the masks of dropout from 16 random
bits per unit: a small network spends more time in both than in its arithmetic. Without dropout its gradients are those
of torch, bit for bit; with it, masks have the same law but for the rounding of the probability to 1/65,536. Any other
module, and any module on another device, trains with `train_seeded`.

Rounds do not train in this way: with other random numbers, their figures would change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from fl.data.federation import Rows
from fl.errors import TrainingError
from fl.learning.training import PHYSICAL_BATCH, LocalTraining, optimiser_of, require_finite, train_seeded

STEPS = 2**16  # of a probability

Mask = Callable[[torch.Tensor, float], torch.Tensor]  # of a layer's values and its share of zeroed ones: factors


def train_centrally(module: nn.Module, rows: Rows, local: LocalTraining, *, seed: int, device: torch.device) -> None:
    """Train `module` in place for `local.epochs` passes over `rows`. The same seed gives the same weights.

    Raises `TrainingError` when there are no rows or the weights stop being finite.
    """
    layers = chain_of(module)
    if layers is None or device.type != "cpu" or local.batch_size > PHYSICAL_BATCH:
        train_seeded(module, rows, local, seed=seed, device=device)
        return
    if len(rows) == 0:
        raise TrainingError("there are no training rows: check the partition and the training period")
    drawn = np.random.Generator(np.random.SFC64(seed))  # no privacy depends on it
    step = _step_of(module, local)
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    mask = masks(drawn)
    for _ in range(local.epochs):
        order = torch.from_numpy(drawn.permutation(len(y)))
        for batch in torch.split(order, local.batch_size):
            mean_gradient(layers, x[batch], y[batch], local.pos_weight, mask)
            step()
    require_finite(module)


def masks(drawn: np.random.Generator) -> Mask:
    """Factors of dropout that keep a layer's mean: 0, or 1 over the probability of being kept, in 1/65,536."""

    def mask(values: torch.Tensor, dropped: float) -> torch.Tensor:
        kept = round((1 - dropped) * STEPS)
        words = drawn.integers(0, 2**64, values.numel() // 4 + 1, np.uint64).view(np.uint16)[: values.numel()]
        return torch.from_numpy((words < kept).astype(np.float32)).mul_(STEPS / kept).reshape(values.shape)

    return mask


def _step_of(module: nn.Module, local: LocalTraining) -> Callable[[], None]:
    """The optimiser's step; for SGD without the bookkeeping of torch, with the same arithmetic."""
    if local.optimiser != "sgd":
        step: Callable[[], None] = optimiser_of(module, local).step
        return step
    moving = [(parameter, torch.zeros_like(parameter)) for parameter in module.parameters()]

    @torch.no_grad()
    def descend() -> None:
        for parameter, velocity in moving:
            assert parameter.grad is not None
            velocity.mul_(local.momentum).add_(parameter.grad)
            parameter.add_(velocity, alpha=-local.learning_rate)

    return descend


def chain_of(module: nn.Module) -> tuple[nn.Module, ...] | None:
    """The layers of a network that `mean_gradient` knows; None for any other module."""
    if type(module) is not nn.Sequential:
        return None
    layers = tuple(module)
    if not layers or not isinstance(last := layers[-1], nn.Linear) or last.out_features != 1:
        return None
    if any(type(layer) not in (nn.Linear, nn.ReLU, nn.Dropout) for layer in layers):
        return None
    if any(layer.p >= 1 for layer in layers if isinstance(layer, nn.Dropout)):
        return None
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if len(linear) != len({id(layer) for layer in linear}) or any(layer.bias is None for layer in linear):
        return None
    usual = all(each.requires_grad and each.dtype == torch.float32 for each in module.parameters())
    return layers if usual else None


def mean_gradient(layers: Sequence[nn.Module], x: torch.Tensor, y: torch.Tensor, pos_weight: float, mask: Mask) -> None:
    """Set the gradient of every parameter to that of the mean weighted cross-entropy of rows `x`, [n, d], labels `y`.

    These are the operations of torch, in the same order: `binary_cross_entropy_with_logits_backward`, and the formulas
    of `addmm`, `relu` and `dropout` in its derivatives.yaml.
    """
    with torch.no_grad():
        needed: list[torch.Tensor | None] = []  # by layer, for its gradient
        value = x
        for layer in layers:
            if isinstance(layer, nn.Linear):
                needed.append(value)
                value = torch.addmm(layer.bias, value, layer.weight.t())
            elif isinstance(layer, nn.ReLU):
                value = torch.relu(value)
                needed.append(value)
            elif isinstance(layer, nn.Dropout) and layer.p:
                factors = mask(value, layer.p)
                value = value * factors
                needed.append(factors)
            else:
                needed.append(None)
        weighted = pos_weight * y
        slope = (weighted + 1).sub_(y).mul_(value.reshape(-1).sigmoid()).sub_(weighted).div_(len(y)).reshape(-1, 1)
        for number in range(len(layers) - 1, -1, -1):
            layer, held = layers[number], needed[number]
            if held is None:
                continue
            if isinstance(layer, nn.Linear):
                layer.bias.grad = slope.sum(0)
                layer.weight.grad = slope.t().mm(held)
                if number:
                    slope = slope.mm(layer.weight)
            elif isinstance(layer, nn.ReLU):
                slope = torch.ops.aten.threshold_backward(slope, held, 0)
            else:
                slope = slope * held
