"""Sigmoids and losses of integer scores, from tables of integers that are the same on every machine.

A score is an integer: a multiple of 2^-16 of a nat. A table has one entry for each 2^-10 of a nat from -16 to 16, and
a score is looked up at the nearest one. Beyond 16 the sigmoid is 1 and below -16 it is 0.

The tables come from Python integers with 192 bits after the point, never from a library of floating point: the last
bit of such a library's `exp` may differ between machines, and a bank whose table differs in one entry would train
another model.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

SCORE_BITS = 16  # a score is a multiple of 2^-16
STEP_BITS = 10  # one entry of a table for each 2^-10
REACH = 16  # nats on either side
SHARE_BITS = 30  # an entry of the sigmoid's table is a multiple of 2^-30
LOSS_BITS = 12  # an entry of the loss's table is a multiple of 2^-12
MOST_LOSS = REACH << LOSS_BITS  # of one row without its class weight

_POINT = 192  # bits after the point while a table is made
_TERMS = 48  # of a series, each less than an eighth of the one before
_SHIFT = SCORE_BITS - STEP_BITS
_MIDDLE = REACH << STEP_BITS


@cache
def sigmoids() -> Integers:
    """int64[32769]: the sigmoid at every step, in units of 2^-30. The first entry is 0 and the last is 2^30."""
    one = 1 << _POINT
    upper = [_rounded((one << _POINT) // (one + power), SHARE_BITS) for power in _powers()]
    upper[-1] = 1 << SHARE_BITS
    return _read_only([(1 << SHARE_BITS) - share for share in upper[:0:-1]] + upper)


@cache
def losses() -> Integers:
    """int64[32769]: log(1 + e^x) at every step, in units of 2^-12. The first entry is 0 and the last is 16 nats."""
    below = [_rounded(_log_of_one_plus(power), LOSS_BITS) for power in _powers()]
    below[-1] = 0
    above = [loss + ((step << LOSS_BITS) >> STEP_BITS) for step, loss in enumerate(below)]
    return _read_only(below[:0:-1] + above)


def places(scores: Integers) -> Integers:
    """int64[n]: the entry of a table that is nearest to each score; of two equally near ones the upper."""
    steps = (scores + (1 << (_SHIFT - 1))) >> _SHIFT
    found: Integers = np.clip(steps, -_MIDDLE, _MIDDLE) + _MIDDLE
    return found


def _powers() -> list[int]:
    """e^-x at every step from 0 to 16, as integers with `_POINT` bits after the point."""
    one = 1 << _POINT
    factor, term = one, one
    for k in range(1, _TERMS):  # the series of e^(-2^-10)
        term = -((term >> STEP_BITS) // k)
        factor += term
    powers = [one]
    for _ in range(_MIDDLE):
        powers.append((powers[-1] * factor) >> _POINT)
    return powers


def _log_of_one_plus(power: int) -> int:
    """log(1 + p) = 2 artanh(p / (2 + p)) of p in [0, 1], with `_POINT` bits after the point."""
    ratio = (power << _POINT) // ((2 << _POINT) + power)
    square = (ratio * ratio) >> _POINT
    total = 0
    for k in range(1, 2 * _TERMS, 2):
        total += ratio // k
        ratio = (ratio * square) >> _POINT
    return 2 * total


def _rounded(value: int, bits: int) -> int:
    """The multiple of 2^-bits nearest to `value`."""
    return (value + (1 << (_POINT - bits - 1))) >> (_POINT - bits)


def _read_only(entries: list[int]) -> Integers:
    table: Integers = np.array(entries, np.int64)
    table.setflags(write=False)
    return table
