"""`demos score --out`: a csv that appears whole or not at all, in place of nothing but a file, and runs nowhere."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result

import fl.runs.api
from demos.score import score
from fl.errors import DataError, FileRefused
from fl.runs.scoring import ScoredRows

BANKS = ["north", '=HYPERLINK("http://x")', "@SUM(A1)", " -1+1"]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that gives every transaction .5, whose banks have hostile names."""

    def chunks(*_: object) -> Iterator[ScoredRows]:
        half = np.full(len(BANKS), 0.5)
        yield ScoredRows(np.arange(len(BANKS)), half, half > 0.4, np.array(BANKS, object))

    monkeypatch.setattr(fl.runs.api, "load_model", lambda run: SimpleNamespace(threshold=0.4))
    monkeypatch.setattr(fl.runs.api, "score_file", chunks)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(score, ["run", "new.csv", *arguments])


@pytest.mark.usefixtures("scored")
def test_a_banks_name_is_no_formula_in_the_scores(tmp_path: Path) -> None:
    assert run("--out", str(tmp_path / "scores.csv")).exit_code == 0
    text = (tmp_path / "scores.csv").read_text()
    assert run().stdout == text
    read = list(csv.reader(text.splitlines()))
    assert read[0] == ["index", "bank", "score", "flagged"]
    assert [row[1] for row in read[1:]] == ["north", *("'" + bank for bank in BANKS[1:])]
    assert [row[2:] for row in read[1:]] == [["0.5", "1"]] * len(BANKS)


@pytest.mark.usefixtures("scored")
def test_scores_never_take_the_place_of_a_link_or_a_device(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "scores.csv"
    victim.write_text("precious")
    link.symlink_to(victim)
    (tmp_path / "scores.csv.part").symlink_to(victim)
    for target in (link, Path("/dev/null")):
        assert isinstance(run("--out", str(target)).exception, FileRefused)
    assert link.is_symlink() and victim.read_text() == "precious" and Path("/dev/null").is_char_device()
    assert sorted(os.listdir(tmp_path)) == ["scores.csv", "scores.csv.part", "victim"]
    assert run("--out", str(tmp_path / "other.csv")).exit_code == 0


@pytest.mark.usefixtures("scored")
def test_scores_that_stop_half_way_leave_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fl.runs.api.score_file

    def torn(*arguments: Path) -> Iterator[ScoredRows]:
        yield from whole(*arguments)
        raise DataError("row 5 is torn")

    monkeypatch.setattr(fl.runs.api, "score_file", torn)
    target = tmp_path / "scores.csv"
    target.write_text("old")
    assert isinstance(run("--out", str(target)).exception, DataError)
    assert os.listdir(tmp_path) == ["scores.csv"] and target.read_text() == "old"
