"""Scoring a file as a stranger has one: no labels, wrong rows among the right ones, no history at hand."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from finished_runs import open_config, simulated_csv, train

import fl
from demos.score import score
from demos.threshold import threshold
from fl.data.simulate import Simulation
from fl.errors import RunFolderError
from fl.reports.examination.evidence import gather
from fl.reports.examination.figures import figures
from fl.runs.config import DataSettings
from fl.runs.held_out import held_out_of

SIMULATION = Simulation(customers=240, banks=3, fraud_share=0.05, seed=3)
NEW_DAYS = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a csv."""
    folder = tmp_path_factory.mktemp("scored")
    data = simulated_csv(SIMULATION, folder / "past.csv")
    return train(open_config(DataSettings(str(data)), rounds=1), folder / "run")


@pytest.fixture(scope="module")
def new(run: Path) -> pd.DataFrame:
    """The last days of the data, as text, without labels and with a number of each row."""
    frame = pd.read_csv(run.parent / "past.csv", dtype=str)
    days = frame["TIME"].str[:10]
    last = sorted(days.unique())[-NEW_DAYS]
    frame = frame[days >= last].drop(columns="IS_FRAUD").reset_index(drop=True)
    frame.insert(0, "ROW_ID", [f"r{i}" for i in range(len(frame))])
    return frame


def command(*arguments: object, of: object = score) -> dict:
    done = CliRunner().invoke(of, [str(each) for each in [*arguments, "--json"]], catch_exceptions=False)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_of_a_file_with_five_percent_bad_rows_all_others_are_scored(
    run: Path, new: pd.DataFrame, tmp_path: Path
) -> None:
    lines = new.to_csv(index=False).splitlines()
    header, good = lines[0], lines[1:]
    at_amount = list(new.columns).index("AMOUNT")
    kinds = [
        lambda line: line.rsplit(",", 1)[0],
        lambda line: line + ",more",
        lambda line: ",".join("much" if i == at_amount else cell for i, cell in enumerate(line.split(","))),
        lambda line: '"' + line,
        lambda line: line.replace("2024-", "1999-"),
    ]
    written, bad = [], []
    for number, line in enumerate(good):
        written.append(line)
        if number % 20 == 10:
            bad.append(len(written) + 2)
            written.append(kinds[len(bad) % len(kinds)](line))
    assert len(bad) > 20
    (tmp_path / "new.csv").write_text("\n".join([header, *written]))
    told = command(run, tmp_path / "new.csv", "--out", tmp_path / "scores.csv")
    assert (told["rows"], told["rejected"], told["kept"]) == (len(good), len(bad), ["ROW_ID"])
    rejected = list(csv.DictReader((tmp_path / "scores.csv.rejects.csv").open()))
    assert [int(row["line"]) for row in rejected] == bad and all(row["reason"] for row in rejected)
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores["ROW_ID"].tolist() == new["ROW_ID"].tolist()
    # The history is what the run was trained on, before the first new row: no row counts twice.
    past = pd.read_csv(run.parent / "past.csv", dtype=str)
    expected = fl.load(run).score(new, past[past["TIME"] < new["TIME"][0]])
    assert scores["score"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-5, abs=1e-9)
    assert "the run's own" in told["history"]


def test_probabilities_add_up_to_about_the_frauds_of_the_rows_they_were_fitted_to(run: Path) -> None:
    rows, model = held_out_of(run), fl.load(run).model
    assert model.calibration is not None
    label = np.concatenate([part.label for part in rows.values()])
    chance = model.calibration.of(np.concatenate([part.score for part in rows.values()]))
    assert (model.calibration.rows, model.calibration.frauds) == (len(label), int(label.sum()))
    assert chance.sum() == pytest.approx(label.sum(), rel=1e-5)


def test_parquet_goes_in_and_out_with_the_same_scores(run: Path, new: pd.DataFrame, tmp_path: Path) -> None:
    new.to_csv(tmp_path / "new.csv", index=False)
    new.to_parquet(tmp_path / "new.parquet")
    command(run, tmp_path / "new.csv", "--out", tmp_path / "a.csv")
    command(run, tmp_path / "new.parquet", "--out", tmp_path / "b.parquet")
    one, other = pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "b.parquet")
    assert list(one.columns) == list(other.columns)
    assert one["calibrated"].to_numpy() == pytest.approx(other["calibrated"].to_numpy(), rel=1e-5)


def test_a_history_that_is_gone_or_changed_is_said_to_be_missing(
    run: Path, new: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.to_csv(tmp_path / "new.csv", index=False)
    past, away = run.parent / "past.csv", run.parent / "away.csv"
    shutil.copy(past, away)
    try:
        with past.open("a") as file:
            file.write("\n")
        changed = command(run, tmp_path / "new.csv", "--out", tmp_path / "s.csv")
        past.unlink()
        gone = command(run, tmp_path / "new.csv", "--out", tmp_path / "s.csv")
        left_out = command(run, tmp_path / "new.csv", "--no-history", "--out", tmp_path / "t.csv")
    finally:
        shutil.move(away, past)
    assert "have changed" in changed["history"] and "are not there" in gone["history"]
    assert "--no-history" in left_out["history"]
    assert (tmp_path / "s.csv").read_text() == (tmp_path / "t.csv").read_text()


def test_a_chosen_threshold_is_stored_and_used(run: Path, new: pd.DataFrame, tmp_path: Path) -> None:
    new.to_csv(tmp_path / "new.csv", index=False)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    chosen = command(copy, "--alerts", 3, "--per-bank", of=threshold)
    assert chosen["rule"] == {"name": "alerts", "alerts": 3.0} and all(b["own"] for b in chosen["banks"].values())
    for each in chosen["banks"].values():
        assert each["held_out_alerts"] <= 3 * each["held_out_days"]
    told = command(copy, tmp_path / "new.csv", "--out", tmp_path / "s.csv")
    scores = pd.read_csv(tmp_path / "s.csv")
    limits = scores["bank"].map({name: each["threshold"] for name, each in chosen["banks"].items()})
    assert told["flagged"] == int((scores["score"] >= limits).sum())
    assert told["thresholds"] == {name: each["threshold"] for name, each in chosen["banks"].items()}
    evidence = gather(copy)
    examined = figures(evidence)
    assert examined["rule_words"] == "for 3 alerts a day"
    assert examined["alerts"] == sum(
        int((evidence.test.score[evidence.test.bank == code] >= chosen["banks"][name]["threshold"]).sum())
        for code, name in enumerate(evidence.bank_names)
    )


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": "thresholds 2"}', '{"format": "thresholds 1", "rule": {}, "shared": 3.5, "banks": {}}',
     '{"format": "thresholds 1", "rule": {}, "shared": 0.5, "banks": {"nobody": 0.5}}',
     '{"format": "thresholds 1", "rule": {}, "shared": "x", "banks": {}}',
     '{"format": "thresholds 1", "rule": {"name": "alerts", "alerts": NaN}, "shared": 0.5, "banks": {}}'],
)  # fmt: skip
def test_a_threshold_file_that_nobody_wrote_is_refused_by_name(run: Path, tmp_path: Path, content: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "thresholds.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"thresholds\.json"):
        fl.load(copy)


@pytest.mark.parametrize(
    "change", [{"slope": -1.0}, {"slope": float("nan")}, {"format": "calibration 2"}, {"more": 1}, {"rows": None}]
)
def test_a_calibration_file_that_nobody_wrote_is_refused_by_name(run: Path, tmp_path: Path, change: dict) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    path = copy / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunFolderError, match=r"calibration\.json"):
        fl.load(copy)


def test_a_run_without_a_calibration_still_scores_and_says_so(run: Path, new: pd.DataFrame, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "calibration.json").unlink()
    new.to_csv(tmp_path / "new.csv", index=False)
    told = command(copy, tmp_path / "new.csv", "--out", tmp_path / "s.csv")
    assert not told["calibrated"] and "calibrated" not in pd.read_csv(tmp_path / "s.csv").columns
    with pytest.raises(RunFolderError, match="expected a calibration"):
        fl.load(copy).calibrated(new)


def test_result_json_has_every_metric_of_every_bank_and_window(run: Path) -> None:
    metrics = fl.load(run).result["metrics"]
    for bank in metrics["banks"].values():
        for window in bank["windows"]:
            assert {"average_precision", "roc_auc", "card_precision_at_100", "rows", "frauds"} < set(window)
            assert window["at_half"]["threshold"] == 0.5
            assert window["at_shared"]["threshold"] == pytest.approx(metrics["threshold"])
    for number, window in enumerate(metrics["windows"]):
        alerts = sum(each["windows"][number]["at_half"]["alerts"] for each in metrics["banks"].values())
        assert window["at_half"]["alerts"] == alerts
        assert window["at_shared"]["f1"] == pytest.approx(window["f1"])


def test_options_of_threshold_that_contradict_each_other_are_wrong_usage() -> None:
    for wrong in (["--f1", "--alerts", "3"], ["--cost-missed", "3"], ["--alerts", "0"], ["--alerts", "nan"]):
        assert CliRunner().invoke(threshold, ["run", *wrong]).exit_code == 2


def test_a_threshold_is_not_chosen_on_data_that_have_changed(run: Path) -> None:
    past = run.parent / "past.csv"
    before = past.read_bytes()
    try:
        past.write_bytes(before + b"\n")
        with pytest.raises(RunFolderError, match=r"past\.csv has changed since"):
            held_out_of(run)
    finally:
        past.write_bytes(before)
