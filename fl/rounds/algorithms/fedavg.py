"""FedAvg: every bank trains from the same model, and the model moves by the mean of their updates.

    before = w_t;  each bank k:  w_k = LocalTraining(w_t);  update_k = w_k - w_t
    w_(t+1) = w_t + mean over k of update_k

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, Algorithm 1, with equal weights: a weight by number of rows would publish that
number and, under differential privacy, would be a function of the rows without noise.

The other algorithms derive from `FedAvg` and change the one or two steps in which they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fl.data.federation import Rows
from fl.learning.model import flatten
from fl.rounds.algorithms.state import ReleasedAverage, Seat, State, Timetable, Vector
from fl.secure.session import Update


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging, the base class of the other algorithms. `timetable`: the banks of each round."""

    name: ClassVar[str] = "fedavg"
    timetable: Timetable

    @property
    def proximal(self) -> float:
        """FedProx' mu of local training; 0: no such term."""
        return 0.0

    @property
    def max_weight(self) -> int:
        """Largest weight that a seat may have."""
        return 1

    def begin(self, first: Vector) -> State:
        """The state before round 1. `first`: float32[length]."""
        return State(first)

    def trains_from(self, state: State, seat: Seat) -> Vector:
        """The model from which the bank in `seat` trains, float32[length]."""
        return state.model

    def scores_with(self, state: State, bank: int) -> Vector:
        """The model with which bank number `bank` scores its customers, float32[length]."""
        return state.model

    def travels(self, length: int) -> NDArray[np.bool_]:
        """bool[length]: coordinates of an update that may leave a bank at all."""
        return np.ones(length, dtype=np.bool_)

    def model_hash(self, state: State, hash_of: Callable[[Vector], str]) -> str:
        """The hash in a round's offer, 64 hexadecimal digits: here that of the model that all banks train from."""
        return hash_of(state.model)

    def contribution(self, module: nn.Module, rows: Rows, train: Callable[[], None]) -> Update:
        """A bank's contribution, float[length]: here the change by local training.

        `module` holds the model that the bank starts from; `train` trains it in place on `rows`.
        """
        before = flatten(module)
        train()
        return flatten(module) - before

    def keep(self, state: State, seat: Seat, update: Update) -> State:
        """The state with the part of `update` that the bank in `seat` keeps; called after the round was released."""
        return state

    def apply(self, state: State, released: ReleasedAverage) -> State:
        """The state after the round."""
        return replace(state, model=(state.model + released.average).astype(np.float32))
