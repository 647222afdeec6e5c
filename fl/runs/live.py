"""Scores of transactions as they come, a few at a time: what a scoring service needs.

    scorer = LiveScorer(fl.load("runs/NAME").model, "past.csv")
    scorer.score(frame)          # rows of now; the next call's rows are no earlier

A call's features are those that `score` computes for the same rows in one file. Memory holds `schema.history_days` days
and three numbers a customer for each bank. Labels that become known later are not learned: start a new scorer with a
longer history, every night for example. What was scored is not written to a disk, so a scorer that is started again
needs the rows since then in its history.
"""

from __future__ import annotations

import os
from threading import Lock

import pandas as pd

from fl.data.reading import transactions_from_frame
from fl.data.stream import LiveFeatures
from fl.errors import NoRows
from fl.runs.scoring import ScoredRows, TrainedModel, no_rows, past_rows, scored


class LiveScorer:
    """Scores rows in the order in which they come. One call at a time: others wait.

    `history`: labelled transactions from before, a csv or parquet file or a frame; without it every count of past
    transactions begins at zero. Raises what reading the history raises.
    """

    def __init__(self, model: TrainedModel, history: pd.DataFrame | str | os.PathLike[str] | None = None) -> None:
        self.model = model
        past = None if history is None else past_rows(history, model.schema, model.partition, needs_fraud=False)
        self._features = LiveFeatures(model.schema, model.partition, past, model.at_banks)
        self._alone = Lock()

    def score(self, frame: pd.DataFrame) -> ScoredRows:
        """Scores of the rows of `frame` that the schema does not drop, by position in `frame`.

        Rows are no earlier than those of earlier calls. Raises `DataError`, `OrderError` and `PartitionError`, with
        nothing remembered of this call's rows.
        """
        schema, column = self.model.schema, self.model.partition.column_of(list(frame.columns))
        try:
            rows = transactions_from_frame(frame, schema, "rows", labelled=False, bank_column=column, needs_fraud=False)
        except NoRows:
            return no_rows(self.model)
        with self._alone:
            chunk = self._features.push(rows)
        return scored(self.model, chunk)
