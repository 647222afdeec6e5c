"""Types of command-line options, made of the declarations in `fl.options`.

A value outside its range ends in exit code 2, and in one line that names the option, the range with its unit, and the
value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from fl import options
from fl.errors import FederationError

_WIDEST = 20  # characters of a range in --help; a longer one says what kind of number it is

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")


class Range(click.ParamType):
    """The click type of a declared option: a number within its range, a list, a choice or a text."""

    name = "text"

    def __init__(self, option: options.Option) -> None:
        self.option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.option.read(value) if isinstance(value, str) else self.option.of(value)
        except options.Refused as fault:
            self.fail(str(fault), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return _span(self.option)


def ranged(flag: str, declared: options.Option, text: str, name: str | None = None, **rest: Any) -> Any:
    """An option of a command that takes the values that `declared` allows. text: for --help. name: of the parameter."""
    shown = rest.get("default") != ""
    return click.option(*filter(None, (flag, name)), type=Range(declared), help=text, show_default=shown, **rest)


class FilePath(click.Path):
    """A path as `click.Path` gives it. Refuses an empty path and one with a NUL."""

    def __init__(self, **what: Any) -> None:
        super().__init__(path_type=Path, **what)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            options.FILE.of(os.fspath(value))
        except options.Refused as fault:
            self.fail(str(fault), param, ctx)
        return super().convert(value, param, ctx)


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Within the block, an error of `fl` is wrong usage (exit code 2). Only for making settings from options."""
    try:
        yield
    except FederationError as fault:
        _refuse(str(fault))


def _refuse(message: str) -> NoReturn:
    raise click.UsageError(message) from None


def _span(option: options.Option) -> str:
    """A range as --help shows it, such as 2..40, >0..1000 and 0..<1."""
    if isinstance(option, options.Listed):
        return f"{_span(option.each)},..."
    if isinstance(option, options.Choice):
        return f"[{'|'.join(option.words)}]"
    if isinstance(option, options.Whole):
        span = f"{option.low}..{option.high}"
        return span if len(span) <= _WIDEST else f"INTEGER>={option.low}"
    if isinstance(option, options.Real):
        return f"{'>' if option.above else ''}{option.low:g}..{'<' if option.below else ''}{option.high:g}"
    return "TEXT"
