"""Personal heads (FedPer): the lower layers are shared and averaged, the last layers stay at their bank.

    each bank k:  (base, head_k) = LocalTraining(base_t, head_k)        both are trained together
    base_(t+1) = base_t + mean over k of (base - base_t)                head_k never leaves bank k

Source: Arivazhagan, Aggarwal, Singh, Choudhary, "Federated Learning with Personalization Layers" (FedPer),
arXiv 1912.00818, Algorithms 1 and 2.

A bank scores its customers with the shared layers and its own head. The head is not part of the vector that is sent.
Under differential privacy the same noisy steps train the head. It is not released, so it costs no more; epsilon is
about what left the bank. A bank that joins late begins with the first model's head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl.errors import AlgorithmError, ModelError
from fl.learning.model import Layout, layer_mask
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import Seat, State, Timetable, Vector
from fl.secure.session import Update

HEAD = ("logit",)  # the output layer


@dataclass(frozen=True)
class Heads(FedAvg):
    """`model`: layout of the model's vector. `head`: layers that stay at their bank. Raises `AlgorithmError`."""

    name: ClassVar[str] = "heads"
    timetable: Timetable
    model: Layout
    head: tuple[str, ...] = HEAD

    def __post_init__(self) -> None:
        try:
            shared = ~layer_mask(self.model, self.head)
        except ModelError as fault:
            raise AlgorithmError(f"heads: {fault}") from fault
        if not shared.any():
            raise AlgorithmError(f"heads: with {', '.join(self.head)} at the banks, no layer is left to share")

    def trains_from(self, state: State, seat: Seat) -> Vector:
        return self.scores_with(state, seat.bank)

    def scores_with(self, state: State, bank: int) -> Vector:
        if head_name(bank) not in state.memory:
            return state.model
        own = state.model.copy()
        own[~self.travels(len(own))] = state.memory[head_name(bank)]
        return own

    def travels(self, length: int) -> NDArray[np.bool_]:
        return ~layer_mask(self.model, self.head)

    def keep(self, state: State, seat: Seat, update: Update) -> State:
        head = (self.trains_from(state, seat) + update)[~self.travels(len(update))]
        return replace(state, memory={**state.memory, head_name(seat.bank): head})


def head_name(bank: int) -> str:
    """Name of a bank's head in the state's memory."""
    return f"head {bank}"
