"""Output, progress and error messages of every command; the command line of `benchmarks` uses the errors too.

Results go to stdout, everything else to stderr: with ``--json``, stdout carries one JSON object and nothing else.
Progress is a bar on a terminal and plain lines elsewhere, both with an estimate of the time left; rich honours
NO_COLOR. An error becomes one line of advice.

Names of banks, columns and files come from outside. A string is therefore data: rich does not read markup or emoji
codes in it, and a control character in it is shown and has no effect. Text that a demo itself shows bold or red is a
`Text` or has a `style`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from fl.extras import advice
from fl.text import printable


def visible(text: str) -> str:
    """The text with control characters as escapes, so that a name cannot control a terminal."""
    return printable(text, keep="\t\n")


class PlainConsole(Console):
    """A console that prints strings as they are: no markup, no emoji codes, no colours for numbers."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)


out = PlainConsole()
err = PlainConsole(stderr=True)


def complain(what: str, text: str) -> None:
    """One line on stderr: what went wrong, in red, and the advice."""
    err.print(Text.assemble((what, "bold red"), f": {visible(text)}"), soft_wrap=True)


@contextmanager
def errors_as_advice(*expected: type[Exception], wrong_usage: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """End the process with one line of advice on stderr where the block raises an error that a user can act on.

    expected: errors whose own message is the advice. Exit code 1, or 2 for those that are also in `wrong_usage`. A
    package that is not installed, too little memory and an `OSError` end in exit code 1. Other exceptions pass through.
    """
    try:
        yield
    except expected as error:
        complain(type(error).__name__, str(error))
        sys.exit(2 if isinstance(error, wrong_usage) else 1)
    except ModuleNotFoundError as absent:
        complain("not installed", advice(absent))
    except MemoryError as error:
        complain("cannot go on", f"this machine has too little memory for this command: {error}".rstrip(": "))
    except OSError as error:
        complain("cannot go on", ": ".join(str(part) for part in (error.strerror or error, error.filename) if part))
    else:
        return
    sys.exit(1)


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def time_left(elapsed: float, done: float, total: float) -> str:
    """An estimate from the parts that are done, such as "about 50 s left"; empty before the first and after the last.

    It takes the parts for equally long.
    """
    if not 0 < done < total:
        return ""
    left = elapsed * (total - done) / done
    for unit, length, limit in (("s", 1.0, 100.0), ("min", 60.0, 100.0), ("h", 3600.0, math.inf)):
        if left / length < limit:
            return f"about {max(round(left / length), 1)} {unit} left"
    raise AssertionError


class TimeLeftColumn(ProgressColumn):
    """The estimate of `time_left` in a bar."""

    def render(self, task: Task) -> Text:
        return Text(time_left(task.elapsed or 0.0, task.completed, task.total or 0.0))


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress. Yields a function that takes the number of finished parts, out of `total`."""
    if err.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeftColumn(),
        )
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    start, last = time.monotonic(), [-10.0]

    def line(done: int) -> None:
        elapsed = time.monotonic() - start
        if done == total or elapsed - last[0] >= 10.0:
            last[0] = elapsed
            left = time_left(elapsed, done, total)
            err.print(f"{label}: {done} of {total}, {elapsed:.0f} s{', ' + left if left else ''}")

    yield line


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress of one stage after another. Yields a function of (stage, finished parts, all parts)."""
    label, advance = "", None
    with ExitStack() as shown:

        def tell(what: str, done: int, total: int) -> None:
            nonlocal label, advance
            if what != label or advance is None:
                shown.close()
                label, advance = what, shown.enter_context(progress(what, total))
            if done:
                advance(done)

        yield tell


def table(
    title: str,
    *columns: str,
    rows: Iterable[Sequence[str | Text]] = (),
    right: tuple[int, ...] = (),
    bold: str | None = None,
) -> Table:
    """A table in the style of all demos. right: indexes of right-aligned columns. bold: first cell of a bold row."""
    styled = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        styled.add_column(column, justify="right" if index in right else "left")
    for row in rows:
        styled.add_row(*row, style="bold" if bold is not None and row[0] == bold else None)
    return styled


def size(count: float) -> str:
    """Bytes in a readable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def seconds(value: float) -> str:
    """A duration in a readable unit."""
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
