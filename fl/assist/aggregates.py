"""Averages over the transactions of all banks, released by an encrypted sum.

Every bank contributes the mean and the mean square of each publicly scaled feature over its training rows. The average
over banks is computed under encryption, so that nobody sees the figures of a single bank. All banks have the same
weight, because a weight by rows would publish a number of rows.

The released averages are exact up to quantisation and are not covered by any epsilon: a bank can subtract its own
figures from the average of a few banks. They are sent only when a person asks for it (`--with-aggregates`).
"""

from __future__ import annotations

import numpy as np

from fl.assist.release import Aggregates
from fl.data.features import largest_bound
from fl.data.federation import Federation
from fl.secure.cost import plan_for
from fl.secure.session import encrypted_average

VALUE_BITS = 20


def released_aggregates(federation: Federation) -> Aggregates:
    """Averages over the federation's training rows, released by one encrypted round.

    Raises `fl.errors.AggregationError` for fewer than three banks.
    """
    schema, names = federation.schema, federation.feature_names
    contributions = []
    for bank in federation.banks:
        x = bank.train.x.astype(np.float64)
        contributions.append(np.concatenate([x.mean(axis=0), np.square(x).mean(axis=0)]).astype(np.float32))
    bound = largest_bound(schema)
    clip = max(bound, bound**2)  # bound of a mean, and of a mean square
    plan = plan_for(2 * len(names), len(federation.banks), clip, VALUE_BITS)
    average = encrypted_average(contributions, plan=plan, model_hash=schema.sha256).average
    mean, square = np.split(average, 2)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    typical = None
    if schema.amount is not None:
        scaled = float(mean[names.index("amount")])
        typical = float(np.expm1(scaled * schema.amount.spread + np.log1p(schema.amount.typical)))
    return Aggregates(names, tuple(map(float, mean)), tuple(map(float, deviation)), len(federation.banks), typical)
