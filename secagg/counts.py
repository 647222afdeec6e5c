"""One rule for every count that a caller passes: an integer of Python or numpy, within a range.

A float is refused even where it is whole (a division that gives 3.0 may give 3.5 next time), and so is a bool. The
value is stored as a Python integer, so that products do not overflow and encodings do not depend on a width.
"""

from __future__ import annotations

import operator

import numpy as np

from secagg.errors import LocalError, PlanError

MAX_STEP = 2**63 - 1
MAX_THREADS = 4096


def count(name: str, value: object, low: int, high: int, error: type[LocalError] = PlanError, why: str = "") -> int:
    """`value` as a Python integer in low..high. why: reason for `high`. Raises `error`, naming what was expected."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        number = operator.index(value)
        if low <= number <= high:
            return number
    raise error(f"{name}: expected an integer in {low}..{high}{why}, got {value!r}")


def quorum(value: object, max_clients: int) -> int:
    """A quorum of a plan. A roster of one would release its only member's update. Raises `PlanError`."""
    return count("quorum", value, 2, max_clients, why=" (the plan's max_clients)")


def step(value: object) -> int:
    """A step of a ledger. Raises `LocalError`."""
    return count("step", value, 0, MAX_STEP, LocalError)


def threads(value: object) -> int | None:
    """A number of threads, None for as many as help. Raises `PlanError`."""
    return None if value is None else count("threads", value, 1, MAX_THREADS)
