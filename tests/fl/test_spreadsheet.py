"""CSV files that a spreadsheet shows and never runs, and that read back as what was written."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.spreadsheet import SafeWriter, csv_bytes, escaped, read_back, unescaped

FORMULAS = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\u00a0=1",
    "\ufeff=1",
    "＝1+1",
    "＋1+1",
    "－1+1",
    "＠A",
    "-inf",
    "=",
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(cell: str) -> None:
    text = io.StringIO(newline="")
    SafeWriter(text).row([cell, "bank"])
    SafeWriter(text).rows([[cell, 1]])
    read = list(csv.reader(io.StringIO(text.getvalue(), newline="")))
    assert read == [["'" + cell, "bank"], ["'" + cell, "1"]]
    assert csv_bytes(pd.DataFrame({cell: [cell]})).decode().count("'") == 2


@pytest.mark.parametrize("cell", ["-5", "+3.25", "-.5e-10", "1", -5, -2.5, "a=b", "", "bank - north", None])
def test_numbers_and_plain_text_stay_as_they_are(cell: object) -> None:
    assert escaped(cell) == cell


@given(st.text())
def test_what_is_read_back_is_what_was_written(cell: str) -> None:
    assert unescaped(str(escaped(cell))) == cell


def test_a_frame_with_formulas_in_cells_and_header_reads_back_as_it_was() -> None:
    frame = pd.DataFrame({"=a": [*FORMULAS, "'=1", "''-x", "plain", "a\rb"], "b": ["1"] * (len(FORMULAS) + 4)})
    pd.testing.assert_frame_equal(read_back(csv_bytes(frame)), frame, check_dtype=False)
