"""What a robust round is asked for, and how the key holder judges a matrix of inner products.

The rule itself is in `rules.py`. Before it is asked, members are left out whose figures no honest sketch has: a norm
above the plan's limit, or inner products that no vectors have (Cauchy and Schwarz). What the matrix then says about the
sum of all colluders is true even where their own products wrapped around the modulus (docs/adr/0023-robust-rounds.md,
"What wraps").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.arrays import F64, I64
from secagg.errors import PlanError, RuleRefused
from secagg.plan import RoundPlan
from secagg.rules import Rule, second_look, select
from secagg.sketchplan import SketchPlan, plan_sketches
from secagg.transcript import RULE

_RULE = struct.Struct("<16sI")
assert _RULE.size == RULE


@dataclass(frozen=True)
class Robust:
    """A round that leaves members out by `rule`, without anyone seeing an update."""

    rule: Rule = field(default_factory=Rule)

    def check(self, plan: RoundPlan, *, masking: bool) -> SketchPlan:
        """The sketches of such rounds. Raises `PlanError` for a plan that cannot have them, or without masking."""
        if not masking:
            raise PlanError("robust rounds need masking: without it the key holder's key opens every contribution")
        sketch = plan_sketches(plan)
        self.rule.require_enough(plan.max_clients)
        return sketch


def rule_bytes(rule: Rule) -> bytes:
    """A rule in an offer: its name in 16 bytes and f in 4, zero for none. Its slack is 1 in the first look."""
    if rule.slack != 1.0:
        raise PlanError(f"rule: expected a slack of 1 in the first look, got {rule.slack!r}")
    return _RULE.pack(rule.name.encode(), rule.byzantine or 0)


def first_look(gram: F64, plan: SketchPlan, rule: Rule) -> tuple[int, ...]:
    """Rows of those who stay, ascending. Raises `RuleRefused` or `PlanError` (too few for the rule)."""
    rows = plausible(gram, plan)
    rule.require_enough(len(gram))
    if len(rows) < rule.smallest:
        raise RuleRefused(f"{rule.name}: {len(rows)} of {len(gram)} sketches are plausible, too few for the rule")
    verdict = select(measured(gram[np.ix_(rows, rows)], plan), rule)
    if not verdict.kept:
        raise RuleRefused(f"{verdict.reason}: open the next step")
    return tuple(int(rows[kept]) for kept in verdict.kept)


def last_look(first: F64, second: F64, plan: SketchPlan, rule: Rule) -> tuple[int, ...]:
    """Rows of those who still pass: first and second products of the same members. Both float64[n, n]."""
    rows = plausible(second, plan)
    index = np.ix_(rows, rows)
    before, after = measured(first[index], plan), measured(second[index], plan)
    verdict = second_look(before, after, rule, width=plan.width)
    return tuple(int(rows[kept]) for kept in verdict.kept)


def plausible(gram: F64, plan: SketchPlan) -> NDArray[np.intp]:
    """Rows whose norm is within the limit and whose products with the others are those of vectors, but for noise.

    Where two members contradict each other, the one with more contradictions goes first, both where they have as many.
    """
    norms = np.diag(gram)
    limit = plan.norm_limit(len(gram))
    rows = np.flatnonzero((norms <= limit) & (norms >= -plan.product_error(0.0, 0.0)))
    while rows.size:
        part = gram[np.ix_(rows, rows)]
        length = np.sqrt(np.maximum(np.diag(part), 0.0))
        wrong = np.abs(part) > np.outer(length, length) + _errors(length, plan)
        most = wrong.sum(axis=1)
        if not most.any():
            break
        rows = rows[most < most.max()]
    return rows


def measured(gram: F64, plan: SketchPlan) -> F64:
    """The matrix with every distance that is within its own error set to zero: noise decides about nobody."""
    norms = np.maximum(np.diag(gram), 0.0)
    length = np.sqrt(norms)
    middle = (norms[:, None] + norms[None, :]) / 2
    # A squared distance G_ii + G_jj - 2 G_ij has the errors of four products.
    found: F64 = np.where(2 * (middle - gram) <= 2 * _errors(length, plan), middle, gram)
    return found


def check_total(gram: F64, total: I64, plan: SketchPlan) -> bool:
    """Whether the members' products add up to the squared norm of their sum. total: int64[width], exact."""
    length = np.sqrt(np.maximum(np.diag(gram), 0.0))
    exact = float(np.dot(total.astype(np.float64), total.astype(np.float64)))
    return abs(float(gram.sum()) - exact) <= float(_errors(length, plan).sum()) + 2.0**-40 * exact


def _errors(length: F64, plan: SketchPlan) -> F64:
    """float64[n, n]: twice the bound of each product's error, for members of these lengths."""
    constant, slope = plan.product_error(0.0, 0.0), plan.product_error(1.0, 0.0) - plan.product_error(0.0, 0.0)
    errors: F64 = 2.0 * (constant + slope * (length[:, None] + length[None, :]))
    return errors
