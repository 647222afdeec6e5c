"""Runs of the noisy-or model: what was asked for, killed and resumed, its files, its privacy, its scores at home."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import risky_banks
from click.testing import CliRunner
from finished_runs import played
from planted import killed_after_write

import fl
from demos.score import score as score_command
from fl.counts import release
from fl.counts.plan import Totals
from fl.counts.release import load_release
from fl.counts.risk_columns import RiskColumns
from fl.data.federation import Rows
from fl.data.schema_file import parse_schema
from fl.errors import BudgetError, DataError, FederationError, ModelError, OptionError, RunFolderError, TrainingError
from fl.learning.noisy_or import NoisyOr
from fl.rounds.joint_steps import NoisyOrSteps
from fl.runs import scoring_at_home
from fl.runs.asked import configuration
from fl.runs.budgets import not_covered
from fl.runs.config import RunConfig, config_from_toml, config_to_toml
from fl.runs.experiment import Experiment
from fl.runs.noise import with_noise
from fl.runs.plan import RunPlan
from fl.runs.refusals import require_possible
from fl.runs.train_options import TRAIN_OPTIONS, flag

ROUNDS = 3


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    """A private run with every default but the number of rounds."""
    played(Experiment.start(risky_banks.config(data, epsilon=3, rounds=ROUNDS), data / "finished")).result()
    return data / "finished"


def power_cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def spent(run: Path) -> list[list[dict[str, Any]]]:
    return [json.loads(path.read_text())["spent"] for path in sorted((run / "budget").glob("*.json"))]


# --- what is asked for -----------------------------------------------------------------------------------------------

OF_NETWORK: dict[str, Any] = {
    "unit": "client",
    "local_steps": 5,
    "sample_rate": 0.1,
    "local_epochs": 3,
    "pos_weight": 2.0,
    "algorithm": "fedprox",
    "fraction": 0.5,
    "quorum": 3,
    "vanish_after": 0.1,
    "bits": "1:8",
    "layers": "logit",
    "bank_bytes": 1000,
}


def test_a_private_run_trains_the_noisy_or_model_under_one_noise_and_a_run_without_privacy_the_network() -> None:
    private, plain = configuration({}), configuration({"no_dp": True})
    assert (private.model.kind, private.model.inputs, private.privacy and private.privacy.noise) == (
        "noisy-or",
        "risk",
        "shared",
    )
    assert (plain.model.kind, plain.model.inputs) == ("mlp", "own")
    assert configuration({"model": "mlp"}).privacy == configuration({"local_steps": 10}).privacy


@pytest.mark.parametrize("name", OF_NETWORK)
def test_an_option_of_the_network_asks_for_the_network_and_is_refused_beside_the_other_model(name: str) -> None:
    assert TRAIN_OPTIONS[name].only_network
    given = {name: OF_NETWORK[name], **({"fraction": 0.5} if name == "quorum" else {})}
    assert configuration(given).model.kind == "mlp"
    with pytest.raises(OptionError, match=re.escape(f"{flag(name)} is an option of the network")):
        configuration({name: OF_NETWORK[name], "model": "noisy-or"})


@pytest.mark.parametrize("name", ["unit", "algorithm"])
def test_the_value_that_both_models_have_asks_for_neither(name: str) -> None:
    given = {name: {"unit": "row", "algorithm": "fedavg"}[name]}
    assert configuration(given) == configuration({**given, "model": "noisy-or"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"local_epochs": 3}, "mlp"),
        ({"algorithm": "fedprox"}, "mlp"),
        ({"fraction": 0.5}, "mlp"),
        ({"rounds": 4, "seed": 2}, "noisy-or"),
    ],
)
def test_a_file_that_sets_an_option_of_the_network_keeps_the_network_when_a_budget_is_added(
    asked: dict[str, Any], said: str
) -> None:
    base = configuration({"no_dp": True, **asked})
    assert configuration({"epsilon": 2.0}, base).model.kind == said


@pytest.mark.parametrize("asked", [{}, {"no_dp": True, "model": "noisy-or"}, {"noise": "own"}, {"model": "mlp"}])
def test_every_kind_of_model_survives_the_file(asked: dict[str, Any]) -> None:
    config = configuration(asked)
    assert config_from_toml(config_to_toml(config)) == config


def test_enough_declared_rows_choose_the_network_only_where_banks_share_no_party(tmp_path: Path) -> None:
    enough = {"rows_per_bank": 100_000, "epsilon": 10.0}
    assert configuration(enough).model.kind == "noisy-or"  # the embedded data's banks share terminals
    alone = risky_banks.SCHEMA_TEXT.replace('shared = ["terminal"]\n', "")
    (tmp_path / "alone.toml").write_text(alone)
    assert configuration({**enough, "schema": tmp_path / "alone.toml"}).model.kind == "mlp"
    few = {"rows_per_bank": 1_000, "epsilon": 10.0, "schema": tmp_path / "alone.toml"}
    assert configuration(few).model.kind == "noisy-or"


def test_a_history_that_is_asked_for_has_its_own_declared_number_of_rows() -> None:
    default, month, week = (configuration(asked) for asked in ({}, {"history_days": 28}, {"history_days": 0}))
    assert [config.model.history_days for config in (default, month, week)] == [56, 28, 0]
    declared = [config.privacy.expected_batch for config in (default, month, week) if config.privacy is not None]
    assert declared == [48_000, 24_000, 6_000]
    stated = configuration({"history_days": 28, "expected_batch": 500.0})
    assert stated.privacy is not None and stated.privacy.expected_batch == 500.0


def test_the_network_has_no_history_to_learn_from() -> None:
    with pytest.raises(
        ModelError, match="history_days: networks, and trees outside the noisy-or link, learn from the training"
    ):
        configuration({"no_dp": True, "history_days": 56})
    assert configuration({"no_dp": True}, configuration({})).model.history_days == 0


@pytest.mark.parametrize("asked", [{}, {"no_dp": True, "model": "noisy-or"}])
def test_a_run_of_a_version_without_histories_goes_on_with_its_training_period(asked: dict[str, Any]) -> None:
    text = config_to_toml(configuration({**asked, "history_days": 0}))
    config = config_from_toml(re.sub(r"^history_days = 0\n", "", text, flags=re.MULTILINE))
    assert config == configuration({**asked, "history_days": 0})


def test_a_file_of_an_earlier_version_is_a_run_of_the_network() -> None:
    text = config_to_toml(configuration({"no_dp": True}))
    old = re.sub(r'^(kind|inputs) = ".*"\n?', "", text, flags=re.MULTILINE)
    assert old != text
    assert config_from_toml(old) == configuration({"no_dp": True})


def test_a_file_that_gives_the_noisy_or_model_the_network_s_inputs_or_another_algorithm_is_refused() -> None:
    config = configuration({})
    with pytest.raises(ModelError, match="the noisy-or model has the inputs"):
        replace(config.model, inputs="own")
    with pytest.raises(FederationError, match="noisy-or"):
        config_from_toml(config_to_toml(config).replace('inputs = "risk"', 'inputs = "own"'))
    prox = replace(config, algorithm=configuration({"algorithm": "fedprox"}).algorithm)
    with pytest.raises(FederationError, match="leave out other algorithms"):
        require_possible(prox, 3)
    assert config.privacy is not None
    with pytest.raises(BudgetError, match="max_grad_norm"):
        require_possible(replace(config, privacy=replace(config.privacy, max_grad_norm=1.0)), 3)


# --- noise -----------------------------------------------------------------------------------------------------------


def test_with_noise_of_its_own_every_bank_hides_its_rows_from_all_others_together(data: Path) -> None:
    source = risky_banks.source(data, risky_banks.frame())
    plans = {}
    for noise in ("own", "shared"):
        config = risky_banks.config(data, epsilon=3, rounds=ROUNDS, noise=noise)
        plans[noise] = plan = with_noise(RunPlan.new(config, source))
        assert plan.config.privacy is not None and plan.config.statistics is not None
        assert isinstance(plan.own_algorithm, NoisyOrSteps)
        colluders = {"own": 2, "shared": 1}[noise]
        assert (plan.config.privacy.colluders, plan.config.statistics.colluders) == (colluders, colluders)
        assert plan.sharing is not None and plan.sharing.noise is not None and plan.joint_noise is not None
        assert plan.sharing.noise.honest == 3 - colluders
        assert plan.config.privacy.share_pieces is not None
        assert plan.joint_noise.once.shares == (3 - colluders) * plan.config.privacy.share_pieces
    own, shared = (
        plan.config.privacy.share_variance * plan.config.privacy.share_pieces
        for plan in plans.values()
        if plan.config.privacy and plan.config.privacy.share_variance and plan.config.privacy.share_pieces
    )
    assert own == pytest.approx(2 * shared, rel=0.02)  # one share where two were enough


def test_the_report_says_what_an_observer_learns(finished: Path, data: Path) -> None:
    privacy = fl.load(finished).result["privacy"]
    said = privacy["protection"]
    assert (privacy["epsilon_limit"], privacy["noise"], privacy["steps"]) == (3.0, "shared", ROUNDS)
    assert privacy["epsilon"] <= 3.0 and privacy["accountant"] == "exact"
    assert 0.9 < said["attack_accuracy"] < said["accuracy_for_frauds"] < 1.0
    assert said["prior"] == 0.001 < said["highest_posterior"] < 0.05


def test_what_is_not_covered_is_what_the_kind_of_model_leaves_open(finished: Path) -> None:
    run = fl.load(finished)
    assert run.config.privacy is not None
    told = "; ".join(run.result["privacy"]["not_covered"])
    network = "; ".join(not_covered(run.config.privacy, by_risk=False))
    clients = not_covered(replace(run.config.privacy, unit="client"), by_risk=True)
    for said in ("changing one label is covered in full", "that use a bank's own labels, and models that stay at home"):
        assert said in told and said not in network
    assert "a transaction, card or customer as a whole" in network and "that a bank takes part" in clients


# --- killed and resumed ----------------------------------------------------------------------------------------------


def test_without_privacy_a_resumed_run_ends_at_the_same_bits(data: Path, tmp_path: Path) -> None:
    config = risky_banks.config(data, no_dp=True, model="noisy-or", rounds=13)  # more than are averaged
    played(Experiment.start(config, tmp_path / "whole"))
    Experiment.start(config, tmp_path / "killed")
    for rounds in (2, 10, None):
        played(Experiment.resume(tmp_path / "killed"), rounds)
    for name in ("model.safetensors", "metrics.json", "config.toml", "checkpoint.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


@pytest.mark.parametrize("how", ["power cut", pytest.param("killed", marks=pytest.mark.long)])
def test_a_run_killed_between_its_counts_and_its_steps_goes_on_within_its_budget(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run, config = tmp_path / "run", risky_banks.config(data, epsilon=3, rounds=ROUNDS)
    if how == "killed":
        written = tmp_path / "run.toml"
        written.write_text(config_to_toml(config))
        command = ["-m", "demos", "train", "--config", str(written), "--run-dir", str(run)]
        killed_after_write(tmp_path / "planted", r"statistics/totals\.npz$", 1, command)
    else:
        write = release.write_totals

        def wrote(*given: Any) -> None:
            write(*given)
            power_cut()

        with monkeypatch.context() as patch:
            patch.setattr(release, "write_totals", wrote)
            with pytest.raises(KeyboardInterrupt):
                played(Experiment.start(config, run))
    first = spent(run)
    assert [len(lines) for lines in first] == [1, 1, 1]  # counts alone
    totals: Totals = load_release(run / "statistics")[0]
    resumed = played(Experiment.resume(run))
    assert (resumed.finished, resumed.rounds_lost) == (ROUNDS, 0)
    assert (load_release(run / "statistics")[0].sums == totals.sums).all()
    assert [lines[:1] for lines in spent(run)] == first and [len(lines) for lines in spent(run)] == [1 + ROUNDS] * 3
    assert all(2.99 < ledger.spent() <= 3.0 for ledger in resumed.ledgers.values())


def test_a_step_that_was_paid_for_and_lost_is_not_taken_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    played(Experiment.start(risky_banks.config(data, epsilon=3, rounds=ROUNDS), run), 1)
    with monkeypatch.context() as patch:
        patch.setattr("fl.rounds.joint_noise.JointNoise.average", power_cut)
        with pytest.raises(KeyboardInterrupt):
            played(Experiment.resume(run))
    resumed = played(Experiment.resume(run))
    assert (resumed.finished, resumed.rounds_lost) == (ROUNDS - 1, 1)
    assert all(ledger.spent() <= 3.0 for ledger in resumed.ledgers.values())


# --- scores ----------------------------------------------------------------------------------------------------------


def parts(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(history, new rows)."""
    return rows[rows.TIME < risky_banks.TEST], rows[rows.TIME >= risky_banks.TEST]


def test_a_finished_run_scores_new_rows_without_labels(finished: Path, rows: pd.DataFrame) -> None:
    past, new = parts(rows)
    run = fl.load(finished)
    scores = run.score(new.drop(columns="FRAUD"), past)
    assert scores.between(0, 1).all()
    assert scores[new.FRAUD == 1].mean() > 2 * scores[new.FRAUD == 0].mean()
    relabelled = past.assign(FRAUD=1 - past.FRAUD)
    assert run.score(new, relabelled).equals(scores)  # no label of the history enters, as in training


def another_count(path: Path) -> None:
    with np.load(path) as file:
        held = {name: file[name] for name in file.files}
    held["sums"] = held["sums"] + 1
    np.savez(path, **held)


CHANGES: dict[str, Callable[[Path], object]] = {
    "statistics/totals.npz": another_count,
    "statistics/episodes.json": lambda path: path.write_text(path.read_text().replace('"traffic": ', '"traffic": 1')),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_release_that_the_model_was_not_made_with_is_refused_by_its_name(
    finished: Path, rows: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    past, new = parts(rows)
    past.to_csv(tmp_path / "past.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    before = (run / name).read_bytes()
    CHANGES[name](run / name)
    assert (run / name).read_bytes() != before
    words = [str(run), str(tmp_path / "new.csv"), "--as", "bank-2", "--history", str(tmp_path / "past.csv")]
    done = CliRunner().invoke(score_command, words)
    assert isinstance(done.exception, RunFolderError) and not done.stdout
    assert str(done.exception).startswith(f"{run / name}: not what the model was made with: expected SHA-256 ")


def test_a_late_label_of_the_last_day_teaches_no_model_at_home(
    finished: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = risky_banks.SCHEMA_TEXT.replace("[time]", 'known = "LABELLED"\n[time]')
    loaded = fl.load(finished).model
    assert isinstance(loaded.shared, RiskColumns)
    of = parse_schema(text, "late.toml")
    model = replace(loaded, schema=of, shared=replace(loaded.shared, schema=of))
    past, _ = parts(rows)
    last = past.TIME.max().normalize()
    learnt = past.index[past.BANK.eq("bank-1") & past.FRAUD.eq(1) & past.TIME.lt(last - pd.Timedelta(days=8))]
    taught: list[set[int]] = []
    fit = scoring_at_home.fit_noisy_or

    def fitted(held: Rows) -> NoisyOr:
        taught.append(set(held.index[held.y == 1].tolist()))
        return fit(held)

    monkeypatch.setattr(scoring_at_home, "fit_noisy_or", fitted)
    for came in (last - pd.Timedelta(days=1), last):
        history = past.assign(LABELLED=past.TIME)
        history.loc[learnt[0], "LABELLED"] = came
        scoring_at_home.at_home(model, "bank-1", 3, history)
    assert taught[0] - taught[1] == {int(learnt[0])} and taught[1] < taught[0]


def test_own_evidence_changes_scores_of_that_bank_alone(finished: Path, rows: pd.DataFrame) -> None:
    past, new = parts(rows)
    run = fl.load(finished)
    plain = run.score(new, past)
    at_home = run.as_bank("bank-1", past)
    own, mine = at_home.score(new, past), new.BANK == "bank-1"
    assert own[~mine].isna().all() and own[mine].between(0, 1).all()
    assert (own[mine] != plain[mine]).any()
    others_lie = past.assign(FRAUD=np.where(past.BANK == "bank-1", past.FRAUD, 1 - past.FRAUD))
    assert run.as_bank("bank-1", others_lie).score(new, past)[mine].equals(own[mine])
    assert run.score(new, past).equals(plain)


def test_the_command_writes_the_scores_of_both_models_for_the_bank_s_own_rows(
    finished: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    past, new = parts(rows)
    past.to_csv(tmp_path / "past.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    words = [str(finished), str(tmp_path / "new.csv"), "--as", "bank-2", "--history", str(tmp_path / "past.csv")]
    done = CliRunner().invoke(score_command, [*words, "--out", str(tmp_path / "out.csv")], catch_exceptions=False)
    assert done.exit_code == 0
    written = pd.read_csv(tmp_path / "out.csv")
    assert list(written) == ["index", "bank", "score", "flagged", "at_home"]
    assert set(written.bank) == {"bank-2"} and len(written) == (new.BANK == "bank-2").sum()
    expected = fl.load(finished).as_bank("bank-2", past).score(new, past)
    assert written.score.to_numpy() == pytest.approx(expected.dropna().to_numpy(), rel=1e-4, abs=1e-6)
    assert written.at_home.between(0, 1).all() and (written.at_home != written.score).any()


@pytest.mark.parametrize("history_names_banks", [True, False])
def test_a_bank_s_own_rows_need_no_column_that_names_it(
    finished: Path, rows: pd.DataFrame, tmp_path: Path, history_names_banks: bool
) -> None:
    past, new = parts(rows)
    expected = fl.load(finished).as_bank("bank-2", past).score(new, past).dropna()
    mine = new[new.BANK == "bank-2"].drop(columns="BANK")
    held = past if history_names_banks else past[past.BANK == "bank-2"].drop(columns="BANK")
    run = fl.load(finished).as_bank("bank-2", held)
    assert run.score(mine, held).equals(expected)
    mine.to_csv(tmp_path / "new.csv", index=False)
    held.to_csv(tmp_path / "past.csv", index=False)
    chunks = list(run.score_file(tmp_path / "new.csv", tmp_path / "past.csv"))
    assert {bank for chunk in chunks for bank in chunk.bank} == {"bank-2"}
    assert np.concatenate([chunk.score for chunk in chunks]) == pytest.approx(expected.to_numpy(), rel=1e-6)
    with pytest.raises(DataError, match="BANK"):
        fl.load(finished).score(mine, past)  # whose rows they are, only the bank itself can say


def test_who_cannot_score_at_home_is_told_why(finished: Path, rows: pd.DataFrame, data: Path, tmp_path: Path) -> None:
    past, new = parts(rows)
    run = fl.load(finished)
    with pytest.raises(OptionError, match=r"expected a bank of this run \(bank-0, bank-1, bank-2\), got 'bank-9'"):
        run.as_bank("bank-9", past)
    with pytest.raises(TrainingError, match="give a longer history"):
        run.as_bank("bank-1", past[(past.FRAUD == 0) | (past.BANK != "bank-1")])
    new.to_csv(tmp_path / "new.csv", index=False)
    done = CliRunner().invoke(score_command, [str(finished), str(tmp_path / "new.csv"), "--as", "bank-1"])
    assert done.exit_code == 2 and "--history" in done.output
    network = risky_banks.config(data, no_dp=True, rounds=1, local_epochs=1)
    played(Experiment.start(network, tmp_path / "network"))
    with pytest.raises(OptionError, match="does not know the risk of shared parties"):
        fl.load(tmp_path / "network").as_bank("bank-1", past)


def test_a_network_with_the_risk_of_parties_scores_at_home_as_well(
    data: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    past, new = parts(rows)
    config: RunConfig = risky_banks.config(data, epsilon=3, model="mlp", rounds=1, local_steps=1)
    assert (config.model.kind, config.model.inputs) == ("mlp", "risk")
    played(Experiment.start(config, tmp_path / "run")).result()
    own = fl.load(tmp_path / "run").as_bank("bank-0", past).score(new, past)
    assert own[new.BANK == "bank-0"].between(0, 1).all()
