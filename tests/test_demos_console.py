"""Names from outside on a terminal: data, never markup, an emoji code or a command to the terminal."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

import benchmarks.__main__
import demos.__main__
from demos.console import PlainConsole, complain, err, errors_as_advice, table, time_left

HOSTILE = "[bold]x[/bold] [link=http://x]y[/] :smile: [/] \x1b[2J\x9b2J\u202e"
SHOWN = "[bold]x[/bold] [link=http://x]y[/] :smile: [/] \\x1b[2J\\x9b2J\\u202e"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def console() -> PlainConsole:
    console = PlainConsole()
    console.file, console.width = io.StringIO(), 400
    return console


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_printed_line_shows_a_hostile_name_as_it_is(console: PlainConsole) -> None:
    console.print(f"bank {HOSTILE}", highlight=False)
    assert printed(console) == f"bank {SHOWN}\n"


def test_title_header_and_cells_of_a_table_show_a_hostile_name_as_it_is(console: PlainConsole) -> None:
    made = table(f"of {HOSTILE}", HOSTILE, "n")
    made.add_row(HOSTILE, "1")
    console.print(made)
    assert printed(console).count(SHOWN) == 3


def test_an_error_shows_a_hostile_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(err, "_file", text)  # `file` reads as stderr of now, and undoing would keep that one for good
    complain("DataError", f"bank {HOSTILE}")
    assert text.getvalue() == f"DataError: bank {SHOWN}\n"


def test_every_console_of_a_command_takes_strings_for_data() -> None:
    """A console with markup would turn the next name that somebody prints into markup."""
    for path in [*(ROOT / "demos").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                assert given.get("markup") == "False" and given.get("emoji") == "False", path
    assert demos.__main__.errors_as_advice is benchmarks.__main__.errors_as_advice is errors_as_advice


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("name"), 1, "KeyError: 'name'"),
        (IndexError("a row"), 2, "IndexError: a row"),
        (ModuleNotFoundError("no", name="click"), 1, "not installed: click is not installed"),
        (MemoryError(), 1, "cannot go on: this machine has too little memory for this command"),
        (
            FileNotFoundError(2, "No such file or directory", "a.csv"),
            1,
            "cannot go on: No such file or directory: a.csv",
        ),
        (OSError("no space"), 1, "cannot go on: no space"),
    ],
)
def test_an_error_that_a_user_can_act_on_ends_the_process_with_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(err, "_file", text)
    with pytest.raises(SystemExit) as ended, errors_as_advice(KeyError, IndexError, wrong_usage=(IndexError,)):
        raise error
    assert ended.value.code == code
    assert text.getvalue().startswith(line) and text.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("elapsed", "done", "total", "said"),
    [
        (10.0, 0, 8, ""),
        (10.0, 8, 8, ""),
        (10.0, 2, 8, "about 30 s left"),
        (0.01, 7, 8, "about 1 s left"),
        (100.0, 1, 7, "about 10 min left"),
        (7200.0, 1, 5, "about 8 h left"),
    ],
)
def test_the_time_left_is_estimated_from_the_parts_that_are_done(
    elapsed: float, done: int, total: int, said: str
) -> None:
    assert time_left(elapsed, done, total) == said


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), errors_as_advice(KeyError):
        raise ZeroDivisionError
    with pytest.raises(ModuleNotFoundError), errors_as_advice(KeyError):
        raise ModuleNotFoundError("no", name="fl.no_such_module")
