"""The columns of trees: categories and missing values come back from the 0/1 columns that a network needs."""

from __future__ import annotations

import numpy as np

from fl.data.schema_file import parse_schema
from fl.runs.tree_columns import TreeColumns

SCHEMA = """
name = "claims"
[label]
column = "fraud"
[time]
column = "day"
format = "%Y-%m-%d"
[amount]
column = "paid"
typical = 50.0
[[numeric]]
column = "age"
center = 40.0
scale = 10.0
missing = 40.0
[[numeric]]
column = "visits"
[[categorical]]
column = "kind"
vocabulary = ["a", "b", "c"]
[[categorical]]
column = "code"
hash_width = 2
"""
NAMES = ("amount", "age", "age_missing", "visits", "kind=a", "kind=b", "kind=c", "code=hash0", "code=hash1")


def columns() -> TreeColumns:
    return TreeColumns.of(parse_schema(SCHEMA, "test"), NAMES)


def test_a_vocabulary_is_one_column_and_a_marker_is_none() -> None:
    assert columns().names == ("amount", "age", "visits", "kind", "code=hash0", "code=hash1")
    assert [column.categories for column in columns().columns] == [0, 0, 0, 4, 0, 0]


def test_words_become_positions_and_other_words_the_last() -> None:
    x = np.zeros((3, 9), np.float32)
    x[0, 4], x[1, 6] = 1, 1
    assert columns().fold(x)[:, 3].tolist() == [0.0, 2.0, 3.0]


def test_a_marked_value_is_missing_and_others_stay() -> None:
    x = np.zeros((2, 9), np.float32)
    x[:, 1], x[1, 2], x[:, 0] = 1.5, 1, -2.5
    folded = columns().fold(x)
    assert folded[0, 1] == 1.5 and np.isnan(folded[1, 1])
    assert folded[:, 0].tolist() == [-2.5, -2.5]


def test_without_its_marker_a_value_stays_a_number_and_a_vocabulary_in_part_stays_spread() -> None:
    names = ("age", "kind=a", "kind=b")
    found = TreeColumns.of(parse_schema(SCHEMA, "test"), names)
    assert found.names == names and all(column.categories == 0 for column in found.columns)


def test_columns_have_the_direction_that_the_schema_gives_them() -> None:
    text = SCHEMA.replace("typical = 50.0", 'typical = 50.0\nmonotone = "up"').replace(
        "missing = 40.0", 'missing = 40.0\nmonotone = "down"'
    )
    found = TreeColumns.of(parse_schema(text, "test"), NAMES)
    directions = {column.name: column.monotone for column in found.columns}
    assert directions == {"amount": 1, "age": -1, "visits": 0, "kind": 0, "code=hash0": 0, "code=hash1": 0}


def test_no_rows_give_no_rows() -> None:
    assert columns().fold(np.zeros((0, 9), np.float32)).shape == (0, 6)
