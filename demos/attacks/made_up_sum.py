"""Attack 7: the aggregator encrypts values of its own under the public key and calls them the average.

The attacker learns nothing about any client, but it decides the model of every bank.

What stops it here: a sum that does not contain every honest client's masks decodes to uniform values, which the key
holder refuses. An aggregator can still add chosen values to the honest sum, as any client can (docs/threat-model.md).
"""

from __future__ import annotations

import numpy as np

from demos.attacks import federation, stock
from demos.attacks.federation import Collected, Federation, asking
from demos.attacks.verdict import Attack, Control, Shipped, judge, largest_error
from secagg.arrays import U32

CHOSEN = 0.5  # every value of the attacker's average


def control() -> Control:
    """The aggregator drops the clients' sum, and no other party can detect it."""
    target = stock.StockAggregation()
    invented = target.encrypt(np.full(stock.SLOTS, CHOSEN * federation.CLIENTS))
    error = largest_error(target.release(invented, federation.CLIENTS), np.full(stock.SLOTS, CHOSEN))
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"released, {error:.1e} from what the attacker chose")


def shipped() -> Shipped:
    """Well-formed values with the right sum of weights: encrypted, masked with one contribution, and with c1 = 1."""
    return judge([asking(_encrypted), asking(_masked_by_hand), asking(_nearly_transparent)])


def _chosen(cast: Federation) -> U32:
    values = np.full(cast.plan.length, round(CHOSEN / cast.plan.step) * len(cast.clients), dtype=np.int64)
    return cast.plaintext(values, weight=len(cast.clients))


def _encrypted(cast: Federation, collected: Collected) -> U32:
    return cast.added(_chosen(cast), cast.encryption_of_zero(collected.offer))


def _masked_by_hand(cast: Federation, collected: Collected) -> U32:
    """With the colluder's genuine contribution added: the attacker has the keys of these masks and of no others."""
    own = cast.residues(collected.contributions[federation.COLLUDER])
    return cast.added(own, _encrypted(cast, collected))


def _nearly_transparent(cast: Federation, collected: Collected) -> U32:
    residues = _chosen(cast)
    residues[:, 1] = 1
    return residues


ATTACK = Attack("made-up-sum", "encrypt chosen values and present them as the average", control, shipped)
