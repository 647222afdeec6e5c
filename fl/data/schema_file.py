"""Read a schema from TOML, by path or by the name of a shipped one, and find the shipped schema that fits a header.

The format is described in docs/data.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl import options
from fl.data.constants import BOUND, Constant, require_no_given
from fl.data.derived_columns import KINDS_OF_DERIVED, DerivedColumn
from fl.data.schema import (
    DAY_US,
    EPOCH,
    AmountColumn,
    CategoricalColumn,
    ColumnSplit,
    DatedSplit,
    Days,
    DropRule,
    FractionSplit,
    LabelColumn,
    Moments,
    NumericColumn,
    PartyColumns,
    Schema,
    TextColumn,
    TimeColumn,
    microseconds_of,
)
from fl.errors import SchemaError
from fl.toml import Fields, parsed, text_of

SHIPPED = ("fdh", "creditcard", "paysim", "simulated")  # fl/data/schemas/*.toml


def load_schema(name_or_path: str | Path) -> Schema:
    """The shipped schema of that name, or the one in that TOML file. Raises `SchemaError` naming file and key."""
    if str(name_or_path) in SHIPPED:
        shipped = Path(__file__).parent / "schemas" / f"{name_or_path}.toml"
        return parse_schema(shipped.read_text(encoding="utf-8"), f"{name_or_path}.toml")
    path = Path(name_or_path)
    if not path.is_file():
        raise SchemaError(
            f"schema: expected one of {', '.join(SHIPPED)} or the path of a TOML file, got {str(name_or_path)!r}; "
            "draft one with: python -m demos schema --init FILE.csv"
        )
    return parse_schema(text_of(path, SchemaError), str(path))


def parse_schema(text: str, where: str) -> Schema:
    """The schema in TOML `text`. `where`: a file name, with which every message begins."""
    tables = parsed(text, where, SchemaError)
    try:
        return _schema(Fields(tables, "", SchemaError), text, Path(where).stem)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from error


def schema_for_header(header: Sequence[str], where: str) -> Schema:
    """The one shipped schema whose columns are all in `header`. Raises `SchemaError` when there is none."""
    fitting = [s for s in map(load_schema, SHIPPED) if set(s.columns_read()) <= set(header)]
    if len(fitting) == 1:
        return fitting[0]
    found = " and ".join(s.name for s in fitting) or "none"
    raise SchemaError(
        f"{where}: expected one shipped schema that fits its columns {', '.join(header[:12])}, got {found}; "
        f"name one with --schema, or draft one with: python -m demos schema --init {where}"
    )


def _schema(top: Fields, source: str, stem: str) -> Schema:
    top.text("about")
    label = _label(top.table("label"))
    time = _time(top.table("time"))
    columns = top.table("columns") or Fields({}, "[columns]", SchemaError)
    features = top.table("features") or Fields({}, "[features]", SchemaError)
    split_table = top.table("split") or Fields({}, "[split]", SchemaError)
    file_table = top.table("file") or Fields({}, "[file]", SchemaError)
    partition = top.table("partition") or Fields({}, "[partition]", SchemaError)
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
        derived=_derived(top.table("derived")),
        windows_minutes=tuple(features.items("windows_minutes", int, "whole minutes") or ()),
        decimal=file_table.string("decimal", "."),
        encoding=file_table.string("encoding", "utf-8"),
        source=source,
    ).with_constants(_constants(top.table("constants")), written=False)
    for fields in (columns, features, file_table, partition, top):
        fields.done()
    return schema


def _windows(features: Fields) -> tuple[int, ...]:
    given = features.items("windows_days", int, "whole days")
    return Schema.windows_days if given is None else tuple(given)


def _label(fields: Fields | None) -> LabelColumn:
    if fields is None:
        raise SchemaError('expected a table [label] with column = "..."; every schema needs this table')
    label = LabelColumn(
        fields.required("column"),
        fields.integer("delay_days", LabelColumn.delay_days),
        fields.strings("positive", LabelColumn.positive),
        fields.strings("negative", LabelColumn.negative),
        fields.text("known"),
    )
    fields.done()
    return label


def _time(fields: Fields | None) -> TimeColumn | None:
    if fields is None:
        return None
    origin = fields.take("origin", dt.date, "a date, as in 2018-04-01")
    if isinstance(origin, dt.datetime):
        raise SchemaError(f"{fields.place('origin')}: expected a date without time of day, got {origin}")
    unit: Any = fields.text("unit", "datetime")  # checked by TimeColumn
    time = TimeColumn(fields.required("column"), unit, fields.text("format"), origin)
    fields.done()
    return time


def _amount(fields: Fields | None) -> AmountColumn | None:
    if fields is None:
        return None
    column = fields.required("column")
    constants, bound = _computed(fields, "typical", "spread")
    monotone: Any = fields.text("monotone")  # checked by AmountColumn
    typical, spread = fields.number("typical", 50.0), fields.number("spread", 1.0)
    amount = AmountColumn(column, typical, spread, constants, bound, monotone)
    fields.done()
    return amount


def _computed(fields: Fields, *given: str) -> tuple[Any, float | None]:
    """(`constants` of a column, checked by its class; its `bound`). `given`: keys that a computed column has not."""
    constants: Any = fields.text("constants", "given")
    require_no_given(constants, fields.place("constants"), *(key for key in given if fields.has(key)))
    bound = fields.take("bound", (int, float), "a number")
    if bound is None and constants != "given":
        bound = BOUND
    return constants, bound


def _parties(fields: Fields | None) -> PartyColumns:
    if fields is None:
        return PartyColumns()
    reported_by: Any = fields.text("reported_by", "issuer")  # checked by PartyColumns
    parties = PartyColumns(
        fields.text("customer"),
        fields.text("terminal"),
        fields.number("customer_per_day", 2.0),
        fields.number("terminal_per_day", 1.0),
        fields.strings("shared"),
        fields.text("merchant"),
        fields.text("device"),
        fields.text("account"),
        reported_by,
    )
    fields.done()
    return parties


def _named(fields: Fields) -> tuple[str, ...]:
    """`column = "a"` or `columns = ["a", "b"]`: many columns may share one description."""
    columns = fields.strings("columns")
    single = fields.text("column")
    if (single is None) == (not columns):
        raise SchemaError(
            f"{fields.place('column')}: expected either column or columns, got {'both' if single else 'none'}"
        )
    return columns if single is None else (single,)


def _numeric(fields: Fields) -> list[NumericColumn]:
    names = _named(fields)
    transform: Any = fields.text("transform", "identity")  # checked by NumericColumn
    constants, bound = _computed(fields, "center", "scale")
    center, scale = fields.number("center", 0.0), fields.number("scale", 1.0)
    missing = fields.take("missing", (int, float), "a number")
    monotone: Any = fields.text("monotone")  # checked by NumericColumn
    fields.done()
    return [NumericColumn(name, transform, center, scale, missing, constants, bound, monotone) for name in names]


def _derived(fields: Fields | None) -> tuple[DerivedColumn, ...]:
    """One entry a column: `delay = { difference = ["PAID", "ORDERED"] }`."""
    columns = []
    for name, value in (fields.rest() if fields else {}).items():
        where = f"[derived] {name}"
        if not isinstance(value, dict):
            raise SchemaError(f'{where}: expected a table, as in {{ equal = ["A", "B"] }}, got {value!r}')
        entry = Fields(value, where, SchemaError)
        kinds = [kind for kind in KINDS_OF_DERIVED if entry.has(kind)]
        if len(kinds) != 1:
            raise SchemaError(
                f"{where}: expected one of {', '.join(KINDS_OF_DERIVED)}, got {', '.join(kinds) or 'none'}"
            )
        constants: Any = entry.text("constants", DerivedColumn.constants)  # checked by DerivedColumn
        require_no_given(constants, where, *(key for key in ("center", "scale") if entry.has(key)))
        unit: Any = entry.text("unit", DerivedColumn.unit)  # checked by DerivedColumn
        monotone: Any = entry.text("monotone")  # checked by DerivedColumn
        columns.append(
            DerivedColumn(
                name,
                kinds[0],
                entry.strings(kinds[0]),
                constants,
                entry.number("center", 0.0),
                entry.number("scale", 1.0),
                entry.number("bound", BOUND),
                unit,
                monotone,
            )
        )
        entry.done()
    return tuple(columns)


def _constants(fields: Fields | None) -> tuple[Constant, ...]:
    """Computed constants that the banks agreed on before, as a run writes them."""
    constants = []
    for name, value in (fields.rest() if fields else {}).items():
        where = f"[constants] {name}"
        if not isinstance(value, dict):
            raise SchemaError(f"{where}: expected a table, as in {{ center = 0.0, scale = 1.0 }}, got {value!r}")
        entry = Fields(value, where, SchemaError)
        center, scale = entry.option("center", options.CENTER), entry.option("scale", options.SCALE)
        means = entry.table("means")
        rest = entry.number("rest", 0.0)
        entry.done()
        constants.append(Constant(name, center, scale, {} if means is None else means.rest(), rest))
    return tuple(constants)


def _categorical(fields: Fields) -> list[CategoricalColumn]:
    names = _named(fields)
    vocabulary, width = fields.strings("vocabulary"), fields.integer("hash_width", 0)
    fields.done()
    return [CategoricalColumn(name, vocabulary, width) for name in names]


def _text(fields: Fields) -> TextColumn:
    column = fields.required("column")
    given = fields.items("ngrams", int, "whole numbers")
    ngrams: Any = TextColumn.ngrams if given is None else tuple(given)  # checked by TextColumn
    text = TextColumn(column, fields.integer("hash_width", 64), ngrams, fields.flag("use", False))
    fields.done()
    return text


def _drop(fields: Fields | None) -> tuple[DropRule, ...]:
    rules = []
    for column, values in (fields.rest() if fields else {}).items():
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise SchemaError(f'[drop] {column}: expected a list of strings, as in {column} = ["NA"], got {values!r}')
        rules.append(DropRule(column, tuple(values)))
    return tuple(rules)


def _split(fields: Fields, time: TimeColumn | None) -> DatedSplit | FractionSplit | ColumnSplit:
    column = fields.text("column")
    if column is not None:
        words = {part: fields.strings(part) for part in ("train", "validation", "test")}
        fields.done()
        return ColumnSplit(column, words["train"], words["test"], words["validation"])
    train = fields.take("train", list, "[first day, last day]")
    tests = fields.take("test", list, "[first day, last day], or a list of such periods")
    train_fraction = fields.take("train_fraction", (int, float), "a number")
    test_fraction = fields.take("test_fraction", (int, float), "a number")
    fields.done()
    if train is None and tests is None:
        default = FractionSplit()
        return FractionSplit(
            default.train if train_fraction is None else train_fraction,
            default.test if test_fraction is None else test_fraction,
        )
    if train is None or tests is None or train_fraction is not None or test_fraction is not None:
        raise SchemaError(
            "[split]: expected train and test periods, or train_fraction and test_fraction, not some of each"
        )
    listed = tests if any(isinstance(each, list) for each in tests) else [tests]  # one period, or several
    return DatedSplit(_period(train, "train", time), tuple(_period(test, "test", time) for test in listed))


def _period(period: object, key: str, time: TimeColumn | None) -> Days | Moments:
    """Two dates or whole day numbers, both included; or two moments, the second one excluded."""
    dated = time is not None and time.has_calendar
    what = "dates, or two moments as in 2024-01-31T06:00:00" if dated else "day numbers, as in [0, 6] or [0.0, 0.25]"
    if isinstance(period, list) and len(period) == 2:
        if all(_is_date(day) if dated else _is_whole(day) for day in period):
            first, last = (_day_number(day) for day in period)
            return Days(first, last)
        if all(isinstance(moment, dt.datetime) if dated else _is_number(moment) for moment in period):
            start, end = (_microseconds(moment, f"[split] {key}") for moment in period)
            return Moments(start, end)
    raise SchemaError(f"[split] {key}: expected [first, last] as two {what}, got {period}")


def _is_date(day: object) -> bool:
    return isinstance(day, dt.date) and not isinstance(day, dt.datetime)


def _is_whole(day: object) -> bool:
    return isinstance(day, int) and not isinstance(day, bool)


def _is_number(moment: object) -> bool:
    return isinstance(moment, int | float) and not isinstance(moment, bool)


def _day_number(day: dt.date | int) -> int:
    return day if isinstance(day, int) else (day - EPOCH).days


def _microseconds(moment: dt.datetime | float, where: str) -> int:
    """A date with its time of day, as times in a file are read, or a number of days."""
    if isinstance(moment, dt.datetime):
        return microseconds_of(moment)
    if not abs(moment) <= options.DAY.high:  # infinite and NaN included
        raise SchemaError(f"{where}: expected day numbers of at most {options.DAY.high}, got {moment}")
    return round(moment * DAY_US)
