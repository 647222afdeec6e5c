"""Fit private training of the network to the data's size: public functions of a declared number of rows of a bank.

`fl.runs.styles.PRIVATE` was found on banks with some 8,000 rows. On larger banks the same divisor turns a learning rate
of 30 into one of several hundred, and training diverges. A person would have to know three settings that depend on each
other; here they follow from one figure that the banks declare in public. They are no function of a bank's rows.

Each bank's own noise. The noise of a mean gradient is about sqrt(steps) / (rows * epsilon), whatever the batch is: a
larger batch has a higher sampling rate, which needs more noise. So the batch is free, and these rules keep:

    batch = 2048 sqrt(rows / 8192)      grows more slowly than the bank: more steps for the same number of passes
    rate of sampling = batch / rows     the divisor of a gradient is the batch itself, so that it is a mean
    steps * batch = 2.5 rows a round    passes over the rows, as in the smaller case
    learning rate * steps = 300         the length of the path; below 8,192 rows it shrinks with the rows, as they say
                                        less against the same noise

Noise shared by all banks. A step is one gradient of all rows under one noise. A learning rate that follows from the
noise alone grows with the number of rows without end, and a large federation diverges. So the mean gradient bounds it,
in two ways: where rows are declared, the rate is at most `MOST_RATE` for each unit of their mean gradient, and no step
ever moves the weights by more than `LONGEST_STEP`. A step is a function of released gradients only, so this costs no
epsilon (docs/adr/0024 has the figures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from fl import options
from fl.errors import BudgetError

KNOWN_ROWS, KNOWN_BATCH, KNOWN_STEPS, KNOWN_RATE = 8192.0, 2048.0, 10, 30.0  # of the settings that were searched for
PASSES = KNOWN_STEPS * KNOWN_BATCH / KNOWN_ROWS  # over the rows, in a round
MOST_RATE = 4.0  # step per unit of a mean gradient, of the network's shared steps
NETWORK_FROM = 64_000.0  # rows of a bank times epsilon
LONGEST_STEP = 0.5  # L2 norm, in the unit of the weights


@dataclass(frozen=True)
class OwnSteps:
    """The noisy steps of each bank in one round, for banks that declare a number of rows."""

    sample_rate: Annotated[float, options.SAMPLE_RATE]
    steps: Annotated[int, options.STEPS]
    expected_batch: Annotated[float, options.EXPECTED_BATCH]
    learning_rate: Annotated[float, options.LEARNING_RATE]

    def __post_init__(self) -> None:
        options.check(self, BudgetError)


def affords_network(rows_per_bank: float, epsilon: float) -> bool:
    """Whether the network's three thousand weights, and not a dozen, stand out of the noise. A public rule.

    The noise of a mean gradient shrinks with both numbers. On the Fraud Detection Handbook's data, 6,000 rows and
    epsilon 8, the dozen weights are better (docs/adr/0022); on 10,000 rows and epsilon 10 the network is (0024).
    """
    return rows_per_bank * epsilon >= NETWORK_FROM


def own_steps(rows_per_bank: float) -> OwnSteps:
    """The steps for banks of so many training rows. Raises `BudgetError` for a number that cannot be declared."""
    try:
        rows = options.ROWS_PER_BANK.of(rows_per_bank)
    except options.Refused as fault:
        raise BudgetError(f"rows_per_bank: {fault}") from None
    large = max(rows / KNOWN_ROWS, 1.0)
    batch = KNOWN_BATCH * math.sqrt(large) if large > 1.0 else rows * KNOWN_BATCH / KNOWN_ROWS
    rate = batch / rows
    steps = round(PASSES / rate)
    path = KNOWN_RATE * KNOWN_STEPS * min(rows / KNOWN_ROWS, 1.0)
    return OwnSteps(rate, steps, max(batch, 1.0), path / steps)
