"""DP-SGD with one noise for all banks: a round is one step that all banks take together.

    bank k:  G_k = sum over its rows of clip(gradient of a row, C)      every row, every step: no sampling
    all:     g_t = (sum over k of G_k, noise included) / divisor        `fl.rounds.joint_noise`
             v_t = momentum * v_(t-1) + g_t                             float64, part of the checkpoint
             w_t = w_(t-1) - learning_rate * v_t

The last two lines are SGD with momentum (Polyak 1964) on released values only, as in DP-SGD (Abadi et al., CCS 2016).
A step that is longer than a public bound is shortened to it.
Every bank computes them itself.

Where every bank protects its rows with its own noise (`fl.learning.training.train_private`), the sum of n banks has n
times that noise. Here the n - t shares that no coalition of t banks knows are together one noise for the rows of all
banks. This needs trust: a bank's rows are protected only while the masked sum is protected, and while at most t banks
collude (with aggregator and key holder, and including the observer of the model). A bank's own noise needs neither.

Gradients are summed in float64: a float32 sum of thousands of rows could move by more than C when one row is added.

`NoisyOrSteps` takes the same steps with the model of `fl.learning.noisy_or`, whose gradient is written out, and lets
banks hold the mean of its last iterates: noise that pushes an iterate to and fro cancels in a mean (Polyak and
Juditsky 1992; of the last iterates alone: Shamir and Zhang, ICML 2013, section 4). All of it is computed from released
values.
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
from fl.errors import TrainingError
from fl.learning.noisy_or import NoisyOr, gradient_sum
from fl.learning.training import LocalTraining
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import ReleasedAverage, Seat, State, Timetable, Vector
from fl.secure.session import Update

PHYSICAL_BATCH = 4096  # rows whose gradients are in memory at once; it does not change the result
VELOCITY = "velocity"

ITERATE = "iterate"  # w_t, from which all banks take the next step
ITERATES = "iterates"  # the last of them, float32[up to AVERAGED, length]
AVERAGED = 10  # iterates
RIDGE = 2e-5  # pull of every weight but the constant's to 0: part of the mean gradient of a row, per unit of weight

Gradient = NDArray[np.float64]


@dataclass(frozen=True)
class JointSteps(FedAvg):
    """`max_grad_norm`: L2 bound C of one row's gradient. `local`: learning rate, momentum and the weight of a fraud.

    `longest_step`: a step beyond this length is shortened to it. Its length is that of released gradients.
    """

    name: ClassVar[str] = "joint steps"
    timetable: Timetable
    max_grad_norm: float
    local: LocalTraining
    longest_step: float | None = None  # L2 norm; None: no bound

    def begin(self, first: Vector) -> State:
        return State(first, {VELOCITY: np.zeros(first.shape)})

    def contribution(self, module: nn.Module, rows: Rows, train: Callable[[], None]) -> Update:
        return clipped_gradient_sum(module, rows, max_grad_norm=self.max_grad_norm, pos_weight=self.local.pos_weight)

    def apply(self, state: State, released: ReleasedAverage) -> State:
        velocity = self.local.momentum * state.memory[VELOCITY] + released.average
        step = self.local.learning_rate * velocity
        if self.longest_step is not None:
            step *= min(1.0, self.longest_step / max(float(np.linalg.norm(step)), 1e-300))
        return State((state.model - step).astype(np.float32), {VELOCITY: velocity})


@dataclass(frozen=True)
class NoisyOrSteps(JointSteps):
    """Full-batch steps of the noisy-or model; banks score with the mean of the last `AVERAGED` iterates.

    `rows`: by how many rows a bank divides its sum before it sends it; 1 where the noise divides
    (`fl.rounds.joint_noise.JointNoise.divisor`). For an average without noise it is the number of rows that a bank is
    declared to have: a public constant. Raises `TrainingError` for a weight of frauds other than 1: the noisy-or's
    likelihood has none.
    """

    name: ClassVar[str] = "noisy-or steps"
    rows: float = 1.0

    def __post_init__(self) -> None:
        if self.local.pos_weight != 1.0:
            raise TrainingError(
                f"pos_weight: expected 1 with a noisy-or model, whose loss is a likelihood, got {self.local.pos_weight}"
            )

    def begin(self, first: Vector) -> State:
        none = np.zeros((0, *first.shape), np.float32)
        return State(first, {VELOCITY: np.zeros(first.shape), ITERATE: first, ITERATES: none})

    def trains_from(self, state: State, seat: Seat) -> Vector:
        return state.memory[ITERATE].astype(np.float32)

    def model_hash(self, state: State, hash_of: Callable[[Vector], str]) -> str:
        return hash_of(state.memory[ITERATE].astype(np.float32))

    def contribution(self, module: nn.Module, rows: Rows, train: Callable[[], None]) -> Update:
        if not isinstance(module, NoisyOr):
            raise TrainingError(f"noisy-or steps expect a noisy-or model, got {type(module).__name__}")
        return gradient_sum(module, rows, self.max_grad_norm) / self.rows

    def apply(self, state: State, released: ReleasedAverage) -> State:
        before = state.memory[ITERATE].astype(np.float64)
        pull = RIDGE * before
        pull[0] = 0.0
        velocity = self.local.momentum * state.memory[VELOCITY] + released.average + pull
        iterate = (before - self.local.learning_rate * velocity).astype(np.float32)
        last = np.concatenate([state.memory[ITERATES], iterate[None]])[-AVERAGED:].astype(np.float32)
        mean = last.astype(np.float64).mean(axis=0).astype(np.float32)
        return State(mean, {VELOCITY: velocity, ITERATE: iterate, ITERATES: last})


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
