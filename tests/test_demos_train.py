"""`demos train` and `demos score` as a person uses them, on small embedded data."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from planted import killed_after_write

from demos.curve import _arguments, without_budget
from demos.score import score
from demos.train import train
from fl.data.simulate import embedded, simulate
from fl.errors import AggregationError, BudgetError, FederationError, RunFolderError
from fl.learning.training import predict
from fl.privacy.accounting import epsilon
from fl.privacy.mechanisms import COUNTS_UNIT, UNIT, Mechanism
from fl.rounds.algorithms.state import State
from fl.runs.experiment import Experiment
from fl.runs.folder import RunFolder
from fl.runs.scoring import load_model, score_file
from fl.runs.train_options import TRAIN_OPTIONS

SMALL = ["--customers", "400", "--clients", "3", "--fraud-share", "0.03", "--seed", "5"]
OPEN = [*SMALL, "--no-dp", "--local-epochs", "1", "--rounds", "4"]
PRIVATE = [*SMALL, "--rounds", "3", "--local-steps", "2", "--no-baselines"]
CUT = pd.Timestamp("2024-02-26")  # the first test day


def run(*arguments: str | Path) -> dict[str, Any]:
    """The JSON object that `train ARGUMENTS --json` prints, and nothing else."""
    done = CliRunner().invoke(train, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without privacy, baselines and all."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(*OPEN, "--run-dir", folder)
    return folder


def figures_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def killed_after(folder: Path, rounds: int, arguments: list[str]) -> None:
    """A run in a process of its own that is killed once `rounds` rounds are in metrics.jsonl."""
    command = ["-m", "demos", "train", *arguments, "--run-dir", str(folder), "--json"]
    killed_after_write(folder.with_name("planted"), r"/metrics\.jsonl$", rounds, command)


# --- results
# --------------------------------------------------------------------------------------------------------


def test_the_json_has_what_the_contract_names(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    for name in ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100"):
        assert 0.0 <= result["metrics"][name] <= 1.0
    for name in ("alone", "pooled", "plain"):
        assert 0.0 < result["baselines"][name]["average_precision"] <= 1.0
    assert 0.0 < result["overhead"]["encryption_share"] < 1.0
    assert result["overhead"]["preparation_seconds"] >= 0.0
    assert result["overhead"]["bytes_up"] > 4 * 3 * 2 * result["parameters"]
    assert result["overhead"]["max_abs_error"] <= result["overhead"]["error_bound"]
    assert result["privacy"]["epsilon"] is None
    assert (result["run_dir"], result["device"]) == (str(finished), "cpu")


def test_encryption_leaves_the_figures_as_they_are_in_plain_sight(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    difference = result["metrics"]["average_precision"] - result["baselines"]["plain"]["average_precision"]
    assert abs(difference) <= 0.001


def test_a_run_whose_averages_were_those_of_plain_sums_is_not_trained_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert all(line["as_in_plain_sight"] for line in lines)

    def trained(_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("fl.runs.experiment.trained_models", trained)
    again = shutil.copytree(finished, tmp_path / "again")
    figures = json.loads((finished / "baselines.json").read_text())
    plain = figures.pop("plain")
    (again / "baselines.json").write_text(json.dumps(figures))
    list(Experiment.resume(again).baselines())
    assert json.loads((again / "baselines.json").read_text())["plain"] == plain
    coarse = [{**line, "as_in_plain_sight": line["round"] != 2} for line in lines]
    (again / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in coarse))
    (again / "baselines.json").write_text(json.dumps(figures))
    with pytest.raises(AssertionError, match="trained again"):
        list(Experiment.resume(again).baselines())


def test_the_plan_is_said_before_a_bank_trains(tmp_path: Path) -> None:
    words = [*OPEN, "--rounds", "1", "--no-baselines", "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(train, words, catch_exceptions=False)
    assert done.exit_code == 0 and "plan:" not in done.stdout
    plan, training = done.stderr.index("plan: 3 banks with "), done.stderr.index("training, 1 round at 3 banks")
    assert plan < training and "40 bits each" in done.stderr
    assert "nobody will know whether joining is worth it" in done.stderr and "Nobody knows" in done.stdout


def test_the_run_folder_holds_what_was_promised_and_no_rows(finished: Path) -> None:
    expected = {"config.toml", "manifest.json", "metrics.jsonl", "model.safetensors", "result.json"}
    assert expected <= {path.name for path in finished.iterdir()}
    assert sum(path.stat().st_size for path in finished.rglob("*") if path.is_file()) < 200_000
    text = "".join(p.read_text() for p in finished.iterdir() if p.suffix in (".json", ".jsonl", ".toml"))
    data = simulate(embedded(400, banks=3, fraud_share=0.03, seed=5))
    assert not any(name in text for name in (data.CUSTOMER[0], data.TERMINAL[0], data.DESCRIPTION[0]))


def test_a_private_run_spends_its_budget_and_says_on_what(tmp_path: Path) -> None:
    result = run(*PRIVATE, "--epsilon", "2", "--run-dir", tmp_path / "run")
    privacy = result["privacy"]
    assert 1.9 < privacy["epsilon"] <= 2.0 < privacy["rdp_epsilon"]
    assert (privacy["delta"], privacy["accountant"], privacy["unit"]) == (1e-5, "PRV", f"{UNIT}; {COUNTS_UNIT}")
    assert [bank["rounds_recorded"] for bank in privacy["per_bank"].values()] == [3, 3, 3]
    experiment = Experiment.resume(tmp_path / "run")
    for ledger in experiment.ledgers.values():
        assert epsilon(ledger.history(), 1e-5) == privacy["epsilon"]
        assert sum(entry.steps for entry in ledger.history() if isinstance(entry, Mechanism)) == 6


def test_a_second_run_on_the_same_ledgers_is_refused_when_nothing_is_left(tmp_path: Path) -> None:
    shared = ["--no-shared-statistics", "--budget-dir", tmp_path / "budget"]
    run(*PRIVATE, *shared, "--run-dir", tmp_path / "first")
    ledgers = {path: path.read_bytes() for path in (tmp_path / "budget").glob("*.json")}
    assert len(ledgers) == 3
    with pytest.raises(BudgetError, match="used up"):
        run(*PRIVATE, *shared, "--run-dir", tmp_path / "second")
    assert all(path.read_bytes() == content for path, content in ledgers.items())


def test_the_tables_are_for_people(finished: Path) -> None:
    done = CliRunner().invoke(train, ["--resume", str(finished)], catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("Who saw what", "each bank alone", "all rows pooled", "no differential privacy", "encrypt"):
        assert words in done.stdout


# --- interruption
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_killed_run_continues_to_the_result_of_an_uninterrupted_one(
    finished: Path, tmp_path: Path, rounds: int
) -> None:
    folder = tmp_path / "run"
    killed_after(folder, rounds, [*OPEN, "--no-baselines"])
    assert not (folder / "result.json").exists()
    result = run("--resume", folder)
    assert result["rounds"] == 4
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    assert (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert figures_of(folder) == figures_of(finished)


@pytest.mark.long
def test_a_killed_private_run_loses_the_round_under_way_and_stays_in_its_budget(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed_after(folder, 1, PRIVATE)
    before = {path.name: json.loads(path.read_text())["spent"] for path in (folder / "budget").glob("*.json")}
    result = run("--resume", folder)
    assert result["rounds"] + result["rounds_lost"] == 3
    assert result["rounds_lost"] <= 1
    assert 2.9 < result["privacy"]["epsilon"] <= 3.0
    for name, spent in before.items():
        after = json.loads((folder / "budget" / name).read_text())["spent"]
        assert after[: len(spent)] == spent
        counted = [line for line in after if line["kind"].startswith("shared counts")]
        assert len(counted) == 1 and len(after) - len(counted) <= 3


def test_a_round_paid_for_and_interrupted_is_counted_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment that matters most: every bank has paid, no bank has finished."""
    folder = tmp_path / "run"

    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fl.rounds.play.train_private", power_cut)
        CliRunner().invoke(train, [*PRIVATE, "--run-dir", str(folder)])
    result = run("--resume", folder)
    assert (result["rounds"], result["rounds_lost"]) == (2, 1)
    assert {bank["rounds_recorded"] for bank in result["privacy"]["per_bank"].values()} == {3}
    assert 2.9 < result["privacy"]["epsilon"] <= 3.0


def test_a_run_that_lost_every_round_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"

    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fl.rounds.play.train_private", power_cut)
        CliRunner().invoke(train, [*PRIVATE, "--no-shared-statistics", "--rounds", "1", "--run-dir", str(folder)])
    with pytest.raises(BudgetError, match="every round was recorded as spending"):
        run("--resume", folder)


def test_interrupted_baselines_are_finished_later(finished: Path) -> None:
    path = finished / "baselines.json"
    complete = path.read_bytes()
    some = {name: figures for name, figures in json.loads(complete).items() if name != "plain"}
    path.write_text(json.dumps(some))
    run("--resume", finished)
    assert json.loads(path.read_bytes()) == json.loads(complete)


# --- refusals
# -------------------------------------------------------------------------------------------------------


def test_resuming_takes_the_runs_own_options_and_no_others(finished: Path) -> None:
    done = CliRunner().invoke(train, ["--resume", str(finished), "--rounds", "20"])
    assert done.exit_code == 2
    assert "--rounds" in done.stderr


def test_two_banks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(AggregationError, match="at least 3 banks, got 2"):
        run("--customers", "400", "--clients", "2", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_used_folder_and_a_missing_one_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="--resume"):
        run(*OPEN, "--run-dir", finished)
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        run("--resume", tmp_path / "nothing")


def test_an_error_is_one_line_of_advice_and_exit_code_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demos", "train", "--data", str(tmp_path / "no.csv"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys, demos.train, demos.score\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(demos.train.train, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(demos.score.score, ['--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- algorithms
# -----------------------------------------------------------------------------------------------------

FOUR = ["--customers", "400", "--clients", "4", "--fraud-share", "0.03", "--seed", "5", "--no-baselines"]
FAST = [*FOUR, "--no-dp", "--local-epochs", "1", "--rounds", "3"]


@pytest.mark.parametrize(
    "options",
    [
        ["fedbuff", "--option", "buffer=3", "--option", "durations=1,2,4,4"],
        pytest.param(["fedadam", "--option", "server_lr=0.01"], marks=pytest.mark.long),
        pytest.param(["heads", "--option", "head=logit"], marks=pytest.mark.long),
        pytest.param(
            ["fedprox", "--option", "mu=0.1", "--fraction", "0.75", "--option", "bits=1:12,3:32"],
            marks=pytest.mark.long,
        ),
    ],
    ids=lambda options: str(options[0]),
)
def test_an_interrupted_run_of_any_algorithm_continues_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = run(*FAST, "--algorithm", *options, "--run-dir", whole)
    assert (result["algorithm"], result["rounds"]) == (options[0], 3)
    finish = RunFolder.finish_round

    def power_cut(self: RunFolder, number: int, record: dict[str, Any], state: State) -> None:
        finish(self, number, record, state)
        if number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", power_cut)
        CliRunner().invoke(train, [*FAST, "--algorithm", *options, "--run-dir", str(cut)])
    assert not (cut / "model.safetensors").exists()
    run("--resume", cut)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert figures_of(cut) == figures_of(whole)
    assert {p.name: p.read_bytes() for p in cut.glob("heads/*")} == {
        p.name: p.read_bytes() for p in whole.glob("heads/*")
    }


def test_private_banks_of_different_speed_stay_in_their_budgets(tmp_path: Path) -> None:
    """Trainings under way when the run ends are paid for, too."""
    options = ["--algorithm", "fedbuff", "--option", "durations=1,1,2,4", "--rounds", "3", "--local-steps", "2"]
    result = run(*FOUR, *options, "--no-shared-statistics", "--run-dir", tmp_path / "run")
    privacy = result["privacy"]
    assert 2.9 < privacy["epsilon"] <= 3.0
    recorded = {name: bank["rounds_recorded"] for name, bank in privacy["per_bank"].items()}
    assert max(recorded.values()) == 3 > min(recorded.values()) >= 1
    assert privacy["per_bank"]["bank-3"]["epsilon"] < privacy["epsilon"]
    joined = [line["members"] for line in figures_of(tmp_path / "run")]
    assert sum(recorded.values()) > sum(map(len, joined))


@pytest.mark.long
def test_lost_rosters_of_a_private_run_take_the_place_of_later_rounds(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [
        "--rounds",
        "5",
        "--local-steps",
        "2",
        "--vanish-after",
        "0.15",
        "--quorum",
        "3",
        "--option",
        "retries=6",
    ]
    result = run(*FOUR, *options, "--clients", "5", "--run-dir", folder)
    lost = result["overhead"]["attempts"] - result["rounds"]
    assert lost > 0
    assert 0 < result["rounds_lost"] == 5 - result["rounds"]
    assert 2.9 < result["privacy"]["epsilon"] <= 3.0
    assert max(bank["rounds_recorded"] for bank in result["privacy"]["per_bank"].values()) == 5
    assert run("--resume", folder)["rounds"] == result["rounds"]


def test_each_bank_scores_new_transactions_with_its_own_head(tmp_path: Path, files: tuple[Path, Path]) -> None:
    past, new = files
    folder = tmp_path / "run"
    options = [*SMALL, "--no-dp", "--local-epochs", "1", "--rounds", "2", "--no-baselines"]
    run(*options, "--algorithm", "heads", "--run-dir", folder)
    model = load_model(folder)
    assert set(model.own) == {"bank-0", "bank-1", "bank-2"}
    found = np.concatenate([chunk.score for chunk in score_file(model, new, past)])
    experiment = Experiment.resume(folder)
    offset = len(pd.read_csv(past))
    for bank, own in zip(experiment.federation.banks, experiment.models(), strict=True):
        expected = predict(own, bank.test[0].x, device=torch.device("cpu"))
        assert found[bank.test[0].index - offset] == pytest.approx(expected, abs=1e-5)
    next((folder / "heads").iterdir()).unlink()
    with pytest.raises(RunFolderError, match="own layers logit are not there"):
        load_model(folder)


def test_banks_that_vanish_are_named_in_the_metrics(tmp_path: Path) -> None:
    options = ["--option", "vanish_before=0.1", "--vanish-after", "0.1", "--quorum", "3", "--option", "retries=6"]
    run(*FAST, *options, "--rounds", "4", "--run-dir", tmp_path / "run")
    lines = figures_of(tmp_path / "run")
    assert len(lines) == 4
    for line in lines:
        assert sorted([*line["members"], *line["left_out"]]) == [f"bank-{i}" for i in range(4)]
        assert len(line["members"]) >= 3
    assert any(line["left_out"] for line in lines)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--algorithm", "fedprox", "--option", "mu=0.1"], "at learning rate 30 .* overshoots"),
        (["--algorithm", "heads", "--option", "head=logits"], "no layers logits"),
        (["--algorithm", "fedbuff", "--fraction", "0.5"], "no fraction of them is drawn"),
        (["--algorithm", "fedbuff", "--option", "buffer=9"], "cannot be filled by 4 banks"),
        (["--option", "layers=hidden1/hiden2"], "no layers hiden2"),
        (["--vanish-after", "0.1", "--option", "reuse_updates=true", "--epsilon", "3"], "a retry trains again"),
        (["--unit", "client", "--no-shared-statistics", "--fraction", "0.8"], "one roster of all banks"),
        (["--unit", "client", "--no-shared-statistics", "--option", "bits=1:8"], "one vector and one grid"),
        (["--unit", "client", "--no-shared-statistics", "--option", "bank_seconds=60"], "bits and noise together"),
        (["--noise", "shared", "--option", "bank_seconds=60"], "compression and limits"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, options: list[str], error: str
) -> None:
    with pytest.raises(FederationError, match=error):
        run(*FOUR, *options, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--quorum", "3"], "--quorum"),
        (["--option", "reuse_updates=true"], "reuse_updates"),
        (["--option", "bits=1:8", "--value-bits", "8"], "--option bits"),
        (["--option", "mu=0.1"], "mu"),
        (["--option", "bits=8"], "bits"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_options_that_mean_nothing_alone_are_wrong_usage(options: list[str], named: str) -> None:
    done = CliRunner().invoke(train, [*FOUR, *options])
    assert done.exit_code == 2
    assert named in done.stderr


@pytest.mark.parametrize("given", ["mu", "nu=3", "epsilon=3", "=3", "reuse_updates=yes", "mu=nan"])
def test_an_option_by_name_that_is_none_is_wrong_usage(given: str) -> None:
    done = CliRunner().invoke(train, [*FOUR, "--algorithm", "fedprox", "--option", given])
    assert done.exit_code == 2
    assert "--option" in done.stderr and "expected" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--epsilon", "3"],
        ["--epsilon", "3.0"],  # the default, but a person wrote it
        ["--noise", "shared"],
        ["--noise", "own"],
        ["--delta", "1e-6"],
        ["--unit", "client"],
        ["--option", "update_norm=2"],
        ["--option", "colluders=2"],
        ["--statistics-share", "0.6"],
        ["--increment-days", "3"],
        ["--count-noise", "gaussian"],
        ["--budget-dir", "ledgers"],
        ["--option", "sample_rate=0.5"],
        ["--local-steps", "3"],
        ["--max-grad-norm", "2"],
        ["--expected-batch", "512"],
    ],
    ids=" ".join,
)
def test_no_privacy_and_a_budget_contradict_each_other(tmp_path: Path, options: list[str]) -> None:
    """Who names a budget expects it to be kept: to drop it in silence was to train without any."""
    folder = tmp_path / "run"
    done = CliRunner().invoke(train, [*FAST, *options, "--run-dir", str(folder)])
    assert done.exit_code == 2 and not folder.exists()
    assert "--no-dp" in done.stderr and " ".join(options).split("=")[0].removesuffix(f" {options[1]}") in done.stderr


def test_the_point_of_a_curve_without_privacy_leaves_the_budgets_options_out() -> None:
    given = ["--noise", "shared", "--lr", "2", "--statistics-share=0.6", "--rounds", "3", "--delta", "1e-6"]
    named = ["--option", "colluders=2", "--option=sample_rate=0.5", "--option", "batch_size=64", "--option=retries=1"]
    assert without_budget([*given, *named]) == ["--lr", "2", "--rounds", "3", *named[3:]]
    assert not any(option.only_private and option.is_switch for option in TRAIN_OPTIONS.values())


def test_the_point_of_a_curve_without_privacy_has_the_model_of_the_private_ones() -> None:
    def model(*options: str) -> bool:
        return "noisy-or" in _arguments("none", "0", options)

    assert model("--customers", "400", "--no-dp") and model("--algorithm=fedavg", "--unit", "row")
    assert not model("--local-steps", "2") and not model("--model", "mlp") and not model("--option", "head=logit")


def test_every_example_of_the_help_is_an_invocation() -> None:
    assert train.help is not None
    examples = [line.split() for line in train.help.splitlines() if line.strip().startswith("python -m demos train")]
    assert len(examples) >= 10
    for example in examples:
        train.make_context("train", example[4:])
    shown = {word for example in examples for word in example}
    assert {"fedprox", "fedadam", "heads", "fedbuff", "--fraction", "--option", "--limits", "--config"} <= shown


# --- scoring
# --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(labelled past, unlabelled test week) of the transactions the finished run was trained on."""
    folder = tmp_path_factory.mktemp("files")
    data = simulate(embedded(400, banks=3, fraud_share=0.03, seed=5))
    data[data.TIME < CUT].to_csv(folder / "past.csv", index=False)
    week = data[(data.TIME >= CUT) & (CUT + pd.Timedelta(days=7) > data.TIME)]
    week.drop(columns=["IS_FRAUD", "SCENARIO"]).to_csv(folder / "new.csv", index=False)
    return folder / "past.csv", folder / "new.csv"


def test_streamed_scores_are_the_scores_of_the_evaluation(finished: Path, files: tuple[Path, Path]) -> None:
    """The run's own test rows, scored from files: labels that become known during the week are not in
    them.
    """
    past, new = files
    model = load_model(finished)
    found = np.concatenate([chunk.score for chunk in score_file(model, new, past)])
    experiment = Experiment.resume(finished)
    offset = len(pd.read_csv(past))
    for bank in experiment.federation.banks:
        test = bank.test[0]
        expected = predict(model.module, test.x, device=torch.device("cpu"))
        assert found[test.index - offset] == pytest.approx(expected, abs=1e-5)


def test_every_transaction_gets_one_line(finished: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    past, new = files
    target = tmp_path / "scores.csv"
    arguments = [str(finished), str(new), "--history", str(past), "--out", str(target), "--json"]
    done = CliRunner().invoke(score, arguments, catch_exceptions=False)
    summary = json.loads(done.stdout)
    with open(target, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["index"]) for line in lines] == list(range(len(pd.read_csv(new))))
    assert summary["rows"] == len(lines)
    assert summary["flagged"] == sum(int(line["flagged"]) for line in lines) > 0
    assert all((float(line["score"]) >= summary["threshold"]) == bool(int(line["flagged"])) for line in lines[:500])
    assert {line["bank"] for line in lines} == {"bank-0", "bank-1", "bank-2"}


def test_scores_go_to_stdout_when_no_file_is_named(finished: Path, files: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(score, [str(finished), str(files[1])], catch_exceptions=False)
    assert done.stdout.startswith("index,bank,score,calibrated,flagged\n0,bank-")
    assert CliRunner().invoke(score, [str(finished), str(files[1]), "--json"]).exit_code == 2


def test_a_file_that_cannot_be_scored_leaves_no_half_of_scores(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("TIME,CUSTOMER\n2024-01-01,C1\n")
    target = tmp_path / "scores.csv"
    with pytest.raises(FederationError):
        CliRunner().invoke(
            score, [str(finished), str(tmp_path / "bad.csv"), "--out", str(target)], catch_exceptions=False
        )
    assert not target.exists()


def test_a_run_that_is_not_finished_has_no_model(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match="--resume"):
        load_model(tmp_path / "run")


def test_a_model_file_with_other_weights_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(RunFolderError, match="hash differs"):
        load_model(copy)
