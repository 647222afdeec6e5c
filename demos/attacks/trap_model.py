"""Attack 6: a different model for each client.

Pasquini, Francati, Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022
(arXiv 2111.07380): the server gives everyone but the victim a model whose hidden units never fire. Their gradients
are zero, so the sum is the victim's gradient, however securely it was added. The code below computes real gradients.

What stops it here: offer, join, roster and contribution are signed over the model's hash. A client joins only for the
model that it has. Two models need two offers, and their joins cannot stand in one roster.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from demos.attacks import federation, stock
from demos.attacks.federation import VICTIM, Federation
from demos.attacks.rosters import signed_roster
from demos.attacks.verdict import Attack, Control, Loot, Shipped, judge, largest_error
from secagg.arrays import F64

FEATURES, HIDDEN, ROWS = 60, 64, 50
DEAD_BIAS = -1e6  # below it no hidden unit fires for any standardised row


@dataclass(frozen=True, eq=False)
class Model:
    """One hidden layer of rectifiers and a logit. weights: float64[HIDDEN, FEATURES]."""

    weights: F64
    biases: F64
    readout: F64

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.weights.tobytes() + self.biases.tobytes() + self.readout.tobytes()).digest()

    def gradient(self, rows: F64, labels: F64) -> F64:
        """Of the mean log-loss by the hidden layer's weights, then biases: float64[HIDDEN * (FEATURES + 1)]."""
        hidden = rows @ self.weights.T + self.biases
        logits = np.maximum(hidden, 0.0) @ self.readout
        residual = 1.0 / (1.0 + np.exp(-logits)) - labels
        back = residual[:, None] * self.readout * (hidden > 0) / len(labels)
        return np.concatenate([(back.T @ rows).ravel(), back.sum(axis=0)])


def control() -> Control:
    """Four clients get the trap model, and the victim gets the real one."""
    honest, trap = _models()
    target = stock.StockAggregation()
    gradients = [(honest if i == VICTIM else trap).gradient(*_transactions()) for i in range(federation.CLIENTS)]
    average = target.release(stock.added([target.encrypt(gradient) for gradient in gradients]), len(gradients))
    error = largest_error(average * len(gradients), gradients[VICTIM])
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's gradient with max error {error:.1e}")


def shipped() -> Shipped:
    """One offer for two models, a forged roster over the joins of two offers, and a join to an earlier offer."""
    honest, trap = _models()

    def one_offer_for_two_models() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, honest.hash)
        cast.clients[VICTIM].join(offer, honest.hash)
        cast.clients[1].join(offer, trap.hash)
        return cast.taken()

    def two_offers() -> Loot:
        cast = Federation()
        first = cast.key_holder.open(1, trap.hash)
        joins = [client.join(first, trap.hash) for client in cast.clients[1:]]
        cast.key_holder.abort()
        second = cast.key_holder.open(2, honest.hash)
        victim = cast.clients[VICTIM]
        join = victim.join(second, honest.hash)
        victim.contribute(signed_roster(cast, second, [join, *joins]), cast.victim)
        return cast.taken()

    def join_of_the_other_offer() -> Loot:
        cast = Federation()
        first = cast.key_holder.open(1, trap.hash)
        joins = [client.join(first, trap.hash) for client in cast.clients[1:]]
        cast.key_holder.abort()
        cast.key_holder.open(2, honest.hash)
        cast.key_holder.receive_join(joins[0])
        return cast.taken()

    return judge([one_offer_for_two_models, two_offers, join_of_the_other_offer])


def _models() -> tuple[Model, Model]:
    rng = np.random.default_rng()
    weights, readout = rng.normal(scale=0.3, size=(HIDDEN, FEATURES)), rng.normal(scale=0.3, size=HIDDEN)
    return Model(weights, np.zeros(HIDDEN), readout), Model(weights, np.full(HIDDEN, DEAD_BIAS), readout)


def _transactions() -> tuple[F64, F64]:
    rng = np.random.default_rng()
    return rng.normal(size=(ROWS, FEATURES)), (rng.random(ROWS) < 0.1).astype(np.float64)


ATTACK = Attack("trap-model", "send everyone but the victim a model whose updates are zero", control, shipped)
