"""Gradient and curvature of each row's loss as integers within fixed public bounds.

The probability of fraud is p = sigmoid(score), or with a second cause

    P = 1 - (1 - p) (1 - q)

as in `fl.learning.noisy_or`, where q is the probability that the entity of a row explains it. A fraud was then the
customer's doing with probability p / P = sigmoid(score - log q). So the gradient of its loss is

    p - p / P = sigmoid(score) - sigmoid(score - log q)

and that of a genuine row is p. Both come from one table. As curvature both have p (1 - p): it belongs to the bound of
the loss that is tight at the present score, in which the cause of a fraud is a hidden variable (Dempster, Laird, Rubin
1977, section 3), and it is never negative. Where q is 0, as without a second cause, all of it is logistic regression.

A gradient is within +-w and a curvature within w / 4, where w is the class weight. They are rounded to 12 bits: units
of w 2^-11 and of w 2^-14.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.trees.tables import MOST_LOSS, REACH, SCORE_BITS, SHARE_BITS, losses, places, sigmoids

Integers = NDArray[np.int64]

GRADIENT_BITS = 11  # of 1
HESSIAN_BITS = 14  # of 1
LARGEST = 1 << 12  # of a hessian, and of a gradient that is lifted by `LIFT`
LIFT = 1 << GRADIENT_BITS  # added to a gradient, so that no field of a sum is negative
NO_CAUSE = REACH << (SCORE_BITS + 4)  # the offset of a row without a second cause: beyond every table
CAUSE_BITS = 10  # of the share of a fraud that the second cause does not explain


@dataclass(frozen=True)
class Labels:
    """Of n rows. `fraud`: bool[n]. `offset`: int64[n], -log q in multiples of 2^-16; `NO_CAUSE` where q is 0.

    `unexplained`: int64[n], 1 - q in multiples of 2^-10.
    """

    fraud: NDArray[np.bool_] = field(repr=False)
    offset: Integers = field(repr=False)
    unexplained: Integers = field(repr=False)


def labels_of(y: NDArray[np.generic], q: NDArray[np.floating] | None) -> Labels:
    """Labels 0 or 1 and, with a second cause, its probabilities from 0 to 1. Raises `TreesError` for others."""
    if not np.isin(y, (0, 1)).all():
        raise TreesError("labels: expected 0 or 1, got another value")
    cause = np.zeros(len(y)) if q is None else np.asarray(q, np.float64)
    if cause.shape != y.shape or not ((cause >= 0) & (cause <= 1)).all():
        raise TreesError(f"q: expected {len(y)} probabilities, one a row, got others")
    with np.errstate(divide="ignore"):
        offset = np.rint(np.minimum(-np.log(cause) * 2.0**SCORE_BITS, NO_CAUSE)).astype(np.int64)
    unexplained = np.rint((1.0 - cause) * 2.0**CAUSE_BITS).astype(np.int64)
    return Labels(y == 1, offset, unexplained)


def gradients_and_hessians(scores: Integers, labels: Labels, weight_bits: int) -> tuple[Integers, Integers]:
    """int64[n] each: of the weighted losses, in units of w 2^-11 and w 2^-14. `weight_bits`: log2 of w."""
    share = sigmoids()[places(scores)]
    explained = np.where(labels.fraud, sigmoids()[places(scores + labels.offset)], 0)
    # In units of the class weight, a genuine row weighs 2^-weight_bits and a fraud 1.
    lighter = np.where(labels.fraud, 0, weight_bits)
    gradients = _rounded(share - explained, SHARE_BITS - GRADIENT_BITS + lighter)
    hessians = _rounded(share * ((1 << SHARE_BITS) - share), 2 * SHARE_BITS - HESSIAN_BITS + lighter)
    return gradients, hessians


def loss_sum(scores: Integers, labels: Labels, weight_bits: int) -> int:
    """The sum of the weighted losses, each at most 16 nats, in multiples of 2^-12.

    That of a genuine row is without -log(1 - q), which no tree changes.
    """
    table = losses()
    customers = table[places(-scores)] - table[places(-scores - labels.offset)]  # -log P of a fraud
    each = np.where(labels.fraud, np.clip(customers, 0, MOST_LOSS) << weight_bits, table[places(scores)])
    return int(each.sum())


def gradient_unit(weight_bits: int) -> float:
    """What a gradient of 1 stands for: a power of two."""
    return float(2.0 ** (weight_bits - GRADIENT_BITS))


def hessian_unit(weight_bits: int) -> float:
    """What a curvature of 1 stands for: a power of two."""
    return float(2.0 ** (weight_bits - HESSIAN_BITS))


def _rounded(values: Integers, bits: Integers) -> Integers:
    """`values` / 2^bits to the nearest integer; of two equally near ones the upper."""
    nearest: Integers = (values + (np.int64(1) << (bits - 1))) >> bits
    return nearest
