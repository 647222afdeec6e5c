"""A private run between two sittings: copied, edited, put back, opened twice. What leaves a bank was paid for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import played

from fl.counts.release import load_release
from fl.counts.settings import StatisticsSettings
from fl.errors import BudgetError, BudgetExhausted, BudgetLedgerError, RunFolderError
from fl.privacy.budget import BudgetLedger
from fl.runs.budgets import bank_budgets
from fl.runs.config import (
    AggregationSettings,
    DataSettings,
    PrivacySettings,
    RunConfig,
    config_from_toml,
    config_to_toml,
)
from fl.runs.experiment import Experiment
from fl.runs.styles import OPEN, PRIVATE

BANKS = 3


def config(*, budget_dir: Path | None = None, **privacy: Any) -> RunConfig:
    settings = PrivacySettings(3.0, 1e-5, 0.25, 1, 1.0, 2048.0, None if budget_dir is None else str(budget_dir))
    return RunConfig(
        seed=5,
        rounds=4,
        device="cpu",
        threads=1,
        with_baselines=False,
        data=DataSettings("simulated", clients=BANKS, customers=200, fraud_share=0.05),
        model=PRIVATE.model,
        training=PRIVATE.training,
        aggregation=AggregationSettings(),
        privacy=replace(settings, **privacy),
        baseline_model=OPEN.model,
        baseline_training=OPEN.training,
        statistics=StatisticsSettings(1, increment_days=10, budget_share=0.1, buckets=16),
    )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated, and nothing spent yet."""
    folder = tmp_path_factory.mktemp("fresh") / "run"
    Experiment.start(config(), folder)
    return folder


@pytest.fixture(scope="module")
def begun(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of four rounds, and the counts before them."""
    folder = twin(fresh, tmp_path_factory.mktemp("begun") / "run")
    played(Experiment.resume(folder), 3)
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """The same for a test to spoil: as if it had been made there."""
    return twin(begun, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four rounds."""
    folder = twin(begun, tmp_path_factory.mktemp("whole") / "run")
    played(Experiment.resume(folder))
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """The same for a test to spoil."""
    return twin(whole, tmp_path / "run")


def twin(folder: Path, path: Path, **privacy: Any) -> Path:
    """A copy that nobody can tell from a run made at `path`, with these settings of its privacy from the beginning."""
    shutil.copytree(folder, path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["made_at"] = str(path.resolve())
    manifest["parameters"]["privacy"].update(privacy)
    (path / "manifest.json").write_text(json.dumps(manifest))
    held = config_from_toml((path / "config.toml").read_text())
    assert held.privacy is not None
    (path / "config.toml").write_text(config_to_toml(replace(held, privacy=replace(held.privacy, **privacy))))
    return path


def lines(folder: Path) -> list[list[dict[str, Any]]]:
    """What each bank's ledger in `folder` holds."""
    return [json.loads(path.read_text())["spent"] for path in sorted(folder.glob("*.json"))]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _power_cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_counts_whose_totals_were_deleted_are_not_released_again_for_the_first_payment(finished: Path) -> None:
    """The run's name in the ledger was taken for "released", and other noise was drawn on the same counts."""
    (finished / "statistics" / "totals.npz").unlink()
    before = lines(finished / "budget")
    with pytest.raises(BudgetExhausted, match="transaction in shared counts"):
        played(Experiment.resume(finished))
    assert lines(finished / "budget") == before  # the budget has no room for a second release beside the rounds
    assert not list((finished / "statistics").glob("*.np*"))


def test_counts_that_are_released_again_are_paid_for_again(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first round, there is room: the ledger then says that there were two releases."""
    run = twin(fresh, tmp_path / "run")
    monkeypatch.setattr("fl.rounds.play.train_private", _power_cut)
    totals = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            played(Experiment.resume(run))
        totals.append(load_release(run / "statistics")[0].sums)
        (run / "statistics" / "totals.npz").unlink()
    assert (totals[0] != totals[1]).any()
    for spent in lines(run / "budget"):
        counts = [line for line in spent if line["kind"].startswith("shared counts")]
        assert len(counts) == 2 and len({line["bound_to"] for line in counts}) == 2


def test_a_copy_of_a_run_pays_for_its_own_noise_where_ledgers_are_shared(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has the run's name; what the first paid for was the first's drafts."""
    ledgers = tmp_path / "ledgers"
    copies = [twin(fresh, tmp_path / name, budget_dir=str(ledgers)) for name in ("run", "copy")]
    monkeypatch.setattr("fl.rounds.play.train_private", _power_cut)
    for folder in copies:
        with pytest.raises(KeyboardInterrupt):
            played(Experiment.resume(folder))
    first, second = (load_release(folder / "statistics")[0].sums for folder in copies)
    assert (first != second).any()
    for spent in lines(ledgers):
        assert len({line["bound_to"] for line in spent if line["kind"].startswith("shared counts")}) == 2
        assert sum(line["kind"] == "training steps" for line in spent) == 2  # each its own round, by no name either


def test_a_copy_made_after_the_payment_contributes_the_very_same_integers(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ledgers = twin(fresh, tmp_path / "run", budget_dir=str(tmp_path / "ledgers")), tmp_path / "ledgers"
    with monkeypatch.context() as patch:
        patch.setattr("fl.counts.release.write_totals", _power_cut)
        with pytest.raises(KeyboardInterrupt):
            played(Experiment.resume(path))
    copy = twin(path, tmp_path / "copy")
    monkeypatch.setattr("fl.rounds.play.train_private", _power_cut)
    for folder in (path, copy):
        with pytest.raises(KeyboardInterrupt):
            played(Experiment.resume(folder))
    first, second = (load_release(folder / "statistics")[0] for folder in (path, copy))
    assert (first.sums == second.sums).all()
    assert all(sum(line["kind"].startswith("shared counts") for line in spent) == 1 for spent in lines(ledgers))


def test_a_copy_with_ledgers_of_its_own_does_not_go_on_beside_the_first(begun: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(begun, copy)
    before = contents(copy / "budget")
    with pytest.raises(RunFolderError, match="is a copy of"):
        played(Experiment.resume(copy))
    assert contents(copy / "budget") == before


def test_a_copy_of_a_finished_run_can_be_read(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    before = contents(tmp_path / "copy" / "budget")
    assert played(Experiment.resume(tmp_path / "copy")).finished == 4
    assert contents(tmp_path / "copy" / "budget") == before


@pytest.mark.parametrize("put_back", ["gone", "older"])
def test_a_run_whose_ledger_is_an_older_copy_does_not_go_on(run: Path, put_back: str) -> None:
    """A fresh or older ledger would let the rounds that are left spend what the finished ones have spent already."""
    path = sorted((run / "budget").glob("*.json"))[1]
    if put_back == "gone":
        path.unlink()
    else:
        content = json.loads(path.read_text())
        del content["spent"][-1]
        path.write_text(json.dumps(content))
    with pytest.raises(BudgetLedgerError, match="took part in 3 finished rounds"):
        Experiment.resume(run)


def test_totals_whose_payment_was_taken_out_of_a_ledger_are_not_used(run: Path) -> None:
    path = sorted((run / "budget").glob("*.json"))[1]
    content = json.loads(path.read_text())
    del content["spent"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(BudgetLedgerError, match="release of counts"):
        Experiment.resume(run)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epsilon = 3.0", "epsilon = 50.0"),
        ("noise_multiplier = ", "noise_multiplier = 1"),
        ("buckets = 16\nepsilon = ", "buckets = 16\nepsilon = 1"),
    ],
)
def test_a_run_that_was_edited_between_two_sittings_does_not_go_on(run: Path, old: str, new: str) -> None:
    path = run / "config.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    before = contents(run / "budget")
    with pytest.raises(RunFolderError, match=r"config\.toml has changed since this run began"):
        Experiment.resume(run)
    assert contents(run / "budget") == before


def test_a_run_edited_in_all_its_files_spends_what_it_then_does_and_no_more_than_the_ledger_allows(
    begun: Path, tmp_path: Path
) -> None:
    """Whoever edits the manifest as well is not found out; the ledger counts the noise that is drawn."""
    with pytest.raises(BudgetError, match="for the life of its data"):
        Experiment.resume(twin(begun, tmp_path / "raised", epsilon=50.0))
    with pytest.raises(BudgetError, match="use --delta 1e-05"):
        Experiment.resume(twin(begun, tmp_path / "other", delta=1e-3))
    with pytest.raises(BudgetExhausted, match="round 4 would bring epsilon to"):
        played(Experiment.resume(twin(begun, tmp_path / "quieter", noise_multiplier=0.5)))


def test_of_two_processes_that_opened_a_run_the_second_does_not_play_its_rounds_again(run: Path) -> None:
    first, second = Experiment.resume(run), Experiment.resume(run)
    played(first)
    after = contents(run)
    with pytest.raises(RunFolderError, match="another process has played rounds"):
        played(second)
    assert contents(run) == after


def test_looking_at_a_run_and_its_budget_writes_nothing(run: Path) -> None:
    for lock in (run / "budget").glob("*.lock"):
        lock.unlink()
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"round": 4')  # another process, in the middle of a line
    before = contents(run)
    assert len(bank_budgets(run)) == BANKS
    assert Experiment.resume(run).finished == 3
    assert contents(run) == before


@pytest.mark.parametrize(
    ("privacy", "error"),
    [
        ({"epsilon": float("nan")}, BudgetError),
        ({"epsilon": 0.0}, BudgetError),
        ({"epsilon": 1e308}, BudgetError),
        ({"delta": 2.0}, BudgetError),
        ({"delta": 0.9}, BudgetError),
        ({"epsilon": 0.001}, BudgetExhausted),  # possible, and too little for anything
    ],
)
def test_a_run_that_is_refused_leaves_no_ledger_behind(
    tmp_path: Path, privacy: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Experiment.start(config(budget_dir=tmp_path / "ledgers", **privacy), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_refused_does_not_decide_what_later_runs_may_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.runs.noise.calibrate", lambda *_, **__: 2.0)
    monkeypatch.setattr("fl.runs.experiment.RunFolder.create", _power_cut)  # everything is calibrated, and then
    with pytest.raises(KeyboardInterrupt):
        Experiment.start(config(budget_dir=tmp_path / "ledgers", epsilon=0.7), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_crash_between_paying_and_drawing_costs_the_round_and_frees_nothing(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spends = twin(fresh, tmp_path / "run"), []
    spend = BudgetLedger.spend

    def counted(ledger: BudgetLedger, *args: Any, **named: Any) -> None:
        spend(ledger, *args, **named)
        spends.append(ledger.bank)
        if len(spends) == BANKS + 2:  # the counts of all, and the first round of two of three
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BudgetLedger, "spend", counted)
        with pytest.raises(KeyboardInterrupt):
            played(Experiment.resume(path))
    resumed = played(Experiment.resume(path))
    assert (resumed.finished, resumed.rounds_lost) == (3, 1)
    trained = [sum(line["kind"] == "training steps" for line in spent) for spent in lines(path / "budget")]
    assert sorted(trained) == [3, 4, 4]
    assert all(ledger.spent() <= 3.0 for ledger in resumed.ledgers.values())
