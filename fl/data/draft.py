"""Draft a schema from a file: a guess per column, each with the reason beside it, for a person to correct.

Guesses use names and the first rows only. The time column is read to its end, to count the days. A draft can always be
loaded. It is not finished: a wrong guess may leave in a column that is the label in another form, and constants taken
from the sample are statistics of the data until a person replaces them by public ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl.data.conversion import MISSING
from fl.data.reading import read_header, read_sample, stream_transactions
from fl.data.schema import DAY_US, LabelColumn, Schema, TimeColumn, TimeUnit
from fl.data.schema_file import parse_schema
from fl.errors import SchemaError
from fl.toml import literal

SAMPLE_ROWS = 20_000
MOST_WORDS = 24  # a category with more distinct values is hashed
DELAY_DAYS, LEAST_SPAN_DAYS = 7, 45  # a label delay is drafted only where it leaves enough days

LABEL_NAME = re.compile(r"fraud|label|class|target|is_?bad|chargeback", re.I)
TIME_NAME = re.compile(r"time|date|step|hour|day|when", re.I)
AMOUNT_NAME = re.compile(r"amount|amt|value|price|sum$", re.I)
CUSTOMER_NAME = re.compile(r"customer|client|card|cc_?num|account|user|sender|payer|orig", re.I)
TERMINAL_NAME = re.compile(r"terminal|merchant|dest|payee|receiver|beneficiary|shop", re.I)
BANK_NAME = re.compile(r"bank|issuer|branch|region|institution", re.I)
GIVEAWAY_NAME = re.compile(r"fraud|flag|scenario|chargeback|dispute", re.I)
YES, NO = (
    ("yes", "y", "true", "fraud", "1", "1.0", "t"),
    ("no", "n", "false", "legit", "genuine", "ok", "0", "0.0", "f"),
)
UNIT_NAMES: tuple[tuple[str, TimeUnit], ...] = (
    ("hour", "hours"),
    ("step", "hours"),
    ("min", "minutes"),
    ("day", "days"),
    ("sec", "seconds"),
    ("time", "seconds"),
)


@dataclass(frozen=True)
class _Look:
    """What the sample shows of one column."""

    name: str
    values: NDArray[np.object_] = field(repr=False)  # as text
    numbers: NDArray[np.float64] | None = field(repr=False)  # None unless every non-empty cell is a number
    words: tuple[str, ...] = field(repr=False)  # distinct non-empty values, by frequency
    empties: int

    @property
    def is_text(self) -> bool:
        """Long cells of several words."""
        return self.numbers is None and float(np.mean([v.count(" ") for v in self.values[:500]])) >= 2

    @property
    def is_date(self) -> bool:
        parsed = pd.to_datetime(pd.Series(self.values[:500]), format="ISO8601", errors="coerce", utc=True)
        return self.numbers is None and bool(parsed.notna().all())

    @property
    def is_binary(self) -> bool:
        return 1 <= len(self.words) <= 2 and all(word.lower() in YES + NO for word in self.words)

    @property
    def is_ascending(self) -> bool:
        return self.numbers is not None and not self.empties and bool((np.diff(self.numbers) >= 0).all())

    @property
    def repeats(self) -> bool:
        """Whether values repeat, as in a party or a category, unlike in a row number."""
        return len(self.words) < 0.95 * (len(self.values) - self.empties)


def draft_schema(path: str | Path, label: str | None = None) -> str:
    """A schema file (TOML) for a csv or parquet file, with comments that give the reason for the place of each column.

    `label` names the label column; None recognises it by name and content. Raises `SchemaError` when no label
    is found, and `DataError` for an unreadable file.
    """
    path = Path(path)
    header = read_header(path)
    looks = {name: _look(name, values) for name, values in read_sample(path, header, SAMPLE_ROWS).items()}
    target = _label(looks, label, path)
    left = [look for look in looks.values() if look.name != target.name]
    time = next((look for look in left if look.is_date), None) or next(
        (look for look in left if TIME_NAME.search(look.name) and look.is_ascending), None
    )
    text = "".join(_sections(path, target, time, [look for look in left if look is not time]))
    parse_schema(text, f"draft for {path.name}")
    return text


def _look(name: str, values: NDArray[np.object_]) -> _Look:
    filled = pd.Series(values[~np.isin(values, MISSING)], dtype=object)
    numbers = pd.to_numeric(filled, errors="coerce").to_numpy(np.float64)
    numeric = len(filled) > 0 and bool(np.isfinite(numbers).all())
    words = tuple(str(word) for word in filled.value_counts().index)
    return _Look(name, values, numbers if numeric else None, words, len(values) - len(filled))


def _label(looks: dict[str, _Look], asked: str | None, path: Path) -> _Look:
    if asked is not None and asked not in looks:
        raise SchemaError(f"{path}: expected the label column {asked!r}, got columns {list(looks)}")
    named = [look for look in looks.values() if look.is_binary and LABEL_NAME.search(look.name)]
    if asked is None and not named:
        raise SchemaError(f"{path}: expected a label column with two values, got none; name it with --label COLUMN")
    look = looks[asked] if asked else min(named, key=lambda look: "flag" in look.name.lower())
    if not look.is_binary:
        raise SchemaError(f"{path}: label {look.name!r}: expected yes/no values, got {list(look.words[:5])}")
    return look


def _sections(path: Path, label: _Look, time: _Look | None, left: list[_Look]) -> Iterable[str]:
    """The sections of the file. Every column of `left` is in exactly one of them."""
    days = None if time is None else _span_days(path, label, time)
    yield f"# Drafted from the first {len(label.values)} rows of {_plain(path.name)}. All entries are guesses:\n"
    yield "# correct them, then check with: python -m demos schema --check THIS.toml FILE\n"
    yield f"name = {literal(path.name.split('.')[0] or 'draft')}\n\n"
    yield _label_section(label, days)
    if time is not None:
        yield _time_section(time)
    amount = _first(left, _could_be_amount)
    if amount is not None:
        yield _amount_section(amount)
    customer = _first(left, lambda look: CUSTOMER_NAME.search(look.name) and _could_be_party(look), amount)
    terminal = _first(left, lambda look: TERMINAL_NAME.search(look.name) and _could_be_party(look), amount, customer)
    yield _parties_section(customer, terminal)
    bank = _first(left, _could_be_bank, amount, customer, terminal)
    if bank is not None:
        yield f"[partition]  # its name, and {len(bank.words)} words\ncolumn = {literal(bank.name)}\n\n"
    features = [look for look in left if look not in (amount, customer, terminal, bank)]
    never = {look.name: reason for look in features if (reason := _why_never(look))}
    for look in features:
        if look.name not in never:
            yield _feature_section(look)
    yield _never_section(never)
    yield _split_section(days)


def _first(looks: list[_Look], fits: Callable[[_Look], object], *taken: _Look | None) -> _Look | None:
    return next((look for look in looks if look not in taken and fits(look)), None)


def _could_be_amount(look: _Look) -> bool:
    return bool(AMOUNT_NAME.search(look.name)) and look.numbers is not None and not look.empties


def _could_be_bank(look: _Look) -> bool:
    return bool(BANK_NAME.search(look.name)) and 2 <= len(look.words) <= 64 and not look.empties


def _could_be_party(look: _Look) -> bool:
    """Identifiers: many, none empty, whole numbers or words."""
    whole = look.numbers is None or bool((look.numbers == np.floor(look.numbers)).all())
    return whole and not look.empties and len(look.words) > MOST_WORDS and not look.is_text and not look.is_date


def _why_never(look: _Look) -> str | None:
    if GIVEAWAY_NAME.search(look.name):
        return "its name suggests that it is known only once the label is"
    if len(look.words) <= 1:
        return "it has one value in the sample"
    if look.is_date:
        return "it is a second date"
    if look.is_text:
        return None
    whole = look.numbers is None or bool((look.numbers == np.floor(look.numbers)).all())
    return "no value repeats: it numbers the rows" if whole and not look.repeats and len(look.values) > 50 else None


def _span_days(path: Path, label: _Look, time: _Look) -> float | None:
    """Days between the first and the last transaction of the whole file; None where time does not measure days."""
    unit = _unit(time)
    if unit == "order":
        return None
    schema = Schema("span", LabelColumn(label.name), TimeColumn(time.name, unit))
    times = [table.time for table in stream_transactions(path, schema) if table.time is not None and len(table)]
    return float(max(int(t[-1]) for t in times) - min(int(t[0]) for t in times)) / DAY_US


def _unit(time: _Look) -> TimeUnit:
    if time.numbers is None:
        return "datetime"
    return next((unit for part, unit in UNIT_NAMES if part in time.name.lower()), "order")


def _label_section(label: _Look, days: float | None) -> str:
    delay = DELAY_DAYS if days is not None and days >= LEAST_SPAN_DAYS else 0
    why = f"the file spans {days:.0f} days" if days is not None else "time does not measure days"
    known = LabelColumn
    positive = [word for word in label.words if word.lower() in YES and word not in known.positive]
    negative = [word for word in label.words if word.lower() in NO and word not in known.negative]
    lines = [f"[label]  # its name, and that it has two values\ncolumn = {literal(label.name)}\n"]
    lines.append(f"delay_days = {delay}  # days until a fraud is known; {why}\n")
    if positive or negative:
        lines.append(f"positive = {literal([*positive, *known.positive])}\n")
        lines.append(f"negative = {literal([*negative, *known.negative])}\n")
    return "".join(lines) + "\n"


def _time_section(time: _Look) -> str:
    unit = _unit(time)
    why = {
        "datetime": "its cells are ISO 8601 dates",
        "order": "it ascends; if it measures time, replace order by seconds, minutes, hours or days",
    }.get(unit, f"it ascends, and its name suggests {unit}; if 0 is a date, add origin = 2024-01-31")
    return f'[time]  # {why}\ncolumn = {literal(time.name)}\nunit = "{unit}"\n\n'


def _amount_section(amount: _Look) -> str:
    assert amount.numbers is not None
    typical = _one_digit(float(np.median(np.abs(amount.numbers))))
    return (
        f"[amount]  # its name, and that it is a number\ncolumn = {literal(amount.name)}\n"
        f"typical = {typical!r}  # from the sample, to one digit: replace it by a figure that is public\n\n"
    )


def _parties_section(customer: _Look | None, terminal: _Look | None) -> str:
    lines = ["[parties]  # by name, and because they have many values\n"]
    for role, look in (("customer", customer), ("terminal", terminal)):
        lines.append(f"{role} = {literal(look.name)}\n" if look else f'# {role} = "..."  # none recognised\n')
    return "".join(lines) + "\n"


def _feature_section(look: _Look) -> str:
    name = literal(look.name)
    if look.numbers is not None:
        least, most = float(look.numbers.min()), float(look.numbers.max())
        transform = "identity" if max(-least, most) <= 3 else "signed_log1p"
        lines = [f"[[numeric]]  # numbers from {least:g} to {most:g} in the sample\ncolumn = {name}\n"]
        lines.append(f'transform = "{transform}"\n')
        if transform != "identity":
            middle = float(np.median(np.sign(look.numbers) * np.log1p(np.abs(look.numbers))))
            lines.append(f"center = {_one_digit(middle)!r}  # of the log, from the sample, to one digit\n")
        if look.empties:
            lines.append(f"missing = 0.0  # {look.empties} empty cells in the sample\n")
        return "".join(lines) + "\n"
    if look.is_text:
        return f"[[text]]  # several words per cell; a feature with use = true\ncolumn = {name}\nuse = false\n\n"
    if len(look.words) <= MOST_WORDS:
        return (
            f"[[categorical]]  # {len(look.words)} words; others become all zeros. This list must be public\n"
            f"column = {name}\nvocabulary = {literal(list(look.words))}\n\n"
        )
    return (
        f"[[categorical]]  # {len(look.words)} words in the sample: too many to list\n"
        f"column = {name}\nhash_width = 16\n\n"
    )


def _never_section(never: dict[str, str]) -> str:
    lines = "".join(f"    {literal(name)},  # {reason}\n" for name, reason in never.items())
    return f"[columns]\nnever = [\n{lines}]\n\n" if lines else "[columns]\nnever = []\n\n"


def _split_section(days: float | None) -> str:
    windows = [w for w in (1, 7, 30) if days is not None and w <= max(days / 2, 1)] or [1]
    kind = "in time order" if days is not None else "in the order of the time column, at random without one"
    return (
        f"[features]\nwindows_days = {windows}  # of the parties' counts, means and fraud shares\n\n"
        f"[split]  # {kind}\ntrain_fraction = 0.7\ntest_fraction = 0.3\nvalidation_share = 0.1\n"
    )


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}") if np.isfinite(value) else 0.0


def _plain(name: str) -> str:
    """For a comment: no control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", name)
