"""`python -m benchmarks drafts`: pairs of runs, and the figures of their differences."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks import drafts
from benchmarks.__main__ import cli
from benchmarks.drafts import Pair
from benchmarks.foreign_files import FOREIGN

PAIRS = [Pair("cards", 1, 0.80, 0.79), Pair("cards", 2, 0.70, 0.73), Pair("claims", 1, 0.40, 0.41)]


def test_differences_are_those_of_pairs() -> None:
    cards, claims = drafts.compared(PAIRS)
    assert (cards.file, cards.seeds, cards.drafted, cards.by_hand) == ("cards", 2, 0.75, pytest.approx(0.76))
    assert (cards.mean, cards.error) == (pytest.approx(-0.01), pytest.approx(0.02))
    assert (cards.least, cards.most) == (pytest.approx(-0.03), pytest.approx(0.01))
    assert claims.error is None and claims.mean == pytest.approx(-0.01)


def test_the_table_has_a_row_for_each_file_and_json_has_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "measure", lambda rows, seeds, say: iter(PAIRS))
    shown = CliRunner().invoke(cli, ["drafts"], catch_exceptions=False, env={"COLUMNS": "120"}).stdout
    assert "-0.0100" in shown and "claims" in shown and "0.750" in shown
    told = json.loads(CliRunner().invoke(cli, ["drafts", "--json"], catch_exceptions=False).stdout)
    assert [pair["seed"] for pair in told["pairs"]] == [1, 2, 1] and len(told["files"]) == 2


@pytest.mark.long
def test_both_schemas_are_trained_with_on_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "FOREIGN", [of for of in FOREIGN if of.name == "oneday"])
    said: list[str] = []
    (pair,) = drafts.measure(2000, [3], said.append)
    assert pair.file == "oneday" and len(said) == 1
    assert 0.2 < pair.drafted < 1 and 0.2 < pair.by_hand < 1 and pair.difference != 0
