"""Measure models at the banks: validation figures of a round, and the evaluation at the end of a run.

What it does: `evaluate` measures one model per bank on all banks' test rows, together and bank by bank, at several
thresholds (`fl.learning.bank_figures`); `validation_figures` on their validation rows; `require_measurable` refuses
rows on which metrics are undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from fl.data.federation import BankData, PartitionedTable, Rows
from fl.errors import MetricError
from fl.learning.bank_figures import BankFigures, ScoredBank, bank_figures, points_of_all
from fl.learning.metrics import Metrics, choose_threshold, measure
from fl.learning.training import predict

MEASURED = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100", "threshold")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one or more models on all banks' test rows: the mean over test windows, and those of each window."""

    mean: dict[str, float]
    windows: tuple[Metrics, ...]
    per_bank: dict[str, float | None]  # average precision on the bank's own test rows; None without frauds
    figures: dict[str, BankFigures] = field(default_factory=dict, repr=False)  # of each bank, by window
    at: tuple[dict[str, dict[str, float | int | None]], ...] = field(
        default=(), repr=False
    )  # of each window, all banks
    scored: tuple[ScoredBank, ...] = field(default=(), repr=False)  # the test rows; never in a file

    def as_json(self) -> dict[str, object]:
        """The means at the top level, then the range over windows, `windows` and the figures of each bank."""
        windows = [
            {**asdict(window), **at}
            for window, at in zip(self.windows, self.at or ({},) * len(self.windows), strict=True)
        ]
        weekly = [window.average_precision for window in self.windows]
        return {
            **self.mean,
            "average_precision_range": [min(weekly), max(weekly)],
            "windows": windows,
            "average_precision_per_bank": self.per_bank,
            "banks": {name: figures.as_json() for name, figures in self.figures.items()},
        }


def evaluate(banks: Sequence[BankData], models: Sequence[nn.Module], device: torch.device) -> Evaluation:
    """Measure `models[i]` on bank i's rows, all banks together. A common model is given once per bank.

    The threshold has the best F1 on all banks' validation rows. This evaluation sees all labels; in a deployment each
    bank would choose its own threshold.
    """
    scored = tuple(_scored_bank(bank, model, device) for bank, model in zip(banks, models, strict=True))
    labels, scores = (np.concatenate(each) for each in zip(*(bank.validation for bank in scored), strict=True))
    threshold = choose_threshold(labels, scores)
    figures = {each.name: bank_figures(each, threshold) for each in scored}
    windows, at = [], []
    for number in range(len(banks[0].test)):
        labels = np.concatenate([each.label[number] for each in scored])
        scores = np.concatenate([each.score[number] for each in scored])
        parts = [bank.test[number] for bank in banks]
        day, customer = np.concatenate([p.day for p in parts]), np.concatenate([p.customer for p in parts])
        windows.append(measure(labels, scores, day, customer, threshold=threshold))
        at.append(points_of_all(scored, figures, number, threshold))
    mean = {name: fmean(getattr(window, name) for window in windows) for name in MEASURED}
    per_bank = {each.name: each.average_precision for each in scored}
    return Evaluation(mean, tuple(windows), per_bank, figures, tuple(at), scored)


def _scored_bank(bank: BankData, model: nn.Module, device: torch.device) -> ScoredBank:
    """One prediction of all of a bank's rows."""
    parts = (bank.validation, *bank.test)
    scores = [predict(model, part.x, device=device) for part in parts]
    return ScoredBank(
        bank.name,
        (bank.validation.y, scores[0]),
        tuple(test.y for test in bank.test),
        tuple(scores[1:]),
        tuple(test.day for test in bank.test),
        tuple(test.customer for test in bank.test),
    )


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
