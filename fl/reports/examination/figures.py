"""Measure how much fraud the model detects at each bank, and compare it with the baselines on the same rows.

What it does: measures the model again on its rows, with the code that measured it after training, and checks that both
agree; collects the baselines of the run, and names those that it left out; computes the curves behind the metrics.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from fl.errors import ExaminationError
from fl.learning.evaluation import MEASURED, Evaluation, evaluate
from fl.learning.metrics import TOP_CARDS, at_threshold
from fl.learning.thresholds import rule_in_words
from fl.reports.compared import BASELINES, WITH_OWN_EVIDENCE, baselines_of, had
from fl.reports.examination.evidence import Evidence
from fl.runs.verdict import OWN_EVIDENCE

CURVE_POINTS = 200  # of a curve in the report
HISTOGRAM = 20  # bins of equal width
SAME = 1e-3  # largest difference by rounding between a metric now and after training


def figures(evidence: Evidence) -> dict[str, Any]:
    """Figures of the model, by test window and bank, with the curves behind them. A precision over no alert is None.

    Raises `ExaminationError` when they are not those that the run reported: then this is another program than the one
    that trained it, or its features are others.
    """
    again = evaluate(evidence.federation.banks, evidence.models, torch.device("cpu"))
    stored = evidence.stored("metrics.json")
    furthest = max(abs(again.mean[name] - stored[name]) for name in MEASURED)
    if furthest > SAME:
        raise ExaminationError(
            f"{evidence.run}: a metric measured now differs by {furthest:.3g} from the reported one (at most {SAME:g} "
            "is rounding): a version with other features trained this run; train it anew, or evaluate with that version"
        )
    test = evidence.test
    windows = _windows(evidence, again)
    alerts = [int(window["alerts"]) for window in windows]
    return {
        **again.as_json(),
        **_mean(windows),
        "threshold": evidence.threshold,
        "own_thresholds": dict(evidence.own_thresholds),
        "rule": dict(evidence.rule),
        "rule_words": rule_in_words(evidence.rule, days=evidence.has_days),
        "windows": windows,
        "top_cards": TOP_CARDS,
        "largest_difference_to_run": furthest,
        "rows": len(test),
        "frauds": int(test.label.sum()),
        "alerts": sum(alerts),
        "fraud_share": float(test.label.mean()),
        "alerts_per_day": _alerts_per_day(evidence),
        "per_bank": _per_bank(evidence, again.per_bank),
        "curves": curves(test.label, test.score),
    }


def comparison(evidence: Evidence) -> dict[str, Any]:
    """The federated model beside each baseline; `ran` False, and no figures, for one that the run left out."""
    own = evidence.stored("metrics.json")
    stored = evidence.stored("baselines.json")
    rows = [_compared("federated", "this model", own, own)]
    rows[0] |= {**_mean(_alerts(evidence)), "threshold": evidence.threshold}
    if (with_evidence := own.get(OWN_EVIDENCE)) is not None:
        rows.append(_compared(OWN_EVIDENCE, WITH_OWN_EVIDENCE, with_evidence, own))
    names = baselines_of(evidence.config)
    rows += [_compared(name, BASELINES[name], stored.get(name), own) for name in names]
    return {
        "models": rows,
        "not_run": [row["name"] for row in rows if not row["ran"]],
        "explained": [
            {"name": row["name"], "what": row["what"], "had": had(row["name"], evidence.schema.words, evidence.config)}
            for row in rows[1:]
            if row["ran"]
        ],
    }


def _compared(name: str, what: str, other: dict[str, Any] | None, own: dict[str, Any]) -> dict[str, Any]:
    if other is None:
        return {"name": name, "what": what, "ran": False}
    kept = {figure: other[figure] for figure in MEASURED}
    difference = other["average_precision"] - own["average_precision"]
    return {"name": name, "what": what, "ran": True, **kept, "average_precision_difference": difference}


def _windows(evidence: Evidence, again: Evaluation) -> list[dict[str, Any]]:
    """The figures of each test window, with precision, recall and F1 of the alerts that the run's thresholds give."""
    found = zip(again.windows, again.at, _alerts(evidence), strict=True)
    return [{**asdict(window), **at, **alerts, "threshold": evidence.threshold} for window, at, alerts in found]


def _alerts(evidence: Evidence) -> list[dict[str, Any]]:
    """By test window: the alerts, with their precision (None without any), recall and F1."""
    test, flagged, rows = evidence.test, evidence.flagged(evidence.test), []
    for number in range(evidence.windows):
        inside = test.window == number
        alert = flagged[inside]
        precision, recall, f1 = at_threshold(test.label[inside].astype(np.float64), alert.astype(np.float64), 0.5)
        alerts = int(alert.sum())
        rows.append({"alerts": alerts, "precision": precision if alerts else None, "recall": recall, "f1": f1})
    return rows


def _mean(windows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means over windows; the precision of a window without alerts counts as 0, and is None where no window has any."""
    means: dict[str, float | None] = {
        name: fmean(window[name] or 0.0 for window in windows) for name in ("precision", "recall", "f1")
    }
    if not any(window["alerts"] for window in windows):
        means["precision"] = None
    return means


def _alerts_per_day(evidence: Evidence) -> float | None:
    if not evidence.has_days:
        return None
    days = len(np.unique(evidence.test.day))
    return float(evidence.flagged(evidence.test).sum() / days)


def _per_bank(evidence: Evidence, average_precision: dict[str, float | None]) -> list[dict[str, Any]]:
    test, rows = evidence.test, []
    for code, name in enumerate(evidence.bank_names):
        own = test.bank == code
        flagged = own & evidence.flagged(test)
        frauds, hits = int(test.label[own].sum()), int(test.label[flagged].sum())
        rows.append(
            {
                "bank": name,
                "rows": int(own.sum()),
                "frauds": frauds,
                "alerts": int(flagged.sum()),
                "threshold": float(evidence.limits[code]),
                "average_precision": average_precision[name],
                "recall": hits / frauds if frauds else None,
                "precision": hits / int(flagged.sum()) if flagged.any() else None,
            }
        )
    return rows


def curves(label: NDArray[np.integer], score: NDArray[np.float64]) -> dict[str, Any]:
    """Precision against recall, and how scores of frauds and others are distributed; no single row shows in either."""
    precision, recall, _ = precision_recall_curve(label, score)
    kept = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(np.int64))
    # Equal steps of recall and not of rows, because recall hardly changes over most rows.
    kept = np.union1d(
        kept, np.unique(np.searchsorted(-recall, -np.linspace(0, 1, CURVE_POINTS)).clip(0, len(recall) - 1))
    )
    edges = np.linspace(0.0, 1.0, HISTOGRAM + 1)
    return {
        "precision_recall": {"recall": recall[kept].tolist(), "precision": precision[kept].tolist()},
        "scores": {
            "edges": edges.tolist(),
            "frauds": np.histogram(score[label == 1], edges)[0].tolist(),
            "others": np.histogram(score[label == 0], edges)[0].tolist(),
        },
    }
