"""What poisoning costs: the command from its options to its table, on data of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import poisoning
from benchmarks.__main__ import cli
from benchmarks.errors import ResumeMismatch, UnreadableResults
from benchmarks.poisoning import ABSENT, NOBODY, UNDEFENDED, Question
from fl.runs.config import DataSettings

QUICK = ["--customers", "250", "--clients", "4", "--rounds", "2", "--seeds", "0", "--attack", "ipm", "--rule", "norm"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("poisoning")
    done = CliRunner().invoke(cli, ["poisoning", *QUICK, "--folder", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    return folder, done.stdout


def test_every_attack_and_rule_has_a_figure_and_a_rule_that_finds_the_attacker_costs_nothing_more(measured) -> None:
    folder, output = measured
    found = {(cell["attack"], cell["rule"]): cell for cell in poisoning.read_cells(folder)}
    assert set(found) == {(NOBODY, ABSENT), *((a, r) for a in (NOBODY, "ipm") for r in (UNDEFENDED, "norm"))}
    (attacker,) = found["ipm", "norm"]["attackers"]
    assert found["ipm", "norm"]["rejected"] == {attacker: 2}
    assert found["ipm", "norm"]["average_precision"] == found[NOBODY, ABSENT]["average_precision"]
    assert found["ipm", UNDEFENDED]["average_precision"] != found[NOBODY, ABSENT]["average_precision"]
    assert found[NOBODY, UNDEFENDED]["attackers"] == []
    for words in (ABSENT, UNDEFENDED, "ipm", "2+0"):
        assert words in output


def test_a_folder_is_continued_and_shown_as_json_without_measuring_again(measured, monkeypatch) -> None:
    folder, _ = measured

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(poisoning._Seed, "of", never)
    done = CliRunner().invoke(cli, ["poisoning", *QUICK, "--folder", str(folder), "--json"], catch_exceptions=False)
    summary = json.loads(done.stdout)
    assert summary["ipm"]["norm"]["attackers_left_out"] == 2 and summary["ipm"]["norm"]["honest_left_out"] == 0
    assert len(summary[NOBODY][UNDEFENDED]["average_precision"]) == 1


def test_a_folder_of_other_data_is_refused(measured) -> None:
    folder, _ = measured
    question = Question(DataSettings(clients=4, customers=200), 1, ("ipm",), ("norm",), (0,), 2)
    with pytest.raises(ResumeMismatch):
        poisoning.measure(question, folder, print)


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    (tmp_path / "seed 0, ipm, norm.json").write_text('{"average_precision": "high"}')
    with pytest.raises(UnreadableResults, match="seed 0, ipm, norm"):
        poisoning.read_cells(tmp_path)


def test_a_remembered_training_is_the_training(measured) -> None:
    """Two cells of one seed train once, and get what each would train by itself."""
    question = Question(DataSettings(clients=4, customers=250), 1, ("label-flip",), ("norm",), (0,), 1)
    seat = poisoning._Seed.of(question, 0)
    first = seat.played(poisoning.Cell(0, NOBODY, UNDEFENDED))
    once = len(seat.algorithm.trained)
    again = seat.played(poisoning.Cell(0, NOBODY, UNDEFENDED))
    assert len(seat.algorithm.trained) == once == 4
    assert first == again
    seat.played(poisoning.Cell(0, "label-flip", UNDEFENDED))
    assert len(seat.algorithm.trained) == 5  # of the one who trains on turned labels
    assert all(np.isfinite(update).all() for update in seat.algorithm.trained.values())
