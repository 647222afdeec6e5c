"""The sentences at the top of a report stay few, however many columns the data have."""

from __future__ import annotations

from typing import Any

import pytest

from fl.reports.examination.findings import NAMED, RECALL_GAP, _fair, _scaled


def column(name: str, recall: float | None, *, sure: bool = False) -> dict[str, Any]:
    apart = {"recall": recall, "false_positive_rate": 0.04, "recall_intervals_apart": sure}
    return {"column": name, "largest_difference": None if recall is None else apart}


def said(*columns: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["kind"], each["text"]) for each in _fair({"columns": list(columns)})]


def test_thirty_columns_that_hardly_differ_are_one_sentence() -> None:
    assert said(*(column(f"answer_{i:02d}", 0.001 * i, sure=i < 5) for i in range(30))) == [
        (
            "good",
            "By 30 columns, listed under Groups in the report: the share of frauds found differs by up to 2.9 points "
            "between groups, that of others flagged by up to 4 points. Intervals overlap for 25 of them, so that this "
            "may be luck.",
        )
    ]


def test_of_thirty_columns_that_differ_the_widest_are_named() -> None:
    told = said(*(column(f"answer_{i:02d}", 0.3 + 0.001 * i) for i in range(30)))
    assert [kind for kind, _ in told] == ["note"] * (NAMED + 1)
    assert [text.split(":")[0] for _, text in told[:NAMED]] == ["By answer_29", "By answer_28", "By answer_27"]
    assert told[-1][1] == (
        "By 27 more columns, listed under Groups in the report: the share of frauds found differs by up to 33 points "
        "between groups, that of others flagged by up to 4 points. Intervals overlap for all of them, so that this may "
        "be luck."
    )


@pytest.mark.parametrize("count", range(1, NAMED + 3))
def test_each_column_is_counted_in_one_sentence(count: int) -> None:
    told = said(*(column(f"c{i}", RECALL_GAP + 0.1, sure=True) for i in range(count)))
    more = [text for _, text in told if "more columns" in text]
    assert len(told) == (count if count <= NAMED + 1 else NAMED + 1) and len(more) == (count > NAMED + 1)
    assert all("luck" not in text for _, text in told)


def test_kinds_are_not_mixed_and_what_must_be_answered_comes_first() -> None:
    few = [column("bank", None)]
    wide = [column(f"wide {i}", 0.5, sure=i % 2 == 0) for i in range(12)]
    told = said(*few, *(column(f"near {i}", 0.1, sure=i == 0) for i in range(9)), *wide)
    assert [kind for kind, _ in told] == ["note", *["concern"] * 4, *["note"] * 4, "good"]
    assert told[0][1] == "By bank: fewer than two groups are large enough to be compared."
    assert told[4][1].startswith("By 3 more columns") and "luck" not in told[4][1]
    assert told[8][1].startswith("By 3 more columns") and "Intervals overlap for all of them" in told[8][1]
    assert told[9][1].startswith("By 9 columns") and "Intervals overlap for 8 of them" in told[9][1]


def test_columns_whose_groups_are_all_small_are_one_sentence() -> None:
    assert said(*(column(f"c{i}", None) for i in range(8))) == [
        ("note", "By c0, c1, c2 and 5 more columns: fewer than two groups are large enough to be compared.")
    ]


def test_columns_of_which_a_bound_cuts_off_too_much_are_few_sentences() -> None:
    told = _scaled({"most": 0.01, "warnings": [f"column {i} is cut off" for i in range(20)]})
    assert len(told) == NAMED + 1 and told[0]["text"] == "Column 0 is cut off."
    assert (
        told[-1]["text"]
        == "Of 17 more columns, listed under What decides in the report, more than 1.0 % is cut off, too."
    )
    assert len(_scaled({"most": 0.01, "warnings": ["a", "b"]})) == 2
