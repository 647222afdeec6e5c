"""The constants of the episodes by maximum likelihood: from released counts, or from a bank's own labelled rows.

What it does: `fit_episodes` maximises the likelihood of the filter (`fl.counts.day_filter`) over the onset rate, the
mean and shape of the durations, and the frauds per compromised and clean day; `fit_own_episodes` does the same with the
shares of fraud in a bank's own rows. Nothing else enters: fitting released counts is post-processing of the release.

The search starts from the best of a few constants, on a part of the slots, and goes on without derivatives (Nelder and
Mead, The Computer Journal 7, 1965), in the end on all of them. Durations that the counts cannot tell apart are drawn
to three weeks by a weak prior: factor two costs a tenth of a nat.

Whether there are episodes at all is decided by the gain over one constant rate. It must exceed the Bayesian information
criterion of the constants that a constant rate does not have (Schwarz, Annals of Statistics 6, 1978).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from fl.counts.day_filter import Chain, run
from fl.counts.durations import ending
from fl.counts.episodes import BlockCounts, Episodes, Evidence, OwnEvidence
from fl.errors import StatisticsError

Floats = NDArray[np.float64]

MORE_CONSTANTS = 4  # onset, mean, shape and frauds of a compromised day, beside the one constant rate
PART = 2000  # slots on which the search begins
QUIET_GROUPS = 1000  # into which a bank's slots without frauds are put
PART_EVALUATIONS, EVALUATIONS = 100, 100  # of the likelihood, on the part and on all slots
MEANS, SHAPES, LEVELS = (7.0, 14.0, 28.0, 56.0), (1.5, 50.0), (0.4, 0.9)  # where the search begins
STEPS = (0.5, 0.3, 0.8, 0.2, 0.2)  # of the logarithms of onset, mean, shape, frauds of both kinds of day, at first
ONSETS = (1e-7, 0.1)
DAYS = (1.0, 365.0)
FORMS = (0.5, 1000.0)
RATES = (1e-7, 1e3)  # frauds a day
SHARES = (1e-7, 0.98)  # of a bank's own rows; 0.98: a genuine label never excludes an episode
LEAST_TIMES = 2.0  # frauds on a compromised day over those on a clean one
IMPOSSIBLE = 1e15  # nats; the search never returns there
USUAL_DAYS, USUAL_FORM = 21.0, 10.0  # the weak prior's centres


@dataclass(frozen=True)
class _Constants:
    """level, base: what is a fraud on a compromised and a clean day; per day for counts, per row for own rows."""

    onset: float
    mean: float
    shape: float
    level: float
    base: float

    @staticmethod
    def of(logs: Floats) -> _Constants:
        return _Constants(*(float(each) for each in np.exp(logs)))

    def logs(self) -> Floats:
        return np.log([self.onset, self.mean, self.shape, self.level, self.base])


@dataclass(frozen=True)
class _Problem:
    """evidence of some slots, each of which stands for `times` alike ones."""

    evidence: Evidence
    times: Floats = field(repr=False)
    levels: tuple[float, float]

    def nats(self, constants: _Constants) -> float:
        """The log-likelihood."""
        shown = self.evidence.shown(constants.level, constants.base, 1.0)
        chain = Chain(constants.onset, ending(constants.mean, constants.shape, self.evidence.longest))
        _, likelihood = run(chain, shown, np.empty(0, np.int64), 1)
        return float(likelihood @ self.times) + self._own_clean(constants.base)

    def constant_nats(self, base: float) -> float:
        """The log-likelihood without episodes."""
        shown = self.evidence.shown(base, base, 1.0)
        blocks = sum(
            float(shown.plain[kind][code] @ self.times)
            for kind, code in zip(self.evidence.kind, self.evidence.code, strict=True)
        )
        return blocks + self._own_clean(base)

    def _own_clean(self, base: float) -> float:
        own = self.evidence.own
        if own is None:
            return 0.0
        frauds = float(own.frauds.sum(axis=0) @ self.times)
        rows = float(own.transactions.sum(axis=0) @ self.times)
        return frauds * math.log(base) + (rows - frauds) * math.log1p(-base)

    def best_constant(self) -> tuple[float, float]:
        """(base, nats) of the most likely constant rate."""
        found = minimize_scalar(
            lambda log: -self.constant_nats(math.exp(log)),
            bounds=(math.log(self.levels[0]), math.log(self.levels[1])),
            method="bounded",
            options={"xatol": 1e-4},
        )
        return math.exp(found.x), -float(found.fun)

    def search(self, start: _Constants, scale: float, evaluations: int) -> _Constants:
        bounds = [tuple(np.log(each)) for each in (ONSETS, DAYS, FORMS, self.levels, self.levels)]
        low, high = np.array(bounds).T
        first = np.clip(start.logs(), low, high)
        steps = scale * np.diag(STEPS)
        steps[first[:, None] + steps.T > high[:, None]] *= -1  # into the range, where a start stands at its end
        found = minimize(
            lambda logs: -_worth(self.nats, _Constants.of(logs)),
            first,
            method="Nelder-Mead",
            bounds=bounds,
            options={
                "initial_simplex": np.clip(np.vstack([first, first + steps]), low, high),
                "maxfev": evaluations,
                "xatol": 0.01,
                "fatol": 0.1,
            },
        )
        return _Constants.of(found.x)

    def part(self, slots: int) -> _Problem:
        """About `slots` evenly spaced slots."""
        step = max(len(self.times) // slots, 1)
        return _Problem(self.evidence.of_slots(np.arange(0, len(self.times), step)), self.times[::step], self.levels)


def _worth(nats: Callable[[_Constants], float], constants: _Constants) -> float:
    """Log-likelihood and log-prior."""
    if constants.level < LEAST_TIMES * constants.base:
        return -IMPOSSIBLE
    prior = 0.1 * math.log2(constants.mean / USUAL_DAYS) ** 2 + 0.02 * math.log2(constants.shape / USUAL_FORM) ** 2
    return nats(constants) - prior


def fit_episodes(blocks: BlockCounts, traffic: float, *, evaluations: int = EVALUATIONS) -> Episodes:
    """The most likely constants of released counts.

    traffic: transactions per slot and day over all banks, a public figure (`parties.terminal_per_day` of the schema).
    Counts tell the frauds of a compromised day; the share of fraud is that over `traffic`. Where it would be above 0.98
    the traffic was stated too low, and the traffic that makes it 0.98 is kept. evaluations: of the likelihood on all
    slots, at most. Raises `StatisticsError`.
    """
    if not (traffic > 0 and math.isfinite(traffic)):
        raise StatisticsError(f"fit: expected a traffic above 0 transactions per slot and day, got {traffic!r}")
    evidence = Evidence.of(blocks, None)
    if evidence is None:
        raise StatisticsError("fit: expected at least one released block, got none")
    # Slots that show the same are counted once: of exact counts most are 0 throughout.
    _, first, times = np.unique(evidence.code, axis=1, return_index=True, return_counts=True)
    order = np.argsort(first)
    problem = _Problem(evidence.of_slots(first[order]), times[order].astype(np.float64), RATES)
    found, base, gain = _fit(problem, traffic, evaluations)
    traffic = max(traffic, found.level / SHARES[1])
    return _episodes(found, base, gain, traffic, blocks.frauds.size)


def fit_own_episodes(own: OwnEvidence) -> Episodes:
    """The most likely constants of a bank's own labelled rows. They are private: a bank that shares nothing uses them.

    `traffic` is that of the bank's own rows.
    """
    evidence = Evidence.of(None, own)
    assert evidence is not None
    rows = int(own.transactions.sum())
    slots, times = _telling(own)
    found, base, gain = _fit(_Problem(evidence.of_slots(slots), times, SHARES), 1.0)
    return _episodes(found, base, gain, max(rows, 1) / own.transactions.size, max(rows, 2), 1.0)


def _telling(own: OwnEvidence) -> tuple[NDArray[np.int64], Floats]:
    """(slots, how many alike ones each stands for): all with a fraud, and some of the others by their number of rows.

    A slot without frauds says little but how many rows it had: of neighbours in that order one speaks for all. Slots
    without any row are alike, as most buckets of a small bank are.
    """
    frauds, rows = own.frauds.sum(axis=0), own.transactions.sum(axis=0)
    others = np.flatnonzero(frauds == 0)
    others = others[np.argsort(rows[others], kind="stable")]
    groups = np.array_split(others, min(QUIET_GROUPS, max(len(others), 1)))
    empty = sum(len(group) > 0 and not rows[group[-1]] for group in groups)
    groups = [np.concatenate(groups[:empty]), *groups[empty:]] if empty else groups
    groups = [group for group in groups if len(group)]
    middle = np.array([group[len(group) // 2] for group in groups], np.int64)
    slots = np.concatenate([np.flatnonzero(frauds), middle])
    times = np.concatenate([np.ones(int((frauds > 0).sum())), [float(len(group)) for group in groups]])
    return slots, times


def _fit(problem: _Problem, most: float, evaluations: int = EVALUATIONS) -> tuple[_Constants, float, float]:
    """(constants, the base of a constant rate, gain over it). most: frauds of a day on which all is fraud."""
    base, plain = problem.best_constant()
    part = problem.part(PART)
    starts = [
        _Constants(
            min(max(base / 2 / (level * most * mean), ONSETS[0]), ONSETS[1]), mean, shape, level * most, base / 2
        )
        for mean, shape, level in itertools.product(MEANS, SHAPES, LEVELS)
    ]
    best = max(starts, key=lambda each: _worth(part.nats, each))
    best = part.search(best, 1.0, PART_EVALUATIONS)
    if len(part.times) < len(problem.times):
        best = problem.search(best, 0.4, evaluations)
    return best, base, problem.nats(best) - plain


def _episodes(
    found: _Constants, base: float, gain: float, traffic: float, observations: int, per_row: float | None = None
) -> Episodes:
    per = traffic if per_row is None else per_row
    if gain <= MORE_CONSTANTS / 2 * math.log(observations) or found.level < LEAST_TIMES * found.base:
        share = min(base / per, SHARES[1])
        return Episodes(0.0, found.mean, found.shape, share, share, traffic, False, gain)
    share, least = min(found.level / per, SHARES[1]), found.base / per
    return Episodes(found.onset, found.mean, found.shape, share, least, traffic, True, gain)
