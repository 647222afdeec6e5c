"""examples/scoring_server.py and what is behind it: rows that come a few at a time get the scores of `score`."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from finished_runs import open_config, simulated_csv, train

import fl
from fl.data.schema import MICROSECONDS, TimeColumn, microseconds_of
from fl.data.simulate import Simulation
from fl.errors import DataError, FarAhead, OptionError, OrderError
from fl.learning.calibration import Calibration
from fl.learning.thresholds import Thresholds
from fl.runs.config import DataSettings
from fl.runs.live import LiveScorer
from fl.runs.operating import write_calibration, write_thresholds
from fl.runs.scoring import score_frame

ROOT = Path(__file__).resolve().parents[1]
NEW = 60  # rows that come after the history


def server() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scoring_server", ROOT / "examples" / "scoring_server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """some.csv, past.csv, and a run on some.csv."""
    folder = tmp_path_factory.mktemp("served")
    data = simulated_csv(Simulation(customers=60, fraud_share=0.05, banks=3, seed=3), folder / "some.csv")
    train(open_config(DataSettings(source=str(data), schema="simulated"), rounds=1), folder / "run")
    pd.read_csv(data).iloc[:-NEW].to_csv(folder / "past.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> fl.Run:
    return fl.load(folder / "run")


@pytest.fixture(scope="module")
def new(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "some.csv").iloc[-NEW:].drop(columns="IS_FRAUD").reset_index(drop=True)


@pytest.fixture(scope="module")
def expected(folder: Path, run: fl.Run, new: pd.DataFrame) -> np.ndarray:
    """The scores of the same rows in one piece."""
    return run.score(new, folder / "past.csv").to_numpy()


@pytest.fixture
def client(folder: Path, run: fl.Run) -> TestClient:
    return TestClient(server().service(run, folder / "past.csv"))


def ask(client: TestClient, rows: pd.DataFrame) -> list[float]:
    said = client.post("/score", json={"rows": rows.to_dict("records")})
    assert said.status_code == 200, said.text
    scores = said.json()["scores"]
    assert [each["row"] for each in scores] == list(range(len(rows)))
    assert [each["bank"] for each in scores] == rows["BANK"].tolist()
    return [each["score"] for each in scores]


def test_rows_that_come_one_request_after_the_other_get_the_scores_of_one_file(client, new, expected) -> None:
    scores = [
        score for start in (0, 1, 2, 30) for score in ask(client, new.iloc[start : {0: 1, 1: 2, 2: 30}.get(start)])
    ]
    assert scores == pytest.approx(expected.tolist(), abs=1e-6)
    assert np.ptp(expected) > 1e-4  # the scores differ, so that this test can fail


def test_a_request_that_is_refused_changes_nothing(client, new, expected) -> None:
    half = NEW // 2
    ask(client, new.iloc[:half])
    for broken, said in (
        (new.iloc[:3], "OrderError"),
        (new.iloc[half:].assign(AMOUNT="much"), "CellRefused"),
        (new.iloc[half:].drop(columns="CUSTOMER"), "DataError"),
    ):
        answer = client.post("/score", json={"rows": broken.to_dict("records")})
        assert answer.status_code == 422 and answer.json()["detail"].startswith(said)
    assert ask(client, new.iloc[half:]) == pytest.approx(expected[half:].tolist(), abs=1e-6)


def test_a_bank_whose_rows_were_fine_forgets_them_when_another_banks_are_refused(folder, run, new, monkeypatch) -> None:
    scorer, whole = LiveScorer(run.model, folder / "past.csv"), LiveScorer(run.model, folder / "past.csv")
    pushed: list[str] = []
    push = fl.data.stream.FeatureStream.push

    def failing(self, chunk):
        pushed.append(str(chunk.bank.ids[chunk.bank.code[0]]))
        if len(pushed) == 2:
            raise DataError("the second bank's rows")
        return push(self, chunk)

    with monkeypatch.context() as patched:
        patched.setattr(fl.data.stream.FeatureStream, "push", failing)
        with pytest.raises(DataError, match="second bank"):
            scorer.score(new)
    assert len(set(pushed)) == 2
    assert scorer.score(new).score.tolist() == whole.score(new).score.tolist()


def test_flags_are_those_of_the_runs_threshold_and_health_names_it(client, run, new) -> None:
    answer = client.post("/score", json={"rows": new.to_dict("records")}).json()
    assert answer["threshold"] == run.threshold == client.get("/health").json()["threshold"]
    assert all(each["flagged"] == (each["score"] >= run.threshold) for each in answer["scores"])


def test_scores_carry_the_probability_and_the_threshold_of_their_bank_as_the_command_score_has_them(
    folder: Path, new: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    own = {"bank-1": 0.0, "bank-2": 1.0}  # one flags all of its rows, one hardly any
    write_thresholds(tmp_path / "run", Thresholds(0.4, own, {"name": "f1"}))
    write_calibration(tmp_path / "run", Calibration(0.8, -2.0, "slope and intercept", 900, 60))
    run = fl.load(tmp_path / "run")
    client = TestClient(server().service(run, folder / "past.csv"))
    answer = client.post("/score", json={"rows": new.to_dict("records")}).json()
    expected = score_frame(run.model, new, folder / "past.csv")
    assert expected.calibrated is not None
    assert [each["flagged"] for each in answer["scores"]] == expected.flagged.tolist()
    assert [each["calibrated"] for each in answer["scores"]] == pytest.approx(expected.calibrated.tolist(), abs=1e-6)
    assert {each["bank"]: each["threshold"] for each in answer["scores"]} == {"bank-0": 0.4} | own
    assert 0 < expected.flagged.sum() < len(new) and answer["threshold"] == 0.4
    assert client.get("/health").json()["thresholds"] == own


def test_a_run_without_calibration_answers_null(folder: Path, new: pd.DataFrame, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    client = TestClient(server().service(fl.load(tmp_path / "run")))
    answer = client.post("/score", json={"rows": new.to_dict("records")}).json()
    assert {each["calibrated"] for each in answer["scores"]} == {None}


@pytest.mark.parametrize("date", ["2124-03-18T09:00:00", "9999-12-31T23:59:59"])
def test_a_row_that_is_dated_far_ahead_is_refused_by_name_and_later_rows_are_scored(
    client: TestClient, new: pd.DataFrame, expected: np.ndarray, date: str
) -> None:
    wrong = new.copy()
    wrong.loc[NEW - 1, "TIME"] = date
    answer = client.post("/score", json={"rows": wrong.to_dict("records")})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("FarAhead: rows: row 60:")
    assert f"got {date.replace('T', ' ')}:" in answer.json()["detail"]
    assert ask(client, new) == pytest.approx(expected.tolist(), abs=1e-6)


def test_how_far_ahead_a_row_may_be_is_measured_from_now(folder: Path, run: fl.Run, new: pd.DataFrame) -> None:
    last = microseconds_of(pd.Timestamp(new.TIME.iloc[-1]).to_pydatetime())
    hour = MICROSECONDS["hours"]
    assert len(LiveScorer(run.model, ahead_hours=2, clock=lambda: last - 2 * hour).score(new).score) == NEW
    with pytest.raises(FarAhead, match=r"at most 2 hours after now"):
        LiveScorer(run.model, ahead_hours=2, clock=lambda: last - 2 * hour - 1).score(new)
    with pytest.raises(FarAhead, match=r"past.csv: row \d+: .* at most 24 hours after now"):
        LiveScorer(run.model, folder / "past.csv", clock=lambda: 0)
    with pytest.raises(OptionError, match="ahead_hours: expected a number above 0"):
        LiveScorer(run.model, ahead_hours=0)


def test_without_dates_a_row_may_be_so_far_after_the_last_one_seen(
    run: fl.Run, new: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.runs.live.scored", lambda model, chunk: chunk)  # the model's inputs need dates
    model = replace(run.model, schema=replace(run.model.schema, time=TimeColumn("TIME", "hours")))
    rows = new.assign(TIME=np.arange(NEW) / 10)
    scorer = LiveScorer(model, clock=lambda: 0)
    scorer.score(rows.iloc[:40])
    with pytest.raises(
        FarAhead, match=r"row 1: .* 24 hours after the last row seen, day 0 03:54:00, got day 1 03:54:36"
    ):
        scorer.score(rows.iloc[40:41].assign(TIME=27.91))
    scorer.score(rows.iloc[40:41].assign(TIME=27.9))
    with pytest.raises(FarAhead, match=r"row 2: .* after the first row"):
        LiveScorer(model).score(rows.iloc[:2].assign(TIME=[0.0, 1e7]))


def test_nothing_and_too_much_are_answered(client, new) -> None:
    assert client.post("/score", json={"rows": []}).json()["scores"] == []
    for wrong in ({"rows": [{}] * 10_001}, {"rows": [{"AMOUNT": [1]}]}, {"rows": [], "more": 1}, {}):
        assert client.post("/score", json=wrong).status_code == 422


@pytest.mark.parametrize("rows", [r'{"CUSTOMER": "\ud800"}', r'{"\ud800": 1}'])
def test_text_that_is_no_text_is_refused(folder: Path, run: fl.Run, rows: str) -> None:
    client = TestClient(server().service(run, folder / "past.csv"), raise_server_exceptions=False)
    answer = client.post("/score", content=f'{{"rows": [{rows}]}}', headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_a_scorer_without_history_counts_from_zero(run, new) -> None:
    scorer = LiveScorer(run.model)
    assert scorer.score(new).score == pytest.approx(run.score(new).to_numpy(), abs=1e-6)
    with pytest.raises(OrderError):
        scorer.score(new.iloc[:1])
