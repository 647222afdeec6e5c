"""Which members of a round are left out, decided from the inner products of their updates alone.

A rule reads a Gram matrix G, G[i, j] = <u_i, u_j>, and says who stays. Distances, norms and cosines follow from G:

    |u_i - u_j|^2 = G_ii + G_jj - 2 G_ij        cos(u_i, v) = <u_i, v> / (|u_i| |v|)

    outliers    out: far from most others, opposed to the sum of the middle, or a near copy of another member
    nnm         mix each update with its n - f nearest, and keep those whose mixture Krum selects
    multikrum   keep the n - f with the smallest Krum scores
    krum        keep the one with the smallest Krum score
    norm        out: longer than a multiple of the median norm

Sources: Krum and Multi-Krum, Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent", NeurIPS 2017, sections 4 and 5 (m = n - f); `nnm`: Allouah, Farhadkhani, Guerraoui, Gupta,
Pinot, Stephan, "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023, Algorithm 2 and
their Krum, which sums over the n - f nearest, the update itself included. `outliers` and `norm` are thresholds on such
statistics, measured on fraud detection (docs/adr/0027-robust-rules.md). Clones fool `krum` and `multikrum`: attackers
that send one vector are each other's nearest neighbours. They are here for comparison.

A verdict names members and no figure: a distance or a score is a function of single updates.

What this module leaves to others: where G comes from, whether it is the Gram matrix of anything, and what an attacker
can do below the thresholds. It uses numpy only, and every rule is a pure function. Members are numbered as the rows of
G. A tie is decided for the member with the smaller number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from secagg.arrays import F64
from secagg.errors import GramMalformed, RuleNeedsMoreClients, RuleUnknown

RuleName = Literal["outliers", "nnm", "multikrum", "krum", "norm"]
RULES: tuple[str, ...] = get_args(RuleName)
COUNTED = frozenset({"nnm", "multikrum", "krum"})  # rules that must be told how many attackers to expect

FAR = 2.5  # of the median, over members, of their median distance to the others
OPPOSED = -0.2  # cosine with the sum of the core
TWIN = 0.5  # of the same median, and of the shorter of two updates
LONG = 2.5  # of the median norm
SECOND_LOOK = 1.2  # thresholds of a second look at the same members, through another sketch
DEVIATIONS = 8.0  # standard deviations by which two sketches' distances may differ


@dataclass(frozen=True)
class Rule:
    """A rule and its one parameter.

    `byzantine`: f, the number of members that may be attackers; the rules in `COUNTED` need it, and the thresholds of
    the others do not use it. `slack`: from 1, widens thresholds. Raises `RuleUnknown`.
    """

    name: RuleName = "outliers"
    byzantine: int | None = None
    slack: float = 1.0

    def __post_init__(self) -> None:
        f = self.byzantine
        if self.name not in RULES:
            raise RuleUnknown(f"rule: expected one of {', '.join(RULES)}, got {self.name!r}")
        if f is None and self.name in COUNTED:
            raise RuleUnknown(f"{self.name}: expected the number of attackers to tolerate (byzantine), got none")
        if f is not None and (isinstance(f, bool) or not isinstance(f, int) or f < 1):
            raise RuleUnknown(f"{self.name}: byzantine: expected a whole number from 1, got {f!r}")
        if not (math.isfinite(self.slack) and self.slack >= 1.0):
            raise RuleUnknown(f"{self.name}: slack: expected a number from 1, got {self.slack!r}")

    @property
    def smallest(self) -> int:
        """Fewest members that the rule can be asked about.

        2 f + 1: honest members must be the majority. Krum's score sums over n - f - 2 neighbours, and Blanchard et al.,
        proposition 1, needs n >= 2 f + 3. Without f, that of one attacker.
        """
        f = 1 if self.byzantine is None else self.byzantine
        return 2 * f + (3 if self.name in ("krum", "multikrum") else 1)

    def require_enough(self, members: int) -> None:
        """Raise `RuleNeedsMoreClients` when the rule cannot be asked about so few members."""
        if members < self.smallest:
            f = 1 if self.byzantine is None else self.byzantine
            raise RuleNeedsMoreClients(
                f"{self.name} against {f} {'attacker' if f == 1 else 'attackers'}: expected at least {self.smallest} "
                f"members of a round, got {members}: enrol more, or name fewer attackers"
            )


@dataclass(frozen=True)
class Verdict:
    """`kept`: numbers of the members that stay, ascending. `reason`: why nobody stays; empty otherwise."""

    kept: tuple[int, ...]
    reason: str = ""


def select(gram: F64, rule: Rule) -> Verdict:
    """Who stays, by `rule`.

    `gram`: float64[n, n], the inner products of the members' updates, or of sketches of them, in any unit. At a slack
    above 1, rules without thresholds leave out a fixed number all the same: `second_look` is the function to look twice
    at the same members.

    Raises `GramMalformed` for a matrix that is not square, finite and symmetric, and `RuleNeedsMoreClients`.
    """
    _require_gram(gram)
    rule.require_enough(len(gram))
    kept = _members(_APPLY[rule.name](gram, rule))
    if rule.name in ("outliers", "norm") and len(kept) < (least := len(gram) // 2 + 1):
        return Verdict((), f"{rule.name}: expected at least {least} of {len(gram)} members to stay, got {len(kept)}")
    return Verdict(kept)


def second_look(first: F64, second: F64, rule: Rule, *, width: int) -> Verdict:
    """Which members of a closed roster still pass when another sketch shows them.

    Whoever knew the seed of the first sketch can have moved an update into its kernel: a vector that the first sketch
    shows as nothing. The second sketch's seed was unknown when updates were fixed. Two statistics are compared:

    - d_ij in both sketches. Both estimate one distance. The squared length of a count sketch of `width` d has a
      relative variance of at most 2 / d (Charikar, Chen, Farach-Colton 2002; Weinberger et al. 2009, appendix A), so
      the ratio of two estimates has a standard deviation of about sqrt(1 / d). Out: a member whose median ratio over
      the others exceeds 1 by `DEVIATIONS` of these.
    - `outliers` and `norm` are applied again with thresholds wider by `SECOND_LOOK`, whatever the first look left out.
      Rules that keep a fixed number would leave out members that did nothing, and rest on the ratio alone.

    `first`, `second`: float64[n, n], of the members of the roster in its order. `width`: coefficients of either sketch.
    A verdict that keeps fewer than all is a refusal of the round, and those who are missing from it are its cause.
    Raises `GramMalformed`.
    """
    _require_gram(first)
    _require_gram(second)
    if first.shape != second.shape or width < 1:
        raise GramMalformed(
            f"expected two matrices of one shape and a width from 1, got {first.shape}, {second.shape} and {width}"
        )
    passes = _steady(first, second, 1.0 + DEVIATIONS / math.sqrt(width))
    if rule.name in ("outliers", "norm") and len(second) > 1:
        passes &= _APPLY[rule.name](second, replace(rule, slack=rule.slack * SECOND_LOOK))
    kept = _members(passes)
    return Verdict(kept, "" if kept else "no member passes the second look")


# --- the rules: bool[n], who stays ----------------------------------------------------------------------------------


def _outliers(gram: F64, rule: Rule) -> NDArray[np.bool_]:
    distance = np.sqrt(squared_distances(gram))
    others = _without_diagonal(distance)
    remote = _lower_median(others)  # float64[n]: each member's median distance to the others
    typical = float(_lower_median(remote))
    core = np.argsort(remote, kind="stable")[: len(gram) // 2 + 1]
    far = remote > FAR * rule.slack * typical
    opposed = _cosines_with_core(gram, core) < OPPOSED * rule.slack
    # Two short updates are close to each other whatever they say, so copies are also close for their length.
    length = np.sqrt(np.maximum(np.diag(gram), 0.0))
    copies = distance < TWIN / rule.slack * np.minimum(typical, np.minimum.outer(length, length))
    np.fill_diagonal(copies, False)
    twin = copies.any(axis=1)
    kept: NDArray[np.bool_] = ~(far | opposed | twin)
    return kept


def _nnm(gram: F64, rule: Rule) -> NDArray[np.bool_]:
    assert rule.byzantine is not None
    near = len(gram) - rule.byzantine
    nearest = np.argsort(squared_distances(gram), axis=1, kind="stable")[:, :near]
    mixing = np.zeros(gram.shape)
    np.put_along_axis(mixing, nearest, 1.0 / near, axis=1)
    mixed = squared_distances(mixing @ gram @ mixing.T)
    winner = int(np.argmin(np.sort(mixed, axis=1)[:, :near].sum(axis=1)))
    kept: NDArray[np.bool_] = mixing[winner] > 0
    return kept


def _multikrum(gram: F64, rule: Rule) -> NDArray[np.bool_]:
    assert rule.byzantine is not None
    best = np.argsort(_krum_scores(gram, rule.byzantine), kind="stable")
    kept: NDArray[np.bool_] = np.isin(np.arange(len(gram)), best[: len(gram) - rule.byzantine])
    return kept


def _krum(gram: F64, rule: Rule) -> NDArray[np.bool_]:
    assert rule.byzantine is not None
    kept: NDArray[np.bool_] = np.arange(len(gram)) == np.argmin(_krum_scores(gram, rule.byzantine))
    return kept


def _norm(gram: F64, rule: Rule) -> NDArray[np.bool_]:
    length = np.sqrt(np.maximum(np.diag(gram), 0.0))
    return np.asarray(length <= LONG * rule.slack * _lower_median(length), dtype=np.bool_)


_APPLY = {"outliers": _outliers, "nnm": _nnm, "multikrum": _multikrum, "krum": _krum, "norm": _norm}


# --- statistics of a Gram matrix ------------------------------------------------------------------------------------


def squared_distances(gram: F64) -> F64:
    """float64[n, n]: |u_i - u_j|^2, at least 0, exactly 0 on the diagonal."""
    square = np.diag(gram)
    squared: F64 = np.maximum(square[:, None] + square[None, :] - 2.0 * gram, 0.0)
    np.fill_diagonal(squared, 0.0)
    return squared


def _cosines_with_core(gram: F64, core: NDArray[np.intp]) -> F64:
    """float64[n]: the cosine of each update with the sum of the core's other updates; 0 where one of both is zero."""
    inside = np.zeros((len(gram), len(gram)))
    inside[:, core] = 1.0
    np.fill_diagonal(inside, 0.0)  # nobody is compared with a sum that contains it
    product = (inside * gram).sum(axis=1)
    length = np.einsum("ij,jk,ik->i", inside, gram, inside) * np.diag(gram)
    cosines: F64 = np.divide(product, np.sqrt(np.maximum(length, 0.0)), out=np.zeros(len(gram)), where=length > 0)
    return cosines


def _krum_scores(gram: F64, byzantine: int) -> F64:
    """float64[n]: the sum of squared distances to the n - f - 2 nearest others."""
    nearest = np.sort(_without_diagonal(squared_distances(gram)), axis=1)
    scores: F64 = nearest[:, : len(gram) - byzantine - 2].sum(axis=1)
    return scores


def _steady(first: F64, second: F64, most: float) -> NDArray[np.bool_]:
    """bool[n]: whose median ratio of distances, second over first, is at most `most`."""
    if len(first) < 2:
        return np.ones(len(first), dtype=np.bool_)
    before, after = (np.sqrt(_without_diagonal(squared_distances(gram))) for gram in (first, second))
    grown = after > most * before  # no division: a distance of zero that stays zero has not grown
    # More than half of the others, as for a lower median of the ratios.
    return np.asarray(grown.sum(axis=1) <= (len(first) - 1) // 2, dtype=np.bool_)


def _lower_median(values: F64) -> F64:
    """Of an even number of values the smaller one of the middle: no attacker's value, as long as most are honest.

    Along the last axis. The mean of both would let f = (n - 1) / 2 attackers move it as far as they like.
    """
    middle: F64 = np.sort(values, axis=-1)[..., (values.shape[-1] - 1) // 2]
    return middle


def _without_diagonal(matrix: F64) -> F64:
    """float64[n, n - 1]"""
    n = len(matrix)
    return matrix[~np.eye(n, dtype=np.bool_)].reshape(n, n - 1)


def _members(stay: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(member) for member in np.flatnonzero(stay))


def _require_gram(gram: F64) -> None:
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1] > 0
    if not square or not np.isfinite(gram).all() or not np.array_equal(gram, gram.T):
        raise GramMalformed(
            f"expected the inner products of n members, finite and symmetric, got shape {gram.shape}, "
            f"{'finite' if np.isfinite(gram).all() else 'not finite'}: every pair has one inner product"
        )
