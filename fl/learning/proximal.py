"""FedProx' proximal term in local training: a penalty on the distance from the model that training started from.

    each bank minimises  F_k(w) + mu / 2 * |w - w_t|^2        (the norm is squared: its gradient is mu * (w - w_t))

Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2.
"""

from __future__ import annotations

import torch
from torch import nn


def anchor_of(module: nn.Module) -> list[torch.Tensor]:
    """w_t: a copy of the parameters before local training."""
    return [p.detach().clone() for p in module.parameters()]


def add_proximal_gradient(module: nn.Module, anchor: list[torch.Tensor], mu: float) -> None:
    """Add d/dw of mu / 2 * |w - anchor|^2 to each existing gradient."""
    if mu == 0.0:
        return
    for p, start in zip(module.parameters(), anchor, strict=True):
        if p.grad is not None:
            p.grad.add_(p.detach() - start, alpha=mu)
