"""A model as an ONNX file: onnxruntime gives the scores that `score` gives, and the file says what its inputs are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import risky_banks
import torch
from click.testing import CliRunner
from finished_runs import open_config, played, simulated_csv, train

import fl
from demos.export import export
from fl.data.partition import Partition
from fl.data.simulate import Compromises, Simulation
from fl.errors import ExportError, NoRows
from fl.learning.kinds import ModelKind, model_of
from fl.learning.training import predict
from fl.runs.config import DataSettings
from fl.runs.experiment import Experiment
from fl.runs.onnx_file import TOLERANCE, disagreement, onnx_model, onnx_scores, open_session, write_onnx
from fl.runs.scoring import TrainedModel

INPUTS = 9
ROWS = 10_000
COMPARED = 1e-6  # what the file promises


def made_up(kind: ModelKind, seed: int = 0, scale: float = 0.1) -> TrainedModel:
    """A model of random weights, whose names of features are those of no schema."""
    module = model_of(kind, INPUTS, seed=seed, prior=0.01)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    names = tuple(f"f{i}" for i in range(INPUTS))
    return TrainedModel(module, risky_banks.schema(), names, Partition("BANK", column="BANK"), 0.5)


def rows(kind: ModelKind) -> np.ndarray:
    """Rows in the range of scaled features; the last column of a noisy-or model is a probability, its ends included."""
    rng = np.random.default_rng(7)
    x = rng.uniform(-3, 3, (ROWS, INPUTS)).astype(np.float32)
    x[:10] = 0.0
    x[10:20] = 3.0
    if kind == "noisy-or":
        x[:, -1] = rng.random(ROWS) ** 8
        x[:40, -1] = np.tile(np.float32([0.0, 1.0, 1e-20, 0.5]), 10)
    return x


def compared(model: TrainedModel, x: np.ndarray) -> float:
    session = open_session(onnx_model(model).SerializeToString())
    ours = predict(model.module, x, device=torch.device("cpu"))
    return float(np.abs(onnx_scores(session, x) - ours).max())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    simulation = Simulation(customers=110, fraud_share=0.03, banks=3, compromises=Compromises(), seed=3)
    return simulated_csv(simulation, tmp_path_factory.mktemp("onnx") / "some.csv")


@pytest.fixture(scope="module")
def network(data: Path) -> Path:
    return train(open_config(DataSettings(source=str(data), schema="simulated"), rounds=2), data.parent / "network")


@pytest.mark.parametrize("kind", ["mlp", "noisy-or"])
@pytest.mark.parametrize("scale", [0.05, 0.2])
def test_both_kinds_of_model_score_in_onnxruntime_as_they_do_here(kind: ModelKind, scale: float) -> None:
    x = rows(kind)
    assert compared(made_up(kind, scale=scale), x) <= COMPARED
    other = made_up(kind, seed=1, scale=scale)  # with other weights the scores are others, so that this test can fail
    session = open_session(onnx_model(other).SerializeToString())
    ours = predict(made_up(kind, scale=scale).module, x, device=torch.device("cpu"))
    assert np.abs(onnx_scores(session, x) - ours).max() > 0.01


def test_small_scores_keep_their_order() -> None:
    model = made_up("mlp")
    with torch.no_grad():
        model.module.logit.bias.fill_(-80.0)
    x = rows("mlp")
    ours = predict(model.module, x, device=torch.device("cpu"))
    theirs = onnx_scores(open_session(onnx_model(model).SerializeToString()), x)
    assert 0 < ours.max() < 1e-16 and theirs == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize("kind", ["mlp", "noisy-or"])
def test_no_rows_and_one_row_are_scored_too(kind: ModelKind) -> None:
    session, x = open_session(onnx_model(made_up(kind)).SerializeToString()), rows(kind)
    assert onnx_scores(session, x[:0]).shape == (0,)
    assert onnx_scores(session, x[:1]) == pytest.approx(onnx_scores(session, x)[:1], abs=COMPARED)


def test_a_file_agrees_with_the_scores_of_a_run_on_ten_thousand_transactions(network: Path, data: Path) -> None:
    run, path = fl.load(network), network / "fraud.onnx"
    run.export_onnx(path)
    scored = np.concatenate([chunk.score for chunk in run.score_file(data)])
    assert len(scored) >= ROWS
    x = run.inputs(pd.read_csv(data)).to_numpy()
    assert np.abs(onnx_scores(open_session(path), x) - scored).max() <= COMPARED
    agreed = disagreement(run.model, open_session(path), data)
    assert agreed.close and agreed.rows == len(scored)


def test_a_private_model_that_knows_the_risk_of_terminals_agrees_too(tmp_path: Path) -> None:
    frame = risky_banks.frame()
    risky_banks.written(tmp_path, frame)
    folder = tmp_path / "run"
    played(Experiment.start(risky_banks.config(tmp_path, epsilon=3, rounds=1), folder)).result()
    run = fl.load(folder)
    run.export_onnx(tmp_path / "fraud.onnx")
    session = open_session(tmp_path / "fraud.onnx")
    x = run.inputs(frame)
    assert x.columns[-1] == "entity_risk" and x["entity_risk"].max() > 0.1
    assert np.abs(onnx_scores(session, x.to_numpy()) - run.score(frame)).max() <= COMPARED
    (risk,) = [each for each in described(tmp_path / "fraud.onnx")["features"] if each["name"] == "entity_risk"]
    assert risk == {"name": "entity_risk", "from": "released counts", "as": "probability"}


def described(path: Path) -> dict[str, object]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def test_a_file_says_what_its_inputs_are_and_how_they_were_scaled(network: Path, tmp_path: Path) -> None:
    run = fl.load(network)
    run.export_onnx(tmp_path / "fraud.onnx")
    about = described(tmp_path / "fraud.onnx")
    assert [each["name"] for each in about["features"]] == list(run.model.features)
    (amount,) = [each for each in about["features"] if each["name"] == "amount"]
    assert amount == {"name": "amount", "transform": "signed_log1p", "center": pytest.approx(np.log(51)), "scale": 0.6}
    assert about["threshold"] == run.threshold and about["bound"] == 3.0 and about["kind"] == "mlp"
    assert about["schema_sha256"] == run.model.schema.sha256 and about["bank"] is None


def test_inputs_are_missing_where_a_row_is_dropped(network: Path, data: Path) -> None:
    frame = pd.read_csv(data, dtype=str).iloc[:20]
    empty = pd.DataFrame(None, [99], frame.columns, dtype=object).fillna("")
    x = fl.load(network).inputs(pd.concat([frame, empty]))
    assert x.index[-1] == 99 and x.iloc[-1].isna().all() and not x.iloc[:-1].isna().any().any()


# --- banks with layers of their own ----------------------------------------------------------------------------------


def test_a_bank_with_layers_of_its_own_gets_a_file_of_its_own() -> None:
    shared, mine = made_up("mlp"), made_up("mlp", seed=4)
    model = replace(shared, own={"north": mine.module, "south": shared.module})
    x = rows("mlp")
    scores = onnx_scores(open_session(onnx_model(model, "north").SerializeToString()), x)
    assert np.abs(scores - predict(mine.module, x, device=torch.device("cpu"))).max() <= COMPARED
    for bank, said in ((None, "no bank"), ("west", "'west'")):
        with pytest.raises(ExportError, match=f"expected one of north, south, got {said}"):
            onnx_model(model, bank)
    with pytest.raises(ExportError, match="expected no bank"):
        onnx_model(shared, "north")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_layer_that_the_export_does_not_know_is_refused_by_name() -> None:
    model = made_up("mlp")
    module = torch.nn.Sequential(torch.nn.Linear(INPUTS, 1), torch.nn.Tanh())
    with pytest.raises(ExportError, match="layer 1: expected Linear, ReLU or Dropout, got Tanh"):
        onnx_model(replace(model, module=module))


def test_a_file_that_no_export_wrote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fraud.onnx"
    for content in (b"", b"no model", onnx_model(made_up("mlp")).SerializeToString()[:-400]):
        path.write_bytes(content)
        with pytest.raises(ExportError, match=r"fraud\.onnx: expected"):
            open_session(path)
    with pytest.raises(ExportError, match="expected"):
        open_session(tmp_path / "nothing.onnx")
    other = onnx_model(made_up("mlp"))
    del other.metadata_props[:]
    with pytest.raises(ExportError, match="expected format 'fl onnx 1', got 'no format'"):
        open_session(other.SerializeToString())


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_file_and_compares_it_with_score(network: Path, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "fraud.onnx"
    asked = [str(network), "--onnx", str(target), "--check", str(data), "--json"]
    done = CliRunner().invoke(export, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["rows_compared"] >= ROWS and said["largest_difference"] <= COMPARED
    assert said["bytes"] == target.stat().st_size and said["inputs"] == len(fl.load(network).model.features)


def test_the_command_fails_where_the_scores_differ(network: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    run = fl.load(network).model
    with torch.no_grad():
        run.module.logit.bias.add_(1.0)
    write_onnx(run, tmp_path / "other.onnx")
    monkeypatch.setattr("fl.runs.onnx_file.write_onnx", lambda *_: None)
    asked = [str(network), "--onnx", str(tmp_path / "other.onnx"), "--check", str(data)]
    done = CliRunner().invoke(export, asked)
    assert done.exit_code == 1 and f"within {TOLERANCE:g}" in done.output


def test_a_history_without_transactions_to_compare_on_is_wrong_usage(network: Path, data: Path) -> None:
    done = CliRunner().invoke(export, [str(network), "--onnx", "x.onnx", "--history", str(data)])
    assert done.exit_code == 2 and "--check" in done.output


def test_nothing_to_compare_is_an_error(network: Path, data: Path, tmp_path: Path) -> None:
    run, nothing = fl.load(network), tmp_path / "nothing.csv"
    nothing.write_text(data.read_text().splitlines()[0] + "\n")
    with pytest.raises(NoRows, match="to compare scores of"):
        disagreement(run.model, open_session(onnx_model(run.model).SerializeToString()), nothing)
