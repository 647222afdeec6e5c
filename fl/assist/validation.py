"""Check synthetic transactions before a model trains on them.

Row by row: values beyond the schema's public ranges, disorder in time, repetitions, words that tell the label,
identifiers, and near-copies of real rows. Over the set: a column that reveals the label.

Leaves to others: the comparison with a bank's real rows (`likeness`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fl.assist.likeness import LEAST_PER_CLASS, Likeness, Matrix, RealRows, compared
from fl.assist.redact import Redactor, words
from fl.assist.release import amount_range, numeric_range
from fl.assist.synthetic import SyntheticSet, value_columns
from fl.data.reading import Transactions

LABEL_WORDS = re.compile(
    r"\b(?:frauds?|fraudulent|fraudster|scam\w*|synthetic|fake|betrug\w*|label\w*)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Finding:
    """A fault. `row`: number in the set; None for the whole set. `blocks`: whether the row cannot be approved."""

    row: int | None
    kind: str
    detail: str
    blocks: bool = True


@dataclass(frozen=True)
class Validation:
    """All findings and figures of one set."""

    rows: int
    findings: tuple[Finding, ...]
    likeness: tuple[Likeness, ...]

    @property
    def blocked(self) -> frozenset[int]:
        """Rows that cannot be approved."""
        if any(f.blocks and f.row is None for f in self.findings):
            return frozenset(range(self.rows))
        return frozenset(f.row for f in self.findings if f.blocks and f.row is not None)

    def of_row(self, row: int) -> list[Finding]:
        """Findings about this row or the whole set."""
        return [f for f in self.findings if f.row in (row, None)]

    def as_json(self) -> dict[str, Any]:
        kinds = sorted({finding.kind for finding in self.findings})
        return {
            "rows": self.rows,
            "blocked": len(self.blocked),
            "found": {kind: sum(f.kind == kind for f in self.findings) for kind in kinds},
            "findings": [asdict(finding) for finding in self.findings],
            "likeness": [asdict(likeness) for likeness in self.likeness],
        }


def validate(
    invented: SyntheticSet,
    table: Transactions,
    banks: Sequence[RealRows],
    redactor: Redactor,
    seed: int = 0,
) -> Validation:
    """Check a set.

    `table`: the rows as the ordinary reader reads them, under a schema that reads every text column. `redactor`: has
    the identifiers that must not occur.
    """
    findings = own_findings(invented, redactor)
    likeness = []
    for bank in banks:
        figures, copies = compared(table, bank, seed)
        likeness.append(figures)
        findings += [Finding(row, "near_copy", f"almost a training row of {bank.name}") for row in copies]
    return Validation(len(invented), tuple(findings), tuple(likeness))


def own_findings(invented: SyntheticSet, redactor: Redactor) -> list[Finding]:
    """Faults that need no comparison with real rows: ranges, order, repetitions, labels, identifiers."""
    by_row = [*_beyond_ranges(invented), *_disorder(invented), *_repeated(invented), *_tell_tale(invented, redactor)]
    return [*by_row, *_giveaways(invented)]


def _beyond_ranges(invented: SyntheticSet) -> Iterator[Finding]:
    schema = invented.schema
    ranges = {} if schema.amount is None else {schema.amount.column: amount_range(schema)}
    ranges |= {number.column: numeric_range(number) for number in schema.numeric}
    for number, row in enumerate(invented.rows):
        for column, (low, high) in ranges.items():
            if not low <= float(row[column]) <= high:
                yield Finding(number, "range", f"{column}: expected {low:g} to {high:g}, got {row[column]:g}")


def _disorder(invented: SyntheticSet) -> Iterator[Finding]:
    last: tuple[int, int, int] = (-1, 0, 0)
    for number, (row, batch) in enumerate(zip(invented.rows, invented.batch, strict=True)):
        now = (batch, int(row["day"]), int(row["minute"]))
        if now < last:
            yield Finding(number, "order", "earlier than the row before it")
        last = max(last, now)


def _repeated(invented: SyntheticSet) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, row in enumerate(invented.rows):
        first = seen.setdefault(repr(sorted(row.items())), number)
        if first != number:
            yield Finding(number, "duplicate", f"the same as row {first}")


def _tell_tale(invented: SyntheticSet, redactor: Redactor) -> Iterator[Finding]:
    """Text that says what the label is, or who a real person is."""
    columns = [text.column for text in invented.schema.text]
    columns += [category.column for category in invented.schema.categorical]
    label = invented.schema.label.column.lower()
    for number, row in enumerate(invented.rows):
        for column in columns:
            text = str(row[column])
            if LABEL_WORDS.search(text.replace("_", " ")) or label in text.lower():
                yield Finding(number, "label_in_text", f"{column} says what the label is")
            if kinds := redactor.identifiers_in(text):
                yield Finding(number, "identifier", f"{column} holds {' and '.join(kinds)}")


def _giveaways(invented: SyntheticSet) -> Iterator[Finding]:
    """Columns that reveal the label. A scenario may require that of amounts, so they do not block."""
    y = np.array([bool(row["fraud"]) for row in invented.rows])
    if min(y.sum(), (~y).sum()) < LEAST_PER_CLASS:
        return
    schema = invented.schema
    for column in schema.numeric:
        auc = _auc(y, np.array([float(row[column.column]) for row in invented.rows]))
        if auc == 1.0:
            yield Finding(None, "label_leak", f"{column.column} tells the label of every row")
    if schema.amount is not None:
        auc = _auc(y, np.array([float(row[schema.amount.column]) for row in invented.rows]))
        if auc >= 0.99:
            detail = f"{schema.amount.column} alone tells the label (AUC {auc:.3f}): is that the scenario?"
            yield Finding(None, "separable", detail, blocks=False)
    for category in schema.categorical:
        if _tells(y, [{str(row[category.column])} for row in invented.rows]):
            yield Finding(None, "label_leak", f"a word of {category.column} tells the label")
    for text in schema.text:
        if _tells(y, [set(words(str(row[text.column]))) for row in invented.rows]):
            yield Finding(None, "label_leak", f"a word of {text.column} tells the label")


def _auc(y: NDArray[np.bool_], values: Matrix) -> float:
    auc = float(roc_auc_score(y, values))
    return max(auc, 1 - auc)


def _tells(y: NDArray[np.bool_], said: list[set[str]]) -> bool:
    """Whether one word is in at least nine tenths of the rows of one class and in none of the other."""
    for word in set().union(*said):
        has = np.array([word in row for row in said])
        for one in (y, ~y):
            if has[one].mean() >= 0.9 and not has[~one].any():
                return True
    return False


def shown_rows(invented: SyntheticSet, frame: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of `frame` as text for reviewers, with the columns of the schema in reading order."""
    schema = invented.schema
    leading = [c.column for c in (schema.time,) if c is not None]
    leading += schema.parties.columns.values()
    order = [*leading, *value_columns(schema), schema.label.column]
    return [{name: str(value) for name, value in row.items()} for row in frame[order].to_dict("records")]
