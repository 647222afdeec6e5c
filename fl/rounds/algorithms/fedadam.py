"""FedAdam: the server takes an Adam step along the average of the updates instead of adding it.

    d   = mean over k of update_k                      (what the encrypted round releases)
    m_t = beta1 * m_(t-1) + (1 - beta1) * d            m_0 = 0
    v_t = beta2 * v_(t-1) + (1 - beta2) * d^2          v_0 = tau^2, the smallest that the paper allows
    w_t = w_(t-1) + server_lr * m_t / (sqrt(v_t) + tau)

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
Algorithm 2; without bias correction, as there.

It uses released values only, so every bank computes it itself, nobody learns anything new, and privacy is as in
FedAvg. m and v are float64 and part of the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fl import options
from fl.errors import AlgorithmError
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import ReleasedAverage, State, Timetable, Vector

SERVER_LR = 0.03
BETA1, BETA2 = 0.9, 0.99  # the paper's, for all its tasks
TAU = 1e-3  # the paper's default degree of adaptivity


@dataclass(frozen=True)
class FedAdam(FedAvg):
    """`server_lr`, `tau`: in the unit of the weights. Raises `AlgorithmError` for what `fl.options` does not allow."""

    name: ClassVar[str] = "fedadam"
    timetable: Timetable
    server_lr: Annotated[float, options.SERVER_LR] = SERVER_LR
    beta1: Annotated[float, options.BETA] = BETA1
    beta2: Annotated[float, options.BETA] = BETA2
    tau: Annotated[float, options.TAU] = TAU

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "fedadam: ")

    def begin(self, first: Vector) -> State:
        return State(first, {"m": np.zeros(first.shape), "v": np.full(first.shape, self.tau**2)})

    def apply(self, state: State, released: ReleasedAverage) -> State:
        sent, step = released.sent, released.average
        # A coordinate that was not sent keeps its weight and its moments: its gradient is unknown, not zero.
        m = np.where(sent, self.beta1 * state.memory["m"] + (1 - self.beta1) * step, state.memory["m"])
        v = np.where(sent, self.beta2 * state.memory["v"] + (1 - self.beta2) * step**2, state.memory["v"])
        move = np.where(sent, self.server_lr * m / (np.sqrt(v) + self.tau), 0.0)
        return State((state.model + move).astype(np.float32), {"m": m, "v": v})
