"""Measure models at the banks: validation figures of a round, and the evaluation at the end of a run.

What it does: `evaluate` measures one model per bank on all banks' test rows, `validation_figures` on their validation
rows, and `require_measurable` refuses rows on which metrics are undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from fl.data.federation import BankData, PartitionedTable, Rows
from fl.errors import MetricError
from fl.learning.metrics import Metrics, choose_threshold, measure
from fl.learning.training import predict

MEASURED = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100", "threshold")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one or more models on all banks' test rows: the mean over test windows, and those of each window."""

    mean: dict[str, float]
    windows: tuple[Metrics, ...]
    per_bank: dict[str, float | None]  # average precision on the bank's own test rows; None without frauds

    def as_json(self) -> dict[str, object]:
        """The means at the top level, then the range over windows, `windows` and `average_precision_per_bank`."""
        windows = [asdict(window) for window in self.windows]
        weekly = [window.average_precision for window in self.windows]
        return {
            **self.mean,
            "average_precision_range": [min(weekly), max(weekly)],
            "windows": windows,
            "average_precision_per_bank": self.per_bank,
        }


def evaluate(banks: Sequence[BankData], models: Sequence[nn.Module], device: torch.device) -> Evaluation:
    """Measure `models[i]` on bank i's rows, all banks together. A common model is given once per bank.

    The threshold has the best F1 on all banks' validation rows. This evaluation sees all labels; in a deployment each
    bank would choose its own threshold.
    """
    threshold = choose_threshold(*_scored([bank.validation for bank in banks], models, device))
    windows = []
    for number in range(len(banks[0].test)):
        parts = [bank.test[number] for bank in banks]
        labels, scores = _scored(parts, models, device)
        day, customer = np.concatenate([p.day for p in parts]), np.concatenate([p.customer for p in parts])
        windows.append(measure(labels, scores, day, customer, threshold=threshold))
    mean = {name: fmean(getattr(window, name) for window in windows) for name in MEASURED}
    per_bank = {bank.name: _own_precision(bank, model, device) for bank, model in zip(banks, models, strict=True)}
    return Evaluation(mean, tuple(windows), per_bank)


def require_measurable(banks: Sequence[BankData]) -> None:
    """Raise `MetricError` before any training when metrics of validation or test rows would be undefined."""
    tables = [("validation", [bank.validation.y for bank in banks])]
    tables += [(f"test window {i + 1}", [bank.test[i].y for bank in banks]) for i in range(len(banks[0].test))]
    _require_both_classes(tables)


def require_measurable_split(source: PartitionedTable) -> None:
    """As `require_measurable`, before any feature is computed."""
    label = source.table.label
    assert label is not None
    tables = [("validation", [label[rows[held.validation]] for _, rows, held in source.banks])]
    for i in range(source.periods.windows):
        tables.append((f"test window {i + 1}", [label[rows[held.test[i]]] for _, rows, held in source.banks]))
    _require_both_classes(tables)


def _require_both_classes(tables: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> None:
    for name, parts in tables:
        frauds, rows = sum(int(labels.sum()) for labels in parts), sum(len(labels) for labels in parts)
        if not 0 < frauds < rows:
            raise MetricError(
                f"{name}: {frauds} frauds in {rows} rows of all banks, and metrics need frauds and others; "
                "choose a longer period or more data"
            )


def validation_figures(
    banks: Sequence[BankData], models: Sequence[nn.Module], device: torch.device
) -> tuple[float, float]:
    """(average precision, ROC-AUC) of `models[i]` on bank i's validation rows, all banks together."""
    labels, scores = _scored([bank.validation for bank in banks], models, device)
    return float(average_precision_score(labels, scores)), float(roc_auc_score(labels, scores))


def _scored(
    parts: Sequence[Rows], models: Sequence[nn.Module], device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(labels, scores) of all parts, each scored by its own model."""
    scores = [predict(model, part.x, device=device) for model, part in zip(models, parts, strict=True)]
    return np.concatenate([part.y for part in parts]), np.concatenate(scores)


def _own_precision(bank: BankData, model: nn.Module, device: torch.device) -> float | None:
    labels, scores = _scored(bank.test, [model] * len(bank.test), device)
    return float(average_precision_score(labels, scores)) if 0 < labels.sum() < len(labels) else None
