"""A bank that scores its own customers: the federated model with the bank's own labels, and a model of its own.

What it does: `at_home` takes a finished run's model and the bank's labelled past. The federated model then knows the
bank's own labels as further evidence on shared parties, and a noisy-or model is fitted, without noise, to the last
eight weeks of them whose labels are known.

None of it leaves the bank, and none of it has an epsilon: whoever sees these scores may learn single labels.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pandas as pd

from fl.counts.columns import parties_at
from fl.counts.entity_risk import EntityRisk, Own
from fl.counts.evidence import own_evidence
from fl.counts.key_slots import AllSlots
from fl.counts.risk_columns import RiskColumns
from fl.data.features import scaled_features
from fl.data.federation import Rows
from fl.data.reading import Transactions
from fl.data.scaling import at_bank
from fl.errors import OptionError, TrainingError
from fl.learning.noisy_or import fit_noisy_or
from fl.runs.risk import HISTORY_DAYS, own_keys
from fl.runs.scoring import Home, TrainedModel, past_rows


def at_home(model: TrainedModel, bank: str, banks: int, history: pd.DataFrame | str | os.PathLike[str]) -> TrainedModel:
    """`model` as `bank`, one of `banks`, scores with it. `history`: labelled transactions from before, a file or frame.

    Where the run's banks are named by a column, and a table of the bank's rows lacks it, all its rows are the bank's.
    Raises `OptionError` for a model that knows no risk of parties or a bank without rows in `history`, and what
    reading the history raises.
    """
    shared = model.shared
    if not isinstance(shared, RiskColumns):
        raise OptionError(
            "--as: this run's model does not know the risk of shared parties; train with privacy, or with "
            "--model noisy-or"
        )
    model = replace(model, partition=model.partition.of_owner(bank))
    table = _past(model, bank, history)
    last = int(table.day[-1])
    risk, others, delay = shared.risk, 1.0 - 1.0 / banks, table.schema.label.delay_days
    if risk is not None:
        alone = EntityRisk.alone(_evidence(table, risk.keys), risk.keys, delay, last + 1)
        risk = risk.with_clearer(alone.episodes, table.schema.parties.terminal_per_day)
    elif (keys := own_keys(table)) is not None:
        risk, others = EntityRisk.alone(_evidence(table, keys), keys, delay, last + 1), 0.0
    own = None if risk is None else _evidence(table, risk.keys, risk)
    columns = replace(shared, scale="probability", risk=risk, own=own, others_share=others, windows=False)
    # Labels of this day are known even where the first row to score is of the last day.
    newest = last - delay - 1
    learned = (table.day <= newest) & (table.day > newest - HISTORY_DAYS)
    assert table.label is not None
    if table.known_day is not None:
        learned &= (table.label == 0) | (table.known_day < last)
    chosen = np.flatnonzero(learned)
    if not 0 < int((table.label[chosen] == 1).sum()) < len(chosen):
        raise TrainingError(
            f"{table.source}: {bank} has no frauds, or nothing else, among its {len(chosen)} rows that are older than "
            f"the label delay ({table.schema.label.delay_days} days): give a longer history"
        )
    module = fit_noisy_or(_rows(table, chosen, columns))
    return replace(
        model, shared=replace(shared, risk=risk, own=own, others_share=others), home=Home(bank, module, columns)
    )


def _past(model: TrainedModel, bank: str, history: pd.DataFrame | str | os.PathLike[str]) -> Transactions:
    """The labelled rows of `bank` in its history."""
    table = past_rows(history, model.schema, model.partition)
    by_bank = dict(model.partition.assign(table))
    if bank not in by_bank:
        raise OptionError(f"--as: expected a bank with rows in the history ({', '.join(by_bank)}), got {bank!r}")
    return at_bank(table.take(by_bank[bank]), model.at_banks.get(bank, ()))


def _evidence(table: Transactions, keys: AllSlots, risk: EntityRisk | None = None) -> Own:
    """Own rows as they were counted for the release of `risk`; without it, as they are known day by day."""
    return {kind: own_evidence(table, keys, kind, () if risk is None else risk.periods(kind)) for kind in keys.sections}


def _rows(table: Transactions, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], columns: RiskColumns) -> Rows:
    assert table.label is not None
    parties = parties_at(table.take(chosen), columns.kinds)
    x = columns.extend(scaled_features(table, chosen), table.day[chosen], parties)
    label = table.label[chosen].astype(np.float32)
    return Rows(x, label, table.day[chosen], table.index[chosen], table.index[chosen])
