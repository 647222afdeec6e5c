"""What releases cost: a history of mechanisms becomes (epsilon, delta).

What it does: `epsilon` turns a history of training steps, shared counts and client-level releases into an epsilon,
`reckoned` also names the accountant behind the figure, and `losses_of` gives the privacy loss itself.

Four accountants, each an upper bound:

- "exact": closed forms (`fl.privacy.exact_loss`), for counts and for steps that see every row.
- "PRV": the Poisson-subsampled Gaussian composed numerically as privacy random variables (Gopi, Lee, Wutschitz,
  NeurIPS 2021), whose *upper* bound is reported; `fl.privacy.privacy_loss` adds the exact loss of counts to Opacus'
  implementation. Counts under discrete Laplace noise stand beside it as `fl.privacy.exact_loss` says.
- "RDP": Renyi DP (Mironov, Talwar, Zhang 2019), in place of either outside its range (float64 holds no exact figure
  there), or where it is the smaller one.
- "zCDP": client-level rounds (Bun, Steinke 2016).

A Gaussian-DP (central limit) figure is never offered: it can understate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from fl.errors import BudgetError
from fl.privacy.exact_loss import (
    HOPELESS_EPSILON,
    Gaussian,
    Loss,
    charges_of,
    distance_of,
    exact_loss,
    gaussian_steps,
    listed,
)
from fl.privacy.mechanisms import ClientRounds, Counts, Entry, LaplaceCounts, Mechanism, NoisyCounts, SharedSteps
from fl.privacy.noise_shares import sum_correction
from fl.privacy.privacy_loss import ComposedLoss, CountLoss, composed_epsilon, composed_loss

ACCOUNTANT = "PRV"
EXACT_ACCOUNTANT = "exact"
CLIENT_ACCOUNTANT = "zCDP"
RENYI_ACCOUNTANT = "RDP"
SMALL_EPSILON = 1.0  # below it PRV's own error of 0.01 is so large a part that Renyi DP can be the smaller bound
RENYI_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 80, 128, 256, 512, 1024]  # the large ones serve small epsilons
DISTANCE_SHARE = 1e-6  # of delta that Renyi DP sets aside for the precision of noise

Accountant = Literal["prv", "rdp"]


class Reckoned(NamedTuple):
    """An upper bound of epsilon, and the accountant that gave it."""

    epsilon: float
    accountant: str


@dataclass(frozen=True)
class Together:
    """Releases that one transaction, or one training row, can all be part of."""

    trained: tuple[Mechanism, ...]  # one for each noise and sampling rate, ascending
    shared: tuple[SharedSteps, ...]
    counts: tuple[Counts, ...]  # of no particular day

    @property
    def has_closed_form(self) -> bool:
        """Whether every step sees every row. A bank's own steps alone are composed numerically all the same."""
        own_only = not (self.shared or self.counts)
        return not own_only and all(entry.sample_rate == 1.0 for entry in self.trained)

    @property
    def is_numerical(self) -> bool:
        """Whether `composed_epsilon` says all: nothing but a bank's own steps, and counts under Gaussian noise."""
        laplace = any(isinstance(entry, LaplaceCounts) for entry in self.counts)
        return not (self.has_closed_form or self.shared or laplace)

    @property
    def noisy(self) -> tuple[NoisyCounts, ...]:
        return tuple(entry for entry in self.counts if isinstance(entry, NoisyCounts))


def epsilon(history: Iterable[Entry], delta: float, accountant: Accountant = "prv") -> float:
    """The epsilon at `delta` of everything in `history` together; as `reckoned`."""
    return reckoned(history, delta, accountant).epsilon


def reckoned(history: Iterable[Entry], delta: float, accountant: Accountant = "prv") -> Reckoned:
    """The epsilon at `delta` of everything in `history` together, and the name of the accountant behind that figure.

    Epsilon is 0.0 for an empty history and inf beyond `HOPELESS_EPSILON`.

    An upper bound in every accountant (PRV adds its own error of 0.01), never below 0. "prv" asks for the smallest that
    is known; "rdp" for Renyi DP. The order of `history` is irrelevant.
    Raises `BudgetError` when client-level rounds stand beside row-level ones: no single unit covers both.
    """
    entries = list(history)
    require_delta(delta)
    if clients := clients_of(entries):
        rho = sum(entry.rounds * entry.concentrated for entry in clients)
        return Reckoned(concentrated_epsilon(rho, delta), CLIENT_ACCOUNTANT)
    parts = (_reckoned(together, delta, accountant) for together in combinations(entries))
    return max(parts, key=lambda part: part.epsilon)


def require_delta(delta: float) -> None:
    """Raise `BudgetError` unless 0 < delta < 1."""
    if not 0.0 < delta < 1.0:
        raise BudgetError(f"delta must be between 0 and 1 (and well below 1 / number of rows), got {delta}")


def clients_of(history: Iterable[Entry]) -> list[ClientRounds]:
    """The client-level rounds of a history, which then holds nothing else. Raises `BudgetError` where it does."""
    entries = list(history)
    clients = [entry for entry in entries if isinstance(entry, ClientRounds)]
    if 0 < len(clients) < len(entries):
        raise BudgetError(
            "client-level rounds and row-level releases have different units and no common epsilon: keep a "
            "ledger for each (--budget-dir)"
        )
    return clients


def combinations(history: Iterable[Entry]) -> set[Together]:
    """What one transaction can be part of: all training, and the counts that share a day.

    The most overlap begins where some release begins. An empty history is one empty combination.
    """
    entries = list(history)
    steps: dict[tuple[float, float], int] = {}
    for entry in entries:
        if isinstance(entry, Mechanism):
            key = (entry.noise_multiplier, entry.sample_rate)
            steps[key] = steps.get(key, 0) + entry.steps
    trained = tuple(Mechanism(rate, noise, count) for (noise, rate), count in sorted(steps.items()))
    rounds: dict[SharedSteps, int] = {}
    for entry in entries:
        if isinstance(entry, SharedSteps):
            once = replace(entry, rounds=1)
            rounds[once] = rounds.get(once, 0) + entry.rounds
    shared = tuple(sorted((replace(once, rounds=count) for once, count in rounds.items()), key=repr))
    counts = [entry for entry in entries if isinstance(entry, NoisyCounts | LaplaceCounts)]
    found = {Together(trained, shared, ())}
    for day in {entry.first_day for entry in counts}:
        here = [replace(c, first_day=0, last_day=0) for c in counts if c.first_day <= day <= c.last_day]
        found.add(Together(trained, shared, tuple(sorted(here, key=repr))))
    return found


@lru_cache(maxsize=256)
def loss_of(together: Together, delta: float) -> Loss | None:
    """The privacy loss of `together`, with the precision that `delta` asks for; None where it cannot be had."""
    if together.has_closed_form:
        found = exact_loss((*together.trained, *together.shared), together.counts)
        if found is not None:
            return found
    discrete = listed(entry for entry in together.counts if isinstance(entry, LaplaceCounts))
    gaussian, trained = gaussian_steps(together.shared), _as_opacus(together.trained)
    if gaussian.mu > 0:
        trained = (*trained, (1 / gaussian.mu, 1.0, 1))
    if discrete is None or not _may_be_composed(together, delta):
        return None
    composed = _composed(trained, together.noisy, delta)
    if composed is None:
        return None
    return Loss(discrete, composed, charges_of(together.shared, together.noisy), distance_of(together.counts))


@lru_cache(maxsize=16)
def _composed(
    trained: tuple[tuple[float, float, int], ...], noisy: tuple[NoisyCounts, ...], delta: float
) -> ComposedLoss | None:
    """The numerical part of a loss, which a calibration of other noise asks for again and again."""
    with _quiet_opacus():
        return composed_loss(trained, _losses(noisy), delta)


@contextmanager
def _quiet_opacus() -> Iterator[None]:
    """Opacus warns at the ends of the orders and takes log(0) at sampling rate 1, where -inf is the right value."""
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield


@lru_cache(maxsize=4096)
def _reckoned(together: Together, delta: float, accountant: Accountant) -> Reckoned:
    if not (together.trained or together.shared or together.counts):
        return Reckoned(0.0, RENYI_ACCOUNTANT if accountant == "rdp" else ACCOUNTANT)
    if accountant == "rdp":
        return _by_renyi(together, delta)
    if together.is_numerical:
        return _by_composition(together, delta)
    loss, renyi = loss_of(together, delta), _by_renyi(together, delta)
    if loss is None:
        return renyi
    name = EXACT_ACCOUNTANT if isinstance(loss.rest, Gaussian) else ACCOUNTANT
    return min(Reckoned(loss.epsilon(delta), name), renyi, key=lambda one: one.epsilon)


def _by_composition(together: Together, delta: float) -> Reckoned:
    """PRV's figure at `delta` itself, or Renyi DP's outside its range and where that is the smaller one."""
    if not _may_be_composed(together, delta):
        return Reckoned(math.inf, RENYI_ACCOUNTANT)
    with _quiet_opacus():
        found = composed_epsilon(_as_opacus(together.trained), _losses(together.noisy), delta)
    if found is None:
        return _by_renyi(together, delta)
    numerical = Reckoned(found + _correction(together.noisy), ACCOUNTANT)
    if numerical.epsilon >= SMALL_EPSILON:
        return numerical
    return min(numerical, _by_renyi(together, delta), key=lambda one: one.epsilon)


def _may_be_composed(together: Together, delta: float) -> bool:
    """Whether the grid of a numerical composition has a chance to fit in memory.

    Integer orders are a closed form, hence quick; at small orders they bound even a huge epsilon.
    """
    return _by_renyi(together, delta, (2, 4, 8, 16, 32)).epsilon <= HOPELESS_EPSILON


def _as_opacus(trained: Sequence[Mechanism]) -> tuple[tuple[float, float, int], ...]:
    return tuple((entry.noise_multiplier, entry.sample_rate, entry.steps) for entry in trained)


def _losses(noisy: Sequence[NoisyCounts]) -> list[tuple[CountLoss, int]]:
    return [(CountLoss(entry.resolution, entry.share_variance, entry.shares), entry.columns) for entry in noisy]


def _correction(noisy: Sequence[NoisyCounts]) -> float:
    """What it adds to epsilon that a sum of shares is no discrete Gaussian."""
    return sum(2 * entry.columns * sum_correction(entry.share_variance, entry.shares) for entry in noisy)


def _by_renyi(together: Together, delta: float, orders: Sequence[float] = RENYI_ORDERS) -> Reckoned:
    """Renyi DP of everything: the divergences of every order add up.

    A discrete Gaussian's are at most the Gaussian's (Canonne et al., Theorem 14); steps under shared noise are
    rho-zCDP, which is what one Gaussian of that noise costs; randomised response has a closed form.
    """
    history = list(_as_opacus(together.trained))
    history += [(math.sqrt(c.shares * c.share_variance) / c.resolution, 1.0, c.columns) for c in together.noisy]
    if rho := sum(entry.rounds * entry.concentrated for entry in together.shared):
        history.append((math.sqrt(1 / (2 * rho)), 1.0, 1))
    divergence = np.zeros(len(orders))
    distance = distance_of(together.counts)
    with _quiet_opacus():
        for noise, rate, count in history:
            divergence += compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=list(orders))
        for entry in together.counts:
            if isinstance(entry, LaplaceCounts):
                divergence += entry.moved * randomised_response(entry.epsilon, np.array(orders, np.float64))
        left = delta * (1 - DISTANCE_SHARE) if distance > 0 else delta
        found, _ = get_privacy_spent(orders=list(orders), rdp=divergence, delta=left)
    total = max(float(found) + _correction(together.noisy), 0.0)
    if distance > 0 and not (total < 700 and distance * (1 + math.exp(total)) <= delta * DISTANCE_SHARE):
        return Reckoned(math.inf, RENYI_ACCOUNTANT)
    return Reckoned(total, RENYI_ACCOUNTANT)


def randomised_response(epsilon: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Renyi divergence of each of `orders` between the two laws of randomised response, as discrete Laplace noise is.

    Mironov, "Renyi Differential Privacy" (CSF 2017), Proposition 5.
    """
    often, seldom = -np.logaddexp(0.0, -epsilon), -np.logaddexp(0.0, epsilon)  # logarithms of the probabilities
    both = np.logaddexp(orders * often + (1 - orders) * seldom, orders * seldom + (1 - orders) * often)
    divergence: NDArray[np.float64] = both / (orders - 1)
    return divergence


def concentrated_epsilon(rho: float, delta: float) -> float:
    """Epsilon at `delta` of a rho-zCDP mechanism: the best order of Canonne et al., Proposition 12."""
    if rho == 0:
        return 0.0
    orders = 1.0 + np.geomspace(1e-3, 1e5, 20_000)
    bound = orders * rho + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
    return float(max(bound.min(), 0.0))
