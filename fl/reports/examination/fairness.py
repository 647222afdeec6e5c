"""Compare groups of rows: selection rate, recall and false-positive rate over any column of the data.

What it does: makes groups of the bank, of a column of the file (whether or not the model sees it), or of a file of
customers (`FILE.csv:COLUMN`); numbers become quarters. Figures by `fairlearn.metrics.MetricFrame`, each with its counts
and a 95 % interval of its recall.

A report must not name people or things: columns that hold identifiers, texts, times or more than thirty words are
refused, limits of quarters are rounded to two digits, and groups of fewer than twenty rows are shown together. A column
that nobody named and that cannot be grouped is left out, with the reason.

What it leaves to others: which differences are fair. Rates may differ because fraud differs.

Source: Hardt, Price and Srebro, NeurIPS 2016 (equal opportunity is the recall's column); Bird et al., fairlearn, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from fairlearn.metrics import MetricFrame, count, false_positive_rate, selection_rate
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from fl.data.conversion import Identifiers
from fl.data.federation import SIMULATED
from fl.data.partition import partition_for
from fl.data.reading import Transactions, load_transactions, read_header, transactions_from_frame
from fl.data.schema import CategoricalColumn, Schema
from fl.data.simulate import simulate
from fl.errors import ExaminationError
from fl.reports.examination.calibration import wilson
from fl.reports.examination.evidence import Evidence
from fl.runs.plan import simulation_of

BANK = "bank"
MOST_GROUPS = 30  # distinct words of a column; a column with more holds things, not groups
SHOWN_ROWS = 20  # fewer rows: shown together with others
SMALL_ROWS, SMALL_FRAUDS = 200, 10  # a group with fewer of either is called small
REST = "groups of fewer than 20 rows, together"


def fairness(evidence: Evidence, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Rates per group over `columns`; over the bank and the schema's categories when none are named.

    Raises `ExaminationError` for a named column that is not there or that holds no groups.
    """
    found, skipped = [], []
    for name in dict.fromkeys(list(columns) or [BANK, *(c.column for c in evidence.schema.categorical)]):
        try:
            found.append(by_group(evidence, name))
        except ExaminationError as fault:
            if columns:
                raise
            skipped.append({"column": name, "why": str(fault)})
    return {
        "confidence": 0.95,
        "small_rows": SMALL_ROWS,
        "small_frauds": SMALL_FRAUDS,
        "shown_rows": SHOWN_ROWS,
        "columns": found,
        "skipped": skipped,
    }


def by_group(evidence: Evidence, column: str) -> dict[str, Any]:
    """Rates and counts of the groups of one column, and how far its groups that are not small lie apart."""
    test = evidence.test
    group = _together(_groups(evidence, column))
    flagged = evidence.flagged(test)
    frame = MetricFrame(
        metrics={
            "rows": count,
            "selection_rate": selection_rate,
            "recall": lambda y_true, y_pred: recall_score(y_true, y_pred, zero_division=np.nan),
            "false_positive_rate": false_positive_rate,
        },
        y_true=test.label.astype(np.int64),
        y_pred=flagged.astype(np.int64),
        sensitive_features=group,
    )
    rows = [_row(str(name), figures, test.label, flagged, group == name) for name, figures in frame.by_group.iterrows()]
    comparable = [row for row in rows if not row["small"] and row["frauds"] < row["rows"]]
    return {"column": column, "groups": rows, "largest_difference": _apart(comparable)}


def _row(
    name: str, figures: Any, label: NDArray[np.integer], flagged: NDArray[np.bool_], own: NDArray[np.bool_]
) -> dict[str, Any]:
    rows, frauds = int(own.sum()), int(label[own].sum())
    caught = int((label[own] & flagged[own]).sum())
    low, high = wilson(caught, frauds) if frauds else (None, None)
    return {
        "group": name,
        "rows": rows,
        "frauds": frauds,
        "alerts": int(flagged[own].sum()),
        "small": rows < SMALL_ROWS or frauds < SMALL_FRAUDS,
        "selection_rate": float(figures["selection_rate"]),
        "recall": float(figures["recall"]) if frauds else None,
        "recall_low": low,
        "recall_high": high,
        "false_positive_rate": float(figures["false_positive_rate"]) if frauds < rows else None,
    }


def _apart(rows: Sequence[dict[str, Any]]) -> dict[str, float | bool] | None:
    """Largest minus smallest rate over groups, and whether the intervals of two recalls lie apart.

    None where fewer than two groups can be compared.
    """
    if len(rows) < 2:
        return None
    names = ("selection_rate", "recall", "false_positive_rate")
    apart = {name: max(row[name] for row in rows) - min(row[name] for row in rows) for name in names}
    return {**apart, "recall_intervals_apart": max(r["recall_low"] for r in rows) > min(r["recall_high"] for r in rows)}


def _together(group: NDArray[np.object_]) -> NDArray[np.object_]:
    """Groups with few rows become one group, so that no group identifies a row."""
    names, code, rows = np.unique(group.astype(str), return_inverse=True, return_counts=True)
    shown = np.where(rows >= SHOWN_ROWS, names, REST).astype(object)
    return np.asarray(shown[code], object)


def _groups(evidence: Evidence, column: str) -> NDArray[np.object_]:
    """object[len(test)]: the group of every test row."""
    if column == BANK:
        return np.array(evidence.bank_names, object)[evidence.test.bank]
    _refuse_identifiers(evidence.schema, column)
    where = _positions(evidence.table, evidence.test.index)
    if ":" in column:
        groups = np.empty(len(evidence.table), object)
        for name, rows in partition_for(evidence.schema, column, None, 0).assign(evidence.table):
            groups[rows] = name
        return _words(groups[where], column)
    schema = evidence.schema
    if schema.amount is not None and column == schema.amount.column:
        assert evidence.table.amount is not None
        return quarters(evidence.table.amount[where])
    if column in evidence.table.numeric:
        return quarters(evidence.table.numeric[column][where])
    party = _column(evidence, column)
    return _words(party.ids[party.code], column)


def _words(words: NDArray[np.object_], column: str) -> NDArray[np.object_]:
    """The words as groups, quarters where they are numbers and many; an empty word is called so."""
    distinct = np.unique(words.astype(str))
    if len(distinct) <= MOST_GROUPS:
        return np.where(words == "", "(empty)", words)
    try:
        return quarters(words.astype(np.float64))
    except ValueError:
        raise ExaminationError(
            f"column {column!r} holds {len(distinct)} different words: expected at most {MOST_GROUPS}, or numbers; a "
            "report lists groups, never identifiers: group it in a file of customers and give --by FILE.csv:COLUMN"
        ) from None


def quarters(values: NDArray[np.float64]) -> NDArray[np.object_]:
    """The quarter of each value as text, with limits rounded to two digits, so that they show no single row."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return np.full(len(values), "(empty)", object)
    limits = np.unique([float(f"{limit:.2g}") for limit in np.quantile(finite, (0.25, 0.5, 0.75))])
    texts = [f"{limit:g}" for limit in limits.tolist()]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    names = [f"below {texts[0]}", *between, f"{texts[-1]} or more"]
    numbered = np.array([f"{i}: {name}" for i, name in enumerate(names, start=1)], object)
    return np.where(np.isfinite(values), numbered[np.searchsorted(limits, values, side="right")], "(empty)")


def _refuse_identifiers(schema: Schema, column: str) -> None:
    parties = schema.parties
    kinds = {
        "the customer": (parties.customer,),
        "the terminal": (parties.terminal,),
        "a party": tuple(parties.entities.values()),
        "a free text": tuple(text.column for text in schema.text),
        "the time": () if schema.time is None else (schema.time.column,),
        "the label": (schema.label.column,),
    }
    for what, names in kinds.items():
        if column in names:
            raise ExaminationError(
                f"column {column!r} is {what}, not a group: expected a column that sorts rows into a few groups"
            )


def _positions(table: Transactions, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the rows with these source positions stand in `table`."""
    order = np.argsort(table.index)
    positions: NDArray[np.int64] = order[np.searchsorted(table.index[order], index)]
    return positions


def _column(evidence: Evidence, column: str) -> Identifiers:
    """A column of the source for every test row, whatever the schema says of it, read by the loader of all data."""
    schema, data = evidence.schema, evidence.config.data
    # Rows that the schema drops must be dropped here too; nothing else of it is needed.
    alone = Schema(
        name=f"{schema.name}, {column}",
        label=replace(schema.label, delay_days=0),
        categorical=(CategoricalColumn(column, hash_width=1),),
        drop=schema.drop,
        delimiter=schema.delimiter,
        decimal=schema.decimal,
        encoding=schema.encoding,
    )
    if data.source == SIMULATED:
        frame = simulate(simulation_of(data, evidence.config.seed))
        header = list(frame.columns)
    else:
        header = read_header(data.source, schema.delimiter, schema.encoding)
    if column not in header:
        raise ExaminationError(
            f"{evidence.table.source}: expected a column {column!r}, got {header}; name one of these, "
            f"{BANK!r}, or FILE.csv:COLUMN"
        )
    table = (
        transactions_from_frame(frame, alone, SIMULATED)
        if data.source == SIMULATED
        else load_transactions(data.source, alone)
    )
    return table.categorical[column].take(_positions(table, evidence.test.index))
