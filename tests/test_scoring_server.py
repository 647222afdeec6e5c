"""examples/scoring_server.py and what is behind it: rows that come a few at a time get the scores of `score`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from finished_runs import open_config, simulated_csv, train

import fl
from fl.data.simulate import Simulation
from fl.errors import DataError, OrderError
from fl.runs.config import DataSettings
from fl.runs.live import LiveScorer

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
