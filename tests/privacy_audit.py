"""Tests privacy claims on actual output: canaries for training and counts, and a test of the noise's variance.

What it does: `one_run_bound` turns guesses about canaries in a single run into a lower bound of epsilon that holds
with stated confidence; `audit_training` and `audit_counts` make such a run; `noise_verdict` tests whether released
noise has the variance that was accounted for.

An audit can find that a claim is false; it cannot
show that one is true, and a bound far below the claim says only that these canaries found nothing.

Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023), Theorem 5.2: if m
independent canaries are each in or out by a fair coin, then under (epsilon, delta)-DP the number of correct guesses
among r made is stochastically dominated by Binomial(r, e^epsilon / (e^epsilon + 1)), but for a term in m delta. The
auditor abstains on the canaries in the middle, and the bound is for add/remove of a row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, chi2
from torch import nn

from fl.counts.plan import Integers, StatisticsPlan, Totals
from fl.data.federation import Rows
from fl.learning.model import flatten, unflatten
from fl.learning.training import LocalTraining, PrivateSteps, train_private
from fl.privacy.randomness import Entropy, uniforms

CONFIDENCE = 0.95
EPSILON_STEP = 0.01  # of the search for a lower bound
MANY = 500  # other rows whose gradients the attacker tells apart
LARGEST_EPSILON = 50.0  # no audit of fewer than e^50 canaries can say more

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class AuditError(ValueError):
    """An audit without enough canaries or samples to conclude anything."""


@dataclass(frozen=True)
class AuditResult:
    """The result of guesses in one run. `violated`: the claim is false, with the stated confidence."""

    claimed_epsilon: float
    delta: float
    canaries: int
    guesses: int
    correct: int
    lower_bound: float  # of epsilon, at `confidence`
    confidence: float = CONFIDENCE

    @property
    def violated(self) -> bool:
        return self.lower_bound > self.claimed_epsilon


def one_run_bound(
    scores: Floats, included: Flags, *, claimed_epsilon: float, delta: float, guesses: int | None = None
) -> AuditResult:
    """A lower bound of epsilon from one run with m canaries.

    scores: float64[m], higher where a canary seems to have been in.  included: bool[m], the fair coins.  guesses: how
    many canaries are guessed about, fixed before the run, half of them as in; all m by default. Raises `AuditError`.
    """
    canaries = len(scores)
    guessed = canaries if guesses is None else guesses
    if scores.shape != included.shape or not np.isfinite(scores).all():
        raise AuditError(f"expected one finite score per canary, got shapes {scores.shape} and {included.shape}")
    if guessed % 2 or not 2 <= guessed <= canaries:
        raise AuditError(f"guesses: expected an even number from 2 to {canaries} (the canaries), got {guessed}")
    order = np.argsort(scores, kind="stable")
    correct = int((~included[order[: guessed // 2]]).sum() + included[order[canaries - guessed // 2 :]].sum())
    return AuditResult(
        claimed_epsilon, delta, canaries, guessed, correct, _lower_bound(canaries, guessed, correct, delta)
    )


def _lower_bound(canaries: int, guesses: int, correct: int, delta: float) -> float:
    """The largest epsilon whose p-value is at most 1 - `CONFIDENCE`; 0.0 when there is none."""
    bound = 0.0
    for step in range(1, round(LARGEST_EPSILON / EPSILON_STEP)):
        candidate = step * EPSILON_STEP
        if _p_value(canaries, guesses, correct, candidate, delta) > 1 - CONFIDENCE:
            break
        bound = candidate
    return bound


def _p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """P(at least `correct` right guesses) under (epsilon, delta)-DP, at most; their Algorithm 2."""
    probability = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, probability))
    at_least = binom.sf(np.arange(correct - 1, -2, -1), guesses, probability)  # >= correct, correct - 1, ..., 0
    gained = np.diff(at_least).cumsum()  # P(correct - i <= W < correct) for i = 1, 2, ...
    alpha = float(max((gained / np.arange(1, len(gained) + 1)).max(initial=0.0), 0.0))
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def audit_training(
    module: nn.Module,
    rows: Rows,
    local: LocalTraining,
    private: PrivateSteps,
    *,
    canaries: int,
    guesses: int | None = None,
    claimed_epsilon: float,
    delta: float,
    entropy: Entropy = os.urandom,
) -> AuditResult:
    """Train `module` (in place) once on `rows` with canaries among them, and guess which were in.

    Canaries are rows at the corners of the feature cube, in random directions, labelled as fraud: their gradients are
    as large and as unlike each other as the clip allows. The attacker sees the change of the whole model and fits
    it by the canaries' own clipped gradients at the start, beside those of up to `MANY` other rows, which it knows.
    """
    if canaries < 2:
        raise AuditError(f"canaries: expected at least 2, got {canaries}")
    width, bound = rows.x.shape[1], float(np.abs(rows.x).max(initial=1.0))
    signs = np.where(uniforms(canaries * width, entropy=entropy).reshape(canaries, width) < 0.5, -1, 1)
    x = (bound * signs).astype(np.float32)
    included = uniforms(canaries, entropy=entropy) < 0.5
    own = _row_gradients(module, x, private.max_grad_norm)
    others = _row_gradients(module, rows.x[:MANY], private.max_grad_norm, rows.y[:MANY])
    planted = _with_rows(rows, x[included])
    before = flatten(module)
    device = next(module.parameters()).device
    train_private(module, planted, local, private, device=device, entropy=entropy)
    moved = (flatten(module) - before).astype(np.float64)
    # Descent moves against the gradients of the rows that were in. The other rows' gradients are known too; what all of
    # them explain together keeps canaries from being mistaken for each other.
    known = np.concatenate([own, others])
    scores = np.linalg.lstsq(known.T, -moved, rcond=None)[0][:canaries]
    return one_run_bound(scores, included, claimed_epsilon=claimed_epsilon, delta=delta, guesses=guesses)


def audit_counts(
    plan: StatisticsPlan,
    contribute: Callable[[Integers], Integers],
    *,
    canaries: int,
    guesses: int | None = None,
    claimed_epsilon: float,
    delta: float,
    entropy: Entropy = os.urandom,
) -> AuditResult:
    """One release with canary transactions, each alone in a cell of its own, in or out by a fair coin.

    contribute: exact counts int64[plan.shape] of the audited bank -> released sums int64[plan.length], other honest
    banks' noise shares included. The attacker knows every other transaction, and looks at the noised cell.
    """
    cells = plan.shape[0] * plan.shape[1]
    if not 2 <= canaries <= cells:
        raise AuditError(f"canaries: expected 2 to {cells} (the cells of a release), got {canaries}")
    included = uniforms(canaries, entropy=entropy) < 0.5
    counts = np.zeros((cells, plan.shape[2]), np.int64)
    counts[:canaries] = included[:, None]  # a fraud: one transaction, one label, one bank
    totals = Totals(plan, contribute(counts.reshape(plan.shape)).reshape(plan.shape))
    scores = totals.sums.reshape(cells, -1)[:canaries].sum(axis=1).astype(np.float64)
    return one_run_bound(scores, included, claimed_epsilon=claimed_epsilon, delta=delta, guesses=guesses)


def noise_verdict(
    samples: NDArray[np.int64] | Floats, sigma: float, significance: float = 1e-6
) -> Literal["consistent", "too little", "too much"]:
    """Whether noise (any shape) can have standard deviation `sigma`, by a two-sided chi-square test.

    significance: probability in (0, 1) with which right noise is called wrong. At 1e-6, n samples tell sigma from
    sigma / 2 for n >= 100. Raises `AuditError` for fewer, a sigma <= 0, or a significance outside its range.
    """
    flat = np.asarray(samples, np.float64).reshape(-1)
    if len(flat) < 100 or not sigma > 0:
        raise AuditError(f"expected at least 100 samples and sigma > 0, got {len(flat)} and {sigma}")
    if not 0 < significance < 1:
        raise AuditError(f"significance: expected a probability between 0 and 1, got {significance}")
    statistic = float(np.square(flat).sum()) / sigma**2
    if float(chi2.cdf(statistic, len(flat))) < significance / 2:
        return "too little"
    return "too much" if float(chi2.sf(statistic, len(flat))) < significance / 2 else "consistent"


def _row_gradients(
    module: nn.Module, x: NDArray[np.float32], norm: float, y: NDArray[np.float32] | None = None
) -> Floats:
    """float64[m, parameters]: each row's gradient (as a fraud without `y`), clipped to `norm`, as `flatten` orders."""
    gradients = []
    labels = np.ones(len(x), np.float32) if y is None else y
    before = flatten(module)
    module.eval()
    for row, label in zip(torch.from_numpy(x), labels, strict=True):
        module.zero_grad()
        logit = module(row[None]).sum()
        loss = nn.functional.softplus(-logit if label == 1 else logit)
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None]).double().numpy()
        gradients.append(gradient * min(1.0, norm / max(float(np.linalg.norm(gradient)), 1e-12)))
    module.zero_grad()
    unflatten(module, before)
    return np.stack(gradients)


def _with_rows(rows: Rows, x: NDArray[np.float32]) -> Rows:
    more = len(x)
    return replace(
        rows,
        x=np.concatenate([rows.x, x]),
        y=np.concatenate([rows.y, np.ones(more, np.float32)]),
        day=np.concatenate([rows.day, np.full(more, rows.day[0] if len(rows) else 0, rows.day.dtype)]),
        customer=np.concatenate([rows.customer, np.arange(more) + (rows.customer.max(initial=0) + 1)]),
        index=np.concatenate([rows.index, np.arange(more) + (rows.index.max(initial=0) + 1)]),
    )
