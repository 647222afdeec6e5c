"""`demos score`: files that appear whole or not at all, in place of nothing but a file, and that run nowhere."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import fl.runs.api
import fl.runs.scored_files
from demos.score import score
from fl.data.salvage import RejectedRow
from fl.errors import DataError, FileRefused
from fl.learning.calibration import Calibration
from fl.runs.scored_files import Past, ScoredChunk
from fl.runs.scoring import ScoredRows

BANKS = ["north", '=HYPERLINK("http://x")', "@SUM(A1)", " -1+1"]
MODEL = SimpleNamespace(threshold=0.4, thresholds={}, rule={"name": "f1"}, calibration=None, home=None, schema=None)
HALF = np.full(len(BANKS), 0.5)
ROWS = ScoredRows(np.arange(len(BANKS)), HALF, HALF > 0.4, np.array(BANKS, object))
CHUNK = ScoredChunk(ROWS, {}, (), {}, 0)


def play(
    monkeypatch: pytest.MonkeyPatch, *chunks: ScoredChunk, fault: Exception | None = None, **model: object
) -> None:
    """A run whose model scores these chunks, and then may fail."""

    def played(*_: object, **__: object) -> Iterator[ScoredChunk]:
        yield from chunks
        if fault is not None:
            raise fault

    named = list(chunks[0].kept) if chunks else []
    monkeypatch.setattr(fl.runs.api, "load_model", lambda run: SimpleNamespace(**{**vars(MODEL), **model}))
    monkeypatch.setattr(fl.runs.api, "history_of", lambda *_, **__: Past(None, "history: none"))
    monkeypatch.setattr(fl.runs.api, "score_rows", played)
    monkeypatch.setattr(fl.runs.scored_files, "columns_that_name_rows", lambda *_: named)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that gives every transaction .5, whose banks have hostile names."""
    play(monkeypatch, CHUNK)


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
@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_scores_never_take_the_place_of_a_link_or_a_device(tmp_path: Path, name: str) -> None:
    victim, link = tmp_path / "victim", tmp_path / name
    victim.write_text("precious")
    link.symlink_to(victim)
    (tmp_path / f"{name}.part").symlink_to(victim)
    for target in (link, Path("/dev/null")):
        other = str(tmp_path / "rejects.csv")
        assert isinstance(run("--out", str(target), "--rejects", other).exception, FileRefused)
    assert link.is_symlink() and victim.read_text() == "precious" and Path("/dev/null").is_char_device()
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}.part", "victim"]
    assert run("--out", str(tmp_path / "other.csv")).exit_code == 0


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_scores_that_stop_half_way_leave_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    play(monkeypatch, CHUNK, fault=DataError("row 5 is torn"))
    target = tmp_path / name
    target.write_text("old")
    assert isinstance(run("--out", str(target)).exception, DataError)
    assert os.listdir(tmp_path) == [name] and target.read_text() == "old"


def test_columns_that_name_rows_and_probabilities_stand_beside_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.array(["7", "=8", "9", "10"], object)
    chunk = replace(CHUNK, scores=replace(ROWS, calibrated=HALF / 50), kept={"TX_ID": ids})
    play(monkeypatch, chunk, chunk, calibration=Calibration(1.0, 0.0, "nothing", 0, 0))
    assert run("--out", str(tmp_path / "scores.csv")).exit_code == 0
    assert run("--out", str(tmp_path / "scores.parquet")).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert list(rows[0]) == ["index", "TX_ID", "bank", "score", "calibrated", "flagged"]
    assert [row["TX_ID"] for row in rows] == ["7", "'=8", "9", "10"] * 2
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(frame.columns) == list(rows[0]) and frame["TX_ID"].tolist() == ids.tolist() * 2
    assert frame["calibrated"].tolist() == [0.01] * 8 and frame["flagged"].tolist() == [True] * 8


REJECTED = RejectedRow(7, "AMOUNT", "=expected a finite number, got 'much'")


def test_rejected_rows_go_to_a_file_of_their_own_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, replace(CHUNK, rejected=(REJECTED,), dropped={"KIND = 'test'": 3}))
    done = run("--out", str(tmp_path / "scores.csv"))
    assert done.exit_code == 0
    told = " ".join(done.stderr.split())
    assert "rejected 1 row, each" in told and "KIND = 'test': 3" in told and "history: none" in told
    rows = list(csv.reader((tmp_path / "scores.csv.rejects.csv").open()))
    assert rows == [["line", "column", "reason"], ["7", "AMOUNT", "'" + REJECTED.reason]]


def test_without_a_file_for_rejected_rows_the_first_one_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, replace(CHUNK, rejected=(REJECTED,)))
    fault = run().exception
    assert (
        isinstance(fault, DataError) and "new.csv: row 7, column 'AMOUNT'" in str(fault) and "--rejects" in str(fault)
    )


@pytest.mark.parametrize(
    "arguments", [["--json"], ["--history", "a", "--no-history"], ["--as", "north"], ["--keep", "score"]]
)
@pytest.mark.usefixtures("scored")
def test_options_that_contradict_each_other_are_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
