"""Federated averaging over the banks, one round after the other.

What it does: `federated_rounds` plays the rounds of a schedule from a given state; `evaluate` measures a
model on the banks' validation and test rows.

What it leaves to others: local training (`fl.training`), averaging (`fl.secure`), the budget (`fl.privacy`,
through `pay`), files (`fl.run_folder`), what is run beside it for comparison (`fl.baselines`).

Source: FedAvg, McMahan et al., AISTATS 2017, with full participation. Every bank weighs the same: a weight
by its number of rows would publish that number and, under differential privacy, is itself a function of the
rows that has no noise on it.

Each round starts from the global model alone. Optimiser state is not carried over, so that a round is a
function of (model, round number, rows) and a run continues from a checkpoint as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from fl.errors import MetricError, TrainingError
from fl.federation import BankData, Rows
from fl.metrics import Metrics, choose_threshold, measure
from fl.model import build_model, flatten, model_hash, unflatten
from fl.secure import Aggregate, Update, plain_average
from fl.training import LocalTraining, PrivateSteps, derive_seed, predict, train_private, train_seeded

Vector = NDArray[np.float32]
Aggregation = Callable[[Sequence[Update], str], Aggregate]  # (updates, hash of the model they refer to)
Payment = Callable[[str, int], None]  # (bank, round): records a bank's spend or refuses the round
Progress = Callable[[str], None]  # (bank that has finished its part of a round)


MEASURED = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100", "threshold")


@dataclass(frozen=True)
class Schedule:
    """What all banks do alike in every round. All of it is public."""

    rounds: int
    local: LocalTraining
    private: PrivateSteps | None  # None: without differential privacy
    dropout: float
    prior: float  # public guess of the fraud share
    seed: int  # of the first model, batch order and dropout; never of sampling or noise under privacy

    def first_model(self, inputs: int) -> nn.Sequential:
        """The model that every bank holds before round 1."""
        seed = derive_seed(self.seed, "model")
        return build_model(inputs, seed=seed, dropout=self.dropout, prior=self.prior)


@dataclass(frozen=True)
class RoundRecord:
    """What became known of one round. The validation figures are the experimenter's, not released by
    anyone.
    """

    number: int
    validation_average_precision: float
    validation_roc_auc: float
    train_seconds: float  # over all banks
    aggregate: Aggregate
    max_abs_error: float  # largest |average - float64 mean of the clipped updates| over coordinates

    def as_json(self) -> dict[str, object]:
        """This record as one line of metrics.jsonl."""
        return {
            "validation_average_precision": self.validation_average_precision,
            "validation_roc_auc": self.validation_roc_auc,
            "train_seconds": self.train_seconds,
            "aggregate_seconds": self.aggregate.seconds,
            "stage_seconds": dict(self.aggregate.stages),
            "bytes_up": self.aggregate.bytes_up,
            "bytes_down": self.aggregate.bytes_down,
            "clipped": list(self.aggregate.clipped),
            "error_bound": self.aggregate.error_bound,
            "max_abs_error": self.max_abs_error,
        }


def federated_rounds(
    banks: Sequence[BankData],
    schedule: Schedule,
    aggregate: Aggregation,
    *,
    clip: float,
    device: torch.device,
    finished: int = 0,
    start: Vector | None = None,
    pay: Payment | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[RoundRecord, Vector]]:
    """Play rounds `finished + 1` to `schedule.rounds`; yield each round's record and global model
    float32[length].

    `start`: the global model after round `finished`; the first model when None. `pay`: called for every
    bank before any bank trains. `clip` is the aggregation's, used to measure its error. Whatever `pay` or
    `aggregate` raises ends the rounds.
    """
    model = schedule.first_model(banks[0].train.x.shape[1]).to(device)
    if start is not None:
        unflatten(model, start)
    for number in range(finished + 1, schedule.rounds + 1):
        # 1. Every bank records what this round spends; one that cannot afford it stops the round before any
        # training.
        if pay is not None:
            for bank in banks:
                pay(bank.name, number)

        # 2. Every bank trains from the same global model and keeps only the difference.
        before, bound_to = flatten(model), model_hash(model)
        clock = time.perf_counter()
        updates: list[Update] = []
        for bank in banks:
            unflatten(model, before)
            _train(model, bank, schedule, number, device)
            updates.append(flatten(model) - before)
            if progress is not None:
                progress(bank.name)
        train_seconds = time.perf_counter() - clock

        # 3. The differences become one average; nobody sees a single one.
        result = aggregate(updates, bound_to)

        # 4. Every bank applies the same average.
        after = (before + result.average).astype(np.float32)
        unflatten(model, after)

        # 5. The experimenter looks at the validation rows, and at what an exact average would have been.
        labels, scores = _scored([bank.validation for bank in banks], [model] * len(banks), device)
        record = RoundRecord(
            number,
            float(average_precision_score(labels, scores)),
            float(roc_auc_score(labels, scores)),
            train_seconds,
            result,
            _distance_to_exact(result, updates, clip),
        )
        yield record, after


@dataclass(frozen=True)
class Evaluation:
    """Figures of one or more models on all banks' test rows: the mean over test windows, and each window's
    own.
    """

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
    """Measure `models[i]` on bank i's rows, all banks together; pass one model as often as there are banks.

    One threshold, chosen for F1 on all banks' validation rows. This is evaluation by someone who may see
    all labels; in deployment each bank would choose its own.
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
    """Raise `MetricError` before any training when validation or test rows could not be measured
    afterwards.
    """
    tables = [("validation", [bank.validation for bank in banks])]
    tables += [(f"test window {i + 1}", [bank.test[i] for bank in banks]) for i in range(len(banks[0].test))]
    for name, parts in tables:
        frauds, rows = sum(int(part.y.sum()) for part in parts), sum(len(part) for part in parts)
        if not 0 < frauds < rows:
            raise MetricError(
                f"{name}: {frauds} frauds in {rows} rows of all banks, so nothing could be measured; take "
                "a longer period or more "
                "data"
            )


def _distance_to_exact(result: Aggregate, updates: Sequence[Update], clip: float) -> float:
    """Largest |average - float64 mean of the clipped updates| over coordinates."""
    return float(np.abs(result.average - plain_average(updates, clip=clip).average).max())


def _train(model: nn.Module, bank: BankData, schedule: Schedule, number: int, device: torch.device) -> None:
    try:
        if schedule.private is not None:
            train_private(model, bank.train, schedule.local, schedule.private, device=device)
        else:
            seed = derive_seed(schedule.seed, "batches", bank.name, number)
            train_seeded(model, bank.train, schedule.local, seed=seed, device=device)
    except TrainingError as fault:
        raise TrainingError(f"{bank.name}, round {number}: {fault}") from fault


def _scored(
    parts: Sequence[Rows], models: Sequence[nn.Module], device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(labels, scores) of all parts, each scored by its own model."""
    scores = [predict(model, part.x, device=device) for model, part in zip(models, parts, strict=True)]
    return np.concatenate([part.y for part in parts]), np.concatenate(scores)


def _own_precision(bank: BankData, model: nn.Module, device: torch.device) -> float | None:
    labels, scores = _scored(bank.test, [model] * len(bank.test), device)
    return float(average_precision_score(labels, scores)) if 0 < labels.sum() < len(labels) else None
