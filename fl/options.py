"""What every option may be: type, range and unit, declared once for the command line, for TOML and for Python.

What it does: the constants below are the declarations. A settings dataclass names one beside each field
(`clip: Annotated[float, options.CLIP]`) and calls `check` when it is made, which covers Python and every TOML file that
fills such a class; the commands make their click types of the same constants (`demos.options`). Nothing else in the
repository says which numbers an option takes.

A refusal names the option, what was expected with its unit, and the value. NaN and infinities are no numbers here, True
is no 1, and None is taken only where a field says so.

What it leaves to others: options that contradict each other (`fl.run_budget`), and what lies behind a file's name. It
imports neither torch nor click, since `--help` waits for neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral
from numbers import Real as AnyReal
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from fl.errors import FederationError


class Refused(ValueError):
    """A value is not what its option may be; the message says expected and got, and whoever asked adds the name."""


class Option(Protocol):
    """`str` of it completes "expected ..."."""

    def of(self, value: object) -> Any:
        """`value` as Python's own type. Raises `Refused`."""

    def read(self, text: str) -> Any:
        """The value that a person writes as `text`. Raises `Refused`."""


@dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`; `above`, `below`: that end is itself excluded."""

    low: float
    high: float
    unit: str = ""
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        first = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        last = f" and below {self.high:g}" if self.below else f" and up to {self.high:g}" if self.above else None
        unit = f" ({self.unit})" if self.unit else ""
        return f"a number {first}{last or f' to {self.high:g}'}{unit}"

    def of(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, AnyReal):
            raise refused(self, value)
        try:
            number = float(value)
        except OverflowError:
            raise refused(self, value) from None
        fits = (self.low < number if self.above else self.low <= number) and (
            number < self.high if self.below else number <= self.high
        )
        if not (math.isfinite(number) and fits):
            raise refused(self, value)
        return number

    def read(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise refused(self, text) from None
        try:
            return self.of(number)
        except Refused:
            raise refused(self, text) from None  # as it was written


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`, both included; numpy's are taken, 3.0 is not."""

    low: int
    high: int
    unit: str = ""

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}" + (f" ({self.unit})" if self.unit else "")

    def of(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise refused(self, value)
        number = int(value)
        if not self.low <= number <= self.high:
            raise refused(self, value)
        return number

    def read(self, text: str) -> int:
        try:
            return self.of(int(text))
        except ValueError:  # `Refused` is one; so is a number of more digits than Python reads
            raise refused(self, text) from None


@dataclass(frozen=True)
class Text:
    """A text that is not empty and holds no NUL, which no file name may; `what` it names."""

    what: str = "a text"

    def __str__(self) -> str:
        return f"{self.what}, not empty and without NUL"

    def of(self, value: object) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise refused(self, value)
        return value

    def read(self, text: str) -> str:
        return self.of(text)


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"

    def of(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise refused(self, value)
        return value

    def read(self, text: str) -> str:
        return self.of(text)


@dataclass(frozen=True)
class Listed:
    """Values of one option, several of them: a tuple, or a text with commas between them. `least`: fewest."""

    each: Option
    least: int = 0

    def __str__(self) -> str:
        return f"{f'{self.least} or more' if self.least else 'any number'} of: {self.each}"

    def of(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, tuple) or len(value) < self.least:
            raise refused(self, value)
        return tuple(self.each.of(one) for one in value)

    def read(self, text: str) -> tuple[Any, ...]:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        if len(parts) < self.least:
            raise refused(self, text)
        return tuple(self.each.read(part) for part in parts)


@dataclass(frozen=True)
class _Instance:
    """An object of one class: true and false, a path, settings within settings."""

    kind: type

    def __str__(self) -> str:
        return "true or false" if self.kind is bool else f"a {self.kind.__name__}"

    def of(self, value: object) -> Any:
        if not isinstance(value, self.kind):
            raise refused(self, value)
        return value

    def read(self, text: str) -> Any:
        raise refused(self, text)


def refused(option: object, value: object) -> Refused:
    return Refused(f"expected {option}, got {shown(value)}")


def shown(value: object) -> str:
    """`value` in one short line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def check(settings: object, error: type[FederationError], where: str = "") -> None:
    """Hold every field of a frozen dataclass against its declaration, and keep its value as Python's own type.

    To be called by `__post_init__`. `where`: what stands before a field's name in a message, as in "[label] ". Raises
    `error` naming the field.
    """
    for name, (option, optional) in declared(type(settings)).items():  # type: ignore[arg-type]  # classes can be hashed (mypy 11470)
        value = getattr(settings, name)
        if value is None and optional:
            continue
        try:
            object.__setattr__(settings, name, option.of(value))
        except Refused as fault:
            raise error(f"{where}{name}: {fault}") from None


@cache
def declared(kind: type) -> Mapping[str, tuple[Option, bool]]:
    """Of each field of the dataclass `kind` that can be checked: its option, and whether it may be None."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: _declared(hints[field.name]) for field in fields(kind) if field.init}
    return {name: each for name, each in found.items() if each is not None}


def _declared(hint: Any) -> tuple[Option, bool] | None:
    option: Option | None = None
    if get_origin(hint) is Annotated:
        hint, option, *_ = get_args(hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional, kinds = NoneType in kinds, tuple(kind for kind in kinds if kind is not NoneType)
    if option is None and len(kinds) == 1:
        option = _of_type(kinds[0])
    return None if option is None else (option, optional)


def _of_type(kind: Any) -> Option | None:
    """What a type says by itself; None where it says too little to be checked here. A bare number is refused, since it
    has no range: that is a fault of the class.
    """
    if kind in (int, float):
        raise TypeError("a number among settings needs a range: Annotated[..., options.X]")
    if get_origin(kind) is Literal:
        return Choice(get_args(kind))
    if get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,):
        each = _declared(get_args(kind)[0])
        return None if each is None else Listed(each[0])
    if kind is str:
        return Text()
    return _Instance(kind) if isinstance(kind, type) else None


# --- privacy --------------------------------------------------------------------------------------------------------

# Above 1000 the accountant's grid would not fit in memory, nor would the figure help (`fl.privacy.HOPELESS_EPSILON`).
EPSILON = Real(0, 1000, "for the life of a bank's data", above=True)
# With delta each row may be published as it is: it belongs well below one over the number of rows, and a hundredth is
# above that for every bank that could train at all.
DELTA = Real(0, 0.01, "probability; well below 1 / rows", above=True)
