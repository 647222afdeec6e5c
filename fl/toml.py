"""Read TOML strictly: every key has a type, and an unknown key is refused with the nearest known key.

A misspelt optional key would otherwise be ignored without a word.

What it does: `text_of` and `parsed` read a file or refuse it; `Fields` takes the keys of a table one by one; `filled`
makes a settings class of a whole table, whose types and ranges the class declares (`fl.options`); `literal` writes a
value.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from fl import options
from fl.errors import FederationError

T = TypeVar("T")


def text_of(path: Path, error: type[FederationError]) -> str:
    """The text of a file. Raises `error` when it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as fault:
        raise error(f"{path}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise error(f"{path}: expected UTF-8 text, got byte {fault.object[fault.start]:#04x}") from fault


def parsed(text: str, where: str, error: type[FederationError]) -> dict[str, Any]:
    """The tables in `text`.

    Raises `error` for invalid TOML, for numbers of thousands of digits and for thousands of nested brackets. `where`:
    the name of the file, with which the message begins.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as fault:  # TOML's own error is a ValueError; so is a number that is too long
        raise error(f"{where}: not valid TOML: {fault}") from fault


def filled(kind: type[T], table: object, where: str, error: type[FederationError]) -> T:
    """The dataclass `kind` with the keys of `table` as its fields.

    Raises `error` when `table` is not a table, for an unknown or missing key, and for a value that `kind` refuses.
    `where`: the name of the table, with which the message begins.
    """
    if not isinstance(table, dict):
        raise error(f"{where}: expected a table, got {options.shown(table)}")
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # a dataclass, which a TypeVar cannot say
    for key in table:
        if key not in known:
            raise error(f"{where} {key}: {_unknown(key, known)}")
    try:
        return kind(**table)
    except (TypeError, FederationError) as fault:  # TypeError: a key is missing
        raise error(f"{where} {fault}") from fault


def literal(value: str | float | Sequence[str]) -> str:
    """`value` in TOML, bool and int included: as in JSON, except for surrogate pairs and the delete character.
    A float reads back as the same float. Raises `ValueError` for one that is not finite.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def _unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known here: {', '.join(known)}"


class Fields:
    """One TOML table whose keys are taken one by one, each with its type; `done` refuses what is left.

    Refusals raise `error` and name table and key. `name`: name of the table, "" for the whole file.
    """

    def __init__(self, table: Mapping[str, Any], name: str, error: type[FederationError]) -> None:
        self._table = dict(table)
        self._name = name
        self._error = error
        self._taken: list[str] = []

    def take(self, key: str, kinds: type | tuple[type, ...], expected: str, default: Any = None) -> Any:
        """The value of `key`, or `default`. A value of another type than `kinds` is refused; a bool is not a number.

        Where a float is accepted, a whole number is accepted and becomes a float.
        """
        self._taken.append(key)
        if key not in self._table:
            return default
        value = self._table.pop(key)
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        fits = isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)
        if fits and float in wanted:
            try:
                return float(value)
            except OverflowError:
                fits = False
        if not fits:
            raise self._error(f"{self.place(key)}: expected {expected}, got {options.shown(value)}")
        return value

    def has(self, key: str) -> bool:
        """Whether the table holds `key` and nobody has taken it yet."""
        return key in self._table

    def text(self, key: str, default: str | None = None) -> str | None:
        value: str | None = self.take(key, str, "a string", default)
        return value

    def string(self, key: str, default: str) -> str:
        return str(self.take(key, str, "a string", default))

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise self._error(f'{self.place(key)}: expected the name of a column, got nothing; add {key} = "..."')
        return value

    def option(self, key: str, option: options.Option) -> Any:
        """The value of a required key, checked by `option`."""
        self._taken.append(key)
        if key not in self._table:
            raise self._error(f"{self.place(key)}: expected {option}, got nothing")
        try:
            return option.of(self._table.pop(key))
        except options.Refused as fault:
            raise self._error(f"{self.place(key)}: {fault}") from None

    def integer(self, key: str, default: int) -> int:
        return int(self.take(key, int, "a whole number", default))

    def number(self, key: str, default: float) -> float:
        value: float = self.take(key, (int, float), "a number", default)
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.take(key, bool, "true or false", default))

    def items(self, key: str, kinds: type | tuple[type, ...], expected: str) -> list[Any] | None:
        """A list of `kinds`, or None where the key is absent."""
        values: list[Any] | None = self.take(key, list, f"a list of {expected}")
        for value in values or ():
            if not isinstance(value, kinds) or isinstance(value, bool):
                shown = options.shown(value)
                raise self._error(f"{self.place(key)}: expected a list of {expected}, got {shown} in it")
        return values

    def strings(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        values = self.items(key, str, "strings (in quotes)")
        return default if values is None else tuple(values)

    def table(self, key: str) -> Fields | None:
        value = self.take(key, dict, f"a table, as in [{key}]")
        return None if value is None else Fields(value, f"[{key}]", self._error)

    def tables(self, key: str) -> list[Fields]:
        values = self.items(key, dict, f"tables, as in [[{key}]]")
        return [Fields(value, f"[[{key}]] number {i}", self._error) for i, value in enumerate(values or (), 1)]

    def rest(self) -> dict[str, Any]:
        """All keys not taken yet, for tables whose keys are column names."""
        rest, self._table = self._table, {}
        return rest

    def place(self, key: str) -> str:
        return f"{self._name} {key}".strip()

    def done(self) -> None:
        for key in self._table:
            raise self._error(f"{self.place(key)}: {_unknown(key, self._taken)}")
