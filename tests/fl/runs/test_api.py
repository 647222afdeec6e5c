"""`import fl` as a data scientist uses it: train, look at the figures, score a frame, load the run again."""

from __future__ import annotations

import doctest
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import fl
from demos.score import score as score_command
from demos.train import train as train_command
from fl.data.simulate import Simulation, simulate
from fl.errors import BudgetError, DataError, OptionError, OrderError, RunFolderError
from fl.runs.asked import configuration
from fl.runs.config import RunConfig
from fl.runs.scoring import load_model, score_file
from fl.runs.train_options import TRAIN_OPTIONS, flag

SMALL: dict[str, Any] = {"rounds": 2, "local_epochs": 1, "seed": 5, "no_dp": True, "no_baselines": True}
CUT = pd.Timestamp("2024-02-26")  # the first test day


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return simulate(Simulation(customers=200, terminals=100, banks=3, fraud_share=0.05, seed=5)).reset_index(drop=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, frame: pd.DataFrame) -> fl.Run:
    folder = tmp_path_factory.mktemp("api")
    frame.to_csv(folder / "transactions.csv", index=False)
    return fl.train(folder / "transactions.csv", schema="simulated", partition="BANK", run_dir=folder / "run", **SMALL)


# --- train and load --------------------------------------------------------------------------------------------------


def test_a_run_has_its_figures_its_configuration_and_its_folder(run: fl.Run) -> None:
    assert 0.0 < run.metrics["average_precision"] <= 1.0
    assert run.metrics == run.result["metrics"]
    assert (run.config.rounds, run.config.privacy) == (2, None)
    assert 0.0 <= run.threshold <= 1.0
    again = fl.load(str(run.folder))
    assert (again.metrics, again.threshold) == (run.metrics, run.threshold)


def test_the_example_of_train_says_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder().find(fl.train, "train", globs={})
    failed, attempted = doctest.DocTestRunner().run(example)
    assert (failed, attempted) == (0, 4)


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(import fl.*?)^```", text, re.DOTALL | re.MULTILINE)
    quick = example.replace("epsilon=3)", "epsilon=3, rounds=1, clients=3, no_baselines=True)")
    assert quick != example
    monkeypatch.chdir(tmp_path)
    frame.drop(columns="BANK").to_csv("transactions.csv", index=False)
    frame[frame.TIME >= CUT].to_csv("new.csv", index=False)
    shutil.copy(Path(str(fl.__file__)).parent / "data" / "schemas" / "simulated.toml", "schema.toml")
    names: dict[str, Any] = {}
    exec(compile(quick, "training.md", "exec"), names)
    assert len(names["new"]) and names["new"].score.between(0, 1).all()
    assert set(names["alerts"].index) == set(names["new"].index[names["new"].score >= names["run"].threshold])


def test_the_command_and_the_function_make_the_same_run(tmp_path: Path, run: fl.Run) -> None:
    words = ["--data", run.config.data.source, "--schema", "simulated", "--partition", "BANK", "--seed", "5"]
    words += ["--rounds", "2", "--local-epochs", "1", "--no-dp", "--no-baselines", "--run-dir", str(tmp_path / "run")]
    assert CliRunner().invoke(train_command, words, catch_exceptions=False).exit_code == 0
    for name in ("config.toml", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run.folder / name).read_bytes()


def test_progress_names_what_is_done_and_ends_at_its_total(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def note(*what: Any) -> None:
        told.append(what)

    options = {**SMALL, "no_baselines": False, "rounds": 1}
    fl.train(customers=400, clients=3, fraud_share=0.03, run_dir=tmp_path / "run", progress=note, **options)
    ends = {what: (done, total) for what, done, total in told}
    assert ends["training, 1 round at 3 banks"] == (3, 3)
    assert ends["baselines"][0] == ends["baselines"][1] > 1


def test_a_run_that_is_finished_is_resumed_to_itself(run: fl.Run) -> None:
    assert fl.resume(run.folder).metrics == run.metrics


def test_what_is_no_finished_run_is_refused(tmp_path: Path, run: fl.Run) -> None:
    with pytest.raises(RunFolderError, match="expected a run folder"):
        fl.load(tmp_path / "nothing")
    half = shutil.copytree(run.folder, tmp_path / "half")
    (half / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match="no model yet"):
        fl.load(half)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"epsilonn": 3}, OptionError, "epsilonn: expected one of data, schema"),
        ({"epsilon": -1}, OptionError, "epsilon: expected a number above 0"),
        ({"rounds": "many"}, OptionError, "rounds: expected a whole number"),
        ({"unit": "card"}, OptionError, "unit: expected one of row, client"),
        ({"no_dp": True, "delta": 1e-6}, BudgetError, "--delta"),
        ({"no_dp": True, "colluders": 2}, BudgetError, "--option colluders"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fl.train(run_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


# --- score -----------------------------------------------------------------------------------------------------------


def test_a_frame_is_scored_as_the_same_rows_of_a_file_are(tmp_path: Path, frame: pd.DataFrame, run: fl.Run) -> None:
    past, new = (frame[frame.TIME < CUT], frame[frame.TIME >= CUT])
    past.to_csv(tmp_path / "past.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    scores = run.score(new, history=past)
    assert scores.index.equals(new.index)
    in_file = np.concatenate([chunk.score for chunk in run.score_file(tmp_path / "new.csv", tmp_path / "past.csv")])
    assert scores.to_numpy() == pytest.approx(in_file, abs=1e-6)
    assert run.score(new, tmp_path / "past.csv").to_numpy() == pytest.approx(in_file, abs=1e-6)
    words = [str(run.folder), str(tmp_path / "new.csv"), "--history", str(tmp_path / "past.csv")]
    done = CliRunner().invoke(score_command, [*words, "--out", str(tmp_path / "out.csv")], catch_exceptions=False)
    assert done.exit_code == 0
    assert pd.read_csv(tmp_path / "out.csv").score.to_numpy() == pytest.approx(in_file, rel=1e-5)


def test_labels_of_new_rows_are_not_needed(frame: pd.DataFrame, run: fl.Run) -> None:
    new = frame[frame.TIME >= CUT]
    label = run.model.schema.label.column
    assert run.score(new.drop(columns=label)).equals(run.score(new))


def test_rows_that_are_dropped_are_nan_at_their_place(frame: pd.DataFrame, run: fl.Run) -> None:
    new = frame[frame.TIME >= CUT].head(20).astype(object)
    empty = pd.DataFrame([[None] * new.shape[1]], columns=new.columns, index=[10**6], dtype=object)
    scores = run.score(pd.concat([new.head(5), empty, new.tail(15)]))
    assert scores.isna().to_numpy().nonzero()[0].tolist() == [5]
    assert run.score(empty).isna().all()
    assert run.score(new.head(0)).empty


def test_a_frame_that_is_not_what_the_schema_says_is_refused(frame: pd.DataFrame, run: fl.Run) -> None:
    new = frame[frame.TIME >= CUT]
    with pytest.raises(DataError, match="expects columns"):
        run.score(new.drop(columns="AMOUNT"))
    with pytest.raises(OrderError, match="row"):
        run.score(new.iloc[::-1])


# --- a configuration to start from -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private() -> Iterator[RunConfig]:
    yield configuration({"epsilon": 2, "customers": 300, "clients": 3, "local_steps": 4, "min_banks": 2})


def test_the_configuration_of_a_run_makes_the_same_run_again(tmp_path: Path, run: fl.Run) -> None:
    again = fl.train(config=run.folder, run_dir=tmp_path / "again")
    assert (again.folder / "config.toml").read_bytes() == (run.folder / "config.toml").read_bytes()
    assert (again.folder / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
    words = ["--config", str(run.folder / "config.toml"), "--rounds", "1", "--run-dir", str(tmp_path / "shorter")]
    assert CliRunner().invoke(train_command, words, catch_exceptions=False).exit_code == 0
    assert fl.load(tmp_path / "shorter").config.rounds == 1


CHANGES: dict[str, Any] = {
    "epsilon": 5.0,
    "colluders": 2,
    "local_epochs": 3,
    "no_baselines": True,
    "fraction": 0.5,
    "no_shared_statistics": True,
    "bits": "1:8",
    "bank_bytes": 1000,
    "seed": 7,
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_replaces_its_value_of_a_configuration_and_no_other(private: RunConfig, name: str) -> None:
    given = {"epsilon": 2, "customers": 300, "clients": 3, "local_steps": 4, "min_banks": 2, name: CHANGES[name]}
    assert configuration({name: CHANGES[name]}, private) == configuration(given) != private


def test_a_configuration_alone_is_kept_but_for_what_its_run_calibrated(private: RunConfig) -> None:
    assert private.privacy is not None and private.statistics is not None
    calibrated = replace(
        private,
        privacy=replace(private.privacy, noise_multiplier=3.0),
        statistics=replace(private.statistics, sigma=2.0, epsilon=1.5),
    )
    assert configuration({}, calibrated) == private


def test_another_privacy_brings_the_training_that_suits_it(private: RunConfig) -> None:
    without = configuration({"no_dp": True}, private)
    assert without.training == without.baseline_training and without.privacy is None
    assert without.data == private.data
    shared = configuration({"noise": "shared"}, private)
    assert shared.rounds == 100 and shared.privacy is not None and shared.privacy.epsilon == 2
    back = configuration({"epsilon": 2.0, "model": "mlp"}, without)
    assert back.training == private.training and back.privacy is not None
    assert configuration({"epsilon": 2.0}, without) == configuration(
        {"epsilon": 2.0, "customers": 300, "clients": 3, "min_banks": 2}
    )
    with pytest.raises(BudgetError, match="--delta"):
        configuration({"delta": 1e-6}, without)


def test_what_a_file_says_beside_its_defaults_stays_under_another_privacy() -> None:
    base = configuration({"no_dp": True, "rounds": 2, "local_epochs": 3, "value_bits": 12, "min_banks": 2})
    private = configuration({"epsilon": 2}, base)
    given = {"epsilon": 2, "rounds": 2, "local_epochs": 3, "value_bits": 12, "min_banks": 2}
    assert private == configuration(given)


def test_another_algorithm_begins_with_its_own_defaults() -> None:
    base = configuration({"algorithm": "fedprox", "mu": 0.5})
    assert configuration({"algorithm": "fedadam"}, base).algorithm.mu is None
    assert configuration({"mu": 0.1}, base).algorithm.mu == 0.1


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("rounds = [")
    for path in (tmp_path / "run.toml", tmp_path / "absent.toml", tmp_path):
        with pytest.raises(RunFolderError):
            fl.train(config=path, run_dir=tmp_path / "run")
        assert CliRunner().invoke(train_command, ["--config", str(path)]).exit_code == 1


# --- what the table of options says ----------------------------------------------------------------------------------


def test_every_default_of_the_help_is_that_of_the_configuration() -> None:
    # So that there are tables of participation and of constants.
    rounds = configuration({"fraction": 0.5, "constants_share": 0.1})
    trees = configuration({"model": "trees", "no_dp": True})
    for name, option in TRAIN_OPTIONS.items():
        for place in option.places if option.default else ():
            value: Any = trees if option.only_trees else rounds
            for part in place.split("."):
                value = getattr(value, part)
            assert str(value) == option.default or name == "fraction", name


def test_every_option_has_a_place_in_the_configuration_or_decides_a_table() -> None:
    assert {name for name, option in TRAIN_OPTIONS.items() if not option.places} == {"no_dp", "no_shared_statistics"}
    assert (flag("max_grad_norm"), flag("mu")) == ("--max-grad-norm", "--option mu")


def test_the_model_of_a_run_is_the_one_that_scoring_loads(run: fl.Run, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.head(50).to_csv(tmp_path / "few.csv", index=False)
    (chunk,) = score_file(load_model(run.folder), tmp_path / "few.csv")
    assert run.score(frame.head(50)).to_numpy() == pytest.approx(chunk.score, abs=1e-6)
