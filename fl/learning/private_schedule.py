"""How a private run of the noisy-or model is set up: public functions of public figures.

What is chosen here is chosen before any bank's rows are looked at, from epsilon, from the declared number of rows, from
the noise and from a public guess of the fraud share. A setting that was tuned on the banks' labels would release
something about them that no epsilon counts.

The constants were found on the Fraud Detection Handbook's simulated data (Le Borgne et al., 2022), ten banks and 60,000
rows, and hold for whoever uses them: docs/adr/0022-private-and-worth-it.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fl import options
from fl.errors import BudgetError
from fl.learning.noisy_or import BOUND, PRIOR

# Total epsilon, and what of it is left to the steps. The counts carry most of what can be known: they get the rest.
# Still more for them (.85 of 1, 2.75 of 3) raises average precision by .01 to .02, and with it an attacker's accuracy.
TOTALS, OF_STEPS = (0.0, 1.0, 3.0, 8.0), (0.0, 0.25, 0.4, 0.8)
STEPS = 40
MOMENTUM = 0.85
REACH = 6.0  # learning rate times steps times the guessed fraud share: far enough to arrive, too short to swing
NOISE_PER_STEP = 0.08  # largest standard deviation by which noise may move a weight in one step


@dataclass(frozen=True)
class PrivateSchedule:
    """The public settings of one run. `counts_epsilon`: of the released counts, all kinds of entities together."""

    counts_epsilon: Annotated[float, options.EPSILON]
    steps: Annotated[int, options.STEPS]  # full-batch steps, one a round
    max_grad_norm: Annotated[float, options.MAX_GRAD_NORM]  # L2 bound of one row's gradient
    momentum: Annotated[float, options.MOMENTUM]
    prior: Annotated[float, options.PRIOR]  # share of frauds that the first model assumes

    def __post_init__(self) -> None:
        options.check(self, BudgetError)

    def learning_rate(self, sigma: float, rows: float) -> float:
        """Step per unit of a row's mean gradient.

        `sigma`: standard deviation of the noise in one summed gradient, per coordinate, in the unit of the gradient.
        `rows`: the declared number of all banks' rows, by which the sum is divided. Raises `BudgetError` for fewer than
        one row, or noise below 0.
        """
        if not (rows >= 1 and sigma >= 0):
            raise BudgetError(f"expected rows >= 1 and noise >= 0, got {rows:g} rows and noise of {sigma:g}")
        rate = REACH / (self.steps * self.prior)
        return rate if sigma == 0 else min(rate, NOISE_PER_STEP * rows / sigma)


def private_schedule(epsilon: float, *, prior: float = PRIOR) -> PrivateSchedule:
    """The settings at a total `epsilon` (what is left of it, where a bank has spent some).

    `prior`: a public guess of the share of frauds. Raises `BudgetError` for a value out of its range.
    """
    return PrivateSchedule(counts_epsilon(epsilon), STEPS, BOUND, MOMENTUM, prior)


def counts_epsilon(epsilon: float) -> float:
    """What of a total `epsilon` released counts may cost: 0.75 of 1, 2.6 of 3, 7.2 of 8, nine tenths beyond.

    Linear in between, so that a larger epsilon gives both parts more. Raises `BudgetError` for an epsilon that is none.
    """
    try:
        total = options.EPSILON.of(epsilon)
    except options.Refused as fault:
        raise BudgetError(f"epsilon: {fault}") from None
    if total > TOTALS[-1]:
        return total * (1 - OF_STEPS[-1] / TOTALS[-1])
    return total - float(np.interp(total, TOTALS, OF_STEPS))
