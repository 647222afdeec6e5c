"""What an epsilon is worth to an attacker: how often it guesses right, and how sure it can become.

What it does: `protection` reads a bank's ledger as an attacker would profit from it, because equal epsilons of two
mechanisms are not equal protection: at epsilon 3 a count under discrete Laplace noise gives far more away in the
ordinary case than one under Gaussian noise, which gives more away in rare cases.

The attacker sees everything released about one transaction, knows t shares of the noise and all other data, and asks
whether the transaction was there.

- Attack accuracy: of the best guess when both answers are as likely as each other, (1 + delta(0)) / 2: delta(0) is the
  total variation distance of the two worlds, and no test beats a coin by more than half of it (Neyman, Pearson 1933;
  for differential privacy Kairouz, Oh, Viswanath, "The Composition Theorem for Differential Privacy", ICML 2015).
- Highest posterior: an attacker that believed in the transaction with some prior is at most this sure afterwards. It is
  Bayes' rule with exp(epsilon), but for the probability delta.
- The accuracy against several frauds of one card at once, all in the same cells of the counts: no epsilon of a single
  transaction speaks of a card.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fl.errors import BudgetError
from fl.privacy.accounting import Together, clients_of, combinations, epsilon, loss_of, require_delta
from fl.privacy.exact_loss import exact_loss
from fl.privacy.mechanisms import ClientRounds, Entry

PRIOR = 1e-3  # that a given transaction is a fraud: what an attacker knows before it looks
FRAUDS = 5  # of one card in one cell


@dataclass(frozen=True)
class Protection:
    """What an attacker gains from everything that a ledger lists, at most. All values are probabilities."""

    attack_accuracy: float  # that it guesses a transaction rightly; 1/2 is a coin
    prior: float
    highest_posterior: float  # after `prior`, but for the probability delta
    frauds: int
    accuracy_for_frauds: float  # that it guesses rightly whether these many frauds were there, all or none


def protection(history: Iterable[Entry], delta: float, *, prior: float = PRIOR, frauds: int = FRAUDS) -> Protection:
    """The protection of the dearest transaction of `history`. Raises `BudgetError` as `reckoned` does."""
    entries = list(history)
    return Protection(
        attack_accuracy(entries, delta),
        prior,
        highest_posterior(entries, delta, prior),
        frauds,
        attack_accuracy(entries, delta, frauds),
    )


def attack_accuracy(history: Iterable[Entry], delta: float, frauds: int = 1) -> float:
    """An upper bound, from 1/2 to 1, of the accuracy of the best guess whether `frauds` transactions were there.

    All of them are taken to lie in the same cells of the counts, and to be training rows. Exact for counts and steps
    that see every row. Beside subsampled steps it is a bound: the numerical composition errs (`delta` says how
    precisely it is made), and for several transactions the distances of single ones are added up. Whole updates of a
    bank hold all its transactions, so that their number is irrelevant.

    Raises `BudgetError` for a count below 1, and as `reckoned` does.
    """
    require_delta(delta)
    if frauds < 1:
        raise BudgetError(f"protection: expected at least 1 transaction, got {frauds}")
    entries = list(history)
    if clients := clients_of(entries):
        return (1 + _of_clients(clients, delta)) / 2
    return (1 + max(_advantage(together, delta, frauds) for together in combinations(entries))) / 2


def highest_posterior(history: Iterable[Entry], delta: float, prior: float = PRIOR) -> float:
    """How sure an attacker can become that a transaction was there, but for the probability `delta`.

    Raises `BudgetError` for a prior outside (0, 1), and as `reckoned` does.
    """
    if not 0.0 < prior < 1.0:
        raise BudgetError(f"protection: expected a prior between 0 and 1, both excluded, got {prior}")
    # In logarithms of odds: exp(epsilon) may be no number.
    odds = math.log(prior) - math.log1p(-prior) + _largest_loss(list(history), delta)
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


def _largest_loss(entries: list[Entry], delta: float) -> float:
    """A privacy loss that is exceeded with at most the probability `delta`.

    Where its law is not known: epsilon' = epsilon(delta / 2) + ln 2. delta(e) >= (1 - exp(e - e')) P(loss > e') gives
    P(loss > e') <= (delta / 2) / (1 - 1/2).
    """
    if clients := clients_of(entries):
        found = exact_loss(clients, ())
        losses = [None if found is None else found.exceeded_with(delta)]
    else:
        present = (each for each in combinations(entries) if each.trained or each.shared or each.counts)
        losses = [None if (loss := loss_of(each, delta)) is None else loss.exceeded_with(delta) for each in present]
    bound = epsilon(entries, delta / 2) + math.log(2) if entries else 0.0
    return max((bound if each is None else min(each, bound) for each in losses), default=0.0)


def _advantage(together: Together, delta: float, frauds: int) -> float:
    """Total variation distance of the two worlds: 0 for nothing at all, 1 for a certain answer."""
    if not (together.trained or together.shared or together.counts):
        return 0.0
    if frauds == 1:
        loss = loss_of(together, delta)
        bound = _by_epsilon((*together.trained, *together.shared, *together.counts), delta)
        return bound if loss is None else min(loss.delta(0.0), bound)
    every_row = tuple(entry for entry in together.trained if entry.sample_rate == 1.0)
    sampled = tuple(entry for entry in together.trained if entry.sample_rate < 1.0)
    # For several rows a subsampled step has no curve. A chain of neighbours has at most the sum of their distances, and
    # two independent releases are told apart at most when one of them is.
    rest = min(1.0, frauds * _advantage(Together(sampled, (), ()), delta, 1))
    if (loss := exact_loss((*every_row, *together.shared), together.counts, frauds)) is not None:
        return 1 - (1 - loss.delta(0.0)) * (1 - rest)
    return min(1.0, frauds * _advantage(replace(together, trained=every_row), delta, 1) + rest)


def _by_epsilon(entries: Sequence[Entry], delta: float) -> float:
    """From epsilon and delta alone, with which no mechanism gives away more than this.

    (exp(epsilon) - 1 + 2 delta) / (exp(epsilon) + 1): the total variation of randomised response of this epsilon and
    delta, of which every such mechanism can be made (Kairouz, Oh, Viswanath, ICML 2015).
    """
    half = epsilon(entries, delta) / 2
    return min(math.tanh(half) + 2 * delta / (1 + math.exp(min(2 * half, 700.0))), 1.0)


def _of_clients(clients: list[ClientRounds], delta: float) -> float:
    loss = exact_loss(clients, ())
    bound = _by_epsilon(clients, delta)
    return bound if loss is None else min(loss.delta(0.0), bound)
