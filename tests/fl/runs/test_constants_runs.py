"""Runs whose schema leaves constants to the banks: one round, one payment, and a model that scores with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from five_sites import five_sites

import fl
from fl.data.draft import draft_schema
from fl.data.schema_file import load_schema
from fl.errors import BudgetError, BudgetExhausted, PartitionError
from fl.learning.training import pick_device, predict
from fl.privacy.budget import ledger_path, read_ledger
from fl.privacy.mechanisms import NoisyCounts, SharedSteps
from fl.runs.experiment import Experiment
from fl.runs.folder import read_own_constants
from fl.runs.held_out import held_out_of
from fl.runs.scoring import load_model

SMALL = {"rounds": 1, "no_baselines": True}
OPEN = {**SMALL, "no_dp": True, "local_epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    five_sites(400).to_csv(folder / "five.csv", index=False)
    (folder / "five.toml").write_text(draft_schema(folder / "five.csv"))
    return folder


@pytest.fixture(scope="module")
def opened(data: Path) -> fl.Run:
    return fl.train(data / "five.csv", schema=data / "five.toml", run_dir=data / "open", **OPEN)


def test_a_run_computes_constants_and_writes_a_schema_that_needs_no_round(data: Path, opened: fl.Run) -> None:
    told = opened.result["constants"]
    assert told["epsilon"] is None and set(told["columns"]) >= {"AMOUNT", "VOLUME", "DISTANCE_HOME"}
    resolved = load_schema(opened.folder / "schema.toml")
    assert not resolved.lacking("shared")
    again = fl.train(data / "five.csv", schema=opened.folder / "schema.toml", run_dir=data / "again", **OPEN)
    assert again.result["constants"] is None
    assert again.metrics["average_precision"] == opened.metrics["average_precision"]


def test_the_model_scores_new_rows_with_the_constants_of_its_run(data: Path, opened: fl.Run) -> None:
    scores = opened.score(pd.read_csv(data / "five.csv"))
    assert np.isfinite(scores).all() and len(scores) == 2000
    assert load_model(opened.folder).schema == load_schema(opened.folder / "schema.toml")


def test_sums_in_the_clear_give_the_same_constants(data: Path, opened: fl.Run) -> None:
    plain = fl.train(data / "five.csv", schema=data / "five.toml", run_dir=data / "plain", aggregation="plain", **OPEN)
    assert plain.result["constants"]["columns"] == opened.result["constants"]["columns"]
    assert plain.result["constants"]["bytes_up"] == 0


def test_a_private_run_pays_for_constants_before_its_steps_and_stays_within_epsilon(data: Path) -> None:
    run = fl.train(data / "five.csv", schema=data / "five.toml", run_dir=data / "private", epsilon=10.0, **SMALL)
    ledger = ledger_path(run.folder / "budget", "site-1")
    spends = read_ledger(ledger, "site-1").spends
    assert [type(spend.mechanism) for spend in spends] == [NoisyCounts, SharedSteps]
    assert spends[0].round == 0 and spends[0].bound_to is not None
    assert run.result["privacy"]["epsilon"] <= 10.0
    assert 0.0 < run.result["constants"]["epsilon"] <= 0.5
    assert fl.resume(run.folder).metrics == run.metrics
    assert len(read_ledger(ledger, "site-1").spends) == 2


def test_a_run_killed_in_its_round_for_constants_is_resumed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fl.runs.constants.share_constants", killed)
        with pytest.raises(KeyboardInterrupt):
            fl.train(data / "five.csv", schema=data / "five.toml", run_dir=data / "killed", **OPEN)
    assert fl.resume(data / "killed").result["constants"] is not None


def test_constants_of_a_bank_stay_at_the_bank_and_others_cannot_score(data: Path) -> None:
    drafted = (data / "five.toml").read_text()
    (data / "own.toml").write_text(drafted.replace('constants = "shared"', 'constants = "bank"'))
    run = fl.train(data / "five.csv", schema=data / "own.toml", run_dir=data / "own", **OPEN)
    volumes = {
        constant.center
        for bank in (f"site-{i}" for i in range(1, 6))
        for constant in read_own_constants(run.folder, bank)
        if constant.column == "VOLUME"
    }
    assert len(volumes) == 5
    assert not load_model(run.folder).schema.constant_of("VOLUME")
    rows = pd.read_csv(data / "five.csv")
    trained, scored = Experiment.resume(run.folder), run.score(rows)
    bank = trained.federation.banks[2]
    expected = predict(trained.models()[2], bank.test[0].x, device=pick_device("cpu"))
    assert scored[bank.test[0].index].to_numpy() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(PartitionError, match="bank 'site-9' has no scaling constants of its own"):
        run.score(rows.assign(SITE="site-9"))


def test_a_unit_that_no_count_has_is_refused(data: Path) -> None:
    with pytest.raises(BudgetError, match="--unit client protects a bank's whole update: name center and scale"):
        fl.train(
            data / "five.csv",
            schema=data / "five.toml",
            run_dir=data / "client",
            unit="client",
            no_shared_statistics=True,
            **SMALL,
        )


def test_a_threshold_is_chosen_with_the_constants_of_the_model_and_no_round_is_played_for_it(
    opened: fl.Run, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(opened.folder, copied)
    (copied / "statistics" / "constants.json").unlink()
    rows = held_out_of(copied)
    assert not (copied / "statistics" / "constants.json").exists()
    expected = held_out_of(opened.folder)
    assert all(np.array_equal(rows[bank].score, expected[bank].score) for bank in expected)


def test_constants_that_do_not_fit_into_their_share_are_refused_with_what_helps(data: Path) -> None:
    with pytest.raises(BudgetExhausted, match=r"scaling constants of .* columns .* constants_share"):
        fl.train(data / "five.csv", schema=data / "five.toml", run_dir=data / "poor", epsilon=0.01, **SMALL)
    assert not (data / "poor").exists()
