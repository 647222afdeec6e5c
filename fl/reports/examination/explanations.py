"""Compute the importance of features at each bank, and whether banks agree on it.

What it does: SHAP values of the model's logit, by GradientShap or, of trees, exactly by TreeSHAP, of a sample of each
bank's test rows and of its alerts; a feature's importance is the mean of their absolute values. Banks are compared by
the rank correlation of importances and by how many of their top features they share. The gap between a score and the
sum of its SHAP values, which is zero for exact ones, is reported beside them.

What it leaves to others: single decisions. A report holds means over rows, never a row's values.

Source: Lundberg and Lee, NeurIPS 2017 (SHAP); Erion et al., Nature Machine Intelligence 2021 (expected gradients),
as implemented by Captum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from captum.attr import GradientShap
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from fl.reports.examination.evidence import Evidence, ScoredPart
from fl.runs.tree_columns import TreeColumns
from fl.seeds import derive_seed

ROWS = 300  # sampled per bank, and as many of its highest alerts
BACKGROUND = 500  # training rows that stand for the absence of information
DRAWS = 200  # backgrounds and interpolation points per row
TOP = 5  # features that count as a bank's top ones


def explanations(evidence: Evidence) -> dict[str, Any]:
    """Importances of features over all banks and per bank, and the agreement of banks."""
    names, rng = _columns(evidence), np.random.default_rng(derive_seed(evidence.config.seed, "shap"))
    train, test, by_tree = evidence.train, evidence.test, evidence.config.trees is not None
    background = train.x[rng.choice(len(train), min(BACKGROUND, len(train)), replace=False)]
    usual, alerts, gaps, per_bank = [], [], [], []
    for code, bank in enumerate(evidence.bank_names):
        rows = np.flatnonzero(test.bank == code)
        if len(rows) == 0:
            continue
        model, seed = evidence.models[code], derive_seed(evidence.config.seed, "shap", bank)
        sampled = rng.choice(rows, min(ROWS, len(rows)), replace=False)
        values, gap = _values(model, test.x[sampled], background, seed, by_tree=by_tree)
        flagged = _highest_alerts(test, rows, evidence.limits[code])
        more, _ = _values(model, test.x[flagged], background, seed, by_tree=by_tree)
        usual.append(values)
        alerts.append(more)
        gaps.append(gap)
        importance = np.abs(values).mean(axis=0)
        per_bank.append({"bank": bank, "rows": len(sampled), "alerts": len(flagged), **_named(names, importance)})
    return {
        "unit": "logit",
        "exact": by_tree,
        "linked": by_tree and evidence.config.model.inputs == "risk",
        "odds_per_logit": float(np.e),
        "top": TOP,
        "rows_per_bank": ROWS,
        "background_rows": len(background),
        "draws": DRAWS,
        "mean_gap": float(np.concatenate(gaps).mean()),
        "mean_logit_change": float(np.abs(np.concatenate(usual).sum(axis=1)).mean()),
        "usual": _named(names, np.abs(np.concatenate(usual)).mean(axis=0)),
        **_of_alerts(names, np.concatenate(alerts)),
        "per_bank": per_bank,
        "agreement": agreement([bank["importance"] for bank in per_bank]),
    }


def _columns(evidence: Evidence) -> tuple[str, ...]:
    """What importances are of: the model's features, or the columns that trees make of them."""
    if evidence.config.trees is None:
        return evidence.federation.feature_names
    names, linked = evidence.federation.feature_names, evidence.config.model.inputs == "risk"
    columns = TreeColumns.of(evidence.schema, names, linked=linked)
    return (*columns.names, names[-1]) if linked else columns.names


def _values(
    model: nn.Module, x: NDArray[np.float32], background: NDArray[np.float32], seed: int, *, by_tree: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not by_tree:
        return shap_values(model, x, background, seed=seed)
    from fl.reports.examination.tree_explanations import tree_shap_values  # needs the extra `trees`
    from fl.runs.tree_module import TreeScores

    assert isinstance(model, TreeScores)
    return tree_shap_values(model, x)


def shap_values(
    model: nn.Module, x: NDArray[np.float32], background: NDArray[np.float32], *, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(SHAP values of the logit, float64[n, d]; |their sum - rise of the logit| per row, float64[n])."""
    if len(x) == 0:
        return np.zeros(x.shape), np.zeros(0)
    model.eval()
    inputs, against = torch.from_numpy(x), torch.from_numpy(background)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Captum draws its backgrounds and points by numpy's and torch's global generators.
        state = np.random.get_state()
        np.random.seed(seed % 2**32)
        try:
            attributed = GradientShap(lambda rows: model(rows).reshape(-1)).attribute(inputs, against, n_samples=DRAWS)
        finally:
            np.random.set_state(state)
    values: NDArray[np.float64] = attributed.detach().double().numpy()
    with torch.no_grad():
        rise = (model(inputs).reshape(-1) - model(against).mean()).double().numpy()
    return values, np.abs(values.sum(axis=1) - rise)


def agreement(importances: list[dict[str, float]]) -> dict[str, Any] | None:
    """How alike banks rank features: mean and least over pairs; None for fewer than two banks.

    `rank_correlation`: Spearman's, None where every importance of a bank is the same; `shared_top`: features in
    both banks' top `TOP` / features in either (Jaccard).
    """
    if len(importances) < 2:
        return None
    ranks, shared = [], []
    for i, one in enumerate(importances):
        for other in importances[:i]:
            if min(len(set(each.values())) for each in (one, other)) > 1:  # equal importances have no ranks
                ranks.append(float(spearmanr(list(one.values()), [other[name] for name in one]).statistic))
            tops = [set(sorted(each, key=lambda name: -each[name])[:TOP]) for each in (one, other)]
            shared.append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    return {
        "pairs": len(shared),
        "rank_correlation": {"mean": float(np.mean(ranks)), "least": min(ranks)} if ranks else None,
        "shared_top": {"mean": float(np.mean(shared)), "least": min(shared)},
    }


def _highest_alerts(test: ScoredPart, rows: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    flagged = rows[test.score[rows] >= threshold]
    return flagged[np.argsort(-test.score[flagged], kind="stable")[:ROWS]]


def _named(names: tuple[str, ...], importance: NDArray[np.float64]) -> dict[str, Any]:
    order = np.argsort(-importance, kind="stable")
    return {"top": [names[i] for i in order[:TOP]], "importance": {names[i]: float(importance[i]) for i in order}}


def _of_alerts(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, Any]:
    """Importances over alerts; None, with the count 0, where no row was flagged."""
    if len(values) == 0:
        return {"alerts": {"top": [], "importance": None, "rows": 0}, "alerts_signed": None}
    named = _named(names, np.abs(values).mean(axis=0))
    return {"alerts": {**named, "rows": len(values)}, "alerts_signed": _signed(names, values)}


def _signed(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    """Mean SHAP value per feature: positive pushes towards fraud."""
    mean = values.mean(axis=0)
    return {names[i]: float(mean[i]) for i in np.argsort(-mean, kind="stable")}
