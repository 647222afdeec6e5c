"""Scores of transactions as they come, a few at a time: what a scoring service needs.

    scorer = LiveScorer(fl.load("runs/NAME").model, "past.csv")
    scorer.score(frame)          # rows of now; the next call's rows are no earlier

A call's features are those that `score` computes for the same rows in one file. Memory holds `schema.history_days` days
and three numbers a customer for each bank. Labels that become known later are not learned: start a new scorer with a
longer history, every night for example. What was scored is not written to a disk, so a scorer that is started again
needs the rows since then in its history.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from threading import Lock

import pandas as pd

from fl import options
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import MICROSECONDS, microseconds_of
from fl.data.stream import LiveFeatures
from fl.errors import FarAhead, NoRows, OptionError
from fl.runs.scoring import ScoredRows, TrainedModel, no_rows, past_rows, scored

AHEAD_HOURS = 24.0  # a time without an offset counts as UTC, and local times are up to 14 hours ahead of it


def now_us() -> int:
    """Microseconds since 1970-01-01 in UTC."""
    return microseconds_of(dt.datetime.now(dt.UTC))


class LiveScorer:
    """Scores rows in the order in which they come. One call at a time: others wait.

    `history`: labelled transactions from before, a csv or parquet file or a frame; without it every count of past
    transactions begins at zero. `ahead_hours`: how far after now a row may be dated. `clock`: what time it is, in
    microseconds since 1970-01-01. Raises what reading the history raises, `FarAhead` for a history that ends later than
    that, and `OptionError`.
    """

    def __init__(
        self,
        model: TrainedModel,
        history: pd.DataFrame | str | os.PathLike[str] | None = None,
        *,
        ahead_hours: float = AHEAD_HOURS,
        clock: Callable[[], int] = now_us,
    ) -> None:
        try:
            self.ahead_hours = options.AHEAD.of(ahead_hours)
        except options.Refused as fault:
            raise OptionError(f"ahead_hours: {fault}") from None
        self.model = model
        self._clock = clock
        past = None if history is None else past_rows(history, model.schema, model.partition, needs_fraud=False)
        if past is not None and self._has_calendar:
            self._refuse_far_ahead(past, None)
        self._features = LiveFeatures(model.schema, model.partition, past, model.at_banks)
        self._alone = Lock()

    def score(self, frame: pd.DataFrame) -> ScoredRows:
        """Scores of the rows of `frame` that the schema does not drop, by position in `frame`.

        Rows are no earlier than those of earlier calls. Raises `DataError`, `FarAhead`, `OrderError` and
        `PartitionError`, with nothing remembered of this call's rows.
        """
        schema, column = self.model.schema, self.model.partition.column_of(list(frame.columns))
        try:
            rows = transactions_from_frame(frame, schema, "rows", labelled=False, bank_column=column, needs_fraud=False)
        except NoRows:
            return no_rows(self.model)
        with self._alone:
            self._refuse_far_ahead(rows, self._features.latest)
            chunk = self._features.push(rows)
        return scored(self.model, chunk)

    @property
    def _has_calendar(self) -> bool:
        time = self.model.schema.time
        return time is not None and time.has_calendar

    def _refuse_far_ahead(self, rows: Transactions, latest: int | None) -> None:
        """`latest`: the last time seen. Schemas without windows take rows in any order, and need no such limit."""
        if rows.time is None or not self.model.schema.has_windows:
            return
        if self._has_calendar:
            now, named = self._clock(), "now"
        else:
            now, named = (int(rows.time[0]), "the first row") if latest is None else (latest, "the last row seen")
        limit = now + round(self.ahead_hours * MICROSECONDS["hours"])
        if int(rows.time[-1]) <= limit:
            return
        at, name = int((rows.time > limit).argmax()), self.model.schema.moment_name
        raise FarAhead(
            f"{rows.row_name(at)}: expected a time of at most {self.ahead_hours:g} hours after {named}, "
            f"{name(now - now % MICROSECONDS['seconds'])}, got {name(int(rows.time[at]))}: rows with the right "
            "time would be refused after it; correct the time (UTC if it names no offset), or allow more hours ahead"
        )
