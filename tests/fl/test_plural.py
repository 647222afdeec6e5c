"""Tests of `fl.plural`: numbers with their nouns."""

from __future__ import annotations

from fl.plural import plural


def test_one_thing_has_no_s_and_any_other_number_has_one() -> None:
    assert [plural(number, "row") for number in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
