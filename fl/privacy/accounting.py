"""What releases cost: a history of mechanisms becomes (epsilon, delta).

What it does: `epsilon` turns a history of training steps, shared counts and client-level releases into an epsilon, and
`reckoned` also names the accountant behind the figure.

Sources: the Poisson-subsampled Gaussian composed numerically as privacy random variables (PRV; Gopi, Lee, Wutschitz,
NeurIPS 2021), whose *upper* bound is reported; Renyi DP (Mironov, Talwar, Zhang 2019) beside it, and in its place
outside the range in which float64 can hold that bound (`fl.privacy.privacy_loss`), or where it is the smaller one. Both
are Opacus' implementations; `fl.privacy.privacy_loss` adds the exact privacy loss of noisy counts to the first.
Client-level rounds are composed as zCDP (Bun, Steinke 2016), steps under shared noise as zCDP within Renyi DP. A
Gaussian-DP (central limit) figure is never offered: it can understate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from opacus.accountants import RDPAccountant

from fl.errors import BudgetError
from fl.privacy.mechanisms import ClientRounds, Entry, Mechanism, NoisyCounts, SharedSteps
from fl.privacy.noise_shares import sum_correction
from fl.privacy.privacy_loss import CountLoss, composed_epsilon

ACCOUNTANT = "PRV"
CLIENT_ACCOUNTANT = "zCDP"
RENYI_ACCOUNTANT = "RDP"  # of shared steps and everything beside them, and of what PRV cannot hold
HOPELESS_EPSILON = 1000.0  # the PRV grid of a larger one would not fit in memory, nor would the figure help
SMALL_EPSILON = 1.0  # below it PRV's own error of 0.01 is so large a part that Renyi DP can be the smaller bound
RENYI_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 80, 128, 256, 512, 1024]  # the large ones serve small epsilons


Accountant = Literal["prv", "rdp"]
CountsKey = tuple[int, int, float, int]  # columns, resolution, share variance, shares


class Reckoned(NamedTuple):
    """An upper bound of epsilon, and the accountant that gave it."""

    epsilon: float
    accountant: str


def epsilon(history: Iterable[Entry], delta: float, accountant: Accountant = "prv") -> float:
    """The epsilon at `delta` of everything in `history` together; as `reckoned`."""
    return reckoned(history, delta, accountant).epsilon


def reckoned(history: Iterable[Entry], delta: float, accountant: Accountant = "prv") -> Reckoned:
    """The epsilon at `delta` of everything in `history` together, and the name of the accountant behind that figure.

    Epsilon is 0.0 for an empty history and inf beyond `HOPELESS_EPSILON`.

    An upper bound in both accountants (PRV adds its own error of 0.01), never below 0. "prv" asks for the smaller of
    the two where PRV is in its range, and for Renyi DP elsewhere. The order of `history` is irrelevant.
    Raises `BudgetError` when client-level rounds stand beside row-level ones: no single unit covers both.
    """
    if not 0.0 < delta < 1.0:
        raise BudgetError(f"delta must be between 0 and 1 (and well below 1 / number of rows), got {delta}")
    entries = list(history)
    clients = [entry for entry in entries if isinstance(entry, ClientRounds)]
    if clients:
        if len(clients) < len(entries):
            raise BudgetError(
                "client-level rounds and row-level releases have different units and no common epsilon: keep a "
                "ledger for each (--budget-dir)"
            )
        rho = sum(entry.rounds * entry.concentrated for entry in clients)
        return Reckoned(concentrated_epsilon(rho, delta), CLIENT_ACCOUNTANT)
    steps: dict[tuple[float, float], int] = {}
    for entry in entries:
        if isinstance(entry, Mechanism):
            key = (entry.noise_multiplier, entry.sample_rate)
            steps[key] = steps.get(key, 0) + entry.steps
    if rho := sum(entry.rounds * entry.concentrated for entry in entries if isinstance(entry, SharedSteps)):
        # No exact privacy loss is known for a vector of discrete Gaussians: all is composed in Renyi DP, where rho-zCDP
        # is what one Gaussian of this noise costs.
        accountant = "rdp"
        steps[math.sqrt(1 / (2 * rho)), 1.0] = steps.get((math.sqrt(1 / (2 * rho)), 1.0), 0) + 1
    trained = tuple((*key, count) for key, count in sorted(steps.items()))
    parts = (_composed(trained, counted, delta, accountant) for counted in _by_day(entries))
    return max(parts, key=lambda part: part.epsilon)


def _by_day(entries: Sequence[Entry]) -> set[tuple[CountsKey, ...]]:
    """The combinations of count releases that one transaction can be part of: those that share a day."""
    counts = [entry for entry in entries if isinstance(entry, NoisyCounts)]
    combinations: set[tuple[CountsKey, ...]] = {()}
    for day in {entry.first_day for entry in counts}:  # the most overlap begins where some release begins
        here = [c for c in counts if c.first_day <= day <= c.last_day]
        combinations.add(tuple(sorted((c.columns, c.resolution, c.share_variance, c.shares) for c in here)))
    return combinations


@lru_cache(maxsize=4096)
def _composed(
    trained: tuple[tuple[float, float, int], ...],
    counted: tuple[CountsKey, ...],
    delta: float,
    accountant: Accountant,
) -> Reckoned:
    if not trained and not counted:
        return Reckoned(0.0, RENYI_ACCOUNTANT if accountant == "rdp" else ACCOUNTANT)
    correction = sum(2 * columns * sum_correction(v, shares) for columns, _, v, shares in counted)

    def renyi(orders: Sequence[float]) -> Reckoned:
        return Reckoned(max(_renyi(trained, counted, delta, orders) + correction, 0.0), RENYI_ACCOUNTANT)

    if accountant == "rdp":
        return renyi(RENYI_ORDERS)
    # Integer orders are a closed form, hence quick; at small orders they bound even a huge epsilon.
    if not renyi([2, 4, 8, 16, 32]).epsilon <= HOPELESS_EPSILON:
        return Reckoned(math.inf, RENYI_ACCOUNTANT)
    exact = [(CountLoss(r, variance, shares), columns) for columns, r, variance, shares in counted]
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the")
        exact_epsilon = composed_epsilon(trained, exact, delta)
    if exact_epsilon is None:
        return renyi(RENYI_ORDERS)
    numerical = Reckoned(exact_epsilon + correction, ACCOUNTANT)
    if numerical.epsilon >= SMALL_EPSILON:
        return numerical
    return min(numerical, renyi(RENYI_ORDERS), key=lambda one: one.epsilon)


def _renyi(
    trained: tuple[tuple[float, float, int], ...], counted: tuple[CountsKey, ...], delta: float, orders: Sequence[float]
) -> float:
    """Renyi DP: a discrete Gaussian's divergences are at most the Gaussian's (Canonne et al., Theorem 14)."""
    renyi = RDPAccountant()
    renyi.history = [*trained, *((math.sqrt(shares * v) / r, 1.0, columns) for columns, r, v, shares in counted)]
    # Opacus warns at the ends of the orders and takes log(0) at sampling rate 1, where -inf is the right
    # value.
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(renyi.get_epsilon(delta, alphas=list(orders)))


def concentrated_epsilon(rho: float, delta: float) -> float:
    """Epsilon at `delta` of a rho-zCDP mechanism: the best order of Canonne et al., Proposition 12."""
    if rho == 0:
        return 0.0
    orders = 1.0 + np.geomspace(1e-3, 1e5, 20_000)
    bound = orders * rho + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
    return float(max(bound.min(), 0.0))
