"""Three foreign files: from a draft to a report without an edit, and as good as a schema written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import chromium, widths
from click import Command
from click.testing import CliRunner
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

import fl.counts.release
from benchmarks.foreign_files import FOREIGN, Foreign
from demos.card import card
from demos.evaluate import evaluate
from demos.schema import schema
from demos.score import score
from demos.threshold import threshold
from demos.train import train
from fl.data.draft import draft_schema
from fl.data.federation import Rows, load_federation
from fl.data.schema_file import parse_schema

UNDATED = ("per day", "a day", "test days", "training days", "days above", "first alert", "days after")
CLOSE = 0.01  # of average precision


def done(command: Command, *arguments: object) -> str:
    """What the command printed on stdout."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def trained(of: Foreign, data: Path, toml: Path, run: Path, *effort: object) -> dict[str, Any]:
    banks = () if of.clients is None else ("--clients", of.clients)
    printed = done(train, "--data", data, "--schema", toml, *banks, "--no-dp", *effort, "--run-dir", run, "--json")
    result: dict[str, Any] = json.loads(printed)
    return result


def drafted(of: Foreign, data: Path, folder: Path) -> Path:
    toml = folder / "drafted.toml"
    toml.write_text(done(schema, "--init", data), encoding="utf-8")
    return toml


@pytest.mark.parametrize("of", FOREIGN, ids=lambda of: of.name)
def test_a_foreign_file_goes_from_a_draft_to_a_report_without_an_edit(of: Foreign, tmp_path: Path) -> None:
    data = of.write(tmp_path / of.filename, of.make(1, 3000))
    toml, run = drafted(of, data, tmp_path), tmp_path / "run"
    guesses = [line for line in toml.read_text(encoding="utf-8").splitlines() if line.startswith("[") and "#" in line]
    assert all(len(line.partition("# ")[2]) > 5 for line in guesses) and len(guesses) > 4
    assert json.loads(done(schema, "--check", toml, data, "--json"))["frauds"] > 30
    result = trained(of, data, toml, run, "--rounds", 4, "--local-epochs", 6, "--no-baselines")
    assert result["metrics"]["average_precision"] > 1.3 * frauds_share(result)

    new = of.write(tmp_path / f"new-{of.filename}", of.make(2, 500), labelled=False)
    done(score, run, new, "--out", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as scores:
        assert len(list(csv.DictReader(scores))) == 500
    said = done(threshold, run, "--alerts", 5) + done(evaluate, run, "--html", tmp_path / "report.html")
    done(card, run, "--out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ("largest clipped share" in page) == (of.name != "claims")  # whose columns are all categories
    said += page[page.index('<p class="lead">') :] + (tmp_path / "model-card.md").read_text()
    said += (tmp_path / "dpia.md").read_text()
    flowing = " ".join(said.split())
    if of.name != "cards":
        assert not [words for words in UNDATED if words in flowing]
    if of.name == "claims":
        assert not [words for words in ("card precision", "card transactions", "ustomers known") if words in flowing]


def frauds_share(result: dict[str, Any]) -> float:
    window = result["metrics"]["windows"][0]
    return float(window["frauds"] / window["rows"])


@pytest.mark.long
@pytest.mark.parametrize("of", FOREIGN, ids=lambda of: of.name)
def test_the_inputs_of_a_draft_are_as_good_as_those_of_a_schema_written_by_hand(of: Foreign, tmp_path: Path) -> None:
    """A logistic model on all banks' rows: it has one optimum, so that only the inputs differ."""
    data = of.write(tmp_path / of.filename, of.make(3, 20_000))
    precision = {}
    for name, text in (("draft", draft_schema(data)), ("by hand", of.edited)):
        federation = load_federation(data, parse_schema(text, name), clients=of.clients)
        x, y = pooled([bank.train for bank in federation.banks])
        model = LogisticRegression(max_iter=300).fit(x, y)
        tested, frauds = pooled([bank.test[0] for bank in federation.banks])
        precision[name] = average_precision_score(frauds, model.predict_proba(tested)[:, 1])
    assert precision["draft"] > precision["by hand"] - CLOSE, precision


@pytest.mark.long
@pytest.mark.parametrize("of", FOREIGN, ids=lambda of: of.name)
def test_training_with_an_untouched_draft_is_as_good_as_with_a_schema_written_by_hand(
    of: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The federated model of `demos train`, in the mean of six seeds. The salt is fixed: it would be luck."""
    salts = SimpleNamespace(token_bytes=lambda count: bytes(range(count)))
    monkeypatch.setattr(fl.counts.release, "secrets", salts)
    differences = []
    for seed in range(1, 7):
        data = of.write(tmp_path / of.filename, of.make(seed, 20_000))
        by_hand = tmp_path / "by-hand.toml"
        by_hand.write_text(of.edited, encoding="utf-8")
        precision = []
        for toml in (drafted(of, data, tmp_path), by_hand):
            run = tmp_path / f"{toml.stem}-{seed}"
            precision.append(trained(of, data, toml, run, "--no-baselines", "--seed", seed))
        differences.append(precision[0]["metrics"]["average_precision"] - precision[1]["metrics"]["average_precision"])
    print(of.name, differences)
    assert fmean(differences) > -CLOSE, differences


@pytest.mark.long
@pytest.mark.parametrize("of", FOREIGN, ids=lambda of: of.name)
def test_the_report_of_a_foreign_file_fits_a_wide_and_a_narrow_window(of: Foreign, tmp_path: Path) -> None:
    chromium()
    data, run, page = of.write(tmp_path / of.filename, of.make(1, 3000)), tmp_path / "run", tmp_path / "report.html"
    trained(of, data, drafted(of, data, tmp_path), run, "--rounds", 4, "--local-epochs", 6)
    done(evaluate, run, "--html", page)
    for width in (1200, 400):
        folder = tmp_path / str(width)
        folder.mkdir()
        needed, has, console = widths(page, width, folder)
        assert needed <= has <= width and console == []


def pooled(parts: list[Rows]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
