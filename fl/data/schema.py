"""The schema of transactions: columns, label and label delay, windows, scaling constants, training and test periods.

The label delay, `LabelColumn.delay_days`, is the number of days after which a fraud is known. The values are frozen and
checked for contradictions when they are made.

A schema is public. Every bank of a federation holds the same one, so what it fixes (vocabularies, hash widths, scaling
constants, the label delay) is no statistic of anyone's data. `sha256` names it in messages and manifests.

The format is described in docs/data.md.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

from fl import options
from fl.data.constants import Constant, ConstantsFrom, line_of, table_of
from fl.data.derived_columns import DerivedColumn, Monotone
from fl.data.vocabulary import Words
from fl.errors import SchemaError

TimeUnit = Literal["datetime", "microseconds", "milliseconds", "seconds", "minutes", "hours", "days", "order"]
MICROSECONDS: dict[str, int] = {  # microseconds in one unit of a numeric time column
    "microseconds": 1,
    "milliseconds": 1_000,
    "seconds": 1_000_000,
    "minutes": 60_000_000,
    "hours": 3_600_000_000,
    "days": 86_400_000_000,
}
DAY_US = MICROSECONDS["days"]
MINUTE_US = MICROSECONDS["minutes"]

Transform = Literal["identity", "log1p", "signed_log1p"]

Kind = Literal["terminal", "merchant", "device", "account"]  # what transactions of several banks have in common
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_ONE_BANK = ("card", "customer", "cardholder")  # kinds that banks do not have in common
ReportedBy = Literal["issuer", "issuer and acquirer"]

EPOCH = dt.date(1970, 1, 1)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SchemaError(message)


def _refuse_repeats(names: Iterable[str], what: str) -> None:
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    _require(not repeated, f"{what}: expected each once, got {repeated} more than once")


@dataclass(frozen=True)
class LabelColumn:
    """The fraud label. Until the label delay, `delay_days` after the transaction, features and split ignore it.

    `known`: column that says when a fraud was labelled, written as [time] is. Shared counts of frauds leave out a label
    that came after its count was closed (`fl.counts.plan`), own evidence uses a label from the day after it came
    (`fl.counts.evidence`), and no model learns from one that came when the test had begun (`fl.data.split`).
    """

    column: Annotated[str, options.COLUMN]
    delay_days: Annotated[int, options.DELAY_DAYS] = 0
    positive: Annotated[tuple[str, ...], options.WORDS] = ("1", "1.0", "true", "True", "TRUE")
    negative: Annotated[tuple[str, ...], options.WORDS] = ("0", "0.0", "false", "False", "FALSE")
    known: Annotated[str | None, options.COLUMN] = field(default=None, repr=False)

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[label] ")
        both = sorted(set(self.positive) & set(self.negative))
        _require(not both, f"[label] {both} are in both positive and negative; remove them from one of the two")


@dataclass(frozen=True)
class TimeColumn:
    """The time of a transaction. `origin`: the date of 0 in a numeric column; without it there is no calendar."""

    column: Annotated[str, options.COLUMN]
    unit: TimeUnit = "datetime"
    format: str | None = None  # strptime format; None: ISO 8601
    origin: dt.date | None = None

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[time] ")
        _require(
            self.format is None or self.unit == "datetime",
            f"[time] format belongs to unit = 'datetime', got unit = {self.unit!r}; remove it",
        )
        _require(
            self.format is None or _names_the_year(self.format),
            f"[time] format: expected codes of Python's strptime that name a date with its year, as in "
            f"'%d/%m/%Y %H:%M', got {self.format!r}",
        )
        _require(
            self.origin is None or self.unit in MICROSECONDS,
            f"[time] origin dates the 0 of a numeric column, got unit = {self.unit!r}; remove it",
        )

    @property
    def measures_days(self) -> bool:
        """Whether differences of times are durations, so that windows in days can be computed."""
        return self.unit != "order"

    @property
    def has_calendar(self) -> bool:
        """Whether weekday and hour of day are known."""
        return self.unit == "datetime" or self.origin is not None


@dataclass(frozen=True)
class AmountColumn:
    """The amount. Scaled as (log1p(amount) - log1p(typical)) / spread, with the sign kept.

    `constants`: where typical and spread come from; `bound`: None for the schema's, or 10 where they are computed.
    `monotone`: as of a `NumericColumn`.
    """

    column: Annotated[str, options.COLUMN]
    # In the column's currency. A public guess, not a statistic of the data.
    typical: Annotated[float, options.TYPICAL] = 50.0
    spread: Annotated[float, options.SPREAD] = 1.0
    constants: ConstantsFrom = field(default="given", repr=False)
    bound: Annotated[float | None, options.BOUND] = field(default=None, repr=False)
    monotone: Monotone | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[amount] ")


@dataclass(frozen=True)
class PartyColumns:
    """Who pays (`customer`) and where (`terminal`: a terminal, merchant or destination account).

    `merchant`, `device`, `account`: further columns of parties that banks have in common. They are no features; counts
    of frauds per party are shared where `shared` names them. `reported_by`: how many banks count one transaction.
    """

    customer: Annotated[str | None, options.COLUMN] = None
    terminal: Annotated[str | None, options.COLUMN] = None
    # Public guesses that centre the window counts.
    customer_per_day: Annotated[float, options.PER_DAY] = 2.0
    terminal_per_day: Annotated[float, options.PER_DAY] = 1.0
    shared: tuple[str, ...] = ()  # parties that several banks have; banks may share counts of them
    merchant: Annotated[str | None, options.COLUMN] = field(default=None, repr=False)
    device: Annotated[str | None, options.COLUMN] = field(default=None, repr=False)
    account: Annotated[str | None, options.COLUMN] = field(default=None, repr=False)
    reported_by: ReportedBy = field(default="issuer", repr=False)

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[parties] ")
        _refuse_repeats(self.shared, "[parties] shared")
        for kind in self.shared:
            _require(
                kind not in OF_ONE_BANK,
                f"[parties] shared: a {kind} belongs to one bank, which knows its frauds already, and no epsilon here "
                f"protects a {kind} as a whole; remove it (expected some of {', '.join(KINDS)})",
            )
            _require(
                kind in KINDS, f"[parties] shared: expected some of {', '.join(KINDS)}, got {kind!r}; correct the name"
            )
            _require(
                self.column_of(kind) is not None,
                f"[parties] shared names the {kind}, and no {kind} column is given; add {kind} or remove it from "
                "shared",
            )

    def column_of(self, kind: str) -> str | None:
        """The column of a kind of `KINDS`."""
        column: str | None = getattr(self, kind)
        return column

    @property
    def columns(self) -> dict[str, str]:
        """The columns that hold identifiers, by party: the customer's, and those of `KINDS`."""
        named = {kind: self.column_of(kind) for kind in ("customer", *KINDS)}
        return {kind: column for kind, column in named.items() if column is not None}

    @property
    def entities(self) -> dict[str, str]:
        """The columns of the kinds beside the terminal."""
        return {kind: column for kind, column in self.columns.items() if kind not in ("customer", "terminal")}

    @property
    def reports(self) -> int:
        """How many banks count one transaction."""
        return 1 if self.reported_by == "issuer" else 2


@dataclass(frozen=True)
class NumericColumn:
    """A number, used directly or through a logarithm. Scaled as (transform(value) - center) / scale.

    `missing`: the public value of an empty cell, which also gets a 0/1 column that marks empty cells. None: an
    empty cell is refused. `constants`: where centre and scale come from. `bound`: the scaled number is clipped to it;
    None for the schema's bound, or 10 where the constants are computed. `monotone`: "up" where a larger value may only
    raise the score of trees, "down" where it may only lower it; other models cannot promise that.
    """

    column: Annotated[str, options.COLUMN]
    transform: Transform = "identity"
    center: Annotated[float, options.CENTER] = 0.0
    scale: Annotated[float, options.SCALE] = 1.0
    missing: Annotated[float | None, options.CENTER] = None
    constants: ConstantsFrom = field(default="given", repr=False)
    bound: Annotated[float | None, options.BOUND] = field(default=None, repr=False)
    monotone: Monotone | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        options.check(self, SchemaError, f"[[numeric]] {self.column!r} ")


@dataclass(frozen=True)
class CategoricalColumn:
    """A category: one column per word of a public `vocabulary`, or `hash_width` hashed columns.

    Exactly one of the two is given.
    """

    column: Annotated[str, options.COLUMN]
    vocabulary: Annotated[tuple[str, ...], options.Listed(options.CELL)] = ()
    hash_width: Annotated[int, options.HASH_WIDTH] = 0

    def __post_init__(self) -> None:
        where = f"[[categorical]] {self.column!r}"
        options.check(self, SchemaError, f"{where} ")
        _require(
            bool(self.vocabulary) != bool(self.hash_width),
            f"{where}: expected vocabulary or hash_width, got {'both' if self.vocabulary else 'none'}",
        )
        _refuse_repeats(self.vocabulary, f"{where} vocabulary")


@dataclass(frozen=True)
class TextColumn:
    """Free text as hashed character n-grams of length `ngrams[0]` to `ngrams[1]`.

    It is read and becomes features only with `use`.
    """

    column: Annotated[str, options.COLUMN]
    hash_width: Annotated[int, options.TEXT_WIDTH] = 64
    ngrams: Annotated[tuple[int, int], options.NGRAMS] = (3, 5)
    use: bool = False

    def __post_init__(self) -> None:
        where = f"[[text]] {self.column!r}"
        options.check(self, SchemaError, f"{where} ")
        got = list(self.ngrams)
        _require(
            len(got) == 2 and got[0] <= got[1], f"{where} ngrams: expected [low, high] with low <= high, got {got}"
        )


@dataclass(frozen=True)
class DropRule:
    """Rows whose `column` holds one of `values` are left out before anything else is read."""

    column: Annotated[str, options.COLUMN]
    values: Annotated[tuple[str, ...], options.WORDS]

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[drop] ")


@dataclass(frozen=True)
class Days:
    """Days `first` to `last`, both included, counted from 1970-01-01 (from 0 where time has no date)."""

    first: Annotated[int, options.DAY]
    last: Annotated[int, options.DAY]

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[split] ")
        _require(self.first <= self.last, f"[split] expected a period that ends on or after its first day, got {self}")

    def __len__(self) -> int:
        return self.last - self.first + 1

    def later(self, days: int) -> Days:
        return Days(self.first + days, self.last + days)

    @property
    def next(self) -> Days:
        """The period of the same length that follows."""
        return self.later(len(self))

    @property
    def start_us(self) -> int:
        return self.first * DAY_US

    @property
    def end_us(self) -> int:
        """The first microsecond after the last day."""
        return (self.last + 1) * DAY_US


@dataclass(frozen=True)
class Moments:
    """A period that does not begin and end with a day, as for data that span hours.

    `start_us` is included and `end_us` is not. Both count microseconds from 1970-01-01 (from 0 where time has no date).
    """

    start_us: Annotated[int, options.INSTANT_US]
    end_us: Annotated[int, options.INSTANT_US]

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[split] ")
        _require(self.start_us < self.end_us, f"[split] expected a period that ends after its start, got {self}")

    @property
    def next(self) -> Moments:
        """The period of the same length that follows."""
        return Moments(self.end_us, 2 * self.end_us - self.start_us)


@dataclass(frozen=True)
class DatedSplit:
    """Train on one period, test on one or more later ones."""

    train: Days | Moments
    test: tuple[Days | Moments, ...]

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[split] ")
        _require(bool(self.test), "[split] test: expected at least one [first, last] period, got none")


@dataclass(frozen=True)
class FractionSplit:
    """Train on the first `train` of the rows in time order, test on the last `test` (by keyed hash without time)."""

    train: Annotated[float, options.TRAIN_FRACTION] = 0.7
    test: Annotated[float, options.TRAIN_FRACTION] = 0.3

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[split] ")
        _require(
            self.train + self.test <= 1 + 1e-9,
            f"[split] expected train_fraction and test_fraction together <= 1, got {self.train} and {self.test}",
        )


@dataclass(frozen=True)
class ColumnSplit:
    """Train on the rows whose `column` holds a word of `train`, test on those with a word of `test`.

    Rows with another word are history only. Without words for `validation`, validation is drawn from the training rows.
    """

    column: Annotated[str, options.COLUMN]
    train: Annotated[tuple[str, ...], options.WORDS]
    test: Annotated[tuple[str, ...], options.WORDS]
    validation: Annotated[tuple[str, ...], options.Listed(options.CELL)] = ()

    def __post_init__(self) -> None:
        options.check(self, SchemaError, "[split] ")
        _refuse_repeats((*self.train, *self.validation, *self.test), "[split] words of train, validation and test")


@dataclass(frozen=True)
class Schema:
    """The meaning of a transaction file. Raises `SchemaError` when two parts contradict each other."""

    name: str
    label: LabelColumn
    time: TimeColumn | None = None
    amount: AmountColumn | None = None
    parties: PartyColumns = PartyColumns()
    numeric: tuple[NumericColumn, ...] = ()
    categorical: tuple[CategoricalColumn, ...] = ()
    text: tuple[TextColumn, ...] = ()
    never: Annotated[tuple[str, ...], options.Listed(options.COLUMN)] = ()  # columns that must not become features
    drop: tuple[DropRule, ...] = ()
    partition: Annotated[str | None, options.COLUMN] = None  # column that holds the bank
    split: DatedSplit | FractionSplit | ColumnSplit = FractionSplit()
    # Of the customers (of the rows without customers).
    validation_share: Annotated[float, options.VALIDATION_SHARE] = 0.1
    windows_days: Annotated[tuple[int, ...], options.WINDOWS_DAYS] = (1, 7, 30)  # empty: no windows
    bound: Annotated[float, options.BOUND] = 3.0  # every scaled feature is clipped to +-bound
    delimiter: Annotated[str, options.DELIMITER] = ","
    derived: tuple[DerivedColumn, ...] = field(default=(), repr=False)
    constants: tuple[Constant, ...] = field(default=(), repr=False)  # computed ones, once they are known
    windows_minutes: Annotated[tuple[int, ...], options.WINDOWS_MINUTES] = field(default=(), repr=False)
    decimal: Annotated[str, options.DECIMAL] = field(default=".", repr=False)
    encoding: Annotated[str, options.ENCODING] = field(default="utf-8", repr=False)
    # The TOML text it was read from.
    source: Annotated[str, options.TOML] = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        options.check(self, SchemaError)
        _require(len(self.delimiter) == 1, f"[file] delimiter: expected one character, got {self.delimiter!r}")
        _refuse_repeats(self.roles(), "column with a role")
        for column in sorted(set(self.roles()) & set(self.never)):
            raise SchemaError(f"column {column!r} is in never and also has a role; remove it from one of the two")
        _require(
            len(set(self.windows_days)) == len(self.windows_days),
            f"[features] windows_days: expected distinct days, got {list(self.windows_days)}",
        )
        lengths = [length for _, length in self.windows]
        _require(
            len(set(lengths)) == len(lengths),
            f"[features] expected windows of distinct lengths, got {list(self.windows_minutes)} minutes and "
            f"{list(self.windows_days)} days",
        )
        _require(
            self.decimal != self.delimiter,
            f"[file] expected a decimal mark that is not the delimiter, got {self.decimal!r} for both",
        )
        _require(
            self.label.known is None or (self.time is not None and self.time.measures_days),
            "[label] known dates a label, and needs a [time] column that measures days; add one or remove known",
        )
        self._check_derived()
        self._check_split()

    def _check_derived(self) -> None:
        read = set(self.roles())
        _refuse_repeats([column.name for column in self.derived], "[derived]")
        for column in self.derived:
            where = f"[derived] {column.name!r}"
            _require(
                column.name not in read,
                f"{where}: a column of the file has this name and a role; name the derived column otherwise",
            )
            for source in column.columns:
                _require(
                    source not in (self.label.column, self.label.known),
                    f"{where}: column {source!r} holds the label, or when it came, and must not become a feature; "
                    "remove the derived column",
                )
                _require(
                    source not in self.never,
                    f"{where}: column {source!r} is in never; remove it from there if it is known when a transaction "
                    "is scored, or remove the derived column",
                )
            if column.kind == "ratio_to_mean":
                words = {each.column: each.vocabulary for each in self.categorical}
                _require(
                    bool(words.get(column.columns[1])),
                    f"{where} ratio_to_mean: expected a [[categorical]] column with a vocabulary, whose words are "
                    f"public, got {column.columns[1]!r}",
                )
        _refuse_repeats([constant.column for constant in self.constants], "[constants]")
        computed = self.computed("shared") | self.computed("bank")
        for constant in self.constants:
            _require(
                constant.column in computed,
                f'[constants] {constant.column!r}: expected a column with constants = "shared" or "bank", got another '
                "one; remove the entry, or say so at the column",
            )

    def computed(self, source: ConstantsFrom) -> set[str]:
        """Names of the columns whose constants come from `source`."""
        named = {column.column: column.constants for column in self.numeric}
        named |= {column.name: column.constants for column in self.derived if column.is_scaled}
        if self.amount is not None:
            named[self.amount.column] = self.amount.constants
        return {name for name, each in named.items() if each == source}

    def lacking(self, source: ConstantsFrom) -> tuple[str, ...]:
        """Columns whose constants come from `source` ("shared" or "bank") and are not known yet, sorted."""
        return tuple(sorted(self.computed(source) - {constant.column for constant in self.constants}))

    def constant_of(self, column: str) -> Constant | None:
        """The computed constants of a column; None while they are unknown, or where the schema gives them."""
        return next((constant for constant in self.constants if constant.column == column), None)

    def with_constants(self, constants: Iterable[Constant], *, written: bool = True) -> Schema:
        """This schema with further computed constants, written into its TOML text unless `written` is False.

        Raises `SchemaError` for a column whose constants are not computed.
        """
        new = tuple(constants)
        if not new:
            return self
        text = self.source
        if written:
            # Tables of their own where [constants] is there already: other tables may follow it.
            lines = [table_of(each) if self.constants else line_of(each) for each in new]
            header = "" if self.constants else "\n[constants]  # computed from the rows of the banks\n"
            text = f"{text.rstrip(chr(10))}\n{header}" + "".join(lines)
        amount = self.amount
        for constant in new:
            if amount is not None and constant.column == amount.column:
                amount = replace(amount, typical=max(_expm1(constant.center), 0.0), spread=constant.scale)
        return replace(self, constants=(*self.constants, *new), amount=amount, source=text)

    def _check_split(self) -> None:
        if not isinstance(self.split, DatedSplit):
            return
        _require(
            self.time is not None and self.time.measures_days,
            "[split] periods need a [time] column that measures days; give train_fraction and test_fraction",
        )
        labels_known = self.split.train.end_us + self.label.delay_days * DAY_US
        for period in self.split.test:
            day = "day" if isinstance(period, Days) else "moment"
            _require(
                period.start_us >= labels_known,
                f"[split] test begins on {self.moment_name(period.start_us)}, but labels of the last training {day} "
                f"are known from {self.moment_name(labels_known)} on (delay_days = {self.label.delay_days}); "
                f"let the test begin on that {day} or later",
            )

    def roles(self) -> Iterator[str]:
        """Every column that is read as label, time, amount, party or feature, with repetitions."""
        yield self.label.column
        if self.label.known is not None:
            yield self.label.known
        for single in (self.time, self.amount):
            if single is not None:
                yield single.column
        yield from self.parties.columns.values()
        for group in (self.numeric, self.categorical, self.text):
            yield from (c.column for c in group)
        if isinstance(self.split, ColumnSplit):
            yield self.split.column

    def columns_read(self, *, labelled: bool = True) -> tuple[str, ...]:
        """Columns that a file must have, in a fixed order, text only if in use.

        Not `labelled`: without the label, and without what only divides labelled rows into training and test.
        """
        sources = (column for derived in self.derived for column in derived.columns)
        wanted = dict.fromkeys([*self.roles(), *sources, *(rule.column for rule in self.drop)])
        for column in (text.column for text in self.text if not text.use):
            wanted.pop(column)
        if not labelled:  # a drop rule on the label says which labels are no use in training, and nothing of new rows
            wanted.pop(self.label.column)
            if self.label.known is not None:
                wanted.pop(self.label.known)
            if isinstance(self.split, ColumnSplit):
                wanted.pop(self.split.column, None)
        return tuple(wanted)

    @property
    def monotone(self) -> dict[str, Monotone]:
        """By the feature's name, the direction in which it alone may move the score, where the schema names one."""
        named = {each.column: each.monotone for each in self.numeric} | {
            each.name: each.monotone for each in self.derived
        }
        if self.amount is not None:
            named["amount"] = self.amount.monotone
        return {name: each for name, each in sorted(named.items()) if each is not None}

    @property
    def has_windows(self) -> bool:
        """Whether rolling windows exist: they need a time that measures days."""
        return self.time is not None and self.time.measures_days and bool(self.windows)

    @property
    def windows(self) -> tuple[tuple[str, int], ...]:
        """(name as in `customer_count_7d`, microseconds) of every window: those in minutes, then those in days."""
        short = ((f"{m // 60}h" if m % 60 == 0 else f"{m}min", m * MINUTE_US) for m in self.windows_minutes)
        return (*short, *((f"{days}d", days * DAY_US) for days in self.windows_days))

    @property
    def words(self) -> Words:
        """What reports call the rows of the test and whom they are about."""
        hours = bool(self.windows_minutes and not self.windows_days)
        hours = hours or (isinstance(self.split, DatedSplit) and isinstance(self.split.train, Moments))
        days = self.time is not None and self.time.measures_days and not hours
        return Words(days=days, cards=self.parties.customer is not None)

    @property
    def shares_counts(self) -> bool:
        """Whether banks can share counts: they have parties in common and windows longer than a day."""
        return self.has_windows and bool(self.parties.shared) and max(self.windows_days, default=0) > 1

    @property
    def history_days(self) -> int:
        """Days before a transaction that its features use: the longest window plus the label delay."""
        if not self.has_windows:
            return 0
        longest = max(length for _, length in self.windows)
        return -(-longest // DAY_US) + self.label.delay_days

    @property
    def sha256(self) -> str:
        """Hash of all values of the schema, without comments and layout of the TOML.

        Keys that schemas did not always have count only where they are given: runs of earlier versions hold the hash.
        """
        text = repr(self)
        later = _not_default(self.label, ("known",)) | _not_default(self.parties, (*KINDS[1:], "reported_by"))
        if later := later | _not_default(self, ("windows_minutes", "decimal", "encoding")):
            text += repr(later)
        scaled = [column for column in (self.amount, *self.numeric) if column is not None]
        computed = [
            (column.column, given) for column in scaled if (given := _not_default(column, ("constants", "bound")))
        ]
        if self.monotone:
            text += repr(self.monotone)
        if any((computed, self.derived, self.constants)):
            text += repr((computed, self.derived, [(each, sorted(each.means.items())) for each in self.constants]))
        return hashlib.sha256(text.encode()).hexdigest()

    def day_name(self, day: int) -> str:
        """A day number as an ISO date where time has a calendar, else as `day N`."""
        if self.time is not None and self.time.has_calendar:
            return (EPOCH + dt.timedelta(days=day)).isoformat()
        return f"day {day}"

    def moment_name(self, instant: int) -> str:
        """An instant in microseconds as its day if a day begins then, else with the time of day."""
        day, rest = divmod(instant, DAY_US)
        if rest == 0:
            return self.day_name(day)
        clock = dt.timedelta(microseconds=rest)
        return f"{self.day_name(day)} {'0' * (rest < 10 * MICROSECONDS['hours'])}{clock}"


def microseconds_of(moment: dt.datetime) -> int:
    """Microseconds since 1970-01-01; a time without a UTC offset counts as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _names_the_year(format: str) -> bool:
    """Whether strptime knows all codes of `format` and reads the year of a date in that format."""
    moment = dt.datetime(2001, 2, 3, 16, 5, 6, tzinfo=dt.UTC)
    try:
        return dt.datetime.strptime(moment.strftime(format), format).year == moment.year
    except (ValueError, re.error):  # re.error: a code that occurs twice
        return False


def _expm1(value: float) -> float:
    """The amount whose log1p is `value`, within what an amount can be."""
    return float(math.expm1(min(value, math.log1p(options.TYPICAL.high))))


def _not_default(settings: object, names: Iterable[str]) -> dict[str, Any]:
    """Of these attributes of `settings`, those that are not at their default."""
    values = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(type(settings), name)}
