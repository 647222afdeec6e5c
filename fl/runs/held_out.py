"""Scores of held-out rows of a finished run, and what is fitted to them: the calibration of scores, and thresholds.

Both use labels of all banks, outside every epsilon, as the threshold in the model file does.

What it leaves to others: which rows (`fl.data.held_out`), the fits (`fl.learning.calibration` and
`fl.learning.thresholds`) and their files (`fl.runs.operating`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fl.counts.columns import SharedColumns, parties_at, shared_windows
from fl.counts.plan import Totals, bank_counts, windows_plan
from fl.counts.risk_columns import RiskColumns
from fl.data.features import scaled_features
from fl.data.federation import PartitionedTable
from fl.data.held_out import HELD_OUT_DAYS, held_out, held_out_days
from fl.data.scaling import at_bank
from fl.data.schema import DAY_US
from fl.errors import RunFolderError
from fl.learning.calibration import Calibration, fit
from fl.learning.thresholds import HeldOut, Rule, Thresholds, per_bank, rule_as_json, shared_threshold
from fl.learning.training import predict
from fl.runs.folder import RunFolder, source_digest
from fl.runs.plan import read_source
from fl.runs.scoring import TrainedModel, load_model


def held_out_scores(source: PartitionedTable, model: TrainedModel, learned_days: int = 0) -> dict[str, HeldOut]:
    """By bank: labels and scores of its held-out rows (`fl.data.held_out`), each scored by the bank's model.

    `learned_days`: of rows that the model learned from, as `fl.runs.config.ModelSettings.history_days`.
    """
    cpu, found, shared = torch.device("cpu"), {}, _covering_early_days(source, model.shared, learned_days)
    days = HELD_OUT_DAYS if _covers_early_days(model.shared) else 0
    for name, rows, held in source.banks:
        table = at_bank(source.table.take(rows), model.at_banks.get(name, ()))
        chosen = held_out(table, held, source.periods, source.first_day, days, learned_days)
        positions = chosen.positions
        if len(positions) == 0:
            found[name] = HeldOut(np.empty(0), np.empty(0), chosen.days)
            continue
        x = scaled_features(table, positions)
        if shared is not None:
            taken = table.take(positions)
            x = shared.extend(x, taken.day, parties_at(taken, shared.kinds))
        assert table.label is not None
        score = predict(model.own.get(name, model.module), x[:, model.columns], device=cpu)
        found[name] = HeldOut(table.label[positions].astype(np.float64), score, chosen.days)
    return found


def _covers_early_days(shared: SharedColumns | RiskColumns | None) -> bool:
    """Whether the columns of a release can be made for days before training: those of an earlier version cannot."""
    return not isinstance(shared, SharedColumns) or shared.totals.plan.mode != "private increments"


def _covering_early_days(
    source: PartitionedTable, shared: SharedColumns | RiskColumns | None, learned_days: int
) -> SharedColumns | RiskColumns | None:
    """`shared`, with exact windows for the days before training too, of which a run releases none.

    Counts of frauds by block reach back half a year. Exact windows exist for the days of training and test alone. Those
    of the held-out days are summed here from all banks' rows, without encryption: they leave this function in scores.
    """
    if not isinstance(shared, SharedColumns) or shared.totals.plan.mode != "exact windows":
        return shared
    schema, released = source.table.schema, shared.totals.plan
    begun = source.periods.train
    if begun is None:
        return shared
    train = range(begun.start // DAY_US, -(-begun.end // DAY_US))
    # Of the days that another model learned from, validation customers are held out.
    first = held_out_days(source.periods, schema, source.first_day, learned_days=learned_days).start
    days = range(first, train.start)
    if not days:
        return shared
    plan = windows_plan(
        [*days, *train], shared_windows(schema), schema.label.delay_days, released.slots, released.min_banks
    )
    tables = (source.table.take(rows) for _, rows, _ in source.banks)
    sums = np.sum([bank_counts(table, shared.keys, plan) for table in tables], axis=0)
    return replace(shared, totals=Totals(plan, sums))


def calibrate(rows: Mapping[str, HeldOut], weight: float) -> Calibration:
    """The calibration of all banks together. `weight`: that of a fraud in the loss."""
    label = np.concatenate([part.label for part in rows.values()])
    return fit(label, np.concatenate([part.score for part in rows.values()]), weight)


def choose(rule: Rule, rows: Mapping[str, HeldOut], of_one_bank: Rule | None) -> Thresholds:
    """The threshold of all banks by `rule`, and with `of_one_bank` those of single banks by that rule."""
    own = {} if of_one_bank is None else per_bank(of_one_bank, rows)
    return Thresholds(shared_threshold(rule, rows), own, rule_as_json(rule))


def held_out_of(run: Path) -> dict[str, HeldOut]:
    """`held_out_scores` of the finished run in folder `run`, whose data are read again.

    Shared constants are those of the model: nothing is computed together anew. Raises `RunFolderError` when the folder
    is no finished run, or when its data have changed.
    """
    model, folder = load_model(run), RunFolder.open(run)
    data = folder.config.data
    source = read_source(data, folder.config.seed)
    if source_digest(data.source) != folder.read_json("manifest.json").get("source_sha256"):
        raise RunFolderError(
            f"{run}: expected the data that it was trained on, got others: {data.source} has changed since. Put back "
            "what it was, or train anew"
        )
    if lacking := source.table.schema.lacking("shared"):
        known = [constant for constant in model.schema.constants if constant.column in lacking]
        source = source.with_shared_constants(known)
    return held_out_scores(source, model, folder.config.model.history_days)
