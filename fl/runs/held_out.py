"""Scores of held-out rows of a finished run, and what is fitted to them: the calibration of scores, and thresholds.

Both use labels of all banks, outside every epsilon, as the threshold in the model file does.

What it leaves to others: which rows (`fl.data.held_out`), the fits (`fl.learning.calibration` and
`fl.learning.thresholds`) and their files (`fl.runs.operating`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fl.counts.columns import parties_at
from fl.data.features import scaled_features
from fl.data.federation import PartitionedTable
from fl.data.held_out import held_out
from fl.learning.calibration import Calibration, fit
from fl.learning.thresholds import HeldOut, Rule, Thresholds, per_bank, rule_as_json, shared_threshold
from fl.learning.training import predict
from fl.runs.scoring import TrainedModel


def held_out_scores(source: PartitionedTable, model: TrainedModel) -> dict[str, HeldOut]:
    """By bank: labels and scores of its held-out rows (`fl.data.held_out`), each scored by the bank's model."""
    cpu, found = torch.device("cpu"), {}
    for name, rows, held in source.banks:
        table = source.table.take(rows)
        chosen = held_out(table, held, source.periods, source.first_day)
        positions = chosen.positions
        x = scaled_features(table, positions)
        if model.shared is not None:
            taken = table.take(positions)
            x = model.shared.extend(x, taken.day, parties_at(taken, model.shared.kinds))
        assert table.label is not None
        score = predict(model.own.get(name, model.module), x[:, model.columns], device=cpu)
        found[name] = HeldOut(table.label[positions].astype(np.float64), score, chosen.days)
    return found


def calibrate(rows: Mapping[str, HeldOut], weight: float) -> Calibration:
    """The calibration of all banks together. `weight`: that of a fraud in the loss."""
    label = np.concatenate([part.label for part in rows.values()])
    return fit(label, np.concatenate([part.score for part in rows.values()]), weight)


def choose(rule: Rule, rows: Mapping[str, HeldOut], of_one_bank: Rule | None) -> Thresholds:
    """The threshold of all banks by `rule`, and with `of_one_bank` those of single banks by that rule."""
    own = {} if of_one_bank is None else per_bank(of_one_bank, rows)
    return Thresholds(shared_threshold(rule, rows), own, rule_as_json(rule))
