"""How much noise a budget allows: the least under which everything spent and everything planned stays within it.

What it does: one function for each mechanism of `fl.privacy.mechanisms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from fl.errors import BudgetError, BudgetExhausted
from fl.privacy.accounting import Accountant, epsilon
from fl.privacy.discrete_gaussian import LARGEST_VARIANCE, exact_variance
from fl.privacy.discrete_laplace import EPSILON, LaplacePlan, plan_laplace
from fl.privacy.mechanisms import ClientRounds, Entry, Mechanism, SharedSteps, laplace_counts, noisy_counts
from fl.privacy.noise_shares import NoisePlan, plan_noise, require_coalition

SMALLEST_NOISE = 0.5  # noise multipliers below are not worth searching
LARGEST_NOISE = 10_000.0
MOSTLY_SPENT = 0.99  # of a budget: beyond it no further schedule is started
LEAST_COUNT_NOISE = 0.2  # events
MOST_COUNT_NOISE = 1000.0  # events
LAPLACE_PARTS = 10_000  # to which a count's epsilon is rounded down: parts of 1
MOST_PIECES = 4096  # discrete Gaussians in one share


def calibrate(spent: Sequence[Entry], *, sample_rate: float, steps: int, epsilon_limit: float, delta: float) -> float:
    """The smallest noise multiplier for which `spent` and `steps` further steps stay within the limit.

    It is at least 0.5 and rounded up to 3 decimals.

    Raises `BudgetExhausted` when no noise is enough because `spent` has used the budget up.
    """
    already = require_left(spent, epsilon_limit, delta)

    def total(thousandths: int) -> float:
        return epsilon([*spent, Mechanism(sample_rate, thousandths / 1000, steps)], delta)

    low, high = 0, round(1000 * SMALLEST_NOISE)  # thousandths; `low` is too little noise, `high` enough
    above, below = math.inf, total(high)  # what they would spend
    while below > epsilon_limit:
        low, above = high, below
        high *= 2
        below = total(high)
        if high > 1000 * LARGEST_NOISE:
            raise BudgetExhausted(
                f"no noise up to {LARGEST_NOISE:g} lets {steps} steps fit into epsilon {epsilon_limit} at delta "
                f"{delta} beside the {already:.3f} spent: ask for fewer rounds or a larger epsilon"
            )
    halve = False
    while high - low > 1:
        guess = _between(low, high, above, below, epsilon_limit, halve)
        if (spending := total(guess)) <= epsilon_limit:
            high, below = guess, spending
        else:
            low, above = guess, spending
        halve = not halve
    return high / 1000


def require_left(spent: Sequence[Entry], epsilon_limit: float, delta: float) -> float:
    """The epsilon of `spent`. Raises `BudgetExhausted` when it is nearly all of the limit."""
    if not epsilon_limit > 0:
        raise BudgetError(f"epsilon must be positive, got {epsilon_limit}")
    already = epsilon(spent, delta)
    if already > MOSTLY_SPENT * epsilon_limit:
        raise BudgetExhausted(
            f"{already:.3f} of epsilon {epsilon_limit} is spent (delta {delta}): what is left would buy "
            "noise and nothing else. This data has been used up; train on rows that no ledger has seen."
        )
    return already


def _between(low: int, high: int, above: float, below: float, target: float, halve: bool) -> int:
    """A point strictly between: where a power law through both ends meets the target, every other time the middle."""
    if halve or math.isinf(above) or low == 0:
        return (low + high) // 2
    share = math.log(above / target) / math.log(above / below)
    point: int = round(low * (high / low) ** share)
    return min(max(point, low + 1), high - 1)


def calibrate_counts(
    spent: Sequence[Entry],
    *,
    columns: int,
    days: tuple[int, int],
    banks: int,
    colluders: int,
    epsilon_limit: float,
    delta: float,
    reports: int = 1,
) -> NoisePlan:
    """The least Gaussian noise under which `spent` and one release of counts of `days` (first, last) stay in the limit.

    An event moves `columns` counts, each by `reports`. The noise is rounded up to half a per cent. Raises
    `BudgetExhausted` when none is enough.
    """

    def cost(thousandths: int, accountant: Accountant = "prv") -> float:
        plan = plan_noise(thousandths / 1000, banks, colluders)
        return epsilon([*spent, noisy_counts(plan, columns, days, reports=reports)], delta, accountant)

    # Renyi DP is quick and errs upwards: it brackets what the exact accountant then decides.
    low, high = 0, round(1000 * LEAST_COUNT_NOISE)
    while cost(high, "rdp") > epsilon_limit:
        low, high = high, 2 * high
        if high > 1000 * MOST_COUNT_NOISE:
            raise BudgetExhausted(
                f"no noise up to {MOST_COUNT_NOISE:g} events lets shared counts fit into epsilon {epsilon_limit:g} at "
                f"delta {delta}: raise --epsilon or --statistics-share, or leave them out (--no-shared-statistics)"
            )
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle, "rdp") <= epsilon_limit else (middle, high)
    low = high // 2
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= epsilon_limit else (middle, high)
    return plan_noise(high / 1000, banks, colluders)


def calibrate_laplace(
    spent: Sequence[Entry],
    *,
    kinds: int,
    days: tuple[int, int],
    banks: int,
    colluders: int,
    epsilon_limit: float,
    delta: float,
    reports: int = 1,
) -> LaplacePlan:
    """The least discrete Laplace noise under which `spent` and one release of counts of `days` stay in the limit.

    An event moves one count of each of `kinds` kinds by `reports`. The epsilon of a count is rounded down to four
    decimals. Raises `BudgetExhausted` when no noise is enough.
    """
    require_left(spent, epsilon_limit, delta)

    def fits(parts: int) -> bool:
        plan = plan_laplace(parts / LAPLACE_PARTS, banks, colluders)
        return epsilon([*spent, laplace_counts(plan, kinds, days, reports=reports)], delta) <= epsilon_limit

    low = math.ceil(EPSILON.low * LAPLACE_PARTS)  # fits, once that has been seen
    if not fits(low):
        raise BudgetExhausted(
            f"no discrete Laplace noise lets shared counts fit into epsilon {epsilon_limit:g} at delta {delta}: raise "
            "--epsilon or --statistics-share, or leave them out (--no-shared-statistics)"
        )
    high = math.floor(EPSILON.high * LAPLACE_PARTS)
    if fits(high):
        return plan_laplace(high / LAPLACE_PARTS, banks, colluders)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return plan_laplace(low / LAPLACE_PARTS, banks, colluders)


def calibrate_clients(
    spent: Sequence[Entry],
    *,
    sensitivity: float,
    dimension: int,
    banks: int,
    colluders: int,
    rounds: int,
    epsilon_limit: float,
    delta: float,
) -> ClientRounds:
    """One of `rounds` equal client-level rounds that together, beside `spent`, stay within the limit.

    The share's variance is the least that can be sampled exactly, to one part in a thousand. Raises
    `BudgetExhausted` when no noise that fits the sampler is enough.
    """
    require_left(spent, epsilon_limit, delta)
    require_coalition(banks, colluders)

    def once(sigma: float) -> ClientRounds:
        variance = float(exact_variance(min(max(sigma**2, 1.0), LARGEST_VARIANCE)))
        return ClientRounds(sensitivity, variance, banks - colluders, dimension, 1)

    def fits(sigma: float) -> bool:
        return epsilon([*spent, *([once(sigma)] * rounds)], delta) <= epsilon_limit

    sigma = _least(1.0, math.sqrt(LARGEST_VARIANCE), fits)
    if sigma is None:
        raise BudgetExhausted(
            f"no noise lets {rounds} client-level rounds fit into epsilon {epsilon_limit:g} at delta {delta}: "
            "raise --epsilon or ask for fewer --rounds"
        )
    return once(sigma)


def calibrate_steps(
    spent: Sequence[Entry],
    *,
    sensitivity: float,
    dimension: int,
    banks: int,
    colluders: int,
    steps: int,
    epsilon_limit: float,
    delta: float,
) -> tuple[SharedSteps, int]:
    """(one of `steps` equal shared steps that together, beside `spent`, stay within the limit; pieces of a share).

    The noise is the least that can be sampled exactly, to one part in a thousand. Raises `BudgetExhausted` when none
    up to `MOST_PIECES` pieces of the sampler's largest variance is enough.
    """
    require_left(spent, epsilon_limit, delta)
    require_coalition(banks, colluders)

    def once(sigma: float) -> tuple[SharedSteps, int]:
        pieces = math.ceil(sigma**2 / LARGEST_VARIANCE)
        variance = float(exact_variance(max(sigma**2 / pieces, 4.0)))
        return SharedSteps(sensitivity, variance, pieces * (banks - colluders), dimension, 1), pieces

    def fits(sigma: float) -> bool:
        every = replace(once(sigma)[0], rounds=steps)
        return epsilon([*spent, every], delta) <= epsilon_limit

    sigma = _least(2.0, math.sqrt(LARGEST_VARIANCE * MOST_PIECES), fits)
    if sigma is None:
        raise BudgetExhausted(
            f"no noise lets {steps} shared steps fit into epsilon {epsilon_limit:g} at delta {delta}: raise --epsilon "
            "or ask for fewer --rounds"
        )
    return once(sigma)


def _least(low: float, high: float, fits: Callable[[float], bool]) -> float | None:
    """The least sigma up to `high` that fits, to one part in two thousand; None when `high` itself does not."""
    if not fits(high):
        return None
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
