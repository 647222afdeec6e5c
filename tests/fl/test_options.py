"""What an option may be: the kinds of declaration, and what they say when they refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from fl import options
from fl.errors import AlgorithmError
from fl.options import Choice, Listed, Real, Refused, Text, Whole

HALF_OPEN = Real(0, 10, "rows", above=True)
NO_NUMBERS = (math.nan, math.inf, -math.inf, True, None, "3", "", [], 3 + 0j, 10**400, 10**5000)


def refusal(option: options.Option, value: object) -> str:
    with pytest.raises(Refused) as caught:
        option.of(value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 240
    return str(caught.value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1, 0, 10.001, 1e308], ids=options.shown)
def test_a_number_outside_its_range_or_no_number_is_refused_with_range_unit_and_value(value: object) -> None:
    assert refusal(HALF_OPEN, value) == (f"expected a number above 0 and up to 10 (rows), got {options.shown(value)}")


@pytest.mark.parametrize("value", [1e-300, 1, 10, np.float32(2.5), np.int8(3)])
def test_a_number_within_its_range_comes_back_as_a_float(value: Any) -> None:
    assert HALF_OPEN.of(value) == float(value) and type(HALF_OPEN.of(value)) is float


def test_ends_belong_to_a_range_unless_it_says_so() -> None:
    assert Real(0, 1).of(0) == 0.0 and Real(0, 1).of(1) == 1.0
    assert refusal(Real(0, 1, below=True), 1.0) == "expected a number from 0 and below 1, got 1.0"
    assert refusal(Real(0, 1, above=True, below=True), 0) == "expected a number above 0 and below 1, got 0"


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, 3.0, 2.5, np.float64(3.0), np.bool_(True), 1, 41, 10**30], ids=options.shown
)
def test_a_whole_number_is_no_float_and_no_truth(value: object) -> None:
    assert refusal(Whole(2, 40, "bits"), value) == (
        f"expected a whole number from 2 to 40 (bits), got {options.shown(value)}"
    )


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    assert Whole(1, 10**6).read("1e6") == 10**6 == Whole(1, 10**6).read("1000000")
    for text in ("1.0", "1.5e0", "1e7", "1e400", "e", "nane"):
        with pytest.raises(Refused):
            Whole(1, 10**6).read(text)


def test_numpys_whole_numbers_come_back_as_pythons() -> None:
    assert type(Whole(2, 40).of(np.int64(16))) is int


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "-1", "0", "1e308", "1,5", "0x10", "ten", "9" * 5000])
def test_what_a_person_wrote_is_repeated_as_it_was_written(text: str) -> None:
    for option in (HALF_OPEN, Whole(1, 10)):
        with pytest.raises(Refused) as caught:
            option.read(text)
        assert str(caught.value) == f"expected {option}, got {options.shown(text)}"


@pytest.mark.parametrize("value", ["", "a\0b", 3, None, b"a"], ids=repr)
def test_a_text_is_neither_empty_nor_something_else(value: object) -> None:
    assert "got " in refusal(Text("a layer"), value)


def test_a_list_is_read_between_commas_and_each_value_has_the_range() -> None:
    assert Listed(Whole(1, 9)).read(" 1, 2") == (1, 2)
    assert Listed(Whole(1, 9)).read("") == ()
    for text in ("1,", "1,,2", ",", "1;2", "0"):
        with pytest.raises(Refused):
            Listed(Whole(1, 9)).read(text)
    with pytest.raises(
        Refused, match=r"^expected a list of 1 or more values, each a whole number from 1 to 9, got ''$"
    ):
        Listed(Whole(1, 9), least=1).read("")


@dataclass(frozen=True)
class Example:
    share: Annotated[float, Real(0, 1)] = 0.5
    bits: Annotated[int | None, Whole(2, 40)] = None
    mode: Literal["own", "shared"] = "own"
    wanted: bool = False
    name: str | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "[example] ")


def test_a_dataclass_holds_its_fields_to_what_their_types_declare() -> None:
    made = Example(1, np.int32(8), "shared", True, "a", ("b",))  # type: ignore[arg-type]
    assert (made.share, type(made.share), type(made.bits)) == (1.0, float, int)
    for wrong, expected in (
        ({"share": math.nan}, "[example] share: expected a number from 0 to 1, got nan"),
        ({"share": None}, "[example] share: expected a number from 0 to 1, got None"),
        ({"bits": 0}, "[example] bits: expected a whole number from 2 to 40, got 0"),
        ({"mode": "none"}, "[example] mode: expected one of own, shared, got 'none'"),
        ({"wanted": 1}, "[example] wanted: expected true or false, got 1"),
        ({"name": ""}, "[example] name: expected a text, not empty and without NUL, got ''"),
        (
            {"columns": ["b"]},
            "[example] columns: expected a list of values, each a text, not empty and without NUL, got ['b']",
        ),
    ):
        with pytest.raises(AlgorithmError) as caught:
            Example(**wrong)  # type: ignore[arg-type]
        assert str(caught.value) == expected


def test_a_number_among_settings_cannot_go_without_a_range() -> None:
    @dataclass(frozen=True)
    class Careless:
        share: float

    with pytest.raises(TypeError, match="needs a range"):
        options.declared(Careless)


def test_a_choice_takes_its_words_alone() -> None:
    assert Choice(("own", "shared")).read("own") == "own"
    assert refusal(Choice(("own", "shared")), None) == "expected one of own, shared, got None"
