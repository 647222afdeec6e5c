"""Read a schema from TOML, by the name of a shipped one or by path, and find the shipped one that fits a header.

Every key is typed and every unknown key is refused with the nearest known one, because a misspelt optional
key would otherwise be a setting silently not in force. The format is described in docs/data.md.
"""

from __future__ import annotations

import datetime as dt
import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl.data.schema import (
    EPOCH,
    AmountColumn,
    CategoricalColumn,
    DatedSplit,
    Days,
    DropRule,
    FractionSplit,
    LabelColumn,
    NumericColumn,
    PartyColumns,
    Schema,
    TextColumn,
    TimeColumn,
)
from fl.errors import SchemaError

SHIPPED = ("fdh", "creditcard", "paysim", "simulated")  # fl/data/schemas/*.toml


def load_schema(name_or_path: str | Path) -> Schema:
    """The shipped schema of that name, or the one in that TOML file. Raises `SchemaError` naming file and key."""
    if str(name_or_path) in SHIPPED:
        shipped = Path(__file__).parent / "schemas" / f"{name_or_path}.toml"
        return parse_schema(shipped.read_text(encoding="utf-8"), f"{name_or_path}.toml")
    path = Path(name_or_path)
    if not path.is_file():
        raise SchemaError(
            f"no schema {str(name_or_path)!r}: expected one of {', '.join(SHIPPED)} or a TOML file's path; "
            "draft one with: python -m demos schema --init FILE.csv"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from error
    return parse_schema(text, str(path))


def parse_schema(text: str, where: str) -> Schema:
    """The schema that TOML `text` describes; `where` (a file name) opens every message."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's own error is a ValueError; so is a number that is too long
        raise SchemaError(f"{where}: not valid TOML: {error}") from error
    try:
        return _schema(_Fields(tables, ""), text, Path(where).stem)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from error


def schema_for_header(header: Sequence[str], where: str) -> Schema:
    """The one shipped schema whose columns are all in `header`. Raises `SchemaError` when there is none."""
    fitting = [s for s in map(load_schema, SHIPPED) if set(s.columns_read()) <= set(header)]
    if len(fitting) == 1:
        return fitting[0]
    found = " and ".join(s.name for s in fitting) or "none"
    raise SchemaError(
        f"{where}: expected one shipped schema to fit its columns {', '.join(header[:12])}, got {found}; "
        f"name one with --schema, or draft one with: python -m demos schema --init {where}"
    )


class _Fields:
    """One TOML table whose keys are taken one by one, each with its type; what is left at the end is unknown."""

    def __init__(self, table: dict[str, Any], name: str) -> None:
        self._table = dict(table)
        self._name = name
        self._taken: list[str] = []

    def take(self, key: str, kinds: type | tuple[type, ...], expected: str, default: Any = None) -> Any:
        """The value of `key`, or `default`; others than `kinds` are refused (a bool is no number)."""
        self._taken.append(key)
        if key not in self._table:
            return default
        value = self._table.pop(key)
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise SchemaError(f"{self.place(key)}: expected {expected}, got {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        value: str | None = self.take(key, str, "a string", default)
        return value

    def string(self, key: str, default: str) -> str:
        return str(self.take(key, str, "a string", default))

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise SchemaError(f'{self.place(key)}: expected the name of a column, got nothing; add {key} = "..."')
        return value

    def integer(self, key: str, default: int) -> int:
        return int(self.take(key, int, "a whole number", default))

    def number(self, key: str, default: float) -> float:
        return float(self.take(key, (int, float), "a number", default))

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.take(key, bool, "true or false", default))

    def items(self, key: str, kinds: type | tuple[type, ...], expected: str) -> list[Any] | None:
        """A list of `kinds`, or None where the key is absent."""
        values: list[Any] | None = self.take(key, list, f"a list of {expected}")
        for value in values or ():
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise SchemaError(f"{self.place(key)}: expected a list of {expected}, got {value!r} in it")
        return values

    def strings(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        values = self.items(key, str, "strings (in quotes)")
        return default if values is None else tuple(values)

    def table(self, key: str) -> _Fields | None:
        value = self.take(key, dict, f"a table, as in [{key}]")
        return None if value is None else _Fields(value, f"[{key}]")

    def tables(self, key: str) -> list[_Fields]:
        values = self.items(key, dict, f"tables, as in [[{key}]]")
        return [_Fields(value, f"[[{key}]] number {i}") for i, value in enumerate(values or (), 1)]

    def rest(self) -> dict[str, Any]:
        """All keys not taken yet, for tables whose keys are column names."""
        rest, self._table = self._table, {}
        return rest

    def place(self, key: str) -> str:
        return f"{self._name} {key}".strip()

    def done(self) -> None:
        for key in self._table:
            near = difflib.get_close_matches(key, self._taken, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(self._taken)}"
            raise SchemaError(f"{self.place(key)}: unknown key; {advice}")


def _schema(top: _Fields, source: str, stem: str) -> Schema:
    top.text("about")
    label = _label(top.table("label"))
    time = _time(top.table("time"))
    columns = top.table("columns") or _Fields({}, "[columns]")
    features = top.table("features") or _Fields({}, "[features]")
    split_table = top.table("split") or _Fields({}, "[split]")
    file_table = top.table("file") or _Fields({}, "[file]")
    partition = top.table("partition") or _Fields({}, "[partition]")
    schema = Schema(
        name=top.string("name", stem),
        label=label,
        time=time,
        amount=_amount(top.table("amount")),
        parties=_parties(top.table("parties")),
        numeric=tuple(c for table in top.tables("numeric") for c in _numeric(table)),
        categorical=tuple(c for table in top.tables("categorical") for c in _categorical(table)),
        text=tuple(_text(table) for table in top.tables("text")),
        never=columns.strings("never"),
        drop=_drop(top.table("drop")),
        partition=partition.text("column"),
        validation_share=split_table.number("validation_share", 0.1),
        split=_split(split_table, time),
        windows_days=_windows(features),
        bound=features.number("bound", 3.0),
        delimiter=file_table.string("delimiter", ","),
        source=source,
    )
    for fields in (columns, features, file_table, partition, top):
        fields.done()
    return schema


def _windows(features: _Fields) -> tuple[int, ...]:
    given = features.items("windows_days", int, "whole days")
    return Schema.windows_days if given is None else tuple(given)


def _label(fields: _Fields | None) -> LabelColumn:
    if fields is None:
        raise SchemaError('expected a table [label] with column = "..."; it is the one thing a schema must have')
    label = LabelColumn(
        fields.required("column"),
        fields.integer("delay_days", LabelColumn.delay_days),
        fields.strings("positive", LabelColumn.positive),
        fields.strings("negative", LabelColumn.negative),
    )
    fields.done()
    return label


def _time(fields: _Fields | None) -> TimeColumn | None:
    if fields is None:
        return None
    origin = fields.take("origin", dt.date, "a date, as in 2018-04-01")
    if isinstance(origin, dt.datetime):
        raise SchemaError(f"{fields.place('origin')}: expected a date without time of day, got {origin}")
    unit: Any = fields.text("unit", "datetime")  # checked by TimeColumn
    time = TimeColumn(fields.required("column"), unit, fields.text("format"), origin)
    fields.done()
    return time


def _amount(fields: _Fields | None) -> AmountColumn | None:
    if fields is None:
        return None
    column = fields.required("column")
    amount = AmountColumn(column, fields.number("typical", 50.0), fields.number("spread", 1.0))
    fields.done()
    return amount


def _parties(fields: _Fields | None) -> PartyColumns:
    if fields is None:
        return PartyColumns()
    parties = PartyColumns(
        fields.text("customer"),
        fields.text("terminal"),
        fields.number("customer_per_day", 2.0),
        fields.number("terminal_per_day", 1.0),
        fields.strings("shared"),
    )
    fields.done()
    return parties


def _named(fields: _Fields) -> tuple[str, ...]:
    """`column = "a"` or `columns = ["a", "b"]`: many columns may share one description."""
    columns = fields.strings("columns")
    single = fields.text("column")
    if (single is None) == (not columns):
        raise SchemaError(
            f"{fields.place('column')}: expected either column or columns, got {'both' if single else 'none'}"
        )
    return columns if single is None else (single,)


def _numeric(fields: _Fields) -> list[NumericColumn]:
    names = _named(fields)
    transform: Any = fields.text("transform", "identity")  # checked by NumericColumn
    center, scale = fields.number("center", 0.0), fields.number("scale", 1.0)
    missing = fields.take("missing", (int, float), "a number")
    fields.done()
    filled = None if missing is None else float(missing)
    return [NumericColumn(name, transform, center, scale, filled) for name in names]


def _categorical(fields: _Fields) -> list[CategoricalColumn]:
    names = _named(fields)
    vocabulary, width = fields.strings("vocabulary"), fields.integer("hash_width", 0)
    fields.done()
    return [CategoricalColumn(name, vocabulary, width) for name in names]


def _text(fields: _Fields) -> TextColumn:
    column = fields.required("column")
    given = fields.items("ngrams", int, "whole numbers")
    ngrams: Any = TextColumn.ngrams if given is None else tuple(given)  # checked by TextColumn
    text = TextColumn(column, fields.integer("hash_width", 64), ngrams, fields.flag("use", False))
    fields.done()
    return text


def _drop(fields: _Fields | None) -> tuple[DropRule, ...]:
    rules = []
    for column, values in (fields.rest() if fields else {}).items():
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise SchemaError(f'[drop] {column}: expected a list of strings, as in {column} = ["NA"], got {values!r}')
        rules.append(DropRule(column, tuple(values)))
    return tuple(rules)


def _split(fields: _Fields, time: TimeColumn | None) -> DatedSplit | FractionSplit:
    train = fields.take("train", list, "[first day, last day]")
    tests = fields.items("test", list, "[first day, last day] periods")
    train_fraction = fields.take("train_fraction", (int, float), "a number")
    test_fraction = fields.take("test_fraction", (int, float), "a number")
    fields.done()
    if train is None and tests is None:
        default = FractionSplit()
        return FractionSplit(
            default.train if train_fraction is None else float(train_fraction),
            default.test if test_fraction is None else float(test_fraction),
        )
    if train is None or tests is None or train_fraction is not None or test_fraction is not None:
        raise SchemaError(
            "[split]: expected train and test periods, or train_fraction and test_fraction, not a mixture"
        )
    return DatedSplit(_days(train, "train", time), tuple(_days(test, "test", time) for test in tests))


def _days(period: list[Any], key: str, time: TimeColumn | None) -> Days:
    """Two dates, or two day numbers where time has no calendar, as days since 1970-01-01 (since 0)."""
    dated = time is not None and time.has_calendar
    what = "dates" if dated else "day numbers"
    plain = [d for d in period if isinstance(d, dt.date if dated else int) and not isinstance(d, dt.datetime | bool)]
    if len(plain) != 2 or len(period) != 2:
        raise SchemaError(f"[split] {key}: expected [first, last] as two {what}, got {period}")
    first, last = (_day_number(day) for day in plain)
    return Days(first, last)


def _day_number(day: dt.date | int) -> int:
    return day if isinstance(day, int) else (day - EPOCH).days
