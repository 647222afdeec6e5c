"""Strict TOML: whatever a file holds, its reader returns typed values or raises the error it was told to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import options
from fl.errors import OptionError, SchemaError
from fl.toml import Fields, filled, literal, parsed, text_of

HUGE = "0x" + "f" * 5000  # more digits than Python writes, which no limit of TOML's parser stops


@dataclass(frozen=True)
class Settings:
    clip: Annotated[float, options.CLIP]
    quorum: Annotated[int, options.QUORUM] = 3

    def __post_init__(self) -> None:
        options.check(self, OptionError)


@pytest.mark.parametrize("text", ["[a", "a = 1\na = 2", f"a = {'9' * 5000}", f"a = {'[' * 5000}", "a = nope"])
def test_what_is_no_toml_is_refused_with_the_files_name(text: str) -> None:
    with pytest.raises(SchemaError, match=r"^some\.toml: not valid TOML: "):
        parsed(text, "some.toml", SchemaError)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="Is a directory"):
        text_of(tmp_path, SchemaError)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe4'")
    with pytest.raises(SchemaError, match="expected UTF-8 text, got byte 0xe4"):
        text_of(tmp_path / "latin.toml", SchemaError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip = 1.0\nquorums = 3", r"\[plan\] quorums: unknown key; did you mean 'quorum'\?"),
        ("clip = 1.0\nx = 3", r"\[plan\] x: unknown key; known here: clip, quorum"),
        ("quorum = 3", r"\[plan\] .*missing.*'clip'"),
        ("clip = true", r"\[plan\] clip: expected a number"),
        (f"clip = {HUGE}", "clip: expected a number .* an integer of thousands of digits"),
        (f"clip = 1.0\nquorum = {HUGE}", "quorum: expected a whole number .* an integer of thousands of digits"),
    ],
)
def test_a_table_that_does_not_fill_its_class_is_refused_by_key(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        filled(Settings, parsed(text, "f", SchemaError), "[plan]", SchemaError)
    with pytest.raises(SchemaError, match=r"\[plan\]: expected a table, got 3"):
        filled(Settings, 3, "[plan]", SchemaError)


@pytest.mark.parametrize("literal", [HUGE, "true", "[[]]", "{}", "2024-01-01", "'1'"])
def test_a_value_of_another_type_is_refused_by_key(literal: str) -> None:
    table = parsed(f"x = {literal}", "f", SchemaError)
    with pytest.raises(SchemaError, match=r"^\[t\] x: expected a number, got "):
        Fields(table, "[t]", SchemaError).number("x", 1.0)


def test_a_list_names_what_does_not_belong_in_it() -> None:
    table = parsed(f"x = [1, {HUGE}]", "f", SchemaError)
    with pytest.raises(SchemaError, match=r"expected a list of strings .*, got 1 in it"):
        Fields(table, "", SchemaError).strings("x")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.one_of(TEXT, st.lists(TEXT), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)))
def test_a_literal_reads_back_as_the_value_it_was_made_of(value: object) -> None:
    if value in (math.inf, -math.inf):
        with pytest.raises(ValueError):
            literal(value)
        return
    assert parsed(f"x = {literal(value)}", "f", SchemaError)["x"] == value


def test_no_other_module_reads_toml_by_itself() -> None:
    root = Path(__file__).resolve().parents[2]
    readers = [path for name in ("fl", "demos", "benchmarks") for path in (root / name).rglob("*.py")]
    found = {path.relative_to(root).as_posix() for path in readers if "import tomllib" in path.read_text("utf-8")}
    assert found == {"fl/toml.py"}


def test_keys_that_nobody_took_are_refused() -> None:
    fields = Fields(parsed("a = 1\nquorum = 4\nb = 2", "f", SchemaError), "", SchemaError)
    assert fields.number("a", 0.0) == 1.0 and isinstance(fields.number("c", 0.5), float)
    assert fields.option("quorum", options.QUORUM) == 4
    with pytest.raises(SchemaError, match=r"^b: unknown key"):
        fields.done()
