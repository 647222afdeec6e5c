"""A model that privacy can afford: a fraud is the customer's doing, or that of a compromised entity.

    P(fraud) = 1 - (1 - p_c) (1 - q),    p_c = sigmoid(w v)

`q` is the probability that the row is a fraud because its terminal is compromised: the share of frauds while an entity
is compromised, times the probability that it is compromised now (`fl.counts.episodes`). It is not learned here. `v` is
a constant 1 and the row's features without labels, shortened together to L2 norm `BOUND`. So there is one weight for
each feature and one for the constant, about a dozen, where the network of `fl.learning.model` has thousands.

The two causes are independent, as in the noisy-or gate of Pearl, Probabilistic Reasoning in Intelligent Systems (1988),
section 4.3.2, whose other causes are here a logistic regression.

The gradient of a row's loss, -log P of a fraud and -log(1 - P) of a genuine row, is a number times `v`:

    fraud:    -(1 - p_c) (1 - q) p_c / P        genuine:    p_c

The first lies in [-1, 0] and the second in [0, 1], and they differ by at most 1 for the same row, since (1 - q) p_c is
at most P. Hence no row's gradient is longer than `BOUND`, and another label for a row moves a sum of gradients by no
more than that: half of what clipping alone would promise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import nn
from torch.nn.functional import logsigmoid

from fl.data.features import TerminalWindows, blocks
from fl.data.federation import Rows
from fl.data.schema import Schema
from fl.errors import ModelError, TrainingError

BOUND = 2.5  # L2 norm of the constant and a row's features together: public, for every data set
STRETCH = 0.6  # of every scaled feature, so that a usual row of a dozen features is not shortened
PRIOR = 0.004  # share of frauds that the first model assumes of a customer: a public guess
AT_ONCE = 65_536  # rows in memory at once; changes nothing else
LEAST, MOST = 1e-30, 1 - 1e-6  # of q: keeps its logarithm and that of 1 - q finite in float32

RIDGE = 0.1  # of a fit without privacy: weights are normal about 0 with variance 1 / RIDGE beforehand

Gradient = NDArray[np.float64]


class NoisyOr(nn.Module):
    """float32[n, inputs] -> float32[n, 1] logits of P. The last input is q; those before it are features.

    The only parameter is `logistic.weight`, shape (1, inputs): the constant's, then one per feature. All start at 0 but
    the constant's, which makes p_c equal to `prior`. Raises `ModelError` for fewer than one input, or a `prior` or
    `bound` that is none.
    """

    def __init__(self, inputs: int, *, prior: float = PRIOR, bound: float = BOUND) -> None:
        super().__init__()
        if inputs < 1:
            raise ModelError(f"a noisy-or model needs the probability q as its last input, got {inputs} inputs")
        if not 0.0 < prior < 1.0:
            raise ModelError(f"prior is a share of frauds between 0 and 1, got {prior}")
        if not (bound > 0.0 and math.isfinite(bound)):
            raise ModelError(f"bound is the largest L2 norm of a row, a positive number, got {bound}")
        self.bound = bound
        self.logistic = torch.nn.utils.skip_init(nn.Linear, inputs, 1, bias=False)
        nn.init.zeros_(self.logistic.weight)
        # A usual row is not shortened, so that its constant is 1.
        nn.init.constant_(self.logistic.weight[:, :1], math.log(prior / (1 - prior)))

    @property
    def inputs(self) -> int:
        return int(self.logistic.in_features)

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs]: of rows `x`, [n, inputs], the constant and the features, no longer than `bound`."""
        raw = torch.cat([torch.ones_like(x[:, :1]), STRETCH * x[:, :-1]], dim=1)
        length: torch.Tensor = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        return raw * torch.clamp(self.bound / length, max=1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = _of_entity(x)
        logit = self.logistic(self.vectors(x))
        neither = torch.log1p(-q) + logsigmoid(-logit)
        either = torch.logaddexp(torch.log(q), torch.log1p(-q) + logsigmoid(logit))
        return either - neither


def gradient_sum(module: NoisyOr, rows: Rows, clip: float) -> Gradient:
    """float64[inputs]: the sum over `rows` of the gradients of -log P (fraud) and -log(1 - P) (genuine).

    No row's gradient is longer than `module.bound`, and one row's other label moves the sum by no more. `clip`: the L2
    norm that the noise was planned for. Raises `ModelError` where that is less. Plaintext: never log it.
    """
    if clip < module.bound:
        raise ModelError(
            f"noise was planned for row gradients of L2 norm {clip:g}, and this model's rows reach {module.bound:g}: "
            f"set max_grad_norm to {module.bound:g}"
        )
    weight = module.logistic.weight.detach().double().reshape(-1)
    total = torch.zeros(module.inputs, dtype=torch.float64, device=weight.device)
    for part in _parts(module, rows):
        total += part.loss_and_gradient(weight)[1]
    summed: Gradient = total.cpu().numpy()
    return summed


def negative_log_likelihood(module: NoisyOr, rows: Rows) -> float:
    """Sum over `rows` of -log P (fraud) and -log(1 - P) (genuine), in float64. Plaintext: never log it."""
    weight = module.logistic.weight.detach().double().reshape(-1)
    return sum(float(part.loss_and_gradient(weight)[0]) for part in _parts(module, rows))


@dataclass(frozen=True)
class _Part:
    """Some rows in float64, with all that is the same for every weight."""

    vectors: torch.Tensor = field(repr=False)
    fraud: torch.Tensor = field(repr=False)  # bool
    log_q: torch.Tensor = field(repr=False)
    log_not_q: torch.Tensor = field(repr=False)

    def loss_and_gradient(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the rows' losses, and of their gradients."""
        with torch.no_grad():
            logit = self.vectors @ weight
            customers = self.log_not_q + logsigmoid(logit)  # log of (1 - q) p_c
            neither = self.log_not_q + logsigmoid(-logit)
            loss = -torch.where(self.fraud, torch.logaddexp(self.log_q, customers), neither).sum()
            # (1 - q) p_c / P as a sigmoid of log odds: neither part of it can overflow.
            customers_share = torch.sigmoid(customers - self.log_q)
            factor = torch.where(self.fraud, -torch.sigmoid(-logit) * customers_share, torch.sigmoid(logit))
            return loss, factor @ self.vectors


def _parts(module: NoisyOr, rows: Rows) -> Iterator[_Part]:
    device = module.logistic.weight.device
    with torch.no_grad():
        for start in range(0, len(rows), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            x = torch.from_numpy(rows.x[part]).to(device).double()
            q = _of_entity(x).reshape(-1)
            fraud = torch.from_numpy(rows.y[part] == 1).to(device)
            yield _Part(module.vectors(x), fraud, torch.log(q), torch.log1p(-q))


def fit_noisy_or(rows: Rows, *, start: NoisyOr | None = None, prior: float = PRIOR, ridge: float = RIDGE) -> NoisyOr:
    """The noisy-or model that fits `rows` best, without privacy: for baselines, and for a model that stays at its bank.

    It minimises the exact negative log-likelihood and `ridge` / 2 times the squared distance of every weight but the
    constant's from that of `start` (0 without one), by L-BFGS (Liu and Nocedal 1989) from there. The same rows give the
    same model. Raises `TrainingError` for no rows.
    """
    if len(rows) == 0:
        raise TrainingError("there are no rows to fit a noisy-or model to: check the partition and the period")
    first = NoisyOr(rows.x.shape[1], prior=prior) if start is None else start
    model = copy.deepcopy(first).double().cpu()
    centre = model.logistic.weight.detach().numpy().reshape(-1).copy()
    pulled = np.full(len(centre), ridge)
    pulled[0] = 0.0
    parts = list(_parts(model, rows))

    def at(weights: NDArray[np.float64]) -> tuple[float, Gradient]:
        away, weight = weights - centre, torch.from_numpy(weights)
        loss, gradient = 0.5 * float((pulled * away**2).sum()), pulled * away
        for part in parts:
            summed, slope = part.loss_and_gradient(weight)
            loss, gradient = loss + float(summed), gradient + slope.numpy()
        return loss, gradient

    found = minimize(at, centre, jac=True, method="L-BFGS-B", options={"maxiter": 500, "maxfun": 1000})
    fitted = copy.deepcopy(first).cpu()
    with torch.no_grad():
        fitted.logistic.weight.copy_(torch.from_numpy(found.x).reshape(1, -1))
    return fitted


def noisy_or_columns(schema: Schema) -> tuple[str, ...]:
    """Names of the features that a noisy-or model sees: all but windows at a terminal. A public rule.

    Those windows hold labels, of this bank's other rows: one label would enter the gradients of many rows. What they
    say, q says better. Raises `FeatureError` where the schema names no feature at all.
    """
    chosen = (block for block in blocks(schema) if not isinstance(block, TerminalWindows))
    return tuple(feature.name for block in chosen for feature in block.features)


def _of_entity(x: torch.Tensor) -> torch.Tensor:
    """[n, 1]: q of each row."""
    return torch.clamp(x[:, -1:], min=LEAST, max=MOST)
