"""How long an episode lasts: the gamma law on whole days, as the probability of ending after each day of age.

An episode of real length x ends on the day in which x falls, so its whole days D are the next whole number above x:
P(D > a) = P(x > a). The gamma law of x has mean `mean` - 1/2, so that D has about the mean `mean`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

Floats = NDArray[np.float64]

MOST_AGES = 400  # of days that are told apart; beyond them the probability of ending is that of the last one
TAIL = 5e-3  # of episodes that may be older than the last age told apart
SAME = 0.05  # ages whose probabilities of ending differ by less than this part are told apart no longer


def ending(mean: float, shape: float, least: int) -> Floats:
    """float64[ages], two or more: the probability that an episode of a = 1, 2, ... days so far has no further one.

    The last value holds for all older episodes, too. `least`: ages to tell apart at the least.
    """
    scale = (mean - 0.5) / shape
    most = max(MOST_AGES, least)
    longer = gammaincc(shape, np.arange(most + 1) / scale)  # P(D > a) for a = 0, 1, ...
    ends = np.where(longer[:-1] > 1e-12, 1.0 - longer[1:] / np.maximum(longer[:-1], 1e-12), 1.0)
    ages = max(int(np.searchsorted(-longer, -TAIL)), 1)
    cut = ages > most  # durations beyond the ages told apart
    in_the_end = -math.expm1(-1.0 / scale) if cut else ends[ages - 1]
    apart = np.flatnonzero(np.abs(ends[:ages] - in_the_end) > SAME * in_the_end)
    ages = min(max(int(apart[-1]) + 2 if len(apart) else 1, least, 2), most)
    ends = np.clip(ends[:ages], 0.0, 1.0)
    if cut and ages == most:  # the rest keeps the mean
        ends[-1] = min(longer[most - 1] / max(mean - longer[: most - 1].sum(), 1.0), 1.0)
    return ends


def surviving(ends: Floats) -> Floats:
    """float64[ages + 1]: the probability that an episode lasts more than a = 0, 1, ... days."""
    return np.concatenate([[1.0], np.cumprod(1.0 - ends)])
