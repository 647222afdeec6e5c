"""FedProx: FedAvg with a penalty in local training on the distance from the model it started from.

    each bank minimises  F_k(w) + mu / 2 * |w - w_t|^2        (the norm is squared: its gradient is mu * (w - w_t))

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
equation 2.

Under DP-SGD the gradient of the penalty is added after the noise, without clipping and dividing. It depends on the
model and on no row, so each step stays a post-processing of the noisy gradient and costs no privacy. As part of the
per-row gradients it would be clipped with them and sampled with the rows, and an empty batch would not have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fl import options
from fl.errors import AlgorithmError
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import Timetable

MU = 0.01  # the middle of the paper's grid {0.001, 0.01, 0.1, 1}


@dataclass(frozen=True)
class FedProx(FedAvg):
    """`mu`: >= 0; 0 is FedAvg. Raises `AlgorithmError`."""

    name: ClassVar[str] = "fedprox"
    timetable: Timetable
    mu: Annotated[float, options.MU] = MU

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "fedprox: ")

    @property
    def proximal(self) -> float:
        return self.mu


def require_stable_pull(mu: float, learning_rate: float, momentum: float) -> None:
    """Raise `AlgorithmError` when SGD's steps along the penalty alone would diverge.

    On mu / 2 * |w - w_t|^2 a step multiplies the distance by 1 - learning_rate * mu; with momentum the iteration is
    stable below 2 * (1 + momentum) (Polyak 1964).
    """
    most = 2 * (1 + momentum)
    if learning_rate * mu >= most:
        raise AlgorithmError(
            f"fedprox: at learning rate {learning_rate:g} mu {mu:g} diverges: every step overshoots further; "
            f"expected mu below {most / learning_rate:.3g}"
        )
