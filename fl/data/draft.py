"""Draft a schema from a file: a guess per column, each with its reason and alternatives, for a person to read.

Compression, encoding, delimiter and decimal mark of the file are detected, and the draft says them. A draft can always
be loaded, and it can be trained with as it is. It is not finished: a wrong guess may leave in a column that is the
label in another form, and vocabularies and constants are statistics of the data until a person replaces them by public
ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fl.data.drafting.guesses import Guess, Guesses, guess
from fl.data.drafting.looks import Look, looks_at
from fl.data.drafting.sections import head, plain, sections
from fl.data.drafting.suspects import gives_away
from fl.data.formats import FileFormat, sniffed
from fl.data.reading import format_of
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.toml import literal


@dataclass(frozen=True)
class Draft:
    """A drafted schema. text: TOML.  written: how the file is written.  warnings: what must be looked at first."""

    text: str
    written: FileFormat
    warnings: tuple[str, ...]
    columns: tuple[Look, ...] = field(repr=False)
    guesses: Guesses = field(repr=False)


def draft(path: str | Path, label: str | None = None) -> Draft:
    """A schema for a csv or parquet file.

    `label` names the label column; None recognises it by name and content. Raises `SchemaError` when no label is found,
    and `DataError` for an unreadable file.
    """
    path = Path(path)
    written = sniffed(path)
    columns = looks_at(path, written)
    guesses = guess(path, columns, label)
    warnings = _warnings(guesses)
    rows, sampled = columns[0].rows, len(columns[0].values)
    text = "".join(
        [
            head(path.name, str(written), rows, sampled, warnings),
            f"name = {literal(path.name.split('.')[0] or 'draft')}\n\n",
            _file_section(written),
            *sections(guesses),
        ]
    )
    parse_schema(text, f"draft for {path.name}")
    return Draft(text, written, warnings, tuple(columns), guesses)


def draft_schema(path: str | Path, label: str | None = None) -> str:
    """The TOML of `draft`."""
    return draft(path, label).text


def disguised_inputs(path: str | Path, schema: Schema) -> tuple[str, ...]:
    """A warning for every input of `schema` that may be the label in disguise in this file. Raises `DataError`."""
    path, label = Path(path), schema.label
    columns = {look.name: look for look in looks_at(path, format_of(schema))}
    meaning = {**dict.fromkeys(label.positive, 1), **dict.fromkeys(label.negative, 0)}
    fraud = np.array([meaning.get(value, -1) for value in columns[label.column].values], np.int8)
    inputs = [c.column for group in (schema.numeric, schema.categorical) for c in group]
    inputs += [] if schema.amount is None else [schema.amount.column]
    found = ((name, gives_away(columns[name], label.column, fraud)) for name in inputs)
    return tuple(f"input {plain(name)!r} may be the label in disguise: {reason}" for name, reason in found if reason)


def _warnings(guesses: Guesses) -> tuple[str, ...]:
    return tuple(
        f"column {plain(each.column)!r} may be the label in disguise and is {_what_became(each, guesses)}: "
        f"{each.reason}"
        for each in guesses.disguised
    )


def _what_became(disguised: Guess, guesses: Guesses) -> str:
    if guesses.amount is not None and guesses.amount.column == disguised.column:
        return "kept, since an amount is known at the time of the transaction"
    return "left out"


def _file_section(written: FileFormat) -> str:
    usual = FileFormat()
    lines = [
        f"{name} = {literal(value)}\n"
        for name, value, default in (
            ("delimiter", written.delimiter, usual.delimiter),
            ("decimal", written.decimal, usual.decimal),
            ("encoding", written.encoding, usual.encoding),
        )
        if value != default and not written.parquet
    ]
    return f"[file]  # as detected; the compression is told by the file itself\n{''.join(lines)}\n" if lines else ""
